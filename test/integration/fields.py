#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each field of each record, set to nothing: does anything notice? A program is dumped once; then its image is restored
again and again, each time with one field of one kind of file zeroed. A field counts as covered when for at least one
program the restore fails, the view from outside differs, or the program's own proofs are bad. The fields that nothing
notices have to stand in test/fields-unread.tsv with a reason; one that stands there and is noticed is a failure too.

test/fields-noticed.tsv has the program that noticed a field the last time, which is tried first: build/check/fields-N.tsv
are its new parts.
"""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import zlib

from ferrytest import Ferry, differences, main, program, snapshot, test
from ferrytest.cases import CASES, start
from ferrytest.exchange import RAW
from ferrytest.image import MANIFEST, decode, encode, seal
from ferrytest.process import all_pids, wait_until
from ferrytest.register import Skip

TEST = pathlib.Path(os.environ["FERRY_SOURCE"]) / "test"
UNREAD = TEST / "fields-unread.tsv"
NOTICED = TEST / "fields-noticed.tsv"
FOUND = pathlib.Path(os.environ["FERRY_BUILD"]) / "check"
CLONE_NEWIPC, CLONE_NEWNET = 0x08000000, 0x40000000
ZERO, ABSENT, FOREIGN = "zero", "absent", "foreign"
PARTS = 2  # tests, which run side by side
TRIES = 40  # programs that a field is tried with; then one of each kind more, before it counts as covered by none
LISTED_TRIES = 3  # programs that one is tried with that should be noticed by none


def table(path):
    """{field: reason or program}"""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split("\t") for line in lines if line and not line.startswith("#"))


def new_namespaces():
    """What is of one stays when its processes end."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWIPC | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def mounts_below(folder):
    """What is mounted in a folder."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(f"{folder}/")]


def copy(folder, target):
    """With named pipes and sockets, which Python does not copy."""
    subprocess.run(["cp", "-a", folder, target], check=True)


def same(was, path):
    """Whether a file is as it was."""
    before, now = was.lstat(), path.lstat()
    if stat.S_ISDIR(before.st_mode) and stat.S_ISDIR(now.st_mode):
        os.chown(path, before.st_uid, before.st_gid)
        os.chmod(path, before.st_mode)
        return True
    if any(getattr(before, name) != getattr(now, name) for name in ("st_mode", "st_uid", "st_gid", "st_nlink")):
        return False
    if stat.S_ISREG(before.st_mode):
        return was.read_bytes() == path.read_bytes()
    return not stat.S_ISLNK(before.st_mode) or was.readlink() == path.readlink()


def put_back(kept, folder):
    """A folder becomes what it was. What is unchanged keeps its inode, for a restore may find a file by that."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not os.path.lexists(kept / path.relative_to(folder)):
            subprocess.run(["rm", "-rf", path], check=True)
    for was in sorted(kept.rglob("*")):
        path = folder / was.relative_to(kept)
        if os.path.lexists(path) and same(was, path):
            continue
        if os.path.lexists(path) and not (was.is_file() and path.is_file()):
            subprocess.run(["rm", "-rf", path], check=True)
        copy(was, path)


def kill_others():
    """Everybody but the first process of this world and the test; who was there."""
    others = all_pids() - {1, os.getpid()}
    for pid in others:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
        except (ProcessLookupError, ChildProcessError):
            pass
    return others


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


def without(value, path, wanted, absent):
    """The record with this field set to nothing, or absent."""
    if isinstance(value, dict):
        return {key: without(inner, f"{path}.{key}", wanted, absent) for key, inner in value.items()
                if not absent or f"{path}.{key}" != wanted}
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return [without(inner, path, wanted, absent) for inner in value]
    if path != wanted:
        return value
    return {bool: False, int: 0, float: 0, str: "", list: []}[type(value)]


