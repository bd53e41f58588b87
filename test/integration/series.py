#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a tree that runs on, one after the other: each restores by itself, whatever was removed, merged, killed or failed."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading

from ferrytest import Ferry, Program, main, test
from ferrytest.chain import contents, stored_pages
from ferrytest.jobs import Jobs
from ferrytest.process import is_alive, wait_until

SERIES = pathlib.Path("series")


class Taking:
    """ferry snapshot in the background; its events."""

    def __init__(self, target, *words, environment=None, folder=SERIES, more=()):
        command = [os.environ["FERRY"], *more, "snapshot", target, "-D", folder, "--json", *words]
        self.process = subprocess.Popen([str(word) for word in command], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, start_new_session=True, env={**os.environ, **(environment or {})})
        self.events = []

    def until(self, event, count=1):
        """Read until so many events of this sort came; the last of them."""
        while sum(seen["event"] == event for seen in self.events) < count:
            line = self.process.stdout.readline()
            assert line, f"it ended: {self.events} {self.process.stderr.read()}"
            self.events.append(json.loads(line))
        return [seen for seen in self.events if seen["event"] == event][-1]

    def end(self, how=signal.SIGTERM):
        """All events, in order. how None: it ends by itself."""
        if how:
            self.process.send_signal(how)
        out, err = self.process.communicate(timeout=60)
        self.events += [json.loads(line) for line in out.splitlines()]
        assert self.process.returncode == (-how if how == signal.SIGKILL else 0), (self.process.returncode, err)
        return self.events


def listed(folder=SERIES):
    """The snapshots that there are."""
    done = Ferry().run("snapshot", "list", folder, "--json")
    assert done.returncode == 0, done
    return [json.loads(line) for line in done.stdout.splitlines()]


def once(target, *words, folder=SERIES):
    """One snapshot; its event."""
    done = Ferry().run("snapshot", target, "-D", folder, "--json", *words)
    assert done.returncode == 0, done
    return next(event for event in map(json.loads, done.stdout.splitlines()) if event["event"] == "stored")


def prune(keep, folder=SERIES, **more):
    """ferry snapshot prune; the finished process."""
    return Ferry().run("snapshot", "prune", folder, "--keep", keep, "--json", **more)


def end(program):
    """All of it, at once."""
    pids = program.tree()
    program.kill()
    program.wait_gone(pids)


def restore(program, folder):
    """It runs again from there, and proves its memory twice."""
    Ferry().restore(folder, more=("--files=as-found",))
    program.process = None
    program.verify()
    program.verify()
    end(program)


