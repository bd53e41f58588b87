#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Dump and restore of each test program, twice in a row. The state before and after is compared from outside, and the
program proves it from inside."""

import os

from ferrytest import Ferry, main, round_trip, test
from ferrytest.cases import CASES, start


def there_and_back(case):
    """Twice; then the proofs that use the state up."""
    program, partner = start(case)
    round_trip(program, Ferry(), **case.options)
    if partner:
        partner.finish()
    program.quit()


def register(case):
    """One test for each line of the table."""
    test(name=case.name, timeout=120)(lambda: there_and_back(case))


# Without ferry in the build there is nothing to go there and back with.
if os.environ.get("FERRY"):
    for line in CASES:
        register(line)

if __name__ == "__main__":
    main()
