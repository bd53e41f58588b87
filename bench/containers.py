# SPDX-License-Identifier: Apache-2.0
"""Steps of bench/measure.py that go through a container engine: a counter is stored and brought back, and goes on from the right number."""

import pathlib

from ferrytest.containers import groups
from ferrytest.containers.criu import Named
from ferrytest.containers.output import counter, counts_on
from ferrytest.containers.podman import Podman
from ferrytest.containers.runc import Bundle, Runc
from ferrytest.process import wait_until
from timing import timed


def with_runc(engine, _words, images):
    """{metric: value}"""
    folder = pathlib.Path(images).absolute()
    runc = Runc(Named(engine.name, folder), folder)
    group = groups.own("bench")
    bundle = Bundle(folder / "bundle", counter("0.1"), lambda config: config["linux"].update(cgroupsPath=group))
    output = runc.start(bundle, "count")
    output.wait_lines(3)
    _, wall = timed(lambda: runc.checkpoint("count", folder / "image"))
    again, restore = timed(lambda: runc.restore(bundle, "count", folder / "image"))
    again.wait_lines(3)
    counts_on(output.numbers(), again.numbers())
    runc.end("count")
    return {"wall": wall, "restore": restore}


def with_podman(engine, _words, images):
    """{metric: value}"""
    folder = pathlib.Path(images).absolute()
    podman = Podman(Named(engine.name, folder), folder)
    podman.start("count", counter("0.1"), "--network", "none")
    podman.wait_lines("count", 3)
    _, wall = timed(lambda: podman.good("container", "checkpoint", "count"))
    before = len(podman.lines("count"))
    _, restore = timed(lambda: podman.good("container", "restore", "count"))
    wait_until(lambda: len(podman.lines("count")) > before + 3, "it does not count")
    counts_on([], [int(line) for line in podman.lines("count")])
    podman.end()
    return {"wall": wall, "restore": restore}


STEPS = {"runc": with_runc, "podman": with_podman}
