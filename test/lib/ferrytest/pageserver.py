# SPDX-License-Identifier: Apache-2.0
"""Page servers, ferry's and CRIU's, to send pages to."""

import contextlib
import fcntl
import os
import pathlib
import subprocess

from ferrytest.engine import Criu
from ferrytest.network import free_port
from ferrytest.process import wait_until

BUILD = pathlib.Path(os.environ.get("FERRY_BUILD", "."))
SID = pathlib.Path(os.environ.get("FERRY_CRIU_SID") or BUILD / "criu-sid")
PIPE_MAX = pathlib.Path("/proc/sys/fs/pipe-max-size")
PIPE_BYTES = 64 << 20


@contextlib.contextmanager
def large_pipes():
    """CRIU gives what it has in a pipe only when it can make another one of that size. The setting is the machine's: the last of those
    who need it at the same time puts it back."""
    with open(BUILD / "check" / "large-pipes", "a+", encoding="ascii") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        before = PIPE_MAX.read_text(encoding="ascii")
        if int(before) < PIPE_BYTES:
            users.write(before)
            users.flush()
            PIPE_MAX.write_text(str(PIPE_BYTES), encoding="ascii")
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                users.seek(0)
                first = users.readline()
                if first:
                    PIPE_MAX.write_text(first, encoding="ascii")
                users.truncate(0)


class PageServer:
    """ferry page-server on loopback, with a port that it chose."""

    def __init__(self, folder, *more):
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            [os.environ["FERRY"], "page-server", "--listen", "127.0.0.1:0", "-D", str(folder), "--json", *more],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = self.process.stderr.readline()
        assert said.startswith("ferry: listening on 127.0.0.1:"), said
        self.port = said.rpartition(":")[2].strip()
        self.address = f"127.0.0.1:{self.port}"

    def end(self):
        """(exit status, standard output, standard error)"""
        out, said = self.process.communicate(timeout=20)
        return self.process.returncode, out, said


class CriuServer:
    """criu page-server on loopback."""

    def __init__(self, folder, *more):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True)
        self.port = str(free_port())
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            Criu(SID).command(SID / "usr/sbin/criu", "page-server", "--address", "127.0.0.1", "--port", self.port, "-D", folder, *more),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.address = f"127.0.0.1:{self.port}"
        wait_until(self.listens, "criu page-server does not listen")

    def listens(self):
        """Whether somebody listens there; looked at, not tried, since it takes one connection only."""
        lines = pathlib.Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        return any(line.split()[1].endswith(f":{int(self.port):04X}") and line.split()[3] == "0A" for line in lines)

    def end(self):
        """(exit status, standard output, nothing)"""
        out = self.process.communicate(timeout=20)[0]
        return self.process.returncode, out, ""


def take(connection, n):
    """So many bytes."""
    got = b""
    while len(got) < n:
        more = connection.recv(min(n - len(got), 1 << 20))
        assert more, "ferry ended"
        got += more
    return got
