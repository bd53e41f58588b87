#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry under the name criu as a server: the service, page servers by request, who is told when one is ready, a command in its place."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

from ferrytest import Program, main, test
from ferrytest.criurpc import Caller, Worker, descriptor, field, fields
from ferrytest.engine import Criu
from ferrytest.network import free_port
from ferrytest.pageserver import SID
from ferrytest.process import is_alive, wait_until

BUILD = pathlib.Path(os.environ["FERRY_BUILD"])
BASE = pathlib.Path("criuserver").absolute()


class Named(Criu):
    """ferry, started as criu."""

    name = "ferry"

    def __init__(self):
        super().__init__(SID)
        BASE.mkdir(exist_ok=True)
        self.path = BASE / "criu"
        if not self.path.is_symlink():
            self.path.symlink_to(pathlib.Path(os.environ["FERRY"]).absolute())

    def command(self, program, *words):
        return [str(program), *map(str, words)]


def folders(name):
    """(images, work), empty."""
    base = BASE / name
    shutil.rmtree(base, ignore_errors=True)
    places = [base / part for part in ("images", "work")]
    for place in places:
        place.mkdir(parents=True)
    return places


def told_of(reading, what):
    """One zero byte, and then the end."""
    with os.fdopen(reading, "rb") as told:
        assert told.read() == b"\0", what


class Ready:
    """A server in the background, which says by --status-fd when whoever comes is served."""

    def __init__(self, engine, *words):
        reading, writing = os.pipe()
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            engine.command(engine.path, *words, "--status-fd", writing), pass_fds=[writing], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        os.close(writing)
        with os.fdopen(reading, "rb") as told:
            self.told = told.read()
        assert self.told == b"\0", (self.told, self.end())

    def end(self):
        """(exit status, what it printed)"""
        out = self.process.communicate(timeout=60)[0]
        return self.process.returncode, out


def service_of(engine, work, *more):
    """Its PID, started in the background."""
    done = engine.run("service", "-W", work, "-d", "--pidfile", "pid", "-o", "service.log", "-v4", *more)
    assert done.returncode == 0, done
    # CRIU's writes it when who started it has its status already.
    wait_until(lambda: (work / "pid").exists() and (work / "pid").read_text(encoding="ascii"), "no pidfile")
    return int((work / "pid").read_text(encoding="ascii"))


def gone(pid):
    """Whether no such process is there; ours or nobody's."""
    return lambda: not is_alive(pid)


def served(engine, name):
    """What a service answers."""
    images, work = folders(name)
    pid = service_of(engine, work)
    program = Program("heap-stack")
    said = []
    options = {"images_dir_fd": descriptor(images), "log_level": 4, "log_file": "log"}
    try:
        for what, more in (("version", None), ("check", options), ("dump", {**options, "pid": program.pid, "leave_running": True}),
                           ("dump", {**options, "pid": 99999999}), ("dump", {**options, "pid": program.pid, "notify_scripts": True})):
            with Caller.connect(work / "criu_service.socket") as caller:
                answer, stages = caller.ask(what, more)
                said.append((what, answer[1], answer[2], [stage for stage, _ in stages]))
        program.wait_gone([program.pid])
        with Caller.connect(work / "criu_service.socket") as caller:
            said.append(("restore", fields(caller.ask("restore", options)[0][4])[1] == program.pid))
        program.verify()
        # Several over one connection.
        with Caller.connect(work / "criu_service.socket") as caller:
            said.append([caller.ask("version", keep=True)[0][2] for _ in range(3)])
        program.quit()
    finally:
        os.kill(pid, 15)
        wait_until(gone(pid), "the service does not end")
        os.close(options["images_dir_fd"])
    return said


@test(timeout=120, needs=["criu-sid"])
def service():
    """The service takes requests at its socket as CRIU's does."""
    of_criu, of_ferry = served(Criu(SID), "service-criu"), served(Named(), "service-ferry")
    assert of_ferry == of_criu, [pair for pair in zip(of_ferry, of_criu) if pair[0] != pair[1]]
    assert not (BASE / "service-ferry/work/criu_service.socket").exists()


