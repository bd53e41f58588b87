#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How the cost of a dump and of a restore grows with the size of what is dumped: ferry and CRIU, alternating, on this machine.

For each curve one TIME-NAME.svg goes to bench/results/curves, and the raw values of all to TIME.json there.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys

import run

LIMIT = 65_000  # vm.max_map_count of most machines
CURVES = {
    "memory": ("MiB that do not compress", "mib", (4, 16, 64, 256, 1024, 4096)),
    "mappings": ("mappings of a page", "mappings", (10, 100, 1000, 10_000, LIMIT)),
    "descriptors": ("descriptors", "descriptors", (8, 64, 512, 4096, 15_000)),
    "threads": ("threads", "threads", (1, 10, 100, 1000, 10_000)),
    "processes": ("processes", "processes", (1, 10, 100, 1000)),
}
METRICS = {"wall": "dump", "restore": "restore"}
LINES = {("ferry", "wall"): 'lc rgb "#0b6e4f" lw 2', ("ferry", "restore"): 'lc rgb "#0b6e4f" lw 2 dt 2',
         ("criu", "wall"): 'lc rgb "#b23a48" lw 2', ("criu", "restore"): 'lc rgb "#b23a48" lw 2 dt 2'}
NAMES = {"ferry": "ferry", "criu": "CRIU"}


def measure(options, tools, curve):
    """[{curve, size, tool, metric, value, run}]"""
    _, word, sizes = CURVES[curve]
    rows = []
    for size in sizes:
        for number in range(options.runs or 3):
            for tool in tools if number % 2 == 0 else tools[::-1]:
                got = run.measure(options, tool, "back", (f"{word}={size}",))
                rows += [{"curve": curve, "size": size, "tool": tool, "run": number + 1, "metric": metric, "unit": "ns",
                          "value": got["metrics"][metric]} for metric in METRICS]
        shown = ", ".join(f"{NAMES[tool]} {METRICS[metric]} {value / 1e6:.1f} ms"
                          for (tool, metric), value in medians(rows, size).items())
        print(f"{curve} {size}: {shown}", flush=True)
    return rows


def medians(rows, size):
    """{(tool, metric): median} of a size."""
    chosen = [row for row in rows if row["size"] == size]
    return {key: statistics.median(row["value"] for row in chosen if (row["tool"], row["metric"]) == key)
            for key in dict.fromkeys((row["tool"], row["metric"]) for row in chosen)}


def draw(curve, rows, path, here):
    """One picture by gnuplot, both axes logarithmic."""
    what = CURVES[curve][0]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    found = {size: medians(rows, size) for size in sizes}
    lines = [key for key in LINES if key in found[sizes[0]]]
    script = ["set terminal svg size 720,480 font 'sans,12' background '#ffffff'", f"set output '{path}'", "set logscale xy",
              f"set xlabel '{what}'", "set ylabel 'milliseconds, median'", "set key top left", "set grid",
              f"set title 'Cost against size: {here['cpu']}, {here['cpus']} CPUs, Linux {here['kernel']}' font ',10'"]
    blocks = []
    for tool, metric in lines:
        name = f"${tool}_{metric}"
        blocks += [f"{name} << EOD", *(f"{size} {found[size][tool, metric] / 1e6}" for size in sizes), "EOD"]
    plots = [f"${tool}_{metric} with linespoints pt 7 ps 0.5 {LINES[tool, metric]} title '{NAMES[tool]} {METRICS[metric]}'"
             for tool, metric in lines]
    text = "\n".join([*script, *blocks, f"plot {', '.join(plots)}"]) + "\n"
    subprocess.run(["gnuplot"], input=text, text=True, check=True)


def main():
    options, tools = run.prepare()
    folder = options.results / "curves"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    here, rows, load = run.machine.describe(), [], os.getloadavg()[0]
    for curve in CURVES:
        if not any(word in curve for word in options.filter.split(",")):
            continue
        got = measure(options, tools, curve)
        draw(curve, got, folder / f"{stamp}-{curve}.svg", here)
        rows += got
    if not rows:
        sys.exit(f"bench: no curve is called '{options.filter}'")
    kept = {"machine": here, "load": [load, os.getloadavg()[0]], "note": options.note, "values": rows}
    (folder / f"{stamp}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"curves and raw values: {folder}/{stamp}*")


if __name__ == "__main__":
    main()