class Counter:
    """A shell that counts in memory, and writes each number to a file: what is in the file goes on where its memory does."""

    FILE = pathlib.Path("counted")
    LOOP = 'i=0; while :; do i=$((i+1)); echo "$i" >&3; sleep 0.01; done'

    def __init__(self):
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(["sh", "-c", f"exec 3>>{self.FILE}; {self.LOOP}"], start_new_session=True, close_fds=True,
                                        stdin=null, stdout=null, stderr=null)
        self.pid = self.process.pid
        self.grows()

    def lines(self):
        """The file, which has to have all numbers from 1 on, once."""
        text = self.FILE.read_text(encoding="utf-8")
        numbers = [int(line) for line in text[:text.rfind("\n") + 1].splitlines()]
        assert numbers == list(range(1, len(numbers) + 1)), numbers[-20:]
        return len(numbers)

    def grows(self, by=5):
        """It goes on."""
        wait_until(self.FILE.exists, "it does not begin")
        size = self.lines()
        wait_until(lambda: self.lines() >= size + by, "it does not count")

    def end(self):
        """With all its children."""
        os.killpg(self.pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
            self.process = None
        wait_until(self.is_gone, "it does not end")

    def is_gone(self):
        """Nobody is left in its process group, not even a zombie."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        return False


def read(path):
    """What is there; nothing if it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def keepers(folder=SERIES):
    """Where somebody keeps what tracks a tree."""
    return list(folder.glob("*/ferry-keeper.sock"))


def change(program):
    """Have the program change its memory."""
    path = program.folder / "change"
    path.touch()
    wait_until(lambda: not path.exists(), "the program does not change its memory")


def series_of(program, count):
    """So many snapshots with a change before each; what each holds, by its folder."""
    for _ in range(count):
        change(program)
        once(program.pid, "--track-mem")
    return {one["dir"]: contents(pathlib.Path(one["dir"])) for one in listed()}


if os.environ.get("FERRY"):
    @test(timeout=120)
    def restless():
        """Of a tree that does not rest: every snapshot that stays is it at one instant, also after merging."""
        program = Program("restless-pages")
        taking = Taking(program.pid, "--every", "300ms", "--keep", "3")
        taking.until("stored", 8)
        events = taking.end()
        program.verify()
        assert events[-1]["event"] == "ended" and events[-1]["reason"] == "signal", events[-1]
        stored = [event for event in events if event["event"] == "stored"]
        assert stored[0]["full"] and not any(event["full"] for event in stored[1:]), stored
        assert not [event for event in events if event["event"] == "failed"], events
        assert sum(event["retired"] for event in events if event["event"] == "retained") == len(stored) - 3
        assert not keepers()
        end(program)
        there = listed()
        assert [one["number"] for one in there] == [event["number"] for event in stored[-3:]], there
        # Each stored what was written while the tree ran, on top of the one before; what nobody wrote, shared memory too, once.
        for older, newer in zip(there, there[1:]):
            folder = pathlib.Path(newer["dir"])
            before = (folder / "ferry-round-1" / "parent").resolve()
            assert before == pathlib.Path(older["dir"]).resolve(), (before, older)
            assert stored_pages(folder / "ferry-round-1", "pagemap-[0-9]*.img") > 1024, newer
            assert not stored_pages(folder, "pagemap-shmem-*.img"), newer
        for one in there:
            done = Ferry().run("image", "verify", one["dir"])
            assert done.returncode == 0, done
            restore(program, one["dir"])

    @test(timeout=120)
    def merging():
        """What is merged and punched is not what the others need: all memory of those that stay is the same before and after."""
        for way in ("write", "drop", "replace", "shared", "fork"):
            program = Program("rounds", way)
            before = series_of(program, 7)
            program.verify()
            merged = 0
            for keep in (6, 5, 4, 3, 2, 1):
                done = prune(keep)
                assert done.returncode == 0, done
                merged += json.loads(done.stdout)["merged"]
                there = [one["dir"] for one in listed()]
                assert there == list(before)[-keep:], (keep, there)
                for folder in there:
                    assert contents(pathlib.Path(folder)) == before[folder], (way, keep, folder)
                    done = Ferry().run("image", "verify", folder)
                    assert done.returncode == 0, done
            assert merged, way
            # It goes on from there: what the last one had is not stored again.
            change(program)
            more = once(program.pid)
            assert not more["full"], more
            program.verify()
            end(program)
            for folder in (there[0], more["dir"]):
                Ferry().restore(folder, more=("--files=as-found",))
                program.process = None
                if folder == more["dir"]:
                    program.verify()
                end(program)
            shutil.rmtree(SERIES)

    @test(timeout=60)
    def bounded():
        """What nobody needs takes no room: one copy of the memory, and what each snapshot stored."""
        program = Program("rounds", "write")
        series_of(program, 1)
        whole = listed()[0]["bytes"]
        taking = Taking(program.pid, "--every", "100ms", "--keep", "2")
        for number in range(1, 31):
            change(program)
            taking.until("stored", number)
        taking.end()
        used = sum(path.lstat().st_blocks * 512 for path in SERIES.rglob("*"))
        folders = len(list(SERIES.iterdir()))
        assert used < whole * 3 and folders < 10, (used, whole, folders)
        program.verify()
        program.quit()

    @test(timeout=300)
    def killed():
        """Wherever prune is killed, whatever was whole and is to stay has the same memory, and the next one does the rest."""
        program = Program("rounds", "write")
        before = series_of(program, 5)
        end(program)
        stay = list(before)[-2:]
        number = 0
        while True:
            number += 1
            copy = pathlib.Path(f"copy-{number}")
            subprocess.run(["cp", "--archive", "--sparse=auto", SERIES, copy], check=True)
            done = prune(2, copy, environment={"FERRY_KILL_AT": str(number)})
            folders = [copy / pathlib.Path(folder).name for folder in stay]
            for _ in range(2):
                there = [one["dir"] for one in listed(copy)]
                assert there[-2:] == [str(folder) for folder in folders], (number, there)
                for one in there:
                    folder = str(SERIES / pathlib.Path(one).name)
                    assert contents(pathlib.Path(one)) == before[folder], (number, one)
                    verified = Ferry().run("image", "verify", one)
                    assert verified.returncode == 0, verified
                again = prune(2, copy)
                assert again.returncode == 0, again
            assert [path.name for path in copy.iterdir() if path.name.startswith(".")] == []
            assert len(list(copy.iterdir())) < 5, list(copy.iterdir())
            if done.returncode >= 0:
                break
            shutil.rmtree(copy)
        assert done.returncode == 0 and number > 12, (done, number)
        print(f"killed at {number - 1} places")
        restore(program, folders[0])
        restore(program, folders[1])

    @test(timeout=120)
    def ferry_killed():
        """Without the one who takes them the tree runs on, and what is there restores; the next one goes on and cleans up."""
        program = Program("restless-pages")
        for delay in range(6):
            taking = Taking(program.pid, "--every", "50ms", "--keep", "2")
            taking.until("stored")
            try:
                taking.process.wait(0.07 * delay)
            except subprocess.TimeoutExpired:
                pass
            taking.end(signal.SIGKILL)
            program.verify()
        # A worker that goes on when nobody listens comes to its end.
        wait_until(lambda: Ferry().run("snapshot", "prune", SERIES, "--keep", 2).returncode == 0, "somebody still writes")
        program.verify()
        event = once(program.pid, "--keep", 2)
        program.verify()
        end(program)
        there = listed()
        assert len(there) == 2 and there[-1]["number"] == event["number"], there
        for one in there:
            restore(program, one["dir"])

    @test(timeout=60)
    def tree_ends():
        """The command ends with the tree, and says so; also when there never was one."""
        program = Program("heap-stack")
        taking = Taking(program.pid, "--every", "200ms")
        taking.until("stored", 2)
        end(program)
        last = taking.end(None)[-1]
        assert last["event"] == "ended" and last["reason"] == "tree" and last["count"] >= 2, last
        assert not [event for event in taking.events if event["event"] == "failed"], taking.events
        done = Ferry().run("snapshot", program.pid, "-D", SERIES, "--every", "1s")
        assert done.returncode == 3 and "[no-such-task]" in done.stderr, done
        restore(program, listed()[0]["dir"])

    @test(timeout=60)
    def failing():
        """What fails is told and leaves nothing; the tree runs on, and the next one is whole."""
        program = Program("heap-stack")
        taking = Taking(program.pid, "--every", "100ms", environment={"FERRY_FAULT": "image-write"})
        failed = taking.until("failed", 3)
        assert failed["error"] == "fault", failed
        events = taking.end(signal.SIGINT)
        assert not [event for event in events if event["event"] == "stored"], events
        assert not list(SERIES.iterdir()), list(SERIES.iterdir())
        program.verify()
        event = once(program.pid)
        assert event["full"], event
        end(program)
        restore(program, event["dir"])

    @test(timeout=60)
    def full_disk():
        """No room: the tree runs on, older snapshots restore, and once there is room again the next one is whole."""
        program = Program("rounds", "write")
        SERIES.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32M", "tmpfs", SERIES], check=True)
        taking = Taking(program.pid, "--every", "100ms")
        taking.until("stored")
        filler = SERIES / "filler"
        size = os.statvfs(SERIES)
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, (size.f_bavail - 64) * size.f_frsize)
        taking.events.clear()
        failed = taking.until("failed")
        assert failed["error"] == "no-space", failed
        filler.unlink()
        taking.events.clear()
        event = taking.until("stored")
        taking.end()
        program.verify()
        end(program)
        there = listed()
        assert there[0]["full"] and there[-1]["number"] == event["number"], (event, there)
        for one in (there[0], there[-1]):
            restore(program, one["dir"])
        subprocess.run(["umount", SERIES], check=True)

    @test(timeout=60)
    def hook():
        """A command of the user's runs while the tree stands, where ferry was started; it knows which tree, and where the image will be."""
        program = Program("restless-pages")
        command = ('sed -n "s/State:.//p" /proc/$FERRY_PID/status > seen; echo "$FERRY_PID $FERRY_DIR" >> seen; '
                   'ls $FERRY_DIR >> seen; ! test -e $FERRY_DIR/inventory.img')
        event = once(program.pid, "--hook", command)
        state, where, *files = pathlib.Path("seen").read_text(encoding="utf-8").splitlines()
        assert state.startswith("t "), state
        assert where == f"{program.pid} {pathlib.Path(event['dir']).absolute()}" and "ferry-unfinished" in files, (where, files)
        program.verify()
        # The same for one dump.
        done = Ferry().run("dump", "-t", program.pid, "-D", "images", "-R", "--hook", "echo said; exit 0")
        assert done.returncode == 0 and done.stdout == "" and done.stderr == "said\n", done
        end(program)
        restore(program, event["dir"])

    @test(timeout=60)
    def hook_fails():
        """One that fails, is killed or does not end fails the snapshot, and takes nothing from the tree or from the next one."""
        program = Program("heap-stack")
        for command, text in (("exit 3", "ended with status 3"), ("kill -9 $$", "was killed by signal 9"),
                              ("no-such-command", "ended with status 127"), ("sleep 1000 & sleep 1000", "did not end within 1 s")):
            done = Ferry().run("snapshot", program.pid, "-D", SERIES, "--hook", command, "--timeout", 1)
            assert done.returncode == 1 and text in done.stderr and "[hook]" in done.stderr, done
            assert not list(SERIES.iterdir())
            program.verify()
        assert not [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if b"sleep\0001000" in read(path)], "it was not killed"
        taking = Taking(program.pid, "--every", "100ms", "--hook", "test -e good")
        assert taking.until("failed")["error"] == "hook"
        pathlib.Path("good").touch()
        taking.until("stored", 2)
        taking.end()
        program.verify()
        end(program)
        for one in listed()[-2:]:
            restore(program, one["dir"])

    @test(timeout=60)
    def hook_killed():
        """With ferry the hook ends, and the tree runs on."""
        program = Program("heap-stack")
        command = [os.environ["FERRY"], "snapshot", str(program.pid), "-D", SERIES, "--hook", "touch began; exec sleep 1234"]
        with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
            wait_until(pathlib.Path("began").exists, "it does not run")
            worker = int(pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()[0])
            os.kill(worker, signal.SIGKILL)
            assert process.wait(30) == 1 and "[interrupted]" in process.stderr.read()
        program.verify()
        wait_until(lambda: not [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if b"sleep\0001234" in read(path)],
                   "the hook runs on")
        assert not [path for path in SERIES.iterdir() if not path.name.startswith("0")]
        assert once(program.pid)["full"]
        program.quit()

    @test(timeout=120)
    def captured():
        """Files that the tree writes come back as they were at each snapshot, also when they are gone or were written since."""
        counter = Counter()
        stored = []
        for _ in range(3):
            stored.append(once(counter.pid, "--files=capture"))
            counter.grows()
        counter.FILE.chmod(0o640)
        counter.end()
        long = counter.lines()
        for number, event in enumerate(stored):
            folder = event["dir"]
            if number == 1:
                counter.FILE.unlink()
            elif number == 2:
                counter.FILE.write_text("1\nsomething else\n", encoding="utf-8")
            for word in ("strict", "put-back"):
                done = Ferry().run("restore", "-D", folder, "-d", f"--files={word}")
                assert done.returncode == (0 if word == "put-back" else 3), done
            assert counter.lines() < long, number
            counter.grows()
            counter.end()
            assert not list(pathlib.Path().glob("*.ferry-before"))
            assert counter.FILE.stat().st_mode & 0o777 == (0o644 if number else 0o640), (number, counter.FILE.stat())

    @test(timeout=120)
    def captured_and_merged():
        """What was captured stays with its snapshot when older ones are merged into it."""
        counter = Counter()
        for _ in range(6):
            once(counter.pid, "--files=capture", "--track-mem")
            counter.grows(2)
        counter.end()
        done = prune(1)
        assert done.returncode == 0 and json.loads(done.stdout)["merged"] > 2, done
        last = listed()[-1]["dir"]
        assert Ferry().run("image", "verify", last).returncode == 0
        Ferry().restore(last, more=("--files=put-back",))
        counter.grows()
        counter.end()

    @test(timeout=120)
    def put_back_fails():
        """A restore that fails leaves files as it found them; one that is killed keeps both, and says so."""
        counter = Counter()
        folder = once(counter.pid, "--files=capture")["dir"]
        counter.grows()
        counter.end()
        whole = counter.FILE.read_bytes()
        beside = pathlib.Path("counted.ferry-before")
        for name in ("commit", "task-create", "open-file", "memory-fill"):
            done = Ferry().run("restore", "-D", folder, "-d", "--files=put-back", environment={"FERRY_FAULT": name})
            assert done.returncode == 1, (name, done)
            assert counter.FILE.read_bytes() == whole and not beside.exists(), name
        counter.FILE.unlink()
        done = Ferry().run("restore", "-D", folder, "-d", "--files=put-back", environment={"FERRY_FAULT": "commit"})
        assert done.returncode == 1 and not counter.FILE.exists() and not beside.exists(), done
        counter.FILE.write_bytes(whole)
        log = pathlib.Path("effects")
        Ferry().run("restore", "-D", folder, "-d", "--files=put-back",
                    environment={"FERRY_FAULT": "commit", "FERRY_EFFECT_LOG": str(log)})
        effects = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
        first = next(index for index, words in enumerate(effects) if words[3] == "put-back")
        ours = [words[1] for words in effects[first:] if words[0] == effects[first][0]]
        for later, number in ((0, ours[0]), (1, ours[1]), (2, ours[len(ours) // 2])):
            done = Ferry().run("restore", "-D", folder, "-d", "--files=put-back", environment={"FERRY_KILL_AT": number})
            assert done.returncode == 1, done
            wait_until(beside.exists, "nothing is beside it")
            assert (beside if later else counter.FILE).read_bytes() == whole, later
            done = Ferry().run("restore", "-D", folder, "-d", "--files=put-back")
            assert (done.returncode == 3 and "a restore was killed" in done.stderr) or later, done
            if later:
                assert done.returncode == 0, done  # the file is as it was to be
                counter.end()
                (pathlib.Path(folder) / "ferry-restored").unlink()
            beside.replace(counter.FILE) if later else beside.unlink()
        Ferry().restore(folder, more=("--files=put-back",))
        counter.grows()
        counter.end()

    @test(timeout=60)
    def capture_fails():
        """Too large, no room, written from elsewhere: no snapshot, nothing left, and the tree runs on."""
        counter = Counter()
        SERIES.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", SERIES], check=True)

        def refused(status, text, *words):
            done = Ferry().run("snapshot", counter.pid, "-D", SERIES, "--files=capture", *words)
            assert done.returncode == status and text in done.stderr, done
            assert not list(SERIES.iterdir()), list(SERIES.iterdir())
            counter.grows()

        refused(3, "more than --capture-limit", "--capture-limit", 10)
        refused(2, "--files=put-back is for a restore", "--files=put-back")
        with open(counter.FILE, "ab") as file:
            stop = threading.Event()

            def write():
                while not stop.wait(0.0002):
                    file.write(b"\n")
                    file.flush()

            other = threading.Thread(target=write)
            other.start()
            # Seen when it happens while the file is copied, which is soon over.
            for _ in range(40):
                done = Ferry().run("snapshot", counter.pid, "-D", SERIES, "--files=capture")
                if done.returncode:
                    break
                shutil.rmtree(next(SERIES.iterdir()))
            stop.set()
            other.join()
        assert done.returncode == 3 and "is written to from outside of the tree" in done.stderr, done
        counter.end()
        counter.FILE.unlink()
        counter = Counter()
        with open("large", "wb") as file:
            file.write(os.urandom(1 << 20) * 24)
        null = subprocess.DEVNULL
        with subprocess.Popen(["sh", "-c", "exec 3>>large; exec sleep 1000"], start_new_session=True, stdin=null, stdout=null,
                              stderr=null) as sleeper:
            wait_until(lambda: os.path.exists(f"/proc/{sleeper.pid}/fd/3"), "it does not begin")
            done = Ferry().run("snapshot", sleeper.pid, "-D", SERIES, "--files=capture")
            assert done.returncode == 3 and "[no-space]" in done.stderr, done
            assert not list(SERIES.iterdir())
            assert is_alive(sleeper.pid)
            sleeper.kill()
        counter.end()
        done = Ferry().run("restore", "-D", SERIES, "--files=capture")
        assert done.returncode == 2 and "--files=capture is for a dump" in done.stderr, done
        subprocess.run(["umount", SERIES], check=True)

    @test(timeout=60)
    def being_read():
        """What a restore still reads is left as it is: memory that comes later comes, and then old snapshots go."""
        program = Program("large")
        folders = [once(program.pid, "--track-mem")["dir"] for _ in range(3)]
        pids = program.tree()
        program.kill()
        program.wait_gone(pids)
        Ferry().restore(folders[0], more=("--lazy", "--files=as-found"))
        pagers = [path.parent.name for path in pathlib.Path("/proc").glob("[0-9]*/comm") if read(path) == b"ferry-pager\n"]
        assert pagers, "all memory is there already"
        for pid in pagers:
            os.kill(int(pid), signal.SIGSTOP)
        done = prune(1)
        assert done.returncode == 0 and json.loads(done.stdout)["waits"], done
        assert [one["dir"] for one in listed()] == folders
        for pid in pagers:
            os.kill(int(pid), signal.SIGCONT)
        program.process = None
        wait_until(lambda: not any(is_alive(int(pid)) for pid in pagers), "the pager does not end")
        done = prune(1)
        assert done.returncode == 0 and not json.loads(done.stdout)["waits"], done
        assert [one["dir"] for one in listed()] == folders[-1:]
        program.verify()  # it counts the pages that are there
        end(program)

    @test(timeout=60)
    def asked_wrongly():
        """What makes no sense is refused by name."""
        program = Program("heap-stack")
        for words, text in (((program.pid,), "--images-dir DIR is missing"),
                            (("-D", SERIES), "the PID of a tree, or the name of a job"),
                            ((program.pid, "-D", SERIES, "--every", "soon"), "--every wants a time"),
                            ((program.pid, "-D", SERIES, "--every", "0s"), "--every wants a time"),
                            ((program.pid, "-D", SERIES, "--every", "5days"), "--every wants a time"),
                            (("no-such-job", "-D", SERIES), "no-such-job"),
                            (("prune", SERIES), "--keep COUNT is missing"),
                            (("list", "nowhere"), "opening the directory 'nowhere'")):
            done = Ferry().run("snapshot", *words)
            assert done.returncode in (2, 3) and text in done.stderr, (words, done)
        taking = Taking(program.pid, "--every", "100ms")
        taking.until("stored")
        done = Ferry().run("snapshot", program.pid, "-D", SERIES)
        assert done.returncode == 3 and "another ferry is taking snapshots into 'series'" in done.stderr, done
        taking.end()
        program.verify()
        program.quit()

    @test(timeout=120)
    def of_jobs():
        """A job by its name; it runs again from one of its snapshots, and is the job."""
        jobs = Jobs()
        jobs.good("run", "--name", "counter", "--", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
        for _ in range(3):
            jobs.good("snapshot", "counter", "--keep", "2", "--track-mem")
        folder = jobs.folder / "counter" / "snapshots"
        there = [one["dir"] for one in listed(folder)]
        assert len(there) == 2, there
        jobs.good("stop", "counter")
        done = Ferry().run("snapshot", "counter", "--state-dir", jobs.folder)
        assert done.returncode == 2 and "it does not run" in done.stderr, done
        (jobs.folder / "counter" / "status").unlink()
        Ferry().restore(there[0], more=("--files=as-found",))
        job = next(one for one in json.loads(jobs.good("ps", "--json")) if one["name"] == "counter")
        assert job["state"] == "running" and is_alive(job["pid"]), job
        size = (jobs.folder / "counter" / "log").stat().st_size
        wait_until(lambda: (jobs.folder / "counter" / "log").stat().st_size > size, "it does not go on")
        jobs.good("stop", "counter")
        jobs.good("rm", "--force", "counter")
        assert not (jobs.folder / "counter").exists()

if __name__ == "__main__":
    main()
