# SPDX-License-Identifier: Apache-2.0
"""The tests of one file, and running one of them."""

import json
import sys
import traceback

TESTS = {}


class Skip(Exception):
    """The machine lacks what the test needs."""


def skip(reason):
    """End the test as skipped; test/skips.txt must agree."""
    raise Skip(reason)


def test(name=None, timeout=60, tier="check", exclusive=False, needs=()):
    """Register a function as a test. A tier of "soak" keeps it out of make check; an exclusive one runs alone. needs
    names what the driver has to prepare outside, where there is a network (test/lib/driver/prepare.py)."""

    def register(function):
        called = name or function.__name__
        if called in TESTS:
            raise ValueError(f"two tests are called {called}")
        TESTS[called] = (function, {"name": called, "timeout": timeout, "tier": tier, "exclusive": exclusive,
                                    "needs": list(needs)})
        return function

    return register


def run(name):
    """Run one test; returns its exit status."""
    try:
        TESTS[name][0]()
    except Skip as reason:
        print(f"SKIP: {reason}")
        return 77
    except AssertionError as error:
        traceback.print_exc(file=sys.stdout)
        print(f"{error}" or "an assertion does not hold")
        return 1
    return 0


def main():
    """--list prints the tests, one JSON object a line; a name runs that test."""
    if sys.argv[1:] == ["--list"]:
        for _, description in TESTS.values():
            print(json.dumps(description))
        sys.exit(0)
    if len(sys.argv) != 2 or sys.argv[1] not in TESTS:
        sys.exit(f"usage: {sys.argv[0]} --list | {' | '.join(TESTS)}")
    status = run(sys.argv[1])
    sys.stdout.flush()
    sys.exit(status)
