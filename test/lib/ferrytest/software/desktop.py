# SPDX-License-Identifier: Apache-2.0
"""A desktop on a VNC server with a viewer outside: XFCE's session and window manager, D-Bus, IBus and a terminal, as
one tree."""

import os
import pathlib
import re
import subprocess
import sys
import time

from ferrytest.process import read_text, tree, wait_until
from ferrytest.software.base import Software, needed
from ferrytest.software.rfb import Viewer, different, hidden, save_png

ROOT = pathlib.Path(__file__).resolve().parents[3] / "programs/software/desktop.py"
DISPLAY, PORT = ":7", 5907
INSIDE = (300, 300)  # a point of the terminal
CLOCK = (880, 0, 970, 27)  # where the panel shows the time
SERVERS = {
    "tigervnc": ("Xtigervnc", DISPLAY, "-nolock", "-SecurityTypes", "None", "-localhost", "-rfbport", str(PORT), "-geometry",
                 "1000x700", "-depth", "24", "-AlwaysShared"),
    "tightvnc": ("Xtightvnc", DISPLAY, "-nolock", "-localhost", "-rfbport", str(PORT), "-geometry", "1000x700", "-depth", "24",
                 "-fp", "/usr/share/fonts/X11/misc,/usr/share/fonts/X11/Type1"),
}
CHANGED = 0.02  # part of the pixels that may differ: the cursor blinks


class Desktop(Software):
    """The tree hangs below test/programs/software/desktop.py."""

    SECONDS = 60

    def __init__(self, server="tigervnc"):
        super().__init__("desktop")
        needed("xfce4-session", "xfwm4", "xfce4-terminal", "dbus-daemon", "ibus-daemon", "xwininfo")
        words = SERVERS[server]
        self.server = server
        self.x = ["env", f"DISPLAY={DISPLAY}", f"HOME={self.folder}"]
        # The server's socket is private to this test's mount namespace.
        pathlib.Path("/tmp/.X11-unix").mkdir(mode=0o1777, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "ferry", "/tmp/.X11-unix"], check=True)
        self.start(sys.executable, ROOT, self.folder, DISPLAY, needed(words[0]), *words[1:])
        wait_until(lambda: "ferry-terminal" in self.windows(), f"no terminal: {self.log()}", 90)
        wait_until(self.pidfds, "no program of the desktop holds a pidfd", 60)
        self.viewer = Viewer(PORT)
        wait_until(self.typing_arrives, "typing does not reach the terminal", 60)
        self.type("PS1='$ '; export secret=inside; clear\n")
        self.settle()
        self.before, self.picture = self.windows(), self.take("start")
        self.round = 0

    def ask(self, *words):
        """An X client from outside, its output."""
        done = subprocess.run([*self.x, *words], check=False, text=True, timeout=30, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return done.stdout if done.returncode == 0 else ""

    def windows(self):
        """Titles and geometry of the windows that have both. Toolkits come and go with windows of a few pixels that
        nobody sees."""
        lines = self.ask("xwininfo", "-root", "-tree").splitlines()
        found = [re.search(r'"([^"]+)": \(.*\)\s+((\d+)x(\d+)\S+)\s+(\S+)$', line) for line in lines]
        return "\n".join(sorted(f"{m[1]} {m[2]} {m[5]}" for m in found if m and min(int(m[3]), int(m[4])) > 10))

    def settle(self):
        """Until the windows and the programs are the same for a while."""
        last, since = None, time.monotonic()
        while time.monotonic() - since < 3:
            now = self.windows(), self.comms()
            if now != last:
                last, since = now, time.monotonic()
            time.sleep(0.2)

    def take(self, name):
        """What the viewer sees, also as a picture: beside the test's results where $FERRY_PICTURES says so."""
        screen = hidden(self.viewer.screen(), self.viewer.width, CLOCK)
        folder = pathlib.Path(os.environ.get("FERRY_PICTURES") or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_png(folder / f"{self.server}-{name}.png", screen, self.viewer.width, self.viewer.height)
        return screen

    def typing_arrives(self):
        """A terminal that just opened may not have the focus, or no shell, yet."""
        self.type("\necho before > before\n")
        time.sleep(1)
        return (self.folder / "before").exists()

    def type(self, text):
        """Keys into the terminal, over the viewer's connection."""
        self.viewer.click(*INSIDE)
        time.sleep(0.1)
        self.viewer.type(text)

    def what_typing_does(self):
        """For the report of a failure: what there is, and whether typing once more does anything."""
        files = {path.name: read_text(path) for path in sorted(self.folder.glob("*typed*"))}
        self.take(f"round{self.round}-failed")
        self.type("\n")
        time.sleep(1)
        self.type(f"echo again > {self.round}typed-again\n")
        time.sleep(5)
        again = read_text(self.folder / f"{self.round}typed-again")
        self.take(f"round{self.round}-failed-again")
        return f"round {self.round}, files {files}, typed once more {again!r}, programs {self.comms()}, windows {self.windows()!r}"

    def pidfds(self):
        """Descriptors called anon_inode:[pidfd] or pidfs' names, in the whole tree."""
        found = []
        for pid in tree(self.pid):
            folder = f"/proc/{pid}/fd"
            try:
                links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
            except OSError:
                continue
            found += [pid for link in links if link in ("anon_inode:[pidfd]", "pidfd:[pidfd]") or link.startswith("pidfd:")]
        return found

    def verify(self):
        """The windows and the picture are as before; the terminal's shell goes on and keys reach it."""
        assert self.pidfds(), "the pidfds are gone"
        wait_until(lambda: self.windows() == self.before, f"the windows differ: {self.before!r}, now {self.windows()!r}", 15)
        self.round += 1
        picture = self.take(f"round{self.round}")
        part = different(self.picture, picture)
        assert part < CHANGED, f"{part:.1%} of the pixels differ"
        self.type(f"echo $secret typed {self.round} > typed{self.round}\n")
        path = self.folder / f"typed{self.round}"
        try:
            wait_until(lambda: read_text(path) == f"inside typed {self.round}\n", "what is typed does not reach the file", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.what_typing_does()}") from None
        self.type("clear\n")
        time.sleep(1)
        self.picture = self.take(f"round{self.round}-left")

    def finish(self):
        """A new window opens and closes."""
        self.type("xfce4-terminal --disable-server --title=ferry-second &\n")
        wait_until(lambda: "ferry-second" in self.windows(), "no new window opens", 60)

    def quit(self):
        """The root ends its children."""
        self.viewer.close()
        (self.folder / "end").touch()
        wait_until(lambda: not self.running(), "the desktop does not end", self.SECONDS)

    def comms(self):
        """The programs of the tree."""
        return [(read_text(f"/proc/{pid}/comm") or "").strip() for pid in tree(self.pid)]
