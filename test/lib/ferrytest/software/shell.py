# SPDX-License-Identifier: Apache-2.0
"""A shell with jobs in a pseudo terminal: one runs, one is stopped, one waits in the foreground."""

import os
import pathlib
import signal
import sys
import time

from ferrytest.process import children, read_text, stat_fields, tree, wait_until
from ferrytest.software.base import Software, needed

HOLDER = pathlib.Path(__file__).resolve().parents[3] / "programs/software/terminal.py"


class Shell(Software):
    """bash under a process that holds the terminal's other side."""

    CONNECTED = False

    def __init__(self):
        super().__init__("shell")
        for name in ("input", "output"):
            (self.folder / name).touch()
        self.asked = 0
        self.start(sys.executable, HOLDER, self.folder, needed("bash"), "--norc", "--noprofile", "-i",
                   environment={"PS1": "$ ", "TERM": "dumb", "HISTFILE": ""})
        self.shell = wait_until(lambda: children(self.pid), "no shell")[0]
        self.say("secret=inside; count() { n=$((n + 1)); }")
        self.say("sleep 1001 &")
        self.say("(trap '' HUP; exec sleep 1002)", wait=False)
        self.child_named("sleep", 2)
        self.type("\x1a")
        wait_until(lambda: self.state_of("1002") == "T", "the job is not stopped")
        self.say("true")
        self.state = self.jobs()
        assert "Running" in self.state and "Stopped" in self.state, self.state

    def type(self, text):
        """Keys."""
        with open(self.folder / "input", "ab") as file:
            file.write(text.encode())

    def output(self):
        """Everything that the terminal has shown."""
        return (self.folder / "output").read_bytes().decode(errors="replace").replace("\r\n", "\n")

    def say(self, command, wait=True):
        """A line; what it shows until the shell is ready again."""
        self.asked += 1
        before = len(self.output())
        if not wait:
            self.type(command + "\n")
            return ""
        self.type(f"{command}\necho end-$(({self.asked} + 0))\n")
        mark = f"\nend-{self.asked}\n"
        wait_until(lambda: mark in self.output()[before:], f"no answer to {command!r}")
        lines = self.output()[before:].partition(mark)[0].split("\n")
        typed = ("$ ", command, "echo end-")
        return "\n".join(line for line in lines if line and not line.startswith(typed))

    def child_named(self, name, count):
        """Until so many children of the shell have this name."""
        wait_until(lambda: sum((read_text(f"/proc/{pid}/comm") or "").strip() == name for pid in children(self.shell)) >= count,
                   f"{count} children called {name}")

    def state_of(self, argument):
        """The state of the child with this argument."""
        for pid in children(self.shell):
            if argument in (read_text(f"/proc/{pid}/cmdline") or ""):
                return stat_fields(f"/proc/{pid}/stat")[0]
        return None

    def jobs(self):
        """As the shell lists them."""
        return self.say("jobs -l")

    def verify(self):
        """Jobs, variables, functions, and the terminal's size and modes."""
        assert self.jobs() == self.state, f"{self.jobs()!r} was {self.state!r}"
        assert self.say("echo $secret; stty size").split() == ["inside", "43", "132"]
        assert self.state_of("1001") == "S" and self.state_of("1002") == "T"
        # A job in the foreground is interrupted by its key, and only it.
        self.say("sleep 1003", wait=False)
        wait_until(lambda: self.state_of("1003") == "S", "no job in the foreground")
        time.sleep(0.05)
        self.type("\x03")
        wait_until(lambda: self.state_of("1003") is None, "the key does not interrupt the foreground")
        # The terminal may show the key after the prompt.
        code = self.say("echo $?").split()
        assert code[-1:] == ["130"], f"the foreground ended with {code!r}"
        assert self.jobs() == self.state

    def finish(self):
        """The stopped job goes on in the foreground, stops again, ends."""
        self.say("fg %2", wait=False)
        wait_until(lambda: self.state_of("1002") == "S", "fg does not continue it")
        self.type("\x1a")
        wait_until(lambda: self.state_of("1002") == "T", "it does not stop again")
        self.say("kill -9 %2; kill %1; wait")
        wait_until(lambda: not children(self.shell), "jobs are left")

    def quit(self):
        """The shell ends, so does its terminal."""
        assert len(tree(self.pid)) == 2
        self.type("exit\n")
        wait_until(lambda: not self.running(), "the shell does not end", self.SECONDS)

    def kill(self):
        """At once."""
        for pid in reversed(tree(self.pid)):
            os.kill(pid, signal.SIGKILL)
