#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images of ferry restored by CRIU, images of CRIU restored by ferry. What counts for a kind is what CRIU does alone on
this machine: a program that CRIU cannot take there and back is no measure for the exchange.

The program's own proofs decide. The last line is "interop: ferry->criu A/B, criu->ferry C/D", above it the exceptions.
"""

import os
import pathlib
import subprocess

from ferrytest import Criu, Ferry, main, round_trip, test
from ferrytest.cases import CASES, start
from ferrytest.register import Skip

# Kinds where an exchange may fail, each with its cause: direction, case, cause.
EXCEPTIONS = []

SOURCE = pathlib.Path(os.environ["FERRY_SOURCE"])
SID = pathlib.Path(os.environ.get("FERRY_CRIU_SID") or pathlib.Path(os.environ["FERRY_BUILD"]) / "criu-sid")


def attempt(case, dumper, restorer):
    """None when the round trip holds, else why it does not."""
    program = None
    try:
        program, partner = start(case, more=False)
        round_trip(program, dumper, restorer, times=1, compare=False, **case.options)
        if partner:
            partner.finish()
        program.quit()
        return None
    except (AssertionError, OSError, Skip, subprocess.TimeoutExpired) as error:
        if program:
            program.kill()
        return " ".join(str(error).split())[:300]


def direction(name, cases, dumper, restorer):
    """How many of the cases hold; prints the others."""
    allowed = {case: cause for way, case, cause in EXCEPTIONS if way == name}
    good, unexpected = 0, []
    for case in cases:
        problem = attempt(case, dumper, restorer)
        if problem is None:
            good += 1
        elif case.name in allowed:
            print(f"{name} {case.name}: {allowed[case.name]} ({problem})")
        else:
            print(f"{name} {case.name}: {problem}")
            unexpected.append(case.name)
    return good, unexpected


def exchange():
    """Both directions over every kind that CRIU manages alone."""
    subprocess.run([str(SOURCE / "scripts" / "criu-sid.sh"), str(SID)], check=True)
    criu, ferry = Criu(SID), Ferry()
    criu.run("check")  # fills its cache of kernel features
    cases = []
    for case in CASES:
        problem = attempt(case, criu, criu)
        if problem is None:
            cases.append(case)
        else:
            print(f"criu alone {case.name}: {problem}")
    assert cases, "CRIU manages nothing on this machine"
    forth, bad_forth = direction("ferry->criu", cases, ferry, criu)
    back, bad_back = direction("criu->ferry", cases, criu, ferry)
    line = f"interop: ferry->criu {forth}/{len(cases)}, criu->ferry {back}/{len(cases)}"
    print(line, flush=True)
    assert not bad_forth and not bad_back, f"{line}; not expected: {', '.join(bad_forth + bad_back)}"


if os.environ.get("FERRY"):
    test(name="exchange", timeout=900, exclusive=True)(exchange)

if __name__ == "__main__":
    main()
