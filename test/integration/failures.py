#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What fails under an engine, with ferry in CRIU's place: the cause, and what to do about it, stand in the answer to the engine and
at the end of the log; a container that was not stored goes on with its connections, and one that did not come back comes once the
cause is gone."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess

from ferrytest import main, test, wait_until
from ferrytest.containers import groups
from ferrytest.containers.client import Client, cut_off
from ferrytest.containers.criu import Overheard
from ferrytest.containers.docker import Docker
from ferrytest.containers.output import counter, counts_on
from ferrytest.containers.podman import Podman
from ferrytest.containers.runc import Bundle, Runc
from ferrytest.leftovers import changed_text, freezer_state, task_problems
from ferrytest.process import tree

FOLDER = pathlib.Path("containers").absolute()
ADDRESS = "10.99.78.5"
PORT = 7000
# The programs of this machine, in a container.
PROGRAMS = [word for path in ("/usr", "/lib", "/lib64") for word in ("--volume", f"{path}:{path}:ro")]
# Counts, and answers whoever connects; before, it does something.
SERVER = f"""
import ctypes, fcntl, os, socket, struct, threading, time
listener = socket.create_server(("0.0.0.0", {PORT}))
def serve():
    while True:
        connection, _ = listener.accept()
        for line in connection.makefile("rb"):
            connection.sendall(line)
threading.Thread(target=serve, daemon=True).start()
DO
number = 0
while True:
    print(number, flush=True)
    number += 1
    time.sleep(0.1)
"""


def tables(pid):
    """What blocks packets in the network of a process."""
    done = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "list", "tables"], check=True, text=True, stdout=subprocess.PIPE)
    return set(done.stdout.splitlines())


class Scene:
    """podman, a network, and one container that serves a client."""

    def __init__(self):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.criu = Overheard(FOLDER)
        self.podman = Podman(self.criu, FOLDER)
        self.podman.good("network", "create", "--subnet", "10.99.78.0/24", "far")
        self.volume = FOLDER / "volume"
        self.volume.mkdir()
        self.client = None
        self.before = set()
        self.away = contextlib.ExitStack()  # while it is stored

    def start(self, what="", *words, network=("--network", "far", "--ip", ADDRESS)):
        """Run it; what: what it does before. None of it is in the way of the rules of the network."""
        self.podman.start("c", ("/usr/bin/python3", "-c", SERVER.replace("DO", what)), *network, *PROGRAMS,
                          "--volume", f"{self.volume}:/volume", *words)
        self.podman.wait_lines("c", 2)
        self.before = tables(self.pid())

    def connect(self):
        """A client, who has been answered."""
        self.client = Client.of((ADDRESS, PORT))

    def pid(self):
        """Of its first process."""
        return self.podman.inspect("c")["State"]["Pid"]

    def userdata(self):
        """Where podman keeps the image and the logs."""
        return pathlib.Path(self.podman.inspect("c")["StaticDir"])

    def says(self, done, log, *words):
        """The answer and the log say this, and podman shows as much as runc tells it."""
        told = self.criu.failed()
        for word in words:
            assert word in told["message"], f"'{word}' is not in: {told}"
        lines = (self.userdata() / log).read_text().splitlines()
        assert lines[-1].startswith("Error (ferry") and words[0] in lines[-1], lines[-3:]
        assert len(words) == 1 or words[1] in lines[-2], lines[-3:]
        assert done.returncode and f"errno {told['errno']}" in done.stderr and log in done.stderr, done

    def fails(self, checkpoint, *words):
        """It is not stored, and goes on: nobody stopped it, nothing of ferry's is in it, everybody reaches it."""
        done = self.podman.run("container", "checkpoint", *checkpoint, "c")
        self.says(done, "dump.log", *words)
        self.goes_on()

    def goes_on(self):
        """As it was before."""
        lines = len(self.podman.lines("c"))
        counts_on([], [int(line) for line in self.podman.wait_lines("c", lines + 3)])
        if self.client:
            self.client.goes_on()
        pids = tree(self.pid())
        problems = [problem for pid in pids for problem in (*task_problems(pid, (), set(pids)), *freezer_state(pid), *changed_text(pid))]
        assert not problems, problems
        assert tables(self.pid()) == self.before, tables(self.pid())
        assert self.podman.inspect("c")["State"]["Status"] == "running"

    def save(self):
        """Store it."""
        self.away.enter_context(cut_off(ADDRESS))
        self.podman.good("container", "checkpoint", "--tcp-established", "--file-locks", "c")

    def restore(self):
        """Try to bring it back."""
        return self.podman.run("container", "restore", "--tcp-established", "--file-locks", "c")

    def fails_back(self, *words):
        """It does not come back, and nothing of it is there."""
        self.says(self.restore(), "restore.log", *words)
        assert not self.podman.inspect("c")["State"]["Running"]

    def comes_back(self):
        """It does, as it was."""
        done = self.restore()
        assert done.returncode == 0, f"{done.stderr}{self.podman.explain()}"
        self.away.close()
        self.goes_on()

    def end(self):
        """Of everybody."""
        if self.client:
            self.client.end()
        self.podman.end()


