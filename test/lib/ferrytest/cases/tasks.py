# SPDX-License-Identifier: Apache-2.0
"""What belongs to a task or a thread, and how tasks hang together."""

from ferrytest.cases.case import Case, simple

SECCOMP = ["one", "stacked", "privileged", "trap", "kill", "bare", "log", "threads", "tsync", "alike", "children",
           "strict"]

CASES = [
    *simple("tree", "tree", "clocks"),
    *simple("tree", "zombie-exited", "zombie-killed", "zombie-user", "zombie-dumped", "zombie-group-leader",
            "zombie-session-leader", "zombie-threads", "zombie-orphan"),
    *simple("tree", "session-daemon", "session-two-takers", "session-leader-below", "session-early-child", "session-many",
            "group-leader-gone", "group-left", "group-orphaned"),
    *simple("wait", "stopped", "stopped-threads", "stopped-pending", "stopped-family", "continued-untold"),
    Case("stopped-untold", "stopped", ("untold",), kind="wait"),
    Case("tree-dead", "tree", ("dead",), kind="tree"),
    *simple("tree", "sibling", "exit-signal", "subreaper", "parent-waits"),
    *simple("thread", "threads", "rseq", "robust-list"),
    *simple("regs", "xstate"),
    *simple("signal", "signals-pending", "signals-actions"),
    *simple("timer", "itimers", "posix-timers"),
    *simple("creds", "credentials"),
    *simple("rlimit", "rlimits"),
    *simple("sched", "scheduling"),
    *simple("prctl", "prctl"),
    *[Case(f"seccomp-{what}", "seccomp", (what,), kind="seccomp") for what in SECCOMP],
    *simple("fs", "folders"),
]
