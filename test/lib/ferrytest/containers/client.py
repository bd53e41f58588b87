# SPDX-License-Identifier: Apache-2.0
"""A peer outside, who notices what becomes of its connection into a container."""

import contextlib
import socket
import subprocess
import threading
import time

from ferrytest.process import wait_until


@contextlib.contextmanager
def cut_off(address):
    """Nothing from here arrives there meanwhile. An engine gives a container its address before it starts criu: whatever came
    between would be told that nobody has this connection."""
    rules = ("add table ip away; add chain ip away out { type filter hook output priority 0; }; "
             f"add rule ip away out ip daddr {address} drop")
    subprocess.run(["nft", rules], check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete table ip away"], check=True)


class Client:
    """Somebody outside who asks a server in the container all the time."""

    def __init__(self, address, answer="%d"):
        self.socket = socket.create_connection(address, 20)
        self.socket.settimeout(30)
        self.answer = answer  # to a question of a number
        self.answers, self.longest, self.ends = 0, 0.0, False
        self.problem = None
        self.thread = threading.Thread(target=self.ask, daemon=True)
        self.thread.start()

    @classmethod
    def of(cls, address, **more):
        """One who is answered, as soon as somebody listens there."""
        found = []

        def connect():
            try:
                found.append(cls(address, **more))
            except OSError:
                return False
            return True

        wait_until(connect, f"nobody listens at {address}")
        found[0].goes_on()
        return found[0]

    def ask(self):
        """The thread's."""
        stream = self.socket.makefile("rb")
        try:
            while not self.ends:
                word, right = (text.replace("%d", str(self.answers)).encode() + b"\n" for text in ("%d", self.answer))
                began = time.monotonic()
                self.socket.sendall(word)
                answer = stream.readline()
                self.longest = max(self.longest, time.monotonic() - began)
                if answer != right:
                    self.problem = f"{word} is answered with {answer}"
                    return
                self.answers += 1
                time.sleep(0.005)
        except OSError as error:
            self.problem = error

    def goes_on(self):
        """It gets further answers, and each was right."""
        n = self.answers
        wait_until(lambda: self.problem or self.answers > n + 20, "no answers any more", 20)
        assert not self.problem, self.problem

    def end(self):
        """It stops asking."""
        self.ends = True
        self.thread.join()
        self.socket.close()
