#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Containers of Debian unstable's crun, which loads libcriu.so.2: ferry's library and ferry, with the same exit statuses as CRIU's both."""

import os
import pathlib
import subprocess

from ferrytest import main, test
from ferrytest.containers import groups
from ferrytest.containers.criu import LIBRARIES, SID, Named
from ferrytest.containers.output import counter, counts_on
from ferrytest.containers.runc import Bundle, Runc

FOLDER = pathlib.Path("containers").absolute()
LIBRARY = pathlib.Path(os.environ["FERRY_BUILD"]) / "src/compat/libcriu"

UNIFIED = groups.TOP / "unified"

SCRIPT = """#!/bin/sh
exec {sid}/{libraries}/ld-linux-x86-64.so.2 --argv0 crun --library-path {first}{sid}/{libraries} {sid}/usr/bin/crun "$@"
"""


def crun_of(kind):
    """crun, with the library of one of them."""
    criu = Named(kind, FOLDER)
    program = criu.folder / "crun"
    first = f"{LIBRARY}:" if kind == "ferry" else ""
    program.write_text(SCRIPT.format(sid=SID.absolute(), libraries=LIBRARIES, first=first), encoding="ascii")
    program.chmod(0o755)
    return Runc(criu, FOLDER, runtime=str(program))


def counts(kind):
    """A counter is stored, goes on beside its image or ends, comes back and goes on; twice. What is missing is refused."""
    name = f"crun-{kind}"
    crun, group = crun_of(kind), groups.own(name)

    def change(config):
        config["linux"]["cgroupsPath"] = group
        # It refuses to bring masked folders back under another --root, with CRIU as well.
        config["linux"]["maskedPaths"] = []
        config["linux"].pop("resources", None)
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "network"]

    # It refuses to work with hierarchies of both versions, and makes files where the second one would be.
    if UNIFIED.is_dir():
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", UNIFIED], check=True)
    bundle = Bundle(FOLDER / f"bundle-{kind}", counter("0.1"), change)
    output = crun.start(bundle, name)
    output.wait_lines(3)
    images = [FOLDER / f"images-{kind}-{turn}" for turn in "012"]
    crun.checkpoint(name, images[0], "--leave-running")
    output.wait_lines(len(output.lines()) + 3)
    numbers = []
    for turn in (1, 2):
        crun.checkpoint(name, images[turn])
        assert crun.status(name) is None
        numbers += output.numbers()
        output = crun.restore(bundle, name, images[turn])
        output.wait_lines(3)
        counts_on(numbers, output.numbers())
        assert crun.status(name)["status"] == "running"
    done = crun.run("checkpoint", "--image-path", FOLDER / "none/such", name)
    assert done.returncode, done
    output.wait_lines(len(output.lines()) + 2)
    crun.end(name)
    # What a restore made in the second hierarchy crun did not see.
    subprocess.run(["umount", UNIFIED], check=False, stderr=subprocess.DEVNULL)
    for place in groups.places(group):
        assert UNIFIED in place.parents, place
    groups.remove(group)
    left = groups.places(group)
    assert not left, left
    return crun.said


@test(timeout=120, needs=["criu-sid"])
def counter_there_and_back():
    """crun checkpoint and restore by libcriu."""
    assert counts("ferry") == counts("criu")


if __name__ == "__main__":
    main()
