#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images of ferry restored by CRIU, images of CRIU restored by ferry. What counts for a kind is what CRIU does alone on
this machine: a program that CRIU cannot take there and back is no measure for the exchange.

The program's own proofs decide. The last line is "interop: ferry->criu A/B, criu->ferry C/D", above it the exceptions.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile

from ferrytest import Criu, Ferry, main, round_trip, test
from ferrytest.cases import CASES, start
from ferrytest.register import Skip

# Kinds where an exchange may fail, each with its cause: direction, case, cause.
EXCEPTIONS = []

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


def files_of_criu(images):
    """Files of CRIU's format in an image. Pages are raw bytes, and ferry-* is our own."""
    return [path for path in sorted(images.glob("*.img")) if not path.name.startswith(("ferry-", "pages-"))]


def crit_decodes():
    """Every file of CRIU's format, from a dump of each program."""
    criu, ferry = Criu(SID), Ferry()
    problems, files_looked_at = [], 0
    for case in CASES:
        program, _ = start(case)
        images = pathlib.Path(tempfile.mkdtemp(prefix="images-"))
        ferry.dump(program.pid, images, leave_running=True, **case.options)
        files = files_of_criu(images)
        problems += [f"{case.name}: {problem}" for problem in criu.crit_decode(files)]
        files_looked_at += len(files)
        program.kill()
        shutil.rmtree(images)
    print(f"crit decodes {files_looked_at} files of {len(CASES)} images")
    assert files_looked_at > 10 * len(CASES)
    assert not problems, "; ".join(problems)


if os.environ.get("FERRY"):
    test(name="crit", timeout=600, needs=["criu-sid"])(crit_decodes)
    test(name="exchange", timeout=900, exclusive=True, needs=["criu-sid"])(exchange)

if __name__ == "__main__":
    main()
