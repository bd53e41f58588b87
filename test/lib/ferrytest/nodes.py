# SPDX-License-Identifier: Apache-2.0
"""Machines to migrate between: namespaces of this one. And an observer outside of them."""

import atexit
import ctypes
import fnmatch
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

from ferrytest.process import children, is_alive, wait_until
from ferrytest.program import program_path

# Reaps, and gives the node's file its own contents. Runs as PID 1 of the node.
INIT = """
import os, subprocess, sys, time
name, file, content = sys.argv[1:]
subprocess.run(["mount", "--bind", content, file], check=True)
subprocess.run(["hostname", name], check=True)
open(content + ".ready", "w").close()
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.005)
"""


BRIDGE = "10.77.0.254"  # the observer's address, outside of the nodes
SERVICE = "10.77.0.100"  # an address that can move


def ip(*words):
    """ip(8), which must succeed."""
    subprocess.run(["ip", *map(str, words)], check=True, stdin=subprocess.DEVNULL)


SPACES = set()  # PID namespaces of the nodes that were made here


def is_ours(pid):
    """Whether a process lives on a node that was made here."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") in SPACES
    except OSError:
        return False


def release_held():
    """Let what a test left frozen on its nodes die: in a v1 freezer even SIGKILL would wait. Nobody else's."""
    for base, file, word in (("/sys/fs/cgroup/freezer", "freezer.state", "THAWED"),
                             ("/sys/fs/cgroup/unified", "cgroup.freeze", "0"), ("/sys/fs/cgroup", "cgroup.freeze", "0")):
        for group in pathlib.Path(base).glob("**/ferry-hold-*"):
            try:
                pids = [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
                if not pids or not all(is_ours(pid) for pid in pids):
                    continue
                for pid in pids:
                    os.kill(pid, 9)
                (group / file).write_text(word)
                wait_until(lambda group=group: not (group / "cgroup.procs").read_text(), f"{group} stays", 5)
                group.rmdir()
            except OSError:
                continue


atexit.register(release_held)


class Node:
    """PID, mount, UTS and network namespaces, and a file that tells the node's name."""

    entering = ()  # what goes before a command that enters the node, or makes it
    spaces = ("--pid", "--mount", "--uts", "--net")

    def __init__(self, name, folder):
        self.name = name
        self.folder = pathlib.Path(folder)
        self.file = self.folder / "node"
        self.file.touch()
        content = self.folder / f"node.{name}"
        content.write_text(name)
        self.journal = self.folder / f"journal.{name}"
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            [*self.entering, "unshare", *self.spaces, "--fork", "--kill-child", "--mount-proc",
             sys.executable, "-c", INIT, name, str(self.file), str(content)], stdin=subprocess.DEVNULL)
        wait_until((self.folder / f"node.{name}.ready").exists, f"node {name} does not come up")
        self.init = children(self.process.pid)[0]
        SPACES.add(os.readlink(f"/proc/{self.init}/ns/pid"))

    def connect(self, number):
        """A link to the bridge, with the address 10.77.0.NUMBER."""
        if subprocess.run(["ip", "link", "show", "bridge"], check=False, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode:
            ip("link", "add", "bridge", "type", "bridge")
            ip("address", "add", f"{BRIDGE}/24", "dev", "bridge")
            ip("link", "set", "bridge", "up")
        ip("link", "add", f"to-{self.name}", "type", "veth", "peer", "name", "eth0", "netns", self.init)
        ip("link", "set", f"to-{self.name}", "master", "bridge", "up")
        self.address = f"10.77.0.{number}"
        for words in (("link", "set", "lo", "up"), ("address", "add", f"{self.address}/24", "dev", "eth0"),
                      ("link", "set", "eth0", "up")):
            done = self.run("ip", *words)
            assert done.returncode == 0, done.stderr

    def command(self, *words):
        """The command line that runs something on the node."""
        return [*self.entering, "nsenter", "--target", str(self.init), *self.spaces, "--", *map(str, words)]

    def run(self, *words, timeout=60, environment=None):
        """Run it to the end."""
        return subprocess.run(self.command(*words), check=False, text=True, errors="replace", timeout=timeout,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              start_new_session=True, env={**os.environ, **(environment or {})})

    def start(self, *words, environment=None, log=None):
        """Start it in a session of its own. The result's pid is nsenter's; inner() finds the program."""
        with open(log or os.devnull, "ab") as out:
            return subprocess.Popen(  # pylint: disable=consider-using-with
                self.command(*words), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, **(environment or {})})

    def pids(self):
        """(pid here, pid there) of everything that lives on the node but its init."""
        found = []
        for text in os.listdir("/proc"):
            if not text.isdigit():
                continue
            try:
                same = os.readlink(f"/proc/{text}/ns/pid") == os.readlink(f"/proc/{self.init}/ns/pid")
                lines = pathlib.Path(f"/proc/{text}/status").read_text().splitlines()
                ids = [line for line in lines if line.startswith("NSpid:")]
            except OSError:
                continue
            if same and int(text) != self.init and is_alive(int(text)):
                found.append((int(text), int(ids[0].split()[-1])))
        return sorted(found)

    def named(self, word):
        """Pids, as seen from here, of programs on the node whose file has a name of this pattern."""
        found = []
        for pid, _ in self.pids():
            try:
                if fnmatch.fnmatch(os.path.basename(os.readlink(f"/proc/{pid}/exe")).split(" ")[0], word):
                    found.append(pid)
            except OSError:
                continue
        return found

    def next_pid(self, number):
        """The next process on the node gets about this number."""
        self.run("sh", "-c", f"echo {number} > /proc/sys/kernel/ns_last_pid")

    def close(self):
        """Take everything down."""
        subprocess.run(["ip", "link", "del", f"to-{self.name}"], check=False, stderr=subprocess.DEVNULL)
        self.process.kill()
        self.process.wait()


