#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Control groups of trees: what becomes of them in each mode of a restore, and that one that fails or is killed leaves none behind."""

import atexit
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from ferrytest import Ferry, Program, main, skip, test
from ferrytest.image import decode, encode, seal
from ferrytest.process import children, is_alive, running, wait_until

PIDS = pathlib.Path("/sys/fs/cgroup/pids")
# The driver removes groups with the name of the test's folder.
BASE = os.path.basename(tempfile.gettempdir())
LIMIT = "9"  # what the program sets


def hierarchies():
    """Those in which the program makes its groups."""
    return [path for path in pathlib.Path("/sys/fs/cgroup").iterdir() if (path / BASE).is_dir()]


def groups():
    """Everything that is there, below the mounts."""
    return sorted(str(path) for top in hierarchies() for path in [top / BASE, *(top / BASE).rglob("*")] if path.is_dir())


def thaw_all():
    """In a v1 freezer even SIGKILL would wait."""
    for path in groups():
        for file, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                (pathlib.Path(path) / file).write_text(word)


atexit.register(thaw_all)


def live_alone():
    """Where the tests live in a group that is not the root, others make groups below it meanwhile."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        hierarchy = pathlib.Path("/sys/fs/cgroup", names.removeprefix("name=") or "unified")
        if path != "/" and hierarchy.is_dir():
            own = hierarchy / path[1:] / BASE
            own.mkdir()
            (own / "cgroup.procs").write_text(str(os.getpid()))


if sys.argv[1:] != ["--list"]:
    live_alone()


def remove_groups():
    """As if the machine had been started anew."""
    for path in reversed(groups()):
        os.rmdir(path)
    assert not groups()


def folder():
    """A new one for an image."""
    return pathlib.Path(tempfile.mkdtemp(prefix="images-"))


def dumped(*arguments, ferry=None):
    """(the program, its image, its group below /sys/fs/cgroup/pids, all groups)."""
    if not (PIDS / "tasks").exists():
        skip("no pids controller of cgroup v1")
    program = Program("cgroup", *arguments)
    images = folder()
    (ferry or Ferry()).dump(program.pid, images)
    program.reap()
    there = groups()
    group = next(path for path in (PIDS / BASE).rglob("own"))
    return program, images, group, there


def place_of(pid, controller="pids"):
    """The group of a process."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names == controller:
            return path
    raise AssertionError(f"{pid} is in no group of {controller}")


def end(program):
    """It proves its state before."""
    program.verify()
    program.finish()
    program.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{program.pid}"), "it does not end")


def refused(images, mode, said, pid):
    """A restore that makes nothing."""
    before = groups()
    done = Ferry().run("restore", "-D", images, "-d", "--again", f"--manage-cgroups={mode}")
    assert done.returncode == 3 and said in done.stderr, done
    assert groups() == before
    assert not os.path.exists(f"/proc/{pid}")


@test(timeout=60)
def made():
    """Groups that are gone are made again, with settings that act, in the modes that make any."""
    for mode in ("soft", "full", "strict"):
        for arguments in ((), ("outside",), ("below",)):
            program, images, group, there = dumped("limit", *arguments)
            remove_groups()
            for refuses in ("none", "props"):
                refused(images, refuses, "of hierarchy", program.pid)
            Ferry().restore(images, more=[f"--manage-cgroups={mode}"])
            assert groups() == there, (groups(), there)
            inner = group / "deep" if "below" in arguments else group
            assert (inner / "pids.max").read_text().strip() == LIMIT
            end(program)
            remove_groups()


# The first process of a tree makes groups for itself, its child and nobody, as systemd does, and has a file of the last one open.
TREE = """
import os, pathlib, sys, time
top = pathlib.Path(sys.argv[1])
for name in ("init", "slice/one", "slice/empty"):
    (top / name).mkdir(parents=True)
for name, limit in (("slice", "50"), ("slice/empty", "7")):
    (top / name / "pids.max").write_text(limit)
child = os.fork()
(top / ("init" if child else "slice/one") / "cgroup.procs").write_text(str(os.getpid()))
file = open(top / "slice/empty/cgroup.procs") if child else None
open("ready", "a").write("x")
time.sleep(1000)
"""


