# SPDX-License-Identifier: Apache-2.0
"""Engines of the kernel that work for a task: Linux AIO, io_uring, userfaultfd, BPF."""

from ferrytest.cases.case import simple

CASES = [
    *simple("aio", "aio-events", "aio-full", "aio-contexts", "aio-direct", "aio-waiting"),
]
