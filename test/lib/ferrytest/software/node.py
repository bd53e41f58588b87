# SPDX-License-Identifier: Apache-2.0
"""node with a worker thread and a child process."""

import shutil

from ferrytest.software.base import needed
from ferrytest.software.http_server import PROGRAMS, HttpServer


class Node(HttpServer):
    """A server in JavaScript."""

    PORT = 8098

    def __init__(self, place=None):
        super().__init__("node", place)
        self.start(needed("node"), shutil.copy(PROGRAMS / "server.js", self.folder), self.place.address)
        self.ready()
        self.sum = 0

    def verify(self):
        """Its worker thread goes on adding, and its child still answers through the pipes."""
        super().verify()
        self.sum += 7
        assert int(self.ask("/worker")) == self.sum
        assert self.ask("/child") == "echo"
