# SPDX-License-Identifier: Apache-2.0
"""A redis-server with known data, and a client that keeps one connection to it."""

import hashlib
import os
import shutil
import socket
import tempfile

from ferrytest.process import is_alive, tree, wait_until
from ferrytest.register import skip
from ferrytest.software.place import Machine

PORT = 6379


def value(number, size=4096):
    """What belongs to a key."""
    return hashlib.shake_128(b"ferry test %d" % number).digest(size)


class Client:
    """As much of redis' protocol as this takes."""

    def __init__(self, address, port=PORT):
        self.socket = socket.create_connection((address, port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.socket.makefile("rb")

    def send(self, *words):
        """One command, without waiting for its answer."""
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        self.socket.sendall(b"".join(parts))

    def answer(self):
        """One answer; what redis says of errors is raised."""
        line = self.input.readline()
        assert line.endswith(b"\r\n"), f"redis closed the connection ({line})"
        kind, rest = line[:1], line[1:-2]
        assert kind != b"-", f"redis says: {rest.decode()}"
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if int(rest) < 0 else self.input.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest

    def ask(self, *words):
        """One command and its answer."""
        self.send(*words)
        return self.answer()


class Server:
    """A redis-server; start: what starts it at that address, as Machine.start() does here."""

    KEYS = 2000
    CONNECTED = True

    def __init__(self, address=Machine.address, start=Machine.start):
        if not shutil.which("redis-server"):
            skip("there is no redis-server")
        self.folder = tempfile.mkdtemp(prefix="redis-")
        words = ["redis-server", "--bind", address, "--port", str(PORT), "--save", "", "--appendonly", "no",
                 "--protected-mode", "no", "--dir", self.folder, "--daemonize", "no", "--io-threads", "2"]
        self.process = start(words, os.path.join(self.folder, "log"), self.folder)
        self.pid = self.process.pid
        self.client = wait_until(lambda: self.connect(address), "redis does not answer")
        for number in range(self.KEYS):
            self.client.send("SET", f"key:{number}", value(number))
            if number % 200 == 199:
                assert [self.client.answer() for _ in range(200)] == [b"OK"] * 200
        self.counted = 0
        self.run_id = self.info("server", "run_id")

    @staticmethod
    def connect(address):
        """A client, or nothing while the server is not ready."""
        try:
            client = Client(address)
            client.ask("PING")
            return client
        except (OSError, AssertionError):
            return None

    def info(self, section, name):
        """One line of INFO."""
        lines = self.client.ask("INFO", section).decode().splitlines()
        return next(line.partition(":")[2] for line in lines if line.startswith(name + ":"))

    # What round_trip() takes for a program.

    def running(self):
        """Whether it lives; reaps it when it was ours and ended."""
        if self.process is not None and self.process.poll() is not None:
            self.process = None
        return is_alive(self.pid)

    def tree(self):
        """Pids, parents first."""
        return tree(self.pid)

    def volatile(self):
        """Redis works all the time, so nothing of its memory can be compared from outside."""
        return {}

    def reap(self):
        """Take the exit status of the process that we started; a restored one is not ours."""
        if self.process is not None:
            self.process.wait(20)
            self.process = None

    def wait_gone(self, pids):
        """Until none of these processes exists."""
        self.reap()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "redis is still there")

    def verify(self):
        """Every value, over the connection of the beginning; a counter that nothing else touches; the same server."""
        for number in range(0, self.KEYS, 7):
            assert self.client.ask("GET", f"key:{number}") == value(number), f"key:{number} is wrong"
        for _ in range(20):
            self.counted += 1
            assert self.client.ask("INCR", "counter") == self.counted, "a write was lost or made twice"
        assert self.client.ask("DBSIZE") == self.KEYS + 1
        assert self.info("server", "run_id") == self.run_id, "it is another redis-server"

    def finish(self):
        """Every single value."""
        for number in range(self.KEYS):
            assert self.client.ask("GET", f"key:{number}") == value(number), f"key:{number} is wrong"

    def quit(self):
        """Ends it in order."""
        self.client.send("SHUTDOWN", "NOSAVE")
        wait_until(lambda: not self.running(), "redis does not end")
