#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attributes of tasks and threads that are refused: by name, and the program goes on."""

import json
import os
import pathlib
import signal
import struct
import subprocess

from ferrytest import Ferry, main, status, test, wait_until
from ferrytest.program import Program

REFUSED = 3  # exit status

IMAGES = pathlib.Path("images")

# Name of the test, what the message says, program and its arguments.
TABLE = [
    ("supervised", "asks a supervisor", "seccomp", "asking"),
    ("thread-files", "has a descriptor table of its own", "odd-threads", "files"),
    ("thread-folders", "share a working directory that is not the process's", "odd-threads", "folders"),
    ("segment", "has a segment register loaded", "odd-threads", "segment"),
    ("landlock", "is in a Landlock domain", "odd-threads", "landlock"),
    ("landlock-user", "is in a Landlock domain", "odd-threads", "landlock-user"),
    ("timer-clock", "measures the processor time of a thread", "timer-kinds", "own-clock"),
]


def refused(pid, text):
    """A dump of it is refused with these words and leaves nothing."""
    done = Ferry().run("dump", "-t", pid, "-D", IMAGES, "--json")
    assert done.returncode == REFUSED, f"exit status {done.returncode}: {done.stderr}"
    said = json.loads(done.stdout.splitlines()[0])
    assert said["error"] == "unsupported-task" and text in said["message"], said
    assert not IMAGES.exists(), "an images directory stayed"


def register(name, text, program, *arguments):
    """One test for each line of the table."""

    def run():
        running = Program(program, *arguments)
        refused(running.pid, text)
        running.verify()
        running.quit()

    test(name=name, timeout=60)(run)


def old_program(path):
    """An i386 program that sleeps in pause(2) for ever."""
    code = b"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7"  # mov $29, %eax; int $0x80; jmp back
    base, size = 0x08048000, 52 + 32 + len(code)
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    header = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 4096)
    path.write_bytes(ident + header + segment + code)
    path.chmod(0o755)
    return subprocess.Popen([path.resolve()], start_new_session=True)  # pylint: disable=consider-using-with


if os.environ.get("FERRY"):
    for line in TABLE:
        register(*line)


    @test(timeout=60)
    def program_of_32_bits():
        """It has other registers, another vdso, another layout of everything."""
        running = old_program(pathlib.Path("old-program"))
        comm = pathlib.Path(f"/proc/{running.pid}/comm")
        wait_until(lambda: comm.read_text(encoding="utf-8").strip() == "old-program", "it does not start")
        refused(running.pid, "is a 32-bit program")
        assert running.poll() is None, "it ended"
        running.kill()
        running.wait()


    @test(timeout=60)
    def stopped_under_seccomp():
        """It is left as it is: stopped."""
        program = Program("seccomp", "one")
        os.kill(program.pid, signal.SIGSTOP)
        wait_until(lambda: status(program.pid)["State"].startswith("T"), "it does not stop", 10)
        refused(program.pid, "is stopped, and runs under seccomp")
        assert status(program.pid)["State"].startswith("T"), status(program.pid)["State"]
        os.kill(program.pid, signal.SIGCONT)
        program.verify()
        program.quit()

if __name__ == "__main__":
    main()
