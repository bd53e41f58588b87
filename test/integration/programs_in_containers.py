#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, in containers of podman that serve clients outside over a bridge: twice in a row through the engine's
own checkpoint and restore, with the clients' connections, and with the same answers of the engine as with CRIU."""

import pathlib

from ferrytest import main
from ferrytest.containers.criu import Named
from ferrytest.containers.inside import Container
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
}

register(SCENES, OURS)

if __name__ == "__main__":
    main()