@test(timeout=60)
def beside():
    """What a tree made besides the groups that its processes are in, and between them, comes with it; unless others live there, too."""
    if not (PIDS / "tasks").exists():
        skip("no pids controller of cgroup v1")
    top = PIDS / place_of(os.getpid())[1:] / BASE / "tree"
    for others in (False, True):
        process = subprocess.Popen(["python3", "-c", TREE, top], start_new_session=True,  # pylint: disable=consider-using-with
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: pathlib.Path("ready").exists() and len(pathlib.Path("ready").read_text()) == 2, "it makes no groups")
        pathlib.Path("ready").unlink()
        if others:
            (top / "others").mkdir()
            other = subprocess.Popen(["sleep", "1000"])  # pylint: disable=consider-using-with
            (top / "others/cgroup.procs").write_text(str(other.pid))
        images = folder()
        Ferry().dump(process.pid, images)
        process.wait()
        content = decode(images / "cgroup.img")["entries"][0]["controllers"]
        tops = {one["dir_name"].rpartition("/")[2] for entry in content if entry["cnames"] == ["pids"] for one in entry["dirs"]}
        assert tops == ({"init", "one"} if others else {"tree"}), tops
        if others:
            other.kill()
            other.wait()
            continue
        for path in sorted(top.rglob("*"), reverse=True):
            if path.is_dir():
                os.rmdir(path)
        os.rmdir(top)
        Ferry().restore(images, more=["--manage-cgroups=soft"])
        assert [(top / name / "pids.max").read_text().strip() for name in ("slice", "slice/one", "slice/empty")] == ["50", "max", "7"]
        links = [path for path in pathlib.Path(f"/proc/{process.pid}/fd").iterdir() if "slice/empty" in os.readlink(path)]
        assert len(links) == 1 and links[0].samefile(top / "slice/empty/cgroup.procs")
        child = children(process.pid)[0]
        assert place_of(child).endswith("/tree/slice/one") and place_of(process.pid).endswith("/tree/init")
        for pid in (child, process.pid):
            os.kill(pid, 9)
        wait_until(lambda: not any((top / name / "cgroup.procs").read_text() for name in ("slice/one", "init")), "somebody stays")
        remove_groups()


@test(timeout=60)
def found():
    """Groups that are there keep their settings, or get those of the image; strict wants none."""
    program, images, group, there = dumped("outside")
    for mode, limit in (("none", "77"), ("soft", "77"), ("props", "max"), ("full", "max"), (None, "77")):
        (group / "pids.max").write_text("77")
        Ferry().restore(images, again=True, more=[f"--manage-cgroups={mode}"] * bool(mode))
        assert (group / "pids.max").read_text().strip() == limit, mode
        assert place_of(program.pid) == f"/{group.relative_to(PIDS)}"
        assert groups() == there
        program.verify()
        program.kill()
        wait_until(lambda: not os.path.exists(f"/proc/{program.pid}"), "it does not end")
    refused(images, "strict", "exists", program.pid)


@test(timeout=60)
def ignored():
    """The tree stays where ferry is; without a mode it does so if its groups are gone, and that is said."""
    program, images, group, _ = dumped("outside")
    Ferry().restore(images, more=["--manage-cgroups=ignore"])
    assert place_of(program.pid) == place_of(os.getpid())
    program.kill()
    wait_until(lambda: not (group / "tasks").read_text(), "it does not end")
    remove_groups()
    done = Ferry().run("restore", "-D", images, "-d", "--again")
    assert done.returncode == 0 and "stays in ferry's group" in done.stderr, done
    assert place_of(program.pid) == place_of(os.getpid())
    assert not groups()
    program.kill()


