# SPDX-License-Identifier: Apache-2.0
"""What must not be left behind: tracers, stopped or frozen tasks, processes, nft tables, files, code in the target."""

import os
import pathlib
import re
import struct
import subprocess
import tempfile

from ferrytest import old
from ferrytest.process import PROC, all_pids, look, read_bytes, read_text, status, threads, tree
from ferrytest.snapshot import PAGE

WATCHED_FOLDERS = ["/run", "/dev/shm"]


def nft_tables():
    """Names of the nftables tables of this network namespace."""
    done = subprocess.run(["nft", "list", "tables"], check=False, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    return {line.strip() for line in done.stdout.splitlines() if line.startswith("table")}


def files_below(folder):
    """Every path below a folder, links not followed."""
    found = set()
    for top, folders, names in os.walk(folder):
        found.update(os.path.join(top, name) for name in folders + names)
    return found


def may_write(program):
    """What a program may write while it is asked: test programs their answers (test/lib/program.h), others anything of
    their own."""
    folder = pathlib.Path(program.folder)
    if not hasattr(program, "roles"):
        return [folder]
    # Threads that are no role of the program's say which memory changes, too.
    return [folder / "log", *folder.glob("volatile.*")] + [
        folder / f"{dot}{word}.{role}" for role in program.roles for dot in ("", ".")
        for word in ("ask", "answer", "new", "volatile")]


def ipc_objects():
    """What System V IPC has in this namespace: ("shm", id)..."""
    return {(kind, line.split()[1]) for kind in ("shm", "sem", "msg")
            for line in (read_text(PROC / "sysvipc" / kind) or "").splitlines()[1:]}


def attached(pids):
    """The segments of System V shared memory that processes have attached, as ipc_objects() calls them."""
    maps = "".join(read_text(PROC / str(look(pid)) / "maps") or "" for pid in pids)
    return {("shm", number) for number in re.findall(r" (\d+) +/SYSV", maps)}


def executable_mappings(pid):
    """(start, end, file offset, path) of mappings that can be executed."""
    for line in (read_text(PROC / str(look(pid)) / "maps") or "").splitlines():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) ..x. ([0-9a-f]+) \S+ \d+\s*(.*)$", line)
        if match:
            yield int(match[1], 16), int(match[2], 16), int(match[3], 16), match[4]


def own_vdso():
    """The vdso of this process: the kernel gives every process of one architecture the same."""
    for start, end, _, path in executable_mappings("self"):
        if path == "[vdso]":
            with open("/proc/self/mem", "rb", 0) as memory:
                memory.seek(start)
                return memory.read(end - start)
    return b""


def is_narrow(image):
    """Whether these bytes are a vdso of 32-bit programs."""
    return image[4:5] == b"\x01"


def vdso_bytes_used(image):
    """What of the vdso belongs to its ELF image. Nothing executes what follows in the last page; ferry's landing pads
    and its exit gadget lie there."""
    narrow = is_narrow(image)
    offset, = struct.unpack_from("<I" if narrow else "<Q", image, 0x20 if narrow else 0x28)
    size, count = struct.unpack_from("<HH", image, 0x2e if narrow else 0x3a)
    return offset + size * count


def changed_text(pid):
    """Executable pages of a process that differ from their file, or from the kernel's vdso."""
    problems = []
    try:
        memory = open(PROC / str(look(pid)) / "mem", "rb", 0)  # pylint: disable=consider-using-with
    except OSError:
        return problems
    with memory:
        for start, end, offset, path in executable_mappings(pid):
            if path == "[vdso]":
                memory.seek(start)
                wanted = old.vdso() if is_narrow(memory.read(16)) else own_vdso()
            elif path.startswith("/") and not path.endswith("(deleted)"):
                with open(f"/proc/{look(pid)}/map_files/{start:x}-{end:x}", "rb") as file:
                    file.seek(offset)
                    wanted = file.read(end - start).ljust(end - start, b"\0")
            else:
                continue
            memory.seek(start)
            found = memory.read(end - start)
            if path == "[vdso]":
                found, wanted = (image[:vdso_bytes_used(wanted)] for image in (found, wanted))
            for at in range(0, len(found), PAGE):
                if found[at:at + PAGE] != wanted[at:at + PAGE]:
                    problems.append(f"pid {pid}: page {start + at:x} of {path} differs from what it maps")
    return problems


