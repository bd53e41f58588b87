#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry under the name criu: the same command lines as CRIU's, with the same exit statuses, files and answers."""

import os
import pathlib
import shutil
import subprocess

from ferrytest import Program, main, test
from ferrytest.engine import Criu
from ferrytest.exchange import attempt, parts
from ferrytest.image import decode

SID = pathlib.Path(os.environ.get("FERRY_CRIU_SID") or pathlib.Path(os.environ["FERRY_BUILD"]) / "criu-sid")
BASE = pathlib.Path("criuname")
PART = 40  # programs of one test


class Named(Criu):
    """ferry, started as criu."""

    name = "ferry"

    def __init__(self):
        super().__init__(SID)
        folder = pathlib.Path("bin")
        folder.mkdir(exist_ok=True)
        self.path = (folder / "criu").absolute()
        if not self.path.is_symlink():
            self.path.symlink_to(pathlib.Path(os.environ["FERRY"]).absolute())

    def command(self, program, *words):
        return [str(program), *map(str, words)]


def folders(name):
    """(images, work, current directory), all empty."""
    base = BASE / name
    shutil.rmtree(base, ignore_errors=True)
    places = [(base / part).absolute() for part in ("images", "work", "here")]
    for place in places:
        place.mkdir(parents=True)
    return places


def run_in(engine, folder, *words, environment=None):
    """A command line, in a directory."""
    return subprocess.run(engine.command(engine.path, *words), cwd=folder, text=True, stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=60, check=False, env={**os.environ, **(environment or {})})


def names(folder):
    """Of the files in it."""
    return sorted(path.name for path in folder.iterdir())


def there_and_back(engine):
    """A process that goes, and comes back; who has which file afterwards: ({work}, {here}, pidfile)."""
    images, work, here = folders(engine.name)
    program = Program("heap-stack")
    words = ("-D", images, "-W", "../work")
    done = run_in(engine, here, "dump", "-t", program.pid, "-D", images, "-W", work, "-o", "d.log", "-v4", "--pidfile", "unused", "-R")
    assert done.returncode == 0 and done.stdout == done.stderr == "", done
    assert (work / "d.log").stat().st_size
    program.verify()
    done = run_in(engine, here, "-o", "d.log", f"-t{program.pid}", *words, "-vvvv", "dump")
    assert done.returncode == 0 and done.stdout == done.stderr == "", done
    program.wait_gone([program.pid])
    done = run_in(engine, here, "restore", *words, "-o", "r.log", "-d", "--pidfile", "pid", "-v0")
    assert done.returncode == 0 and done.stdout == done.stderr == "", done
    program.verify()
    pidfile = (work / "pid").read_text(encoding="ascii")
    assert int(pidfile) == program.pid
    before = names(images)
    # It lives: the same number is taken. The log's last line says why, and nothing is lost.
    done = run_in(engine, here, "restore", *words, "-o", "again.log", "-d")
    assert done.returncode == 1 and done.stdout == done.stderr == "", done
    last = (work / "again.log").read_text(encoding="utf-8").splitlines()[-1]
    assert "Error" in last, last
    program.verify()
    program.quit()
    assert names(images) == before
    return set(names(work)), set(names(here)), len(pidfile) - len(str(program.pid))


FILES = {"d.log", "r.log", "again.log", "pid", "stats-dump", "stats-restore"}


@test(timeout=120, needs=["criu-sid"])
def paths():
    """Log, pidfile and images of a dump and a restore lie where CRIU puts them."""
    assert there_and_back(Named()) == there_and_back(Criu(SID)) == (FILES, set(), 0)


def statistics(engine):
    """Labels that are shown, and the statistics of a dump and of a restore, and how many pages the image has."""
    images, work, here = folders("stats-" + engine.name)
    program = Program("heap-stack")
    words = ("-D", images, "-W", work, "--display-stats", "-o", "log")
    dump = run_in(engine, here, "dump", "-t", program.pid, *words)
    assert dump.returncode == 0, dump
    program.wait_gone([program.pid])
    restore = run_in(engine, here, "restore", "-d", *words)
    assert restore.returncode == 0, restore
    program.verify()
    program.quit()
    labels = [line.partition(":")[0] for line in (dump.stdout + restore.stdout).splitlines()]
    stored = sum(path.stat().st_size for path in images.glob("pages-*.img")) // 4096
    return labels, decode(work / "stats-dump")["entries"][0]["dump"], decode(work / "stats-restore")["entries"][0]["restore"], stored


@test(timeout=60, needs=["criu-sid"])
def stats():
    """stats-dump and stats-restore have the fields that tools read, and numbers that fit the image."""
    of_criu, of_ferry = statistics(Criu(SID)), statistics(Named())
    assert of_criu[0] == of_ferry[0]
    for _, dump, restore, stored in (of_criu, of_ferry):
        assert int(dump["pages_written"]) + int(dump.get("shpages_written", 0)) == stored, (dump, stored)
        assert int(dump["pages_scanned"]) >= stored and int(restore["pages_restored"]) > 0
        assert dump["frozen_time"] > 0 and dump["freezing_time"] > 0 and restore["restore_time"] > 0


