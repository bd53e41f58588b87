#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, in containers of podman that serve clients outside over a bridge: twice in a row through the engine's
own checkpoint and restore, with the clients' connections, and with the same answers of the engine as with CRIU."""

import pathlib

from ferrytest import main, wait_until
from ferrytest.containers.criu import Named
from ferrytest.containers.inside import MACHINE, Container
from ferrytest.containers.output import counter, counts_on
from ferrytest.containers.podman import write_configuration
from ferrytest.containers.scenes import register
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
        program.pid = place.there_and_back()
        program.verify()
    program.finish()
    program.quit()
    return place.end()


def podman_inside(kind):
    """A container in a container: the overlay of the inner one is mounted in the outer one, which is refused by name; both go on.
    CRIU 4.2 refuses the PID namespace ("Can't dump nested pid namespace")."""
    place = Container(Named(kind, FOLDER), FOLDER, "--privileged")
    folder = FOLDER / "inner"
    folder.mkdir()
    environment = write_configuration(folder, folder)
    place.start(["sleep", "infinity"], folder / "log", folder, environment=environment)
    inner = ("podman", "run", "--detach", "--name", "i", "--network", "host", *MACHINE, *counter("0.1"))
    assert place.ask(*inner), "the inner container does not start"

    def counted():
        return [int(line) for line in place.ask("podman", "logs", "i").splitlines()]

    wait_until(lambda: len(counted()) > 3, "the inner container does not count")
    refused = place.podman.run("container", "checkpoint", "--keep", "c")
    log = place.podman.explain()
    assert refused.returncode and "(overlay) is mounted for the tree alone and cannot be mounted again" in log, (refused, log)
    before = len(counted())
    wait_until(lambda: len(counted()) > before + 5, "the inner container does not count on")
    counts_on([], counted())
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
    "podman_inside": podman_inside,
}

register(SCENES, OURS)

if __name__ == "__main__":
    main()
