# SPDX-License-Identifier: Apache-2.0
"""A command line client outside of the tree that is asked line by line, over one connection."""

import contextlib
import os
import selectors
import subprocess
import time

END = "ferry-end-of-answer"


class LineClient:
    """A program that reads statements and writes answers; mark: the statement that makes it write END on a line."""

    def __init__(self, words, mark, folder, environment=None, user=None):
        self.mark = mark
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=folder, env={**os.environ, **(environment or {})}, user=user)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = b""

    def read(self, seconds):
        """What there is within the time; nothing when it takes longer."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if selector.select(seconds):
                return os.read(self.process.stdout.fileno(), 65536)
        return None

    def ask(self, statement, seconds=30):
        """One statement, its answer without white space around."""
        self.process.stdin.write(f"{statement}\n{self.mark}\n".encode())
        self.process.stdin.flush()
        end = time.monotonic() + seconds
        while (END + "\n").encode() not in self.text:
            chunk = self.read(end - time.monotonic())
            assert chunk != b"", f"the client ended: {self.text.decode()}"
            assert chunk, f"no answer to {statement!r} within {seconds} s: {self.text.decode()}"
            self.text += chunk
        answer, _, self.text = self.text.partition((END + "\n").encode())
        return answer.decode().strip()

    def close(self):
        """End it."""
        with contextlib.suppress(BrokenPipeError):  # it ended by itself
            self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