def freezer_state(pid):
    """Problems with the freezers of the groups a process is in."""
    problems = []
    for line in (read_text(PROC / str(look(pid)) / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "freezer":
            state = read_text(f"/sys/fs/cgroup/freezer{path}/freezer.state")
            if state and state.strip() != "THAWED":
                problems.append(f"pid {pid}: its freezer is {state.strip()}")
        elif not controllers:
            for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                events = read_text(f"{base}{path}/cgroup.events")
                if events and "frozen 1" in events:
                    problems.append(f"pid {pid}: its group {path} is frozen")
    return problems


def tracer_inside(pid, members):
    """Whether another process of the tree traces this one, which may do with it what it likes."""
    return any(status(pid).get("TracerPid") in map(str, threads(member)) for member in members if member != pid)


def task_problems(pid, may_stop, members):
    """Tracers and stops of every thread of one process."""
    problems = []
    own = {str(tid) for member in members for tid in threads(member)}
    for tid in threads(pid):
        fields = status(pid, tid)
        state = fields.get("State", "?")[:1]
        if fields.get("TracerPid", "0") in own:
            continue
        if fields.get("TracerPid", "0") != "0":
            problems.append(f"thread {tid} of {pid} is traced by {fields['TracerPid']}")
        if state in "Tt" and pid not in may_stop:
            problems.append(f"thread {tid} of {pid} is in state {state}")
    return problems


class Leftovers:
    """Remembers what is there; check() says what came in addition and what is not as it should be."""

    def __init__(self, pid=None):
        self.tables = nft_tables()
        self.pids = all_pids()
        self.folders = [*WATCHED_FOLDERS, tempfile.gettempdir()]
        self.files = set().union(*(files_below(folder) for folder in self.folders))
        self.ipc = ipc_objects()
        self.stopped = {p for p in (tree(pid) if pid else []) if status(look(p)).get("State", "?")[:1] == "T"}

    def problems(self, pid=None, expected=(), locked=False):
        """pid: the tree that must be well. expected: folders whose files may be new (images, logs). locked: the network
        stays locked between a dump and its restore, so that nobody answers for a connection that is away."""
        found = []
        for table in sorted(nft_tables() - self.tables if not locked else ()):
            found.append(f"an nft table is left: {table}")
        members = set(tree(pid)) if pid else set()
        for member in sorted(members):
            found += task_problems(member, self.stopped, members) + freezer_state(member)
            found += [] if tracer_inside(member, members) else changed_text(member)
        strays = all_pids() - self.pids
        strays -= set(tree(pid)) if pid else set()  # looked at last: the tree may have forked meanwhile
        for stray in sorted(strays):
            command = (read_bytes(PROC / str(stray) / "cmdline") or b"").replace(b"\0", b" ").decode(errors="replace")
            if command and status(stray).get("State", "Z")[:1] != "Z":
                found.append(f"a process is left: {stray} {command}")
        # Programs make further ones while they run.
        objects = ipc_objects() - self.ipc
        objects -= attached(tree(pid) if pid else ())
        found += [f"{kind} {number} of System V IPC is left" for kind, number in sorted(objects)]
        known = [pathlib.Path(path) for path in expected]
        for name in sorted(set().union(*(files_below(folder) for folder in self.folders)) - self.files):
            path = pathlib.Path(name)
            if not any(path == k or k in path.parents for k in known):
                found.append(f"a file is left: {name}")
        return found

    def check(self, pid=None, expected=(), locked=False):
        """Raise with the list when anything is left."""
        found = self.problems(pid, expected, locked)
        assert not found, "left behind: " + "; ".join(found)
