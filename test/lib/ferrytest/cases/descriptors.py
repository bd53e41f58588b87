# SPDX-License-Identifier: Apache-2.0
"""Descriptors that are neither files nor sockets."""

from ferrytest.cases.case import Case, simple

# Word of descriptor-owners, kind.
OWNERS = {"eventfd": "eventfd", "timerfd": "timerfd", "signalfd": "signalfd", "epoll": "epoll", "pidfd": "pidfd",
          "memfd": "memfd", "file": "regfile", "inotify": "inotify", "fanotify": "fanotify", "message-queue": "mqueue",
          "udp": "inet", "netlink": "netlink", "packet": "packet", "tun": "tun"}

CASES = [
    *simple("pipe", "pipes", "pipe-descriptions", "pipe-packets", "pipe-spliced"),
    *simple("epoll", "epoll", "epoll-numbers", "epoll-kinds"),
    *simple("eventfd", "eventfd", "eventfd-waiting", "fd-table"),
    *simple("timerfd", "timerfd", "timerfd-unread"),
    Case("timerfd-alarm", "timerfd", ("alarm",), kind="timerfd"),
    *simple("signalfd", "signalfd"),
    *simple("pidfd", "pidfd", "pidfd-dead", "pidfd-thread"),
    *simple("fifo", "fifo", "fifo-deleted"),
    *simple("nsfile", "namespaces-open"),
    # A queue with messages is of its IPC namespace, as a file is of its file system.
    Case("message-queue", kind="mqueue", worlds=False),
    Case("message-queue-left", "message-queue", ("left",), kind="mqueue", worlds=False),
    *simple("tty", "pty-pair", "pty-typed", "pty-raw", "pty-alone", "pty-modes", "pty-stopped", "pty-session",
            "pty-numbers"),
    Case("signal-owners", kind="tty", also=("pipe", "fifo", "unix")),
    *[Case(f"owner-{word}", "descriptor-owners", (word,), kind=kind, worlds=word != "message-queue")
      for word, kind in OWNERS.items()],
]
