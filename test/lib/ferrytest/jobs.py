# SPDX-License-Identifier: Apache-2.0
"""Long jobs (ferry run): a state directory and who owns it, and test programs that run as jobs."""

import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import time

from ferrytest.engine import EngineError, Ferry, note_refusal
from ferrytest.process import wait_until
from ferrytest.program import SKIPPED, Program, is_old, program_path, runs
from ferrytest.register import skip
from ferrytest.snapshot import differences

NOBODY = 65534
READY_SECONDS = 8
# Where /proc is that of another PID namespace it ends.
COUNTER = ["sh", "-c", "i=0; while read me rest </proc/self/stat && [ $me = $$ ]; do i=$((i+1)); echo $i; sleep 0.1; done"]


class Jobs:
    """One state directory, and ferry run by its owner."""

    def __init__(self, user=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="jobs-"))
        self.prefix, self.user = [], user
        if user:
            # All folders above have to let the user through.
            for folder in [self.folder, *self.folder.parents]:
                if folder != pathlib.Path("/") and os.stat(folder).st_uid == 0:
                    folder.chmod(folder.stat().st_mode | 0o055)
            os.chown(self.folder, user, user)
            self.prefix = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]

    def run(self, verb, *words, environment=None):
        """One verb; the finished process."""
        more = ["--state-dir", str(self.folder)]
        command = [*self.prefix, Ferry().path, verb, *more, *map(str, words)]
        done = subprocess.run(command, check=False, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, start_new_session=True, env={**os.environ, **(environment or {})})
        if done.returncode:
            note_refusal(done)
        return done

    def check(self, pid):
        """ferry check of a tree, by the owner of the jobs."""
        return subprocess.run([*self.prefix, Ferry().path, "check", "--user-ns", "--tree", str(pid)], check=False, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)

    def good(self, verb, *words):
        """It has to succeed; its output."""
        done = self.run(verb, *words)
        if done.returncode:
            raise EngineError(f"ferry {verb}", done)
        return done.stdout

    def start(self, name, *command):
        """A job; PID of its first process."""
        return json.loads(self.good("run", "--json", "--name", name, "--", *command))["pid"]

    def list(self):
        """By name."""
        return {job["name"]: job for job in json.loads(self.good("ps", "--json"))}

    def state(self, name="counter"):
        """running, saved, ended"""
        return self.list()[name]["state"]

    def log(self, name="counter"):
        """The lines."""
        return self.good("logs", name).splitlines()

    def counted(self, name="counter"):
        """The counter's last number; the lines are 1, 2, 3 and so on, each once."""
        lines = self.log(name)
        assert lines == [str(n + 1) for n in range(len(lines))], lines[-5:]
        return len(lines)

    def moves_on(self, name="counter"):
        """The counter runs."""
        before = self.counted(name)
        wait_until(lambda: self.counted(name) > before, "the job does not go on")

    def rounds(self):
        """Saved and restored twice; the count goes on without a gap."""
        pid = self.start("counter", *COUNTER)
        self.moves_on()
        for number in (1, 2):
            self.good("save", "counter")
            assert self.state() == "saved"
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the job still runs")
            images = sorted(path.name for path in self.folder.glob("counter/image-*"))
            assert images == [f"image-{number}"], images
            stands = self.counted()
            time.sleep(0.1)
            assert self.counted() == stands
            self.good("restore", "counter")
            pid = self.list()["counter"]["pid"]
            assert pid and self.state() == "running"
            self.moves_on()
            assert self.counted() > stands
        self.good("stop", "counter")
        assert self.state() == "ended"
        self.good("rm", "counter")
        assert not list(self.folder.iterdir())


class JobProgram(Program):
    """A test program that is a job. Its numbers are those of the job's own PID namespace, but for pid, the job's first
    process as everybody else knows it."""

    @classmethod
    def start(cls, jobs, case):
        """As a job of the case's name; ready, and with nothing to object to. None: it needs what its owner has not. What only
        some states need is left out then."""
        partner = case.partner() if case.partner else None
        skipped = None
        if is_old(case.program) and not runs(case.program):
            skip("neither compiler nor kernel need have programs of 32 bits")
        for words in (("more",), ())[partner is not None:]:
            program = cls.start_once(jobs, case, partner, words)
            if program.is_fit():
                return program
            skipped = jobs.list()[case.name]["status"] == SKIPPED and program.log()
            jobs.run("stop", "--timeout", "1", case.name)
            jobs.good("rm", case.name)
        print(f"{case.name} cannot do its work for this user")
        # As root it is the machine that lacks something.
        if skipped and not jobs.user:
            skip(skipped)
        return None

    @classmethod
    def start_once(cls, jobs, case, partner, words):
        """Started, and ready if it becomes so."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix=case.name + "-"))
        folder.chmod(0o1777)
        (folder / "log").touch()
        path = program_path(case.program)
        if jobs.user:
            os.chown(folder, jobs.user, jobs.user)
            # It need not be let through to where the build is.
            path = shutil.copy2(path, folder)
        pid = jobs.start(case.name, str(path), str(folder), *case.arguments, *words)
        program = cls.adopt({"name": case.name, "folder": folder, "asked": 0, "pid": pid, "roles": [], "jobs": jobs,
                             "partner": partner})
        if partner:
            partner.connect(program)
        try:
            wait_until(lambda: program.answer_of("main") or not program.running(), f"{case.name} is not ready", READY_SECONDS)
        except AssertionError as error:
            print(error)
        program.roles = sorted(p.name.partition(".")[2] for p in folder.glob("answer.*"))
        return program

    def is_fit(self):
        """Whether it is ready, and can prove its state as this user."""
        try:
            if self.running() and self.answer_of("main"):
                self.verify()
                return True
        except AssertionError as error:
            print(error)
        print(self.log())
        return False

    def log(self):
        """What the program wrote."""
        return "\n".join(self.jobs.log(self.name))

    def look(self):
        """The job was restored: what is its first process called now?"""
        self.pid = self.jobs.list()[self.name]["pid"]

    def inside(self):
        """A snapshot from within its PID namespace, where its numbers are always the same."""
        return snapshot_inside(self.pid, 1, self.volatile())

    def compare(self, before):
        """Raise if the snapshot differs from that of now."""
        found = differences(before, self.inside())
        assert not found, f"{len(found)} differences: " + "; ".join(found[:12])


# What runs in a PID namespace that it was brought into, with a /proc of it.
SNAPSHOT = """
import pickle, subprocess, sys
from ferrytest.snapshot import snapshot
subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
sys.stdout.buffer.write(pickle.dumps(snapshot(int(sys.argv[1]), pickle.loads(sys.stdin.buffer.read()))))
"""


def snapshot_inside(pid, number, volatile):
    """A snapshot of the tree below number as the PID namespace of pid, and its mounts, show it."""
    done = subprocess.run(["nsenter", "-t", str(pid), "-p", "-m", "unshare", "--mount", sys.executable, "-B", "-c", SNAPSHOT,
                           str(number)], input=pickle.dumps(volatile), check=True, stdout=subprocess.PIPE)
    return pickle.loads(done.stdout)
