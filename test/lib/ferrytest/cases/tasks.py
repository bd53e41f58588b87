# SPDX-License-Identifier: Apache-2.0
"""What belongs to a task or a thread, and how tasks hang together."""

from ferrytest.cases.case import simple

CASES = [
    *simple("tree", "tree", "clocks"),
    *simple("thread", "threads", "rseq", "robust-list"),
    *simple("regs", "xstate"),
    *simple("signal", "signals-pending", "signals-actions"),
    *simple("timer", "itimers", "posix-timers"),
    *simple("creds", "credentials"),
    *simple("rlimit", "rlimits"),
    *simple("sched", "scheduling"),
    *simple("prctl", "prctl"),
    *simple("fs", "folders"),
]
