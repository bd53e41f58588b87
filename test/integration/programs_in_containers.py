#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, in containers of podman that serve clients outside over a bridge: twice in a row through the engine's
own checkpoint and restore, with the clients' connections, and with the same answers of the engine as with CRIU."""

import os
import pathlib
import subprocess

from ferrytest import main, wait_until
from ferrytest.containers.criu import Named
from ferrytest.containers.inside import MACHINE, Container
from ferrytest.containers.output import counter
from ferrytest.containers.podman import write_configuration
from ferrytest.containers.scenes import register
from ferrytest.engine import note_refusal
from ferrytest.process import children, tree
from ferrytest.redis import Server
from ferrytest.software.desktop import Desktop
from ferrytest.software.golang import Go
from ferrytest.software.java import Java
from ferrytest.software.mariadb import MariaDB
from ferrytest.software.nginx import Nginx
from ferrytest.software.node import Node
from ferrytest.software.postgresql import PostgreSQL
from ferrytest.software.systemd import PLACE, Systemd

FOLDER = pathlib.Path("containers").absolute()


def there_and_back(kind, make, *more):
    """It is proven before and after each way there and back; then what is proven once."""
    place = Container(Named(kind, FOLDER), FOLDER, *more)
    program = make(place)
    program.verify()
    for _ in range(2):
        program.pid = place.there_and_back(getattr(program, "helpers", ()))
        program.verify()
    program.finish()
    program.quit()
    return place.end()


class Engine:
    """podman in a container, and a container of its own in that, which counts: conmon, namespaces in namespaces, an overlay over the outer
    one's. CRIU 4.2 refuses the PID namespace ("Can't dump nested pid namespace")."""

    def __init__(self, place, network):
        self.place, self.folder = place, FOLDER / "inner"
        self.folder.mkdir()
        place.start(["sleep", "infinity"], self.folder / "log", self.folder, environment=write_configuration(self.folder, self.folder))
        assert place.ask("podman", "run", "--detach", "--name", "i", "--network", network, *MACHINE, *counter("0.1")), "it does not start"
        wait_until(lambda: len(self.counted()) > 3, "the inner container does not count")
        assert place.ask("podman", "exec", "i", "sh", "-c", "echo kept > /srv/kept; echo shared > /dev/shm/kept; echo done")
        self.pid = place.pid()

    def counted(self):
        """What podman has in the inner container's log."""
        return [int(line) for line in self.place.ask("podman", "logs", "i").splitlines()]

    def inner(self):
        """The first process of the inner container: the only one in the tree whose parent is conmon."""
        conmon = next(pid for pid in tree(self.pid) if pathlib.Path(f"/proc/{pid}/comm").read_text() == "conmon\n")
        return pathlib.Path("/proc", str(children(conmon)[0]))

    def verify(self):
        """It counts on and podman takes notice, and its files and namespaces are as they were."""
        before = len(self.counted())
        wait_until(lambda: len(self.counted()) > before + 5, "the inner container does not count on")
        now = self.counted()
        assert now == list(range(len(now))), now
        assert self.place.ask("podman", "ps", "--format", "{{.Names}} {{.Status}}").startswith("i Up ")
        inner = self.inner()
        assert (inner / "root/srv/kept").read_text() == "kept\n" and (inner / "root/dev/shm/kept").read_text() == "shared\n"
        assert pathlib.Path("/proc", str(self.pid), "root/srv/kept").exists() is False, "the inner root is the outer one's"
        assert (inner / "status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1] == "1"
        for name in ("pid", "mnt", "ipc", "uts", "net"):
            assert os.readlink(inner / "ns" / name) != os.readlink(f"/proc/{self.pid}/ns/{name}"), name

    def finish(self):
        """podman goes on to start, enter and end other containers."""
        ask = self.place.ask
        assert ask("podman", "run", "--detach", "--name", "j", "--network", "none", *MACHINE, "sleep", "1000")
        assert ask("podman", "exec", "j", "echo", "here").strip() == "here"
        assert ask("podman", "ps", "--format", "{{.Names}}").split() == ["i", "j"]
        assert ask("podman", "rm", "--force", "--time", "0", "j").strip() == "j"

    def quit(self):
        """With the outer container; runc knows its own by the instant at which they began, which nobody can set."""


def podman_inside_refused(kind):
    """An inner container on podman's bridge, whose devices are in the network namespace that the outer podman makes: refused by name
    before the freeze; both go on."""
    place = Container(Named(kind, FOLDER), FOLDER, "--privileged")
    engine = Engine(place, "podman")
    refused = place.podman.run("container", "checkpoint", "--keep", "c")
    log = place.podman.explain()
    assert refused.returncode and "the network device 'eth0' (veth) leads to the root's network namespace" in log, (refused, log)
    note_refusal(subprocess.CompletedProcess([], refused.returncode, "", log))
    engine.verify()
    assert place.ask("podman", "rm", "--force", "--time", "0", "i"), "the inner container does not end"
    return place.end()


SCENES = {
    "node": lambda kind: there_and_back(kind, Node),
    "java": lambda kind: there_and_back(kind, Java),
    "go": lambda kind: there_and_back(kind, Go),
    "redis": lambda kind: there_and_back(kind, lambda place: Server(place.address, place.start)),
}

# CRIU 4.2 stores no process of another user without CAP_SYS_RESOURCE ("Can't get rlimit 0: Operation not permitted"), nor an io_uring.
# With nginx's workers as root it does, and now and then all connections of clients that send meanwhile are reset. Of a desktop, and
# of systemd, it finds no name for a watch on the overlay ("fsnotify: Can't dump that handle").
OURS = {
    "nginx": lambda kind: there_and_back(kind, Nginx),
    "postgresql": lambda kind: there_and_back(kind, PostgreSQL),
    # podman's filter of system calls leaves it no io_uring.
    "mariadb": lambda kind: there_and_back(kind, MariaDB, "--security-opt", "seccomp=unconfined"),
    "systemd": lambda kind: there_and_back(kind, Systemd, *PLACE),
    "desktop": lambda kind: there_and_back(kind, lambda place: Desktop(place=place)),
    "podman_inside": lambda kind: there_and_back(kind, lambda place: Engine(place, "none"), "--privileged"),
    "podman_inside_refused": podman_inside_refused,
}

register(SCENES, OURS)

if __name__ == "__main__":
    main()
