# SPDX-License-Identifier: Apache-2.0
"""Where a program runs: here, on this machine (ferrytest/containers/inside.py has another place)."""

import os
import pwd
import subprocess


def user_group(user):
    """The main group of a user, by name or number."""
    return (pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)).pw_gid


class Machine:
    """In a session of its own, with nothing of ours open."""

    address = "127.0.0.1"  # where its clients find it, and where it listens

    @staticmethod
    def start(words, log, folder, environment=None, cwd=None, user=None, stdout=None):
        """A process, as subprocess has them. What it says goes to the log, what it works with lies in the folder."""
        with open(log, "ab") as out:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=stdout or out, stderr=out, start_new_session=True, cwd=cwd or folder,
                env={**os.environ, **(environment or {})}, user=user, group=user and user_group(user), extra_groups=user and [])
