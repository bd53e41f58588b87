# SPDX-License-Identifier: Apache-2.0
"""A redis-server with 256 MiB of data moves from one node to another while a client uses it.

The nodes are network, PID, mount and UTS namespaces of this machine, joined by a bridge. The client lives outside of
both, and keeps one TCP connection the whole time. Writes report.json and report.html below BUILD/demo.
"""

import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

BUILD = pathlib.Path(sys.argv[1])
FERRY = BUILD / "ferry"
OUT = BUILD / "demo"

KEYS, VALUE_BYTES = 16384, 16384  # 256 MiB
OUTSIDE = "10.77.0.254"
NODES = {"kiel": "10.77.0.1", "oslo": "10.77.0.2"}
SERVICE = "10.77.0.100"
PORT = 6379

# The first process of a node: names it, gives the file of its name its contents, and reaps.
INIT = """
import os, subprocess, sys, time
name, file, content, ready = sys.argv[1:]
subprocess.run(["mount", "--bind", content, file], check=True)
subprocess.run(["hostname", name], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
open(ready, "w").close()
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.01)
"""


def say(text):
    """One line of the story."""
    print(text, flush=True)


def fail(text):
    """The demo did not show what it has to show."""
    sys.exit(f"demo: {text}")


def wait_until(condition, what, seconds=30):
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            fail(f"after {seconds} s: {what}")
        time.sleep(0.01)


def run(*words):
    """A command that must succeed."""
    subprocess.run([str(word) for word in words], check=True, stdin=subprocess.DEVNULL)