class Subject:
    """A program that was dumped, and its image as text."""

    def __init__(self, case):
        self.case = case
        self.foreign = None
        self.once = False  # what its proofs use up is outside of its folder: it starts anew each time
        self.start()

    def start(self):
        """The program, and the image."""
        self.spent = False
        self.program, _ = start(self.case)
        self.program.verify()
        self.volatile = self.program.volatile()
        self.before = snapshot(self.program.pid, self.volatile)
        pids = self.program.tree()
        self.images = pathlib.Path(tempfile.mkdtemp(prefix="images-"))
        Ferry().dump(self.program.pid, self.images, **self.case.options)
        self.program.wait_gone(pids)
        self.kept = pathlib.Path(tempfile.mkdtemp(prefix="kept-"))
        if not mounts_below(self.program.folder):
            copy(self.program.folder, self.kept / "folder")
        self.records = {}
        for path in sorted(self.images.glob("*.img")):
            record = None if path.name.startswith((*RAW, "ghost-file-", MANIFEST)) else decode(path)
            if record:
                self.records[path.name] = record
        self.end()

    def all_fields(self):
        """Those that are not nothing in it."""
        found = {}
        for record in self.records.values():
            for path in fields(record["entries"], record["magic"]):
                found.setdefault(path)
        return list(found)

    def changed(self, field, how):
        """An image in which the field is ZERO, ABSENT, or zero in one as CRIU would have it (FOREIGN); None when such a
        record cannot be written."""
        images = pathlib.Path(tempfile.mkdtemp(prefix="changed-"))
        for path in self.images.iterdir():
            if path.is_file():  # not the links for other readers
                os.link(path, images / path.name)
        names = [name for name, record in self.records.items() if field and field.startswith(record["magic"] + ".")]
        for name in names:
            record = self.records[name]
            if not encode(images / name, {**record, "entries": without(record["entries"], record["magic"], field,
                                                                          how == ABSENT)}):
                shutil.rmtree(images)
                return None
        if how != FOREIGN:
            seal(images, names)
        for path in images.glob("ferry-*.img") if how == FOREIGN else ():
            path.unlink()
        return images

    def noticed(self, field, how):
        """Why somebody notices; None when nobody does."""
        if self.once and self.spent:
            self.close()
            self.start()
        self.spent = True
        images = self.changed(field, how)
        if images is None:
            return None if how == ABSENT else "no such record can be written"
        if self.case.worlds:
            new_namespaces()
        try:
            more = ("--files=as-found", *self.case.options.get("more", ()))
            Ferry().restore(images, **{**self.case.options, "more": more})
            self.program.process = None
            if not self.program.running():
                return "the restored process is not there"
            found = differences(self.before, snapshot(self.program.pid, self.volatile))
            if found:
                return found[0]
            self.program.verify()
            self.program.finish()
            return None
        except (AssertionError, OSError, ValueError, LookupError, struct.error) as error:
            return str(error) or "an assertion does not hold"
        finally:
            self.end()
            shutil.rmtree(images)

    def may_be_foreign(self):
        """Whether CRIU's records are enough for this program."""
        if self.foreign is None:
            self.foreign = self.noticed(None, FOREIGN) is None
        return self.foreign

    def close(self):
        """Nothing of it stays."""
        self.program.kill()
        self.end()
        for place in reversed(mounts_below(self.program.folder)):
            subprocess.run(["umount", "-l", place], check=True)
        for folder in (self.images, self.kept, self.program.folder):
            shutil.rmtree(folder)

    def end(self):
        """Nobody else is there, and its folder is as it was at the dump."""
        wait_until(lambda: not kill_others(), "somebody does not end")
        if (self.kept / "folder").exists():
            put_back(self.kept / "folder", self.program.folder)


def part_of(field):
    """Which of the tests looks at a field: those of one message stay together."""
    return zlib.crc32(field.split(".")[0].encode()) % PARTS


