#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trees that hang on something outside: check names the terminal, the leader of the session, the bus and the exact option,
all at once and without a touch; and jobs of a shell go to another terminal with --shell-job, twice."""

import os
import pathlib
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile

from ferrytest import Ferry, main, test
from ferrytest.process import status, wait_until

HANGING = """
import os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1] + "/dbus-test")
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
d.connect(sys.argv[1] + "/log")
os.fork()
count = 0
while True:
    count += 1
    with open(f"{sys.argv[1]}/new-{os.getpid()}", "w") as file:
        file.write(str(count))
    os.rename(file.name, f"{sys.argv[1]}/count-{os.getpid()}")
    time.sleep(0.01)
"""

# In the foreground: answers each line. In groups of their own: two others, one of which is stopped.
JOB = ("set -m; echo $$ > $FOLDER/pid; sleep 1001 & echo $! > $FOLDER/background; sleep 1002 & kill -STOP $!; "
       "echo $! > $FOLDER/stopped; set +m; while read x; do echo got $x; done")


class Shell:
    """An interactive shell in a terminal of its own."""

    def __init__(self, folder):
        environment = {**os.environ, "PS1": "ready> ", "HISTFILE": "", "FOLDER": str(folder), "TERM": "dumb"}
        self.pid, self.master = pty.fork()
        if not self.pid:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        os.set_inheritable(self.master, False)
        self.text = ""
        self.see("ready> ")

    def type(self, text):
        """Keys."""
        os.write(self.master, text.encode())

    def see(self, wanted):
        """Wait for a text, and forget all up to it."""
        def there():
            while select.select([self.master], [], [], 0)[0]:
                self.text += os.read(self.master, 4096).decode(errors="replace")
            return wanted in self.text
        try:
            wait_until(there, f"no {wanted!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.text!r}") from None
        before, _, self.text = self.text.partition(wanted)
        return before

    def end(self):
        """Nothing is left of it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.master)


def stat(pid):
    """state, ppid, pgrp, session, tty_nr, tpgid"""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [fields[0], *map(int, fields[1:6])]


def gone(pid):
    """It ran, and was waited for."""
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), f"pid {pid} is there")


