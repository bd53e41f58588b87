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
sys.path[:0] = [str(SOURCE / "test" / "lib"), str(SOURCE / "bench")]
sys.dont_write_bytecode = True

import machine  # noqa: E402  pylint: disable=wrong-import-position
from cases import CASES, METRICS  # noqa: E402  pylint: disable=wrong-import-position

WORSE = 1.15  # times the ratio of the run before: a regression that is printed
SECONDS_EACH = 900


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build")
    parser.add_argument("--filter", default="", help="only the case of this name, or those whose names contain it; several words: a,b")
    parser.add_argument("--tools", default="ferry,criu", help="which tools, in order")
    parser.add_argument("--runs", type=int, default=0, help="runs of each case instead of its own number")
    parser.add_argument("--images", type=pathlib.Path, help="where images go; default: a tmpfs, the same for all")
    parser.add_argument("--results", type=pathlib.Path, default=SOURCE / "bench" / "results")
    parser.add_argument("--note", default="", help="a sentence for the page about how it was run")
    parser.add_argument("--sid", type=pathlib.Path, help="folder of scripts/criu-sid.sh; default: BUILD/criu-sid")
    return parser.parse_args()


def measure(options, tool, step, words):
    """One step of bench/measure.py in a fresh world: {metric: value} and the tool's version."""
    folder = tempfile.mkdtemp(prefix="ferry-bench-")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE / "test" / "lib"), "PYTHONDONTWRITEBYTECODE": "1",
                   "FERRY": str(options.build / "ferry"), "FERRY_PROGRAMS": str(options.build),
                   "FERRY_CRIU_SID": str(options.sid)}
    command = [str(options.build / "test" / "lib" / "nsinit"), "--folder", folder, "--timeout", str(SECONDS_EACH), "--",
               sys.executable, str(SOURCE / "bench" / "measure.py"), tool, str(options.images or ""), step, *words]
    try:
        done = subprocess.run(command, env=environment, check=False, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    finally:
        os.rmdir(folder)
    if done.returncode:
        raise SystemExit(f"bench: {tool} failed: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(options, tools, case, here):
    """All runs of one case; the tools take turns, and who begins takes turns too."""
    rows, runs = [], options.runs or case.runs
    for number in range(1, runs + 1):
        order = tools if number % 2 else tools[::-1]
        for tool, step in [(tool, step) for step in case.steps for tool in order]:
            got = measure(options, tool, step, case.words)
            for metric, value in got["metrics"].items():
                rows.append({"case": case.name, "tool": tool, "tool_version": got["version"], "run": number,
                             "metric": metric, "unit": METRICS[metric][0], "value": value, "machine": here})
            shown = ", ".join(f"{metric} {human(METRICS[metric][0], value)}" for metric, value in got["metrics"].items())
            print(f"{case.name} {tool} {number}/{runs}: {shown}", flush=True)
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


def ratios(rows):
    """{(case, metric): ferry's median to CRIU's}"""
    return {(name, metric): found["ferry"] / found["criu"]
            for name, metric, _, found in medians(rows) if len(found) == 2 and found["criu"]}


def wanted(name, metric, unit, found):
    """What is to be reached, and whether it is."""
    case = next((case for case in CASES if case.name == name), None)
    words, good = [], True
    if case and metric in case.ratio:
        words.append(f"{case.ratio[metric]:.2f}")
        good &= len(found) < 2 or found["ferry"] / found["criu"] <= case.ratio[metric]
    if case and metric in case.most:
        words.append(human(unit, case.most[metric]))
        good &= "ferry" not in found or found["ferry"] <= case.most[metric]
    return f"{', '.join(words)}{' missed' * (not good)}" if words else ""


def table(rows, before):
    """Lines of a Markdown table: medians, their ratio, that of the run before, and what is wanted."""
    yield (f"| {'case':19} | {'metric':18} | {'ferry':>11} | {'CRIU':>11} | {'ferry/CRIU':>10} | {'before':>6} | "
           f"{'wanted at most':22} |")
    yield "|---|---|---:|---:|---:|---:|---|"
    now = ratios(rows)
    for name, metric, unit, found in medians(rows):
        shown = [human(unit, found[tool]) if tool in found else "-" for tool in ("ferry", "criu")]
        ratio, old = now.get((name, metric)), before.get((name, metric))
        yield (f"| {name:19} | {metric:18} | {shown[0]:>11} | {shown[1]:>11} | {f'{ratio:.2f}' if ratio else '-':>10} | "
               f"{f'{old:.2f}' if old else '-':>6} | {wanted(name, metric, unit, found):22} |")


def regressions(rows, before):
    """What was better in the run before."""
    for (name, metric), ratio in ratios(rows).items():
        old = before.get((name, metric))
        if old and metric != "idle_gap" and ratio > old * WORSE:
            yield f"worse than before: {name} {metric}: {ratio:.2f} of CRIU's, it was {old:.2f}"


def ratios_before(options):
    """Those that were kept, of each case the last."""
    found = {}
    for path in sorted(options.results.glob("*.json")) if options.results.is_dir() else []:
        found |= ratios(json.loads(path.read_text(encoding="utf-8")))
    return found


def measure_limits(options):
    """[(name, bytes a second)] of what the machine can do at best."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, tempfile.TemporaryDirectory(dir=options.build) as disk:
        done = subprocess.run([str(options.build / "bench" / "limits"), f"{disk}/file", f"{memory}/file"], check=True, text=True,
                              stdout=subprocess.PIPE)
    return [(name, int(rate)) for name, rate in (line.split("\t") for line in done.stdout.splitlines())]


def page(rows, here, load, options, before, limits):
    """What is kept for people."""
    versions = {row["tool"]: row["tool_version"] for row in rows}
    runs = {row["case"]: row["run"] for row in rows}
    yield "# make bench"
    yield ""
    yield (f"Medians of alternating runs, every restored memory verified. ferry {versions.get('ferry', '-')}, CRIU "
           f"{versions.get('criu', '-')}. {here['cpu']}, {here['cpus']} CPUs, {here['memory_bytes'] / 2**30:.0f} GiB, Linux "
           f"{here['kernel']}, {here['distribution']}; load average {load[0]:.1f} at the beginning, "
           f"{load[1]:.1f} at the end; images on a tmpfs.{' ' * bool(options.note)}{options.note}")
    yield ""
    yield from table(rows, before)
    yield ""
    yield from (f"- {line}" for line in regressions(rows, before))
    yield from (f"- limit: {name}: {rate / 1e9:.2f} GB/s" for name, rate in limits)
    yield from (f"- `{metric}`: {text}" for metric, (_, text) in METRICS.items())
    yield from (f"- `{case.name}` ({runs[case.name]} runs): {case.what}" for case in CASES if case.name in runs)


def prepare():
    """What was asked for, and the tools, which are there."""
    options = parse()
    options.build = options.build.resolve()
    options.sid = (options.sid or options.build / "criu-sid").resolve()
    tools = options.tools.split(",")
    if "ferry" in tools and not (options.build / "ferry").exists():
        raise SystemExit("bench: no ferry in this build")
    if "criu" in tools:
        subprocess.run([str(SOURCE / "scripts" / "criu-sid.sh"), str(options.sid)], check=True)
    return options, tools


def keep(options, path, rows, lines):
    """The results so far: a run that is ended early keeps those of the cases that it came to."""
    options.results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = options.build / "bench" / "bench.json"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, kept)
    return kept


def chosen(words, name):
    """Whether one of the words is this case's name or, being no case's, a part of it."""
    names = {case.name for case in CASES}
    return any(word == name or (word not in names and word in name) for word in words)


def main():
    options, tools = prepare()
    here, rows, load = machine.describe(), [], os.getloadavg()[0]
    before, limits = ratios_before(options), measure_limits(options)
    path = options.results / f"{datetime.datetime.now(datetime.timezone.utc).strftime('%Y%m%dT%H%M%SZ')}.json"
    for case in CASES:
        if chosen(options.filter.split(","), case.name):
            rows += run_case(options, tools, case, here)
            kept = keep(options, path, rows, page(rows, here, (load, os.getloadavg()[0]), options, before, limits))
    if not rows:
        raise SystemExit(f"bench: no case is called '{options.filter}'")
    print("", *table(rows, before), "", *regressions(rows, before), sep="\n")
    print(*(f"limit: {name}: {rate / 1e9:.2f} GB/s" for name, rate in limits), sep="\n")
    print(f"\nraw values: {path} and {kept}")


if __name__ == "__main__":
    main()
