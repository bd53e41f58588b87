# SPDX-License-Identifier: Apache-2.0
"""The table of test programs: how each is started, what a dump of it needs, and what a partner outside checks."""

import dataclasses
import socket

from ferrytest.process import wait_until

MASK = (1 << 64) - 1


def pattern(count, seed):
    """The bytes that pattern_fill() of test/lib/program.c writes."""
    words = bytearray()
    for index in range((count + 7) // 8):
        x = ((seed + 1) * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9) & MASK
        words += (((x ^ x >> 29) * 0x94D049BB133111EB) & MASK).to_bytes(8, "little")
    return bytes(words[:count])


class TcpClient:
    """The client of tcp-established, outside the tree: sends what the program must have, and at the end takes what
    the program had sent."""

    RECEIVED, SENT = 50000, 200000

    def __init__(self, family):
        self.family = family
        self.socket = None

    def connect(self, program):
        """Called while the program waits for us."""
        path = program.folder / "port"
        wait_until(path.exists, "the program tells no port")
        address = ("127.0.0.1" if self.family == socket.AF_INET else "::1", int(path.read_text()))
        self.socket = socket.socket(self.family, socket.SOCK_STREAM)
        self.socket.connect(address)
        self.socket.sendall(pattern(self.RECEIVED, 1))

    def finish(self):
        """Everything that the program sent before, in order, and nothing twice."""
        self.socket.settimeout(20)
        got = bytearray()
        while len(got) < self.SENT:
            chunk = self.socket.recv(65536)
            assert chunk, f"the connection ended after {len(got)} bytes"
            got += chunk
        wanted = pattern(self.SENT, 2)
        at = next((i for i in range(self.SENT) if got[i] != wanted[i]), None)
        assert at is None, f"what the client received differs at byte {at}"
        assert len(got) == self.SENT, f"the client received {len(got) - self.SENT} bytes too many"
        self.socket.setblocking(False)
        try:
            assert not self.socket.recv(1), "more came than was sent"
            raise AssertionError("the connection was closed")
        except BlockingIOError:
            pass


@dataclasses.dataclass
class Case:
    """One line of the table."""

    name: str
    program: str = ""
    arguments: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    partner: object = None  # makes the partner; it has connect(program) and finish()

    def __post_init__(self):
        self.program = self.program or self.name


CASES = [
    *(Case(name) for name in (
        "vma-anon", "vma-file", "vma-shared", "memfd", "memfd-mapped", "heap-stack", "vdso", "clocks", "threads",
        "xstate", "signals-pending", "signals-actions", "itimers", "posix-timers", "rseq", "robust-list",
        "credentials", "rlimits", "scheduling", "prctl", "folders", "tree", "files", "directories", "devices", "pipes",
        "pipe-descriptions", "socketpair",
        "unix-socket", "unix-names", "unix-queues", "socket-options", "tcp-listen", "tcp-ended", "udp", "epoll",
        "epoll-numbers", "eventfd", "timerfd", "timerfd-unread", "signalfd")),
    Case("timerfd-alarm", "timerfd", ("alarm",)),
    Case("tcp-pairs", options={"tcp_established": True}),
    Case("tcp-established-v4", "tcp-established", ("4",), {"tcp_established": True},
         lambda: TcpClient(socket.AF_INET)),
    Case("tcp-established-v6", "tcp-established", ("6",), {"tcp_established": True},
         lambda: TcpClient(socket.AF_INET6)),
]


def start(case, more=True):
    """(program, partner): the program ready, with its partner connected where it has one. Without more the program
    leaves out the state that CRIU does not keep."""
    from ferrytest.program import Program  # pylint: disable=import-outside-toplevel

    partner = case.partner() if case.partner else None
    arguments = [*case.arguments, *["more"] * more]
    program = Program(case.program, *arguments, before_ready=partner.connect if partner else None)
    return program, partner