class Observer:
    """Hears the beats of test/programs/beats.c."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((BRIDGE, 0))
        self.port = self.socket.getsockname()[1]
        self.beats = []  # (when, node, stream, counter, gap, good)
        self.lock = threading.Lock()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            text = self.socket.recv(200).decode()
            node, stream, counter, gap, good = text.split()
            with self.lock:
                self.beats.append((time.monotonic(), node, int(stream), int(counter), int(gap), good == "1"))

    def heard(self):
        """All beats so far."""
        with self.lock:
            return list(self.beats)

    def forget(self):
        """Begin anew."""
        with self.lock:
            self.beats.clear()

    def wait(self, node, streams=(0, 1), seconds=20):
        """Until new beats of all streams come from this node."""
        since = time.monotonic()

        def there():
            return {s for when, n, s, *_ in self.heard() if when > since and n == node} >= set(streams)

        wait_until(there, f"no beats from {node}", seconds)

    def silent(self, seconds=0.1):
        """Whether nothing came for so long."""
        time.sleep(seconds)
        beats = self.heard()
        return not beats or beats[-1][0] < time.monotonic() - seconds * 0.9

    def check(self):
        """Exactly one copy: counters only grow, and a node that was left is never heard again. The nodes in order.

        A process that was stopped between reading the node's name and sending it sends it after the move: one such beat
        is the first of its stream then.
        """
        order = []
        last = {}
        heard_from = {}  # stream: node of its beat before
        late = set()  # (stream, node)
        for _, node, stream, counter, _, good in self.heard():
            assert good, f"stream {stream} on {node} says that its state is wrong (beat {counter})"
            assert counter > last.get(stream, 0), (
                f"stream {stream}: beat {counter} from {node} after beat {last[stream]}: two copies ran")
            last[stream] = counter
            is_late = node in order[:-1] and heard_from.get(stream) == node and (stream, node) not in late
            heard_from[stream] = node
            if is_late:
                late.add((stream, node))
            elif not order or order[-1] != node:
                order.append(node)
        assert len(order) == len(set(order)), f"beats came from {order}: two copies ran"
        return order

    def gap_ms(self):
        """The longest time for which the program itself was not running."""
        return max(beat[4] for beat in self.heard()) / 1e6


class Beats:
    """The program that tells the observer where it runs."""

    def __init__(self, node, observer, kib=256, own=(), pid=5000):
        path = program_path("beats")
        node.next_pid(pid)
        self.process = node.start("setsid", path, node.file, kib, BRIDGE, observer.port, *own)
        observer.wait(node.name)
        self.pid = min(there for here, there in node.pids() if here in node.named("beats"))


def pair():
    """Two nodes, a and b, joined by a bridge, and an observer on it."""
    folder = tempfile.mkdtemp(prefix="nodes-")
    nodes = [Node(name, folder) for name in ("a", "b")]
    for number, node in enumerate(nodes, 1):
        node.connect(number)
    return *nodes, Observer()


def enter_net(node):
    """Move the calling thread to a node's network."""
    with open(f"/proc/{node.init}/ns/net", "rb") as ns:
        if ctypes.CDLL(None, use_errno=True).setns(ns.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")


class Proxy:
    """Passes what two ferries say to each other, frame by frame, and cuts the connection where it is told to.

    It listens on the loopback of node a, or a unix socket, and connects to a listener on the loopback of node b, or a
    unix socket. cut: (kind of a frame, how many of that kind pass before, bytes of it that still pass). After a cut
    new connections pass, unless stay_cut is set. spoil: (kind, how many of that kind before): a bit of it flips.
    """

    # As in src/migrate/proto/migrate.proto; HELLO comes from both sides, the source's first.
    KINDS = {"hello": 1, "proof": 2, "offer": 3, "accept": 4, "file": 5, "data": 6, "image-end": 7, "prepared": 8,
             "commit": 9, "running": 10, "reverted": 11, "abort": 12, "query": 13, "state": 14, "error": 15, "done": 16}
    HEADER = 24

    def __init__(self, a, b, to, cut=None, stay_cut=False, spoil=None):
        self.a, self.b, self.to = a, b, to
        self.cut, self.stay_cut, self.spoil = cut, stay_cut, spoil
        self.passed = []  # kinds of the frames that passed, by number
        self.was_cut = False
        self.closed = False
        self.lock = threading.Lock()
        self.address = None
        self.listener = None
        ready = threading.Event()
        threading.Thread(target=self.serve, args=(ready,), daemon=True).start()
        ready.wait(10)

    def serve(self, ready):
        enter_net(self.a)
        if self.to.startswith("unix:"):
            self.address = f"{self.to}.proxy"
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.address.partition(":")[2])
        else:
            family = socket.AF_INET6 if self.to.startswith("[") else socket.AF_INET
            self.listener = socket.socket(family)
            self.listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            host, port = self.listener.getsockname()[:2]
            self.address = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        self.listener.listen(8)
        enter_net(self.b)
        ready.set()
        while not self.closed:
            client = self.listener.accept()[0]
            if self.was_cut and self.stay_cut:
                client.close()
                continue
            try:
                server = self.connect()
            except OSError:
                client.close()
                continue
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    def connect(self):
        if self.to.startswith("unix:"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.to.partition(":")[2])
            return server
        host, _, port = self.to.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)))

    @staticmethod
    def read(source, count):
        """Exactly so many bytes, or None at the end."""
        got = bytearray()
        while len(got) < count:
            piece = source.recv(min(count - len(got), 1 << 20))
            if not piece:
                return None
            got += piece
        return got

    def frame(self, source):
        head = self.read(source, self.HEADER)
        if head is None:
            return None
        body = self.read(source, int.from_bytes(head[4:8], "little") + int.from_bytes(head[8:12], "little"))
        return None if body is None else head + body

    def kind(self, frame):
        """The first field of a head is its kind."""
        assert frame[self.HEADER] == 8, frame[:40]
        return frame[self.HEADER + 1]

    def carry(self, source, sink):
        try:
            while True:
                frame = self.frame(source)
                if frame is None:
                    break
                kind = self.kind(frame)
                with self.lock:
                    before = self.passed.count(kind)
                    self.passed.append(kind)
                if self.cut and not self.was_cut and (self.KINDS[self.cut[0]], self.cut[1]) == (kind, before):
                    self.was_cut = True
                    sink.sendall(frame[:self.cut[2]])
                    break
                if self.spoil and (self.KINDS[self.spoil[0]], self.spoil[1]) == (kind, before):
                    frame[-1] ^= 1
                sink.sendall(frame)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
