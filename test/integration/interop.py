#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images of ferry restored by CRIU, images of CRIU restored by ferry. What counts for a kind is what CRIU does alone on
this machine: a program that CRIU cannot take there and back is no measure for the exchange.

The program's own proofs decide. Each test takes some programs and writes "interop-part: ferry->criu A/B, criu->ferry C/D",
which the driver sums up, above it the exceptions, and "criu-answer: CASE", tab, what CRIU does with it alone.
"""

import os
import pathlib
import re
import shutil
import tempfile

from ferrytest import Criu, Ferry, main, test
from ferrytest.exchange import RAW, attempt, begin, parts
from ferrytest.roundtrip import with_words

# Kinds where an exchange may fail, each with its cause: direction, case, cause.
EXCEPTIONS = [
    ("ferry->criu", "link-other", "ferry finds a file that lost its name by its handle, for which CRIU has no field; CRIU's "
     "own dump leaves links in the file system"),
    ("ferry->criu", "container-files", "the same, in a root of its own"),
]

PART = 12  # programs of one test

SID = pathlib.Path(os.environ.get("FERRY_CRIU_SID") or pathlib.Path(os.environ["FERRY_BUILD"]) / "criu-sid")


def in_short(problem):
    """Of what CRIU says, its first error that is one, without time and place."""
    errors = re.findall(r"Error \([^)]*\): (.*?)(?= \(\d\d\.\d{6}\)|$)", problem)
    errors = [error for error in errors if "RLIMIT_NOFILE" not in error]
    said = errors[0] if errors else problem
    for path, name in ((os.environ["FERRY_PROGRAMS"], "PROGRAMS"), (os.environ["FERRY_BUILD"], "BUILD")):
        said = said.replace(path, name)
    return re.sub(r"/tmp/ferry-test-\w+", "FOLDER", said)


def alone(case):
    """What CRIU does with a program: "yes", "in part" (without what only ferry keeps), or "no" and why."""
    criu = Criu(SID, words=case.criu)
    problem = attempt(case, criu, criu, more=True)
    answer = "yes" if problem is None else "no: " + in_short(problem)
    if problem is not None and attempt(case, criu, criu) is None:
        answer = "in part: " + in_short(problem)
    print(f"criu-answer: {case.name}\t{answer}", flush=True)
    return answer


def direction(name, cases, to_ferry):
    """How many of the cases hold; prints the others."""
    allowed = {case: cause for way, case, cause in EXCEPTIONS if way == name}
    good, unexpected = 0, []
    for case in cases:
        criu, ferry = Criu(SID, words=case.criu), Ferry()
        problem = attempt(case, *((criu, ferry) if to_ferry else (ferry, criu)))
        if problem is None:
            good += 1
        elif case.name in allowed:
            print(f"{name} {case.name}: {allowed[case.name]} ({problem})")
        else:
            print(f"{name} {case.name}: {problem[:400]}")
            unexpected.append(case.name)
    return good, unexpected


def exchange(cases):
    """Both directions over every program that CRIU manages alone."""
    Criu(SID).run("check")  # fills its cache of kernel features
    common = [case for case in cases if not alone(case).startswith("no")]
    forth, bad_forth = direction("ferry->criu", common, False)
    back, bad_back = direction("criu->ferry", common, True)
    line = f"interop-part: ferry->criu {forth}/{len(common)}, criu->ferry {back}/{len(common)}"
    print(line, flush=True)
    assert not bad_forth and not bad_back, f"{line}; not expected: {', '.join(bad_forth + bad_back)}"


def register(name, cases):
    """The two tests of some programs."""
    test(name="exchange-" + name, timeout=900, needs=["criu-sid"])(lambda: exchange(cases))
    test(name="crit-" + name, timeout=300, needs=["criu-sid"])(lambda: crit_decodes(cases))


def files_of_criu(images):
    """Files of CRIU's format in an image that have records; ferry-* is our own."""
    return [path for path in sorted(images.glob("*.img")) if not path.name.startswith(("ferry-", *RAW))]


def crit_decodes(cases):
    """Every file of CRIU's format, from a dump of each program."""
    criu, ferry = Criu(SID), Ferry()
    problems, files_looked_at = [], 0
    for case in cases:
        program, _ = begin(case, True)
        images = pathlib.Path(tempfile.mkdtemp(prefix="images-"))
        ferry.dump(program.pid, images, leave_running=True, **with_words(program, "dump", case.options))
        files = files_of_criu(images)
        problems += [f"{case.name}: {problem}" for problem in criu.crit_decode(files)]
        files_looked_at += len(files)
        program.kill()
        shutil.rmtree(images)
    print(f"crit decodes {files_looked_at} files of {len(cases)} images")
    assert files_looked_at > 10 * len(cases)
    assert not problems, "; ".join(problems)


if os.environ.get("FERRY"):
    for part_name, part in parts(PART):
        register(part_name, part)

if __name__ == "__main__":
    main()
