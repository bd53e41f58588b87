#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trees that run elsewhere before their memory is there (ferry dump --lazy-pages): what comes over CRIU's wire, and which of both sides
goes on when it breaks."""

import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import time

from ferrytest import Criu, Ferry, Leftovers, Program, main, test, wait_until
from ferrytest.engine import note_refusal
from ferrytest.network import free_port
from ferrytest.pageserver import SID, large_pipes
from ferrytest.process import PROC, is_alive, read_text

IMAGES = pathlib.Path("images").absolute()
# Memory of one's own, what has none that comes late, a family, threads, and huge pages.
PROGRAMS = ("heap-stack", "vma-anon", "vma-shared", "vma-locked", "vma-wipeonfork", "huge-private", "large", "family",
            "tree", "threads", "shared-memory", "shared-descriptors", "latecomer")


def named(name):
    """Processes of this name."""
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit() and is_alive(int(path.name)) and
            (read_text(path / "comm") or "").strip() == name]


def state(pid):
    """A letter, as proc(5) has it; '' when it is gone."""
    return (read_text(PROC / str(pid) / "stat") or ") ").rpartition(")")[2].strip()[:1]


class Source:
    """ferry dump --lazy-pages: the tree stands, and its memory is given."""

    def __init__(self, program, *more, environment=None):
        self.program = program
        self.pid = program.pid
        self.pids = program.tree()
        shutil.rmtree(IMAGES, ignore_errors=True)
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            [Ferry().path, "dump", "-t", str(program.pid), "-D", str(IMAGES), "--lazy-pages", "--listen", self.address,
             *more], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})})
        wait_until(lambda: (IMAGES / "inventory.img").exists() or self.process.poll() is not None, "there is no image")
        assert self.process.poll() is None, self.process.communicate()

    def end(self):
        """(exit status, what it said)"""
        _, said = self.process.communicate(timeout=60)
        done = subprocess.CompletedProcess([], self.process.returncode, "", said)
        if done.returncode:
            note_refusal(done)
        return done.returncode, said

    def ask(self):
        """A connection of one's own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def criu_source(program):
    """criu dump --lazy-pages, ready: (process, address)."""
    criu = Criu(SID)
    shutil.rmtree(IMAGES, ignore_errors=True)
    IMAGES.mkdir()
    port = free_port()
    ready, told = os.pipe()
    process = subprocess.Popen(  # pylint: disable=consider-using-with
        criu.command(criu.path, "dump", "-t", program.pid, "-D", IMAGES, "-v4", "-o", "dump.log", "--lazy-pages",
                     "--address", "127.0.0.1", "--port", port, "--status-fd", told),
        pass_fds=[told], stdin=subprocess.DEVNULL)
    os.close(told)
    assert os.read(ready, 1) == b"\0", criu.log_tail(IMAGES / "dump.log")
    os.close(ready)
    return process, f"127.0.0.1:{port}"


def head(command, nr_pages=0, vaddr=0, memory=0):
    """As CRIU's wire has it."""
    return struct.pack("=IIQQQ", command, 0, nr_pages, vaddr, memory)


def take(connection, n):
    """So many bytes, or those before the end."""
    got = b""
    while len(got) < n:
        more = connection.recv(min(n - len(got), 1 << 20))
        if not more:
            break
        got += more
    return got


def come_up(source, *more):
    """Restore it beside itself, in PIDs of its own; the copy answers from now on."""
    report = Ferry().restore(IMAGES, more=("--lazy", "--page-server", source.address, "--new-pidns", *more))
    source.program.pid = report["pid"]
    return report


def over(source):
    """The source is ended, the copy is whole."""
    status, said = source.end()
    assert status == 0, said
    source.program.wait_gone(source.pids)
    wait_until(lambda: not named("ferry-pager"), "the pager does not end", 60)