KEPT = ("--tcp-established",)

# Name -> what the program does, words of podman run, words of podman container checkpoint, what is said: the cause, what to do.
DUMPS = {
    "connected": ("", (), (), ("an established TCP connection", "--tcp-established")),
    "locked": ("f = open('/volume/lock', 'w'); fcntl.flock(f, 2)", (), KEPT, ("'/volume/lock' carries a flock lock", "--file-locks")),
    "kernel_log": ("f = os.open('/dev/kmsg', 0)", ("--privileged",), KEPT,
                   ("'/dev/kmsg' (device 1:11) is the kernel's log", "open it again")),
    "machine": ("f = os.open('/dev/kvm', 2); v = fcntl.ioctl(f, 0xAE01, 0)", ("--privileged",), KEPT,
                ("a virtual machine or one of its processors", "virtual machine monitor")),
    "device": ("f = os.open('/dev/hwrng', 0)", ("--privileged",), KEPT, ("a device that ferry does not dump", "close it before the dump")),
    "counter": ("s = struct.pack('IIQQQQQ80x', 1, 128, 0, 0, 0, 0, 0)\nassert ctypes.CDLL(None).syscall(298, s, 0, -1, -1, 0) >= 0",
                ("--privileged",), KEPT, ("is a performance counter", "stop measuring first")),
    "other_socket": ("s = socket.socket(socket.AF_VSOCK)", ("--privileged",), KEPT, ("a vsock socket", "close it before the dump")),
}
NEEDED = {"machine": "/dev/kvm", "device": "/dev/hwrng", "other_socket": "/dev/vsock", "kernel_log": "/dev/kmsg"}


def refused(what, run, checkpoint, said):
    """A container that is not stored."""
    scene = Scene()
    scene.start(what, *run)
    scene.connect()
    scene.fails(checkpoint, *said)
    scene.end()


for name, entry in DUMPS.items():
    if os.path.exists(NEEDED.get(name, "/")):
        test(name=name, timeout=120)(lambda entry=entry: refused(*entry))


@test(timeout=120)
def sockets_of_the_host():
    """Connections to a program outside: one that waits to be accepted, then one that was, then without a connection."""
    scene = Scene()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        listener.bind(str(scene.volume / "stream"))
        listener.listen()
        datagrams.bind(str(scene.volume / "datagrams"))
        scene.start("a = socket.socket(socket.AF_UNIX); a.connect('/volume/stream')")
        scene.connect()
        scene.fails(KEPT, "waits to be accepted by somebody in another network namespace", "close the socket")
        with listener.accept()[0]:
            scene.fails(KEPT, "a unix socket connected to", "--external unix[")
        scene.podman.good("rm", "--force", "--time", "0", "c")
        scene.client = None
        scene.start("a = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); a.connect('/volume/datagrams')")
        scene.fails(KEPT, "a unix socket connected to", "connect again after the restore")
        scene.podman.good("rm", "--force", "--time", "0", "c")
        # In the network of the host the name is known: there it is allowed by the engine's configuration of criu.
        scene.start("a = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); a.connect('/volume/datagrams')", network=("--network", "host"))
        scene.fails((), "a unix socket connected to", "with --ext-unix-sk it is connected to that name again")
    scene.end()


@test(timeout=120)
def no_room():
    """Where podman has the image written there is too little room; later there is enough."""
    scene = Scene()
    scene.start()
    scene.connect()
    place = scene.userdata() / "checkpoint"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    scene.fails(KEPT, f"'{place}' has 0 MiB free, the image may need", "free some space")
    assert not list(place.glob("*.img")), list(place.iterdir())
    subprocess.run(["umount", place], check=True)
    scene.save()
    scene.comes_back()
    scene.end()


