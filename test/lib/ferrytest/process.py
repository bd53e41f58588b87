# SPDX-License-Identifier: Apache-2.0
"""Processes as /proc shows them."""

import os
import pathlib
import time

PROC = pathlib.Path("/proc")


def wait_until(condition, what, seconds=20):
    """Poll until the condition gives something true; that is the result."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds} s: {what}")
        time.sleep(0.005)


def read_bytes(path):
    """Contents of a /proc file; None when the process is gone or the kernel refuses."""
    try:
        return pathlib.Path(path).read_bytes()
    except (OSError, ProcessLookupError):
        return None


def read_text(path):
    """As read_bytes(), as text."""
    raw = read_bytes(path)
    return None if raw is None else raw.decode("utf-8", "replace")


def status(pid, tid=None):
    """/proc/PID/status (or that of one thread) as a dictionary."""
    path = PROC / str(pid) / "status" if tid is None else PROC / str(pid) / "task" / str(tid) / "status"
    fields = {}
    for line in (read_text(path) or "").splitlines():
        key, _, value = line.partition(":")
        fields[key] = value.strip()
    return fields


def inner(pid):
    """Its number in the innermost PID namespace that it is in."""
    return int(status(pid)["NSpid"].split()[-1])


def stat_fields(path):
    """The fields of a stat file from the third (state) on, so that field N of proc(5) is at N - 3."""
    text = read_text(path)
    return text.rpartition(")")[2].split() if text else []


def start_time(pid):
    """Field 22 of stat: tells one process from a later one with the same number."""
    fields = stat_fields(PROC / str(pid) / "stat")
    return fields[19] if fields else None


def is_alive(pid):
    """Whether there is such a process and it is no zombie; its first thread alone may be one."""
    fields = stat_fields(PROC / str(pid) / "stat")
    return bool(fields) and (fields[0] not in "ZX" or int(fields[17]) > 1)


def look(pid):
    """The thread that shows what a process has: the first one, or when that has ended the next. /proc/PID shows no memory,
    descriptors and folders then, and kcmp(2) finds none."""
    fields = stat_fields(PROC / str(pid) / "stat")
    if not fields or fields[0] not in "ZX":
        return pid
    states = {tid: stat_fields(PROC / str(pid) / "task" / str(tid) / "stat") for tid in threads(pid)}
    return next((tid for tid, found in states.items() if found and found[0] not in "ZX"), pid)


def describe(pid):
    """What the threads of a process do, for a message: their state and the system call they are in."""
    found = []
    for tid in threads(pid):
        folder = PROC / str(pid) / "task" / str(tid)
        state, call = stat_fields(folder / "stat"), read_text(folder / "syscall")
        found.append(f"{tid} {state[0] if state else '?'} {(call or '?').strip()}")
    return "; ".join(found) or f"pid {pid} does not exist"


def running(path):
    """The processes that execute this file."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        try:
            if os.path.samefile(folder / "exe", path):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def is_worker(pid, tid):
    """Whether the kernel made this thread in the process, for io_uring (PF_IO_WORKER, PF_USER_WORKER)."""
    words = (read_text(PROC / str(pid) / "task" / str(tid) / "stat") or "").rpartition(")")[2].split()
    return len(words) > 6 and bool(int(words[6]) & 0x4010)


def threads(pid):
    """Thread ids, ascending, of the threads that run the program."""
    try:
        found = sorted(int(name) for name in os.listdir(PROC / str(pid) / "task"))
    except OSError:
        return []
    return [tid for tid in found if tid == pid or not is_worker(pid, tid)]


def children(pid):
    """Pids of the children of all threads."""
    found = []
    for tid in threads(pid):
        found += [int(p) for p in (read_text(PROC / str(pid) / "task" / str(tid) / "children") or "").split()]
    return sorted(found)


def tree(pid):
    """The process and its descendants, parents first."""
    found = [pid]
    for child in children(pid):
        found += tree(child)
    return found


def all_pids():
    """Every process of this pid namespace."""
    return {int(name) for name in os.listdir(PROC) if name.isdigit()}
