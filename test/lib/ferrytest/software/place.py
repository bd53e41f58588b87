# SPDX-License-Identifier: Apache-2.0
"""Where a program runs: here, on this machine (ferrytest/containers/inside.py has another place)."""

import os
import pathlib
import pwd
import signal
import subprocess


def user_group(user):
    """The main group of a user, by name or number."""
    return (pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)).pw_gid


def run(words, environment=None):
    """A program beside the others, to its end; what it prints, or nothing when it fails."""
    done = subprocess.run(words, check=False, text=True, timeout=30, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.stdout if done.returncode == 0 else ""


class Machine:
    """In a session of its own, with nothing of ours open."""

    address = "127.0.0.1"  # where its clients find it, and where it listens
    ending = signal.SIGTERM

    @staticmethod
    def start(words, log, folder, environment=None, cwd=None, user=None, stdout=None, private=()):
        """A process, as subprocess has them. What it says goes to the log, what it works with lies in the folder, but for folders
        that get a file system of their own."""
        for path in private:
            pathlib.Path(path).mkdir(mode=0o1777, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "ferry", path], check=True)
        with open(log, "ab") as out:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=stdout or out, stderr=out, start_new_session=True, cwd=cwd or folder,
                env={**os.environ, **(environment or {})}, user=user, group=user and user_group(user), extra_groups=user and [])

    @staticmethod
    def ask(*words):
        """A program that runs there for a moment; what it prints, or nothing when it fails."""
        return run(words)
