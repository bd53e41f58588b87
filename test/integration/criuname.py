#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry under the name criu: the same command lines as CRIU's, with the same exit statuses, files and answers."""

import os
import pathlib
import shutil
import subprocess

from ferrytest import Program, main, test
from ferrytest.criurpc import Worker, descriptor, fields
from ferrytest.engine import Criu
from ferrytest.exchange import attempt, parts
from ferrytest.image import decode
from ferrytest.process import wait_until

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


# What happens to a file that is open to be read and written and to the program, by which words, and whether it comes back.
CHANGES = {
    "nothing": ("true", (), True),
    "rights": ("chmod 600 file", (), False),
    "rights-skipped": ("chmod 600 file", ("--skip-file-rwx-check",), True),
    "program": ("cp /bin/cat program", (), False),
    "program-size": ("cp /bin/cat program", ("--file-validation", "filesize"), False),
    "size": ("echo more >> file", ("--file-validation", "filesize"), False),
    "build": ("echo more >> file", ("--file-validation", "buildid"), False),
    "appended": ("echo more >> log", ("--file-validation", "buildid"), True),
}


def compared(engine):
    """Which of the changed files are taken: by name of the change."""
    found = {}
    for name, (change, words, _) in CHANGES.items():
        images, _, here = folders(f"compared-{engine.name}")
        shutil.copy("/bin/sleep", here / "program")
        for file in ("file", "log"):
            (here / file).write_text("hello", encoding="ascii")
            (here / file).chmod(0o644)
        tree = subprocess.run(["sh", "-c", "umask 022; setsid ./program 1000 <>file >>log 2>&1 & echo $!"], cwd=here, check=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        pid = int(tree.stdout)
        wait_until(lambda: pathlib.Path(f"/proc/{pid}/comm").read_text(encoding="ascii") == "program\n", "it does not start")
        done = run_in(engine, here, "dump", "-t", pid, "-D", images, "-o", "log")
        assert done.returncode == 0, (name, done)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "it does not end")
        subprocess.run(["sh", "-c", change], cwd=here, check=True)
        done = run_in(engine, here, "restore", "-D", images, "-d", "-o", "r.log", *words)
        found[name] = done.returncode == 0
        if found[name]:
            os.kill(pid, 9)
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "it does not end")
    return found


@test(timeout=120, needs=["criu-sid"])
def files_compared():
    """Permissions, sizes and builds of files count as with CRIU."""
    wanted = {name: taken for name, (_, _, taken) in CHANGES.items()}
    assert compared(Named()) == wanted
    assert compared(Criu(SID)) == wanted


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
    for wrong, text in ((("--config", here), "here"), (("--port", "word"), "--port"), (("--lsm-profile", "x"), "--lsm-profile yet")):
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


# What is asked for, the stage at which the script fails; and then whether it goes on nevertheless.
HOOKED = (("dump", None), ("dump", "pre-dump"), ("dump", "post-dump"), ("end", None), ("restore", "pre-restore"),
          ("restore", "post-restore"), ("restore", "pre-resume"), ("restore", "post-resume"), ("restore", None))


def hooked(engine):
    """For each of them whether it succeeds, and what two scripts are told at which stages."""
    images, work, here = folders("hooks-" + engine.name)
    told, fails = work / "told", work / "fails"
    for name in ("one", "two"):
        script = here / name
        script.write_text(f'#!/bin/sh\necho {name} "$CRTOOLS_SCRIPT_ACTION" "$CRTOOLS_INIT_PID" "$PWD" "$#" '
                          f'"$(ls $CRTOOLS_IMAGE_DIR | grep -c inventory)" >> {told}\n[ "$CRTOOLS_SCRIPT_ACTION" != "$(cat {fails})" ]\n',
                          encoding="ascii")
        script.chmod(0o755)
    program = Program("heap-stack")
    common = ("-D", images, "-W", work, "-o", "log", "--action-script", here / "one", "--action-script", here / "two")
    answers = []
    for what, stage in HOOKED:
        told.write_text("", encoding="ascii")
        fails.write_text(stage or "", encoding="ascii")
        if what == "restore":
            done = run_in(engine, here, "restore", "-d", *common)
        else:
            more = ["-R"] * (what == "dump")
            done = run_in(engine, here, "dump", "-t", program.pid, *common, *more, environment={"CRTOOLS_INIT_PID": "1"})
        lives = what == "dump" or (what == "restore" and done.returncode == 0)
        if not lives:
            program.wait_gone([program.pid])
        else:
            program.verify()
        if what == "restore" and lives and (what, stage) != HOOKED[-1]:
            program.kill([program.pid])
            program.wait_gone([program.pid])
        text = told.read_text(encoding="ascii").replace(str(work), "WORK").replace(f" {program.pid} ", " PID ")
        answers.append((what, stage, done.returncode == 0, lives, text.splitlines()))
    program.verify()
    program.quit()
    return answers