# A caller that sets itself up and prints what it is told.
ASKS = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
from ferrytest.criurpc import Caller
try:
    print(Caller.connect(sys.argv[2]).ask("version")[0])
except OSError as error:
    print(error.strerror)
"""


@test(timeout=60)
def rights():
    """Nobody has done by the service what he could not do himself: other users, less rights, other namespaces; its descriptors."""
    _, work = folders("rights")
    address = work / "criu_service.socket"
    pid = service_of(Named(), work)
    # Others may not see where the tests are.
    library = shutil.copytree(pathlib.Path(__file__).parents[1] / "lib", work / "lib", ignore=shutil.ignore_patterns("*.pyc"))

    def asked(*before):
        done = subprocess.run([*before, sys.executable, "-c", ASKS, library, str(address)], text=True, capture_output=True, timeout=60,
                              check=False)
        assert done.returncode == 0, done
        return done.stdout

    try:
        for folder in (work, *work.parents):
            if not folder.stat().st_mode & 1:
                folder.chmod(folder.stat().st_mode | 0o011)
        assert address.stat().st_mode & 0o777 == 0o600
        assert "10: " in asked()
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        assert "Permission denied" in asked(*nobody)
        address.chmod(0o666)
        assert "user 65534 asks" in asked(*nobody), asked(*nobody)
        assert "lacks rights" in asked("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")
        assert "another user or PID namespace" in asked("unshare", "--pid", "--fork")
        with Caller.connect(address) as caller:
            images = descriptor(work)
            answer = caller.ask("restore", {"images_dir_fd": images, "inherit_fd": field(1, "pipe:[1]") + field(2, 0)})[0]
            assert not answer[2] and b"no descriptors of who asks" in answer[9], answer
            os.close(images)
        second = Named().run("service", "--address", address)
        assert second.returncode == 1 and "criu_service.socket" in second.stderr, second
    finally:
        os.kill(pid, 15)
        wait_until(gone(pid), "the service does not end")


def pages_by_request(engine):
    """A page server that a worker starts takes the pages of a dump, and its end is told."""
    images, work = folders("pages-" + engine.name)
    pages = work / "pages"
    pages.mkdir()
    program = Program("heap-stack")
    options = {"images_dir_fd": descriptor(pages), "log_level": 4, "log_file": "log", "ps": field(1, "127.0.0.1") + field(2, 0)}
    with Worker(engine) as worker:
        answer = worker.ask("page-server-child", options, keep=True)[0]
        assert answer[1] == 5 and answer[2], answer
        server = fields(answer[6])
        dumped = Named().run("dump", "-t", program.pid, "-D", images, "-o", "log", "--page-server", "--address", "127.0.0.1", "--port",
                             server[2])
        assert dumped.returncode == 0, (dumped, (images / "log").read_text(encoding="utf-8"))
        status = worker.ask("wait-pid", pid=server[3], keep=True)[0]
        assert status[2] and status[11] == 0, status
    os.close(options["images_dir_fd"])
    program.wait_gone([program.pid])
    for path in pages.glob("*.img"):
        if not (images / path.name).exists():
            shutil.copy(path, images)
    return program, images


@test(timeout=60)
def page_server_by_request():
    """PAGE_SERVER_CHLD and WAIT_PID: the pages come there, and with the rest of the image they are restored."""
    program, images = pages_by_request(Named())
    done = Named().run("restore", "-D", images, "-d", "-o", "restore.log")
    assert done.returncode == 0, (images / "restore.log").read_text(encoding="utf-8")
    program.verify()
    program.quit()
    # One that is nobody's child, and is not told.
    _, work = folders("alone")
    options = {"images_dir_fd": descriptor(work), "ps": field(1, "127.0.0.1") + field(2, 0)}
    with Worker(Named()) as worker:
        answer = worker.ask("page-server", options)[0]
        assert answer[2] and worker.end() == (0, ""), answer
    port = fields(answer[6])[2]
    with socket.create_connection(("127.0.0.1", port)):
        pass
    with Worker(Named()) as worker:
        assert not worker.ask("wait-pid", pid=1, keep=True)[0][2]
        assert not worker.ask("wait-pid", keep=True)[0][2]
        assert not worker.ask("page-server", {**options, "ps": field(1, "127.0.0.1") + field(2, 1 << 20)})[0][2]
    os.close(options["images_dir_fd"])


@test(timeout=90)
def status_fd():
    """dump --lazy-pages, lazy-pages and page-server tell by --status-fd when they are ready, and the stage of that name is told then."""
    ferry = Named()
    images, work = folders("status")
    script = work / "script"
    script.write_text(f'#!/bin/sh\necho "$CRTOOLS_SCRIPT_ACTION" >> {work}/stages\n', encoding="ascii")
    script.chmod(0o755)
    program, port = Program("heap-stack"), free_port()
    place = ("--address", "127.0.0.1", "--port", port)
    dump = Ready(ferry, "dump", "-t", program.pid, "-D", images, "-W", work, "-o", "dump.log", "--lazy-pages", *place,
                 "--action-script", script)
    assert (work / "stages").read_text(encoding="ascii").split()[-2:] == ["post-dump", "status-ready"]
    pages = Ready(ferry, "lazy-pages", "-D", images, "-W", work, "-o", "pages.log", "--page-server", *place)
    done = ferry.run("restore", "-D", images, "-W", work, "-o", "restore.log", "-d", "--lazy-pages")
    # The dumped tree still has its numbers here.
    assert done.returncode == 1, done
    dump.process.terminate()
    dump.end()
    pages.process.kill()
    pages.end()
    program.verify()
    program.quit()
    pages, _ = folders("status-pages")
    server = Ready(ferry, "page-server", "-D", pages, "-o", "log", "--address", "127.0.0.1", "--port", 0, "--pidfile", "pid")
    assert int((pages / "pid").read_text(encoding="ascii")) == server.process.pid
    server.process.kill()
    server.end()


@test(timeout=60)
def page_server_daemon():
    """page-server -d returns when it listens, and what it started takes one dump and ends well."""
    ferry = Named()
    images, work = folders("daemon")
    port, program = free_port(), Program("heap-stack")
    done = ferry.run("page-server", "-D", work, "-d", "--pidfile", "pid", "--address", "127.0.0.1", "--port", port, "-o", "log")
    assert done.returncode == 0 and done.stdout == done.stderr == "", done
    pid = int((work / "pid").read_text(encoding="ascii"))
    done = ferry.run("dump", "-t", program.pid, "-D", images, "--page-server", "--address", "127.0.0.1", "--port", port, "-o", "log")
    assert done.returncode == 0, done
    wait_until(gone(pid), "the page server does not end")
    program.wait_gone([program.pid])
    for path in work.glob("*.img"):
        if not (images / path.name).exists():
            shutil.copy(path, images)
    assert ferry.run("restore", "-D", images, "-d", "-o", "log").returncode == 0
    program.verify()
    program.quit()


def over_one_connection(taker):
    """Pages go over a connection that both commands are started with."""
    images, work = folders("one-" + taker.name)
    pages = work / "pages"
    pages.mkdir()
    program = Program("heap-stack")
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(taker.command(taker.path, "page-server", "-D", pages, "-o", "log", "--ps-socket", theirs.fileno()),
                                        pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL) as server:
        theirs.close()
        done = subprocess.run(Named().command(Named().path, "dump", "-t", program.pid, "-D", images, "-o", "log", "--page-server",
                                              "--ps-socket", ours.fileno()),
                              pass_fds=[ours.fileno()], stdin=subprocess.DEVNULL, timeout=60, check=False)
        assert done.returncode == 0, (images / "log").read_text(encoding="utf-8")
        ours.close()
        assert server.wait(timeout=30) == 0, (pages / "log").read_text(encoding="utf-8")
    program.wait_gone([program.pid])
    assert list(pages.glob("pages-*.img")) and not list(images.glob("pages-*.img"))
    for path in pages.glob("*.img"):
        if not (images / path.name).exists():
            shutil.copy(path, images)
    assert Named().run("restore", "-D", images, "-d", "-o", "log").returncode == 0
    program.verify()
    program.quit()


@test(timeout=90, needs=["criu-sid"])
def ps_socket():
    """--ps-socket: a connection takes the place of an address, with ferry's page server and CRIU's."""
    over_one_connection(Named())
    over_one_connection(Criu(SID))
    for wrong in ("77", "0"):
        done = Named().run("page-server", "-D", BASE, "--ps-socket", wrong)
        assert done.returncode == 1 and f"fd:{wrong}" in done.stderr, done


def became(engine):
    """Who is the parent of what was restored, and what ran there: by command line and by request."""
    images, work = folders("exec-" + engine.name)
    program = Program("heap-stack")
    shell = f'cat /proc/{program.pid}/stat > {work}/child; echo $$ > {work}/self; exec sleep 1000'
    options = {"images_dir_fd": descriptor(images), "work_dir_fd": descriptor(work)}
    found = []
    for by_request in (False, True):
        assert engine.run("dump", "-t", program.pid, "-D", images, "-W", work, "-o", "dump.log").returncode == 0
        program.wait_gone([program.pid])
        (work / "self").unlink(missing_ok=True)
        if by_request:
            with Worker(engine) as worker:
                answer = worker.ask("restore", {**options, "exec_cmd": ["sh", "-c", shell]})[0]
                assert answer[2], answer
                wait_until((work / "self").exists, "the command does not run")
                program.verify()
                process = worker.process
        else:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                engine.command(engine.path, "restore", "-D", images, "-W", work, "-o", "restore.log", "--exec-cmd", "--",
                               "sh", "-c", shell),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until((work / "self").exists, "the command does not run")
            program.verify()
        parent = int((work / "child").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        found.append(parent == int((work / "self").read_text(encoding="ascii")) == process.pid)
        process.kill()
        process.wait()
    program.verify()
    program.quit()
    for fd in options.values():
        os.close(fd)
    return found


@test(timeout=120, needs=["criu-sid"])
def exec_cmd():
    """--exec-cmd: a command takes CRIU's place, and is the parent of what was restored."""
    assert became(Named()) == [True, True]
    done = Named().run("restore", "-D", "/", "--exec-cmd")
    assert done.returncode == 1 and "--exec-cmd" in done.stderr, done


