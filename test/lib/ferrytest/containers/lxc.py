# SPDX-License-Identifier: Apache-2.0
"""LXC: containers that are a folder, and its own checkpoint program."""

import pathlib
import subprocess
import tempfile

from ferrytest.containers import rootfs
from ferrytest.process import wait_until

CONFIGURATION = """
lxc.rootfs.path = dir:{folder}/rootfs
lxc.uts.name = {name}
lxc.net.0.type = empty
lxc.mount.auto = proc:rw sys:rw cgroup:rw
lxc.tty.max = 0
lxc.pty.max = 1
lxc.console.path = none
lxc.init.cmd = {command}
"""


class Lxc:
    """One folder of containers. Each command that was run, with its exit status, is in .said."""

    def __init__(self, criu, folder):
        self.criu = criu
        self.folder = pathlib.Path(folder).absolute() / f"lxc-{criu.name}"
        self.folder.mkdir(parents=True)
        self.said = []
        self.names = []

    def run(self, program, *words):
        """lxc-PROGRAM."""
        # What stays in the background keeps its descriptors, which would be a pipe's.
        with tempfile.TemporaryFile("w+", dir=self.folder) as file:
            done = subprocess.run([f"/usr/bin/lxc-{program}", "-P", str(self.folder), *map(str, words)], env=self.criu.environment,
                                  check=False, timeout=60, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
            file.seek(0)
            done.stdout = file.read()
        self.said.append((program, done.returncode))
        return done

    def good(self, program, *words):
        """One that must succeed."""
        done = self.run(program, *words)
        assert done.returncode == 0, \
            f"{self.criu.name}: lxc-{program} {words} exits with {done.returncode}: {done.stdout}{self.logs_of_criu()}"
        return done

    def logs_of_criu(self):
        """The end of each, for messages of failed tests."""
        logs = [*self.folder.parent.glob("images-*/dump.log"), *self.folder.parent.glob("images-*/restore.log")]
        return "".join(f"\n{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)

    def make(self, name, script):
        """A container whose init is a shell script."""
        folder = self.folder / name
        root = rootfs.make(folder / "rootfs")
        (root / "init").write_text("#!/bin/sh\n" + script)
        (root / "init").chmod(0o755)
        (folder / "config").write_text(CONFIGURATION.format(folder=folder, name=name, command="/init"))
        self.names.append(name)

    def start(self, name):
        """Start it in the background."""
        self.good("start", "-n", name, "-d")
        wait_until(lambda: self.state(name) == "RUNNING", f"{name} does not run")

    def state(self, name):
        """RUNNING, STOPPED or FROZEN."""
        return self.run("info", "-n", name, "-s", "-H").stdout.strip()

    def end(self):
        """Stop all."""
        for name in self.names:
            self.run("stop", "-n", name, "-k")