@test(timeout=60)
def moved():
    """Another group takes the place of the tree's, in one hierarchy or in all."""
    for words, place in (([f"/{BASE}/new"], f"/{BASE}/new"), ([f"pids:/{BASE}/one/new"], f"/{BASE}/one/new"),
                         ([f"/{BASE}/all", f"pids:{BASE}/new/"], f"/{BASE}/new")):
        for arguments in ((), ("below",)):
            program, images, _, _ = dumped(*arguments)
            remove_groups()
            Ferry().restore(images, more=["--manage-cgroups=soft", *(f"--cgroup-root={word}" for word in words)])
            assert place_of(program.pid) == place + "/deep" * bool(arguments), place_of(program.pid)
            inside = subprocess.run(["nsenter", "-t", str(program.pid), "-C", "cat", f"/proc/{program.pid}/cgroup"], check=True,
                                    capture_output=True, text=True).stdout
            assert (":pids:/deep\n" if arguments else ":pids:/\n") in inside, inside
            program.kill()
            wait_until(lambda: not os.path.exists(f"/proc/{program.pid}"), "it does not end")  # pylint: disable=cell-var-from-loop
            remove_groups()
    for word in ("/../x", "pids:/a/../b"):
        done = Ferry().run("restore", "-D", folder(), f"--cgroup-root={word}")
        assert done.returncode == 2 and "invalid argument for --cgroup-root" in done.stderr, done


@test(timeout=60)
def nested():
    """A tree of groups in every hierarchy of v1, one with groups that are empty, and a cpuset of one processor."""
    tops = [pathlib.Path("/sys/fs/cgroup", name) for name in ("cpuset", "memory", "freezer", "devices")]
    if not all((top / "tasks").exists() for top in tops):
        skip("not all controllers of cgroup v1")
    for top in tops:
        (top / BASE / "a" / "b").mkdir(parents=True)
        (top / BASE / "a" / "empty" / "deep").mkdir(parents=True)
    for name in ("", "a", "a/b"):
        for file, text in (("cpuset.cpus", "0"), ("cpuset.mems", "0")):
            (tops[0] / BASE / name / file).write_text(text)
    (tops[1] / BASE / "a" / "memory.limit_in_bytes").write_text("256M")
    (tops[1] / BASE / "a" / "empty" / "memory.limit_in_bytes").write_text("64M")
    (tops[3] / BASE / "a" / "devices.deny").write_text("c 1:11 rwm")
    rules = (tops[3] / BASE / "a" / "devices.list").read_text()
    enter = "for t in cpuset memory freezer devices; do echo $$ > /sys/fs/cgroup/$t/$0/a/tasks; done; exec sleep 100"
    with subprocess.Popen(["sh", "-c", enter, BASE], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, start_new_session=True) as tree:
        wait_until(lambda: pathlib.Path(f"/proc/{tree.pid}/comm").read_text() == "sleep\n", "it does not start")
        images = folder()
        Ferry().dump(tree.pid, images)
    there = groups()
    remove_groups()
    Ferry().restore(images, more=["--manage-cgroups=soft"])
    assert groups() == there, groups()
    for top in tops:
        assert (top / BASE / "a" / "tasks").read_text().split() == [str(tree.pid)]
    assert (tops[0] / BASE / "a" / "b" / "cpuset.cpus").read_text().strip() == "0"
    assert (tops[1] / BASE / "a" / "memory.limit_in_bytes").read_text().strip() == str(256 << 20)
    assert (tops[1] / BASE / "a" / "empty" / "memory.limit_in_bytes").read_text().strip() == str(64 << 20)
    assert (tops[3] / BASE / "a" / "devices.list").read_text() == rules
    assert os.sched_getaffinity(tree.pid) == {0}
    os.kill(tree.pid, 9)


