#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sockets: what is refused, connections that go on beside a dump, the lock that waits for a restore, faults."""

import ctypes
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

from ferrytest import Ferry, main, test
from ferrytest.cases.sockets import TcpClient
from ferrytest.leftovers import nft_tables
from ferrytest.program import Program

REFUSED = 3  # exit status
IMAGES = pathlib.Path("images")

# word of the program: identifier, part of the message, part of the hint
REFUSALS = {
    "unix-pending": ("in-flight", "with data, which no call reads before accept()", "accepted"),
    "tcp-pending": ("in-flight", "wait to be accepted", "--skip-in-flight"),
    "tunnel": ("unsupported-fd", "a UDP socket that the kernel takes packets from (UDP_ENCAP 2)", ""),
    "vsock": ("unsupported-fd", "a vsock socket", ""),
    "netlink-message": ("in-flight", "messages wait in a netlink socket; no call gives them back", "read"),
    "raw-packet": ("in-flight", "packets that wait, which no call puts back", "read"),
    "packet": ("in-flight", "packets wait in a packet socket; no call puts them back", "read"),
    "epoll-in-flight": ("unsupported-fd", "an epoll instance that no process has", "received it"),
    "zerocopy": ("in-flight", "SO_ZEROCOPY that still sends", "notifications"),
    "corked": ("in-flight", "a corked datagram that was not sent yet, which no call reads (Linux 6.18)", "sent"),
    "shared-port": ("in-flight", "on a port that it shares", "read"),
    "md5": ("unsupported-fd", "a TCP socket with MD5 keys, which cannot be read", ""),
    "elsewhere-udp": ("unsupported-namespace", "a socket of another network namespace", "start the program in"),
    "elsewhere-unix": ("unsupported-namespace", "a socket of another network namespace", "start the program in"),
    "elsewhere-netlink": ("unsupported-namespace", "a socket of another network namespace", "start the program in"),
    "program-filter": ("unsupported-fd", "a socket with an eBPF filter, which no call reads", "SO_ATTACH_FILTER"),
    "multipath": ("unsupported-fd", "a Multipath TCP connection, which has no TCP_REPAIR", "GODEBUG=multipathtcp=0"),
    "tcp": ("tcp-established", "an established TCP connection", "--tcp-established"),
}


def said(done):
    """The error that a command printed as JSON, the hint included."""
    return json.loads(done.stdout.splitlines()[0])


def refuse(program, identifier, text, hint, *words):
    """A dump is refused so, leaves nothing, and takes nothing out of the socket."""
    done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--json", *words)
    assert done.returncode == REFUSED, f"exit status {done.returncode}: {done.stderr}"
    error = said(done)
    assert error["error"] == identifier, error
    assert text in error["message"], error
    assert hint in error.get("hint", ""), error
    assert f"pid {program.pid}" in error["message"], error
    assert not IMAGES.exists() or not list(IMAGES.iterdir()), "something of an image stayed"
    assert not nft_tables(), nft_tables()
    program.verify()


def register(word):
    """One test for each line of the table."""

    def run():
        program = Program("sockets-refused", word)
        refuse(program, *REFUSALS[word], "--timeout", "1",
               *["--tcp-established"] * (word in ("tcp-pending", "zerocopy")))
        program.quit()

    test(name=word, timeout=60)(run)


def port_of(images):
    """The port of the first network socket of an image."""
    files = json.loads(subprocess.run([os.environ["FERRY"], "image", "decode", images / "files.img"], check=True,
                                      stdout=subprocess.PIPE, text=True).stdout)
    return next(entry["isk"]["src_port"] for entry in files["entries"] if "isk" in entry)


def dumped_listener():
    """(program, one of its ports): it was dumped, so that the port is free."""
    program = Program("tcp-listen")
    Ferry().dump(program.pid, IMAGES)
    program.reap()
    return program, port_of(IMAGES)


def refuse_port(port):
    """A restore is refused since somebody has the port; what it says."""
    done = Ferry().run("restore", "-D", IMAGES, "-d")
    assert done.returncode and "[address-taken]" in done.stderr and f":{port}" in done.stderr, done.stderr
    return done.stderr


