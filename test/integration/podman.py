#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Containers of podman, with ferry in CRIU's place: what its command line offers, with the same answers as with CRIU."""

import json
import pathlib
import subprocess
import tarfile

from ferrytest import main
from ferrytest.containers.client import Client, cut_off
from ferrytest.containers.criu import Named
from ferrytest.containers.output import counter, counts_on
from ferrytest.containers.podman import Podman
from ferrytest.containers.rootfs import add_program
from ferrytest.containers.scenes import register

FOLDER = pathlib.Path("containers").absolute()
COUNTER = counter("0.1")
ALONE = ("--network", "none")
LIMITS = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max")  # of either version


class Scene:
    """podman, and one container of the name c."""

    def __init__(self, kind):
        self.kind = kind
        self.podman = Podman(Named(kind, FOLDER), FOLDER)

    def start(self, *words, command=tuple(COUNTER), lines=3):
        """Run it until it printed something."""
        self.podman.start("c", command, *words)
        self.podman.wait_lines("c", lines)

    def save(self, *words):
        """Checkpoint it."""
        return self.podman.good("container", "checkpoint", *words, "c")

    def restore(self, *words, name="c"):
        """Bring it back."""
        return self.podman.good("container", "restore", *words, *([] if "--import" in words else [name]))

    def counts_on(self, name="c", more=3):
        """It prints further lines; none is missing in the whole output."""
        n = len(self.podman.lines(name))
        numbers = [int(line) for line in self.podman.wait_lines(name, n + more)]
        counts_on([], numbers)
        return numbers

    def state(self, name="c"):
        """What podman says of it, without times and numbers that differ anyway."""
        state = self.podman.inspect(name)["State"]
        return {key: state[key] for key in ("Status", "Running", "Paused", "Checkpointed", "Restored", "ExitCode") if key in state}

    def end(self):
        """Nothing of it stays; exit statuses of all that was run."""
        self.podman.end()
        return self.podman.said


def counts(kind, checkpoint=(), restore=(), run=ALONE):
    """A counter is stored, comes back and goes on; twice."""
    scene = Scene(kind)
    scene.start(*run)
    seen = []
    for _ in range(2):
        scene.save(*checkpoint)
        seen.append(scene.state())
        scene.restore(*restore)
        seen.append(scene.state())
        scene.counts_on()
    return scene.end(), seen


def leaves_running(kind):
    """It goes on beside its image."""
    scene = Scene(kind)
    scene.start(*ALONE)
    scene.save("--leave-running")
    assert scene.state()["Running"]
    scene.counts_on()
    return scene.end()


def statistics(kind):
    """--print-stats has all numbers."""
    scene = Scene(kind)
    scene.start(*ALONE)
    saved = json.loads(scene.save("--print-stats").stdout)
    restored = json.loads(scene.restore("--print-stats").stdout)
    of_criu = [said["container_statistics"][0]["criu_statistics"] for said in (saved, restored)]
    assert all(of_criu[0][word] for word in ("freezing_time", "frozen_time", "pages_scanned", "pages_written")), of_criu
    assert of_criu[1]["restore_time"] and of_criu[1]["pages_restored"], of_criu
    # One counts pages that it compared, another has none to compare.
    words = [sorted(said["container_statistics"][0]) for said in (saved, restored)]
    return scene.end(), words, sorted(of_criu[0])


def exported(kind, compression="none"):
    """A container leaves as a file, and comes back from it twice, the second time under another name."""
    scene = Scene(kind)
    scene.start(*ALONE, "--hostname", "one")
    archive = FOLDER / f"export-{kind}.tar"
    scene.save("--export", archive, "--compress", compression)
    before = [int(line) for line in scene.podman.lines("c")]
    if compression == "none":
        with tarfile.open(archive) as tar:
            names = tar.getnames()
        assert {"config.dump", "spec.dump", "ctr.log", "checkpoint/inventory.img"} <= set(names), names
    scene.podman.good("rm", "c")
    scene.restore("--import", archive)
    after = scene.counts_on()
    assert after[:len(before)] == before, (before, after)
    scene.restore("--import", archive, "--name", "d")
    clone = scene.counts_on("d")
    assert clone[:len(before)] == before, (before, clone)
    assert scene.podman.good("exec", "d", "hostname").stdout == "one\n"
    return scene.end()


