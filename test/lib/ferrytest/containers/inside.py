# SPDX-License-Identifier: Apache-2.0
"""A container as a place for the programs of ferrytest.software: it has this machine's files, which it writes to a layer of its own,
and serves at an address on a bridge."""

import os
import signal
import subprocess
import tempfile

from ferrytest.containers.podman import Podman
from ferrytest.process import is_alive, wait_until
from ferrytest.software.place import run

MACHINE = ("--rootfs", "/:O")  # podman puts an overlay over it
NETWORK, SUBNET = "served", "10.99.78.0/24"


class Process:
    """The container's first one, as far as subprocess.Popen is needed of it; its parent is none of ours."""

    def __init__(self, pid):
        self.pid = pid

    def poll(self):
        """None as long as it runs."""
        return None if is_alive(self.pid) else 0

    def wait(self, seconds):
        """Until it does not."""
        wait_until(lambda: self.poll() is not None, f"{self.pid} does not end", seconds)


class Container:
    """podman, and one container c in which one program is started. more: further words of podman run."""

    address = "10.99.78.5"
    ending = signal.SIGKILL  # the first process of a PID namespace gets no other that it does not handle

    def __init__(self, criu, folder, *more):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.podman = Podman(criu, folder, image=None)
        self.podman.good("network", "create", "--subnet", SUBNET, NETWORK)
        self.more = more
        # On the machine the folder of tests is for root alone, and so it would be in its overlay.
        self.folders = self.podman.folder / "folders"
        self.folders.mkdir()

    def start(self, words, log, folder, environment=None, cwd=None, user=None, private=()):
        """The program, with its folder where it is here."""
        variables = [word for name, value in (environment or {}).items() for word in ("--env", f"{name}={value}")]
        own = [word for path in private for word in ("--tmpfs", f"{path}:mode=1777")]
        self.podman.good("run", "--detach", "--name", "c", *self.podman.run_words, "--network", NETWORK, "--ip", self.address,
                         "--volume", f"{self.folders}:{tempfile.gettempdir()}", "--volume", f"{folder}:{folder}",
                         "--workdir", cwd or folder, "--user", user or "root", *own, *variables, *self.more,
                         *MACHINE, "sh", "-c", 'log=$1; shift; exec "$@" < /dev/null >> "$log" 2>&1', "sh", log, *words)
        return Process(self.pid())

    def ask(self, *words):
        """As Machine.ask()."""
        command, environment = self.podman.command(["exec", "c", *words])
        return run(command, environment)

    def pid(self):
        """Of its first process, as seen from here."""
        return self.podman.inspect("c")["State"]["Pid"]

    def there_and_back(self):
        """Stored, gone, and running again; its first process then."""
        before = self.pid()
        self.podman.good("container", "checkpoint", "--tcp-established", "--file-locks", "c")
        assert not os.path.exists(f"/proc/{before}"), "it is still there"
        self.podman.good("container", "restore", "--tcp-established", "--file-locks", "c")
        return self.pid()

    def end(self):
        """Nothing of it stays; exit statuses of all that was run."""
        self.podman.end()
        return self.podman.said
