# SPDX-License-Identifier: Apache-2.0
"""A program of 32 bits that takes no compiler."""

import functools
import pathlib
import re
import struct
import subprocess
import tempfile

from ferrytest.process import PROC, read_text, wait_until


def write_program(path):
    """An executable file of an i386 machine: it sleeps in pause(2) for ever."""
    code = b"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7"  # mov $29, %eax; int $0x80; jmp back
    base, size = 0x08048000, 52 + 32 + len(code)
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    header = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 4096)
    path.write_bytes(ident + header + segment + code)
    path.chmod(0o755)


def start_program(path):
    """The program running, asleep."""
    write_program(path)
    running = subprocess.Popen(  # pylint: disable=consider-using-with
        [path.resolve()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True)
    comm = PROC / str(running.pid) / "comm"
    wait_until(lambda: (read_text(comm) or "").strip() == path.name[:15], "it does not start")
    return running


@functools.lru_cache(maxsize=None)
def vdso():
    """The vdso of 32-bit programs, as this kernel gives it to a new one."""
    with tempfile.TemporaryDirectory() as folder:
        running = start_program(pathlib.Path(folder) / "vdso-of-32-bits")
        # The kernel maps it after it has named the process.
        found = wait_until(lambda: re.search(r"^(\w+)-(\w+) .*\[vdso\]$",
                                             read_text(PROC / str(running.pid) / "maps") or "", re.MULTILINE), "no vdso")
        start, end = (int(word, 16) for word in found.groups())
        with open(PROC / str(running.pid) / "mem", "rb", 0) as memory:
            memory.seek(start)
            found = memory.read(end - start)
        running.kill()
        running.wait()
    return found
