# SPDX-License-Identifier: Apache-2.0
"""CRIU's remote calls from the caller's side: a worker (criu swrk) at the other end of a socket, and as much of protobuf as its messages
need."""

import os
import socket
import subprocess

TYPES = {"dump": 1, "restore": 2, "check": 3, "pre-dump": 4, "page-server": 5, "notify": 6, "cpuinfo-dump": 7,
         "cpuinfo-check": 8, "feature-check": 9, "version": 10,
         "wait-pid": 11, "page-server-child": 12, "single-pre-dump": 13}

# Numbers of the fields that tests set.
OPTIONS = {
    "images_dir_fd": 1, "pid": 2, "leave_running": 3, "shell_job": 7, "log_level": 9, "log_file": 10,
    "ps": 11, "notify_scripts": 12, "root": 13, "parent_img": 14, "track_mem": 15, "work_dir_fd": 17, "cpu_cap": 20, "exec_cmd": 22,
    "rst_sibling": 26, "inherit_fd": 27, "external": 37, "config_file": 51, "display_stats": 70,
}
FEATURES = {"mem_track": 1, "lazy_pages": 2}


def varint(number):
    """Of seven bits a byte; a negative number has 64 bits."""
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    """One field: a number, a bool, text, or a message."""
    if isinstance(value, (bool, int)):
        return varint(number << 3) + varint(int(value))
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data):
    """{number: the last value}, numbers as they are, anything else as bytes."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        assert key & 7 in (0, 2), key
        if key & 7:
            size = number()
            found[key >> 3] = data[at:at + size]
            at += size
        else:
            found[key >> 3] = number()
    return found


class Caller:
    """Who asks over a connected socket."""

    def __init__(self, connection):
        self.socket = connection
        self.socket.settimeout(60)

    @classmethod
    def connect(cls, address):
        """To a service."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(address))
        return cls(connection)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Bytes of one message."""
        self.socket.send(data)

    def receive(self):
        """The fields of the next message; {} when nobody is there any more."""
        return fields(self.socket.recv(1 << 16))

    def ask(self, what, options=None, features=(), keep=False, refuse=None, pid=None):  # pylint: disable=too-many-arguments
        """(answer, [(stage, pid)]) of a request; refuse: the stage at which to say no; pid: of a process to wait for."""
        message = field(1, TYPES[what])
        if options is not None:
            message += field(2, b"".join(field(OPTIONS[name], one) for name, value in options.items()
                                           for one in (value if isinstance(value, list) else [value])))
        message += field(4, keep)
        if features:
            message += field(5, b"".join(field(FEATURES[name], True) for name in features))
        if pid is not None:
            message += field(6, pid)
        self.send(message)
        stages = []
        while True:
            answer = self.receive()
            if answer.get(1) != TYPES["notify"]:
                return answer, stages
            told = fields(answer[5])
            stages.append((told[1].decode(), told.get(2)))
            self.send(field(1, TYPES["notify"]) + field(3, stages[-1][0] != refuse))


class Worker(Caller):
    """criu swrk FD of an engine."""

    def __init__(self, engine):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(engine.command(engine.path, "swrk", theirs.fileno()),  # pylint: disable=consider-using-with
                                            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, text=True)
        super().__init__(ours)

    def end(self):
        """(exit status, what it printed)"""
        self.socket.close()
        out = self.process.communicate(timeout=30)[0]
        return self.process.returncode, out

    def __exit__(self, *_):
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def descriptor(path):
    """A directory, open."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
