#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trees in a network namespace of their own: who sets it up again, which connections live on, what is blocked meanwhile, and what is
refused."""

import os
import pathlib
import re
import socket
import subprocess
import tempfile

from ferrytest import Ferry, Program, main, skip, test
from ferrytest.cases import CASES
from ferrytest.cases.pattern import pattern
from ferrytest.cases.sockets import TcpClient
from ferrytest.engine import Criu, note_refusal
from ferrytest.exchange import attempt
from ferrytest.leftovers import nft_tables
from ferrytest.network import INSIDE, INSIDE6, connect, devices, ip, make_bridge
from ferrytest.process import tree, wait_until
from ferrytest.program import program_path

SID = pathlib.Path(os.environ.get("FERRY_CRIU_SID") or pathlib.Path(os.environ["FERRY_BUILD"]) / "criu-sid")
FAMILIES = {"4": (socket.AF_INET, INSIDE), "6": (socket.AF_INET6, INSIDE6)}

# What an engine does when it is told of a stage.
SCRIPT = """#!/bin/sh
set -e
echo "$CRTOOLS_SCRIPT_ACTION ${{CRTOOLS_INIT_PID:-none}}" >> {told}
if [ "$CRTOOLS_SCRIPT_ACTION" = setup-namespaces ]; then
    PYTHONPATH={library} python3 -B -c "from ferrytest.network import connect; connect($CRTOOLS_INIT_PID)"
fi
"""


def folder(kind="images"):
    """A new one."""
    return pathlib.Path(tempfile.mkdtemp(prefix=kind + "-"))


class Named(Criu):
    """ferry, started as criu."""

    name = "ferry"

    def __init__(self):
        super().__init__(SID)
        place = folder("bin")
        self.path = place / "criu"
        self.path.symlink_to(pathlib.Path(os.environ["FERRY"]).absolute())

    def command(self, program, *words):
        return [str(program), *map(str, words)]


class Client(TcpClient):
    """Of tcp-established in a namespace, from the bridge."""

    def __init__(self, word, prepare):
        super().__init__(FAMILIES[word][0])
        self.place = FAMILIES[word][1]
        self.prepare = prepare

    def connect(self, program):
        self.prepare(program)
        path = program.folder / "port"
        wait_until(path.exists, "the program tells no port")
        self.socket = socket.create_connection((self.place, int(path.read_text())), timeout=20)
        self.socket.sendall(pattern(self.RECEIVED, 1))


def inode(pid):
    """Of the network namespace of a process."""
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def has_namespace(pid):
    """Whether it has left the one of the tests."""
    return inode(pid) != inode("self")


def own(word, kind=Client):
    """(program, client): tcp-established in a namespace of its own, its client at the bridge."""
    def prepare(program):
        wait_until(lambda: has_namespace(program.pid), "it has no namespace of its own")
        connect(program.pid)

    client = kind(word, prepare)
    program = Program("tcp-established", word, "any", before_ready=client.connect,
                      interpreter=["unshare", "--net", str(program_path("tcp-established"))])
    return program, client


def script(told):
    """The action script, which notes what it was told."""
    path = told.parent / "script"
    path.write_text(SCRIPT.format(told=told, library=pathlib.Path(__file__).resolve().parent.parent / "lib"))
    path.chmod(0o755)
    return path


DUMP_STAGES = ["pre-dump", "network-lock", "post-dump"]
RESTORE_STAGES = ["pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore", "network-unlock", "pre-resume",
                  "post-resume"]


def connection(word, dumper, restorer):
    """The engine's way: an empty namespace, which a script connects before the sockets are made. The peer sees a pause."""
    make_bridge()
    program, client = own(word)
    program.verify()
    images, told = folder(), folder("told") / "stages"
    more = ["--empty-ns", "net", "--action-script", script(told)]
    dumper.dump(program.pid, images, tcp_established=True, more=more)
    program.wait_gone([program.pid])
    wait_until(lambda: "ferry-out" not in devices(), "the namespace is still there")
    restorer.restore(images, tcp_established=True, more=more)
    assert program.running() and has_namespace(program.pid)
    program.verify()
    program.finish()
    client.finish()
    program.quit()
    stages = [line.split() for line in told.read_text(encoding="utf-8").splitlines()]
    assert [stage for stage, _ in stages] == DUMP_STAGES + RESTORE_STAGES, stages
    assert {pid for stage, pid in stages if stage != "pre-restore"} == {str(program.pid)}, stages
    assert not nft_tables()


