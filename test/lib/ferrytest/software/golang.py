# SPDX-License-Identifier: Apache-2.0
"""A server in Go."""

import os
import subprocess

from ferrytest.software.base import needed
from ferrytest.software.http_server import PROGRAMS, HttpServer


class Go(HttpServer):
    """Five hundred goroutines on stacks of two KiB."""

    PORT = 8096

    def __init__(self, place=None):
        super().__init__("go", place)
        environment = {**os.environ, "GOCACHE": str(self.folder / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off",
                       "HOME": str(self.folder)}
        done = subprocess.run([needed("go"), "build", "-o", self.folder / "server", PROGRAMS / "server.go"], check=False,
                              text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=environment)
        assert done.returncode == 0, done.stdout
        self.start(self.folder / "server", self.place.address)
        self.ready()
