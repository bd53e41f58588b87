# SPDX-License-Identifier: Apache-2.0
"""The root of a desktop's tree for test/lib/ferrytest/software/desktop.py: whatever its programs leave behind becomes its
child, so that the desktop is one tree. Its folder is the desktop's home; the file "end" there ends it."""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36

folder, display, *server = sys.argv[1:]
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
home = pathlib.Path(folder)
os.environ.update(HOME=folder, XDG_RUNTIME_DIR=folder + "/run", DISPLAY=display, LC_ALL="C.UTF-8", SHELL="/bin/sh",
                  DBUS_SESSION_BUS_ADDRESS=f"unix:path={folder}/bus", GTK_IM_MODULE="ibus", XMODIFIERS="@im=ibus",
                  NO_AT_BRIDGE="1", SESSION_MANAGER="", ICEAUTHORITY=folder + "/ICEauthority")
del os.environ["SESSION_MANAGER"]
(home / "run").mkdir(mode=0o700)


def start(*words, **environment):
    """A program of the desktop."""
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, env={**os.environ, **environment})


def until(condition):
    """Wait for a server."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    sys.exit("a server of the desktop does not start")


start(*server)
until(lambda: pathlib.Path("/tmp/.X11-unix/X" + display[1:]).exists())
start("dbus-daemon", "--session", "--nofork", "--nopidfile", "--address", f"unix:path={folder}/bus")
until((home / "bus").exists)
start("ibus-daemon", "--xim", "--panel", "disable", "--replace", "--daemonize")
start("xfce4-session")
# What is not the input method's arrives before what is, so a command line is typed without one, and keys into a file with one.
start("xfce4-terminal", "--disable-server", "--geometry=80x20+40+60", "--title=ferry-terminal", "--hide-menubar",
      GTK_IM_MODULE="gtk-im-context-simple")
start("xfce4-terminal", "--disable-server", "--geometry=80x5+40+500", "--title=ferry-keys", "--hide-menubar",
      "-x", "sh", "-c", "stty -icanon; exec cat > keys")
while not (home / "end").exists():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        break
    time.sleep(0.02)
for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    if path.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
        os.kill(int(path.parent.name), signal.SIGKILL)
