# SPDX-License-Identifier: Apache-2.0
"""A desktop on a VNC server with a viewer outside: XFCE's session and window manager, D-Bus, IBus with an engine and a
terminal, as one tree."""

import os
import pathlib
import re
import shutil
import sys
import time

from ferrytest.process import read_text, tree, wait_until
from ferrytest.software.base import Software, needed
from ferrytest.software.rfb import Viewer, different, hidden, save_png

ROOT = pathlib.Path(__file__).resolve().parents[3] / "programs/software/desktop.py"
DISPLAY, PORT = ":7", 5907
INSIDE, INSIDE_KEYS = ((300, 300), "ferry-terminal"), ((300, 570), "ferry-keys")  # a point of each terminal, and its title
CLOCK = (880, 0, 970, 27)  # where the panel shows the time
SERVERS = {
    "tigervnc": ("Xtigervnc", DISPLAY, "-nolock", "-SecurityTypes", "None", "-rfbport", str(PORT), "-geometry",
                 "1000x700", "-depth", "24", "-AlwaysShared"),
    "tightvnc": ("Xtightvnc", DISPLAY, "-nolock", "-rfbport", str(PORT), "-geometry", "1000x700", "-depth", "24",
                 "-fp", "/usr/share/fonts/X11/misc,/usr/share/fonts/X11/Type1"),
}
ENGINE, KEYS, TEXT = "m17n:t:latn-post", "e'", "é"  # of IBus: what it makes of keys
CHANGED = 0.02  # part of the pixels that may differ: the cursor blinks


class Desktop(Software):
    """The tree hangs below test/programs/software/desktop.py."""

    SECONDS = 60

    def __init__(self, server="tigervnc", place=None):
        super().__init__("desktop", place)
        needed("xfce4-session", "xfwm4", "xfce4-terminal", "dbus-daemon", "ibus-daemon", "xwininfo", "xprop")
        words = SERVERS[server]
        self.server = server
        self.x = ["env", f"DISPLAY={DISPLAY}", f"HOME={self.folder}", f"DBUS_SESSION_BUS_ADDRESS=unix:path={self.folder}/bus"]
        root = shutil.copy(ROOT, self.folder)
        self.start(sys.executable, root, self.folder, DISPLAY, needed(words[0]), *words[1:], private=["/tmp/.X11-unix"])
        wait_until(lambda: "ferry-terminal" in self.windows() and "ferry-keys" in self.windows(), f"no terminal: {self.log()}", 90)
        wait_until(self.pidfds, "no program of the desktop holds a pidfd", 60)
        self.viewer = Viewer(self.place.address, PORT)
        wait_until(self.typing_arrives, "typing does not reach the terminal", 60)
        wait_until(self.engine_is_on, "IBus has no engine", 60)
        self.composed = 0
        self.compose()
        self.type("PS1='$ '; export secret=inside; exec 8<> gone; rm gone; echo kept >&8; clear\n")
        self.settle()
        self.before, self.picture = self.windows(), self.take("start")
        self.round = 0

    def ask(self, *words):
        """An X client from outside, its output."""
        return self.place.ask(*self.x, *words)

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

    def engine_is_on(self):
        """Keys go through it from then on."""
        self.ask("ibus", "engine", ENGINE)
        return self.ask("ibus", "engine").strip() == ENGINE

    def compose(self):
        """Keys of which the engine makes one letter, into a terminal that may not have the focus at the first try."""
        def arrived():
            self.type(KEYS, INSIDE_KEYS)
            time.sleep(1)
            return len(read_text(self.folder / "keys") or "") > self.composed

        wait_until(arrived, "what is composed does not arrive", 30)
        text = read_text(self.folder / "keys")
        assert text == TEXT * len(text), f"the engine makes {text!r} of the keys"
        self.composed = len(text)

    def type(self, text, where=INSIDE):
        """Keys into a terminal, over the viewer's connection."""
        point, title = where

        def has_focus():
            self.viewer.click(*point)
            time.sleep(0.1)
            return title in self.ask("xprop", "-id", self.active(), "WM_NAME")

        wait_until(has_focus, f"{title} does not get the focus", 30)
        self.viewer.type(text)

    def active(self):
        """The window that has the focus."""
        found = re.search("0x[0-9a-f]+", self.ask("xprop", "-root", "_NET_ACTIVE_WINDOW"))
        return found[0] if found else "0x0"

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
        """The windows and the picture are as before; the terminal's shell goes on and keys reach it, a deleted file is
        open; IBus' engine goes on."""
        assert self.pidfds(), "the pidfds are gone"
        wait_until(lambda: self.windows() == self.before, f"the windows differ: {self.before!r}, now {self.windows()!r}", 15)
        self.round += 1
        picture = self.take(f"round{self.round}")
        part = different(self.picture, picture)
        assert part < CHANGED, f"{part:.1%} of the pixels differ"
        path = self.folder / f"typed{self.round}"
        self.type(f"exec > {path.name}; echo $secret typed {self.round}; cat /proc/$$/fd/8; exec > /dev/tty\n")
        try:
            wait_until(lambda: read_text(path) == f"inside typed {self.round}\nkept\n", "what is typed does not reach the file", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.what_typing_does()}") from None
        assert self.ask("ibus", "engine").strip() == ENGINE, "IBus has another engine"
        self.compose()
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