# Each with what CRIU's exit status is, and whether standard output is that of CRIU.
LINES = (
    ((), False),
    (("nonsense",), False),
    (("dump",), False),
    (("dump", "--nonsense"), False),
    (("dump", "-t"), False),
    (("dump", "-t", "word"), False),
    (("dump", "-t", "-1"), False),
    (("dump", "-t", "99999999", "-D", "."), False),
    (("dump", "-t", "1", "-D", "missing"), False),
    (("restore", "-D", "missing"), False),
    (("restore", "-D", "."), False),
    (("check",), True),
    (("-v4", "check"), True),
    (("check", "-verbosity=0"), True),
    (("check", "--verbosity=4", "-o", "check.log"), True),
    (("check", "-v0", "-W", "."), True),
    (("check", "--no-shell-job", "--no-tcp-established"), True),
    (("check", "--leave-run"), True),
    (("check", "--feature", "nonsense"), False),
    (("check", "--feature", "uffd"), True),
    (("check", "--feature", "pagemap_scan"), True),
    (("check", "--feature", "openat2"), True),
    (("check", "--config", "missing.conf"), True),
)


@test(timeout=120, needs=["criu-sid"])
def answers():
    """What is no job is answered by the same exit status, and where tools read it by the same text."""
    criu, ferry = Criu(SID), Named()
    criu.run("check")  # fills its cache of kernel features
    differ = []
    for words, same_text in LINES:
        theirs, ours = (run_in(engine, folders("answers")[2], *words) for engine in (criu, ferry))
        if theirs.returncode != ours.returncode or (same_text and theirs.stdout != ours.stdout):
            differ.append(f"{words}: {theirs} {ours}")
        assert ours.returncode == 0 or "Error" in ours.stderr or ours.stdout.startswith("Usage"), ours
    assert not differ, "\n".join(differ)
    version = ferry.run("--version").stdout.splitlines()
    assert version[0] == "Version: 4.2" and version[1].startswith("ferry: "), version
    assert criu.version().startswith("4.2")


@test(timeout=60)
def config():
    """Files are read in their order, each over the one before, and the command line over all of them."""
    ferry = Named()
    home, work, here = folders("config")
    program = Program("heap-stack")
    (home / ".criu").mkdir()
    text = f"# a comment\nlog-file home.log\ntree {program.pid}\nleave-running # another\n"
    (home / ".criu" / "default.conf").write_text(text, encoding="ascii")
    (home / "variable.conf").write_text('log-file "of variable.log"\n', encoding="ascii")
    (home / "named.conf").write_text("  log-file\tnamed.log\n\n", encoding="ascii")
    environment = {"HOME": str(home)}
    common = ("dump", "-D", work)

    def log(*words, **more):
        before = set(names(work))
        done = run_in(ferry, here, *common, *words, environment={**environment, **more})
        assert done.returncode == 0, done
        program.verify()
        new = [name for name in names(work) if name.endswith(".log") and name not in before]
        for name in new:
            (work / name).unlink()
        return new

    assert log() == ["home.log"]
    assert log(CRIU_CONFIG_FILE=str(home / "variable.conf")) == ["of variable.log"]
    assert log("--config", home / "named.conf", CRIU_CONFIG_FILE=str(home / "variable.conf")) == ["named.log"]
    assert log("--config", home / "named.conf", "-o", "words.log") == ["words.log"]
    assert log("--no-default-config", "-t", program.pid, "-R") == []
    for wrong, text in ((("--config", here), "here"), (("--port", "word"), "--port"), (("--tls",), "--tls yet")):
        done = run_in(ferry, here, *common, *wrong, environment=environment)
        assert done.returncode == 1 and text in done.stderr.splitlines()[-1], done
    program.verify()
    program.quit()


@test(timeout=60)
def refused():
    """What CRIU refuses without an option is refused, and the program does not notice: file locks, a terminal from outside."""
    ferry = Named()
    images, _, here = folders("refused")
    program = Program("locks-flock")
    done = run_in(ferry, here, "dump", "-t", program.pid, "-D", images, "-o", "dump.log")
    last = (images / "dump.log").read_text(encoding="utf-8").splitlines()[-1]
    assert done.returncode == 1 and "lock" in last, (done, last)
    assert not (images / "inventory.img").exists()
    program.verify()
    done = run_in(ferry, here, "dump", "-t", program.pid, "-D", images, "-o", "dump.log", "--file-locks")
    assert done.returncode == 0, done
    program.wait_gone([program.pid])
    done = run_in(ferry, here, "restore", "-D", images, "-d", "-l", "-o", "restore.log")
    assert done.returncode == 0, done
    program.verify()
    program.quit()


# What a program of our own needs to be taken along, where CRIU does not take it anyway.
WORDS = {"old-leases": ("--file-locks",)}


def programs(cases):
    """Each of them there and back, by the words that CRIU wants for it."""
    engine, problems = Named(), []
    for case in cases:
        engine.words = WORDS.get(case.name, case.criu)
        problem = attempt(case, engine, engine, more=True)
        if problem is not None:
            problems.append(f"{case.name}: {problem[:400]}")
    assert not problems, "; ".join(problems)


def register(name, cases):
    """The test of some programs."""
    test(name="programs-" + name, timeout=900)(lambda: programs(cases))


if os.environ.get("FERRY"):
    for part_name, part in parts(PART):
        register(part_name, part)

if __name__ == "__main__":
    main()