class Daemon:
    """Who brings the memory of a restore with --lazy-pages."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,  # pylint: disable=consider-using-with
                                        stderr=subprocess.STDOUT, text=True)
        wait_until(lambda: (IMAGES / "lazy-pages.socket").exists() or self.process.poll() is not None, "no socket", 20)
        assert self.process.poll() is None, self.process.communicate()

    @classmethod
    def ferry(cls, *more):
        """Ours."""
        return cls([Ferry().path, "lazy-pages", "-D", str(IMAGES), *more])

    @classmethod
    def criu(cls, *more):
        """CRIU's."""
        criu = Criu(SID)
        return cls(criu.command(criu.path, "lazy-pages", "-D", IMAGES, "-v4", "-o", "lazy.log", *more))

    def end(self):
        """(exit status, what it said)"""
        said = self.process.communicate(timeout=60)[0]
        if self.process.returncode:
            note_refusal(subprocess.CompletedProcess([], self.process.returncode, "", said))
        return self.process.returncode, said


def criu_restore(program):
    """In PIDs of its own, whose first process stays."""
    criu = Criu(SID)
    words = " ".join(criu.command(criu.path, "restore", "-D", IMAGES, "-d", "-v4", "-o", "restore.log", "--lazy-pages"))
    holder = subprocess.Popen(  # pylint: disable=consider-using-with
        ["unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child", "sh", "-c",
         f"{words}; echo $? > {IMAGES}/status; exec sleep 100"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until((IMAGES / "status").exists, "criu restore does not end", 30)
    assert (IMAGES / "status").read_text(encoding="ascii").strip() == "0", criu.log_tail(IMAGES / "restore.log")
    program.pid = holder.pid
    return holder


def late_runs(pid):
    """[(address, pages)] of memory that comes late."""
    done = Ferry().run("image", "decode", IMAGES / f"pagemap-{pid}.img")
    assert done.returncode == 0, done
    return [(int(entry["vaddr"], 0) if isinstance(entry["vaddr"], str) else entry["vaddr"], int(entry["nr_pages"]))
            for entry in json.loads(done.stdout)["entries"][1:] if entry["flags"] in (2, "PE_LAZY")]


def fetch(connection, pid, address, pages):
    """The bytes, as the source has them."""
    connection.sendall(head(7, pages, address, pid))
    answer = struct.unpack("=IIQQQ", take(connection, 32))
    assert answer[0] == 6 | 4 << 16 and answer[2:] == (pages, address, pid), answer
    got = take(connection, pages * 4096)
    assert len(got) == pages * 4096, len(got)
    return got


def well_here(source, watch, what):
    """The tree runs on as if nothing had been asked of it, and there is no image."""
    source.program.pid = source.pid
    wait_until(lambda: not is_alive(source.process.pid) and state(source.pid) in ("S", "R"), f"{what}: it does not run")
    source.program.verify()
    assert not (IMAGES / "inventory.img").exists(), what
    shutil.rmtree(IMAGES, ignore_errors=True)
    watch.check(expected=[source.program.folder])


def stopped_here(source, what):
    """The tree stands, with all its memory, until somebody lets it go on."""
    wait_until(lambda: not is_alive(source.process.pid) and state(source.pid) == "T", f"{what}: it does not stand")
    os.kill(source.pid, signal.SIGCONT)
    source.program.pid = source.pid
    source.program.verify()


if os.environ.get("FERRY"):
    def register(name):
        """One test for each program."""
        @test(timeout=120, name=f"with_{name}")
        def run():
            program = Program(name)
            source = Source(program)
            come_up(source)
            if name != "large":  # it counts the pages that are there
                program.verify()
            over(source)
            program.verify()
            program.finish()
            program.kill()

    for one in PROGRAMS:
        register(one)

    @test(timeout=120)
    def over_the_wire():
        """What the wire gives is what /proc/PID/mem has; when all of it was given the tree is ended."""
        program = Program("large")
        source = Source(program)
        runs = late_runs(source.pid)
        assert sum(pages for _, pages in runs) > 1000, runs
        with open(f"/proc/{source.pid}/mem", "rb", 0) as mem, source.ask() as connection:
            for address, pages in runs:
                for at in range(0, pages, 512):
                    n = min(512, pages - at)
                    got = fetch(connection, source.pid, address + at * 4096, n)
                    mem.seek(address + at * 4096)
                    assert got == mem.read(n * 4096), f"{address:x}"
            assert state(source.pid) == "t"
            connection.sendall(head(0x1023))
            assert take(connection, 4) == bytes(4)
        status, said = source.end()
        assert status == 0 and f"memory is given at {source.address}" in said, said
        program.wait_gone(source.pids)

    @test(timeout=120)
    def source_killed():
        """While pages are missing: it runs on, and what was restored from it is ended."""
        program = Program("latecomer")
        watch = Leftovers(program.pid)
        source = Source(program)
        report = come_up(source)
        pagers = named("ferry-pager")
        for pid in pagers:
            os.kill(pid, signal.SIGSTOP)
        copy = program.tree()
        assert pagers and report["lazy_bytes"] > 0, report
        source.process.kill()
        source.process.wait()
        for pid in pagers:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not any(map(is_alive, copy)) and not named("ferry-guardian"), "the copy lives")
        well_here(source, watch, "killed")
        program.quit()

    @test(timeout=120)
    def source_killed_late():
        """When all pages were given nobody knows who has them: it stands."""
        program = Program("large")
        source = Source(program)
        with source.ask() as connection:
            for address, pages in late_runs(source.pid):
                fetch(connection, source.pid, address, pages)
            source.process.kill()
            source.process.wait()
            stopped_here(source, "killed")
        program.quit()

    @test(timeout=120)
    def killed_at():
        """ferry is killed right before each of its effects from the image on: until it ends the tree, that runs or stands."""
        log = pathlib.Path("effects").absolute()

        def all_fetched(source):
            with source.ask() as connection:
                try:
                    for address, pages in late_runs(source.pid):
                        fetch(connection, source.pid, address, pages)
                    connection.sendall(head(0x1023))
                    take(connection, 4)
                except (AssertionError, OSError, struct.error):
                    pass  # it was killed
            source.process.wait(30)

        program = Program("heap-stack")
        source = Source(program, environment={"FERRY_EFFECT_LOG": str(log)})
        all_fetched(source)
        program.wait_gone(source.pids)
        effects = [line.split(" ", 3)[2:] for line in log.read_text(encoding="ascii").splitlines()]
        begin = effects.index(["dump", "serve"])
        end = next(i for i, effect in enumerate(effects) if effect[0] == "kill")
        assert begin < effects.index(["dump", "settle"]) < end, effects
        met = set()
        for number in range(begin + 2, end + 2):
            log.unlink()
            program = Program("heap-stack")
            try:
                source = Source(program, environment={"FERRY_KILL_AT": str(number), "FERRY_EFFECT_LOG": str(log)})
                all_fetched(source)
            except AssertionError as error:  # a run may have an effect more than another
                assert "was killed" in str(error), error
            wait_until(lambda pid=program.pid: state(pid) in ("S", "T", "Z", ""), "it does not run, stand or end")
            where = state(program.pid)
            passed = [line.split(" ", 3)[2] for line in log.read_text(encoding="ascii").splitlines()]
            met.add((passed[-1], where))
            # Only after it was made to stand, and somebody has all of its pages.
            assert where in ("S", "T") or "leave-stopped" in passed[:-1], (passed[-3:], where)
            if where in ("S", "T"):
                os.kill(program.pid, signal.SIGCONT)
                program.verify()
                program.quit()
        print(f"killed at, and then: {sorted(met)}")

    @test(timeout=120)
    def pager_killed():
        """In the end exactly one of the two runs, and is whole."""
        outcomes = set()
        for i in range(6):
            program = Program("latecomer")
            watch = Leftovers(program.pid)
            source = Source(program)
            come_up(source)
            copy = program.tree()
            time.sleep(i * 0.003)
            for pid in named("ferry-pager"):
                os.kill(pid, signal.SIGKILL)
            status, said = source.end()
            outcomes.add(status)
            if status:
                assert "the tree runs on here as before" in said, said
                wait_until(lambda pids=copy: not any(map(is_alive, pids)) and not named("ferry-guardian") and not named("ferry-pager"),
                           "the copy lives")
                well_here(source, watch, "pager killed")
                program.quit()
            else:
                program.wait_gone(source.pids)
                program.verify()
                program.kill()
            wait_until(lambda: not named("ferry-guardian"), "the guardian does not end")
        print(f"statuses: {sorted(outcomes)}")

    @test(timeout=120)
    def restore_fails():
        """A restore that comes to nothing changes nothing: the next one has it."""
        program = Program("heap-stack")
        source = Source(program)
        done = Ferry().run("restore", "-D", IMAGES, "-d", "--lazy", "--page-server", source.address)
        assert done.returncode in (1, 3) and str(source.pid) in done.stderr, done
        done = Ferry().run("restore", "-D", IMAGES, "-d", "--new-pidns")
        assert done.returncode == 3 and "--page-server" in done.stderr, done
        with source.ask() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with source.ask() as connection:
            connection.sendall(head(0x1023))
        assert source.process.poll() is None and state(source.pid) == "t"
        come_up(source)
        program.verify()
        over(source)
        program.kill()

    @test(timeout=120)
    def hostile():
        """Whoever asks for what there is not gets nothing more, and the tree runs on."""
        cases = (
            (lambda pid, at, n: head(77), "does not know what that means"),
            (lambda pid, at, n: head(4, memory=pid << 8 | 1), "does not know what that means"),
            (lambda pid, at, n: head(7, 1, at, pid + 1), "there is no such memory"),
            (lambda pid, at, n: head(7, 0, at, pid), "no such pages can be"),
            (lambda pid, at, n: head(7, 1, at + 1, pid), "no such pages can be"),
            (lambda pid, at, n: head(7, 1 << 63, at, pid), "no such pages can be"),
            (lambda pid, at, n: head(7, 1, (1 << 64) - 4096, pid), "no such pages can be"),
            (lambda pid, at, n: head(7, n + 1, at, pid), "not among those that come late"),
            (lambda pid, at, n: head(7, 1, 0x1000, pid), "not among those that come late"),
            (lambda pid, at, n: head(7, 1, at, pid)[:31], "ended when it had 1 of"),
            (lambda pid, at, n: b"", "ended when it had 1 of"),
        )
        program = Program("large")
        watch = Leftovers(program.pid)
        for make, text in cases:
            source = Source(program)
            at, n = late_runs(source.pid)[0]
            with source.ask() as connection:
                fetch(connection, source.pid, at, 1)
                connection.sendall(make(source.pid, at, n))
                connection.shutdown(socket.SHUT_WR)
                status, said = source.end()
            assert status == 1 and text in said and "runs on here" in said, f"{text}: {status} {said}"
            well_here(source, watch, text)
        program.quit()

    @test(timeout=120)
    def early_close():
        """Who wants no more when it has not all may have failed, or not: the tree stands."""
        program = Program("large")
        source = Source(program)
        with source.ask() as connection:
            fetch(connection, source.pid, late_runs(source.pid)[0][0], 1)
            connection.sendall(head(0x1023))
            status, said = source.end()
        assert status == 1 and "wants no more after 1 of" in said and "kill -CONT" in said, said
        stopped_here(source, "early")
        program.quit()

    @test(timeout=120)
    def liar():
        """A page server that answers something else: what was restored is ended, whoever has the memory keeps it."""
        program = Program("large")
        watch = Leftovers(program.pid)
        source = Source(program)
        answers = (lambda c, n, at, m: head(6 | 4 << 16, n, at + 4096, m) + bytes(n * 4096),
                   lambda c, n, at, m: head(6 | 4 << 16, n + 1, at, m) + bytes((n + 1) * 4096),
                   lambda c, n, at, m: head(6, n, at, m),
                   lambda c, n, at, m: head(6 | 4 << 16, n, at, m) + bytes(n * 4096 - 1),
                   lambda c, n, at, m: b"")
        for answer in answers:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                address = f"127.0.0.1:{listening.getsockname()[1]}"
                with subprocess.Popen([Ferry().path, "restore", "-D", IMAGES, "-d", "--again", "--lazy", "--new-pidns",
                                       "--page-server", address],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ferry:
                    connection = listening.accept()[0]
                    with connection:
                        command, _, n, at, memory = struct.unpack("=IIQQQ", take(connection, 32))
                        assert command == 7, command
                        connection.sendall(answer(connection, n, at, memory))
                        connection.shutdown(socket.SHUT_WR)
                        assert take(connection, 1) == b""
                    ferry.wait()
            wait_until(lambda: not named("ferry-pager") and not named("ferry-guardian"), "the pager does not end")
            wait_until(lambda: len(named("large")) == len(source.pids), f"{named('large')}")
        source.process.kill()
        source.process.wait()
        well_here(source, watch, "killed")
        program.quit()

    @test(timeout=120, needs=["criu-sid"])
    def from_criu():
        """CRIU keeps the memory; ferry restores and fetches it, or its daemon does for CRIU's restore."""
        for name in ("heap-stack", "vma-anon", "tree", "large", "threads"):
            program = Program(name)
            pids = program.tree()
            with large_pipes():
                process, address = criu_source(program)
                report = Ferry().restore(IMAGES, more=("--lazy", "--page-server", address, "--new-pidns"))
                program.pid = report["pid"]
                if name != "large":
                    program.verify()
                assert process.wait(60) == 0, Criu(SID).log_tail(IMAGES / "dump.log")
            program.wait_gone(pids)
            wait_until(lambda: not named("ferry-pager"), "the pager does not end", 60)
            program.verify()
            program.finish()
            program.kill()
        # Not a test of its own: the limit of pipes is the machine's.
        for name in ("heap-stack", "tree"):
            program = Program(name)
            pids = program.tree()
            with large_pipes():
                source, address = criu_source(program)
                process = Daemon.ferry("--page-server", address)
                holder = criu_restore(program)
                program.verify()
                status, said = process.end()
                assert status == 0, said
                assert source.wait(60) == 0, Criu(SID).log_tail(IMAGES / "dump.log")
            program.wait_gone(pids)
            program.verify()
            holder.kill()
            holder.wait()

    @test(timeout=120)
    def daemon():
        """ferry restore leaves memory to ferry lazy-pages, which has it from the source, or out of the image."""
        for name in ("heap-stack", "vma-anon", "tree", "family", "threads", "huge-private", "latecomer"):
            program = Program(name)
            source = Source(program)
            process = Daemon.ferry("--page-server", source.address)
            program.pid = Ferry().restore(IMAGES, more=("--lazy-pages", "--new-pidns"))["pid"]
            program.verify()
            status, said = process.end()
            assert status == 0, said
            over(source)
            program.verify()
            program.kill()
        for name in ("heap-stack", "family", "latecomer"):
            program = Program(name)
            pids = program.tree()
            shutil.rmtree(IMAGES, ignore_errors=True)
            Ferry().dump(program.pid, IMAGES)
            program.wait_gone(pids)
            process = Daemon.ferry()
            Ferry().restore(IMAGES, more=("--lazy-pages",))
            program.verify()
            status, said = process.end()
            assert status == 0 and not (IMAGES / "lazy-pages.socket").exists(), said
            program.verify()
            program.quit()

    @test(timeout=120)
    def daemon_killed():
        """Its pager goes on. And when nobody restores, nothing is lost."""
        program = Program("latecomer")
        source = Source(program)
        process = Daemon.ferry("--page-server", source.address)
        second = Ferry().run("lazy-pages", "-D", IMAGES)
        assert second.returncode == 3 and "waits at lazy-pages.socket" in second.stderr, second
        process.process.kill()
        process.process.wait()
        done = Ferry().run("restore", "-D", IMAGES, "-d", "--lazy-pages", "--new-pidns")
        assert done.returncode == 1 and "start 'ferry lazy-pages'" in done.stderr, done
        (IMAGES / "lazy-pages.socket").unlink()
        process = Daemon.ferry("--page-server", source.address)
        program.pid = Ferry().restore(IMAGES, more=("--lazy-pages", "--new-pidns"))["pid"]
        process.process.kill()
        process.process.wait()
        program.verify()
        over(source)
        program.verify()
        program.kill()

    @test(timeout=60)
    def daemon_hostile():
        """What makes no sense at its socket ends it, and the source keeps its tree."""
        program = Program("heap-stack")
        watch = Leftovers(program.pid)
        source = Source(program)
        cases = ((b"", None, "ended before its tasks ran"), (b"\1", None, "ended before its tasks ran"),
                 (struct.pack("=i", source.pid), b"", "ended before its tasks ran"),
                 (struct.pack("=i", source.pid), b"x", "ended before its tasks ran"),
                 (struct.pack("=i", source.pid + 1), os.memfd_create("no"), "ended before its tasks ran"),
                 (struct.pack("=i", source.pid), os.memfd_create("no"), "ended before its tasks ran"))
        for begin, then, text in cases:
            process = Daemon.ferry("--page-server", source.address)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(str(IMAGES / "lazy-pages.socket"))
                connection.sendall(begin)
                if isinstance(then, int):
                    socket.send_fds(connection, [b"\0"], [then])
                elif then:
                    connection.sendall(then)
                if not begin:
                    process.process.terminate()
                    process.process.wait()
                    (IMAGES / "lazy-pages.socket").unlink()
                    continue
                connection.shutdown(socket.SHUT_WR)
                status, said = process.end()
            assert status == 1 and text in said, f"{begin} {then}: {status} {said}"
        wait_until(lambda: not named("ferry-pager"), "a pager stays")
        assert source.process.poll() is None
        source.process.kill()
        source.process.wait()
        well_here(source, watch, "killed")
        program.quit()

    @test(timeout=120, needs=["criu-sid"])
    def to_criu():
        """ferry keeps the memory; CRIU's daemon fetches it, for CRIU's restore and for ferry's."""
        for name, restored_by in (("heap-stack", "criu"), ("tree", "criu"), ("vma-anon", "criu"), ("vma-anon", "ferry"), ("tree", "ferry")):
            program = Program(name)
            source = Source(program)
            process = Daemon.criu("--page-server", "--address", "127.0.0.1", "--port", source.port)
            holder = criu_restore(program) if restored_by == "criu" else None
            if not holder:
                program.pid = Ferry().restore(IMAGES, more=("--lazy-pages", "--new-pidns"))["pid"]
            program.verify()
            status, said = process.end()
            assert status == 0, said + Criu(SID).log_tail(IMAGES / "lazy.log")
            over(source)
            program.verify()
            if holder:
                holder.kill()
                holder.wait()
            else:
                program.kill()

    @test(timeout=30)
    def not_so():
        """Where it cannot or should not go."""
        program = Program("heap-stack")
        for words, text in (((), "--listen ADDRESS is missing"), (("--listen", "0.0.0.0:0"), "--insecure"),
                            (("--listen", "127.0.0.1:0", "-R"), "moves the tree whole")):
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--lazy-pages", *words)
            assert done.returncode == 2 and text in done.stderr and not IMAGES.exists(), done
        program.verify()
        program.quit()


if __name__ == "__main__":
    main()
