# SPDX-License-Identifier: Apache-2.0
"""libcriu from outside: calls by name, each in a process of its own, and a criu that answers what it is told to."""

import ctypes
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

from ferrytest.criurpc import TYPES, field, fields


def answer(what, good=True, more=b""):
    """One answer to a request."""
    return field(1, TYPES.get(what, what)) + field(2, good) + more


def stage(name, pid=None):
    """A notification."""
    return answer("notify", True, field(5, field(1, name) + (field(2, pid) if pid else b"")))


def fake(told, answers):
    """What criu is for a library under test: notes every request, gives one answer after the other, and ends."""
    with socket.socket(fileno=int(sys.argv[2])) as connection, open(told, "a", encoding="ascii") as log:
        print(json.dumps({"words": sys.argv[1:2], "alone": os.getsid(0) == os.getpid()}), file=log, flush=True)
        for one in map(bytes.fromhex, answers):
            print(json.dumps(connection.recv(1 << 16).hex()), file=log, flush=True)
            if one:
                connection.send(one)


def make_fake(program, answers):
    """Such a criu; where it notes."""
    told = program.with_suffix(".told")
    told.write_text("", encoding="ascii")
    here = pathlib.Path(__file__).parent.parent
    program.write_text(f"#!{sys.executable} -S\nimport sys\nsys.path.insert(0, {str(here)!r})\nfrom ferrytest.libcriu import fake\n"
                       f"fake({str(told)!r}, {[one.hex() for one in answers]!r})\n", encoding="utf-8")
    program.chmod(0o755)
    return told


STAGE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
MORE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class Caller:
    """A process that uses a library."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path, use_errno=True)
        self.library.criu_notify_pid.argtypes = [ctypes.c_void_p]
        self.kept = []  # functions that C knows
        self.seen = []

    def word(self, value, name):
        """A parameter of a call, out of JSON."""
        if value == "STAGE":
            def told(action, notify):
                self.seen.append([action.decode(), self.library.criu_notify_pid(notify)])
                return -5 if action == b"bad" else 0
            self.kept.append(STAGE(told))
            return self.kept[-1]
        if name.endswith("dump_iters"):
            self.kept.append(MORE(lambda _: value.pop(0)))
            return self.kept[-1]
        if isinstance(value, list):
            features = (ctypes.c_bool * 8)(*value)
            self.kept.append(features)
            return features
        return value.encode() if isinstance(value, str) else value

    def call(self, name, *words):
        """[what it returns, errno]"""
        ctypes.set_errno(0)
        returned = getattr(self.library, name)(*[self.word(value, name) for value in words])
        # A function of no result leaves anything.
        void = "_set_" in name and not any(part in name for part in TEXTUAL)
        return [None if void else returned, ctypes.get_errno() if returned == -52 else 0]


TEXTUAL = ("parent_images", "log_file", "config_file", "set_root", "freeze_cgroup", "lsm_", "network_lock", "pre_dump_mode",
           "exec_cmd", "service_address", "service_binary", "page_server")


def calls_of(library, talks, folder):
    """For each series of calls, and what criu answers to it: (what they return, what was told and asked)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    notes, plan = [], []
    for number, (calls, answers) in enumerate(talks):
        program = folder / f"criu-{number}"
        notes.append(make_fake(program, answers))
        plan.append([["criu_init_opts"], ["criu_set_service_binary", str(program)], *calls])
    done = subprocess.run([sys.executable, __file__, str(library), json.dumps(plan)], text=True, cwd=folder, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100, check=False)
    assert done.returncode == 0, done
    returned = json.loads(done.stdout.splitlines()[-1])
    return [(one[0][2:], one[1:], [json.loads(line) for line in told.read_text(encoding="ascii").splitlines()])
            for one, told in zip(returned, notes)]


def options_of(told):
    """The fields of the options of the first request."""
    return fields(fields(bytes.fromhex(told[1]))[2])


def serve(library, plan):
    """One process for all: what each call returns, which stages were told, what stands in the features."""
    for calls in plan:
        caller = Caller(library)
        yield [caller.call(*one) for one in calls], caller.seen, [list(one) for one in caller.kept if not callable(one)]


if __name__ == "__main__":
    print(json.dumps(list(serve(sys.argv[1], json.loads(sys.argv[2])))))
