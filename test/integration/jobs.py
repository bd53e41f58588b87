#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Long jobs: started so that they can move, saved, restored, stopped; by root and by an ordinary user; and whatever
instant ferry is killed at, there is the running job or one image of it that restores."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

from ferrytest import Ferry, main, test
from ferrytest.engine import EngineError
from ferrytest.process import wait_until

NOBODY = 65534
COUNTER = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"]


class Jobs:
    """One state directory, and ferry run by its owner."""

    def __init__(self, user=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="jobs-"))
        self.prefix = []
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
        return subprocess.run(command, check=False, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, start_new_session=True, env={**os.environ, **(environment or {})})

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


if os.environ.get("FERRY"):
    @test(timeout=120)
    def rounds():
        """As root."""
        Jobs().rounds()

    @test(timeout=120)
    def ordinary_user():
        """As nobody, in a user namespace."""
        Jobs(NOBODY).rounds()

    @test(timeout=60)
    def ready_to_move():
        """Nothing ties a job to where it was started."""
        jobs = Jobs()
        pid = jobs.start("counter", *COUNTER)
        for name in ("pid", "mnt"):
            assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[3]) == pid and fields[4] == "0", "session, terminal"
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)]
        assert links == ["/dev/null", str(jobs.folder / "counter/log"), str(jobs.folder / "counter/log")], links
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        # Its own ps sees it alone.
        inside = subprocess.run(["nsenter", "-t", str(pid), "-p", "-m", "ls", "/proc"], check=True, text=True,
                                stdout=subprocess.PIPE).stdout.split()
        assert "1" in inside and str(pid) not in inside or pid < 10
        check = Ferry().run("check", "--tree", pid)
        assert check.returncode == 0, check
        jobs.good("stop", "counter")

    @test(timeout=60)
    def ends():
        """Exit status of the command; orphans are reaped; the job lasts as long as anybody is there."""
        jobs = Jobs()
        jobs.start("seven", "sh", "-c", "sh -c 'sleep 0.3; echo late' & exit 7")
        wait_until(lambda: jobs.state("seven") == "ended", "the job does not end")
        assert jobs.list()["seven"]["status"] == 7, jobs.list()
        assert jobs.log("seven") == ["late"]
        jobs.start("missing", "/bin/sh", "-c", "exec /nowhere")
        wait_until(lambda: jobs.state("missing") == "ended", "the job does not end")
        assert jobs.list()["missing"]["status"] == 127
        done = jobs.run("run", "no-such-command-anywhere")
        assert done.returncode == 2 and "no command" in done.stderr, done
        assert set(jobs.list()) == {"seven", "missing"}

    @test(timeout=60)
    def stop_hands_on():
        """SIGTERM reaches the command; a deaf one is killed."""
        jobs = Jobs()
        jobs.start("polite", "sh", "-c", "trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done")
        jobs.start("deaf", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
        time.sleep(0.2)
        jobs.good("stop", "polite")
        assert jobs.log("polite") == ["bye"] and jobs.list()["polite"]["status"] == 3
        jobs.good("stop", "--timeout", "1", "deaf")
        assert jobs.state("deaf") == "ended"

    @test(timeout=60)
    def names():
        """One job of a name; the others get numbers. Names are checked."""
        jobs = Jobs()
        jobs.start("one", "sleep", "100")
        assert jobs.run("run", "--name", "one", "sleep", "100").returncode == 2
        assert jobs.run("run", "--name", "../one", "sleep", "100").returncode == 2
        for name in ("sleep", "sleep-2"):
            assert json.loads(jobs.good("run", "--json", "sleep", "100"))["name"] == name
        for verb in ("save", "logs", "stop", "rm", "restore"):
            done = jobs.run(verb, "nobody")
            assert done.returncode == 2 and "[no-such-job]" in done.stderr, done
        for name in ("one", "sleep", "sleep-2"):
            jobs.good("stop", name)

    @test(timeout=60)
    def wrong_state():
        """What a job's state does not allow is refused and changes nothing."""
        jobs = Jobs()
        jobs.start("counter", *COUNTER)
        for words in (["restore", "counter"], ["rm", "counter"], ["rm", "--force", "counter"]):
            assert jobs.run(*words).returncode == 2, words
        jobs.moves_on()
        jobs.good("save", "counter")
        for words in (["save", "counter"], ["stop", "counter"], ["rm", "counter"]):
            assert jobs.run(*words).returncode == 2, words
        assert jobs.state() == "saved"
        jobs.good("rm", "--force", "counter")

    @test(timeout=120)
    def all_of_them():
        """save --all: one that cannot be saved is reported and runs on, the others are saved; restore --all."""
        jobs = Jobs()
        jobs.start("first", *COUNTER)
        time.sleep(1.1)
        # It is connected to us, whom no image could bring back.
        outside = socket.socket(socket.AF_UNIX)
        outside.bind(str(jobs.folder.parent / "outside"))
        outside.listen()
        jobs.start("stuck", "python3", "-c", "import socket, sys, time\ns = socket.socket(socket.AF_UNIX)\n"
                   "s.connect(sys.argv[1])\nwhile True: time.sleep(1)", str(jobs.folder.parent / "outside"))
        peer = outside.accept()
        time.sleep(1.1)
        jobs.start("last", *COUNTER)
        time.sleep(0.5)
        done = jobs.run("save", "--all", "--json")
        assert done.returncode == 3, done
        told = {job["name"]: job for job in json.loads(done.stdout)}
        assert list(told) == ["first", "stuck", "last"], "the oldest first"
        assert told["stuck"]["error"] == "outside-peer" and told["stuck"]["state"] == "running", told
        assert told["first"]["error"] is None and told["last"]["error"] is None
        assert {name: job["state"] for name, job in jobs.list().items()} == {
            "first": "saved", "stuck": "running", "last": "saved"}
        jobs.good("restore", "--all")
        jobs.moves_on("first")
        jobs.moves_on("last")
        for name in ("first", "stuck", "last"):
            jobs.good("stop", name)
        assert not peer[0].recv(1)

    @test(timeout=60)
    def older_image_stays():
        """A failed save leaves the job running and touches no image that is there."""
        jobs = Jobs()
        jobs.start("counter", *COUNTER)
        jobs.good("save", "counter")
        jobs.good("restore", "counter")
        before = sorted(path.name for path in (jobs.folder / "counter/image-1").iterdir())
        for fault in ("image-write", "image-sync", "read-back", "pages-read"):
            done = jobs.run("save", "counter", environment={"FERRY_FAULT": fault})
            assert done.returncode == 1 and "[fault]" in done.stderr, done
            assert jobs.state() == "running"
            images = [path.name for path in jobs.folder.glob("counter/image-*")]
            assert images == ["image-1"], images
        assert sorted(path.name for path in (jobs.folder / "counter/image-1").iterdir()) == before
        jobs.moves_on()
        jobs.good("stop", "counter")

    @test(timeout=60)
    def follow():
        """logs -f prints what comes, and ends with the job."""
        jobs = Jobs()
        jobs.start("short", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
        assert jobs.good("logs", "-f", "short") == "1\n2\n3\n"

    def killed(verb, wanted):
        """Kill ferry at each of its effects in turn: always the running job or an image that restores."""
        jobs = Jobs()
        jobs.start("counter", *COUNTER)
        for number in range(1, 300):
            jobs.moves_on()
            if verb == "restore":
                jobs.good("save", "counter")
            done = jobs.run(verb, "counter", environment={"FERRY_KILL_AT": str(number),
                                                          "FERRY_KILL_VICTIM": ("self", "group")[number % 2]})
            state = wait_until(lambda: jobs.list().get("counter", {}).get("state"), "no state")
            time.sleep(0.05)
            assert state in ("running", "saved"), (number, state, done)
            if done.returncode == 0:
                break
            if jobs.state() == "saved":
                jobs.good("restore", "counter")
            jobs.moves_on()
        assert number > 3 and jobs.state() == wanted, (number, jobs.list())
        shutil.rmtree(jobs.folder / "nothing", ignore_errors=True)
        if wanted == "saved":
            jobs.good("restore", "counter")
        jobs.moves_on()
        jobs.good("stop", "counter")

    test(name="killed_save", timeout=240)(lambda: killed("save", "saved"))
    test(name="killed_restore", timeout=240)(lambda: killed("restore", "running"))

if __name__ == "__main__":
    main()