@test(timeout=120, needs=["criu-sid"])
def hooks():
    """Action scripts run at the stages, with the variables and with the effect of a failure, that they have with CRIU."""
    of_criu, of_ferry = hooked(Criu(SID)), hooked(Named())
    assert [one[:4] for one in of_ferry] == [one[:4] for one in of_criu], (of_ferry, of_criu)
    # CRIU leaves the image of a dump that failed, and closes the directory before the last stage.
    told = [[[line[:-2] for line in one[4]] for one in answers] for answers in (of_ferry, of_criu)]
    assert told[0] == told[1], [pair for pair in zip(*told) if pair[0] != pair[1]]
    assert sum(len(one[4]) for one in of_ferry) > 30
    assert all(line[-1] == "0" for one in of_ferry for line in one[4] if one[0] == "end" and "pre-dump" in line)
    assert all(line[-1] == "1" for one in of_ferry for line in one[4] if "pre-dump" not in line)


def called(engine):
    """What a worker answers to a series of requests, in terms that are the same for every engine."""
    images, work, here = folders("rpc-" + engine.name)
    program = Program("heap-stack")
    said = []

    options = {"images_dir_fd": descriptor(images), "work_dir_fd": descriptor(work), "log_level": 4, "log_file": "log"}
    dump = {**options, "pid": program.pid, "notify_scripts": True}
    (here / "rpc.conf").write_text("log-file of-config\n", encoding="ascii")

    def ask(what, *words, **more):
        """The answer of a worker of its own."""
        with Worker(engine) as worker:
            answer, stages = worker.ask(what, *words, **more)
            status = worker.end()[0]
        told = [(stage, pid == program.pid) for stage, pid in stages]
        said.append((what, answer.get(1), answer.get(2), bool(answer.get(7)), told, status))
        return answer

    version = fields(ask("version")[10])
    said.append((version[1], version[2]))
    features = fields(ask("feature-check", features=["lazy_pages"])[8])
    said.append((sorted(features), features[2], features[1] or engine.name == "criu"))
    ask("check")
    ask("dump", {**dump, "leave_running": True})
    program.verify()
    for stage in ("pre-dump", "post-dump"):
        ask("dump", {**dump, "leave_running": True}, refuse=stage)
        program.verify()
    ask("dump", {**options, "pid": 99999999})
    ask("dump", {**dump, "leave_running": True, "config_file": str(here / "rpc.conf")})
    ask("dump", dump)
    program.wait_gone([program.pid])
    ask("restore", {**options, "notify_scripts": True}, refuse="post-restore")
    program.wait_gone([program.pid])
    answer = ask("restore", {**options, "notify_scripts": True, "rst_sibling": True})
    assert fields(answer[4])[1] == program.pid, answer
    program.verify()
    # A child of ours, not of the worker's.
    assert int(pathlib.Path(f"/proc/{program.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == os.getpid()
    program.kill([program.pid])
    os.waitpid(program.pid, 0)
    for fd in (options["images_dir_fd"], options["work_dir_fd"]):
        os.close(fd)
    return said, sorted(names(work))


@test(timeout=120, needs=["criu-sid"])
def rpc():
    """Requests over a socket have the answers, stages and effects that they have with CRIU."""
    of_criu, of_ferry = called(Criu(SID)), called(Named())
    assert of_ferry == of_criu, [pair for pair in zip(of_ferry[0] + [of_ferry[1]], of_criu[0] + [of_criu[1]]) if pair[0] != pair[1]]


@test(timeout=60)
def rpc_wrong():
    """What is no request, or asks for what ferry has not, is answered with the cause; nothing happens to anybody."""
    images, _, here = folders("rpc-wrong")
    program = Program("heap-stack")
    options = {"images_dir_fd": descriptor(images), "pid": program.pid}
    with Worker(Named()) as worker:
        answer = worker.ask("dump", {**options, "external": "nonsense"}, keep=True)[0]
        assert not answer[2] and b"nonsense" in answer[9] and answer[7], answer
        assert not worker.ask("wait-pid", keep=True)[0][2] and not worker.ask("dump", keep=True)[0][2]
        answer = worker.ask("dump", {**options, "pid": 99999999}, keep=True)[0]
        assert b"99999999" in answer[9], answer
        assert not worker.ask("dump", {**options, "config_file": str(here)}, keep=True)[0][2]
        worker.send(b"\xff\xff\xff")
        assert worker.receive() == {}
        status, out = worker.end()
        assert status == 1 and "no message of CRIU's" in out, (status, out)
    done = run_in(Named(), here, "swrk", "word")
    assert done.returncode == 1 and "number of a descriptor" in done.stderr, done
    done = run_in(Named(), here, "swrk", "77")
    assert done.returncode == 1 and "descriptor 77" in done.stderr, done
    program.verify()
    program.quit()
    os.close(options["images_dir_fd"])


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
