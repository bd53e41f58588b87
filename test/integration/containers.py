#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry's own verbs for containers: listed, stored and brought back through their engines."""

import json
import os
import pathlib
import subprocess

from ferrytest import main, test, wait_until
from ferrytest.containers import groups
from ferrytest.containers.criu import Named
from ferrytest.containers.docker import Docker
from ferrytest.containers.output import counter, counts_on
from ferrytest.containers.podman import Podman
from ferrytest.containers.runc import Bundle, Runc

FOLDER = pathlib.Path("containers").absolute()
ALONE = ("--network", "none")
USAGE, REFUSED = 2, 3


def ferry(engine, *words, **more):
    """A command line, as the engine's user gives it."""
    environment = {**getattr(engine, "environment", engine.criu.environment), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run([os.environ["FERRY"], *map(str, words)], env=environment, check=False, timeout=60, text=True,
                          **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})


def good(engine, *words, **more):
    """One that must succeed; what it prints as JSON."""
    done = ferry(engine, *words, "--json", **more)
    assert done.returncode == 0, f"{words}: {done.returncode}: {done.stderr}"
    return json.loads(done.stdout) if done.stdout else None


def listed(engine, name):
    """What ferry ps says of one."""
    found = [one for one in good(engine, "ps", "--containers") if one["name"] == name]
    assert len(found) == 1, found
    return found[0]


def more_numbers(podman, name, more=3):
    """It prints further ones; none is missing."""
    n = len(podman.lines(name))
    numbers = [int(line) for line in podman.wait_lines(name, n + more)]
    counts_on([], numbers)
    return numbers


@test(timeout=120)
def podman():
    """Kept by podman; then in a directory, from which another podman could make it."""
    engine = Podman(Named("ferry", FOLDER), FOLDER)
    engine.start("count", counter("0.1"), *ALONE)
    engine.wait_lines("count", 3)
    seen = listed(engine, "count")
    assert seen["engine"] == "podman" and seen["state"] == "running" and seen["pid"] == engine.inspect("count")["State"]["Pid"], seen
    report = good(engine, "dump", "--container", "count")
    assert report["container"] == "count" and report["images_dir"] is None and report["total_ns"], report
    assert listed(engine, "count")["state"] == "saved"
    again = ferry(engine, "dump", "--container", "count")
    assert again.returncode == REFUSED and "saved" in again.stderr, again
    good(engine, "restore", "--container", "podman:count")
    more_numbers(engine, "count")
    images = FOLDER / "images"
    report = good(engine, "dump", "--container", seen["id"][:12], "-D", images)
    assert report["images_dir"] == str(images), report
    record = json.loads((images / "container.json").read_text())
    assert record["id"] == seen["id"] and record["engine"] == "podman", record
    before = [int(line) for line in engine.lines("count")]
    other = ferry(engine, "restore", "--container", "another", "-D", images)
    assert other.returncode == USAGE and "'count'" in other.stderr, other
    good(engine, "restore", "--container", "count", "-D", images)
    after = more_numbers(engine, "count")
    assert after[:len(before)] == before
    runs = ferry(engine, "restore", "--container", "count", "-D", images)
    assert runs.returncode == REFUSED and "runs" in runs.stderr, runs
    engine.end()


@test(timeout=120)
def docker():
    """Kept by Docker; then in a directory, with the container running on."""
    engine = Docker(Named("ferry", FOLDER), FOLDER)
    engine.environment = {**engine.criu.environment, "DOCKER_HOST": engine.socket}
    engine.start("count", counter("0.1"), *ALONE)
    engine.wait_lines("count", 3)
    assert listed(engine, "count")["engine"] == "docker"
    good(engine, "dump", "--container", "count")
    wait_until(lambda: listed(engine, "count")["state"] == "stopped", "it runs on")
    wait_until(lambda: ferry(engine, "restore", "--container", "count").returncode == 0, "it does not come back", 20)
    more_numbers(engine, "count")
    images = FOLDER / "images"
    good(engine, "dump", "--container", "count", "-D", images, "--leave-running")
    more_numbers(engine, "count")
    assert (images / "ferry/inventory.img").exists() or list(images.glob("**/inventory.img")), list(images.iterdir())
    refused = ferry(engine, "dump", "--container", "count", "--tcp-established")
    assert refused.returncode == USAGE and "runc.conf" in refused.stderr, refused
    engine.end()


@test(timeout=120)
def runc():
    """Into a directory and back, with the container's output where ferry's is."""
    engine = Runc(Named("ferry", FOLDER), "/run")
    engine.state = pathlib.Path("/run/runc")  # where runc has them by itself

    def change(config):
        config["linux"]["cgroupsPath"] = groups.own("runc")

    bundle = Bundle(FOLDER / "bundle", counter("0.1"), change)
    output = engine.start(bundle, "count")
    output.wait_lines(3)
    seen = listed(engine, "count")
    assert seen["engine"] == "runc" and seen["bundle"] == str(bundle.folder) and seen["pid"] == engine.pid("count"), seen
    nowhere = ferry(engine, "dump", "--container", "count")
    assert nowhere.returncode == USAGE and "--images-dir" in nowhere.stderr, nowhere
    images = FOLDER / "images"
    good(engine, "dump", "--container", "count", "-D", images)
    assert engine.status("count") is None

    def restore(stdio):
        done = ferry(engine, "restore", "--container", "count", "-D", images, **stdio)
        assert done.returncode == 0, f"it exits with {done.returncode}"

    again = engine.adopt(restore)
    again.wait_lines(3)
    counts_on(output.numbers(), again.numbers())
    engine.end("count")


if __name__ == "__main__":
    main()
