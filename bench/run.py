#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make bench: ferry and CRIU side by side on this machine, alternating, every restored memory verified.

Raw values of every run go to bench/results/TIME-HOST.json (doc/outputs.md); the table that is printed is made from
them. Each measurement runs in a world of its own (test/lib/nsinit.c), which is the same for both tools.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "test" / "lib"))
sys.dont_write_bytecode = True

import machine  # noqa: E402  pylint: disable=wrong-import-position

# Name, arguments of bench/targets/memory.c, runs.
CASES = [
    ("smallest", ["0"], 15),
    ("memory-256m", ["256"], 7),
    ("memory-1g", ["1024"], 5),
    ("memory-1g-writing", ["1024", "10000"], 5),
]
SECONDS_EACH = 300


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build")
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--tools", default="ferry,criu", help="which tools, in order")
    parser.add_argument("--runs", type=int, default=0, help="runs of each case instead of its own number")
    parser.add_argument("--images", type=pathlib.Path, help="where images go; default: a tmpfs, the same for all")
    parser.add_argument("--results", type=pathlib.Path, default=SOURCE / "bench" / "results")
    parser.add_argument("--sid", type=pathlib.Path, help="folder of scripts/criu-sid.sh; default: BUILD/criu-sid")
    return parser.parse_args()


def measure(options, tool, arguments):
    """One dump and one restore in a fresh world: {metric: (unit, value)} and the tool's version."""
    folder = tempfile.mkdtemp(prefix="ferry-bench-")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE / "test" / "lib"), "PYTHONDONTWRITEBYTECODE": "1",
                   "FERRY": str(options.build / "ferry"), "FERRY_PROGRAMS": str(options.build / "bench"),
                   "FERRY_CRIU_SID": str(options.sid)}
    command = [str(options.build / "test" / "lib" / "nsinit"), "--folder", folder, "--timeout", str(SECONDS_EACH), "--",
               sys.executable, str(SOURCE / "bench" / "measure.py"), tool, str(options.images or ""), *arguments]
    try:
        done = subprocess.run(command, env=environment, check=False, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    finally:
        os.rmdir(folder)
    if done.returncode:
        raise SystemExit(f"bench: {tool} failed: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(options, tools, name, arguments, runs, here):
    """All runs of one case; the tools take turns, and who begins takes turns too."""
    rows = []
    for number in range(1, runs + 1):
        order = tools if number % 2 else tools[::-1]
        for tool in order:
            got = measure(options, tool, arguments)
            for metric, (unit, value) in got["metrics"].items():
                rows.append({"case": name, "tool": tool, "tool_version": got["version"], "run": number,
                             "metric": metric, "unit": unit, "value": value, "machine": here})
            shown = ", ".join(f"{m} {human(u, v)}" for m, (u, v) in got["metrics"].items())
            print(f"{name} {tool} {number}/{runs}: {shown}", flush=True)
    return rows


def human(unit, value):
    """A value for people."""
    if unit == "ns":
        return f"{value / 1e6:.2f} ms"
    if unit == "bytes":
        return f"{value / 2**20:.2f} MiB"
    return str(value)


def table(rows):
    """Medians, and how often smaller ferry is, for each case and metric."""
    print(f"\n{'case':20}{'metric':18}{'ferry':>14}{'criu':>14}{'criu/ferry':>12}")
    for name in dict.fromkeys(row["case"] for row in rows):
        for metric in dict.fromkeys(row["metric"] for row in rows if row["case"] == name):
            medians, unit = {}, ""
            for tool in ("ferry", "criu"):
                chosen = [r for r in rows if (r["case"], r["metric"], r["tool"]) == (name, metric, tool)]
                if chosen:
                    medians[tool], unit = statistics.median(r["value"] for r in chosen), chosen[0]["unit"]
            shown = [human(unit, medians[t]) if t in medians else "-" for t in ("ferry", "criu")]
            both = len(medians) == 2 and medians["ferry"]
            ratio = f"{medians['criu'] / medians['ferry']:.2f}" if both else "-"
            print(f"{name:20}{metric:18}{shown[0]:>14}{shown[1]:>14}{ratio:>12}")


def main():
    options = parse()
    options.build = options.build.resolve()
    options.sid = (options.sid or options.build / "criu-sid").resolve()
    tools = options.tools.split(",")
    if "ferry" in tools and not (options.build / "ferry").exists():
        raise SystemExit("bench: no ferry in this build")
    if "criu" in tools:
        subprocess.run([str(SOURCE / "scripts" / "criu-sid.sh"), str(options.sid)], check=True)
    here, rows = machine.describe(), []
    for name, arguments, runs in CASES:
        if options.filter in name:
            rows += run_case(options, tools, name, arguments, options.runs or runs, here)
    if not rows:
        raise SystemExit(f"bench: no case is called '{options.filter}'")
    options.results.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    path = options.results / f"{stamp}-{platform.node()}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table(rows)
    print(f"\nraw values: {path}")


if __name__ == "__main__":
    main()
