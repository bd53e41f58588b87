#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trees that live in a PID namespace of their own: the numbers inside stay, those outside do not matter. And
--new-pidns, which gives one to a tree that had none."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from ferrytest import Ferry, Program, main, skip, test
from ferrytest.cases import CASES
from ferrytest.engine import note_refusal
from ferrytest.process import look, wait_until
from ferrytest.program import program_path

UNSHARE = ["unshare", "--fork", "--pid", "--mount-proc"]


def inner_pids(pid):
    """The numbers of a process, from here to the innermost PID namespace."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return [int(word) for word in line.split()[1:]]
    raise AssertionError(f"{pid} has no numbers")


def children(pid):
    """Of the first thread."""
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Inside(Program):
    """A test program that is the first process of a PID namespace with its own /proc."""

    def __init__(self, name, *arguments, unshare=()):
        self.launcher = None
        # The session begins inside: the launcher's is not part of the tree. And unshare writes into no file of it.
        inside = 'exec 2>>"$1/log"; exec setsid "$0" "$@"'
        words = [*UNSHARE, *unshare, "sh", "-c", inside, str(program_path(name))]
        super().__init__(name, *arguments, interpreter=["sh", "-c", 'exec "$0" "$@" 2>/dev/null', *words])
        self.launcher = self.pid
        self.pid = children(self.launcher)[0]

    def volatile(self):
        """Addresses are noted with the numbers inside."""
        return {}

    def dump(self, images, *more):
        """The tree ends, and so does who launched it."""
        report = Ferry().dump(self.pid, images, more=more)
        self.reap()
        wait_until(lambda: not os.path.exists(f"/proc/{self.pid}"), "the tree is still there")
        return report

    def restore(self, images, *more):
        """The number outside is another one."""
        report = Ferry().restore(images, more=more)
        self.pid = report["pid"]
        return report


def folder():
    """A new one for an image."""
    return pathlib.Path(tempfile.mkdtemp(prefix="images-"))


def twice(name, *arguments, unshare=()):
    """Dump and restore, twice; the numbers inside stay."""
    program = Inside(name, *arguments, unshare=unshare)
    assert inner_pids(program.pid)[-1] == 1
    program.verify()
    before = [inner_pids(pid)[1:] for pid in program.tree()]
    for _ in range(2):
        images = folder()
        program.dump(images)
        # The old numbers outside are taken meanwhile.
        others = [subprocess.Popen(["sleep", "100"]) for _ in range(3)]
        program.restore(images)
        assert [inner_pids(pid)[1:] for pid in program.tree()] == before
        assert program.running()
        inside = pathlib.Path(f"/proc/{look(program.pid)}/root")
        comm = (inside / "proc/1/comm").read_text()
        assert comm == pathlib.Path(f"/proc/{program.pid}/comm").read_text(), comm
        program.verify()
        for other in others:
            other.kill()
            other.wait()
    program.finish()
    program.kill()


def register(name, *arguments, called=None, unshare=()):
    """One test for each program."""
    test(name=called or name, timeout=120)(lambda: twice(name, *arguments, unshare=unshare))


if os.environ.get("FERRY"):
    register("tree")
    register("threads")
    register("signals-pending")
    register("posix-timers")
    register("unix-socket")
    register("unix-queues")
    register("pipes")
    register("folders")
    register("pid-nested", "one", called="pid-nested")
    register("uts", "tasks", called="uts", unshare=["--uts"])
    register("ipc-messages", called="ipc", unshare=["--ipc"])
    register("mounts", "tmpfs", called="mounts")

    # Whose records name processes or threads, or whose restore goes by way of /proc.
    BY_NUMBER = ("aio-events", "continued-untold", "epoll-kinds", "family", "huge-transparent", "inotify", "leader-ended",
                 "leader-ended-nested", "leader-ended-stopped", "leases",
                 "locks-flock", "locks-ofd", "locks-record", "memfd-mapped", "memory-merge-all", "mlockall",
                 "numa-policy", "owner-pidfd", "pidfd", "pidfd-dead", "pty-session", "seccomp-threads", "session-leader-below",
                 "stopped", "stopped-threads", "stopped-untold", "tree-dead", "uffd-missing", "uring-threads", "vma-sealed")
    for case in CASES:
        if case.name in BY_NUMBER:
            register(case.program, *case.arguments, called=f"numbers-{case.name}")

    @test(timeout=120)
    def clocks():
        """Clocks with offsets of their own go on from where they stood, twice."""
        program = Inside("clocks", unshare=["--time", "--monotonic", "100000", "--boottime", "200000"])
        program.verify()
        for _ in range(2):
            images = folder()
            program.dump(images)
            program.restore(images)
            offsets = dict(line.split()[:2] for line in pathlib.Path(f"/proc/{program.pid}/timens_offsets").read_text().splitlines())
            # The time between dump and restore did not pass for them.
            assert 99900 < int(offsets["monotonic"]) <= 100000 and 199900 < int(offsets["boottime"]) <= 200000, offsets
            program.verify()
        program.finish()
        program.kill()

    @test(timeout=60)
    def clocks_of_another_owner():
        """The clocks of a root whose time namespace belongs to a user namespace below ferry's."""
        words = ["unshare", "--user", "--map-root-user", "--time", "--monotonic", "100000", "--fork", "--kill-child", "sleep", "100"]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as maker:
            try:
                owner = wait_until(lambda: children(maker.pid), "it does not start")[0]
                program = Program("clocks", interpreter=["nsenter", "-t", str(owner), "--time",
                                                         str(program_path("clocks"))])
            finally:
                maker.kill()
        program.verify()
        images = folder()
        Ferry().dump(program.pid, images)
        program.reap()
        Ferry().restore(images)
        offsets = dict(line.split()[:2] for line in pathlib.Path(f"/proc/{program.pid}/timens_offsets").read_text().splitlines())
        assert 99900 < int(offsets["monotonic"]) <= 100000, offsets
        program.verify()
        program.finish()
        program.kill()

    def refused(words, said, hint, command=("sleep", "100"), inside="setsid"):
        """A process that is started so cannot be dumped; what is said."""
        program = subprocess.Popen([*inside.split(), *words, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=not inside)
        try:
            def look():
                done = Ferry().run("check", "--tree", program.pid)
                return done if said in done.stdout else None
            done = wait_until(look, f"it does not say {said!r}: {Ferry().run('check', '--tree', program.pid)}")
            assert done.returncode == 3 and "unsupported-namespace: " in done.stdout and hint in done.stdout, done
            images = folder()
            done = Ferry().run("dump", "--tree", program.pid, "-D", images / "image")
            assert done.returncode == 3 and "[unsupported-namespace]" in done.stderr and not list(images.iterdir()), done
            state = pathlib.Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state == "S", state
        finally:
            subprocess.run(["pkill", "-KILL", "-P", str(program.pid)], check=False)
            program.kill()
            program.wait()

    THREADED = "import threading, time\nthreading.Thread(target=time.sleep, args=[100]).start()\ntime.sleep(100)"

    # Made in a group, then moved out of it. The driver removes groups with the name of the test's folder.
    GROUP = f"/sys/fs/cgroup/pids/{os.path.basename(tempfile.gettempdir())}"
    LEFT = ("mkdir -p $0 && echo $$ > $0/tasks && exec unshare --cgroup sh -c 'echo $$ > /sys/fs/cgroup/pids/tasks; exec \"$@\"'"
            " sh \"$@\"")

    for name, words in {
            "cgroup_left": (["sh", "-c", LEFT, GROUP], "which is not below the root of its cgroup namespace", "move it back"),
            "cgroup_user": (["unshare", "--user", "--map-root-user", "--cgroup"],
                            "in a cgroup namespace that belongs to another user namespace than ferry's", ""),
            "user_threads": (["unshare", "--user", "--map-root-user"], "has several threads", "--user-ns",
                             ["python3", "-c", THREADED]),
            "user_pid": (["unshare", "--user", "--map-root-user", "--pid", "--fork"], "in a pid namespace that belongs to it",
                         "--user-ns"),
            "time_user": (["unshare", "--user", "--map-root-user", "--time", "--fork"],
                          "in a time namespace that belongs to another user namespace than ferry's", "")}.items():
        test(name=f"refused_{name}", timeout=60)(lambda words=words: refused(*words))

    def group_refused(spoil, mend, said, code):
        """A restore that finds the groups of a namespace otherwise says so, makes nothing, and works when they are back."""
        program = Program("cgroup")
        images = folder()
        Ferry().dump(program.pid, images)
        program.reap()
        groups = [group for group in pathlib.Path("/sys/fs/cgroup").glob(f"*/{GROUP.rpartition('/')[2]}/*/own")
                  if (group / "tasks").exists()]
        assert groups
        for group in groups:
            spoil(group)
        done = Ferry().run("restore", "-D", images, "-d")
        assert done.returncode == 3 and said in done.stderr and code in done.stderr, done
        assert not os.path.exists(f"/proc/{program.pid}")
        for group in groups:
            mend(group)
        Ferry().restore(images)
        program.verify()
        program.finish()
        program.kill()

    test(name="cgroup_gone", timeout=60)(lambda: group_refused(lambda group: group.rmdir(), lambda group: group.mkdir(),
                                                               "' of hierarchy '", "[files-changed]"))

    @test(timeout=60)
    def cgroup_frozen():
        """A task that was moved into a frozen group would stand still for ever."""
        freezer = pathlib.Path("/sys/fs/cgroup/freezer")
        if not (freezer / "tasks").exists():
            skip("no freezer of cgroup v1")
        group = freezer / GROUP.rpartition("/")[2]
        group.mkdir()
        words = ["sh", "-c", "echo $$ > $0/tasks && exec unshare --cgroup sleep 100", str(group)]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True) as tree:
            wait_until(lambda: pathlib.Path(f"/proc/{tree.pid}/comm").read_text() == "sleep\n", "it does not start")
            images = folder()
            Ferry().dump(tree.pid, images)
        (group / "freezer.state").write_text("FROZEN")
        done = Ferry().run("restore", "-D", images, "-d")
        assert done.returncode == 3 and "is frozen" in done.stderr and "[busy-task]" in done.stderr, done
        (group / "freezer.state").write_text("THAWED")
        Ferry().restore(images)
        assert str(tree.pid) in (group / "tasks").read_text().split()
        os.kill(tree.pid, signal.SIGKILL)

    @test(timeout=60)
    def cgroup_outside():
        """A ferry that does not see the groups of a tree, because its own cgroup namespace begins below them."""
        with subprocess.Popen(["unshare", "--cgroup", "sleep", "100"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, start_new_session=True) as tree:
            wait_until(lambda: pathlib.Path(f"/proc/{tree.pid}/comm").read_text() == "sleep\n", "it does not start")
            words = ["sh", "-c", "mkdir -p $0 && echo $$ > $0/tasks && exec unshare --cgroup \"$@\"", GROUP, Ferry().path]
            done = subprocess.run([*words, "check", "--tree", str(tree.pid)], capture_output=True, text=True, check=False)
            note_refusal(done)
            assert done.returncode == 3 and "outside of ferry's cgroup namespace" in done.stdout, done
            assert "of the host" in done.stdout, done
            tree.kill()

    TIMES = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def make():
    assert libc.unshare(0x80) == 0

def child(function):
    pid = os.fork()
    if not pid:
        function()
        open(f"ready-{os.getpid()}", "w").close()
        time.sleep(100)
    while not os.path.exists(f"ready-{pid}"):
        time.sleep(0.01)
    return pid

def enter(pid):
    assert libc.setns(os.open(f"/proc/{pid}/ns/time_for_children", os.O_RDONLY), 0x80) == 0

def twice():
    make()
    if os.fork():
        os._exit(0)
    make()
    open("ready", "w").close()
    time.sleep(100)

if sys.argv[1] == "guest":
    maker = child(make)
    child(lambda: enter(maker))
else:
    libc.prctl(36, 1, 0, 0, 0)
    if not os.fork():
        twice()
    os.wait()
    while not os.path.exists("ready"):
        time.sleep(0.01)
open("all", "w").close()
time.sleep(100)
"""

    def refused_times(word, said):
        """Time namespaces whose members nobody could put there again, or whose clocks nobody tells."""
        place = folder()
        with subprocess.Popen([sys.executable, "-c", TIMES, word], cwd=place, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as tree:
            try:
                wait_until((place / "all").exists, "it does not start")
                done = Ferry().run("dump", "--tree", tree.pid, "-D", place / "image")
                assert done.returncode == 3 and "[unsupported-namespace]" in done.stderr and said in done.stderr, done
            finally:
                subprocess.run(["pkill", "-KILL", "-s", str(tree.pid)], check=True)

    for name, said in {"guest": "only for the children of a process that is not above it",
                       "twice": "which have another for their children"}.items():
        test(name=f"refused_time_{name}", timeout=60)(lambda name=name, said=said: refused_times(name, said))

    @test(timeout=60)
    def net_from_inside():
        """A tree in a network namespace is dumped and restored by a ferry that stands in one, as the hint says."""
        with tempfile.TemporaryDirectory() as name:
            script = "echo 0 > count; while :; do read n < count; echo $((n + 1)) > count; sleep 0.02; done"
            words = ["unshare", "--net", "sh", "-c", "ip link set lo up; exec sh -c '" + script + "'"]
            tree = subprocess.Popen(words, cwd=name, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL, start_new_session=True)
            count = pathlib.Path(name, "count")
            wait_until(lambda: count.exists() and int(count.read_text() or 0) > 2, "it does not start")
            images = folder()
            inside = ["nsenter", "-t", str(tree.pid), "--net"]
            pid = tree.pid
            subprocess.run([*inside, Ferry().path, "dump", "-t", str(pid), "-D", str(images)], check=True)
            tree.wait()
            stands = int(count.read_text() or 0)
            subprocess.run(["unshare", "--net", Ferry().path, "restore", "-d", "-D", str(images)], check=True)
            assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
            wait_until(lambda: int(count.read_text() or 0) > stands + 2, "it does not go on")
            os.kill(pid, signal.SIGKILL)

    @test(timeout=120)
    def running_on():
        """A dump with --leave-running leaves no trace: neither a process nor a mount inside."""
        program = Inside("tree")
        program.verify()
        mounts = pathlib.Path(f"/proc/{program.pid}/mountinfo").read_text()
        pids = program.tree()
        Ferry().dump(program.pid, folder(), leave_running=True)
        assert program.tree() == pids
        assert pathlib.Path(f"/proc/{program.pid}/mountinfo").read_text() == mounts
        program.verify()
        program.kill()

    @test(timeout=120)
    def new_pidns():
        """The numbers are taken here: refused by name; with --new-pidns the tree comes back, twice."""
        program = Program("tree")
        program.verify()
        images, pids = folder(), program.tree()
        Ferry().dump(program.pid, images, leave_running=True)
        done = Ferry().run("restore", "-D", images, "-d")
        assert done.returncode == 3 and "[pid-taken]" in done.stderr and "--new-pidns" in done.stderr, done
        program.kill()
        program.wait_gone(pids)
        for _ in range(2):
            report = Ferry().restore(images, more=["--new-pidns", "--again"])
            first = report["pid"]
            numbers = inner_pids(first)
            assert len(numbers) == 2 and numbers[1] == pids[0], (numbers, pids)
            program.pid = first
            program.verify()
            again = folder()
            Ferry().dump(first, again)
            wait_until(lambda pid=first: not os.path.exists(f"/proc/{pid}"), "the tree is still there")
            images = again

    @test(timeout=120)
    def new_pidns_reaps():
        """The small init reaps orphans, and ends when the last process did; restore tells the root's status."""
        script = "sh -c 'sleep 0.3 & exec sleep 0.1' & wait $!; while [ ! -e done ]; do sleep 0.05; done; exit 7"
        with tempfile.TemporaryDirectory() as name:
            shell = subprocess.Popen(["sh", "-c", script], cwd=name, start_new_session=True, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.05)
            images = folder()
            Ferry().dump(shell.pid, images)
            shell.wait()
            restoring = subprocess.Popen([Ferry().path, "restore", "-D", str(images), "--new-pidns"])
            time.sleep(1)
            pathlib.Path(name, "done").touch()
            assert restoring.wait(timeout=20) == 7

    @test(timeout=120)
    def failed_restore():
        """Whatever step fails, nothing of the new namespaces is left."""
        program = Inside("tree")
        images = folder()
        program.dump(images)
        before = set(os.listdir("/proc"))
        for fault in ("task-create", "open-file", "send-fd", "barrier", "commit"):
            done = Ferry().run("restore", "-D", images, "-d", environment={"FERRY_FAULT": fault})
            assert done.returncode == 1 and "[fault]" in done.stderr, (fault, done)
            wait_until(lambda: not [entry for entry in set(os.listdir("/proc")) - before if entry.isdigit()],
                       f"{fault}: a process is left")
        program.restore(images)
        program.verify()
        program.kill()

    @test(timeout=120)
    def killed_restore():
        """SIGKILL of ferry at many of its steps: the tree runs whole or not at all, and the image decides."""
        program = Inside("tree")
        images = folder()
        program.dump(images)
        count = 0
        for number in range(1, 200):
            done = Ferry().run("restore", "-D", images, "-d", "--json", "--again",
                               environment={"FERRY_KILL_AT": str(number)})
            count += 1
            if done.returncode == 0:
                program.pid = json.loads(done.stdout)["pid"]
                break
            time.sleep(0.05)
            alive = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                     if len(inner_pids(pid)) > 1 and inner_pids(pid)[-1] == 1]
            if done.returncode == 4:
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in alive), "it does not end")
                continue
            assert not alive, (number, done, alive)
        assert count > 3, "no step was hit"
        program.verify()
        program.kill()

if __name__ == "__main__":
    main()
