#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make bench measures what it says: one run of the smallest case, whose values are judged only by whether they can be."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from ferrytest import main, skip, test

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent


@test(timeout=120)
def smallest():
    """Every metric has a value, the target saw the freeze, the image has a size, and the table shows them all."""
    results = pathlib.Path("results")
    done = subprocess.run([sys.executable, str(SOURCE / "bench" / "run.py"), f"--build={os.environ['FERRY_BUILD']}", "--tools=ferry",
                           "--filter=smallest", "--runs=1", f"--results={results}"],
                          check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    rows = {row["metric"]: row for row in json.loads(next(results.glob("*.json")).read_text(encoding="utf-8"))}
    page = next(results.glob("*.md")).read_text(encoding="utf-8")
    for metric, unit in (("freeze", "ns"), ("freeze_reported", "ns"), ("wall_leave_running", "ns"), ("wall", "ns"),
                         ("restore", "ns"), ("image", "bytes"), ("pss", "bytes")):
        row = rows[metric]
        assert row["case"] == "smallest" and row["tool"] == "ferry" and row["unit"] == unit and row["value"] > 0, row
        assert f"| smallest            | {metric:18} |" in page, page
    assert page.count("- limit: ") == 5, page
    # The whole lasts longer than its part that the target noticed.
    assert rows["freeze_reported"]["value"] < rows["wall_leave_running"]["value"], rows


@test(timeout=120)
def curves():
    """A picture for each curve, with a line for every tool and what it did, through every size."""
    if not shutil.which("gnuplot"):
        skip("there is no gnuplot")
    results = pathlib.Path("results")
    done = subprocess.run([sys.executable, str(SOURCE / "bench" / "curves.py"), f"--build={os.environ['FERRY_BUILD']}", "--tools=ferry",
                           "--filter=descriptors", "--runs=1", f"--results={results}"],
                          check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    kept = json.loads(next((results / "curves").glob("*.json")).read_text(encoding="utf-8"))
    sizes = {row["size"] for row in kept["values"]}
    assert len(sizes) == 5 and all(row["value"] > 0 for row in kept["values"]), kept
    assert {(row["size"], row["metric"]) for row in kept["values"]} == {(n, m) for n in sizes for m in ("wall", "restore")}
    picture = next((results / "curves").glob("*-descriptors.svg")).read_text(encoding="utf-8")
    assert picture.lstrip().startswith("<?xml") and "ferry dump" in picture and "ferry restore" in picture, picture[:300]


if __name__ == "__main__":
    main()
