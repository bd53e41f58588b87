#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sockets: what is refused, connections that go on beside a dump, the lock that waits for a restore, faults."""

import json
import os
import pathlib
import socket
import subprocess
import time

from ferrytest import Ferry, main, test
from ferrytest.cases.sockets import TcpClient
from ferrytest.leftovers import nft_tables
from ferrytest.program import Program

REFUSED = 3  # exit status
IMAGES = pathlib.Path("images")

# word of the program: identifier, part of the message, part of the hint
REFUSALS = {
    "unix-pending": ("in-flight", "with data, which no call reads before accept()", "accepted"),
    "unix-urgent": ("unsupported-fd", "out-of-band data waits", ""),
    "tcp-pending": ("unsupported-fd", "wait to be accepted", "accepted"),
    "tcp": ("tcp-established", "an established TCP connection", "--tcp-established"),
    "connecting": ("unsupported-fd", "still connecting", "connect() has ended"),
    "datagrams": ("unsupported-fd", "datagrams wait", "read"),
    "multipath": ("unsupported-fd", "Multipath TCP", "GODEBUG=multipathtcp=0"),
}


def said(done):
    """The error that a command printed as JSON, the hint included."""
    return json.loads(done.stdout.splitlines()[0])


def refuse(program, identifier, text, hint, *words):
    """A dump is refused so, leaves nothing, and takes nothing out of the socket."""
    done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--json", *words)
    assert done.returncode == REFUSED, f"exit status {done.returncode}: {done.stderr}"
    error = said(done)
    assert error["error"] == identifier, error
    assert text in error["message"], error
    assert hint in error.get("hint", ""), error
    assert f"pid {program.pid}" in error["message"], error
    assert not IMAGES.exists() or not list(IMAGES.iterdir()), "something of an image stayed"
    assert not nft_tables(), nft_tables()
    program.verify()


def register(word):
    """One test for each line of the table."""

    def run():
        program = Program("sockets-refused", word)
        refuse(program, *REFUSALS[word], *["--tcp-established"] * (word == "connecting"))
        program.quit()

    test(name=word, timeout=60)(run)


def connected(family=socket.AF_INET):
    """A program with a client outside of its tree."""
    client = TcpClient(family)
    program = Program("tcp-established", "4" if family == socket.AF_INET else "6", before_ready=client.connect)
    return program, client


if os.environ.get("FERRY"):
    for line in REFUSALS:
        register(line)


    @test(timeout=60)
    def outside():
        """The peer of a unix socket is the test."""
        accepted = []
        with socket.socket(socket.AF_UNIX) as listener:

            def accept(program):
                listener.bind(str(program.folder / "outside"))
                listener.listen()
                accepted.append(listener.accept()[0])

            program = Program("sockets-refused", "outside", before_ready=accept)
            refuse(program, "outside-peer", "outside of the tree", "both ends")
        accepted[0].close()
        program.quit()


    @test(timeout=60)
    def beside_a_dump():
        """A dump that lets the tree run lets its connections run, and holds no lock any more."""
        for family in (socket.AF_INET, socket.AF_INET6):
            program, client = connected(family)
            for _ in range(3):
                Ferry().dump(program.pid, IMAGES, leave_running=True, tcp_established=True, more=("--overwrite",))
                assert not nft_tables(), nft_tables()
                program.verify()
            client.finish()
            program.finish()
            program.quit()


    @test(timeout=60)
    def lock_waits():
        """Between dump and restore a lock keeps the connection quiet, so that nobody answers for it."""
        program, client = connected()
        Ferry().dump(program.pid, IMAGES, tcp_established=True)
        program.reap()
        tables = nft_tables()
        assert len(tables) == 1, tables
        # Without the lock the kernel would reset the connection at the first of these probes.
        for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 100)):
            client.socket.setsockopt(socket.IPPROTO_TCP, option, value)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        time.sleep(2.5)
        error = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert not error, os.strerror(error)
        Ferry().restore(IMAGES)
        assert not nft_tables(), nft_tables()
        program.verify()
        client.finish()
        program.finish()
        program.quit()


    @test(timeout=60)
    def taken_port():
        """A port that somebody else has by now: refused by its number, and possible again afterwards."""
        program = Program("tcp-listen")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        files = json.loads(subprocess.run([os.environ["FERRY"], "image", "decode", IMAGES / "files.img"], check=True,
                                          stdout=subprocess.PIPE, text=True).stdout)
        port = next(entry["isk"]["src_port"] for entry in files["entries"] if "isk" in entry)
        with socket.socket() as other:
            other.bind(("0.0.0.0", port))
            other.listen()
            done = Ferry().run("restore", "-D", IMAGES, "-d")
            assert done.returncode and "[address-taken]" in done.stderr and f":{port}" in done.stderr, done.stderr
            assert not pathlib.Path(f"/proc/{program.pid}").exists()
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=60)
    def taken_name():
        """A unix name that somebody else listens under by now is not taken away."""
        program = Program("unix-socket")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        path = program.folder / "socket-by-path"
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            done = Ferry().run("restore", "-D", IMAGES, "-d")
            assert done.returncode and "[address-taken]" in done.stderr and path.name in done.stderr, done.stderr
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=120)
    def faults():
        """Faults between the lock and the end of a dump: the connection goes on, nothing stays."""
        program, client = connected()
        words = [line.split("\t") for line in Ferry().run("debug", "faults").stdout.splitlines()]
        for word, stage, _ in words:
            if stage != "dump":
                continue
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--tcp-established",
                               environment={"FERRY_FAULT": word})
            assert done.returncode in (1, REFUSED), f"{word}: {done.returncode} {done.stderr}"
            assert not nft_tables(), f"{word}: {nft_tables()}"
            program.verify()
        client.finish()
        program.finish()
        program.quit()


    @test(timeout=120)
    def restore_faults():
        """Faults before the commit of a restore: nothing is lost, the next restore has everything."""
        program, client = connected()
        Ferry().dump(program.pid, IMAGES, tcp_established=True)
        program.reap()
        tables = nft_tables()
        words = [line.split("\t") for line in Ferry().run("debug", "faults").stdout.splitlines()]
        for word, stage, _ in words:
            if stage != "restore" or word == "image-read":
                continue
            done = Ferry().run("restore", "-D", IMAGES, "-d", environment={"FERRY_FAULT": word})
            assert done.returncode, f"{word}: no failure"
            assert nft_tables() == tables, f"{word}: {nft_tables()}"
        Ferry().restore(IMAGES)
        assert not nft_tables(), nft_tables()
        program.verify()
        client.finish()
        program.finish()
        program.quit()


if __name__ == "__main__":
    main()
