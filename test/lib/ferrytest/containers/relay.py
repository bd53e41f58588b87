# SPDX-License-Identifier: Apache-2.0
"""criu swrk with a third between, who writes down what an engine is told and keeps for itself.

relay.py CRIU FILE FD: for each request that fails FILE gets a line of JSON with the type of the request, the number and the text.
"""

import fcntl
import json
import os
import pathlib
import select
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
sys.dont_write_bytecode = True

from ferrytest.criurpc import OPTIONS, TYPES, fields  # noqa: E402  pylint: disable=wrong-import-position

SIZE = 1 << 20
HIGH = 500  # above the engine's descriptors


def fetch(message):
    """A request names directories by descriptors of whoever is at the other end, which should be the engine."""
    options = fields(fields(message).get(2, b""))
    for number in (options.get(OPTIONS[word]) for word in ("images_dir_fd", "work_dir_fd")):
        if number is not None:
            here = os.open(f"/proc/{os.getppid()}/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
            os.dup2(here, number)


def high(found):
    """A socket, with another number."""
    return socket.socket(fileno=fcntl.fcntl(found.detach(), fcntl.F_DUPFD_CLOEXEC, HIGH))


def note(path, message):
    """One answer, if it says that something failed."""
    told = fields(message)
    if told[1] != TYPES["notify"] and not told[2]:
        what = {number: word for word, number in TYPES.items()}[told[1]]
        with open(path, "a", encoding="utf-8") as file:
            print(json.dumps({"type": what, "errno": told.get(7), "message": told.get(9, b"").decode()}), file=file)


def main():
    criu, path, fd = sys.argv[1:]
    engine = high(socket.socket(fileno=int(fd)))
    ours, theirs = map(high, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    theirs.set_inheritable(True)
    # The engine's other descriptors are named in its requests.
    with subprocess.Popen([criu, "swrk", str(theirs.fileno())], close_fds=False) as process:
        theirs.close()
        other = {engine: ours, ours: engine}
        while True:
            for ready in select.select(list(other), [], [])[0]:
                message, descriptors, _, _ = socket.recv_fds(ready, SIZE, 8)
                if not message:
                    ours.close()
                    sys.exit(process.wait())
                if ready is ours:
                    note(path, message)
                else:
                    fetch(message)
                socket.send_fds(other[ready], [message], descriptors)
                for descriptor in descriptors:
                    socket.close(descriptor)


if __name__ == "__main__":
    main()
