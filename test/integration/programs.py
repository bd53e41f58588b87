#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The test programs and the view from outside, without any dump: each program holds its state, its proofs notice when
that state is changed, and two snapshots of an untouched program are equal."""

import time

from ferrytest import Leftovers, differences, main, snapshot, test
from ferrytest.cases import CASES, start


def holds(case):
    """Verified twice, looked at twice, finished."""
    program, partner = start(case)
    watch = Leftovers(program.pid)
    program.verify()
    before = snapshot(program.pid, program.volatile())
    time.sleep(0.05)
    after = snapshot(program.pid, program.volatile())
    found = differences(before, after)
    assert not found, "two snapshots of an untouched program differ: " + "; ".join(found[:12])
    watch.check(program.pid, expected=[program.folder])
    program.verify()
    program.finish()
    if partner:
        partner.finish()
    program.quit()


def proof_bites(case):
    """After spoil at least one role must say bad."""
    program, _ = start(case)
    program.verify()
    spoiled = program.spoil()
    assert spoiled, f"{case.name} cannot spoil anything"
    bad = [role for role in spoiled if not program.ask("verify", role)[0]]
    assert bad, f"{case.name}: {', '.join(spoiled)} spoiled their state and still say that all is well"
    program.kill()


def register(case):
    """Two tests for each line of the table."""
    test(name=case.name, timeout=90)(lambda: holds(case))
    test(name=case.name + "-bites", timeout=90)(lambda: proof_bites(case))


for line in CASES:
    register(line)

if __name__ == "__main__":
    main()
