# SPDX-License-Identifier: Apache-2.0
"""Sockets of every family."""

import socket

from ferrytest.cases.case import Case, simple
from ferrytest.cases.pattern import pattern
from ferrytest.process import wait_until


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


class Log:
    """What unix-dgram-outside says, outside of its tree."""

    def __init__(self):
        self.sockets = []

    def connect(self, program):
        """Called while the program waits for us."""
        for name in (str(program.folder / "outside"), "\0ferry-outside"):
            self.sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self.sockets[-1].bind(name)

    def finish(self):
        """Everything arrived, once."""
        for log, wanted in zip(self.sockets, (b"to the path", b"abstract")):
            log.setblocking(False)
            assert log.recv(100) == wanted
            try:
                assert not log.recv(100), "it said more"
                raise AssertionError("it said an empty message")
            except BlockingIOError:
                pass
            log.close()


CASES = [
    *simple("unix", "socketpair", "unix-socket", "unix-names", "unix-queues", "unix-dgram-pair", "unix-dgram-senders",
            "unix-dgram-connected", "unix-dgram-gone", "unix-seqpacket", "unix-rights", "unix-rights-stream", "unix-creds",
            "unix-pending", "unix-backlog", "unix-places", "unix-oob", "unix-rights-nested",
            "unix-rights-memory"),
    Case("unix-rights-inet", options={"tcp_established": True}, kind="unix"),
    Case("unix-dgram-outside", options={"more": ("-x",)}, partner=Log, kind="unix", worlds=False),
    *simple("inet", "socket-options", "tcp-listen", "tcp-ended", "udp", "udp-queue", "udplite", "udp-multicast",
            "raw-sockets", "inet-bound", "reuseport", "reuseport-program"),
    Case("tcp-connecting", options={"tcp_established": True}, kind="inet"),
    Case("mptcp-listen", options={"tcp_established": True}, kind="inet"),
    Case("ping-sockets", kind="inet", worlds=False),  # others allow them to nobody
    *simple("netlink", "netlink"),
    *simple("packet", "packet-sockets"),
    *(Case(f"packet-ring-{word}", "packet-ring", (word,), kind="packet") for word in ("v1", "v2", "full", "both", "v3")),
    *(Case(f"options-{word}", "options-all", (word,), kind=kind)
      for word, kind in (("unix", "unix"), ("tcp", "inet"), ("udp", "inet"), ("raw", "inet"), ("netlink", "netlink"),
                         ("packet", "packet"))),
    *(Case(f"tunnel-{word}", "tunnel", (word,), kind="tun") for word in ("tun", "tap", "queues", "idle", "persistent")),
    Case("tcp-pairs", options={"tcp_established": True}, kind="inet"),
    Case("tcp-established-v4", "tcp-established", ("4",), {"tcp_established": True},
         lambda: TcpClient(socket.AF_INET), kind="inet"),
    Case("tcp-established-v6", "tcp-established", ("6",), {"tcp_established": True},
         lambda: TcpClient(socket.AF_INET6), kind="inet"),
]
