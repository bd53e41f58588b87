#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Descriptors that no dump takes, many in one program: ferry check names each of them, and a dump is refused for one. What
only shows when the tree stands has a program for itself."""

import json
import os

from ferrytest import Ferry, main, test
from ferrytest.program import Program

REFUSED = 3  # exit status

# Word of the program -> what the message says.
SEEN = {
    "bpf-map": "a BPF map for reading or writing alone",
    "btf": "it holds a BPF type information",
    "bpf-link": "it holds a BPF link",
    "mount-watch": "a fanotify group that watches a mount namespace",
    "hidden-watch": "it watches a mount that other mounts hide",
    "packet-fifo": "a named pipe in packet mode (O_DIRECT)",
    "pipe-path": "was opened with O_PATH",
    "memfd-path": "was opened with O_PATH",
    "of-thread": "is of a thread other than the first of its process",
    "pressure": "keeps the trigger that was written to it",
    "events": "gives each event once",
    "leased": "was deleted and has a lease, which reading it would break",
    "fanout": "a packet socket with a fanout program",
    "old-packets": "a packet socket with the type SOCK_PACKET",
    "sending-ring": "a ring of version 3 for sending",
    "xdp": "an XDP socket",
    "hung-up": "was hung up, and nothing tells which terminal it was",
    "terminal-path": "was opened with O_PATH",
    "console": "is a console or a serial line",
    "listener": "the listener of a seccomp filter",
    "faults": "the device that makes userfaultfds",
    "other-device": "a device that ferry does not dump",
}
# What this kernel need not have.
OPTIONAL = {
    "watch-queue": "is a pipe of notifications (watch_queue)",
    "crypto": "a socket of the kernel's crypto interface (AF_ALG)",
    "sctp": "an SCTP socket",
    "smc": "an SMC socket",
    "tipc": "a TIPC socket",
    "can": "a CAN socket",
    "bluetooth": "a Bluetooth socket",
    "key": "a key management socket (AF_KEY)",
    "multiplexor": "a kernel connection multiplexor",
    "upper": "another protocol in the kernel on top of it (TCP_ULP)",
    "authenticated": "a TCP socket with authentication (TCP_AO)",
    "line": "has another line discipline than a terminal's",
    "memory": "the machine's memory",
    "timer": "the high precision timer (hpet)",
    "vhost": "a virtual network card (vhost)",
    "clock": "the real time clock",
    "input": "an input device",
    "sound": "a sound device",
    "camera": "a camera",
    "graphics": "a graphics device",
    "frames": "a frame buffer",
    "other-socket": "a socket of protocol",
    "machine": "a virtual machine or one of its processors",
}
# What only shows when the tree stands.
STANDING = {
    "of-outside": "is of a process outside of the tree",
    "datagram-error": "datagrams that wait behind an error",
    "owned-by-thread": "alone (F_OWNER_TID)",
    "owned-thread": "a single thread (PIDFD_THREAD), with an owner for signals",
}


def made(program):
    """{word: number of the descriptor} of what it has."""
    lines = (program.folder / "made").read_text(encoding="ascii").splitlines()
    return {word: int(fd) for word, fd in (line.split() for line in lines)}


def refused(program):
    """What a dump says; it leaves nothing, and the program goes on."""
    done = Ferry().run("dump", "-t", program.pid, "-D", "images", "--json", "--timeout", "1")
    assert done.returncode == REFUSED, f"exit status {done.returncode}: {done.stderr}"
    assert not os.path.exists("images"), "an images directory stayed"
    program.verify()
    return json.loads(done.stdout.splitlines()[0])["message"]


if os.environ.get("FERRY"):
    @test(timeout=60)
    def all_at_once():
        """Every one of them is named, with its number."""
        texts = {**SEEN, **OPTIONAL}
        program = Program("obstacles", *texts)
        done = Ferry().run("check", "-t", program.pid, "--json")
        assert done.returncode == REFUSED, f"exit status {done.returncode}: {done.stderr}"
        said = [obstacle["message"] for obstacle in json.loads(done.stdout)["obstacles"]]
        numbers = made(program)
        print(f"not on this machine: {', '.join(sorted(set(texts) - set(numbers)))}")
        assert set(SEEN) <= set(numbers), f"not made: {set(SEEN) - set(numbers)}"
        silent = [word for word, fd in numbers.items()
                  if not any(f"fd {fd} of pid {program.pid} " in line and texts[word] in line for line in said)]
        assert not silent, f"nothing is said of {silent}: {said}"
        assert refused(program) in said
        program.kill()

    @test(timeout=60)
    def standing():
        """One after the other."""
        for word, text in STANDING.items():
            program = Program("obstacles", word)
            number = made(program)[word]
            message = refused(program)
            assert text in message and f"fd {number} of pid {program.pid} " in message, f"{word}: {message}"
            program.quit()


if __name__ == "__main__":
    main()