def connected(family=socket.AF_INET):
    """A program with a client outside of its tree."""
    client = TcpClient(family)
    program = Program("tcp-established", "4" if family == socket.AF_INET else "6", before_ready=client.connect)
    return program, client


if os.environ.get("FERRY"):
    for line in REFUSALS:
        register(line)


    @test(timeout=60)
    def outside():
        """The peer of a unix socket is the test."""
        accepted = []
        with socket.socket(socket.AF_UNIX) as listener:

            def accept(program):
                listener.bind(str(program.folder / "outside"))
                listener.listen()
                accepted.append(listener.accept()[0])

            program = Program("sockets-refused", "outside", before_ready=accept)
            refuse(program, "outside-peer", "outside of the tree", "both ends")
        accepted[0].close()
        program.quit()


    @test(timeout=60)
    def outside_log():
        """A datagram socket with a peer outside: refused with the peer and the option."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            program = Program("sockets-refused", "log",
                              before_ready=lambda program: log.bind(str(program.folder / "outside")))
            refuse(program, "outside-peer", "/outside' (socket:[", "--ext-unix-sk")
            refuse(program, "outside-peer", f"of pid {os.getpid()})", "--ext-unix-sk")
            program.quit()


    @test(timeout=60)
    def packet_rings():
        """Rings of packet sockets where nothing tells at which place the kernel goes on."""
        for word, text in (("used-v3", "a ring of version 3 that was used"), ("sent", "a ring for sending that was used")):
            program = Program("packet-ring", word)
            refuse(program, "unsupported-fd", text, "make it anew")
            program.kill()


    @test(timeout=60)
    def choosers():
        """Programs that choose among the sockets of one port: of eBPF, or by an order that would be lost."""
        for word, text in (("program", "one of eBPF, which nobody can read"), ("turned", "by an order that a restore would not give")):
            program = Program("reuseport-program", word)
            refuse(program, "unsupported-fd", text, "SO_ATTACH_REUSEPORT_CBPF")
            program.quit()
        program = Program("reuseport-program")
        held = os.pidfd_open(program.pid)
        link = next(link for link in sorted(pathlib.Path(f"/proc/{program.pid}/fd").iterdir(), key=lambda link: int(link.name))
                    if "socket:" in os.readlink(link))
        copy = ctypes.CDLL(None).syscall(438, held, int(link.name), 0)
        refuse(program, "outside-peer", "is also held by fd", "")
        os.close(copy)
        os.close(held)
        program.quit()


    @test(timeout=60)
    def outside_kept():
        """Connections to the outside under --external: another peer by --inherit-fd, or the same name again."""
        kinds = {"stream": socket.SOCK_STREAM, "packets": socket.SOCK_SEQPACKET}
        listeners = []

        def answer(peer):
            while word := peer.recv(100):
                peer.sendall(word)
            peer.close()

        def serve(listener):
            while True:
                peer = listener.accept()[0]
                threading.Thread(target=answer, args=(peer,), daemon=True).start()

        def listen(program):
            for name, type_ in kinds.items():
                listeners.append(socket.socket(socket.AF_UNIX, type_))
                listeners[-1].bind(str(program.folder / name))
                listeners[-1].listen()
                threading.Thread(target=serve, args=(listeners[-1],), daemon=True).start()

        def inodes(program):
            return [os.stat(f"/proc/{program.pid}/fd/{fd}").st_ino for fd in (20, 21)]

        program = Program("unix-outside", before_ready=listen)
        numbers = inodes(program)
        refuse(program, "outside-peer", "outside of the tree", f"--inherit-fd fd[N]:socket:[{numbers[1]}]")
        refuse(program, "outside-peer", "outside of the tree", f"--external unix[{numbers[0]}]",
               "--external", f"unix[{numbers[1]}]")
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--external", "unix[1x]")
        assert done.returncode == 2 and "is none of unix[INODE]" in done.stderr, done.stderr
        for again in (True, False):
            numbers = inodes(program)
            words = [word for number in numbers for word in ("--external", f"unix[{number}]")]
            Ferry().dump(program.pid, IMAGES, more=words)
            program.reap()
            done = Ferry().run("restore", "-D", IMAGES, "-d")
            assert done.returncode == REFUSED and "[outside-peer]" in done.stderr, done.stderr
            assert f"--inherit-fd fd[N]:socket:[{numbers[0]}]" in done.stderr, done.stderr
            if again:
                Ferry().restore(IMAGES, more=("--ext-unix-sk",))
            else:
                pairs = [socket.socketpair(socket.AF_UNIX, type_) for type_ in kinds.values()]
                words = [word for number, pair in zip(numbers, pairs)
                         for word in ("--inherit-fd", f"fd[{pair[1].fileno()}]:socket:[{number}]")]
                subprocess.run([os.environ["FERRY"], "restore", "-D", IMAGES, "-d", *words], check=True,
                               pass_fds=[pair[1].fileno() for pair in pairs])
                for ours, theirs in pairs:
                    theirs.close()
                    threading.Thread(target=answer, args=(ours,), daemon=True).start()
            program.verify()
            shutil.rmtree(IMAGES)
        program.quit()


    @test(timeout=60)
    def tunnels():
        """A filter that nobody can read, a device of another namespace or with traffic control; a name that is taken."""
        program = Program("tunnel", "filtered")
        refuse(program, "unsupported-fd", "a tap device with a packet filter", "TUNDETACHFILTER")
        program.quit()
        program = Program("tunnel", "moved")
        refuse(program, "unsupported-namespace", "a socket of another network namespace", "")
        program.quit()
        program = Program("tunnel", "tun")
        subprocess.run(["tc", "qdisc", "replace", "dev", "ferry-tun0", "root", "handle", "1:", "pfifo"], check=True)
        refuse(program, "unsupported-fd", "'ferry-tun0' has traffic control (tc)", "take that down")
        subprocess.run(["tc", "qdisc", "del", "dev", "ferry-tun0", "root"], check=True)
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        subprocess.run(["ip", "tuntap", "add", "mode", "tap", "name", "ferry-tun0"], check=True)
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode and "there is a network device 'ferry-tun0' already" in done.stderr, done.stderr
        subprocess.run(["ip", "link", "del", "ferry-tun0"], check=True)
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=60)
    def waits_for_the_accept():
        """A connection that is accepted while the dump waits; the tree runs meanwhile."""
        program = Program("accept-late")
        words = [os.environ["FERRY"], "dump", "-t", str(program.pid), "-D", str(IMAGES), "--tcp-established"]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as dump:
            time.sleep(0.4)
            assert dump.poll() is None, dump.stderr.read()
            (program.folder / "accept").touch()
            said_last = dump.communicate(timeout=30)[1]
            assert dump.returncode == 0, said_last
        program.reap()
        Ferry().restore(IMAGES)
        program.verify()
        program.finish()
        program.quit()


    @test(timeout=60)
    def skipped_in_flight():
        """--skip-in-flight leaves out what nobody accepted; the listener goes on."""
        program = Program("accept-late")
        Ferry().dump(program.pid, IMAGES, tcp_established=True, more=("--skip-in-flight",))
        program.reap()
        Ferry().restore(IMAGES)
        (program.folder / "reset").touch()
        program.verify()
        program.quit()


    @test(timeout=60)
    def closed_connections():
        """--tcp-close at the dump: the client sees the end, and the program a connection that is over."""
        program, client = connected()
        Ferry().dump(program.pid, IMAGES, more=("--tcp-close",))
        program.reap()
        assert not nft_tables(), nft_tables()
        client.socket.settimeout(5)
        try:
            while client.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        Ferry().restore(IMAGES)
        assert program.running()
        program.quit()


    @test(timeout=60)
    def closed_at_the_restore():
        """--tcp-close at the restore of an image with a connection."""
        program, client = connected()
        Ferry().dump(program.pid, IMAGES, tcp_established=True)
        program.reap()
        Ferry().restore(IMAGES, more=("--tcp-close",))
        assert program.running()
        program.quit()
        client.socket.close()


    @test(timeout=60)
    def beside_a_dump():
        """A dump that lets the tree run lets its connections run, and holds no lock any more."""
        for family in (socket.AF_INET, socket.AF_INET6):
            program, client = connected(family)
            for _ in range(3):
                Ferry().dump(program.pid, IMAGES, leave_running=True, tcp_established=True, more=("--overwrite",))
                assert not nft_tables(), nft_tables()
                program.verify()
            client.finish()
            program.finish()
            program.quit()


    @test(timeout=60)
    def lock_waits():
        """Between dump and restore a lock keeps the connection quiet, so that nobody answers for it."""
        program, client = connected()
        Ferry().dump(program.pid, IMAGES, tcp_established=True)
        program.reap()
        tables = nft_tables()
        assert len(tables) == 1, tables
        # Without the lock the kernel would reset the connection at the first of these probes.
        for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 100)):
            client.socket.setsockopt(socket.IPPROTO_TCP, option, value)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        time.sleep(2.5)
        error = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert not error, os.strerror(error)
        Ferry().restore(IMAGES)
        assert not nft_tables(), nft_tables()
        program.verify()
        client.finish()
        program.finish()
        program.quit()


    @test(timeout=60)
    def taken_port():
        """A port that somebody else has by now: refused by its number, and possible again afterwards."""
        program, port = dumped_listener()
        with socket.socket() as other:
            other.bind(("0.0.0.0", port))
            other.listen()
            refuse_port(port)
            assert not pathlib.Path(f"/proc/{program.pid}").exists()
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=60)
    def shared_ports():
        """Connections that ended hold ports for a minute. One that connect() chose again is restored; listening waits."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            # Listening gets the odd one, connecting the even one, which an ended connection has too.
            pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("35024 35025", encoding="ascii")
            with socket.create_connection(server.getsockname()):
                pass
            server.accept()[0].close()
        program = Program("tcp-connecting")
        for _ in range(2):
            Ferry().dump(program.pid, IMAGES, tcp_established=True, more=["--overwrite"])
            program.reap()
            Ferry().restore(IMAGES, tcp_established=True)
            program.verify()
        program.finish()
        program.quit()


    @test(timeout=60)
    def waiting_port():
        """A port that an ended connection holds, of a server that did not allow that: the hint tells it."""
        program, port = dumped_listener()
        with socket.socket() as server:
            server.bind(("0.0.0.0", port))
            server.listen()
            with socket.create_connection(("127.0.0.1", port)):
                server.accept()[0].close()
        said_why = refuse_port(port)
        assert "TIME_WAIT" in said_why, said_why


    @test(timeout=60)
    def taken_name():
        """A unix name that somebody else listens under by now is not taken away."""
        program = Program("unix-socket")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        path = program.folder / "socket-by-path"
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            done = Ferry().run("restore", "-D", IMAGES, "-d")
            assert done.returncode and "[address-taken]" in done.stderr and path.name in done.stderr, done.stderr
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=120)
    def faults():
        """Faults between the lock and the end of a dump: the connection goes on, nothing stays."""
        program, client = connected()
        words = [line.split("\t") for line in Ferry().run("debug", "faults").stdout.splitlines()]
        for word, stage, _ in words:
            if stage != "dump":
                continue
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--tcp-established",
                               environment={"FERRY_FAULT": word})
            assert done.returncode in (1, REFUSED), f"{word}: {done.returncode} {done.stderr}"
            assert not nft_tables(), f"{word}: {nft_tables()}"
            program.verify()
        client.finish()
        program.finish()
        program.quit()


    @test(timeout=120)
    def restore_faults():
        """Faults before the commit of a restore: nothing is lost, the next restore has everything."""
        program, client = connected()
        Ferry().dump(program.pid, IMAGES, tcp_established=True)
        program.reap()
        tables = nft_tables()
        words = [line.split("\t") for line in Ferry().run("debug", "faults").stdout.splitlines()]
        for word, stage, _ in words:
            if stage != "restore" or word == "image-read":
                continue
            done = Ferry().run("restore", "-D", IMAGES, "-d", environment={"FERRY_FAULT": word})
            assert done.returncode, f"{word}: no failure"
            assert nft_tables() == tables, f"{word}: {nft_tables()}"
        Ferry().restore(IMAGES)
        assert not nft_tables(), nft_tables()
        program.verify()
        client.finish()
        program.finish()
        program.quit()


if __name__ == "__main__":
    main()
