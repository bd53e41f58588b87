#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""libferry-inject with its tracer killed in large numbers; the small numbers are test/inject/test_kill.c by itself."""

import os
import pathlib
import subprocess

from ferrytest import main, test

FOLDER = pathlib.Path(os.environ.get("FERRY_BUILD", "build")) / "test" / "inject"
KILLS = 3000
DEATHS = 800  # of which each sort of process gets a sixteenth


@test(name="kill-3000", timeout=3600, tier="soak")
def kill_often():
    """Random kills, and one at every call that changes the target."""
    environment = {**os.environ, "INJECT_KILLS": str(KILLS)}
    subprocess.run([str(FOLDER / "test-inject-kill"), str(FOLDER / "inject-target")], check=True, env=environment)


@test(name="deaths-800", timeout=3600, tier="soak")
def die_in_blobs():
    """The tracer dies while a function runs in processes that do all sorts of things with signals."""
    environment = {**os.environ, "INJECT_KILLS": str(DEATHS)}
    subprocess.run([str(FOLDER / "test-inject-catch"), str(FOLDER / "inject-target")], check=True, env=environment)


if __name__ == "__main__":
    main()
