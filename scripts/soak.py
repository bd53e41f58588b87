#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make soak: the large counts, and a result to commit under test/soak-results/.

Everything that make check runs and the tests of the soak tier, fuzzing for longer, then the mutations: changes that
break one thing each, and that some test must notice.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "test" / "lib"))
sys.dont_write_bytecode = True

import machine  # noqa: E402  pylint: disable=wrong-import-position


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--filter", default="")
    parser.add_argument("--fuzz-seconds", type=int, default=60)
    parser.add_argument("--no-mutations", action="store_true")
    return parser.parse_args()


def rows_of(path):
    """The lines of a results.tsv."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def run_part(command, results):
    """Run a part whose lines go to a results.tsv of its own."""
    results.unlink(missing_ok=True)
    status = subprocess.run([sys.executable, *map(str, command)], cwd=SOURCE, check=False).returncode
    return status, rows_of(results)


def main():
    options = parse()
    folder = options.build.resolve() / "check"
    began = time.monotonic()
    driver = [SOURCE / "test" / "run.py", "soak", "--build", options.build, "--jobs", options.jobs,
              "--filter", options.filter, "--fuzz-seconds", options.fuzz_seconds,
              "--results", folder / "soak.tsv"]
    status, rows = run_part(driver, folder / "soak.tsv")
    if not options.no_mutations:
        mutations = [SOURCE / "scripts" / "mutations.py", "--build", options.build, "--jobs", options.jobs,
                     "--filter", options.filter, "--results", folder / "mutations.tsv"]
        worse, more = run_part(mutations, folder / "mutations.tsv")
        status, rows = status or worse, rows + more
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=SOURCE, check=False, text=True,
                            stdout=subprocess.PIPE).stdout.strip()
    now = datetime.datetime.now(datetime.timezone.utc)
    count = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in ("passed", "failed", "skipped")}
    report = {"date": now.isoformat(timespec="seconds"), "commit": commit, "machine": machine.describe(), **count,
              "seconds": round(time.monotonic() - began), "results": rows}
    target = SOURCE / "test" / "soak-results"
    target.mkdir(exist_ok=True)
    path = target / f"{now.strftime('%Y%m%dT%H%M%SZ')}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"result: {path}")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped", flush=True)
    sys.exit(1 if status or count["failed"] or not count["passed"] else 0)


if __name__ == "__main__":
    main()
