# SPDX-License-Identifier: Apache-2.0
"""What belongs to a task or a thread, and how tasks hang together."""

from ferrytest.cases.case import Case, simple

SECCOMP = ["one", "stacked", "privileged", "trap", "kill", "bare", "log", "threads", "tsync", "alike", "children",
           "strict"]
ATTRIBUTES = {
    "prctl": ["mdwe", "mdwe-loose", "thp-advised", "tsc", "tsc-thread", "uname26", "read-implies-exec",
              "personality-odd", "personality-thread", "membarrier", "membarrier-one", "autogroup", "oom-score",
              "coredump-filter", "undumpable", "login-id", "mce-policy", "death-signal"],
    "sched": ["deadline", "slice", "reset-on-fork", "io-idle", "io-realtime"],
    "creds": ["keep-caps", "securebits-locked"],
    "regs": ["ldt"],
}
TIMERS = ["waiting", "waiting-thread", "expired", "thread-clock", "other-clock", "process-clock", "many"]
STACKS = ["in-use", "nested", "autodisarm", "no-restorer"]

MATES = ["actions", "all", "threads", "sibling", "apart", "generations", "sessions", "own", "filtered"]

TRACED = ["breakpoint", "grandchild", "runs", "waits", "sleeps", "polls", "signal", "signal-untold", "seized",
          "seized-polls", "interrupted", "watched", "pending"]

CASES = [
    *simple("tree", "tree", "clocks"),
    *simple("tree", "zombie-exited", "zombie-killed", "zombie-user", "zombie-dumped", "zombie-group-leader",
            "zombie-session-leader", "zombie-threads", "zombie-orphan"),
    *simple("tree", "session-daemon", "session-two-takers", "session-leader-below", "session-early-child", "session-many",
            "group-leader-gone", "group-left", "group-orphaned"),
    *simple("tree", "shared-descriptors", "shared-folders"),
    *simple("tree", "shared-memory"),
    *[Case(f"shared-memory-{what}", "shared-memory", (what,), kind="tree") for what in MATES],
    *simple("wait", "stopped", "stopped-threads", "stopped-pending", "stopped-family", "continued-untold"),
    Case("stopped-untold", "stopped", ("untold",), kind="wait"),
    Case("tree-dead", "tree", ("dead",), kind="tree"),
    *simple("tree", "sibling", "exit-signal", "subreaper", "parent-waits"),
    *simple("thread", "threads", "threads-alike", "rseq", "robust-list"),
    *simple("thread", "leader-ended", "leader-ended-child", "leader-ended-parent"),
    Case("leader-ended-user", "leader-ended", ("user",), kind="thread", also=("creds",)),
    *[Case(f"leader-ended-{word}", "leader-ended-child", (word,), kind=kind)
      for word, kind in (("shared", "thread"), ("stopped", "wait"), ("seccomp", "seccomp"))],
    Case("leader-ended-nested", "leader-ended-parent", ("nested",), kind="thread"),
    *simple("regs", "xstate", "x87", "sleepers", "segment-bases", "general-registers", "registers"),
    *simple("signal", "signals-pending", "signals-actions", "signals-trap"),
    *simple("timer", "itimers", "posix-timers"),
    *simple("creds", "credentials", "thread-credentials"),
    *simple("rlimit", "rlimits"),
    *simple("sched", "scheduling"),
    *simple("prctl", "prctl"),
    *[Case(f"attribute-{word}", "attributes", (word,), kind=kind) for kind, words in ATTRIBUTES.items() for word in words],
    *[Case(f"timer-{what}", "timer-kinds", (what,), kind="timer") for what in TIMERS],
    *[Case(f"handler-{what}", "signal-stacks", (what,), kind="signal") for what in STACKS],
    *simple("prctl", "dispatch"),
    *[Case(f"traced-{what}", "traced", (what,), kind="trace") for what in TRACED],
    *simple("trace", "traced-threads"),
    Case("traced-threads-all", "traced-threads", ("all",), kind="trace"),
    *simple("fs", "thread-folders"),
    *[Case(f"seccomp-{what}", "seccomp", (what,), kind="seccomp") for what in SECCOMP],
    *simple("fs", "folders"),
]
