# SPDX-License-Identifier: Apache-2.0
"""What a container prints into a pipe, and that a counter in it goes on from the right number."""

import os
import socket
import threading

from ferrytest.process import wait_until

COUNTER = ["/bin/sh", "-c", "i=0; while true; do echo $i; i=$(expr $i + 1); sleep {}; done"]


def counter(seconds="1"):
    """The command of a container that counts."""
    return [word.replace("{}", str(seconds)) for word in COUNTER]


class Output:
    """A pipe, read to its end by a thread."""

    def __init__(self):
        reading, self.writing = os.pipe()
        self.bytes = b""
        self.thread = threading.Thread(target=self.read, args=(reading,), daemon=True)
        self.thread.start()

    def read(self, reading):
        """The thread's."""
        while True:
            part = os.read(reading, 65536)
            if not part:
                break
            self.bytes += part
        os.close(reading)

    def started(self):
        """Whoever writes into it has it by now."""
        os.close(self.writing)

    def lines(self):
        """All whole lines."""
        return self.bytes.decode(errors="replace").split("\n")[:-1]

    def numbers(self):
        """Of a counter."""
        return [int(line) for line in self.lines()]

    def wait_lines(self, n, seconds=30):
        """Until there are so many."""
        wait_until(lambda: len(self.lines()) >= n, f"{n} lines: {self.lines()}", seconds)
        return self.lines()


class Console:
    """A socket to which an engine sends the other end of a container's terminal, and what is printed there."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.socket.settimeout(30)
        self.bytes = b""
        self.terminal = -1

    def accept(self):
        """Take it."""
        connection, _ = self.socket.accept()
        _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        self.terminal = descriptors[0]
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        """The thread's."""
        try:
            while part := os.read(self.terminal, 65536):
                self.bytes += part
        except OSError:
            pass  # nobody has the terminal any more

    def lines(self):
        """All whole lines."""
        return self.bytes.decode(errors="replace").replace("\r\n", "\n").split("\n")[:-1]

    def wait_lines(self, n, seconds=30):
        """Until there are so many."""
        wait_until(lambda: len(self.lines()) >= n, f"{n} lines: {self.lines()}", seconds)
        return self.lines()


def counts_on(before, after):
    """Whether a counter that printed the first numbers went on with the others: none is missing, none comes twice."""
    both = before + after
    assert after and both == list(range(both[0], both[0] + len(both))), f"{before[-3:]} goes on with {after[:3]}"
