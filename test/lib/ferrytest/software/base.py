# SPDX-License-Identifier: Apache-2.0
"""What every program of this folder is: a process tree of its own session that round_trip() takes."""

import os
import pathlib
import shutil
import subprocess
import tempfile

from ferrytest.process import is_alive, tree, wait_until
from ferrytest.software.place import Machine


def needed(*names):
    """Where these programs are; PATH of a bare environment may lack the sbin folders."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/games"
    found = [shutil.which(name, path=path) for name in names]
    missing = [name for name, where in zip(names, found) if not where]
    assert not missing, f"not installed: {', '.join(missing)}"
    return found if len(found) > 1 else found[0]


def peak(path, seconds=20):
    """The text of a file as soon as there is some."""
    path = pathlib.Path(path)
    wait_until(lambda: path.exists() and path.stat().st_size, f"{path.name} stays empty", seconds)
    return path.read_text()


class Software:
    """A running program. Everything it works with lies in .folder; what it says goes to the log there."""

    CONNECTED = True  # it has TCP connections to somebody outside
    SECONDS = 30  # how long it may take to start or to end

    def __init__(self, name, place=None):
        self.name = name
        self.place = place or Machine()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=name + "-"))
        self.folder.chmod(0o755)
        self.process = None
        self.pid = 0
        self.helpers = []  # processes outside of the tree: clients, load

    def start(self, *words, **more):
        """The tree. More: what the place takes."""
        self.process = self.place.start([str(word) for word in words], self.folder / "log", self.folder, **more)
        self.pid = self.process.pid

    def helper(self, *words, log="helper"):
        """A process outside of the tree that lives beside it."""
        with open(self.folder / (log + ".log"), "wb") as out:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder)
        self.helpers.append(process)
        return process

    def helper_said(self, process, log="helper", seconds=60):
        """What it wrote, after its end; it must have ended well."""
        status = process.wait(seconds)
        text = (self.folder / (log + ".log")).read_text(errors="replace")
        assert status == 0, f"{' '.join(map(str, process.args[:2]))} ended with {status}: {text[-600:]}"
        return text

    def log(self):
        """What the program wrote."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    # What round_trip() takes for a program.

    def running(self):
        """Whether the root of the tree lives; reaps it when it was ours and ended."""
        if self.process is not None and self.process.poll() is not None:
            self.process = None
        return is_alive(self.pid)

    def tree(self):
        """Pids, parents first."""
        return tree(self.pid)

    def volatile(self):
        """It works all the time; what it holds is proven by those who talk to it."""
        return {}

    def reap(self):
        """Take the exit status of the process that we started; a restored one is not ours."""
        if self.process is not None:
            self.process.wait(self.SECONDS)
            self.process = None

    def wait_gone(self, pids):
        """Until none of these processes exists."""
        self.reap()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), f"{self.name} is still there")

    def verify(self):
        """Prove the state, and leave it good for another proof."""
        raise NotImplementedError

    def finish(self):
        """Prove what is proven once, at the end."""

    def stop(self, signal):
        """End it in order."""
        os.kill(self.pid, signal)
        wait_until(lambda: not self.running(), f"{self.name} does not end", self.SECONDS)
