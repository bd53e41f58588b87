# SPDX-License-Identifier: Apache-2.0
"""A Java virtual machine that collects garbage all the time."""

import subprocess

from ferrytest.software.base import needed
from ferrytest.software.http_server import PROGRAMS, HttpServer


class Java(HttpServer):
    """A server in Java."""

    PORT = 8097

    def __init__(self, place=None):
        super().__init__("java", place)
        java, javac = needed("java", "javac")
        done = subprocess.run([javac, "-d", self.folder, PROGRAMS / "Server.java"], check=False, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        self.start(java, "-Xmx96m", "-XX:+UseG1GC", "-cp", self.folder, "Server", self.place.address)
        self.ready()
        self.clock = 0

    def verify(self):
        """Its clock never goes back."""
        super().verify()
        clock = int(self.ask("/clock"))
        assert clock > self.clock, f"System.nanoTime() went from {self.clock} to {clock}"
        self.clock = clock
