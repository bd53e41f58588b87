# SPDX-License-Identifier: Apache-2.0
"""Dump and restore a program and compare what came back with what was there."""

import pathlib
import tempfile

from ferrytest.leftovers import Leftovers, may_write
from ferrytest.snapshot import differences, snapshot


def with_words(program, what, options):
    """The options of a "dump" or "restore", with the words that the program itself asks for."""
    path = pathlib.Path(program.folder) / f"words.{what}"
    more = path.read_text().splitlines() if path.exists() else []
    return {**options, "more": (*options.get("more", ()), *more)} if more else options


def once(program, dumper, restorer, compare, options):
    """One dump and one restore. The state is compared before the program is asked anything, so that nothing it does
    to prove itself hides a difference."""
    program.verify()
    watch = Leftovers(program.pid)
    pids = program.tree()
    volatile = program.volatile()
    before = snapshot(program.pid, volatile) if compare else {}
    allowed = [*dumper.leaves, *restorer.leaves]
    images = pathlib.Path(tempfile.mkdtemp(prefix="images-"))

    report = dumper.dump(program.pid, images, **with_words(program, "dump", options))
    if "bytes" in report:
        assert report["bytes"] == sum(path.stat().st_size for path in images.iterdir() if path.is_file()), report
    program.wait_gone(pids)
    # A program that works all the time writes until it is frozen.
    busy = [] if compare else [program.folder]
    watch.check(expected=[images, *busy, *allowed], locked=options.get("tcp_established", False))
    restorer.restore(images, **with_words(program, "restore", options))
    assert program.running(), "the restored process is not there"
    after = snapshot(program.pid, volatile) if compare else {}
    found = differences(before, after)
    assert not found, f"{len(found)} differences: " + "; ".join(found[:12])
    watch.check(program.pid, expected=[images, *may_write(program), *allowed])
    program.verify()


def round_trip(program, dumper, restorer=None, times=2, finish=True, compare=True, **options):
    """Twice in a row by default: what was restored must be as good a source as the original. Without compare only the
    program's own proofs count; CRIU for one ends a sleeping call with EINTR, and loses what only /proc shows."""
    for _ in range(times):
        once(program, dumper, restorer or dumper, compare, options)
    if finish:
        program.finish()
