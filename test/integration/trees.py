#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trees that no dump takes, by what their processes are to each other, where they live and what they map: each is refused by
name, and goes on as it was."""

import ctypes
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap

from ferrytest import Ferry, main, old, status, test, wait_until
from ferrytest.engine import note_refusal
from ferrytest.leftovers import Leftovers
from ferrytest.process import is_alive
from ferrytest.register import skip

REFUSED = 3  # exit status
IMAGES = pathlib.Path("images")

# What every program begins with.
BEGIN = """
import ctypes, fcntl, mmap, os, select, signal, socket, struct, subprocess, sys, termios, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, FS = (0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x200)
SEIZE = 0x4206
def call(result):
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def unshare(flags): call(libc.unshare(flags))
def seize(pid): call(libc.ptrace(SEIZE, pid, None, None))
def shell(command): subprocess.run(command, shell=True, check=True)
def child(work):
    "A process that does something, says so, and waits."
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        work()
        os.write(told, b"x")
        os.close(ready)
        os.close(told)
        while True:
            signal.pause()
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return pid
def confine():
    "A filter that allows everything."
    code = struct.pack("HBBI", 6, 0, 0, 0x7fff0000)
    room = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(room)))
    call(libc.prctl(38, 1, 0, 0, 0))
    call(libc.prctl(22, 2, program))
allowed = ctypes.create_string_buffer(1)
def dispatch():
    "System calls may come as signals; none does."
    call(libc.prctl(59, 1, ctypes.c_ulong(0), ctypes.c_ulong(0), allowed))
"""
END = """
open("ready", "w").close()
while True:
    signal.pause()
