#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images from a kernel with another vdso. Such an image is made of one from here: in the bytes of its vdso every instruction
becomes an illegal one, and the build id another, so nothing but entries that were led elsewhere can be called."""

import os
import pathlib
import re
import shutil
import struct

from ferrytest import Ferry, Program, main, test
from ferrytest.image import decode, encode, seal
from ferrytest.process import PROC

IMAGES = pathlib.Path("images")
PAGE, PRESENT, VDSO, EXECUTED, BAD = 4096, 4, 1 << 3, 4, "[image-unsupported]"


def maps(pid):
    """{name: [(start, end, rights)]} of what is no file, and of nameless memory."""
    found = {}
    for line in (PROC / str(pid) / "maps").read_text().splitlines():
        words = line.split(None, 5)
        start, end = (int(number, 16) for number in words[0].split("-"))
        found.setdefault(words[5] if len(words) > 5 else "", []).append((start, end, words[1]))
    return found


def vdso_of(pid):
    """Where the kernel has the vdso."""
    (found,) = maps(pid)["[vdso]"]
    return found


def offset_of(pid, address):
    """(file, offset) of a page in an image."""
    entries = decode(IMAGES / f"pagemap-{pid}.img")["entries"]
    at = 0
    for entry in entries[1:]:
        if not entry.get("in_parent") and (entry.get("flags", PRESENT) & PRESENT):
            start = int(str(entry["vaddr"]), 0)
            if start <= address < start + entry["nr_pages"] * PAGE:
                return IMAGES / f"pages-{entries[0]['pages_id']}.img", at + address - start
            at += entry["nr_pages"] * PAGE
    raise AssertionError(f"pid {pid} has no page at {address:#x} in the image")


def sections(code):
    """(type, flags, offset, bytes) of each section of an ELF image."""
    at, = struct.unpack_from("<Q", code, 0x28)
    size, count = struct.unpack_from("<HH", code, 0x3A)
    for number in range(count):
        kind, flags, _, offset, length = struct.unpack_from("<4xIQQQQ", code, at + number * size)
        yield kind, flags, offset, length


def make_foreign(pids, vdsos):
    """The image of tasks that were started by another kernel."""
    changed = set()
    for pid, (start, end, _) in zip(pids, vdsos):
        path, offset = offset_of(pid, start)
        pages = bytearray(path.read_bytes())
        code = pages[offset:offset + end - start]
        for kind, flags, at, length in sections(code):
            if kind == 1 and flags & EXECUTED:
                pages[offset + at:offset + at + length] = b"\x0f\x0b" * (length // 2) + b"\x90" * (length % 2)
            if kind == 7:
                pages[offset + at + length - 1] ^= 0xFF
        path.write_bytes(pages)
        changed.add(path.name)
    seal(IMAGES, changed)


def move(program, foreign):
    """Dump, make the image another kernel's, restore."""
    pids = program.tree()
    vdsos = [vdso_of(pid) for pid in pids]
    Ferry().dump(program.pid, IMAGES)
    program.wait_gone(pids)
    if foreign:
        make_foreign(pids, vdsos)
    Ferry().restore(IMAGES)
    shutil.rmtree(IMAGES)
    return pids, vdsos


def auxv(pid, wanted):
    """A value of the auxiliary vector."""
    data = (PROC / str(pid) / "auxv").read_bytes()
    return dict(struct.iter_unpack("<QQ", data))[wanted]


if os.environ.get("FERRY"):
    @test(timeout=120)
    def foreign():
        """Clocks go on through entries of the old vdso; the kernel's own lies elsewhere and is what debuggers find. Then a dump under
        this kernel, and one more from another, as often as one likes."""
        for name in ("vdso", "threads", "tree"):
            program = Program(name)
            for generation, other in enumerate((True, False, True)):
                pids, before = move(program, other)
                for pid, (start, end, _) in zip(pids, before):
                    now = vdso_of(pid)
                    assert (now[0] != start) == other, f"{name} {generation}: {now} was {start:#x}"
                    assert auxv(pid, 33) == now[0], f"{name} {generation}: the vector says {auxv(pid, 33):#x}, not {now[0]:#x}"
                    old = [rights for low, high, rights in maps(pid)[""] if low <= start and end <= high]
                    assert old == ["r-xp"] * other, f"{name} {generation}: the old one is {old}"
                program.verify()
            program.finish()
            program.quit()


    @test(timeout=60)
    def in_a_call():
        """A thread that stood in the middle of a call of it is named, and nothing is created."""
        program = Program("threads")
        pids = program.tree()
        vdsos = [vdso_of(pid) for pid in pids]
        Ferry().dump(program.pid, IMAGES)
        program.wait_gone(pids)
        make_foreign(pids, vdsos)
        shutil.copytree(IMAGES, "whole")
        path = IMAGES / f"core-{program.pid}.img"
        content = decode(path)
        content["entries"][0]["thread_info"]["gpregs"]["ip"] = vdsos[0][0] + 0x900
        encode(path, content)
        seal(IMAGES, {path.name})
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode and BAD in done.stderr, done.stderr
        assert re.search(rf"thread {program.pid} of pid {program.pid} was dumped in the middle of a call", done.stderr), done.stderr
        assert not any((PROC / str(pid)).exists() for pid in pids)
        Ferry().restore("whole")
        program.verify()
        program.quit()


if __name__ == "__main__":
    main()
