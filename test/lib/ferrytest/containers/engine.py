# SPDX-License-Identifier: Apache-2.0
"""What podman and Docker have in common: commands, and what they say of containers."""

import json
import subprocess

from ferrytest.containers import rootfs
from ferrytest.process import wait_until


class Engine:
    """Its command line. Each command that was run, with its exit status, is in .said."""

    name = ""  # of its program, in messages
    image = ""  # what it calls the one made here
    logs = ()  # patterns of criu's, below its folder
    run_words = ()  # of every container

    def __init__(self, criu, folder):
        self.criu = criu
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.said = []

    def command(self, words):
        """(words of the whole command line, environment)"""
        raise NotImplementedError

    def note(self, words, status):
        """Keep in mind that it was run."""
        raise NotImplementedError

    def run(self, *words, **more):
        """Any command."""
        command, environment = self.command(list(map(str, words)))
        done = subprocess.run(command, env=environment, check=False, timeout=90, text=True,
                              **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})
        self.note(words, done.returncode)
        return done

    def good(self, *words, **more):
        """One that must succeed."""
        done = self.run(*words, **more)
        assert done.returncode == 0, \
            f"{self.criu.name}: {self.name} {words} exits with {done.returncode}: {done.stderr}{self.explain()}"
        return done

    def explain(self):
        """The end of each log of criu's, for messages of failed tests."""
        logs = [log for pattern in self.logs for log in self.folder.glob(pattern)]
        return "".join(f"\n{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)

    def import_image(self):
        """busybox."""
        root = rootfs.make(self.folder / "rootfs")
        archive = self.folder / "rootfs.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        self.good("import", archive, self.image)

    def start(self, name, command, *words):
        """A container that runs a command in the background."""
        self.good("run", "--detach", "--name", name, *self.run_words, *words, self.image, *command)

    def inspect(self, name):
        """All that it says of one."""
        return json.loads(self.good("inspect", name).stdout)[0]

    def lines(self, name):
        """What one printed."""
        return self.good("logs", name).stdout.splitlines()

    def wait_lines(self, name, n, seconds=30):
        """Until it printed so many."""
        wait_until(lambda: len(self.lines(name)) >= n, f"{name} does not print {n} lines", seconds)
        return self.lines(name)