class Node:
    """A machine made of namespaces."""

    def __init__(self, name, address, folder):
        self.name, self.address = name, address
        self.file = folder / "node"
        self.file.touch()
        content, ready = folder / f"node.{name}", folder / f"ready.{name}"
        content.write_text(name)
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--uts",
             sys.executable, "-c", INIT, name, str(self.file), str(content), str(ready)], stdin=subprocess.DEVNULL)
        wait_until(ready.exists, f"{name} does not come up")
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.init = int(children.read_text().split()[0])
        run("ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", self.init)
        run("ip", "link", "set", f"to-{name}", "master", "bridge", "up")
        run(*self.command("ip", "address", "add", f"{address}/24", "dev", "eth0"))
        run(*self.command("ip", "link", "set", "eth0", "up"))

    def command(self, *words):
        """The command line that runs something there."""
        return ["nsenter", "-t", str(self.init), "-n", "-p", "-m", "-u", "--", *map(str, words)]

    def start(self, *words, log):
        """Start a program there."""
        with open(log, "ab") as out:
            return subprocess.Popen(self.command(*words), stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def servers(self):
        """PIDs, as they are there, of the redis-servers of this node."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.path.basename(os.readlink(entry / "exe")).startswith("redis") and \
                        os.readlink(entry / "ns/pid") == os.readlink(f"/proc/{self.init}/ns/pid"):
                    line = next(x for x in (entry / "status").read_text().splitlines() if x.startswith("NSpid:"))
                    found.append(int(line.split()[-1]))
            except OSError:
                continue
        return found


class Redis:
    """As much of redis' protocol as this takes, over one connection."""

    def __init__(self, address):
        self.socket = socket.create_connection((address, PORT), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.socket.makefile("rb", buffering=1 << 20)

    @staticmethod
    def encode(*words):
        """A command as it goes over the wire."""
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        return b"".join(parts)

    def answer(self):
        """One answer."""
        line = self.input.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise AssertionError(f"redis says: {rest.decode()}")
        if kind == b":":
            return int(rest)
        if kind == b"$":
            count = int(rest)
            return None if count < 0 else self.input.read(count + 2)[:-2]
        return rest

    def ask(self, *words):
        """One command and its answer."""
        self.socket.sendall(self.encode(*words))
        return self.answer()

    def pipeline(self, commands):
        """Many commands at once; their answers."""
        self.socket.sendall(b"".join(commands))
        return [self.answer() for _ in commands]


def value(number):
    """What belongs to a key: bytes that nobody could guess, but everybody can compute."""
    return hashlib.shake_128(b"ferry demo %d" % number).digest(VALUE_BYTES)


class Client(threading.Thread):
    """Writes and reads all the time over its one connection, and notes the longest time without an answer."""

    def __init__(self, redis):
        super().__init__(daemon=True)
        self.redis = redis
        self.stop = threading.Event()
        self.count = 0
        self.gap = 0
        self.error = None

    def run(self):
        last = time.monotonic_ns()
        try:
            while not self.stop.is_set():
                number = self.count * 7919 % KEYS
                self.count += 1
                if self.redis.ask("INCR", "counter") != self.count:
                    raise AssertionError(f"the counter is not {self.count}")
                if self.redis.ask("GET", f"key:{number}") != value(number):
                    raise AssertionError(f"key:{number} has a wrong value")
                now = time.monotonic_ns()
                self.gap = max(self.gap, now - last)
                last = now
        except (OSError, AssertionError, ValueError) as error:
            self.error = error


class Observer(threading.Thread):
    """Hears from inside the tree where it runs and how long it stood still."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((OUTSIDE, 0))
        self.beats = []

    def run(self):
        while True:
            node, counter, gap = self.socket.recv(200).decode().split(" ")
            self.beats.append((node, int(counter), int(gap)))

    def check(self):
        """One copy at any time: the counter only grows, and the first node is silent once the second has spoken."""
        beats = list(self.beats)
        for before, after in zip(beats, beats[1:]):
            if after[1] <= before[1]:
                fail(f"two copies ran: beat {after[1]} from {after[0]} came after beat {before[1]} from {before[0]}")
        nodes = [beat[0] for beat in beats]
        if nodes != sorted(nodes, key=list(NODES).index):
            fail("two copies ran: the first node was heard after the second")
        return beats[-1][2]


def fill(redis):
    """256 MiB of known data."""
    for start in range(0, KEYS, 256):
        redis.pipeline([Redis.encode("SET", f"key:{n}", value(n)) for n in range(start, start + 256)])


def check_all(redis):
    """Every value, one by one."""
    wrong = 0
    for start in range(0, KEYS, 256):
        numbers = range(start, start + 256)
        answers = redis.pipeline([Redis.encode("GET", f"key:{n}") for n in numbers])
        wrong += sum(answer != value(n) for n, answer in zip(numbers, answers))
    if wrong:
        fail(f"{wrong} of {KEYS} values are wrong")


def draw(report):
    """The timeline for a terminal."""
    phases = report["phases"]
    first, last = phases[0]["start_ns"], phases[-1]["end_ns"]
    width = 48
    for phase in phases:
        begin = (phase["start_ns"] - first) * width // max(last - first, 1)
        length = max((phase["end_ns"] - phase["start_ns"]) * width // max(last - first, 1), 1)
        milliseconds = (phase["end_ns"] - phase["start_ns"]) / 1e6
        bar = " " * begin + "█" * length
        say(f"  {phase['name']:9}{bar:{width}} {milliseconds:7.1f} ms")


def write_report(report):
    """report.json and the page that ferry draws from it."""
    path = OUT / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    page = subprocess.run([FERRY, "debug", "report", path], check=True, stdout=subprocess.PIPE).stdout
    (OUT / "report.html").write_bytes(page)


def start_redis(node, observer, folder):
    """redis-server on a node, at the address that will move, below the program that watches from inside."""
    run(*node.command("ip", "address", "add", f"{SERVICE}/24", "dev", "eth0"))
    run(*node.command("sh", "-c", "echo 4000 > /proc/sys/kernel/ns_last_pid"))
    node.start("setsid", BUILD / "demo" / "inside", node.file, OUTSIDE, observer.socket.getsockname()[1],
               "redis-server", "--bind", SERVICE, "--port", PORT, "--save", "", "--appendonly", "no", "--protected-mode", "no",
               "--dir", folder, log=os.devnull)
    wait_until(node.servers, "redis does not start")

    def connects():
        try:
            Redis(SERVICE).ask("PING")
            return True
        except OSError:
            return False

    wait_until(connects, "redis does not answer")
    return min(node.servers()) - 1  # the program that started it


def migrate(source, target, root, folder):
    """Move the tree; ferry's report."""
    token = folder / "token"
    token.write_text(os.urandom(24).hex() + "\n")
    token.chmod(0o600)
    log = folder / "receive.log"
    where = f"{target.address}:7700"
    receiver = target.start(FERRY, "receive", "--listen", where, "--insecure", "--token", token, "--journal",
                            folder / f"journal.{target.name}", log=log)
    wait_until(lambda: "receiving on" in log.read_text() or receiver.poll() is not None, "the receiver does not listen")
    done = subprocess.run(source.command(
        FERRY, "migrate", "--tree", root, "--to", where, "--insecure", "--token", token, "--tcp-established",
        "--move-address", f"{SERVICE}/24@eth0", "--journal", folder / f"journal.{source.name}", "--json"),
        check=False, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if done.returncode:
        fail(f"ferry migrate exits with {done.returncode}\n{log.read_text()}")
    if receiver.wait(timeout=20):
        fail(f"ferry receive exits with {receiver.returncode}\n{log.read_text()}")
    return json.loads(done.stdout)


def show(source, target, folder):
    """The whole story; returns the report."""
    observer = Observer()
    observer.start()
    root = start_redis(source, observer, folder)
    say(f"redis-server runs on {source.name}; filling it with {KEYS * VALUE_BYTES >> 20} MiB")
    redis = Redis(SERVICE)
    fill(redis)
    run_id = [x for x in redis.ask("INFO", "server").decode().split() if x.startswith("run_id:")]
    client = Client(redis)
    own = redis.socket.getsockname()
    client.start()
    wait_until(lambda: client.count > 200 or client.error, "the client does not get on")

    say(f"a client writes and reads over one connection, {own[0]}:{own[1]} to {SERVICE}:{PORT}")
    say(f"moving the server to {target.name}")
    report = migrate(source, target, root, folder)
    at_move = client.count
    wait_until(lambda: client.count > at_move + 500 or client.error, "the client does not get on after the move")
    client.stop.set()
    client.join(10)

    if client.error:
        fail(f"the client: {client.error}")
    if redis.socket.getsockname() != own or redis.ask("PING") != b"PONG":
        fail("the connection is another one")
    say(f"the connection lives: {client.count} writes and reads, every answer right")
    check_all(redis)
    if int(redis.ask("GET", "counter")) != client.count or redis.ask("DBSIZE") != KEYS + 1:
        fail("redis lost a write")
    if run_id != [x for x in redis.ask("INFO", "server").decode().split() if x.startswith("run_id:")]:
        fail("it is another redis-server")
    say(f"all {KEYS} values are right, no write was lost")
    if source.servers() or len(target.servers()) != 1:
        fail(f"servers on {source.name}: {source.servers()}, on {target.name}: {target.servers()}")
    say(f"the server runs on {target.name}, and only there")

    # The tree itself knows best how long it did not run; ferry's own figure stays beside it.
    report["freeze_reported_ns"] = report["freeze_ns"]
    report["freeze_ns"] = observer.check()
    report["client_gap_ns"] = client.gap
    return report


def main():
    OUT.mkdir(exist_ok=True)
    folder = OUT / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "address", "add", f"{OUTSIDE}/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
    source, target = (Node(name, address, folder) for name, address in NODES.items())
    report = show(source, target, folder)
    write_report(report)
    for node in (source, target):
        node.process.kill()
        node.process.wait()
    shutil.rmtree(folder, ignore_errors=True)

    say(f"\nfrom {report['source']} to {report['target']}: {report['outcome']}")
    draw(report)
    say(f"\n  redis stood still for          {report['freeze_ns'] / 1e6:8.1f} ms (as seen from inside)")
    say(f"  longest gap for the client     {report['client_gap_ns'] / 1e6:8.1f} ms")
    megabytes = report["bytes"] / (1 << 20)
    say(f"  over the network               {megabytes:8.1f} MiB in {report['transfer_ns'] / 1e6:.1f} ms")
    say(f"  all in all                     {report['total_ns'] / 1e6:8.1f} ms")
    say(f"\nreport: {OUT / 'report.json'} and {OUT / 'report.html'}")


if __name__ == "__main__":
    main()
