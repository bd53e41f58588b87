# SPDX-License-Identifier: Apache-2.0
"""Migrations between two nodes of this machine, and everything that can come between."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import time
from random import Random

from ferrytest import main, test, wait_until
from ferrytest.nodes import SERVICE, Beats, Proxy, pair

FERRY = os.environ.get("FERRY", "ferry")
TIMEOUT = "1"


class Move:
    """Two nodes, the beating program on a, and the two ferries."""

    def __init__(self, kib=256, own=(), before=None):
        self.a, self.b, self.observer = pair()
        if before:
            before(self)
        self.beats = Beats(self.a, self.observer, kib, own)
        self.folder = self.a.folder
        # Cgroups are shared with tests that run at the same time.
        self.id = f"test-{os.urandom(6).hex()}"
        self.address = f"unix:{self.folder}/channel"
        self.receiver = None
        self.receive_log = self.folder / "receive.log"

    def receive(self, *more, address=None, environment=None):
        """Start a ferry that receives on b, and wait until it listens."""
        self.receive_log.write_text("")
        self.receiver = self.b.start(FERRY, "receive", "--listen", address or self.address, "--journal", self.b.journal,
                                     "--timeout", TIMEOUT, *more, environment=environment, log=self.receive_log)
        wait_until(lambda: "receiving on" in self.receive_log.read_text() or self.receiver.poll() is not None,
                   "the receiver does not listen")
        return self.receive_log.read_text().partition("receiving on ")[2].split("\n")[0]

    def migrate(self, *more, to=None, environment=None, node=None):
        """Migrate; the finished process."""
        return self.a.run(FERRY, "migrate", "--tree", self.beats.pid, "--to", to or self.address, "--journal",
                          self.a.journal, "--timeout", TIMEOUT, "--id", self.id, *more, environment=environment)

    def settle(self, how, *more):
        """ferry migrate --resume or --abort on a."""
        return self.a.run(FERRY, "migrate", f"--{how}", self.id, "--journal", self.a.journal, "--timeout", TIMEOUT,
                          *more)

    def record(self, node):
        """The record of the journal of a node, as ferry migrations tells it; None without one."""
        done = node.run(FERRY, "migrations", "--json", "--journal", node.journal)
        assert done.returncode == 0, done.stderr
        records = [r for r in json.loads(done.stdout) if r["id"] == self.id]
        return records[0] if records else None

    def received(self):
        """The receiver's exit status, once it has ended."""
        return self.receiver.wait(timeout=20)

    def only(self, node):
        """Beats come from this node alone, the program exists nowhere else, and nothing of it was lost."""
        self.observer.wait(node.name)
        other = self.b if node is self.a else self.a
        wait_until(lambda: not other.named("beats"), f"the program is still on {other.name}", 2)
        assert len(node.named("beats")) == 2, f"{len(node.named('beats'))} processes on {node.name}"
        order = self.observer.check()
        assert order[-1] == node.name and order[0] == "a", order

    def clean(self):
        """Nothing of ours is left but journals."""
        names = [p for p in subprocess.run(["nft", "list", "tables"], check=False, text=True, stdout=subprocess.PIPE,
                                           stderr=subprocess.DEVNULL).stdout.splitlines() if "ferry" in p]
        assert not names, names
        for base in ("/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            left = list(pathlib.Path(base).glob(f"**/ferry-hold-{self.id}")) if os.path.isdir(base) else []
            assert not left, left
        for node in (self.a, self.b):
            wait_until(lambda node=node: not node.named("ferry"), f"a ferry is left on {node.name}", 10)
            left = [p.name for p in node.journal.glob("*")] if node.journal.exists() else []
            assert not [name for name in left if not name.startswith(self.id + ".")], left
            assert not [name for name in left if "image" in name or "received" in name], left
            for pid in node.named("beats"):
                text = pathlib.Path(f"/proc/{pid}/status").read_text()
                assert "TracerPid:\t0" in text, text

    def close(self):
        self.a.close()
        self.b.close()


PHASES = ["connect", "check", "freeze", "collect", "dump", "transfer", "prepare", "hold", "commit", "end"]


@test(timeout=60, exclusive=True)
def unix():
    """Over a unix socket."""
    m = Move()
    m.receive("--json")
    done = m.migrate("--json", "--report", m.folder / "report")
    assert done.returncode == 0, done.stderr
    assert m.received() == 0
    m.only(m.b)
    m.clean()
    report = json.loads(done.stdout)
    assert report == json.loads((m.folder / "report.json").read_text())
    assert report["outcome"] == "committed" and report["id"] == m.id
    assert report["source"] == "a" and report["target"] == "b"
    assert report["client_gap_ns"] is None
    names = [phase["name"] for phase in report["phases"]]
    assert names == PHASES, names
    ends = [phase["start_ns"] for phase in report["phases"]] + [report["phases"][-1]["end_ns"]]
    assert ends == sorted(ends), ends
    # What the program saw itself is the truth; ferry's figure ends a little later, when it hears of it.
    assert m.observer.gap_ms() <= report["freeze_ns"] / 1e6 + 60, (m.observer.gap_ms(), report["freeze_ns"])
    assert 64 * 4096 < report["rounds"][0]["bytes"] <= report["bytes"] and report["rounds"][0]["pages"] > 64
    assert report["freeze_ns"] <= report["total_ns"]
    page = (m.folder / "report.html").read_text()
    assert "<svg" in page and "http" not in page.replace("http-equiv", ""), "the page needs something from elsewhere"
    assert m.record(m.a)["state"] == "committed" and m.record(m.a)["settled"]
    assert m.record(m.b)["state"] == "running" and m.record(m.b)["settled"]


@test(timeout=60, exclusive=True)
def family():
    """What both processes have in common goes over once."""
    m = Move(kib=16 << 10)
    m.receive()
    done = m.migrate("--json")
    assert done.returncode == 0, done.stderr
    assert m.received() == 0
    m.only(m.b)
    m.clean()
    assert 16 << 20 < json.loads(done.stdout)["bytes"] < 24 << 20, done.stdout


@test(timeout=60, exclusive=True)
def tcp():
    """Over loopback, both families: a port that root forwards, as with ssh."""
    for address in ("127.0.0.1:0", "[::1]:0"):
        m = Move()
        to = m.receive(address=address)
        done = m.migrate(to=Proxy(m.a, m.b, to).address)
        assert done.returncode == 0, done.stderr
        assert f"pid {m.beats.pid} moved from a to b in " in done.stdout, done.stdout
        for phase in PHASES:
            assert f"\n  {phase} " in done.stdout, (phase, done.stdout)
        assert m.received() == 0
        m.only(m.b)
        m.clean()
        m.close()


SERVICE_ADDRESS = f"{SERVICE}/24@eth0"


def token_file(path, text="a token of some length"):
    """A token that only we can read."""
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def give_service(m):
    """The address that can move is on a."""
    done = m.a.run("ip", "address", "add", f"{SERVICE}/24", "dev", "eth0")
    assert done.returncode == 0, done.stderr


def has_service(node):
    """Whether the address is there now."""
    return f" {SERVICE}/24 " in node.run("ip", "-4", "address", "show", "eth0").stdout


class MoveWithAddress(Move):
    """The program sends from an address that moves with it."""

    def __init__(self):
        super().__init__(before=give_service, own=[SERVICE])


@test(timeout=60, exclusive=True)
def network():
    """From node to node with a token, the address moves along."""
    m = MoveWithAddress()
    token = token_file(m.folder / "token")
    to = m.receive("--insecure", "--token", token, address=f"{m.b.address}:0")
    done = m.migrate("--insecure", "--token", token, "--move-address", SERVICE_ADDRESS, to=to)
    assert done.returncode == 0, done.stderr
    assert m.received() == 0
    m.only(m.b)
    assert has_service(m.b) and not has_service(m.a)
    m.clean()


@test(timeout=60, exclusive=True)
def address_comes_back():
    """A migration that fails while the source is held gives the address back."""
    m = MoveWithAddress()
    m.receive(environment={"FERRY_FAULT": "address"})
    done = m.migrate("--move-address", SERVICE_ADDRESS)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "took it back" in done.stderr, done.stderr
    m.only(m.a)
    assert has_service(m.a) and not has_service(m.b)
    assert m.record(m.a)["state"] == "reverted" and m.record(m.b)["state"] == "reverted"
    m.clean()


@test(timeout=60, exclusive=True)
def refused():
    """What can be refused is refused before anything stops, and the receiver goes on waiting."""
    m = Move()
    give_service(m)
    token = token_file(m.folder / "token")
    other = token_file(m.folder / "other", "another token, also long")
    loose = token_file(m.folder / "loose")
    loose.chmod(0o644)
    short = token_file(m.folder / "short", "short")
    m.receive("--token", token)

    def refuse(status, word, *more, to=None, node=None):
        m.observer.forget()
        done = m.migrate(*more, to=to)
        assert (done.returncode, word in done.stderr) == (status, True), (word, done.returncode, done.stderr)
        m.observer.wait("a")
        assert m.observer.gap_ms() < 400 and m.receiver.poll() is None
        m.only(m.a)

    refuse(3, "[token]")
    refuse(3, "[token]", "--token", other)
    refuse(3, "[token]", "--token", loose)
    refuse(3, "[token]", "--token", short)
    refuse(3, "[token]", "--token", m.folder / "none")
    refuse(2, "[usage]", to="nowhere")
    refuse(2, "[usage]", to="unix:")
    refuse(2, "[usage]", to="::1:99")
    refuse(2, "[usage]", to=f"{m.b.address}:7777")
    refuse(2, "[usage]", "--insecure", to=f"{m.b.address}:7777")
    refuse(1, "[peer-gone]", to=f"unix:{m.folder}/nobody")
    refuse(2, "[usage]", "--move-address", "10.77.0.9")
    refuse(3, "[address-taken]", "--move-address", "10.77.0.99/24@eth0")
    refuse(3, "[address-taken]", "--move-address", "10.77.0.1/24@eth9")
    # The target has this address already.
    assert m.b.run("ip", "address", "add", f"{SERVICE}/24", "dev", "eth0").returncode == 0
    refuse(3, "[address-taken]", "--token", token, "--move-address", SERVICE_ADDRESS)
    assert m.b.run("ip", "address", "del", f"{SERVICE}/24", "dev", "eth0").returncode == 0
    # Its number is taken there.
    m.b.next_pid(m.beats.pid - 1)
    taken = m.b.start("sleep", "60")
    wait_until(lambda: any(there == m.beats.pid for _, there in m.b.pids()), "no process took the number")
    refuse(3, "[pid-taken]", "--token", token)
    for here, there in m.b.pids():
        if there == m.beats.pid:
            os.kill(here, 9)
    taken.wait()
    m.b.next_pid(1000)
    # And after all that it works.
    done = m.migrate("--token", token)
    assert done.returncode == 0, done.stderr
    assert m.received() == 0
    m.only(m.b)
    # The token served its turn.
    m.receive("--token", token)
    program = Beats(m.a, m.observer, pid=6000)
    done = m.a.run(FERRY, "migrate", "--tree", program.pid, "--to", m.address, "--journal", m.a.journal, "--token",
                   token)
    assert done.returncode == 3 and "one-time" in done.stderr, done.stderr


def heard_by_nobody(path):
    """What the receiver says to user 65534. A mere fork: that user may not be allowed to run our interpreter."""
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(5)
                s.connect(path)
                there.sendall(s.recv(4096))
        except OSError as error:
            there.sendall(repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    there.close()
    with here:
        return here.recv(4096)


@test(timeout=60, exclusive=True)
def receive_refuses():
    """What arrives runs as root: no ferry waits where others can reach it unless that was said, and with a token."""
    m = Move()
    token = token_file(m.folder / "token")
    loose = token_file(m.folder / "loose")
    loose.chmod(0o640)

    def refuse(status, word, address, *more):
        done = m.b.run(FERRY, "receive", "--listen", address, "--journal", m.b.journal, *more, timeout=20)
        assert (done.returncode, word in done.stderr) == (status, True), (address, more, done.returncode, done.stderr)

    for address in ("0.0.0.0:0", "[::]:0", f"{m.b.address}:0"):
        refuse(2, "--insecure", address)
        refuse(2, "--insecure", address, "--token", token)
        refuse(2, "--token", address, "--insecure")
        refuse(3, "[token]", address, "--insecure", "--token", loose)
    refuse(3, "[token]", "127.0.0.1:0", "--token", loose)
    refuse(2, "[usage]", "")
    # A port on loopback answers nobody outside.
    port = m.receive("--token", token, address="127.0.0.1:0").rpartition(":")[2]
    with socket.socket() as s:
        s.settimeout(2)
        assert s.connect_ex((m.b.address, int(port))) != 0, "it can be reached from outside"


@test(timeout=60, exclusive=True)
def strangers():
    """Bytes of all kinds do not disturb the receiver; nobody without rights is heard."""
    m = Move()
    m.receive()
    path = m.address.partition(":")[2]
    header = lambda magic, head, data: (magic.to_bytes(4, "little") + head.to_bytes(4, "little") +  # noqa: E731
                                        data.to_bytes(4, "little") + bytes(12))
    for sent in (b"", b"GET / HTTP/1.0\r\n\r\n", os.urandom(100), header(0x31595246, 10, 0) + bytes(10),
                 header(0x31595246, 1 << 31, 0), header(0x31595246, 1, 1 << 30), header(0x31595246, 0, 0),
                 header(0x31595246, 70000, 0) + bytes(70000)):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            s.sendall(sent)
            s.shutdown(socket.SHUT_WR)
            s.settimeout(5)
            try:
                while s.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert m.receiver.poll() is None, m.receive_log.read_text()
    os.chmod(path, 0o777)
    for folder in [m.folder, *m.folder.parents]:
        folder.chmod(folder.stat().st_mode | 0o755)
    heard = heard_by_nobody(path)
    assert b"may not send work" in heard, heard
    done = m.migrate()
    assert done.returncode == 0, done.stderr
    m.only(m.b)


@test(timeout=60, exclusive=True)
def full_disk():
    """The target has no room: found out before anything stops, or later; the source runs on."""
    m = Move(kib=8192)
    small = m.folder / "small"
    small.mkdir()
    m.b.run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small)
    m.receive("--images-dir", small / "image")
    done = m.migrate()
    assert done.returncode == 3 and "[no-space]" in done.stderr, done.stderr
    m.only(m.a)
    assert m.receiver.poll() is None
    # The room goes while the image is under way.
    m.b.run("mount", "-o", "remount,size=64m", small)
    os.kill(m.b.named("ferry")[0], 9)
    m.receiver.wait()
    m.receive("--images-dir", small / "image", environment={"FERRY_FAULT": "receive"})
    done = m.migrate("--id", m.id + "-second")
    assert done.returncode == 1 and "does not fit" in done.stderr, (done.returncode, done.stderr)
    m.only(m.a)
    assert m.received() == 3
    assert not list((small / "image").glob("*")), "half an image is left"


@test(timeout=120, exclusive=True)
def faults():
    """Every fault of a migration, on either side: the source runs, nothing is left."""
    listed = subprocess.run([FERRY, "debug", "faults"], check=True, text=True, capture_output=True).stdout.splitlines()
    names = [line.split()[0] for line in listed if len(line.split()) > 1 and line.split()[1] == "migrate"]
    assert len(names) >= 5, listed
    for name in names:
        for side in ("source", "target"):
            m = MoveWithAddress()
            environment = {"FERRY_FAULT": name}
            m.receive(environment=environment if side == "target" else None)
            done = m.migrate("--move-address", SERVICE_ADDRESS, environment=environment if side == "source" else None)
            meant = (name, side) not in (("transfer", "target"), ("hold", "target"), ("receive", "source"))
            assert done.returncode == (1 if meant else 0), (name, side, done.returncode, done.stderr)
            m.only(m.a if meant else m.b)
            m.received()
            m.clean()
            m.close()


def settle_if_needed(m):
    """What an operator does after an interruption. Returns who must run it."""
    wait_until(lambda: not m.a.named("ferry"), "a ferry is left on a", 10)
    record = m.record(m.a)
    if record is None:
        return m.a
    if not record["settled"]:
        assert record["state"] == "committed", record
        assert m.observer.silent() or m.observer.heard()[-1][1] == "b", "the held copy runs"
        if m.receiver.poll() is not None:
            m.receive()
        done = m.settle("resume")
        assert done.returncode in (0, 1), (done.returncode, done.stderr)
        record = m.record(m.a)
    assert record["settled"], record
    return m.b if record["state"] == "committed" else m.a


def stop_receiver(m):
    """The receiver ends by itself, or waits for a migration that does not come any more."""
    record = m.record(m.b)
    for pid in m.b.named("ferry") if record is None or record["settled"] else []:
        with contextlib.suppress(ProcessLookupError):  # it just did
            os.kill(pid, 9)


def agree(m):
    """The two journals tell one story, and it is the true one."""
    source, target = m.record(m.a), m.record(m.b)
    ran = m.b.named("beats")
    if target and target["state"] == "running":
        assert ran and source["state"] == "committed", (source, target)
    elif source and source["state"] == "committed":
        raise AssertionError((source, target))
    else:
        assert not ran, (source, target)
        assert not target or target["state"] == "reverted", (source, target)


def effects(environment_of):
    """The numbers of all effects of one side in a migration that succeeds: [(number, "stage what")]."""
    m = MoveWithAddress()
    log = m.folder / "effects"
    environment = {"FERRY_EFFECT_LOG": str(log)}
    m.receive(environment=environment if environment_of == "target" else None)
    done = m.migrate("--move-address", SERVICE_ADDRESS, environment=environment if environment_of == "source" else None)
    assert done.returncode == 0, done.stderr
    m.received()
    m.close()
    found = []
    for line in log.read_text().splitlines():
        _, number, what = line.split(" ", 2)
        found.append((int(number), what))
    return found


def chosen(found):
    """One of each in make check, all in make soak."""
    if os.environ.get("FERRY_TIER") == "soak":
        return found
    first = {}
    for number, what in found:
        first.setdefault(what, number)
    return [(number, what) for what, number in first.items()]


def kill_at(side, number, what, victim):
    """One migration in which one side is killed; afterwards exactly one copy runs."""
    m = MoveWithAddress()
    environment = {"FERRY_KILL_AT": str(number), "FERRY_KILL_VICTIM": victim}
    m.receive(environment=environment if side == "target" else None)
    done = m.migrate("--move-address", SERVICE_ADDRESS, environment=environment if side == "source" else None)
    try:
        node = settle_if_needed(m)
        m.only(node)
        wait_until(lambda: has_service(node), f"the address is not on {node.name}", 5)
        assert not has_service(m.b if node is m.a else m.a), "the address is on both"
        stop_receiver(m)
        agree(m)
        m.clean()
    except AssertionError as error:
        raise AssertionError(f"{side} killed ({victim}) at {number} '{what}': {error}"
                             f"\nmigrate: {done.returncode} {done.stderr}\nreceive: {m.receive_log.read_text()}"
                             f"\n{m.record(m.a)}\n{m.record(m.b)}") from error
    finally:
        m.close()
    return node.name


def kill_everywhere(side, victim):
    found = effects(side)
    stages = {what.split()[0] for _, what in found}
    assert stages >= ({"freeze", "journal", "hold", "address", "migrate"} if side == "source"
                      else {"restore", "journal", "address", "migrate"}), stages
    ends = [kill_at(side, number, what, victim) for number, what in chosen(found)]
    assert set(ends) == {"a", "b"}, f"all {len(ends)} ended on {set(ends)}"
    print(f"{len(ends)} kills: {ends.count('a')} times it stayed, {ends.count('b')} times it moved")


@test(timeout=900, exclusive=True)
def source_killed():
    """The ferry process of the source is killed at each step."""
    kill_everywhere("source", "self")


@test(timeout=900, exclusive=True)
def source_group_killed():
    """All ferries of the source but the warden are killed at each step."""
    kill_everywhere("source", "group")


@test(timeout=900, exclusive=True)
def target_killed():
    """The ferry process of the target is killed at each step."""
    kill_everywhere("target", "self")


@test(timeout=900, exclusive=True)
def target_group_killed():
    """All ferries of the target but the warden are killed at each step."""
    kill_everywhere("target", "group")


def cut_at(cut, expected):
    """One migration whose connection is cut; the node on which the work must be found at the end."""
    m = Move()
    m.receive()
    proxy = Proxy(m.a, m.b, m.address, cut=cut)
    done = m.migrate("--json", to=proxy.address)
    try:
        assert proxy.was_cut, "nothing was cut"
        assert done.returncode == {"a": 1, "b": 0}[expected], f"exit {done.returncode}"
        report = json.loads(done.stdout)
        if expected == "b":
            assert report["bytes"] > report["rounds"][0]["bytes"] > 0, "the first connection is not counted"
        m.only(m.a if expected == "a" else m.b)
        stop_receiver(m)
        m.received()
        agree(m)
        m.clean()
    except AssertionError as error:
        raise AssertionError(f"cut at {cut}: {error}\nmigrate: {done.returncode} {done.stderr}"
                             f"\nreceive: {m.receive_log.read_text()}\n{m.record(m.a)}\n{m.record(m.b)}") from error
    finally:
        m.close()


def unknown(m):
    """The source does not know: it holds its copy whatever is tried, until the target has answered."""
    m.received()
    assert m.record(m.a)["state"] == "committed" and not m.record(m.a)["settled"]
    assert "resume" in m.record(m.a)["advice"]
    listed = m.a.run(FERRY, "migrations", "--journal", m.a.journal)
    assert listed.returncode == 0 and f"ferry migrate --resume {m.id}" in listed.stdout, (listed.stdout, listed.stderr)
    for how in ("resume", "abort"):
        done = m.settle(how)
        assert done.returncode == 4 and "[outcome-unknown]" in done.stderr, (how, done.returncode, done.stderr)
    assert m.observer.silent(0.3) or m.observer.heard()[-1][1] == "b"
    m.receive()
    done = m.settle("resume", "--to", m.address)
    assert done.returncode == (0 if m.b.named("beats") else 1), (done.returncode, done.stderr)


@test(timeout=300, exclusive=True)
def cuts():
    """The connection is cut in every phase for a moment."""
    for kind, before in (("hello", 0), ("hello", 1), ("offer", 0), ("accept", 0), ("file", 0), ("file", 5), ("data", 0),
                         ("data", 5), ("image-end", 0), ("prepared", 0)):
        for size in (0, 30):
            cut_at((kind, before, size), "a")
    for kind in ("commit", "running", "done"):
        for size in (0, 25):
            cut_at((kind, 0, size), "b")


@test(timeout=120, exclusive=True)
def cut_for_good_before_commit_arrives():
    """The target never hears the commit: it takes back what it built, and the source hears that later."""
    m = Move()
    m.receive()
    proxy = Proxy(m.a, m.b, m.address, cut=("commit", 0, 0), stay_cut=True)
    done = m.migrate(to=proxy.address)
    assert done.returncode == 4 and "[outcome-unknown]" in done.stderr, done.stderr
    assert m.received() == 1
    assert m.record(m.b)["state"] == "reverted"
    unknown(m)
    m.only(m.a)
    assert m.record(m.a)["state"] == "reverted"
    m.clean()


@test(timeout=120, exclusive=True)
def cut_for_good_before_running_arrives():
    """The source never hears that the target runs: it keeps still until it has heard."""
    m = Move()
    m.receive()
    proxy = Proxy(m.a, m.b, m.address, cut=("running", 0, 0), stay_cut=True)
    done = m.migrate(to=proxy.address)
    assert done.returncode == 4, done.stderr
    assert m.received() == 0
    unknown(m)
    m.only(m.b)
    m.clean()


@test(timeout=60, exclusive=True)
def abort_with_fenced_peer():
    """The operator knows that the other machine is off."""
    m = MoveWithAddress()
    m.receive()
    proxy = Proxy(m.a, m.b, m.address, cut=("commit", 0, 0), stay_cut=True)
    assert m.migrate("--move-address", SERVICE_ADDRESS, to=proxy.address).returncode == 4
    for pid, _ in m.b.pids():
        os.kill(pid, 9)
    m.receiver.wait()
    assert not has_service(m.a)
    assert m.settle("abort").returncode == 4
    assert m.a.run(FERRY, "migrate", "--resume", m.id, "--peer-is-fenced").returncode == 2
    done = m.settle("abort", "--peer-is-fenced")
    assert done.returncode == 0, done.stderr
    m.only(m.a)
    assert has_service(m.a) and m.record(m.a)["state"] == "reverted"
    done = m.settle("abort")
    assert done.returncode == 0, "to settle what is settled is harmless"
    m.clean()


@test(timeout=60, exclusive=True)
def damaged_on_the_way():
    """A flipped bit is noticed; the source runs on."""
    m = Move()
    m.receive()
    proxy = Proxy(m.a, m.b, m.address, spoil=("data", 2))
    done = m.migrate(to=proxy.address)
    assert done.returncode == 1 and "damaged" in done.stderr, (done.returncode, done.stderr)
    m.only(m.a)
    m.received()
    m.clean()


@test(timeout=60, exclusive=True)
def interrupted_by_user():
    """The ferry that the user sees is killed while the image is under way: the rest takes it back."""
    m = Move(kib=65536)
    m.receive()
    frozen = lambda: time.monotonic() - m.observer.heard()[-1][0] > 0.05  # noqa: E731
    ferry = m.a.start(FERRY, "migrate", "--tree", m.beats.pid, "--to", m.address, "--journal", m.a.journal,
                      "--id", m.id)
    wait_until(frozen, "nothing stands still")
    os.kill(m.a.named("ferry")[0], 9)
    ferry.wait()
    node = settle_if_needed(m)
    m.only(node)
    stop_receiver(m)
    m.received()
    agree(m)
    m.clean()


def kill_one_of(side, random):
    """Kill any ferry process of one side at any time: the one that the user sees, the worker, the warden."""
    m = MoveWithAddress()
    m.receive()
    length = 0.5
    ferry = m.a.start(FERRY, "migrate", "--tree", m.beats.pid, "--to", m.address, "--journal", m.a.journal, "--id", m.id,
                      "--timeout", TIMEOUT, "--move-address", SERVICE_ADDRESS, log=m.folder / "migrate.log")
    time.sleep(random.random() * length)
    victims = (m.a if side == "source" else m.b).named("ferry")
    victim = random.choice(victims) if victims else None
    what = "nobody"
    try:
        if victim:
            what = pathlib.Path(f"/proc/{victim}/comm").read_text().strip()
            os.kill(victim, 9)
    except (OSError, ProcessLookupError):
        pass
    ferry.wait(timeout=30)
    try:
        node = settle_if_needed(m)
        m.only(node)
        wait_until(lambda: has_service(node), f"the address is not on {node.name}", 5)
        stop_receiver(m)
        agree(m)
        m.clean()
    except AssertionError as error:
        raise AssertionError(f"{side}: killed {what}: {error}\nmigrate: {(m.folder / 'migrate.log').read_text()}\nreceive: "
                             f"{m.receive_log.read_text()}\n{m.record(m.a)}\n{m.record(m.b)}") from error
    finally:
        m.close()
    return what, node.name


@test(timeout=1800, exclusive=True)
def random_kills():
    """At random instants, random processes."""
    count = 200 if os.environ.get("FERRY_TIER") == "soak" else 12
    seed = int(os.environ.get("FERRY_SEED", time.time_ns()))
    print(f"FERRY_SEED={seed}")
    random = Random(seed)
    ends = [kill_one_of(side, random) for _ in range(count // 2) for side in ("source", "target")]
    for what in sorted({what for what, _ in ends}):
        print(f"{what}: stayed {ends.count((what, 'a'))} times, moved {ends.count((what, 'b'))} times")


@test(timeout=60, exclusive=True)
def unknown_ids():
    """What is not there cannot be settled; a used id is refused."""
    m = Move()
    done = m.settle("resume")
    assert done.returncode == 2 and "[no-such-migration]" in done.stderr, done.stderr
    done = m.a.run(FERRY, "migrate", "--resume", "../../etc/passwd", "--journal", m.a.journal)
    assert done.returncode == 2, done.stderr
    m.receive()
    assert m.migrate().returncode == 0
    m.only(m.b)
    m.receive()
    m.b, m.a = m.a, m.b
    done = m.a.run(FERRY, "migrate", "--tree", m.beats.pid, "--to", m.address, "--journal", m.b.journal, "--id", m.id)
    assert done.returncode == 2 and "before" in done.stderr, (done.returncode, done.stderr)


@test(timeout=60, exclusive=True)
def there_and_back():
    """A second migration of the same work, back to where it came from."""
    m = Move()
    for source, target in ((m.a, m.b), (m.b, m.a)):
        m.a, m.b = source, target
        m.receive()
        done = m.a.run(FERRY, "migrate", "--tree", m.beats.pid, "--to", m.address, "--journal", m.a.journal,
                       "--timeout", TIMEOUT, "--id", f"{m.id}-{source.name}")
        assert done.returncode == 0, done.stderr
        assert m.received() == 0
        m.observer.wait(target.name)
        assert not source.named("beats")
        assert m.observer.check() == [source.name, target.name]
        m.observer.forget()
        m.observer.wait(target.name)


if __name__ == "__main__":
    main()
