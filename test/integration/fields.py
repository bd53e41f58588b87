#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each field of each record, set to nothing: does anything notice? A program is dumped once; then its image is restored
again and again, each time with one field of one kind of file zeroed. A field counts as covered when for at least one
program the restore fails, the view from outside differs, or the program's own proofs are bad. The fields that nothing
notices have to stand in test/fields-unread.tsv with a reason; one that stands there and is noticed is a failure too."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from ferrytest import Ferry, differences, main, program, snapshot, test
from ferrytest.cases import CASES, start

UNREAD = pathlib.Path(os.environ["FERRY_SOURCE"]) / "test" / "fields-unread.tsv"
# The manifest's checksums would notice every change; the clocks tell that there has to be one.
LEFT_OUT = ("ferry-manifest.img", "ferry-clocks.img")
RAW = ("pages-", "ghost-file-")
TRIES = 6  # programs that a field is tried with before it counts as covered by none


def unread():
    """{field: reason}"""
    lines = UNREAD.read_text(encoding="utf-8").splitlines() if UNREAD.exists() else []
    return dict(line.split("\t") for line in lines if line and not line.startswith("#"))


def image_tool(verb, source, target):
    """ferry image decode or encode, from file to file; whether it worked."""
    with open(source, "rb") as given, open(target, "wb") as taken:
        return subprocess.run([os.environ["FERRY"], "image", verb, "-"], stdin=given, stdout=taken,
                              stderr=subprocess.DEVNULL, check=False).returncode == 0


def copy(folder, target):
    """With named pipes and sockets, which Python does not copy."""
    subprocess.run(["cp", "-a", folder, target], check=True)


def fields(value, path):
    """Every field below a record that is not nothing, without the places in lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("magic", "extra"):
                yield from fields(inner, f"{path}.{key}")
    elif isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        for inner in value:
            yield from fields(inner, path)
    elif value:
        yield path


def zero(value, path, wanted):
    """The record with this field set to nothing."""
    if isinstance(value, dict):
        return {key: zero(inner, f"{path}.{key}", wanted) for key, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return [zero(inner, path, wanted) for inner in value]
    if path != wanted:
        return value
    return {bool: False, int: 0, float: 0, str: "", list: []}[type(value)]


class Subject:
    """A program that was dumped, and its image as text."""

    def __init__(self, case):
        self.case = case
        self.program, _ = start(case)
        self.program.verify()
        self.volatile = self.program.volatile()
        self.before = snapshot(self.program.pid, self.volatile)
        pids = self.program.tree()
        self.images = pathlib.Path(tempfile.mkdtemp(prefix="images-"))
        Ferry().dump(self.program.pid, self.images, **case.options)
        self.program.wait_gone(pids)
        self.kept = pathlib.Path(tempfile.mkdtemp(prefix="kept-"))
        copy(self.program.folder, self.kept / "folder")
        self.records = {}
        for path in sorted(self.images.glob("*.img")):
            text = pathlib.Path(tempfile.mktemp(prefix="text-"))
            if not path.name.startswith((*RAW, *LEFT_OUT)) and image_tool("decode", path, text):
                self.records[path.name] = json.loads(text.read_text())
            text.unlink(missing_ok=True)

    def all_fields(self):
        """Those that are not nothing in it."""
        found = {}
        for record in self.records.values():
            for path in fields(record["entries"], record["magic"]):
                found.setdefault(path)
        return list(found)

    def changed(self, field):
        """An image in which the field is nothing; None when such a record cannot be written."""
        images = pathlib.Path(tempfile.mkdtemp(prefix="changed-"))
        for path in self.images.iterdir():
            if path.is_file():  # not the links for other readers
                os.link(path, images / path.name)
        for name in LEFT_OUT:
            (images / name).unlink()
        for name, record in self.records.items():
            if field and field.startswith(record["magic"] + "."):
                text = images / "text"
                text.write_text(json.dumps({**record, "entries": zero(record["entries"], record["magic"], field)}))
                (images / name).unlink()
                if not image_tool("encode", text, images / name):
                    shutil.rmtree(images)
                    return None
                text.unlink()
        return images

    def noticed(self, field):
        """Why somebody notices; None when nobody does."""
        images = self.changed(field)
        if images is None:
            return "no such record can be written"
        try:
            Ferry().restore(images, more=("--files=as-found",), **self.case.options)
            self.program.process = None
            if not self.program.running():
                return "the restored process is not there"
            found = differences(self.before, snapshot(self.program.pid, self.volatile))
            if found:
                return found[0]
            self.program.verify()
            self.program.finish()
            return None
        except (AssertionError, OSError, ValueError, LookupError) as error:
            return str(error) or "an assertion does not hold"
        finally:
            self.end()
            shutil.rmtree(images)

    def end(self):
        """Everything of it is gone, and its folder is as it was at the dump."""
        for _ in range(100):
            pids = [int(p.name) for p in pathlib.Path("/proc").glob("[0-9]*") if int(p.name) in self.before]
            if not pids:
                break
            self.program.kill(pids)
            time.sleep(0.01)
        shutil.rmtree(self.program.folder)
        copy(self.kept / "folder", self.program.folder)


def sweep(cases):
    """Over these programs, in order: a field that one notices is not tried with the next."""
    program.ANSWER_SECONDS = 3
    missing, covered, tries = unread(), {}, {}
    for case in cases:
        subject = Subject(case)
        control = subject.noticed(None)
        assert control is None, f"{case.name}: the unchanged image is noticed: {control}"
        for field in subject.all_fields():
            if field in covered or tries.get(field, 0) >= TRIES and field not in missing:
                continue
            tries[field] = tries.get(field, 0) + 1
            reason = subject.noticed(field)
            if reason:
                covered[field] = case.name
        print(f"{case.name}: {len(covered)} of {len(tries)} fields are covered", flush=True)
    nobody = sorted(set(tries) - set(covered) - set(missing))
    for field in nobody:
        print(f"nothing notices: {field}")
    read_all_the_same = sorted(field for field in missing if field in covered)
    for field in read_all_the_same:
        print(f"{UNREAD.name} has it, and {covered[field]} notices: {field}")
    assert not nobody, f"{len(nobody)} fields that nothing notices"
    assert not read_all_the_same, f"{len(read_all_the_same)} fields too many in {UNREAD.name}"


if os.environ.get("FERRY"):
    @test(timeout=3 * 3600, tier="soak", exclusive=True)
    def every_field():
        """Over every program that needs nobody outside."""
        sweep([case for case in CASES if not case.partner])

if __name__ == "__main__":
    main()