@test(timeout=60)
def chosen():
    """A dump of some controllers, of some settings, of none, and by a yard of hierarchies."""
    if not (PIDS / "tasks").exists():
        skip("no pids controller of cgroup v1")
    program = Program("cgroup", "outside", "limit")

    def stored(*words):
        images = folder()
        Ferry().dump(program.pid, images, leave_running=True, more=words)
        return decode(images / "cgroup.img")["entries"][0]

    def settings(entry, controller):
        group = next(c for c in entry["controllers"] if c["cnames"] == [controller]).get("dirs", [])
        return {p["name"]: p["value"] for p in group[0].get("properties", [])} if group else {}

    whole = stored()
    assert settings(whole, "pids")["pids.max"] == LIMIT
    assert len(whole["controllers"]) > 1
    assert stored("--cgroup-yard=/sys/fs/cgroup") == whole
    some = stored("--cgroup-dump-controller=pids")
    assert [c["cnames"] for c in some["controllers"]] == [["pids"]] and len(some["sets"][0]["ctls"]) == 1
    pathlib.Path("props").write_text('"pids":\n  - "strategy": "replace"\n  - "properties": ["pids.current"]\n')
    other = settings(stored("--cgroup-props-file=props"), "pids")
    assert "pids.max" not in other and "pids.current" in other, other
    other = settings(stored("--cgroup-props", 'pids: - strategy: append - properties: [pids.current]'), "pids")
    assert "pids.max" in other and "pids.current" in other, other
    done = Ferry().run("dump", "-t", program.pid, "-D", folder(), "--cgroup-props", "pids: [")
    assert done.returncode == 2 and "is missing in line 1" in done.stderr, done
    program.finish()
    program.kill()


@test(timeout=60)
def hostile():
    """Groups and settings that cannot be: nothing is made, also nowhere else."""
    program, images, _, _ = dumped("outside")
    remove_groups()

    def controller(entry):
        return next(c for c in entry["controllers"] if c["cnames"] == ["pids"])

    def member(entry):
        return next(m for m in entry["sets"][0]["ctls"] if m["name"] == "pids")

    cases = {
        "path": lambda e: member(e).update(path="/../x"),
        "no-slash": lambda e: member(e).update(path="x"),
        "empty": lambda e: member(e).update(path=""),
        "prefix": lambda e: member(e).update(cgns_prefix=5000),
        "up": lambda e: controller(e)["dirs"][0].update(dir_name="../../x"),
        "name": lambda e: controller(e)["dirs"][0].update(children=[{"dir_name": "a/b"}]),
        "dots": lambda e: controller(e)["dirs"][0].update(children=[{"dir_name": ".."}]),
        "no-name": lambda e: controller(e)["dirs"][0].update(children=[{"dir_name": ""}]),
        "setting": lambda e: controller(e)["dirs"][0].update(properties=[{"name": "../../x", "value": "1"}]),
        "hidden": lambda e: controller(e)["dirs"][0].update(properties=[{"name": "..", "value": "1"}]),
    }
    for name, change in cases.items():
        copy = folder()
        shutil.copytree(images, copy, dirs_exist_ok=True)
        content = decode(copy / "cgroup.img")
        change(content["entries"][0])
        assert encode(copy / "cgroup.img", content), name
        seal(copy, {"cgroup.img"})
        done = Ferry().run("restore", "-D", copy, "-d", "--manage-cgroups=soft")
        assert done.returncode == 3 and "cgroup.img" in done.stderr and "[image-bad]" in done.stderr, (name, done)
        assert not groups() and not os.path.exists(f"/proc/{program.pid}"), name
    # What is a command is written by nobody, and what this kernel has not is left out.
    content = decode(images / "cgroup.img")
    controller(content["entries"][0])["dirs"][0]["properties"] += [{"name": name, "value": "1"} for name in ("cgroup.kill", "no.such")]
    assert encode(images / "cgroup.img", content)
    seal(images, {"cgroup.img"})
    Ferry().restore(images, more=["--manage-cgroups=soft"])
    end(program)