"""


def start(source):
    """A program that has done this."""
    for name in ("ready", "subject"):
        pathlib.Path(name).unlink(missing_ok=True)
    with open("log", "wb") as log:
        process = subprocess.Popen(  # pylint: disable=consider-using-with
            [sys.executable, "-c", BEGIN + textwrap.dedent(source) + END], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True)
    wait_until(lambda: pathlib.Path("ready").exists() or process.poll() is not None, "it is not ready", 20)
    assert process.poll() is None, f"it ends: {pathlib.Path('log').read_text()}"
    return process


def end(process):
    """With everybody in its session, and what it started."""
    subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
    process.kill()
    process.wait()


def refuse(pid, text, *words, status_wanted=REFUSED):
    """A dump says this and leaves nothing."""
    done = Ferry().run("dump", "-t", pid, "-D", IMAGES, "--timeout", "1", *words)
    assert done.returncode == status_wanted, f"exit status {done.returncode}: {done.stderr}"
    assert re.search(text, done.stderr), done.stderr
    assert not IMAGES.exists(), "an images directory stayed"


def tried(source, text, *words):
    """One of them."""
    process = start(source)
    subject = pathlib.Path("subject")
    pid = int(subject.read_text()) if subject.exists() else process.pid
    watch = Leftovers(pid)
    try:
        refuse(pid, text, *words)
        watch.check(pid)
    finally:
        end(process)


# Name -> what the program does, what the dump says.
TASKS = {
    "thread-namespace": ("""
        def work():
            unshare(NEWUTS)
            told.set()
            time.sleep(1000)
        told = threading.Event()
        threading.Thread(target=work, daemon=True).start()
        told.wait()
        """, r"thread \d+ of pid \d+ lives in a uts namespace of its own"),
    "pid-namespace-to-come": ("unshare(NEWPID)",
                              "will put its children into a pid namespace in which it has none now"),
    "zombie-below": ("""
        unshare(NEWPID)
        if not os.fork():
            os._exit(0)
        time.sleep(0.1)
        """, "pid namespace"),
    "user-folders": ("""
        unshare(NEWUSER)
        for file, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            open(f"/proc/self/{file}", "w").write(text)
        ready, told = os.pipe()
        if not call(libc.syscall(56, FS | signal.SIGCHLD, None, None, None, None)):
            os.write(told, b"x")
            libc.pause()
        os.read(ready, 1)
        os.close(ready)
        os.close(told)
        """, r"shares its working directory with its parent \(CLONE_FS\)"),
    "group": ("""
        ready, told = os.pipe()
        if not os.fork():
            stranger = os.fork()
            if stranger:
                os.write(told, struct.pack("i", stranger))
                os._exit(0)
            os.setpgid(0, 0)
            os.close(told)
            os.close(ready)
            time.sleep(1000)
        stranger = struct.unpack("i", os.read(ready, 4))[0]
        os.wait()
        while os.getpgid(stranger) != stranger:
            time.sleep(0.01)
        os.close(ready)
        os.close(told)
        child(lambda: os.setpgid(0, stranger))
        """, r"belongs to process group \d+, whose leader is outside the tree"),
    "old-session": ("""
        ready, told = os.pipe()
        other = os.fork()
        if other:
            open("pid", "w").write(str(other))
            os.close(ready)
            os.close(told)
            time.sleep(1000)
        child(lambda: None)
        os.setsid()
        os.close(ready)
        os.close(told)
        open("subject", "w").write(str(os.getpid()))
        """, r"belongs to session \d+, whose leader is outside the tree"),
}
TRACED = {
    "some-threads": ("""
        def work():
            tid = threading.Thread(target=time.sleep, args=[1000], daemon=True)
            tid.start()
            open("tid", "w").write(str(tid.native_id))
        child(work)
        seize(int(open("tid").read()))
        """, r"some threads of pid \d+ are traced, and others are not"),
    "filtered": ("seize(child(confine))", r"pid \d+ has seccomp filters, and traces or is traced"),
    "filtered-tracer": ("seize(child(lambda: None)); confine()", r"is under seccomp and traces others"),
    "both": ("seize(child(lambda: seize(child(lambda: None))))", r"traces others and is traced itself"),
    "two-tracers": ("""
        children = [child(lambda: None) for i in range(2)]
        def work():
            seize(children[1])
            told.set()
            time.sleep(1000)
        told = threading.Event()
        threading.Thread(target=work, daemon=True).start()
        told.wait()
        seize(children[0])
        """, r"more than one thread of pid \d+ traces others"),
    "signals": ("""
        def work():
            signal.pthread_sigmask(signal.SIG_BLOCK, [40])
            for i in range(40):
                os.kill(os.getpid(), 40)
        seize(child(work))
        """, r"32 or more signals wait for thread \d+, which is traced"),
    "dispatched": ("seize(child(dispatch))", r"which is traced, has its system calls dispatched to itself"),
    "no-vdso": ("""
        def work():
            for line in open("/proc/self/maps"):
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                if line.endswith("[vdso]\\n"):
                    place = start, end - start
            call(libc.munmap(ctypes.c_void_p(place[0]), ctypes.c_size_t(place[1])))
        seize(child(work))
        """, r"which is traced, has no vdso"),
}
MOUNTS = {
    "slave": ("""
        shell("mkdir from to; mount -t tmpfs none from; mount --make-shared from")
        unshare(NEWNS)
        shell("mount --make-slave from; mount --bind from to")
        """, "receives mounts from a group of peers outside of the tree"),
    "proc": ("unshare(NEWNS); shell('mkdir proc; unshare --pid --fork mount -t proc none proc')",
             "was mounted for another pid namespace"),
    "part": ("""
        unshare(NEWNS)
        shell("mkdir pts; mount -t devpts -o newinstance none pts; touch one; mount --bind pts/ptmx one; umount pts")
        """, "shows a part of a file system that is mounted nowhere"),
    "alone": ("unshare(NEWNS); shell('mkdir ram; mount -t ramfs none ram')", "has contents of its own, which no image has"),
    "deleted": ("unshare(NEWNS); shell('mkdir a b; mount --bind a b; rmdir a')", "shows a file or folder that was deleted"),
    "mapped": ("""
        unshare(NEWNS)
        shell("mkdir ids mapped; mount -t tmpfs none ids")
        user = child(lambda: unshare(NEWUSER))
        open(f"/proc/{user}/uid_map", "w").write("0 1000 1")
        open(f"/proc/{user}/gid_map", "w").write("0 1000 1")
        space = os.open(f"/proc/{user}/ns/user", os.O_RDONLY)
        copy = call(libc.syscall(428, -100, b"ids", 0x80001))
        call(libc.syscall(442, copy, b"", 0x1000, struct.pack("4Q", 0x100000, 0, 0, space), 32))
        call(libc.syscall(429, copy, b"", -100, b"mapped", 4))
        shell("umount ids")
        os.close(copy)
        os.close(space)
        os.kill(user, 9)
        os.waitpid(user, 0)
        """, "maps the ids of its files in a way of its own"),
    "fuse": ("""
        unshare(NEWNS)
        os.mkdir("served")
        device = os.open("/dev/fuse", os.O_RDWR)
        call(libc.mount(b"nobody", b"served", b"fuse", 0, f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()))
        os.close(device)
        """, "is mounted for the tree alone and cannot be mounted again"),
    "root": ("unshare(NEWNS); os.mkdir('root'); os.chroot('root')",
             "has a root directory that is not its mount namespace's"),
}
MEMORY = {
    "segment": ("""
        segment = call(libc.shmget(0, 4096, 0o1600))
        call(libc.shmat(segment, None, 0))
        unshare(NEWIPC)
        """, r"maps System V shared memory \d+ at \w+, which is not of its IPC namespace"),
    "segment-below": ("""
        def work():
            unshare(NEWIPC)
            call(libc.shmget(1, 4096, 0o1600))
        child(work)
        """, r"1 System V shared memory segments lie in an ipc namespace"),
}
FILES = {
    "no-other-name": ("""
        shell("mkdir lower upper work merged")
        shell("mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged")
        shell("mkdir merged/sub; echo x > merged/a; ln merged/a merged/sub/b")
        file = open("merged/a")
        os.unlink("merged/a")
        """, "was removed, and no other name of the file was found"),
    "watched": ("""
        file = open("gone", "w+")
        watch = call(libc.fanotify_init(0, 0))
        call(libc.fanotify_mark(watch, 1, ctypes.c_ulong(8), -100, b"gone"))
        os.unlink("gone")
        """, "it watches a deleted file"),
    "link": ("link = os.open('/proc/self/exe', os.O_PATH | os.O_NOFOLLOW)", "has no path to be opened again by"),
    "frames": ("""
        shell("test -e /sys/kernel/tracing/trace || mount -t tracefs none /sys/kernel/tracing")
        raw = os.open("/sys/kernel/tracing/per_cpu/cpu0/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
        libc.mmap.restype = ctypes.c_void_p
        call(libc.mmap(None, ctypes.c_size_t(4096), 1, 1, raw, ctypes.c_long(0)))
        os.close(raw)
        """, r"pid \d+ maps device memory at"),
}
SOCKETS = {
    "place": ("""
        os.mkdir("sub")
        os.chdir("sub")
        s = socket.socket(socket.AF_UNIX)
        s.bind("name")
        s.listen()
        os.chdir("..")
        os.mkdir("other")
        os.rename("sub/name", "other/else")
        """, "a unix socket named 'name', whose directory is not known"),
    "root": ("""
        def work():
            os.mkdir("root")
            os.chroot("root")
            s = socket.socket(socket.AF_UNIX)
            s.bind("/name")
            s.listen()
            globals()["kept"] = s
        child(work)
        """, r"a unix socket named '/name' in another root directory"),
    "error": ("""
        a = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        a.bind(b"\\0error")
        a.listen()
        b = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        b.connect(b"\\0error")
        c = a.accept()[0]
        b.send(b"one")
        c.send(b"unread")
        c.close()
        """, "messages wait behind an error in a unix socket"),
    "rights-and-byte": ("""
        a, b = socket.socketpair()
        socket.send_fds(a, [b"x"], [0])
        a.send(b"!", socket.MSG_OOB)
        """, "out-of-band data waits beside descriptors or credentials"),
    "ring-read-only": ("""
        s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        s.setsockopt(263, 5, struct.pack("IIII", 4096, 2, 2048, 4))
        m = mmap.mmap(s.fileno(), 8192, mmap.MAP_SHARED, mmap.PROT_READ)
        """, "it is of another socket, or only to be read"),
    "ring-part": ("""
        s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        s.setsockopt(263, 5, struct.pack("IIII", 4096, 2, 2048, 4))
        libc.mmap.restype = ctypes.c_void_p
        at = libc.mmap(None, ctypes.c_size_t(8192), 3, 1, s.fileno(), ctypes.c_long(0))
        call(libc.munmap(ctypes.c_void_p(at + 4096), ctypes.c_size_t(4096)))
        """, "a part of it"),
    "ring-closed": ("""
        s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        s.setsockopt(263, 5, struct.pack("IIII", 4096, 2, 2048, 4))
        libc.mmap.restype = ctypes.c_void_p
        call(libc.mmap(None, ctypes.c_size_t(8192), 3, 1, s.fileno(), ctypes.c_long(0)))
        s.close()
        """, "no descriptor of the tree has it any more"),
    "peek": ("""
        a = socket.socket()
        a.bind(("127.0.0.1", 0))
        a.listen()
        b = socket.create_connection(a.getsockname())
        c = a.accept()[0]
        c.send(b"unread")
        time.sleep(0.1)
        b.setsockopt(socket.SOL_SOCKET, 42, 0)
        b.send(b"lost")
        time.sleep(0.1)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
        time.sleep(0.1)
        """, "a closed TCP socket that is read with SO_PEEK_OFF"),
}
TUNNEL = """
    device = "ferry-obst"
    tunnel = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tunnel, 0x400454ca, struct.pack("16sH22x", device.encode(), 0x1002))
    shell(f"ip addr add 10.9.9.1/24 dev {device}; ip link set {device} up")
    """
TUNNELS = {
    "stacked": (TUNNEL + "shell(f'ip link add link {device} name above type macvlan')",
                "'ferry-obst' has other network devices on top of it"),
    "several": (TUNNEL + "shell(f'ip route add 10.99.0.0/16 nexthop via 10.9.9.2 dev {device} nexthop dev lo')",
                "'ferry-obst' has a part in routes over several devices"),
    "program": (TUNNEL + """
    code = ctypes.create_string_buffer(struct.pack("BBhiBBhi", 0xb7, 0, 0, 2, 0x95, 0, 0, 0))
    words = ctypes.create_string_buffer(b"GPL")
    load = ctypes.create_string_buffer(struct.pack("IIQQ", 6, 2, ctypes.addressof(code), ctypes.addressof(words)), 120)
    program = call(libc.syscall(321, 5, load, 120))
    inner = struct.pack("HHI", 8, 1, program)
    body = struct.pack("BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0) + struct.pack("HH", 4 + len(inner), 0x8000 | 43) + inner
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    link.send(struct.pack("IHHII", 16 + len(body), 19, 5, 1, 0) + body)
    assert struct.unpack_from("i", link.recv(1000), 16)[0] == 0
    link.close()
    os.close(program)
    """, r"'ferry-obst' has a program \(XDP\)"),
}
TUNNELS["gone"] = (TUNNEL + """
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    os.close(tunnel)
    """, "a socket is bound to a network device that is gone")
TERMINALS = {
    "status": ("""
        master, slave = os.openpty()
        fcntl.ioctl(master, 0x5420, struct.pack("i", 1))
        termios.tcflush(slave, termios.TCIFLUSH)
        """, "has a status byte of packet mode that was not read"),
    "console": ("""
        console = os.open("/dev/tty63", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(console, termios.TIOCSCTTY, 0)
        terminal = os.open("/dev/tty", os.O_RDWR)
        os.close(console)
        """, "is no pseudo terminal"),
    "elsewhere": ("""
        os.mkdir("pts")
        shell("mount -t devpts -o newinstance,ptmxmode=666 none pts")
        master = os.open("pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))
        slave = os.open("pts/0", os.O_RDWR | os.O_NOCTTY)
        shell("umount -l pts")
        """, "has a path that cannot be followed"),
    "hidden": ("""
        os.mkdir("below")
        shell("mount -t devpts -o newinstance,ptmxmode=666 none below")
        master = os.open("below/ptmx", os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))
        slave = os.open("below/0", os.O_RDWR | os.O_NOCTTY)
        shell("mount -t tmpfs none below")
        """, "is of a devpts mount that is not at its path"),
}


def register(name, table):
    """One test for each table."""

    def run():
        problems = []
        for word, (source, text) in table.items():
            try:
                tried(source, text)
            except AssertionError as error:
                problems.append(f"{word}: " + str(error).split("ferry: hint")[0].strip())
        print(*problems, sep="\n")
        assert not problems, f"{len(problems)} of {len(table)}"

    test(name=name, timeout=120)(run)


if os.environ.get("FERRY"):
    register("tasks", TASKS)
    register("traced", TRACED)
    register("mounts", MOUNTS)
    register("memory", MEMORY)
    register("sockets", SOCKETS)
    register("terminals", TERMINALS)
    register("tunnels", TUNNELS)
    register("files", FILES)

    @test(timeout=60)
    def zombie():
        """What has ended and nobody waited for."""
        process = start("""
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            open("subject", "w").write(str(pid))
            """)
        pid = int(pathlib.Path("subject").read_text())
        refuse(pid, rf"pid {pid} \(python3\) is a zombie")
        assert status(pid)["State"].startswith("Z")
        end(process)

    @test(timeout=60)
    def stopped_dispatch():
        """Stopped, with system calls that may come as signals: it is left so."""
        process = start("dispatch()")
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: status(process.pid)["State"].startswith("T"), "it does not stop", 10)
        refuse(process.pid, r"is stopped, and has its system calls dispatched to itself")
        assert status(process.pid)["State"].startswith("T")
        end(process)

    @test(timeout=60)
    def clients_outside():
        """Connections from outside that wait to be accepted, a client that waits outside, a sender outside, and what a
        descriptor outside alone leads to."""
        with socket.socket(socket.AF_UNIX) as waiting, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            process = start("""
                a = socket.socket(socket.AF_UNIX)
                a.bind("listener")
                a.listen()
                b = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                b.bind("datagrams")
                """)
            waiting.connect("listener")
            refuse(process.pid, "wait to be accepted, one of them from outside of the tree")
            waiting.close()
            refuse(process.pid, "wait to be accepted, one of them closed by its client")
            end(process)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            process = start("""
                b = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                b.bind("place")
                """)
            sender.connect("place")
            refuse(process.pid, r"a unix socket that is the peer of .*which is outside of the tree")
            end(process)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("outside")
            listener.listen()
            process = start("""
                a = socket.socket(socket.AF_UNIX)
                a.connect("outside")
                """)
            refuse(process.pid, r"a unix socket that waits to be accepted by .*which is outside of the tree")
            accepted = listener.accept()[0]
            accepted.send(b"x")
            number = os.stat(f"/proc/{process.pid}/fd/3").st_ino
            refuse(process.pid, "with a peer outside of the tree, and data that wait", "--external", f"unix[{number}]")
            end(process)
            process = start("""
                unshare(NEWNET)
                a = socket.socket(socket.AF_UNIX)
                a.connect("outside")
                a.send(b"x")
                """)
            refuse(process.pid, "a unix socket that waits to be accepted by somebody in another network namespace")
            with listener.accept()[0] as accepted:
                assert accepted.recv(2) == b"x"
                refuse(process.pid, r"a unix socket connected to .*, which is outside of the tree")
            end(process)

    @test(timeout=60)
    def chooser_outside():
        """A socket of the test on a port whose sockets a program chooses among."""
        process = start("""
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            s.bind(("127.0.0.1", 0))
            code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
            s.setsockopt(socket.SOL_SOCKET, 51, struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))
            open("port", "w").write(str(s.getsockname()[1]))
            """)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", int(pathlib.Path("port").read_text())))
            refuse(process.pid, "a program chooses, and some are outside of the tree")
        end(process)

    @test(timeout=60)
    def from_a_namespace():
        """A pidfd of a process that ferry has no number for."""
        script = textwrap.dedent(f"""
            import os, subprocess, sys, time
            words = {[sys.executable, "-c", BEGIN + END]!r}
            fd = int(sys.argv[1])
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       start_new_session=True, pass_fds=[fd])
            os.close(fd)
            while not os.path.exists("ready"):
                time.sleep(0.01)
            sys.exit(subprocess.run([os.environ["FERRY"], "dump", "-t", str(process.pid), "-D", "images"]).returncode)
            """)
        pathlib.Path("ready").unlink(missing_ok=True)
        own = os.pidfd_open(os.getpid())
        done = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script, str(own)], check=False,
                              capture_output=True, text=True, pass_fds=[own])
        note_refusal(done)
        assert done.returncode == REFUSED and "a pidfd of a process of another PID namespace" in done.stderr, done
        os.close(own)

    @test(timeout=60)
    def old_tracee():
        """A tracee of 32-bit code."""
        try:
            tracee = old.start_program(pathlib.Path("old-program"))
        except OSError:
            skip("neither compiler nor kernel need have programs of 32 bits")
        tracee.kill()
        tracee.wait()
        path = pathlib.Path("old-program").absolute()
        process = start(f"""
            pid = os.fork()
            if not pid:
                os.execv({str(path)!r}, ["old"])
            while "[vdso]" not in open(f"/proc/{{pid}}/maps").read():
                time.sleep(0.01)
            seize(pid)
            """)
        refuse(process.pid, r"which thread \d+ traces, executes 32-bit code")
        end(process)

    @test(timeout=60)
    def watched_outside():
        """An epoll instance that watches what only a process outside has any more."""
        process = start("""
            event = os.eventfd(0)
            watch = select.epoll()
            watch.register(event, select.EPOLLIN)
            open("event", "w").write(str(event))
            signal.signal(signal.SIGUSR1, lambda *_: os.close(event) or open("closed", "w").close())
            """)
        held = os.pidfd_open(process.pid)
        copy = ctypes.CDLL(None).syscall(438, held, int(pathlib.Path("event").read_text()), 0)
        assert copy >= 0
        os.kill(process.pid, signal.SIGUSR1)
        wait_until(pathlib.Path("closed").exists, "it does not close it", 10)
        refuse(process.pid, r"the epoll instance watches what was added as fd \d+ and no task of the tree has open")
        os.close(copy)
        os.close(held)
        end(process)

    @test(timeout=60)
    def above():
        """A namespace that belongs to a user namespace above ferry's."""
        words = ["unshare", "--user", "--map-root-user", "sleep", "1000"]
        room = subprocess.Popen(words)  # pylint: disable=consider-using-with
        wait_until(lambda: os.readlink(f"/proc/{room.pid}/ns/user") != os.readlink("/proc/self/ns/user"), "no namespace", 10)
        wait_until(lambda: pathlib.Path(f"/proc/{room.pid}/uid_map").read_text().strip(), "no user in it", 10)
        process = start(f"unshare(NEWUTS); call(libc.setns(os.open('/proc/{room.pid}/ns/user', os.O_RDONLY), 0))")
        done = subprocess.run(["nsenter", "-t", str(room.pid), "--user", "--preserve-credentials", os.environ["FERRY"], "dump", "-t",
                               str(process.pid), "-D", str(IMAGES)], check=False, capture_output=True, text=True)
        note_refusal(done)
        assert done.returncode == REFUSED and "a user namespace above ferry's" in done.stderr, done
        assert not IMAGES.exists() and is_alive(process.pid)
        end(process)
        room.kill()
        room.wait()

    @test(timeout=60)
    def no_archiver():
        """A tmpfs with files where there is no tar(1)."""
        archivers = {os.path.realpath(path) for path in ("/bin/tar", "/usr/bin/tar")}
        pathlib.Path("nothing").write_text("")
        pathlib.Path("nothing").chmod(0o600)
        for path in archivers:
            subprocess.run(["mount", "--bind", "nothing", path], check=True)
        process = start("unshare(NEWNS); shell('mkdir own; mount -t tmpfs none own; echo x > own/file')")
        refuse(process.pid, r"has contents, and there is no tar\(1\) to store them")
        subprocess.run(["umount", *archivers], check=True)
        end(process)


if __name__ == "__main__":
    main()
