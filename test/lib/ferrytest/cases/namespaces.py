# SPDX-License-Identifier: Apache-2.0
"""Namespaces that a tree has for itself, or some of its processes have."""

from ferrytest.cases.case import Case

CASES = [
    Case("uts-own", "uts", kind="uts"),
    Case("uts-tasks", "uts", ("tasks",), kind="uts"),
    Case("ipc-semaphores", kind="ipc"),
    Case("ipc-semaphores-waiting", "ipc-semaphores", ("waiting",), kind="ipc"),
    Case("ipc-semaphores-tasks", "ipc-semaphores", ("tasks",), kind="ipc"),
    Case("ipc-messages", kind="ipc"),
    Case("ipc-messages-waiting", "ipc-messages", ("waiting",), kind="ipc"),
    Case("ipc-limits", kind="ipc"),
    Case("mounts-tmpfs", "mounts", ("tmpfs",), kind="mounts"),
    Case("mounts-sealed", "mounts", ("sealed",), kind="mounts"),
    Case("mounts-readonly", "mounts", ("readonly",), kind="mounts"),
    Case("mounts-bind", "mounts", ("bind",), kind="mounts"),
    Case("mounts-gone", "mounts", ("gone",), kind="mounts", worlds=False),
    Case("mounts-shared", "mounts", ("shared",), kind="mounts"),
    Case("mounts-stacked", "mounts", ("stacked",), kind="mounts"),
    Case("netns-empty", "netns", kind="netns", options={"more": ("--empty-ns", "net")}),
    Case("userns-self", "userns", ("self",), kind="userns"),
    Case("userns-mapped", "userns", ("mapped",), kind="userns"),
    Case("userns-unmapped", "userns", ("unmapped",), kind="userns"),
    Case("userns-nested", "userns", ("nested",), kind="userns"),
    Case("userns-owned", "userns", ("owned",), kind="userns"),
    Case("userns-mounts", "userns", ("mounts",), kind="userns"),
    Case("time-children", "time", ("children",), kind="timens"),
    Case("time-left", "time", ("left",), kind="timens"),
    Case("cgroup-own", "cgroup", kind="cgroup"),
    Case("cgroup-below", "cgroup", ("below",), kind="cgroup"),
    Case("cgroup-children", "cgroup", ("children",), kind="cgroup"),
    Case("cgroup-thread", "cgroup", ("thread",), kind="cgroup"),
    Case("pid-nested", "pid-nested", ("one",), kind="pidns"),
    Case("pid-nested-deep", "pid-nested", ("three",), kind="pidns"),
    Case("pid-nested-unshare", "pid-nested", ("unshare",), kind="pidns"),
    Case("pid-nested-threads", "pid-nested", ("threads",), kind="pidns"),
]
