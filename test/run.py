#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The test driver behind make check, soak, lint and fuzz.

It builds (a build that fails is a failed test), finds the tests, runs each in a world of its own (test/lib/nsinit.c),
several at a time, and writes build/check/results.tsv. The last line of its output is "N passed, N failed, N skipped".
"""

import argparse
import os
import pathlib
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "test" / "lib"))
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
from driver import builds, discover, prepare, report, runner  # noqa: E402

TIERS = {"check": {"check"}, "soak": {"check", "soak"}}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("mode", choices=["check", "soak", "lint", "fuzz"])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--filter", default="", help="a name, a part of one, or a glob pattern")
    parser.add_argument("--fuzz-seconds", type=int, default=2, help="how long each fuzz target runs")
    parser.add_argument("--plain-only", action="store_true", help="leave the builds with sanitizers and clang out")
    parser.add_argument("--list", action="store_true", help="print the names and run nothing")
    parser.add_argument("--results", type=pathlib.Path, help="where results.tsv goes (default BUILD/check/)")
    return parser.parse_args()


def wanted_builds(options):
    """The build directories this mode needs, the plain one first."""
    if options.plain_only:
        return [builds.PLAIN]
    if options.mode == "lint":
        return [builds.PLAIN, builds.CLANG, builds.WERROR]
    if options.mode == "fuzz":
        return [builds.PLAIN, builds.FUZZ]
    return [builds.PLAIN, builds.ASAN, builds.CLANG, builds.FUZZ]


def wanted(build, options):
    """With a filter, a build that has no test of that name need not be made. The plain one has the tools of all."""
    if build is builds.PLAIN or not options.filter or options.mode not in TIERS:
        return True
    if build is builds.FUZZ:
        return discover.matches("fuzz/", options.filter.split("/")[0])
    return any(discover.matches(test.name, options.filter) for test in discover.meson_tests(build, options.build))


def build_all(options):
    """(results, builds that are ready)."""
    results, ready = [], []
    for build in wanted_builds(options):
        result = builds.configure(build, SOURCE, options.build)
        if result.outcome == "passed":
            if not wanted(build, options):
                continue
            if not options.list:
                result = builds.make(build, SOURCE, options.build, options.jobs)
        results.append(result)
        if result.outcome == "passed":
            ready.append(build)
    return results, ready


def find_tests(options, ready):
    """Every test of this mode whose build succeeded."""
    tests = []
    if options.mode in TIERS:
        for build in ready:
            tests += discover.meson_tests(build, options.build)
        tests += discover.integration_tests(SOURCE, options.build, TIERS[options.mode])
        tests += discover.lint_tests(SOURCE, options.build, everything=False)
        tests += discover.driver_tests(SOURCE, options.build)
    if options.mode == "lint":
        tests += discover.lint_tests(SOURCE, options.build, everything=True)
    if builds.FUZZ in ready:
        tests += discover.fuzz_tests(SOURCE, options.build, options.fuzz_seconds)
    return [test for test in tests if discover.matches(test.name, options.filter)]


def main():
    options = parse()
    options.build = options.build.resolve()
    results_path = options.results or options.build / "check" / "results.tsv"
    results_path.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if not options.filter and not options.list:
        (options.build / "check" / "refused.tsv").unlink(missing_ok=True)

    results, ready = build_all(options)
    tests = find_tests(options, ready)
    if options.list:
        for test in tests:
            print(test.name)
        return 0

    skips = report.Skips(SOURCE / "test" / "skips.txt")
    results += prepare.prepare_all(tests, SOURCE, options.build)
    if builds.PLAIN in ready:
        results += runner.run_all(tests, options, skips)
    if options.mode == "check" and not options.filter:
        results.append(report.check_refusals(SOURCE, options.build, results))
        results.append(report.check_count(SOURCE, results))
    report.write(results_path, results)
    report.write_answers(results_path.parent / "criu-answers.tsv", results)
    return report.summary(results, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
