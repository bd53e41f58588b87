# SPDX-License-Identifier: Apache-2.0
"""The state of a process tree as seen from outside: /proc and kcmp(2), nothing of ferry's.

A snapshot is plain nested dictionaries; differences() compares two. What differs between a process and its restored
self by design (inode numbers of sockets and pipes, addresses of the vdso, time that passed) is left out or replaced
by who shares it with whom.
"""

import ctypes
import hashlib
import os
import re
import struct
import time

from ferrytest.process import PROC, look, read_bytes, read_text, stat_fields, status, threads, tree

PAGE = os.sysconf("SC_PAGE_SIZE")
SPARSE = 1 << 26
SYS_KCMP = 312
KCMP_FILE = 0
KCMP_TASK = {"vm": 1, "files": 2, "fs": 3, "sighand": 4}  # what processes may have together
AT_SYSINFO_EHDR = 33

STATUS_OF_PROCESS = [
    "Umask", "Tgid", "Uid", "Gid", "Groups", "NStgid", "NSpgid", "NSsid", "ShdPnd", "SigIgn", "SigCgt",
    "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters",
    "THP_enabled",
]
STATUS_OF_THREAD = ["Name", "NSpid", "SigPnd", "SigBlk", "Cpus_allowed_list", "NoNewPrivs", "Seccomp",
                    "Seccomp_filters"]
STATUS_OF_ENDED = ["Name", "NSpid", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
                   "Cpus_allowed_list"]
# Fields of stat, numbered as in proc(5).
STAT_OF_PROCESS = {
    "pgrp": 5, "session": 6, "tty": 7, "exit_signal": 38, "start_code": 26, "end_code": 27, "start_stack": 28,
    "start_data": 45, "end_data": 46, "start_brk": 47, "arg_start": 48, "arg_end": 49, "env_start": 50, "env_end": 51,
}
STAT_OF_THREAD = {"nice": 19, "rt_priority": 40, "policy": 41}
FDINFO_LEFT_OUT = {"mnt_id", "ino", "eventfd-id", "it_value", "ticks", "scm_fds", "map_id",
                   # Of an io_uring: its polling thread, and positions, which programs prove in the rings themselves.
                   "SqThread", "SqThreadCpu", "SqTotalTime", "SqWorkTime", "SqHead", "SqTail", "CachedSqHead", "CqHead",
                   "CqTail", "CachedCqTail", "SQEs", "CQEs"}
VMFLAGS_LEFT_OUT = {"sd", "ac", "um", "uw", "nr", "mw", "me", "gu"}
NAMESPACES = ["mnt", "net", "ipc", "uts", "pid", "user", "cgroup"]

libc = ctypes.CDLL(None, use_errno=True)


def same_description(pid_a, fd_a, pid_b, fd_b):
    """Whether two descriptors refer to one open file description."""
    return libc.syscall(SYS_KCMP, pid_a, pid_b, KCMP_FILE, ctypes.c_ulong(fd_a), ctypes.c_ulong(fd_b)) == 0


class Names:
    """Gives stable names to things that are known by a number of the moment, in the order in which they are met."""

    def __init__(self):
        self.inodes = {}
        self.descriptions = []
        self.owners = {}

    def inode(self, kind, number):
        """socket:[4711] -> socket#1"""
        key = (kind, number)
        return f"{kind}#{self.inodes.setdefault(key, len(self.inodes))}"

    def owner(self, pid, which):
        """The first process met that has the same memory, table... as this one."""
        owners = self.owners.setdefault(which, [])
        for known in owners:
            if libc.syscall(SYS_KCMP, pid, known, which, 0, 0) == 0:
                return known
        owners.append(pid)
        return pid

    def description(self, pid, fd, link):
        """The first descriptor met that shares this one's description."""
        for known_link, known_pid, known_fd in self.descriptions:
            if known_link == link and same_description(pid, fd, known_pid, known_fd):
                return f"{known_pid}/{known_fd}"
        self.descriptions.append((link, pid, fd))
        return f"{pid}/{fd}"


def fdinfo_text(pid, fd):
    """All of it: of an io_uring that works at this moment the kernel shows nothing."""
    path = PROC / str(pid) / "fdinfo" / str(fd)
    for _ in range(500):
        text = read_text(path) or ""
        if "SqMask" in text or link_of_descriptor(PROC / str(pid) / "fd" / str(fd)) != "anon_inode:[io_uring]":
            break
        time.sleep(0.002)
    return text


