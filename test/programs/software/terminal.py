# SPDX-License-Identifier: Apache-2.0
"""Holds a pseudo terminal with a shell for test/lib/ferrytest/software/shell.py. What is appended to the file "input" of
its folder is typed; what the shell shows is appended to "output". No descriptor of either stays open."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

folder, *command = sys.argv[1:]
child, master = pty.fork()
if child == 0:
    os.execvp(command[0], command)
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 43, 132, 0, 0))
typed = 0
while True:
    with open(folder + "/input", "rb") as file:
        file.seek(typed)
        new = file.read(4096)
    if new:
        os.write(master, new)
        typed += len(new)
    if select.select([master], [], [], 0.01)[0]:
        try:
            shown = os.read(master, 65536)
        except OSError:
            break
        with open(folder + "/output", "ab") as file:
            file.write(shown)
    time.sleep(0.002)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