@test(timeout=120)
def undone():
    """A restore that fails removes what it made, and sets back what it set."""
    for fault in ("task-create", "open-file", "barrier", "commit"):
        program, images, group, there = dumped("limit", "outside")
        (group / "pids.max").write_text("77")
        done = Ferry().run("restore", "-D", images, "-d", "--manage-cgroups=full", environment={"FERRY_FAULT": fault})
        assert done.returncode == 1, done
        assert (group / "pids.max").read_text().strip() == "77", fault
        remove_groups()
        done = Ferry().run("restore", "-D", images, "-d", "--manage-cgroups=soft", environment={"FERRY_FAULT": fault})
        assert done.returncode == 1 and not groups(), (done, groups())
        Ferry().restore(images, more=["--manage-cgroups=soft"])
        assert groups() == there
        end(program)
        remove_groups()


# Three that count in a file which they have in common: whoever executes anything is seen.
COUNTING = """
import mmap, os, sys, threading
with open("count", "r+b") as file:
    count = mmap.mmap(file.fileno(), 4096)

def run(number):
    while True:
        count[number] = (count[number] + 1) % 256

if os.fork() == 0:
    run(0)
threading.Thread(target=run, args=[1]).start()
run(2)
"""


class Paused:
    """A counting tree in a group of its own, with one below for the child, frozen."""

    WORDS = {"freezer": ("freezer.state", "FROZEN", "THAWED"), "unified": ("cgroup.freeze", "1", "0")}

    def __init__(self, hierarchy):
        top = pathlib.Path("/sys/fs/cgroup", hierarchy)
        self.file, self.frozen, self.thawed = self.WORDS[hierarchy]
        if not (top / "cgroup.procs").exists():
            skip(f"no {top}")
        self.group = top / BASE / "ice"
        (self.group / "below").mkdir(parents=True, exist_ok=True)
        self.count = pathlib.Path("count")
        self.count.write_bytes(bytes(4096))
        with open(os.devnull, "r+b") as null:
            self.root = subprocess.Popen(  # pylint: disable=consider-using-with
                ["python3", "-c", COUNTING], stdin=null, stdout=null, stderr=null, start_new_session=True)
        wait_until(lambda: 0 not in self.count.read_bytes()[:3], "they do not count")
        self.pids = [self.root.pid, *children(self.root.pid)]
        assert len(self.pids) == 2
        for pid, group in zip(self.pids, (self.group, self.group / "below")):
            (group / "cgroup.procs").write_text(str(pid))
        self.freeze()

    def freeze(self):
        """And wait until they stand."""
        (self.group / self.file).write_text(self.frozen)
        wait_until(self.is_frozen, "it does not freeze")

    def thaw(self):
        """They count again."""
        (self.group / self.file).write_text(self.thawed)
        before = self.count.read_bytes()[:3]
        wait_until(lambda: not any(a == b for a, b in zip(before, self.count.read_bytes()[:3])), "they do not count any more")

    def is_frozen(self):
        """As the group says."""
        file, word = ("freezer.state", "FROZEN") if self.file == "freezer.state" else ("cgroup.events", "frozen 1")
        return word in (self.group / file).read_text()

    def stands(self, what):
        """Nobody has executed anything, and nobody does."""
        assert self.is_frozen(), what
        before = self.count.read_bytes()[:3]
        for _ in range(3):
            os.sched_yield()
        assert before == self.count.read_bytes()[:3], what

    def dump(self, images, *more, **options):
        """ferry dump, by the group's name."""
        return Ferry().run("dump", "-t", self.root.pid, "-D", images, f"--freeze-cgroup={self.group}", *more, **options)

    def end(self):
        """All of it."""
        for pid in self.pids:
            os.kill(pid, 9)
        (self.group / self.file).write_text(self.thawed)
        self.root.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in self.pids), "they do not end")


