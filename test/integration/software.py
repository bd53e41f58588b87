#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, under load from outside. Twice in a row on this machine; redis-server and a python3 program with
a bit of everything also from machine to machine in new namespaces."""

import os
import pathlib
import sys
import tempfile

from ferrytest import Ferry, Program, nodes, round_trip, test, wait_until
from ferrytest.redis import Server
from ferrytest.software.desktop import Desktop
from ferrytest.software.gcc import Gcc
from ferrytest.software.gdb import Gdb, GdbRunning
from ferrytest.software.golang import Go
from ferrytest.software.java import Java
from ferrytest.software.mariadb import MariaDB
from ferrytest.software.nginx import Nginx
from ferrytest.software.node import Node
from ferrytest.software.postgresql import PostgreSQL
from ferrytest.software.shell import Shell
from ferrytest.software.tmux import Tmux
from ferrytest.worlds import in_new_world, leave_low_pids, worlds_main

MIXED = pathlib.Path(__file__).resolve().parent.parent / "programs/software/mixed.py"


def images_folder():
    """A new one."""
    return pathlib.Path(tempfile.mkdtemp(prefix="images-"))


def carry(source, target, pid, images, *words):
    """Dump on one node, move the address, restore on the other."""
    done = source.run(os.environ["FERRY"], "dump", "-t", pid, "-D", images, *words)
    assert done.returncode == 0, f"dump: {done.stderr}"
    for node, verb in ((source, "del"), (target, "add")):
        done = node.run("ip", "address", verb, f"{nodes.SERVICE}/24", "dev", "eth0")
        assert done.returncode == 0, done.stderr
    nodes.ip("neighbour", "flush", "all")
    done = target.run(os.environ["FERRY"], "restore", "-d", "-D", images, *words)
    assert done.returncode == 0, f"restore: {done.stderr}"


def python3_there(state, images):
    """In a new world: restore, prove, and once more from there."""
    program = Program.adopt(state)
    Ferry().restore(images, tcp_established=True)
    program.verify()
    round_trip(program, Ferry(), times=1, compare=False, tcp_established=True)
    program.quit()


def there_and_back(make):
    """Twice on this machine, while it works; then the proofs that are made once."""
    software = make()
    round_trip(software, Ferry(), compare=False, tcp_established=True)
    software.quit()


# Test, what makes the program.
SOFTWARE = [
    ("nginx", Nginx),
    ("node", Node),
    ("java", Java),
    ("go", Go),
    ("gcc", Gcc),
    ("tmux", Tmux),
    ("gdb", Gdb),
    ("gdb_running", GdbRunning),
    ("shell", Shell),
    ("postgresql", PostgreSQL),
    ("mariadb", MariaDB),
    ("desktop_tigervnc", lambda: Desktop("tigervnc")),
    ("desktop_tightvnc", lambda: Desktop("tightvnc")),
]


def register(name, make):
    """One test for each program."""
    test(name=name, timeout=300)(lambda: there_and_back(make))


if os.environ.get("FERRY"):
    for program_name, maker in SOFTWARE:
        register(program_name, maker)

    @test(timeout=120)
    def redis():
        """On one machine. It works all the time, so that what it holds is compared by its client."""
        server = Server()
        round_trip(server, Ferry(), compare=False, tcp_established=True)
        server.quit()

    @test(timeout=120, exclusive=True)
    def redis_in_new_namespaces():
        """From node to node and back; the client's connection goes through all of it."""
        a, b, _ = nodes.pair()
        a.next_pid(4000)
        assert a.run("ip", "address", "add", f"{nodes.SERVICE}/24", "dev", "eth0").returncode == 0
        server = Server(nodes.SERVICE, lambda words, log, folder: a.start("setsid", *words))
        server.verify()
        for source, target in ((a, b), (b, a)):
            here = source.named("redis*")[0]
            pid = next(there for outer, there in source.pids() if outer == here)
            server.pid = here
            carry(source, target, pid, images_folder(), "--tcp-established")
            wait_until(lambda: not source.named("redis*"), "redis is still on the old node", 5)
            server.verify()
            assert len(target.named("redis*")) == 1
        server.finish()

    @test(timeout=120)
    def python3():
        """On one machine, twice."""
        program = Program("mixed", interpreter=[sys.executable, str(MIXED)])
        round_trip(program, Ferry(), compare=False, tcp_established=True)
        program.quit()

    @test(timeout=120)
    def python3_in_new_namespaces():
        """Dumped here, restored there, dumped there, restored there."""
        leave_low_pids()
        program = Program("mixed", interpreter=[sys.executable, str(MIXED)])
        program.verify()
        pids, images = program.tree(), images_folder()
        Ferry().dump(program.pid, images, tcp_established=True)
        program.wait_gone(pids)
        in_new_world(python3_there, program.belongs(), images, seconds=90)

    @test(timeout=120)
    def python3_bites():
        """Its proofs notice a changed byte."""
        program = Program("mixed", interpreter=[sys.executable, str(MIXED)])
        program.verify()
        program.spoil()
        assert not program.ask("verify", "main")[0]
        program.kill()

if __name__ == "__main__":
    worlds_main(python3_there)
