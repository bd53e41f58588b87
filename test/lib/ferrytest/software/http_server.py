# SPDX-License-Identifier: Apache-2.0
"""What the small servers in test/programs/software have in common: a map, a count of requests, something that ticks."""

import http.client
import pathlib

from ferrytest.process import wait_until
from ferrytest.software.base import Software

PROGRAMS = pathlib.Path(__file__).resolve().parents[3] / "programs/software"


class HttpServer(Software):
    """The class below says .PORT and starts it; then it calls ready()."""

    PORT = 0
    SECONDS = 60

    def ready(self):
        """Until it answers; the connection made here is the one of all questions."""
        self.client = wait_until(self.connect, f"{self.name} does not answer", 60)
        self.map, self.counted, self.ticks = self.ask("/map"), 0, 0

    def connect(self):
        """A client with a connection that stays; nothing while the server is not ready."""
        assert self.running(), f"{self.name} ended: {self.log()}"
        client = http.client.HTTPConnection(self.place.address, self.PORT, timeout=30)
        try:
            client.connect()
            return client
        except OSError:
            return None

    def ask(self, path):
        """The answer to one request over the one connection, which must not be made anew."""
        before = self.client.sock
        self.client.request("GET", path)
        answer = self.client.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, f"{path}: {answer.status} {text}"
        assert self.client.sock is before, "the server closed the connection"
        return text

    def verify(self):
        """The same map, every request counted once, and it ticks on."""
        assert self.ask("/map") == self.map, "the map differs"
        for _ in range(10):
            self.counted += 1
            assert int(self.ask("/count")) == self.counted, "a request was lost or counted twice"
        ticks = int(self.ask("/ticks"))
        assert ticks >= self.ticks, f"{ticks} ticks, there were {self.ticks}"
        wait_until(lambda: int(self.ask("/ticks")) > ticks + 3, "it ticks no more")
        self.ticks = ticks

    def quit(self):
        """By a signal."""
        self.client.close()
        self.stop(self.place.ending)
