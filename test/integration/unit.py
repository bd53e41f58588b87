#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The systemd unit that saves root's jobs at shutdown and runs them on at boot: what it says, and what its commands do."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import tempfile

from ferrytest import Ferry, main, test
from ferrytest.cases import CASES
from ferrytest.jobs import COUNTER, JobProgram, Jobs
from ferrytest.process import wait_until

FOLDER = "packaging/systemd"
# What a job may have open or be connected to when it is saved; it must not be gone by then.
NEEDED = {"local-fs.target", "remote-fs.target", "network.target"}
LONG_SECONDS = 300


def parse(path):
    """{section: {key: [values]}} of a unit file."""
    sections, current = {}, None
    for line in path.read_text().splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            assert line[-1] == "]", line
            current = sections.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition("=")
        assert equals and current is not None, line
        current.setdefault(key.strip(), []).append(value.strip())
    return sections


def unit():
    """The unit as it is installed."""
    return parse(pathlib.Path(os.environ["FERRY_BUILD"]) / FOLDER / "ferry-jobs.service")


def command(key):
    """(argument list, whether its failure counts) of the unit's only command of this kind."""
    lines = unit()["Service"][key]
    assert len(lines) == 1 and "%" not in lines[0] and "$" not in lines[0], lines
    words = shlex.split(lines[0])
    counts = not words[0].startswith("-")
    assert pathlib.Path(words[0].lstrip("-")).is_absolute() and words[0].endswith("/ferry"), words
    return [Ferry().path, *words[1:]], counts


def run(key):
    """As systemd would: nothing but the command line, and next to no environment."""
    words, _ = command(key)
    return subprocess.run(words, check=False, text=True, env={"PATH": os.environ["PATH"], "LANG": "C"}, cwd="/",
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)


def seconds(text):
    """A time span of systemd's, of those that the unit uses."""
    return int(text[:-3]) * 60 if text.endswith("min") else int(text.removesuffix("s"))


if os.environ.get("FERRY"):
    @test()
    def says():
        """It is ordered so that jobs are saved while all they use is there, lets them live, and gives them time."""
        u = unit()
        service = u["Service"]
        assert NEEDED <= set(" ".join(u["Unit"]["After"]).split()), u
        assert "network-online.target" not in " ".join(u["Unit"].get("Before", [])), u
        assert service["Type"] == ["oneshot"] and service["RemainAfterExit"] == ["yes"], service
        # Jobs that ExecStart brought back are in the unit's control group, and are nobody's to kill.
        assert service["KillMode"] == ["process"], service
        assert all(seconds(service[key][0]) >= LONG_SECONDS for key in ("TimeoutStartSec", "TimeoutStopSec")), service
        assert u["Install"]["WantedBy"] == ["multi-user.target"], u
        assert not command("ExecStart")[1], "one job that does not come back must not stop the unit"
        # Sessions end after it: jobs that were started in one are part of it.
        session = parse(pathlib.Path(os.environ["FERRY_SOURCE"]) / FOLDER / "10-ferry-jobs.conf")
        assert session["Unit"]["Before"] == ["ferry-jobs.service"], session
        if shutil.which("systemd-analyze"):
            place = pathlib.Path(tempfile.mkdtemp()) / "ferry-jobs.service"
            words = command("ExecStart")[0][0]
            text = (pathlib.Path(os.environ["FERRY_BUILD"]) / FOLDER / "ferry-jobs.service").read_text()
            place.write_text("\n".join(f"{line.partition('=')[0]}={words} check" if line.startswith("Exec") else line
                                       for line in text.splitlines()))
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(place)], check=False, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert done.returncode == 0 and place.name not in done.stdout, done

    @test(timeout=120)
    def shutdown_and_boot():
        """Its own command lines, in their order, over running jobs: all are saved and gone, and all come back as they were."""
        # In its default place, which is the test's own.
        subprocess.run(["mount", "-t", "tmpfs", "ferry-test", "/var/lib"], check=True)
        jobs = Jobs()
        jobs.folder = pathlib.Path("/var/lib/ferry/jobs")
        case = next(case for case in CASES if case.name == "family")
        program = JobProgram.start(jobs, case)
        jobs.start("counter", *COUNTER)
        os.kill(jobs.start("lost", *COUNTER), signal.SIGKILL)
        jobs.moves_on()
        for _ in (1, 2):
            before = program.inside()
            pids = [job["pid"] for job in jobs.list().values() if job["pid"]]
            assert len(pids) == 2
            done = run("ExecStop")
            assert done.returncode == 0, done
            assert {name: job["state"] for name, job in jobs.list().items()} == {
                "family": "saved", "counter": "saved", "lost": "lost"}
            wait_until(lambda pids=pids: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "they still run")
            stands = jobs.counted()
            # Stopped again, as after a boot that failed: nothing changes.
            assert run("ExecStop").returncode == 0 and jobs.counted() == stands
            done = run("ExecStart")
            assert done.returncode == 0, done
            assert {name: job["state"] for name, job in jobs.list().items()} == {
                "family": "running", "counter": "running", "lost": "lost"}
            program.look()
            program.compare(before)
            program.verify()
            jobs.moves_on()
        program.finish()
        for name in ("family", "counter"):
            jobs.good("stop", name)

if __name__ == "__main__":
    main()