@test(timeout=120)
def damaged_images():
    """A file of the image that is missing, cut or changed; whole again it comes back, connection and all."""
    scene = Scene()
    scene.start()
    scene.connect()
    scene.save()
    place = scene.userdata() / "checkpoint"
    for name, cause in (("pages-1.img", "is not what was written: damaged"), ("core-1.img", "is not what was written: damaged"),
                        ("inventory.img", "no valid inventory_entry")):
        path = place / name
        whole = path.read_bytes()
        if name != "inventory.img":  # for which podman looks itself
            path.unlink()
            scene.fails_back(f"'{name}' is missing in '{place}'", "copy the whole images directory again")
        path.write_bytes(whole[:len(whole) // 2])
        scene.fails_back(name, "copy the image again")
        path.write_bytes(whole[:40] + bytes(byte ^ 1 for byte in whole[40:44]) + whole[44:])
        scene.fails_back(cause, "copy the image again")
        path.write_bytes(whole)
    scene.comes_back()
    scene.end()


@test(timeout=120)
def files_gone_or_changed():
    """A file that the program has open is not there; its program is another one."""
    scene = Scene()
    shutil.copy("/usr/bin/python3", scene.volume / "python")
    program = scene.volume / "python"
    scene.podman.start("c", ("/volume/python", "-c", SERVER.replace("DO", "f = open('/volume/file', 'w+'); f.write('x' * 9); f.flush()")),
                       "--network", "far", "--ip", ADDRESS, *PROGRAMS, "--volume", f"{scene.volume}:/volume")
    scene.podman.wait_lines("c", 2)
    scene.before = tables(scene.pid())
    scene.connect()
    scene.save()
    (scene.volume / "file").rename(scene.volume / "away")
    scene.fails_back("'/volume/file' is needed by the image", "put the file back")
    (scene.volume / "away").rename(scene.volume / "file")
    with open(program, "ab") as file:
        file.write(b"x")
    size = program.stat().st_size
    scene.fails_back(f"'/volume/python' had {size - 1} bytes when the dump was taken and has {size} now", "restore the file")
    os.truncate(program, size - 1)
    scene.comes_back()
    scene.end()


@test(timeout=120)
def port_taken():
    """Somebody has its port in the network of the host."""
    scene = Scene()
    scene.start(network=("--network", "host"))
    scene.save()
    with socket.create_server(("0.0.0.0", PORT)):
        scene.fails_back(f"binding a socket to TCP 0.0.0.0:{PORT}: Address already in use", "end it first")
    scene.comes_back()
    scene.end()


@test(timeout=120)
def pid_taken():
    """Somebody has its number among the processes of the host."""
    scene = Scene()
    scene.start("", "--pid", "host", network=("--network", "none"))
    pid = scene.pid()
    scene.save()
    pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    with subprocess.Popen(["sleep", "1000"]) as other:
        assert other.pid == pid, (other.pid, pid)
        scene.fails_back(f"pid {pid}, which the image needs, is in use", "it must end first")
        other.kill()
    scene.comes_back()
    scene.end()


@test(timeout=120)
def address_missing():
    """The container comes back, but its address does not."""
    scene = Scene()
    scene.start()
    scene.connect()
    archive = FOLDER / "export.tar"
    scene.away.enter_context(cut_off(ADDRESS))
    scene.podman.good("container", "checkpoint", "--tcp-established", "--export", archive, "c")
    scene.podman.good("rm", "c")
    done = scene.podman.run("container", "restore", "--tcp-established", "--import", archive, "--ignore-static-ip", "--keep")
    told = scene.criu.failed()
    assert done.returncode and "Cannot assign requested address; add the local address" in told["message"], (done, told)
    scene.podman.run("rm", "--force", "--time", "0", "--all")
    scene.podman.good("container", "restore", "--tcp-established", "--import", archive)
    scene.away.close()
    scene.before = tables(scene.pid())
    scene.goes_on()
    scene.end()


# ----------------------------------------------------------------------------------------------------- without podman


@test(timeout=120)
def docker():
    """Docker tells no more than that it failed and where criu's log is; that has the cause."""
    criu = Overheard(FOLDER)
    engine = Docker(criu, FOLDER)
    volume = FOLDER / "volume"
    volume.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(volume / "stream"))
        listener.listen()
        what = "a = socket.socket(socket.AF_UNIX); a.connect('/volume/stream')"
        engine.start("count", ("/usr/bin/python3", "-c", SERVER.replace("DO", what)), "--network", "none",
                     *PROGRAMS, "--volume", f"{volume}:/volume")
        with listener.accept()[0]:
            engine.wait_lines("count", 3)
            done = engine.run("checkpoint", "create", "count", "one")
            told = criu.failed()
            assert done.returncode and f"errno {told['errno']}" in done.stderr, (done, told)
            assert "a unix socket connected to" in told["message"] and "--external" in told["message"], told
            lines = len(engine.lines("count"))
            counts_on([], [int(line) for line in engine.wait_lines("count", lines + 3)])
            pid = engine.inspect("count")["State"]["Pid"]
            assert engine.inspect("count")["State"]["Running"] and not freezer_state(pid) + task_problems(pid, (), {pid})
    engine.end()


class Bare:
    """runc, and one container in a network that has a name."""

    def __init__(self):
        self.criu = Overheard(FOLDER)
        self.runc = Runc(self.criu, FOLDER)
        self.group = groups.own("failures")
        self.network = pathlib.Path("/run/netns/failures")
        subprocess.run(["ip", "netns", "add", self.network.name], check=True)

        def change(config):
            config["linux"]["cgroupsPath"] = self.group
            for ns in config["linux"]["namespaces"]:
                if ns["type"] == "network":
                    ns["path"] = str(self.network)

        self.bundle = Bundle(FOLDER / "bundle", counter("0.1"), change)
        self.output = self.runc.start(self.bundle, "c")
        self.output.wait_lines(3)

    def restore(self):
        """Try to bring it back."""
        return self.runc.run("restore", "--detach", "--bundle", self.bundle.folder, "--image-path", FOLDER / "images", "--work-path",
                             FOLDER / "images-work", "c")


@test(timeout=120)
def places_gone():
    """What runc itself finds missing, it names itself: the network's path, the root file system. Nothing there is asked of criu."""
    bare = Bare()
    bare.runc.checkpoint("c", FOLDER / "images")
    subprocess.run(["umount", bare.network], check=True)
    bare.network.unlink()
    done = bare.restore()
    assert done.returncode and f"Requested network namespace {bare.network} does not exist" in done.stderr, done
    subprocess.run(["ip", "netns", "add", bare.network.name], check=True)
    root = bare.bundle.folder / "rootfs"
    root.rename(root.with_name("away"))
    done = bare.restore()
    assert done.returncode and f"invalid rootfs: stat {root}" in done.stderr, done
    # An empty one it takes.
    shutil.copytree(root.with_name("away"), root, symlinks=True)
    (root / "bin/busybox").unlink()
    done = bare.restore()
    told = bare.criu.failed()
    assert done.returncode and "'/bin/busybox' is needed by the image" in told["message"] and "put the file back" in told["message"], told
    log = (FOLDER / "images-work/restore.log").read_text().splitlines()
    assert "'/bin/busybox' is needed by the image" in log[-1] and "put the file back" in log[-2], log[-3:]
    shutil.rmtree(root)
    root.with_name("away").rename(root)
    again = bare.runc.restore(bare.bundle, "c", FOLDER / "images")
    again.wait_lines(3)
    counts_on(bare.output.numbers(), again.numbers())
    bare.runc.end("c")


@test(timeout=120)
def descriptor_not_given():
    """The network that a dump names as somebody else's is asked for by its name."""
    bare = Bare()
    bare.runc.checkpoint("c", FOLDER / "images")
    done = subprocess.run([bare.criu.folder / "criu", "restore", "-D", FOLDER / "images", "-o", "restore.log", "-d", "--root",
                           bare.bundle.folder / "rootfs"], check=False, timeout=60, stdin=subprocess.DEVNULL)
    log = (FOLDER / "images/restore.log").read_text().splitlines()
    assert done.returncode == 1 and "extRootNetNS" in log[-1] + log[-2] and "--inherit-fd" in log[-2], log[-3:]


def refused_in(base, ours, pid):
    """By both names of ferry."""
    for program in (pathlib.Path(os.environ["FERRY"]), Overheard(FOLDER / base / "x").folder / "criu"):
        images = FOLDER / f"images-{base}-{program.name}"
        images.mkdir()
        done = subprocess.run([program, "dump", "--tree", str(pid), "--images-dir", images, "--timeout", "1"],
                              check=False, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode and f"stands still in the frozen cgroup '{ours}'" in done.stderr, done
        assert "name the group's directory with --freeze-cgroup" in done.stderr, done


@test(timeout=60)
def frozen_group():
    """A tree that somebody froze, and whose group the command line does not name: v1 and v2."""
    ours = groups.own("frozen")
    for base, file, frozen, thawed in (("freezer", "freezer.state", "FROZEN", "THAWED"), ("unified", "cgroup.freeze", "1", "0"),
                                       ("", "cgroup.freeze", "1", "0")):
        top = groups.TOP / base
        place = top / ours[1:]
        if base and not top.is_dir() or not base and not (top / "cgroup.procs").exists():
            continue
        place.mkdir()
        with subprocess.Popen(["sh", "-c", "while true; do sleep 0.01; done"], start_new_session=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            (place / "cgroup.procs").write_text(str(process.pid))
            try:
                (place / file).write_text(frozen)
                told = place / ("freezer.state" if base == "freezer" else "cgroup.events")
                wait_until(lambda told=told: "FROZEN" in told.read_text() or "frozen 1" in told.read_text(), "it goes on")
                refused_in(base, ours, process.pid)
            finally:
                (place / file).write_text(thawed)
                process.kill()
        wait_until(lambda place=place: not (place / "cgroup.procs").read_text(), "somebody stays")
        place.rmdir()


if __name__ == "__main__":
    main()