# Names of all features that CRIU 4.2 knows. One is there with ferry, and CRIU lacks it on this kernel.
FEATURES = (
    "mnt_id aio_remap timerfd tun tun_ns userns fdinfo_lock seccomp_suspend seccomp_filters loginuid cgroupns autofs "
    "tcp_half_closed compat_cr uffd uffd-noncoop can_map_vdso sk_ns sk_unix_file net_diag_raw nsid link_nsid kcmp_epoll timens "
    "external_net_ns clone3_set_tid newifindex nftables has_ipt_legacy pidfd_store ns_pid apparmor_stacking network_lock_nftables "
    "sockopt_buf_lock memfd_hugetlb move_mount_set_group openat2 get_rseq_conf ipv6_freebind pagemap_scan timer_cr_ids "
    "overlayfs_maps breakpoints pagemap_scan_guard_pages "
)


@test(timeout=120, needs=["criu-sid"])
def features():
    """check --feature answers for each name as CRIU does."""
    criu, ferry = Criu(SID), Named()
    criu.run("check")
    differ = []
    for name in FEATURES.split():
        theirs, ours = (engine.run("check", "--feature", name) for engine in (criu, ferry))
        if theirs.returncode != ours.returncode or (not ours.returncode and theirs.stdout != ours.stdout):
            differ.append((name, theirs, ours))
    assert not differ, differ
    for word in ("--extra", "--all", "--experimental"):
        done = ferry.run("check", word)
        assert done.stdout.startswith("Looks good") and done.returncode == (done.stdout != "Looks good.\n"), done


if __name__ == "__main__":
    main()