def refused_without(word):
    """What nobody asked for is not thrown away: a namespace that is to be empty has to be called so in the restore as well."""
    make_bridge()
    program, client = own(word)
    images = folder()
    Named().dump(program.pid, images, tcp_established=True, more=["--empty-ns", "net"])
    program.wait_gone([program.pid])
    done = Ferry().run("restore", "-D", images, "-d", "--tcp-established")
    assert done.returncode and "--empty-ns net" in done.stderr, done
    client.socket.close()


class Kept:
    """A namespace that somebody else has, as engines do; it stays when the program is gone."""

    def __init__(self):
        self.holder = subprocess.Popen(  # pylint: disable=consider-using-with
            ["unshare", "--net", "sleep", "1000"], stdin=subprocess.DEVNULL)
        self.pid = self.holder.pid
        wait_until(lambda: has_namespace(self.pid), "it has no namespace of its own")
        connect(self.pid)

    def inside(self, word):
        """(program, client) as own()."""
        client = Client(word, lambda program: None)
        program = Program("tcp-established", word, "any", before_ready=client.connect,
                          interpreter=["nsenter", f"--net=/proc/{self.pid}/ns/net", str(program_path("tcp-established"))])
        return program, client

    def tables(self):
        """nftables tables there."""
        done = subprocess.run(["nsenter", f"--net=/proc/{self.pid}/ns/net", "nft", "list", "tables"], check=True, text=True,
                              capture_output=True)
        return done.stdout.split()

    def end(self):
        """Nobody has it any more."""
        self.holder.kill()
        self.holder.wait()


def given(dumper, restorer, lock=None):
    """A namespace from outside is named in the dump and given, open, to the restore. Nothing of ferry's stays in it in between."""
    make_bridge()
    kept = Kept()
    program, client = kept.inside("4")
    images = folder()
    if lock:
        dumper.LOCK = ("--network-lock", lock)
    dumper.dump(program.pid, images, tcp_established=True, more=["--external", f"net[{inode(kept.pid)}]:engine"])
    program.wait_gone([program.pid])
    # Their connections alone stay blocked: nobody answers for them, and others get through.
    if dumper.name == "ferry":
        assert len(kept.tables()) == 3 and kept.tables()[2].startswith("CRIU-"), kept.tables()
        ask_port_of_nobody()
    with open(f"/proc/{kept.pid}/ns/net", "rb") as namespace:
        os.set_inheritable(namespace.fileno(), True)
        restore_with(restorer, images, namespace.fileno())
    assert inode(program.pid) == inode(kept.pid)
    assert not kept.tables() or (lock == "iptables" and "CRIU" not in inside(kept.pid, "nft", "list", "ruleset")), kept.tables()
    program.verify()
    program.finish()
    client.finish()
    program.quit()
    kept.end()


