#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Containers of Docker, with ferry in CRIU's place: what its command line offers, with the same answers as with CRIU."""

import pathlib
import shutil
import time

from ferrytest import main, wait_until
from ferrytest.containers.criu import Named
from ferrytest.containers.docker import Docker
from ferrytest.containers.output import counter, counts_on
from ferrytest.containers.scenes import register

FOLDER = pathlib.Path("containers").absolute()
COUNTER = counter("0.1")
ALONE = ("--network", "none")


class Scene:
    """Docker, and one container of the name count."""

    def __init__(self, kind):
        self.docker = Docker(Named(kind, FOLDER), FOLDER)

    def start(self, *words, lines=3):
        """Run it until it printed something."""
        self.docker.start("count", COUNTER, *words)
        self.docker.wait_lines("count", lines)

    def save(self, *words, name="one"):
        """Checkpoint it."""
        done = self.docker.good("checkpoint", "create", *words, "count", name)
        if "--leave-running" not in words:
            wait_until(lambda: not self.state()["Running"], "it runs on")
        return done.stdout

    def restore(self, container="count", name="one"):
        """Bring it back. containerd takes the name of a checkpoint again only after a moment."""
        wait_until(lambda: self.docker.run("start", "--checkpoint", name, container).returncode == 0,
                   f"{container} does not start", 20)

    def state(self, name="count"):
        """What Docker says of it, without times and numbers that differ anyway."""
        state = self.docker.inspect(name)["State"]
        return {key: state[key] for key in ("Status", "Running", "Paused", "OOMKilled", "Dead", "ExitCode", "Error")}

    def counts_on(self, name="count", more=3):
        """It prints further lines; none is missing in the whole output."""
        n = len(self.docker.lines(name))
        numbers = [int(line) for line in self.docker.wait_lines(name, n + more)]
        counts_on([], numbers)
        return numbers

    def end(self):
        """Nothing of it stays."""
        self.docker.end()


def counts(kind, run=ALONE):
    """A counter is stored, comes back and goes on; twice."""
    scene = Scene(kind)
    scene.start(*run)
    seen = []
    for name in ("one", "two"):
        seen.append(scene.save(name=name))
        seen.append(scene.state())
        scene.restore(name=name)
        seen.append(scene.state())
        scene.counts_on()
    seen.append(scene.docker.good("checkpoint", "ls", "count").stdout)
    scene.end()
    return seen


def leaves_running(kind):
    """It goes on beside its image."""
    scene = Scene(kind)
    scene.start(*ALONE)
    scene.save("--leave-running")
    state = scene.state()
    assert state["Running"]
    scene.counts_on()
    scene.end()
    return state


def cloned(kind):
    """A second container, created and started from a copy of the first one's checkpoint: both go on. Times of each step."""
    scene = Scene(kind)
    scene.start(*ALONE)
    times = {}

    def timed(word, function):
        began = time.monotonic()
        result = function()
        times[word] = time.monotonic() - began
        return result

    timed("checkpoint", scene.save)
    last = int(scene.docker.lines("count")[-1])
    clone = timed("create", lambda: scene.docker.good("create", "--name", "clone", *ALONE, "busy:latest", *COUNTER)).stdout.strip()
    data = scene.docker.folder / "data/containers"
    first = scene.docker.inspect("count")["Id"]
    timed("copy", lambda: shutil.copytree(data / first / "checkpoints/one", data / clone / "checkpoints/one"))
    timed("restore", scene.restore)
    scene.restore("clone")
    scene.counts_on()
    numbers = [int(line) for line in scene.docker.wait_lines("clone", 3)]
    counts_on([], numbers)
    # The clone has printed nothing before: its first number is the next one.
    assert last - 1 <= numbers[0] <= last + 1, (last, numbers[:3])
    print("  ".join(f"{word} {seconds * 1000:.0f} ms" for word, seconds in times.items()))
    scene.end()
    return sorted(times)


SCENES = {
    "counts": counts,
    "leaves_running": leaves_running,
    "cloned": cloned,
    "bridge": lambda kind: counts(kind, ()),
    "limited": lambda kind: counts(kind, (*ALONE, "--memory", "64m", "--pids-limit", "50", "--cpus", "1.5")),
    "volume": lambda kind: counts(kind, (*ALONE, "--volume", "kept:/kept", "--tmpfs", "/memory", "--read-only")),
}


register(SCENES)

if __name__ == "__main__":
    main()
