# SPDX-License-Identifier: Apache-2.0
"""Descriptors that are neither files nor sockets."""

from ferrytest.cases.case import Case, simple

CASES = [
    *simple("pipe", "pipes", "pipe-descriptions", "pipe-packets", "pipe-spliced"),
    *simple("epoll", "epoll", "epoll-numbers", "epoll-kinds"),
    *simple("eventfd", "eventfd", "eventfd-waiting", "fd-table"),
    *simple("timerfd", "timerfd", "timerfd-unread"),
    Case("timerfd-alarm", "timerfd", ("alarm",), kind="timerfd"),
    *simple("signalfd", "signalfd"),
    *simple("pidfd", "pidfd", "pidfd-dead"),
    *simple("fifo", "fifo", "fifo-deleted"),
    *simple("nsfile", "namespaces-open"),
    *simple("tty", "pty-pair", "pty-typed", "pty-raw", "pty-alone", "pty-modes", "pty-stopped", "pty-session", "pty-numbers", "owner-signals"),
]
