#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An ordinary python3 program: threads that compute and threads that wait, timers, a pipeline of subprocesses, sockets of
several kinds, files. Serves the mailbox of test/lib/program.h as "main". Proof: each part goes on from where it was."""

import hashlib
import os
import pathlib
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

MAILBOX = pathlib.Path(sys.argv[1])


class Bad(Exception):
    """An expectation does not hold."""


def expect(condition, text):
    """The reason that the test prints."""
    if not condition:
        raise Bad(text)


class Chain(threading.Thread):
    """Computes nearly all the time; every step depends on all before it."""

    def __init__(self, seed):
        super().__init__(daemon=True)
        self.seed, self.state, self.over = seed, (0, seed), False

    @staticmethod
    def step(value):
        return hashlib.sha256(value).digest()

    def run(self):
        number, value = self.state
        while not self.over:
            for _ in range(50):
                value = self.step(value)
            number += 50
            self.state = number, value
            time.sleep(0.002)

    def verify(self):
        began, value = self.state
        end = time.monotonic() + 5
        while self.state[0] == began and time.monotonic() < end:
            time.sleep(0.001)
        expect(self.state[0] > began, "a computing thread stands still")

    def finish(self):
        self.over = True
        self.join()
        number, want = self.state
        value = self.seed
        for _ in range(number):
            value = self.step(value)
        expect(value == want, f"a chain of {number} steps went wrong")


class Waiter(threading.Thread):
    """Sleeps in a queue (a futex) until it is given something."""

    def __init__(self):
        super().__init__(daemon=True)
        self.asked, self.answers = queue.Queue(), queue.Queue()

    def run(self):
        while True:
            self.answers.put(self.asked.get() * 2)

    def verify(self):
        self.asked.put(21)
        expect(self.answers.get(timeout=5) == 42, "a waiting thread answers wrongly")


class Timers:
    """An interval timer with a handler, and a thread's timer that is far away."""

    def __init__(self):
        self.ticks = 0
        signal.signal(signal.SIGALRM, self.tick)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        self.late = threading.Timer(3600, lambda: None)
        self.late.daemon = True

    def start(self):
        self.late.start()

    def tick(self, *_):
        self.ticks += 1

    def verify(self):
        before = self.ticks
        time.sleep(0.2)
        expect(2 <= self.ticks - before <= 50, f"{self.ticks - before} ticks in ten periods")
        expect(self.late.is_alive(), "the late timer has fired")


class Pipeline:
    """cat | sed | cat: lines go through three processes and come back."""

    def __init__(self):
        self.lines = 0
        self.processes = []
        first, source = subprocess.PIPE, None
        for words in (["cat", "-u"], ["sed", "-u", "s/^/through /"], ["cat", "-u"]):
            process = subprocess.Popen(words, stdin=first, stdout=subprocess.PIPE)  # pylint: disable=consider-using-with
            if source is not None:
                source.close()
            self.processes.append(process)
            first = source = process.stdout

    def start(self):
        pass

    def verify(self):
        self.lines += 1
        line = b"line %d\n" % self.lines
        self.processes[0].stdin.write(line)
        self.processes[0].stdin.flush()
        got = self.processes[-1].stdout.readline()
        expect(got == b"through " + line, f"the pipeline turns {line} into {got}")

    def finish(self):
        self.processes[0].stdin.close()
        expect(self.processes[-1].stdout.read() == b"", "the pipeline holds more than was put in")
        expect([p.wait(5) for p in self.processes] == [0, 0, 0], "a process of the pipeline failed")


class Server(threading.Thread):
    """A TCP connection to itself, served by a thread in epoll; a socketpair and a datagram socket with bytes in them."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.client = socket.create_connection(self.listener.getsockname())
        self.near, self.far = socket.socketpair()
        self.near.sendall(b"waits in a socketpair")
        self.ends = []

    def run(self):
        poll = select.epoll()
        poll.register(self.listener, select.EPOLLIN)
        known = {}
        while True:
            for fd, _ in poll.poll():
                if fd == self.listener.fileno():
                    end = self.listener.accept()[0]
                    known[end.fileno()] = end
                    poll.register(end, select.EPOLLIN)
                else:
                    known[fd].sendall(known[fd].recv(4096).upper())

    def verify(self):
        self.client.sendall(b"hello")
        expect(self.client.recv(100) == b"HELLO", "the connection to itself is not well")
        another = socket.create_connection(self.listener.getsockname())
        another.sendall(b"new")
        expect(another.recv(100) == b"NEW", "the listener takes no connection")
        another.close()
        expect(self.far.recv(100, socket.MSG_PEEK) == b"waits in a socketpair", "the socketpair lost its bytes")


class Files:
    """A file in the middle of being written, and memory."""

    def __init__(self):
        self.file = tempfile.NamedTemporaryFile(dir=MAILBOX)  # pylint: disable=consider-using-with
        self.written = 0
        self.memory = bytearray(hashlib.shake_128(b"memory").digest(4 << 20))

    def start(self):
        pass

    def verify(self):
        self.file.write(b"%08d" % self.written)
        self.file.flush()
        self.written += 1
        want = b"".join(b"%08d" % n for n in range(self.written))
        expect(os.pread(self.file.fileno(), 1 << 20, 0) == want, "the file is not what was written")
        expect(self.memory == hashlib.shake_128(b"memory").digest(4 << 20), "the memory differs")


def answer(number, good, reason=""):
    """Replaced by rename, as the test looks at any time."""
    fresh = MAILBOX / ".answer.main"
    fresh.write_text(f"{number} {'ok' if good else 'bad'} {reason}\n")
    fresh.rename(MAILBOX / "answer.main")


def serve(parts):
    """Answer until told to quit."""
    answered = 0
    while True:
        try:
            number, word = (MAILBOX / "ask.main").read_text().split()
        except OSError:
            number, word = answered, ""
        if int(number) == answered:
            time.sleep(0.005)
            continue
        answered = int(number)
        if word == "spoil":
            parts[-1].memory[1000] ^= 1
        try:
            for part in parts if word == "verify" else [p for p in parts if hasattr(p, "finish")] if word == "finish" else []:
                getattr(part, word)()
            answer(answered, True)
        except (Bad, OSError, queue.Empty, subprocess.TimeoutExpired) as error:
            answer(answered, False, f"{type(error).__name__}: {error}")
        if word == "quit":
            os._exit(0)


def main():
    parts = [Pipeline(), Chain(b"one"), Chain(b"two"), Waiter(), Timers(), Server(), Files()]
    for part in parts:
        part.start()
    answer(0, True)
    serve(parts)


main()
