# SPDX-License-Identifier: Apache-2.0
"""Engines of the kernel that work for a task: Linux AIO, io_uring, userfaultfd, BPF."""

from ferrytest.cases.case import Case, simple

CASES = [
    *simple("aio", "aio-events", "aio-full", "aio-contexts", "aio-direct", "aio-waiting"),
    *[Case(f"uring-{word}", "uring-ring", (word,), kind="uring")
      for word in ("plain", "large", "wide", "narrow", "noarray", "single", "far")],
    *simple("uring", "uring-full", "uring-tables", "uring-polled", "uring-shared", "uring-threads", "uring-disabled",
            "uring-direct"),
    Case("uffd-missing", kind="uffd"),
    Case("uffd-pending", "uffd-missing", ("pending",), kind="uffd"),
    Case("uffd-protected", kind="uffd"),
    Case("bpf-maps", kind="bpfmap"),
]
