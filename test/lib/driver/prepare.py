# SPDX-License-Identifier: Apache-2.0
"""What some tests need and cannot make in their own world, which has no network."""

import os
import subprocess
import time

from driver.model import Result

# Name -> (environment variable that replaces it, command below the source tree, where it goes below the build).
THINGS = {
    "criu-sid": ("FERRY_CRIU_SID", "scripts/criu-sid.sh", "criu-sid"),
}


def prepare(name, source, top):
    """Make one thing; the Result is named prepare/NAME."""
    variable, command, folder = THINGS[name]
    began = time.monotonic()
    if os.environ.get(variable):
        return Result(f"prepare/{name}", "passed", 0)
    print(f"preparing {top / folder}", flush=True)
    done = subprocess.run([str(source / command), str(top / folder)], stdin=subprocess.DEVNULL, text=True,
                          errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    outcome = "failed" if done.returncode else "passed"
    reason = f"{command} exits with {done.returncode}" if done.returncode else ""
    return Result(f"prepare/{name}", outcome, time.monotonic() - began, reason, done.stdout)


def prepare_all(tests, source, top):
    """Everything that these tests need."""
    names = sorted({name for test in tests for name in test.needs})
    return [prepare(name, source, top) for name in names]
