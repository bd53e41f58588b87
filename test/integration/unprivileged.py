#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ordinary users: what ferry does for them under the name criu, and what podman says without asking it."""

import os
import pathlib
import shutil
import subprocess

from ferrytest import main, test, wait_until
from ferrytest.process import status

FOLDER = pathlib.Path("user").absolute()
USER = 65534
ORDINARY = ("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups")
ALLOWED = (*ORDINARY, "--inh-caps", "+checkpoint_restore", "--ambient-caps", "+checkpoint_restore")
# Counts into a file. The shell's number is that of what the test starts.
COUNTER = "i=0; while true; do echo $i; i=$((i + 1)); sleep 0.02; done"


def folder(name):
    """The user's, with ferry in it, which others may not reach where it was built."""
    place = FOLDER / name
    place.mkdir(parents=True)
    for path in (place, *place.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(0o755)
    shutil.copy(os.environ["FERRY"], place / "criu")
    shutil.copy(os.environ["FERRY"], place / "ferry")
    os.chown(place, USER, USER)
    return place


def run(who, *words, cwd=None):
    """A command of that user's."""
    return subprocess.run([*who, *map(str, words)], check=False, text=True, timeout=60, cwd=cwd, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start(place):
    """A counter of the user's."""
    with open(place / "out", "wb") as out:
        os.chown(place / "out", USER, USER)
        process = subprocess.Popen(  # pylint: disable=consider-using-with
            [*ORDINARY, "sh", "-c", COUNTER], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True,
            cwd=place)
    wait_until(lambda: len(numbers(place)) > 3, "it does not count")
    return process


def numbers(place):
    """What it counted."""
    return [int(line) for line in (place / "out").read_text().split("\n")[:-1]]


def goes_on(place):
    """It counts, and no number is missing."""
    n = len(numbers(place))
    wait_until(lambda: len(numbers(place)) > n + 3, "it does not count")
    assert numbers(place) == list(range(len(numbers(place))))


@test()
def with_one_right():
    """CAP_CHECKPOINT_RESTORE gives a restored process its number; all else is the user's own. CRIU 4.2 fails: it would drop from the
    bounding set, too."""
    place = folder("one")
    images = place / "images"
    process = start(place)
    for _ in range(2):
        shutil.rmtree(images, ignore_errors=True)
        assert run(ORDINARY, "mkdir", images).returncode == 0
        done = run(ALLOWED, place / "criu", "dump", "--unprivileged", "-t", process.pid, "-D", images, "-o", "dump.log")
        assert done.returncode == 0, (images / "dump.log").read_text()
        process.poll()
        done = run(ALLOWED, place / "criu", "restore", "--unprivileged", "-d", "-D", images, "-o", "restore.log")
        assert done.returncode == 0, (images / "restore.log").read_text()
        goes_on(place)
        seen = status(process.pid)
        assert set(seen["Uid"].split()) == {str(USER)} and int(seen["CapEff"], 16) == int(seen["CapAmb"], 16) == 0, seen
    os.kill(process.pid, 9)


@test()
def without():
    """Dumped without any right, and refused by name: the number, and what helps. In a namespace of its own it comes back."""
    place = folder("none")
    images = place / "images"
    process = start(place)
    assert run(ORDINARY, "mkdir", images).returncode == 0
    done = run(ORDINARY, place / "criu", "dump", "--unprivileged", "-t", process.pid, "-D", images, "-o", "dump.log")
    assert done.returncode == 0, (images / "dump.log").read_text()
    process.wait()
    done = run(ORDINARY, place / "criu", "restore", "--unprivileged", "-d", "-D", images, "-o", "restore.log")
    log = (images / "restore.log").read_text().splitlines()
    assert done.returncode == 1 and f"pid {process.pid} can be given to a process by CAP_CHECKPOINT_RESTORE alone" in log[-1], log[-3:]
    assert "setcap cap_checkpoint_restore+ep" in log[-2], log[-3:]
    assert numbers(place) == list(range(len(numbers(place))))


@test()
def podman_without_root():
    """podman refuses by itself, before it asks criu for anything."""
    place = folder("podman")
    for name in ("run", "home"):
        (place / name).mkdir(mode=0o700)
        os.chown(place / name, USER, USER)
    environment = ("env", f"HOME={place / 'home'}", f"XDG_RUNTIME_DIR={place / 'run'}", f"PATH={place}:/usr/sbin:/usr/bin:/sbin:/bin")
    for words, said in ((("checkpoint", "any"), "checkpointing a container requires root"),
                        (("restore", "any"), "restoring a container requires root")):
        done = run(ORDINARY, *environment, "podman", "container", *words, cwd=place)
        assert done.returncode and said in done.stdout, done


if __name__ == "__main__":
    main()
