# SPDX-License-Identifier: Apache-2.0
"""One round trip of each test program, between any two engines."""

import subprocess

from ferrytest.cases import CASES, start
from ferrytest.register import Skip
from ferrytest.roundtrip import round_trip


# Files of CRIU's format that have no records: what other programs write, and pages.
RAW = ("pages-", "tmpfs-dev-", "ifaddr-", "route-", "route6-", "rule-", "iptables-", "ip6tables-", "nftables-", "netns-ct-", "netns-exp-")


def begin(case, more=False):
    """A program, in a world without System V objects that one before it left, by being killed for instance."""
    subprocess.run(["ipcrm", "--all"], check=True)
    return start(case, more=more)


def attempt(case, dumper, restorer, more=False):
    """None when the round trip holds, else why it does not."""
    program = None
    try:
        program, partner = begin(case, more)
        round_trip(program, dumper, restorer, times=1, compare=False, **case.options)
        if partner:
            partner.finish()
        program.quit()
        return None
    except (AssertionError, OSError, Skip, subprocess.TimeoutExpired) as error:
        if program:
            program.kill()
        return " ".join(str(error).split())[:1500]


def parts(most):
    """(name, cases): the programs of an area, at most so many together."""
    for area in sorted({case.area for case in CASES}):
        cases = [case for case in CASES if case.area == area]
        for at in range(0, len(cases), most):
            yield f"{area}-{at // most + 1}", cases[at:at + most]
