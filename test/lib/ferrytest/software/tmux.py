# SPDX-License-Identifier: Apache-2.0
"""tmux with two windows: vim with changes that are not written, and a shell."""

import subprocess
import time

from ferrytest.process import wait_until
from ferrytest.software.base import Software, needed

LINES = 400


class Tmux(Software):
    """The server is the tree; each question is a client of its own from outside."""

    CONNECTED = False

    def __init__(self):
        super().__init__("tmux")
        self.tmux, vim, bash = needed("tmux", "vim", "bash")
        self.socket = self.folder / "socket"
        self.text = self.folder / "text"
        self.text.write_text("".join(f"line {n}\n" for n in range(LINES)))
        self.start(self.tmux, "-D", "-u", "-S", self.socket, "-f", "/dev/null",
                   environment={"TERM": "screen", "PS1": "$ ", "HISTFILE": "", "SHELL": bash, "LC_ALL": "C.UTF-8"})
        wait_until(self.socket.exists, "no server")
        self.ask("new-session", "-d", "-x", "100", "-y", "30", "-n", "editor", f"{vim} -u NONE -N -i NONE {self.text}")
        self.ask("new-window", "-n", "shell", f"{bash} --norc --noprofile -i")
        wait_until(lambda: "line 3" in self.shown("editor"), "vim shows nothing")
        self.keys("editor", ":set number", "Enter", "150G", "dd", "i", "typed before", "Escape")
        self.keys("shell", "echo $((40 + 2))", "Enter")
        wait_until(lambda: "typed before" in self.shown("editor") and "\n42\n" in self.shown("shell"), "no echo")
        self.before = self.settled()
        self.round = 0

    def ask(self, *words):
        """One command of a client."""
        done = subprocess.run([self.tmux, "-u", "-S", self.socket, *words], check=False, text=True, timeout=30,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, f"tmux {' '.join(words[:1])}: {done.stdout}"
        return done.stdout

    def shown(self, window):
        """The text on a window."""
        return self.ask("capture-pane", "-p", "-t", f":{window}")

    def keys(self, window, *keys):
        """Type into a window."""
        for key in keys:
            self.ask("send-keys", "-t", f":{window}", key)

    def screens(self):
        """What both show, and the windows' names, sizes and places."""
        layout = self.ask("list-panes", "-a", "-F", "#{window_name} #{window_layout} #{cursor_x} #{cursor_y} #{pane_pid}")
        return self.shown("editor"), self.shown("shell"), layout

    def settled(self):
        """The screens as soon as they stay the same."""
        last = None
        while last != (now := self.screens()):
            last = now
            time.sleep(0.3)
        return last

    def verify(self):
        """The screens are as they were; both windows take keys; undone again, the screens are as before."""
        wait_until(lambda: self.screens() == self.before, "the screens differ", 5)
        self.round += 1
        word = f"round{self.round}"
        self.keys("editor", "o", word, "Escape")
        wait_until(lambda: word in self.shown("editor"), "vim takes no keys")
        self.keys("editor", "u")
        wait_until(lambda: word not in self.shown("editor"), "vim undoes nothing")
        self.keys("shell", f"echo $((1000 + {self.round}))", "Enter")
        wait_until(lambda: f"\n{1000 + self.round}\n" in self.shown("shell"), "the shell takes no command")
        self.before = self.settled()

    def finish(self):
        """vim writes the file: everything typed is there, what was deleted is not."""
        self.keys("editor", ":wq", "Enter")
        wait_until(lambda: "typed before" in self.text.read_text(), "vim does not write")
        lines = self.text.read_text().splitlines()
        wanted = [f"line {n}" for n in range(LINES) if n != 149]
        wanted[149] = "typed before" + wanted[149]
        assert lines == wanted, "the file differs"
        self.ask("resize-window", "-t", ":shell", "-x", "70", "-y", "20")
        self.keys("shell", "stty size", "Enter")
        wait_until(lambda: "\n20 70\n" in self.shown("shell"), "the size does not reach the shell")

    def quit(self):
        """The server ends."""
        self.ask("kill-server")
        wait_until(lambda: not self.running(), "tmux does not end", self.SECONDS)