def fdinfo(pid, fd):
    """The lines of fdinfo that must survive, as a list. The kernel lists what an epoll set watches by its addresses."""
    kept, watched = [], []
    for line in fdinfo_text(pid, fd).splitlines():
        key = line.split(":")[0].strip()
        if key in FDINFO_LEFT_OUT or re.match(r"\s+\d+: (user_data|opcode):", line):
            continue
        line = " ".join(re.sub(r"\s+pos:.*$", "", line).split()) if key == "tfd" else " ".join(line.split())
        if key.startswith(("inotify", "fanotify")):
            # A deleted file is another inode after a restore, a mount has another number in another world.
            line = re.sub(r" (ino|f_handle|mnt_id):[0-9a-f]+", "", line)
        (watched if key == "tfd" else kept).append(line)
    return kept + sorted(watched)


def socket_lines(pid):
    """inode -> what /proc/net knows of it, as seen by the process."""
    found = {}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in (read_text(PROC / str(pid) / "net" / name) or "").splitlines()[1:]:
            words = line.split()
            receive_queue = words[4].split(":")[1] if words[3] != "0A" else "listening"
            if name.startswith("udp"):
                receive_queue = bool(int(receive_queue, 16))  # memory, which depends on how packets came
            found[words[9]] = f"{name} {words[1]} {words[2]} state {words[3]} waiting {receive_queue}"
    for line in (read_text(PROC / str(pid) / "net" / "unix") or "").splitlines()[1:]:
        words = line.split()
        found[words[6]] = f"unix type {words[4]} state {words[5]} flags {words[3]} {' '.join(words[7:])}"
    return found


def without_accidents(name, mapped=False):
    """A name in /proc without what a restore may change: the number of a file that never had a name, and what is appended
    to the name of a deleted file when somebody else has that name by now."""
    name = re.sub(r"/#\d+ \(deleted\)$", "/# (deleted)", name)
    name = re.sub(r"^socket:\[\d+\]$", "socket:[]", name) if mapped else name
    return re.sub(r"\.ferry-\d+ \(deleted\)$", " (deleted)", name)


def link(pid, name):
    """readlink in /proc/PID."""
    try:
        return without_accidents(os.readlink(PROC / str(pid) / name))
    except OSError as error:
        return f"errno {error.errno}"


def namespace(which, names):
    """Which one of a kind, by what its link says; that of the observer is called so, for he may have moved along. Others
    are new after a restore: what counts is who shares one."""
    match = re.fullmatch(r"(\w+):\[(\d+)\]", which)
    if not match:
        return which
    return f"the observer's {match[1]}" if which == link("self", "ns/" + match[1]) else names.inode(*match.groups())


def link_of_descriptor(path):
    """Where it leads; nothing when it was closed meanwhile, or is the test program's look into its mailbox."""
    try:
        link = os.readlink(path)
    except OSError:
        return None
    return None if os.path.basename(link).startswith(("ask.", ".answer.")) else without_accidents(link)


def descriptors(pid, names):
    """fd -> link, who shares it, fdinfo, socket."""
    found = {}
    sockets = socket_lines(pid)
    folder = PROC / str(pid) / "fd"
    try:
        numbers = sorted(int(n) for n in os.listdir(folder))
    except OSError:
        return found
    for fd in numbers:
        target = link_of_descriptor(folder / str(fd))
        if not target:
            continue
        shared = names.description(pid, fd, target)
        match = re.fullmatch(r"(socket|pipe):\[(\d+)\]", target)
        found[fd] = {
            "link": names.inode(*match.groups()) if match else namespace(target, names),
            "description": shared,
            "fdinfo": fdinfo(pid, fd),
        }
        if match and match.group(1) == "socket":
            found[fd]["socket"] = sockets.get(match.group(2), "")
    return found