class Sweep:
    """Over programs, in order: a field that one notices is not tried with the next."""

    def __init__(self, number):
        self.number = number
        self.missing, self.known = table(UNREAD), table(NOTICED)
        self.seen, self.covered, self.tries, self.problems = set(), {}, {}, []

    def worth_a_try(self, field, case):
        """With the program that noticed it the last time, or with some of each kind."""
        if part_of(field) != self.number or field in self.covered:
            return False
        if field in self.known and field not in self.tries:
            return self.known[field] == case.name
        kinds = self.tries.get(field, [])
        if field in self.missing:
            return len(kinds) < LISTED_TRIES
        return len(kinds) < TRIES or case.kind not in kinds

    def try_field(self, subject, field):
        """Set it to nothing, and see."""
        self.tries.setdefault(field, []).append(subject.case.kind)
        reason = subject.noticed(field, ZERO)
        # On a busy machine an answer may be late for no reason of ours.
        if reason and "does not answer" in reason:
            reason = subject.noticed(field, ZERO)
        if not reason and field not in self.missing:
            reason = subject.noticed(field, ABSENT)
        # What CRIU's records say may stand in ferry's own too.
        if not reason and field not in self.missing and not field.startswith("FERRY_") and subject.may_be_foreign():
            reason = subject.noticed(field, FOREIGN)
        if reason:
            self.covered[field] = subject.case.name
        print(f"{subject.case.name}: {field}: {(reason or 'nothing')[:160]}", flush=True)

    def run(self, case):
        """One program."""
        subject = None
        try:
            new_namespaces()
            subject = Subject(case)
            self.seen.update(field for field in subject.all_fields() if part_of(field) == self.number)
            wanted = [field for field in subject.all_fields() if self.worth_a_try(field, case)]
            control = subject.noticed(None, ZERO) if wanted else None
            assert not control, f"the unchanged image is noticed: {control}"
            again = subject.noticed(None, ZERO) if wanted else None
            if again:
                print(f"{case.name}: started anew each time: {again[:160]}", flush=True)
                subject.once = True
            for field in wanted:
                self.try_field(subject, field)
        except Skip as reason:
            print(f"{case.name}: skipped: {reason}")
        except (AssertionError, OSError, ValueError, struct.error, subprocess.CalledProcessError) as error:
            self.problems.append(f"{case.name}: {error}")
            print(self.problems[-1], flush=True)
        finally:
            if subject:
                subject.close()

    def forget(self):
        """Fields whose program does not notice them any more are tried with all; whether there are any."""
        lost = [field for field in self.known if field in self.seen and field not in self.covered]
        self.known = {}
        return bool(lost)

    def report(self):
        """What nothing notices, and what is listed and noticed all the same."""
        nobody = sorted(set(self.tries) - set(self.covered) - set(self.missing))
        self.problems += [f"nothing notices {field}" for field in nobody]
        for field in sorted(self.missing):
            if field in self.covered:
                self.problems.append(f"{UNREAD.name} has {field}, and {self.covered[field]} notices it")
            elif part_of(field) == self.number and field not in self.seen:
                self.problems.append(f"{UNREAD.name} has {field}, and no image has")
        with open(FOUND / f"fields-{self.number + 1}.tsv", "w", encoding="utf-8") as found:
            found.writelines(f"{field}\t{name}\n" for field, name in sorted(self.covered.items()))
        print(f"{len(self.covered)} of {len(self.tries)} fields are covered")
        for problem in self.problems:
            print(problem)
        assert not self.problems, f"{len(self.problems)} problems"


def every_field(number):
    """Over every program that needs nobody outside."""
    program.ANSWER_SECONDS = 3
    sweep = Sweep(number)
    cases = [case for case in CASES if not case.partner]
    for case in cases:
        sweep.run(case)
    if sweep.forget():
        for case in cases:
            sweep.run(case)
    sweep.report()


def register(number):
    """A part of the fields in each test."""
    test(name=f"every-field-{number + 1}", timeout=2 * 3600, tier="soak")(lambda: every_field(number))


if os.environ.get("FERRY"):
    for part in range(PARTS):
        register(part)

if __name__ == "__main__":
    main()
