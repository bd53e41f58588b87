#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make bench: ferry and CRIU side by side on this machine, alternating, every restored memory verified.

Raw values of every run go to bench/results/TIME.json (doc/outputs.md) and to bench/bench.json in the build directory; the
table that is printed, and kept in TIME.md, is made from them. Each measurement runs in a world of its own
(test/lib/nsinit.c), which is the same for both tools.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "test" / "lib"))
sys.dont_write_bytecode = True

import machine  # noqa: E402  pylint: disable=wrong-import-position

# Name, arguments of bench/targets/memory.c, runs, what it is.
CASES = [
    ("smallest", ["0"], 15, "a process with two threads and no memory of its own"),
    ("descriptors-1000", ["0", "0", "1000"], 9, "the same with 250 eventfds, 250 files and both ends of 250 pipes"),
    ("threads-200", ["0", "0", "0", "200"], 9, "the smallest with 200 more threads that sleep"),
    ("memory-256m", ["256"], 7, "256 MiB that do not compress, in pages of 4 KiB"),
    ("memory-1g", ["1024"], 5, "1 GiB of that"),
    ("memory-1g-writing", ["1024", "10000"], 5, "1 GiB of that, 10000 pages being written a second"),
]
METRICS = {
    "idle_gap": "largest gap in CLOCK_MONOTONIC that the target saw in 0.3 s without a dump: the noise",
    "freeze": "largest gap that it saw during a dump with --leave-running",
    "freeze_reported": "what the tool says about that",
    "wall_leave_running": "that dump, from the start of the command to its end",
    "wall": "a dump that ends the target",
    "image": "what the image takes on the disk",
    "restore": "restoring that image, to the end of the command",
}
SECONDS_EACH = 300


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build")
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--tools", default="ferry,criu", help="which tools, in order")
    parser.add_argument("--runs", type=int, default=0, help="runs of each case instead of its own number")
    parser.add_argument("--images", type=pathlib.Path, help="where images go; default: a tmpfs, the same for all")
    parser.add_argument("--results", type=pathlib.Path, default=SOURCE / "bench" / "results")
    parser.add_argument("--note", default="", help="a sentence for the page about how it was run")
    parser.add_argument("--sid", type=pathlib.Path, help="folder of scripts/criu-sid.sh; default: BUILD/criu-sid")
    return parser.parse_args()


def measure(options, tool, arguments):
    """One dump and one restore in a fresh world: {metric: (unit, value)} and the tool's version."""
    folder = tempfile.mkdtemp(prefix="ferry-bench-")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE / "test" / "lib"), "PYTHONDONTWRITEBYTECODE": "1",
                   "FERRY": str(options.build / "ferry"), "FERRY_PROGRAMS": str(options.build),
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


def medians(rows):
    """(case, metric, unit, {tool: median}) in the order of the runs."""
    for name in dict.fromkeys(row["case"] for row in rows):
        for metric in dict.fromkeys(row["metric"] for row in rows if row["case"] == name):
            chosen = [row for row in rows if (row["case"], row["metric"]) == (name, metric)]
            found = {tool: statistics.median(row["value"] for row in chosen if row["tool"] == tool)
                     for tool in dict.fromkeys(row["tool"] for row in chosen)}
            yield name, metric, chosen[0]["unit"], found


def table(rows):
    """Lines of a Markdown table: medians, and how often smaller ferry's is, for each case and metric."""
    yield f"| {'case':17} | {'metric':18} | {'ferry':>11} | {'CRIU':>11} | {'CRIU/ferry':>10} |"
    yield "|---|---|---:|---:|---:|"
    for name, metric, unit, found in medians(rows):
        shown = [human(unit, found[tool]) if tool in found else "-" for tool in ("ferry", "criu")]
        ratio = f"{found['criu'] / found['ferry']:.2f}" if len(found) == 2 and found["ferry"] else "-"
        yield f"| {name:17} | {metric:18} | {shown[0]:>11} | {shown[1]:>11} | {ratio:>10} |"


def page(rows, here, load, note):
    """What is kept for people."""
    versions = {row["tool"]: row["tool_version"] for row in rows}
    runs = {row["case"]: row["run"] for row in rows}
    yield "# make bench"
    yield ""
    yield (f"Medians of alternating runs, every restored memory verified. ferry {versions.get('ferry', '-')}, CRIU "
           f"{versions.get('criu', '-')}. {here['cpu']}, {here['cpus']} CPUs, {here['memory_bytes'] / 2**30:.0f} GiB, Linux "
           f"{here['kernel']}, {here['distribution']}; load average {load[0]:.1f} at the beginning, "
           f"{load[1]:.1f} at the end; images on a tmpfs.{' ' * bool(note)}{note}")
    yield ""
    yield from table(rows)
    yield ""
    yield from (f"- `{metric}`: {text}" for metric, text in METRICS.items())
    yield from (f"- `{name}` ({runs[name]} runs): {text}" for name, _, _, text in CASES if name in runs)


def main():
    options = parse()
    options.build = options.build.resolve()
    options.sid = (options.sid or options.build / "criu-sid").resolve()
    tools = options.tools.split(",")
    if "ferry" in tools and not (options.build / "ferry").exists():
        raise SystemExit("bench: no ferry in this build")
    if "criu" in tools:
        subprocess.run([str(SOURCE / "scripts" / "criu-sid.sh"), str(options.sid)], check=True)
    here, rows, before = machine.describe(), [], os.getloadavg()[0]
    for name, arguments, runs, _ in CASES:
        if options.filter in name:
            rows += run_case(options, tools, name, arguments, options.runs or runs, here)
    if not rows:
        raise SystemExit(f"bench: no case is called '{options.filter}'")
    options.results.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    path = options.results / f"{stamp}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text("\n".join(page(rows, here, (before, os.getloadavg()[0]), options.note)) + "\n", encoding="utf-8")
    kept = options.build / "bench" / "bench.json"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, kept)
    print("", *table(rows), sep="\n")
    print(f"\nraw values: {path} and {kept}")


if __name__ == "__main__":
    main()