def mappings(pid):
    """Mappings from smaps: dictionaries with start, end, perms, offset, name, flags."""
    found = []
    for line in (read_text(PROC / str(pid) / "smaps") or "").splitlines():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ \d+\s*(.*)$", line)
        if match:
            found.append({"start": int(match[1], 16), "end": int(match[2], 16), "perms": match[3],
                          "offset": int(match[4], 16), "name": without_accidents(match[5], mapped=True), "flags": ""})
        elif line.startswith("VmFlags:"):
            found[-1]["flags"] = " ".join(sorted(set(line.split()[1:]) - VMFLAGS_LEFT_OUT))
    return [m for m in found if m["name"] not in ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")]


def layout(maps):
    """Mappings without what the kernel may split or merge: neighbours with equal properties become one. A stack grows
    as it likes, so only its end counts."""
    merged = []
    for m in maps:
        offset = m["offset"] if m["name"] and not m["name"].startswith("[") else 0
        entry = {"start": m["start"], "end": m["end"], "perms": m["perms"], "name": m["name"], "flags": m["flags"],
                 "offset": offset}
        if m["name"] == "[stack]":
            entry["start"] = 0
        last = merged[-1] if merged else None
        if last and last["end"] == entry["start"] and all(last[k] == entry[k] for k in ("perms", "name", "flags")) \
                and (not offset or last["offset"] + entry["start"] - last["start"] == offset):
            last["end"] = entry["end"]
            continue
        merged.append(entry)
    return {f"{m['start']:x}-{m['end']:x}": f"{m['perms']} {m['offset']:x} {m['name']} [{m['flags']}]" for m in merged}


def stack_pointer(pid, tid):
    """Of one thread; None when it does not sleep in the kernel within some tries."""
    for _ in range(20):
        words = (read_text(PROC / str(pid) / "task" / str(tid) / "syscall") or "").split()
        if len(words) >= 3:
            return int(words[-2], 16)
        time.sleep(0.002)
    return None


def mates_of(pid, pids):
    """Those that have the same memory, pid first."""
    return [pid] + [other for other in pids if other != pid
                    and libc.syscall(SYS_KCMP, look(pid), look(other), KCMP_TASK["vm"], 0, 0) == 0]


def stacks_of(pids, maps):
    """(start, end) of the mappings that hold the threads' stacks, of all that have this memory: their contents depend on
    the instant. A thread that never sleeps is missing; its stack does not change either while it stays in its loop."""
    pointers = [stack_pointer(pid, tid) for pid in pids for tid in threads(pid)]
    return [(m["start"], m["end"]) for m in maps
            if m["name"] == "[stack]" or any(sp and m["start"] <= sp < m["end"] for sp in pointers)]


def pages_of(memory, pagemap, m):
    """Page address -> digest, for one mapping. Pages of zeros do not count: absent and zero are the same."""
    found = {}
    if "wf" in m["flags"].split():
        return found  # empty after a restore, as after a fork
    count = (m["end"] - m["start"]) // PAGE
    pagemap.seek(m["start"] // PAGE * 8)
    entries = struct.unpack(f"{count}Q", pagemap.read(count * 8))
    anonymous = not m["name"] or m["name"].startswith(("[heap]", "[anon")) or \
        (m["name"].startswith("/anon_hugepage") and m["perms"].endswith("p"))
    for i, entry in enumerate(entries):
        # Bit 63 present, bit 62 swapped: a page of anonymous memory that is neither was never written.
        if anonymous and not entry >> 62:
            continue
        address = m["start"] + i * PAGE
        try:
            memory.seek(address)
            page = memory.read(PAGE)
        except (OSError, ValueError):
            continue
        # The number of an AIO context in the kernel's table.
        if m["name"].startswith("/[aio]") and not i:
            page = bytes(4) + page[4:]
        if page.count(0) != len(page):
            found[address] = hashlib.blake2b(page, digest_size=8).hexdigest()
    return found


def memory_once(pid, maps, stacks):
    """Page address -> digest over all mappings but these."""
    found = {}
    with open(PROC / str(pid) / "mem", "rb", 0) as memory, open(PROC / str(pid) / "pagemap", "rb", 0) as pagemap:
        for m in maps:
            if (m["start"], m["end"]) not in stacks:
                found.update(pages_of(memory, pagemap, m))
    return found


def memory(mates, maps, volatile, samples):
    """Digests of the pages that stay the same over some samples; None for those that do not."""
    pid, stacks = mates[0], stacks_of(mates, maps)
    # To read memory that is sparse would make all of it; the program proves its contents.
    sparse = [(start, end) for start, end in volatile if end - start >= SPARSE]
    found = memory_once(pid, maps, stacks + sparse)
    for _ in range(samples - 1):
        time.sleep(0.03)
        again = memory_once(pid, maps, stacks + sparse)
        for address in set(found) | set(again):
            if found.get(address) != again.get(address):
                found[address] = None
    for start, end in set(volatile) - set(sparse):
        for address in range(start // PAGE * PAGE, end, PAGE):
            found[address] = None
    return {"pages": {f"{address:x}": digest for address, digest in found.items()}, "stacks": stacks}


def auxv(pid):
    """The auxiliary vector without the vdso's address."""
    raw = read_bytes(PROC / str(pid) / "auxv") or b""
    pairs = [struct.unpack_from("QQ", raw, at) for at in range(0, len(raw) - 15, 16)]
    return {str(key): value for key, value in pairs if key != AT_SYSINFO_EHDR}


def ended_state(pid, tid):
    """What is left of a first thread that has ended while others run: what it blocked and waited for is nobody's."""
    fields = status(pid, tid)
    numbers = stat_fields(PROC / str(pid) / "task" / str(tid) / "stat")
    found = {key: fields.get(key) for key in STATUS_OF_ENDED}
    found.update({key: numbers[n - 3] for key, n in STAT_OF_THREAD.items()})
    found["exit_code"] = numbers[52 - 3]
    return found


def thread_state(pid, tid):
    """What counts of one thread."""
    if tid == pid and look(pid) != pid:
        return ended_state(pid, tid)
    fields = status(pid, tid)
    numbers = stat_fields(PROC / str(pid) / "task" / str(tid) / "stat")
    found = {key: fields.get(key) for key in STATUS_OF_THREAD}
    found.update({key: numbers[n - 3] for key, n in STAT_OF_THREAD.items()})
    found["timerslack"] = (read_text(PROC / str(tid) / "timerslack_ns") or "").strip()
    return found


def lasting(fields, again, key):
    """A set of pending signals without those that came and went between two looks: a timer's, for instance."""
    if key in fields and key in again:
        fields[key] = f"{int(fields[key], 16) & int(again[key], 16):016x}"


def process_state(mates, names, volatile, samples, is_root):
    """Everything about the first of some processes that have one memory."""
    pid = mates[0]
    seen = look(pid)
    fields = status(seen)
    for _ in range(samples):
        time.sleep(0.01)
        lasting(fields, status(seen), "ShdPnd")
    numbers = stat_fields(PROC / str(seen) / "stat")
    state = numbers[0] if numbers[0] in "ZTt" else "runs"
    found = {"state": state, "stat": {key: numbers[n - 3] for key, n in STAT_OF_PROCESS.items()},
             "status": {key: fields.get(key) for key in STATUS_OF_PROCESS}}
    # Threads have none; that of the process is with its first.
    found["stat"]["exit_signal"] = stat_fields(PROC / str(pid) / "stat")[38 - 3]
    if not is_root:
        found["status"]["PPid"] = fields.get("PPid")
    if state == "Z":
        # What it handled and blocked, and the memory it had, went with it.
        return {"state": state, "exit_code": numbers[52 - 3], "name": fields.get("Name"),
                "stat": {key: found["stat"][key] for key in ("pgrp", "session", "exit_signal")},
                "status": {key: found["status"].get(key) for key in ("Uid", "Gid", "PPid", "NStgid")}}
    folder = PROC / str(seen)
    maps = mappings(seen)
    found["threads"] = {tid: thread_state(pid, tid) for tid in threads(pid)}
    found["shares"] = {name: names.owner(seen, which) for name, which in KCMP_TASK.items()}
    found["links"] = {name: link(seen, name) for name in ("exe", "cwd", "root")}
    found["namespaces"] = {name: namespace(link(seen, "ns/" + name), names) for name in NAMESPACES}
    found["texts"] = {name: read_text(folder / name) for name in
                      ("cmdline", "environ", "limits", "oom_score_adj", "coredump_filter", "personality", "timers")}
    found["auxv"] = auxv(seen)
    found["fds"] = descriptors(seen, names)
    found["layout"] = layout(maps)
    found["memory"] = memory([look(mate) for mate in mates], maps, volatile, samples)
    return found


def snapshot(pid, volatile=None, samples=3):
    """The state of the tree below pid. volatile: {pid: [(start, end)]} that may differ."""
    names = Names()
    volatile = volatile or {}
    members = list(tree(pid))
    found = {}
    for member in members:
        mates = mates_of(member, members)
        changes = [change for mate in mates for change in volatile.get(mate, [])]
        found[member] = process_state(mates, names, changes, samples, member == pid)
    return found


def memory_differences(before, after, path):
    """Pages that differ, without stacks and those that changed by themselves in either snapshot."""
    stacks = before["stacks"] + after["stacks"]
    found = []
    for key in sorted(set(before["pages"]) | set(after["pages"])):
        a, b = before["pages"].get(key, "zero"), after["pages"].get(key, "zero")
        if a is None or b is None or a == b or any(start <= int(key, 16) < end for start, end in stacks):
            continue
        found.append(f"{path}/{key}: {a} became {b}")
    return found


def differences(before, after, path=""):
    """Where two snapshots differ, one line each."""
    found = []
    for key in sorted(set(before) | set(after), key=str):
        here = f"{path}/{key}"
        a, b = before.get(key), after.get(key)
        if key == "memory" and a and b:
            found += memory_differences(a, b, here)
        elif isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, here)
        elif a != b:
            found.append(f"{here}: {str(a)[:200]!r} became {str(b)[:200]!r}")
    return found