def paused(hierarchy):
    """A frozen tree is dumped without a step, stays frozen, and comes back so."""
    tree = Paused(hierarchy)
    start = tree.count.read_bytes()
    for number, fault in enumerate(("", "collect-vma", "inject-call", "image-write")):
        done = tree.dump(folder(), "-R", environment={"FERRY_FAULT": fault} if fault else {})
        assert bool(done.returncode) == bool(number), done
        tree.stands(fault)
        assert tree.count.read_bytes() == start, fault
    images = folder()
    done = tree.dump(images)
    assert done.returncode == 0, done
    assert tree.count.read_bytes() == start and tree.is_frozen()
    tree.root.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in tree.pids), "they do not end")
    # It would stand still in there.
    done = Ferry().run("restore", "-D", images, "-d", "--manage-cgroups=soft")
    assert done.returncode == 3 and "is frozen" in done.stderr, done
    (tree.group / tree.file).write_text(tree.thawed)
    remove_groups()
    Ferry().restore(images, more=["--manage-cgroups=soft"])
    wait_until(tree.is_frozen, "it is not frozen any more")
    tree.stands("restored")
    tree.thaw()
    # Named, but not frozen.
    done = tree.dump(folder(), "-R")
    assert done.returncode == 0 and not tree.is_frozen(), done
    for pid in tree.pids:
        os.kill(pid, 9)


test(name="paused_v1", timeout=120)(lambda: paused("freezer"))
test(name="paused_v2", timeout=120)(lambda: paused("unified"))


def paused_killed(hierarchy):
    """Whenever ferry is killed, a frozen tree has not moved, and goes on when it is thawed."""
    tree = Paused(hierarchy)
    start = tree.count.read_bytes()
    number = 0
    while True:
        number += 1
        images = folder()
        done = subprocess.run(["setsid", "-w", Ferry().path, "dump", "-t", str(tree.root.pid), "-D", images, "-R",
                               f"--freeze-cgroup={tree.group}"], check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                              env={**os.environ, "FERRY_KILL_AT": str(number),
                                   "FERRY_KILL_VICTIM": ("self", "group")[number % 2]})
        wait_until(lambda: not running(Ferry().path), "a ferry does not end")
        wait_until(tree.is_frozen, f"killed at {number} it is not frozen")
        tree.stands(number)
        assert tree.count.read_bytes() == start, number
        if not done.returncode:
            break
        # A thread that stands in what ferry had it do finds home by itself.
        tree.thaw()
        tree.freeze()
        start = tree.count.read_bytes()
    assert number > 20, number
    tree.thaw()
    tree.end()


test(name="paused_killed_v1", timeout=600)(lambda: paused_killed("freezer"))
test(name="paused_killed_v2", timeout=600)(lambda: paused_killed("unified"))


@test(timeout=60)
def pause_refused():
    """What is no group that can be frozen, and one that stands because of another."""
    tree = Paused("freezer")
    for group, said, status in ((tree.group.parent.parent, "no group that can be frozen", 2), ("/tmp", "no group that can be frozen", 2),
                                (tree.group / "below", "a cgroup above", 3)):
        done = Ferry().run("dump", "-t", tree.root.pid, "-D", folder(), "-R", f"--freeze-cgroup={group}")
        assert done.returncode == status and said in done.stderr, done
        tree.stands(group)
    tree.end()


@test(timeout=300)
def killed():
    """At each of its effects: nothing is left, or everything runs in its groups."""
    program, images, group, there = dumped("limit", "outside")
    remove_groups()
    number = 0
    while True:
        number += 1
        (images / "ferry-restored").unlink(missing_ok=True)
        done = subprocess.run(["setsid", "-w", Ferry().path, "restore", "-D", str(images), "-d", "--manage-cgroups=soft"],
                              check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env={
                                  **os.environ, "FERRY_KILL_AT": str(number), "FERRY_KILL_VICTIM": ("self", "group")[number % 2]})
        # Its warden may still be at work.
        wait_until(lambda: not running(Ferry().path), "a ferry does not end")
        if not (images / "ferry-restored").exists():
            assert done.returncode and not groups(), (number, done, groups())
            wait_until(lambda: not is_alive(program.pid), "it lives")
            continue
        assert groups() == there, (number, groups())
        assert (group / "pids.max").read_text().strip() == LIMIT
        program.verify()
        program.kill()
        wait_until(lambda: not os.path.exists(f"/proc/{program.pid}"), "it does not end")
        remove_groups()
        if not done.returncode:
            break
    assert number > 5, number


main()
