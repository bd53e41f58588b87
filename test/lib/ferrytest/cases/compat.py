# SPDX-License-Identifier: Apache-2.0
"""Programs of 32 bits, and 32-bit code in others. Those of other areas stand here once more, built for 32 bits: their calls
come from another table, their frames, lists and arguments look different."""

from ferrytest.cases.case import Case, simple

# By kind: a program of another area, and words for it.
OLD = {
    "tree": [("tree",)],
    "thread": [("threads",), ("robust-list",), ("leader-ended",)],
    "regs": [("sleepers",)],
    "signal": [("signals-pending",), ("signals-actions",), ("signal-stacks", "in-use"), ("signal-stacks", "nested"),
               ("signal-stacks", "autodisarm"), ("signal-stacks", "no-restorer")],
    "timer": [("itimers",), ("posix-timers",)],
    "prctl": [("dispatch",)],
    "wait": [("stopped-threads",)],
    "creds": [("credentials",)],
    "filelock": [("leases",)],
    "epoll": [("epoll",)],
    "aio": [("aio-events",)],
    "uring": [("uring-ring", "plain"), ("uring-ring", "far")],
    "uffd": [("uffd-missing",)],
    "userns": [("userns", "mapped")],
}
MEMORY = ["heap-stack", "vma-shared", "family", "vdso"]

CASES = [
    *simple("regs", "old-segments", "old-registers", "mixed-code"),
    Case("old-memory", kind="mm"),
    Case("old-seccomp", kind="seccomp"),
    *[Case("old-" + "-".join(words), "old-" + words[0], words[1:], kind=kind) for kind, all_words in OLD.items()
      for words in all_words],
    *simple("mm", *["old-" + name for name in MEMORY]),
]
