#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Containers of LXC, with ferry in CRIU's place."""

import pathlib

from ferrytest import main, wait_until
from ferrytest.containers.criu import Named
from ferrytest.containers.lxc import Lxc
from ferrytest.containers.output import counts_on
from ferrytest.containers.scenes import register

FOLDER = pathlib.Path("containers").absolute()
SCRIPT = "i=0; while true; do echo $i >> /tmp/out; i=$(expr $i + 1); sleep 0.1; done\n"


class Scene:
    """A counter that writes into a file of its own."""

    def __init__(self, kind):
        self.lxc = Lxc(Named(kind, FOLDER), FOLDER)
        self.lxc.make("counter", SCRIPT)
        self.output = self.lxc.folder / "counter/rootfs/tmp/out"
        self.images = FOLDER / f"images-{kind}"
        self.lxc.start("counter")
        self.more()

    def numbers(self):
        """What it wrote."""
        return [int(line) for line in self.output.read_text().split("\n")[:-1]] if self.output.exists() else []

    def more(self):
        """It writes some more; none is missing."""
        n = len(self.numbers())
        wait_until(lambda: len(self.numbers()) > n + 3, "it does not count")
        counts_on([], self.numbers())


def counts(kind):
    """A counter is stored, comes back and goes on; twice."""
    scene = Scene(kind)
    for turn in "01":
        scene.lxc.good("checkpoint", "-n", "counter", "-s", "-D", f"{scene.images}-{turn}")
        wait_until(lambda: scene.lxc.state("counter") == "STOPPED", "it goes on")
        scene.lxc.good("checkpoint", "-n", "counter", "-r", "-d", "-D", f"{scene.images}-{turn}")
        wait_until(lambda: scene.lxc.state("counter") == "RUNNING", "it does not come back")
        scene.more()
    scene.lxc.end()
    return [said for said in scene.lxc.said if said[0] == "checkpoint"]


def leaves_running(kind):
    """Without -s it goes on."""
    scene = Scene(kind)
    scene.lxc.good("checkpoint", "-n", "counter", "-D", scene.images)
    assert scene.lxc.state("counter") == "RUNNING"
    scene.more()
    scene.lxc.end()
    return [said for said in scene.lxc.said if said[0] == "checkpoint"]


def chain(kind):
    """Memory is stored while the container runs, and what was written since with the rest."""
    scene = Scene(kind)
    scene.lxc.good("checkpoint", "-n", "counter", "-p", "-D", f"{scene.images}-0")
    assert scene.lxc.state("counter") == "RUNNING"
    scene.more()
    scene.lxc.good("checkpoint", "-n", "counter", "-s", "-D", f"{scene.images}-1", "--predump-dir", f"../{scene.images.name}-0")
    scene.lxc.good("checkpoint", "-n", "counter", "-r", "-d", "-D", f"{scene.images}-1")
    wait_until(lambda: scene.lxc.state("counter") == "RUNNING", "it does not come back")
    scene.more()
    scene.lxc.end()


OURS = {"chain": chain}  # where CRIU 4.2 fails: it has no dirty tracking on this kernel

SCENES = {"counts": counts, "leaves_running": leaves_running}


register(SCENES, OURS)

if __name__ == "__main__":
    main()