def restore_with(engine, images, fd):
    """A restore that gets the namespace as a descriptor."""
    words = ["restore", "-D", images, "-d", "--tcp-established", "--inherit-fd", f"fd[{fd}]:engine"]
    words += ["--network-lock", "nftables", "-o", "restore.log", "-v4"] if engine.name == "criu" else []
    command = engine.command(engine.path, *words) if hasattr(engine, "command") else [engine.path, *map(str, words)]
    done = subprocess.run(list(map(str, command)), check=False, text=True, capture_output=True, timeout=60, pass_fds=[fd],
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (done, engine.log_tail(images / "restore.log") if engine.name == "criu" else "")


@test(timeout=60)
def refused():
    """What stands in the way, by name: contents that are not told about, a namespace that is not given, types that cannot be joined."""
    make_bridge()
    kept = Kept()
    program, client = kept.inside("4")
    images = folder()
    done = Ferry().run("dump", "-t", program.pid, "-D", images, "--tcp-established", "--empty-ns", "ipc")
    assert done.returncode and "only 'net' can be empty" in done.stderr, done
    done = Ferry().run("migrate", "-t", program.pid, "--to", f"unix:{images}/nobody", "--tcp-established", "--journal", images / "j")
    assert done.returncode and "is not migrated" in done.stderr, done
    Ferry().dump(program.pid, images, tcp_established=True, more=["--external", f"net[{inode(kept.pid)}]:engine"])
    program.wait_gone([program.pid])
    for words, said in (((), "is not given"), (("--join-ns", "mnt:1"), "is not TYPE:PID"),
                        (("--join-ns", "net:/nowhere"), "/nowhere"),
                        (("--inherit-fd", "fd[0]"), "is not fd[NUMBER]:RESOURCE"), (("--inherit-fd", "fd[0]:other"), "is not given")):
        done = Ferry().run("restore", "-D", images, "-d", "--tcp-established", *words)
        assert done.returncode and said in done.stderr, done
    client.socket.close()
    kept.end()


@test(timeout=60)
def joined():
    """A tree that had a namespace of its own, or none, lives in another afterwards."""
    make_bridge()
    kept = Kept()
    for interpreter in (["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$0" "$@"'], []):
        program = Program("udp", interpreter=[*interpreter, str(program_path("udp"))])
        images = folder()
        Ferry().dump(program.pid, images, more=["--empty-ns", "net"])
        program.wait_gone([program.pid])
        Ferry().restore(images, more=["--join-ns", f"net:{kept.pid}"])
        assert inode(program.pid) == inode(kept.pid)
        program.verify()
        program.quit()
    kept.end()


@test(timeout=60)
def empty_above():
    """What the caller fills is the namespace of the root. Of one below it nobody else knows: it comes back with its contents."""
    below = "unshare --net sh -c 'ip link add v0 type veth peer name v1; ip addr add 10.5.0.1/16 dev v0; exec sleep 1000' & "
    program = Program("uts", interpreter=["unshare", "--net", "sh", "-c", below + 'exec "$0" "$@"', str(program_path("uts"))])
    ip("link", "add", "mine", "type", "bridge", of=program.pid)
    path = pathlib.Path(f"/proc/{program.pid}/task/{program.pid}/children")
    child = int(path.read_text())
    wait_until(lambda: inode(child) != inode(program.pid) and "10.5.0.1" in ip("addr", of=child), "nothing is below")
    images = folder()
    Ferry().dump(program.pid, images, more=["--empty-ns", "net"])
    program.wait_gone([program.pid])
    Ferry().restore(images, more=["--empty-ns", "net"])
    assert devices(program.pid) == ["lo"] and "10.5.0.1" in ip("addr", of=child)
    program.verify()
    program.quit()


def ask_port_of_nobody():
    """Whoever is there answers that nobody has it; behind a lock of everything it would take for ever."""
    try:
        socket.create_connection((INSIDE, 9), timeout=20).close()
        raise AssertionError("somebody listens")
    except ConnectionRefusedError:
        pass


def effects_of(*words, fds=()):
    """How many effects a command has, which is done."""
    log = folder("effects") / "log"
    done = subprocess.run([Ferry().path, *map(str, words)], check=False, text=True, capture_output=True, timeout=60, pass_fds=fds,
                          stdin=subprocess.DEVNULL, env={**os.environ, "FERRY_EFFECT_LOG": str(log)})
    assert done.returncode == 0, done
    return len(log.read_text(encoding="utf-8").splitlines())


def outside(word, dumper, restorer):
    """A pair of devices, one end of which is outside: who restores says what that is called, and which bridge it belongs to. The connection
    goes on, and the address is what it was."""
    make_bridge()
    program, client = own(word)
    wait_until(lambda: "tentative" not in ip("-o", "addr", of=program.pid), "an address stays tentative")
    told = ip("-o", "addr", of=program.pid)
    images = folder()
    dumper.dump(program.pid, images, tcp_established=True, more=["--external", "veth[eth0]:ferry-out"])
    program.wait_gone([program.pid])
    wait_until(lambda: "ferry-out" not in devices(), "the namespace is still there")
    if restorer.name == "ferry":
        done = Ferry().run("restore", "-D", images, "-d", "--tcp-established")
        assert done.returncode and "--external veth[eth0]:NAME" in done.stderr, done
        done = Ferry().run("restore", "-D", images, "-d", "--tcp-established", "--external", "veth[eth0]:ferry-out@nowhere")
        assert done.returncode and "a port of 'nowhere'" in done.stderr, done
        assert not program.running()
        wait_until(lambda: "ferry-out" not in devices(), "the namespace of a failed restore is still there")
    restorer.restore(images, tcp_established=True, more=["--external", "veth[eth0]:ferry-out@ferry-bridge"])
    assert "master ferry-bridge" in ip("link", "show", "ferry-out")
    wait_until(lambda: ip("-o", "addr", of=program.pid) == told, "the addresses are not what they were")
    program.verify()
    program.finish()
    client.finish()
    program.quit()
    assert not nft_tables()


def above(dumper, restorer):
    """A device that lies on one outside."""
    make_bridge()
    program = Program("uts", interpreter=["unshare", "--net", str(program_path("uts"))])
    ip("link", "add", "mv0", "link", "ferry-bridge", "type", "macvlan", "mode", "bridge")
    ip("link", "set", "mv0", "netns", program.pid)
    ip("link", "set", "mv0", "up", of=program.pid)
    ip("addr", "add", "10.231.0.3/24", "dev", "mv0", of=program.pid)
    images, words = folder(), ["--external", "macvlan[mv0]:ferry-bridge"]
    dumper.dump(program.pid, images, more=words)
    program.wait_gone([program.pid])
    restorer.restore(images, more=words)
    assert "macvlan mode bridge" in ip("-d", "link", "show", "mv0", of=program.pid)
    ip("route", "get", "10.231.0.1", of=program.pid)
    subprocess.run(["nsenter", f"--net=/proc/{program.pid}/ns/net", "ping", "-c", "1", "-W", "5", "10.231.0.1"], check=False,
                   stdout=subprocess.DEVNULL)
    program.verify()
    program.quit()


TRANSLATED = """
table ip nat {
    chain pre { type nat hook prerouting priority dstnat; tcp dport 7777 redirect to :%d; udp dport 7778 redirect to :7779; }
    chain in { type nat hook input priority 150; ip saddr 10.231.0.1 snat to 10.231.0.77; }
    chain out { type nat hook postrouting priority srcnat; ip daddr 10.231.0.1 icmp type echo-request masquerade; }
    ct helper ftp { type "ftp" protocol tcp; }
    chain help { type filter hook output priority 0; tcp dport 2121 ct helper set "ftp"; }
}
table ip strict {
    chain in { type filter hook input priority 10; iif lo accept; ct state established accept; drop; }
    chain out { type filter hook output priority 10; oif lo accept; ct state established accept; drop; }
}
"""

# What an FTP client says of the connection that it expects.
FTP = """
import socket
server, client = socket.create_server(("127.0.0.1", 2121)), socket.create_connection(("127.0.0.1", 2121))
peer, _ = server.accept()
for line in (b"USER me\\r\\n", b"PORT 127,0,0,1,40,9\\r\\n"):
    client.sendall(line)
    peer.recv(100)
"""

# An echo request, and its answer: checksum, number.
PING = """
import socket
pings = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
pings.settimeout(20)
pings.sendto(bytes.fromhex("0800e5ca12340001"), ("10.231.0.1", 0))
while pings.recv(100)[20:] != bytes.fromhex("0000edca12340001"):
    pass
"""


def inside(pid, *command, **more):
    """A command in the network namespace of a process; what it says."""
    done = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", *command], check=False, text=True, capture_output=True, **more)
    assert done.returncode == 0, (command, done)
    return done.stdout


class Translated(Client):
    """A client that calls another port than that of the program, which takes it for somebody else."""

    def connect(self, program):
        self.prepare(program)
        path = program.folder / "port"
        wait_until(path.exists, "the program tells no port")
        inside(program.pid, "nft", "-f", "-", input=TRANSLATED % int(path.read_text()))
        inside(program.pid, "nft", "insert", "rule", "ip", "strict", "in", "accept")
        inside(program.pid, "nft", "insert", "rule", "ip", "strict", "out", "accept")
        self.socket = socket.create_connection((INSIDE, 7777), timeout=20)
        self.socket.sendall(pattern(self.RECEIVED, 1))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as said:
            said.sendto(b"hello", (INSIDE, 7778))
        inside(program.pid, "python3", "-c", PING)
        inside(program.pid, "python3", "-c", FTP)


def tracked_by(pid):
    """Connections that its namespace tracks, and those that it expects, without times."""
    lines = inside(pid, "cat", "/proc/self/net/nf_conntrack", "/proc/self/net/nf_conntrack_expect").splitlines()
    return sorted(re.sub(r"^(ipv\d +\d+ \w+ +\d+) \d+|^\d+ l3|use=\d+", r"\1", line) for line in lines)


def tracked(dumper, restorer):
    """A connection both of whose addresses are translated, by what is tracked alone: the rules are gone by now, and new ones get
    nowhere. Other entries of the table are what they were."""
    make_bridge()
    program, client = own("4", Translated)
    for chain in ("nat pre", "nat in", "nat out", "nat help"):
        inside(program.pid, "nft", "flush", "chain", "ip", *chain.split())
    for chain in ("in", "out"):
        listed = inside(program.pid, "nft", "-a", "list", "chain", "ip", "strict", chain)
        handle = re.search(r"\taccept # handle (\d+)", listed).group(1)
        inside(program.pid, "nft", "delete", "rule", "ip", "strict", chain, "handle", handle)
    program.verify()
    told = tracked_by(program.pid)
    wanted = ["tcp 6 ESTABLISHED.*dport=7777 src=10.231.0.2 dst=10.231.0.77", "udp.*dport=7778 .*sport=7779", "icmp",
              "dport=2121.*ASSURED", "dport=10249.*ftp"]
    for line in wanted:
        assert any(re.search(line.replace(" ", " +"), entry) for entry in told), (line, told)
    images = folder()
    dumper.dump(program.pid, images, tcp_established=True, more=["--external", "veth[eth0]:ferry-out"])
    program.wait_gone([program.pid])
    wait_until(lambda: "ferry-out" not in devices(), "the namespace is still there")
    restorer.restore(images, tcp_established=True, more=["--external", "veth[eth0]:ferry-out@ferry-bridge"])
    now = tracked_by(program.pid)
    if dumper.name == "criu":  # in the place of what is expected it stores the connections once more (4.2.1)
        told = [line for line in told if "ftp" not in line]
    assert now == told, "\n".join(["was", *told, "is", *now])
    program.verify()
    program.finish()
    client.finish()
    program.quit()


# Asks the kernel by netlink: a type with flags, what its message begins with, attributes.
NETLINK = """
import socket, struct
def attr(kind, body):
    return struct.pack("HH", len(body) + 4, kind) + body + bytes(-len(body) % 4)
def ask(protocol, kind, flags, head, *attrs):
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    body = head + b"".join(attrs)
    s.send(struct.pack("IHHII", len(body) + 16, kind, 5 | flags, 1, 0) + body)
    code = struct.unpack_from("i", s.recv(4096), 16)[0]
    if code:
        raise SystemExit(f"netlink says {code}")
"""
IPSET = NETLINK + """
ask(12, 0x602, 0x600, bytes([2, 0, 0, 0]), attr(1, bytes([6])), attr(2, b"mine\\0"), attr(3, b"hash:ip\\0"), attr(4, b"\\0"),
    attr(5, bytes([2])), attr(0x8007, b""))
"""
ACCOUNT = NETLINK + """
ask(12, 0x700, 0x600, bytes(4), attr(1, b"mine\\0"))
"""
TIMES = NETLINK + """
ask(12, 0x800, 0x600, bytes([2, 0, 0, 0]), attr(1, b"mine\\0"), attr(2, bytes([0, 2])), attr(3, bytes([17])),
    attr(0x8004, attr(1, bytes([0, 0, 0, 9]))))
"""
MULTICAST = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
s.setsockopt(socket.IPPROTO_IP, 200, 1)
"""
MULTICAST6 = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, 200, 1)
"""
ARPTABLES = """
import ctypes, socket
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
info, n = ctypes.create_string_buffer(b"filter", 68), ctypes.c_uint32(68)
if ctypes.CDLL(None).getsockopt(s.fileno(), 0, 96, info, ctypes.byref(n)):
    raise SystemExit("no arptables")
"""
# A program that says yes, where a number tells and to what.
PROGRAM = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xb7, 0, 0, 1, 0x95, 0, 0, 0))
licence = ctypes.create_string_buffer(b"GPL")
def bpf(command, attr):
    attr = ctypes.create_string_buffer(attr, 128)
    fd = libc.syscall(321 if os.uname().machine == "x86_64" else 280, command, attr, 128)
    if fd < 0:
        raise SystemExit(os.strerror(ctypes.get_errno()))
    return fd
def attach(kind, where, to):
    places = ctypes.addressof(code), ctypes.addressof(licence)
    program = bpf(5, struct.pack("=IIQQIIQII16sII", kind, 2, *places, 0, 0, 0, 0, 0, b"", 0, where))
    return bpf(28, struct.pack("=IIII", program, to, where, 0))
"""
LOOKUP = PROGRAM + "link = attach(30, 36, os.open('/proc/self/ns/net', os.O_RDONLY))"
DEVICE = PROGRAM + "link = attach(3, 46, 1)"

# What makes it, what is said of it: commands, or a program that goes on.
OBSTACLES = {
    "kind": (["ip link add i0 type ifb"], "of a kind that is not made again: ifb"),
    "queues": (["ip link add v0 type veth peer name v1", "tc qdisc add dev v0 root handle 1: pfifo"], "traffic control (tc)"),
    "elsewhere": ([], "a kind whose lower device is in another namespace"),
    "objects": (["ip link set lo up", "ip nexthop add id 7 dev lo"], "next hops that are objects"),
    "ipsec": (["ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out tmpl src 1.1.1.1 dst 2.2.2.2 proto esp mode tunnel"], "IPsec"),
    "ipsec-default": (["ip xfrm policy setdefault in block"], "IPsec that blocks"),
    "groups": (["ip link add v0 up type veth peer name v1", "ip link set v1 up", "ip link add br0 up type bridge mcast_snooping 1",
                "ip link set v0 master br0", "bridge mdb add dev br0 port v0 grp 239.1.1.1 permanent"], "groups that somebody gave"),
    "multicast": (MULTICAST, "routing of multicast packets (MRT_INIT)"),
    "multicast6": (MULTICAST6, "routing of multicast packets of IPv6"),
    "sets": (IPSET, "sets of addresses (ipset)"),
    "accounts": (ACCOUNT, "counters of packets (nfacct)"),
    "times": (TIMES, "times of its own for connections"),
    "multipath": (["ip mptcp endpoint add 127.0.0.1 id 7 signal"], "addresses for Multipath TCP"),
    "keys": (["echo secret | ip sr hmac set 17 sha1"], "keys for segment routing"),
    "ioam": (["ip ioam namespace add 5"], "namespaces of IOAM"),
    "schemas": (["ip ioam schema add 5 words"], "schemas of IOAM"),
    "compatible": (["iptables -A INPUT -m string --algo bm --string words -j DROP"], "does not take again"),
    "arptables": (ARPTABLES, "rules of arptables"),
    "lookup": (LOOKUP, "programs of eBPF that find sockets"),
    "tcx": (DEVICE, "programs of eBPF on a network device (tcx)"),
}


def obstacle(word):
    """What cannot be brought back is refused by name before anything stops."""
    make, said = OBSTACLES[word]
    program = Program("uts", interpreter=["unshare", "--net", str(program_path("uts"))])
    there, going = ["nsenter", f"--net=/proc/{program.pid}/ns/net"], None
    if word == "elsewhere":
        ip("link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789", "local", "127.0.0.1", "dev", "lo")
        ip("link", "set", "vx0", "netns", program.pid)
    for line in make if isinstance(make, list) else []:
        done = subprocess.run([*there, "sh", "-c", line], check=False, capture_output=True, text=True)
        if done.returncode:
            skip(f"{line}: {done.stderr}")
    if isinstance(make, str):
        going = subprocess.Popen([*there, "python3", "-c", make + "\nprint('ready', flush=True)\ninput()"], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if going.stdout.readline() != "ready\n":
            skip(going.stderr.read())
    done = Ferry().run("dump", "-t", program.pid, "-D", folder())
    assert done.returncode == 3 and said in done.stderr and "--empty-ns net" in done.stderr, done
    if going:
        going.communicate("end\n")
    program.verify()
    program.quit()


def tunnel(word):
    """Tunnels of a program in a namespace that comes back with its contents, twice."""
    program = Program("tunnel", word, interpreter=["unshare", "--net", str(program_path("tunnel"))])
    program.verify()
    for _ in range(2):
        images = folder()
        Ferry().dump(program.pid, images)
        program.wait_gone([program.pid])
        Ferry().restore(images)
        program.verify()
    program.finish()
    program.quit()


@test(timeout=60)
def tunnel_alone():
    """A tunnel that stays, and to which nobody is attached."""
    program = Program("uts", interpreter=["unshare", "--net", str(program_path("uts"))])
    for line in ("tuntap add t0 mode tap user 7 multi_queue", "link set t0 address 02:00:00:00:00:77 up", "addr add 10.7.0.1/16 dev t0",
                 "tuntap add t1 mode tun group 8"):
        ip(*line.split(), of=program.pid)
    looks = ("-d", "-o", "addr"), ("-d", "-o", "link"), ("route",)
    wait_until(lambda: "NO-CARRIER" in ip("link", "show", "t0", of=program.pid), "it has a carrier")
    told = tuple(ip(*words, of=program.pid) for words in looks)
    images = folder()
    Ferry().dump(program.pid, images)
    program.wait_gone([program.pid])
    Ferry().restore(images)
    # That nobody is attached the kernel notices in its own time.
    wait_until(lambda: told == tuple(ip(*words, of=program.pid) for words in looks), "it is not what it was")
    program.verify()
    program.quit()


HOLDER = """
import fcntl, struct
tunnel = open("/dev/net/tun", "r+b", buffering=0)
fcntl.ioctl(tunnel, 0x400454ca, struct.pack("16sH22x", b"t0", 0x1002))
print("ready", flush=True)
input()
"""


@test(timeout=60)
def tunnel_outside():
    """Whose other end somebody outside of the tree has is refused, and the tree runs on."""
    program = Program("uts", interpreter=["unshare", "--net", str(program_path("uts"))])
    with subprocess.Popen(["nsenter", f"--net=/proc/{program.pid}/ns/net", "python3", "-c", HOLDER], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == "ready\n"
        done = Ferry().run("dump", "-t", program.pid, "-D", folder())
        assert done.returncode and "the tunnel 't0', which a program outside of the tree holds" in done.stderr, done
        holder.communicate("end\n")
    program.verify()
    program.quit()


def exchanged(name, dumper, restorer):
    """Devices and what lies on them, between ferry and CRIU."""
    case = next(case for case in CASES if case.name == name)
    problem = attempt(case, dumper, restorer)
    assert problem is None, problem


@test(timeout=60)
def without_programs():
    """Rules for packets that no program tells are refused."""
    program = Program("uts", interpreter=["unshare", "--net", str(program_path("uts"))])
    subprocess.run(["nsenter", f"--net=/proc/{program.pid}/ns/net", "nft", "add", "table", "ip", "mine"], check=True)
    empty = folder("empty")
    done = subprocess.run(["unshare", "--mount", "sh", "-c", f'mount --bind {empty} /usr/sbin && exec "$0" "$@"', Ferry().path, "dump",
                           "-t", str(program.pid), "-D", str(folder())], check=False, text=True, capture_output=True, timeout=60)
    note_refusal(done)
    assert done.returncode == 3 and "which 'nft' does not tell" in done.stderr, done
    program.verify()
    program.quit()


def killed_at(number, *words, fds=()):
    """Ferry, which gets SIGKILL before one of its effects; whether it was so."""
    done = subprocess.run([Ferry().path, *map(str, words)], check=False, text=True, capture_output=True, timeout=60, pass_fds=fds,
                          stdin=subprocess.DEVNULL, env={**os.environ, "FERRY_KILL_AT": str(number)})
    return done.returncode != 0


def kill_given(dumper):
    """Ferry is killed before each of its effects: in a namespace that somebody else keeps nothing is blocked afterwards."""
    make_bridge()
    kept = Kept()
    program, client = kept.inside("4")
    name = ["--tcp-established", "--external", f"net[{inode(kept.pid)}]:engine"]
    words = ["dump", "-t", program.pid, "-D", folder(), "-R", "--overwrite", *name]
    count = effects_of(*words)
    killed = 0
    for number in range(1, count + 1):
        killed += killed_at(number, *words)
        wait_until(lambda: not kept.tables(), f"killed at effect {number} of a dump it leaves a table")
        program.verify()
    assert killed > 10, (killed, count)
    images = folder()
    dumper.dump(program.pid, images, tcp_established=True, more=name[1:])
    program.wait_gone([program.pid])
    left, number = kept.tables(), 1
    with open(f"/proc/{kept.pid}/ns/net", "rb") as namespace:
        words = ["restore", "-D", images, "-d", "--inherit-fd", f"fd[{namespace.fileno()}]:engine"]
        while not killed_at(number, *words, fds=[namespace.fileno()]) or not settled(program, kept, left):
            number += 1
            if program.running():
                break
    assert number > 6, number
    wait_until(lambda: not kept.tables(), "a table is left")
    program.verify()
    program.finish()
    client.finish()
    program.quit()
    kept.end()


def kill_contents():
    """Ferry is killed before each of its effects, of a tree with several network namespaces and connections between them: nothing is
    blocked in any of them afterwards, and a restore makes all or nothing."""
    program = Program("netns-tree", "linked")
    words = ["dump", "-t", program.pid, "-D", folder(), "-R", "--overwrite", "--tcp-established"]
    count, killed = effects_of(*words), 0
    for number in range(1, count + 1):
        killed += killed_at(number, *words)
        for pid in tree(program.pid):
            wait_until(lambda pid=pid: not inside(pid, "nft", "list", "tables"), f"killed at effect {number} of a dump it leaves a table")
        program.verify()
    assert killed > 10, (killed, count)
    images, pids = folder(), tree(program.pid)
    Ferry().dump(program.pid, images, tcp_established=True)
    program.wait_gone(pids)
    number, words = 1, ["restore", "-D", images, "-d", "--tcp-established"]
    while killed_at(number, *words):
        wait_until(lambda: program.running() or not any(os.path.exists(f"/proc/{pid}") for pid in pids), "neither there nor away")
        number += 1
        if program.running():
            break
    assert number > 6, number
    for pid in pids:
        wait_until(lambda pid=pid: not inside(pid, "nft", "list", "tables"), "a table is left")
    program.verify()
    program.quit()


def settled(program, kept, left):
    """Whether a killed restore was one nevertheless; else what was blocked before is as it was."""
    wait_until(lambda: not os.path.exists(f"/proc/{program.pid}") or not kept.tables(), "neither there nor away")
    if not os.path.exists(f"/proc/{program.pid}"):
        wait_until(lambda: kept.tables() == left, "something else is blocked")
    return os.path.exists(f"/proc/{program.pid}")


def criu():
    """CRIU, with its cache of kernel features filled."""
    engine = Criu(SID)
    engine.run("check")
    return engine


for way in FAMILIES:
    test(name="connection-v" + way, timeout=90)(lambda way=way: connection(way, Named(), Named()))
    test(name="outside-v" + way, timeout=90)(lambda way=way: outside(way, Ferry(), Ferry()))
test(timeout=60, name="refused-without")(lambda: refused_without("4"))
test(timeout=90, name="given")(lambda: given(Ferry(), Ferry()))
for obstacle_name in OBSTACLES:
    test(name="obstacle-" + obstacle_name, timeout=60)(lambda obstacle_name=obstacle_name: obstacle(obstacle_name))
test(name="tree-to-criu", timeout=120, needs=["criu-sid"])(lambda: exchanged("netns-tree", Ferry(), criu()))
test(name="devices-to-criu", timeout=120, needs=["criu-sid"])(lambda: exchanged("netns-devices", Ferry(), criu()))
for device_case in ("netns-devices", "netns-layers", "netns-tree"):
    test(name=device_case.partition("-")[2] + "-from-criu", timeout=120, needs=["criu-sid"])(
        lambda name=device_case: exchanged(name, criu(), Ferry()))
test(timeout=90, name="above")(lambda: above(Ferry(), Ferry()))
test(timeout=90, name="outside-to-criu", needs=["criu-sid"])(lambda: outside("4", Ferry(), criu()))
test(timeout=90, name="outside-from-criu", needs=["criu-sid"])(lambda: outside("4", criu(), Ferry()))
test(timeout=90, name="tracked")(lambda: tracked(Ferry(), Ferry()))
test(timeout=90, name="tracked-from-criu", needs=["criu-sid"])(lambda: tracked(criu(), Ferry()))
for tunnel_word in ("tun", "tap", "queues", "idle", "persistent"):
    test(name="tunnel-" + tunnel_word, timeout=90)(lambda tunnel_word=tunnel_word: tunnel(tunnel_word))
test(timeout=300, name="kill-contents")(kill_contents)
test(timeout=300, name="kill-given")(lambda: kill_given(Ferry()))
test(timeout=300, name="kill-given-from-criu", needs=["criu-sid"])(lambda: kill_given(criu()))
test(timeout=90, name="connection-to-criu", needs=["criu-sid"])(lambda: connection("4", Named(), criu()))
test(timeout=90, name="connection-from-criu", needs=["criu-sid"])(lambda: connection("4", criu(), Named()))
test(timeout=90, name="given-to-criu", needs=["criu-sid"])(lambda: given(Ferry(), criu()))
test(timeout=90, name="given-from-criu", needs=["criu-sid"])(lambda: given(criu(), Ferry()))
test(timeout=90, name="given-from-criu-iptables", needs=["criu-sid"])(lambda: given(criu(), Ferry(), "iptables"))

if __name__ == "__main__":
    main()