if os.environ.get("FERRY"):
    @test(timeout=60)
    def all_at_once():
        """Session, terminal, bus and log: each with its holder and the option; the tree never notices."""
        folder = pathlib.Path(tempfile.mkdtemp())
        bus, log = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bus.bind(str(folder / "dbus-test"))
        bus.listen()
        log.bind(str(folder / "log"))
        (folder / "program.py").write_text(HANGING)
        shell = Shell(folder)
        shell.type(f"{sys.executable} $FOLDER/program.py $FOLDER\n")
        peer = bus.accept()[0]
        counts = wait_until(lambda: len(found := sorted(folder.glob("count-*"))) == 2 and found, "it does not start")
        pids = [int(path.name.partition("-")[2]) for path in counts]
        root, child = sorted(pids, key=lambda pid: stat(pid)[1] in pids)
        own = f"pid {os.getpid()} ("
        expected = [
            ("outside-session", f"session {shell.pid} (bash) is outside the tree", "--shell-job"),
            ("outside-peer", f"fd 0 of pid {root}", "--shell-job"),
            ("outside-peer", f"the program behind the terminal {os.readlink(f'/proc/{root}/fd/0')}, {own}", "ferry run --tty"),
            ("outside-peer", f"fd 3 of pid {root}", "dbus-run-session"),
            ("outside-peer", f"fd 3 of pid {child}", "DBUS_SESSION_BUS_ADDRESS=disabled:"),
            ("outside-peer", f"fd 4 of pid {root}", "--ext-unix-sk"),
            ("outside-peer", f"fd 4 of pid {child}", "--ext-unix-sk"),
        ]

        def check(*options):
            done = Ferry().run("check", "--tree", root, *options)
            assert done.returncode == 3, done
            lines = done.stdout.splitlines()
            return [(head, hint) for head, hint in zip(lines, lines[1:]) if not head.startswith(" ")]

        def found(told, word, text, option):
            return any(head.startswith(word) and text in head and option in hint for head, hint in told)

        before = [(stat(pid)[1:], int(path.read_text())) for pid, path in zip(pids, counts)]
        told = check()
        for each in expected:
            assert found(told, *each), (each, told)
        assert all("session" not in head and "terminal" not in head for head, _ in check("--shell-job"))
        left = check("--shell-job", "--ext-unix-sk")
        assert {head.partition(":")[0] for head, _ in left} == {"outside-peer"} and all("dbus-test" in head for head, _ in left), left
        for pid, path, (place, count) in zip(pids, counts, before):
            assert stat(pid)[1:] == place and status(pid)["TracerPid"] == "0"
            wait_until(lambda path=path, count=count: int(path.read_text() or 0) > count, "it stands still")
        # The last one goes with the program's end of the connection; with the options the dump works then.
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        peer.close()
        shell.end()

    @test(timeout=60)
    def outside_shell():
        """The shell itself: its terminal's program is named, and what to start it with."""
        shell = Shell("/tmp")
        done = Ferry().run("check", "--tree", shell.pid)
        assert done.returncode == 3 and f"is of pid {os.getpid()} (" in done.stdout, done
        assert "ferry run --tty" in done.stdout, done
        shell.end()

    @test(timeout=120)
    def shell_job():
        """A job in the foreground of one shell goes on in that of another, and of a third: groups, terminal, job control."""
        folder = pathlib.Path(tempfile.mkdtemp())
        shell = Shell(folder)
        shell.type(f"bash -c '{JOB}'\n")
        pids = [int(wait_until(lambda name=name: (folder / name).exists() and (folder / name).read_text(), "it does not start"))
                for name in ("pid", "background", "stopped")]
        root, background, stopped = pids
        for number in (1, 2):
            shell.type(f"round {number}\n")
            shell.see(f"got round {number}\r\n")
            refused = Ferry().run("dump", "-t", root, "-D", "refused")
            assert refused.returncode == 3 and "--shell-job" in refused.stderr, refused
            Ferry().dump(root, f"image-{number}", shell_job=True)
            shell.see("ready> ")
            for pid in pids:
                gone(pid)
            shell.end()
            shell = Shell(folder)
            image = pathlib.Path.cwd() / f"image-{number}"
            shell.type(f"{Ferry().path} restore -D {image} --shell-job\n")
            wait_until(lambda: os.path.exists(f"/proc/{root}") and stat(root)[5] == root, "it is not in the foreground")
            tty = stat(shell.pid)[4]
            for pid in pids:
                state, _, group, session, number_of_tty, _ = stat(pid)
                assert (group, session, number_of_tty) == (pid, shell.pid, tty), (pid, stat(pid), shell.pid)
                assert (state == "T") == (pid == stopped), (pid, state)
                assert os.readlink(f"/proc/{pid}/fd/0") == os.readlink(f"/proc/{shell.pid}/fd/0")
            shell.type("there\n")
            shell.see("got there\r\n")
            shell.type("\x1a")
            shell.see("Stopped")
            shell.see("ready> ")
            wait_until(lambda: stat(root)[0] == "T", "it is not stopped")
            shell.type("fg\n")
            wait_until(lambda: stat(root)[0] == "S" and stat(root)[5] == root, "it does not go on")
            shell.type("again\n")
            shell.see("got again\r\n")
        shell.type("\x03")
        shell.see("ready> ")
        shell.type("echo status $?\n")
        shell.see("status 130\r\n")
        # Its groups are orphans now; the kernel hangs up the one that is stopped.
        wait_until(lambda: not os.path.exists(f"/proc/{stopped}") or stat(stopped)[0] == "Z", "it is still there")
        os.kill(background, signal.SIGKILL)
        shell.end()

    @test(timeout=60)
    def shell_job_detached():
        """Restored with -d it is in the background of the shell, which keeps its terminal."""
        folder = pathlib.Path(tempfile.mkdtemp())
        shell = Shell(folder)
        shell.type("bash -c 'echo $$ > $FOLDER/pid; n=0; while :; do n=$((n+1)); echo $n > $FOLDER/count; sleep 0.05; done' &\n")
        root = int(wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "it does not start"))
        Ferry().dump(root, "image", shell_job=True)
        gone(root)
        stands = int((folder / "count").read_text())
        other = Shell(folder)
        other.type(f"{Ferry().path} restore -D {pathlib.Path.cwd()}/image --shell-job -d && echo restored\n")
        other.see("\nrestored\r\n")
        other.see("ready> ")
        _, _, group, session, tty, foreground = stat(root)
        assert (group, session, tty) == (root, other.pid, stat(other.pid)[4]) and foreground == other.pid, stat(root)
        wait_until(lambda: int((folder / "count").read_text() or 0) > stands + 3, "it does not go on")
        os.kill(root, signal.SIGKILL)
        shell.end()
        other.end()

    @test(timeout=60)
    def shell_job_without_terminal():
        """In the session and group of another process, without any terminal: it joins those of who restores it."""
        folder = pathlib.Path(tempfile.mkdtemp())
        script = "sleep 1003 & echo $! > $0/pid; wait"
        with subprocess.Popen(["sh", "-c", script, folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, start_new_session=True) as outer:
            pid = int(wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "it does not start"))
            done = Ferry().run("check", "--tree", pid)
            assert f"session {outer.pid} (sh) is outside the tree" in done.stdout, done
            Ferry().dump(pid, "image", shell_job=True)
            outer.wait()
        gone(pid)
        Ferry().restore("image", more=("--shell-job",))
        assert stat(pid)[2:4] == [os.getpgrp(), os.getsid(0)], stat(pid)
        os.kill(pid, signal.SIGKILL)

if __name__ == "__main__":
    main()