def files(kind):
    """What was written into the container's own files, a volume and a tmpfs is there again; deleted files stay open."""
    script = ("echo own > /own; echo volume > /volume/file; echo memory > /memory/file; mkdir -p /dev/shm/x; echo shm > /dev/shm/x/file; "
              "exec 6<> /gone; rm /gone; echo secret >&6; " + COUNTER[2])
    scene = Scene(kind)
    volume = FOLDER / f"volume-{kind}"
    volume.mkdir()
    scene.start(*ALONE, "--volume", f"{volume}:/volume", "--tmpfs", "/memory:size=1m,mode=700", command=("/bin/sh", "-c", script))
    scene.save()
    scene.restore()
    scene.counts_on()
    shown = scene.podman.good("exec", "c", "cat", "/own", "/volume/file", "/memory/file", "/dev/shm/x/file", "/proc/1/fd/6").stdout
    assert shown.split() == ["own", "volume", "memory", "shm", "secret"], shown
    return scene.end(), scene.podman.run("container", "exists", "c").returncode


def locks(kind):
    """A lock is held again."""
    scene = Scene(kind)
    volume = FOLDER / f"volume-{kind}"
    volume.mkdir()
    add_program(volume, "flock")
    environment = ("--env", "LD_LIBRARY_PATH=/volume/lib/x86_64-linux-gnu:/volume/usr/lib/x86_64-linux-gnu")
    command = ("sh", "-c", "exec /volume/lib64/ld-linux-x86-64.so.2 $(ls /volume/usr/bin/flock /volume/bin/flock 2> /dev/null) "
               f"/volume/lock sh -c '{COUNTER[2]}'")
    scene.start(*ALONE, *environment, "--volume", f"{volume}:/volume", command=command)
    taken = ["flock", "--nonblock", volume / "lock", "true"]
    assert subprocess.run(taken, check=False).returncode == 1
    scene.save("--file-locks")
    assert subprocess.run(taken, check=False).returncode == 0
    scene.restore("--file-locks")
    scene.counts_on()
    assert subprocess.run(taken, check=False).returncode == 1
    return scene.end()


def connection(kind):
    """A connection from outside over podman's bridge goes on."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    scene = Scene(kind)
    scene.podman.good("network", "create", "--subnet", "10.99.77.0/24", "moving")
    scene.start("--network", "moving", "--ip", "10.99.77.5", lines=0,
                command=("nc", "-ll", "-p", "7000", "-e", "cat"))
    client = Client.of(("10.99.77.5", 7000))
    with cut_off("10.99.77.5"):
        scene.save("--tcp-established")
        scene.restore("--tcp-established")
    client.goes_on()
    client.end()
    return scene.end()


def before(kind):
    """Memory is stored while the container runs, and what was written since with the rest."""
    scene = Scene(kind)
    scene.start(*ALONE)
    scene.save("--pre-checkpoint")
    assert scene.state()["Running"]
    scene.counts_on()
    scene.save("--with-previous")
    scene.restore()
    scene.counts_on()
    return scene.end()


def sees_its_group(kind):
    """The limit that it has is the one that it finds in its /sys/fs/cgroup."""
    def looks():
        return scene.podman.good("exec", "c", "sh", "-c", f"cat {' '.join(LIMITS)} 2> /dev/null; true").stdout.split()

    scene = Scene(kind)
    scene.start(*ALONE, "--memory", "64m")
    before = looks()
    assert before == [str(64 << 20)], before
    for _ in range(2):
        scene.save()
        scene.restore()
        assert looks() == before, f"it finds {looks()}"
    return scene.end()


# After a restore by CRIU 4.2 a container sees the group of conmon, where the engine runs, instead of its own. Where it fails:
# no dirty tracking on this kernel, limits of another user's process without CAP_SYS_RESOURCE.
OURS = {
    "before": before,
    "sees_its_group": sees_its_group,
    "another_user": lambda kind: counts(kind, run=(*ALONE, "--user", "1000:1000")),
}

SCENES = {
    "counts": counts,
    "leaves_running": leaves_running,
    "statistics": statistics,
    "exported": exported,
    "exported_zstd": lambda kind: exported(kind, "zstd"),
    "files": files,
    "locks": locks,
    "connection": connection,
    "terminal": lambda kind: counts(kind, run=(*ALONE, "--tty")),
    "limited": lambda kind: counts(kind, run=(*ALONE, "--memory", "64m", "--pids-limit", "50", "--cpus", "1.5")),
    "host_network": lambda kind: counts(kind, run=("--network", "host")),
    "read_only": lambda kind: counts(kind, run=(*ALONE, "--read-only")),
}


register(SCENES, OURS)

if __name__ == "__main__":
    main()
