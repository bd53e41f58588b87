# SPDX-License-Identifier: Apache-2.0
"""gdb with a program of several threads: at a breakpoint, with a watchpoint in the processor; or while the program runs."""

import os
import re
import signal
import subprocess

from ferrytest.process import status, tree, wait_until
from ferrytest.software.base import Software, needed

THREADS = 3
SOURCE = f"""
#include <pthread.h>
#include <unistd.h>

volatile long rounds, counts[{THREADS}], watched;

void *count(void *p)
{{
	for (;; usleep(1000))
		counts[(long)p]++;
}}

void one_round(long n)
{{
	rounds = n;
}}

int main(void)
{{
	pthread_t thread;
	for (long i = 0; i < {THREADS}; i++)
		pthread_create(&thread, 0, count, (void *)i);
	for (long n = 1;; n++) {{
		usleep(20000);
		one_round(n);
		if (n % 5 == 0)
			watched = n;
	}}
}}
"""


class Gdb(Software):
    """Commands come through a named pipe that gdb itself holds open; what it says goes to a file."""

    CONNECTED = False

    def __init__(self):
        super().__init__("gdb")
        gdb, gcc, bash = needed("gdb", "gcc", "bash")
        self.program, self.orders, self.said = (self.folder / name for name in ("program", "orders", "said"))
        source = self.folder / "program.c"
        source.write_text(SOURCE)
        subprocess.run([gcc, "-g", "-O0", "-pthread", "-o", self.program, source], check=True)
        os.mkfifo(self.orders)
        self.marks = 0
        self.start(bash, "-c", f"exec {gdb} -q -nx {self.program} <>{self.orders} >{self.said} 2>&1",
                   environment={"DEBUGINFOD_URLS": "", "LC_ALL": "C.UTF-8", "HOME": str(self.folder)})
        wait_until(lambda: "(gdb)" in self.text(), "gdb does not begin", self.SECONDS)
        self.ask("set confirm off", "set pagination off", "set height 0", "set width 0", "break one_round")
        assert "Breakpoint 1," in self.ask("run", seconds=60)
        self.rounds = self.value("n")

    def say(self, *orders):
        """Give orders and do not wait."""
        fd = os.open(self.orders, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, "".join(order + "\n" for order in orders).encode())
        os.close(fd)

    def ask(self, *orders, seconds=30):
        """Give orders; what gdb says to them."""
        self.marks += 1
        mark = f"<{self.marks}>"
        self.say(*orders, f"echo {mark}\\n")
        wait_until(lambda: mark in self.text(), f"gdb does not answer {orders}: {self.text()[-500:]}", seconds)
        return self.text().split(f"<{self.marks - 1}>")[-1].split(mark)[0]

    def text(self):
        """All that it has said."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""

    def value(self, what):
        """A number in the program."""
        return int(re.search(r"\$\d+ = (-?\d+)", self.ask(f"print {what}")).group(1))

    def verify(self):
        """The breakpoint is still there and stops the next round; all threads are, and go on in between."""
        assert self.value("n") == self.rounds, "it stands in another round"
        before = self.value("counts[0]")
        said = self.ask("continue")
        assert "Breakpoint 1, one_round" in said, said
        self.rounds += 1
        assert self.value("n") == self.rounds, "a round is missing"
        assert self.value("counts[0]") > before, "the other threads stand still"
        assert self.ask("info threads").count("Thread 0x") == THREADS + 1, "a thread is missing"

    def finish(self):
        """A watchpoint in the processor stops it; memory can be written; a function of it can be called."""
        self.ask("delete", "watch watched")
        said = self.ask("continue")
        assert "Hardware watchpoint 2: watched" in said, said
        assert self.value("watched") % 5 == 0
        self.ask("delete", "set var rounds = 7000", "call one_round(rounds + 1)")
        assert self.value("rounds") == 7001
        self.ask("break one_round", "continue")

    def quit(self):
        """It kills the program and ends."""
        self.say("kill", "quit")
        wait_until(lambda: not self.running(), "gdb does not end", self.SECONDS)


class GdbRunning(Gdb):
    """The program runs, and gdb waits for it."""

    def __init__(self):
        super().__init__()
        self.ask("delete", "watch watched if watched == 1")
        self.say("continue")
        self.marks += 1

    def inferior(self):
        """The program's pid."""
        return next(pid for pid in tree(self.pid) if pid != self.pid)

    def verify(self):
        """It runs under gdb; interrupted it shows that all threads work, and is sent on."""
        pid = self.inferior()
        assert status(pid)["TracerPid"] == str(self.pid), "gdb does not trace it"
        os.kill(pid, signal.SIGINT)
        before = self.value("rounds"), self.value("counts[1]")
        self.say("continue")
        os.kill(pid, signal.SIGINT)
        said = self.ask()
        assert "SIGINT" in said, said
        assert self.value("counts[1]") >= before[1] and before[0] >= self.rounds, "it does not go on"
        self.rounds = self.value("rounds")
        assert self.ask("info threads").count("Thread 0x") == THREADS + 1, "a thread is missing"
        self.say("continue")

    def finish(self):
        """The watchpoint that it ran with stops it."""
        os.kill(self.inferior(), signal.SIGINT)
        assert self.value("rounds") >= self.rounds
        self.ask("set var watched = 1", "delete", "watch watched")
        said = self.ask("continue")
        assert "New value = " in said, said
