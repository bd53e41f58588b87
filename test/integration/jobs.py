#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Long jobs: started so that they can move, attached to, saved, restored, stopped; by root and by an ordinary user; and
whatever instant ferry is killed at, there is the running job or one image of it that restores."""

import fcntl
import hashlib
import json
import os
import pathlib
import pty
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time

from ferrytest import Ferry, main, test
from ferrytest.jobs import NOBODY, COUNTER, Jobs
from ferrytest.process import children, stat_fields, status, wait_until
from ferrytest.software.postgresql import programs

class Attached:
    """A terminal of ours, with "ferry attach" in it."""

    def __init__(self, jobs, name, *words, size=(33, 97)):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = ""
        command = [*jobs.prefix, Ferry().path, "attach", "--state-dir", str(jobs.folder), *words, name]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        wait_until(lambda: termios.tcgetattr(slave) != self.before, "the terminal is not made raw")

    def resize(self, rows, columns):
        """The window changes; a session leader of a terminal would be told by the kernel."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def read(self):
        """What is there."""
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 4096).decode(errors="replace")
        return self.text

    def see(self, wanted):
        """Wait for a text, and forget all up to it."""
        try:
            wait_until(lambda: wanted in self.read(), f"no {wanted!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.text!r}") from None
        before, _, self.text = self.text.partition(wanted)
        return before

    def type(self, text):
        """Keys."""
        os.write(self.master, text.encode())

    def ends(self, status=0):
        """It ends, with this status, and leaves the terminal as it was."""
        try:
            # What it prints has to be read, or it would wait for us.
            wait_until(lambda: self.read() is not None and self.process.poll() is not None, "attach does not end")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.text!r}") from None
        assert self.process.returncode == status, (self.process.returncode, self.read())
        assert termios.tcgetattr(self.slave) == self.before
        text = self.read()
        os.close(self.slave)
        os.close(self.master)
        return text


SHELL = ["env", "PS1=ready> ", "HISTFILE=", "bash", "--norc", "--noprofile", "-i"]


def in_a_terminal(user):
    """A shell in a terminal of its own: attached to, saved and restored twice, jobs, size and typed lines are kept."""
    jobs = Jobs(user)
    jobs.good("run", "--tty", "--name", "shell", "--", *SHELL)
    shell = Attached(jobs, "shell")
    shell.type("sleep 1000 & x=$((6 * 7)); cat\n")
    shell.see("[1] ")
    shell.type("hello\n")
    shell.see("hello\r\nhello\r\n")
    for number in (1, 2):
        shell.type("\x10\x11")
        assert "runs on" in shell.ends()
        jobs.good("save", "shell")
        assert jobs.run("attach", "shell").returncode == 2
        jobs.good("restore", "shell")
        pid = jobs.list()["shell"]["pid"]
        assert os.readlink(f"/proc/{pid}/fd/3").endswith("/ptmx")
        size = (33 + number, 97 + number)
        shell = Attached(jobs, "shell", size=size)
        # cat is in the foreground, and ends; the shell has its job, its variable and its terminal.
        shell.type(f"round {number}\n")
        shell.see(f"round {number}\r\nround {number}\r\n")
        shell.type("\x03")
        shell.see("ready> ")
        shell.type("stty size; jobs; tty; echo x is $x; cat\n")
        shell.see(f"{size[0]} {size[1]}\r\n")
        assert "Running" in shell.see("sleep 1000")
        shell.see("/dev/pts/0\r\n")
        shell.see("x is 42\r\n")
        shell.type("here\n")  # so that it is cat that takes what comes
        shell.see("here\r\nhere\r\n")
    shell.resize(20, 70)
    shell.type("\x03")
    shell.see("ready> ")
    shell.type("stty size\n")
    shell.see("20 70\r\n")
    shell.see("ready> ")
    shell.type("kill %1; exit 5\n")
    assert "has ended" in shell.ends(5)
    assert jobs.list()["shell"]["status"] == 5
    jobs.good("rm", "shell")


def typed_ahead(user):
    """What was typed and nobody has read yet is there after each round: whole lines, a line being typed, an end of file."""
    jobs = Jobs(user)
    go = jobs.folder / "go"
    jobs.good("run", "--tty", "--name", "reader", "--", "sh", "-c", 'while ! test -e "$0"; do sleep 0.05; done; '
              "while read line; do echo got $line; done; read line; echo then $line; read line", str(go))
    typed = Attached(jobs, "reader")
    typed.type("one\ntwo\n\x04thr")
    typed.see("thr")
    typed.type("\x10\x11")
    typed.ends()
    for _ in (1, 2):
        jobs.good("save", "reader")
        jobs.good("restore", "reader")
    typed = Attached(jobs, "reader")
    go.touch()
    typed.see("got one\r\ngot two\r\n")
    typed.type("ee\n")
    typed.see("then three\r\n")
    typed.process.terminate()
    typed.ends()
    jobs.good("stop", "reader")


# Memory by checksum, a listener that takes connections, a terminal pair of its own; told of by a line each time it is asked.
HOLDER = r"""
import hashlib, os, pty, random, select, socket, sys
memory = bytearray(random.Random(7).randbytes(3 << 20))
master, slave = pty.openpty()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    peer, _ = listener.accept()
    word = peer.recv(100)
    os.write(master, word + b"\n")
    line = os.read(slave, 100).decode().strip()
    peer.sendall(f"{hashlib.sha256(memory).hexdigest()} {line} {os.ttyname(slave)} {os.getuid()} {os.getpid()}".encode())
    memory[0] ^= 0xff
    peer.close()
"""


def holds(user):
    """Twice: contents of memory, a listener under its port, a pair of terminals, all of an ordinary user."""
    expected = bytearray(random.Random(7).randbytes(3 << 20))
    jobs = Jobs(user)
    jobs.start("holder", "python3", "-u", "-c", HOLDER)
    wait_until(lambda: jobs.log("holder"), "it does not start")
    port = int(jobs.log("holder")[0])
    for number in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
            peer.sendall(b"word%d" % number)
            told = peer.recv(1000).decode().split()
        checksum = hashlib.sha256(expected).hexdigest()
        assert told == [checksum, f"word{number}", "/dev/pts/0", str(user), "2"], told
        expected[0] ^= 0xff
        # The peer of a connection that has just ended may linger on its side.
        if number < 2:
            wait_until(lambda: jobs.run("save", "holder").returncode == 0, "it cannot be saved")
            jobs.good("restore", "holder")
    jobs.good("stop", "holder")


if os.environ.get("FERRY"):
    test(name="terminal", timeout=120)(lambda: in_a_terminal(None))
    test(name="terminal_user", timeout=120)(lambda: in_a_terminal(NOBODY))
    test(name="typed_ahead", timeout=60)(lambda: typed_ahead(None))
    test(name="typed_ahead_user", timeout=60)(lambda: typed_ahead(NOBODY))
    test(name="holds_user", timeout=60)(lambda: holds(NOBODY))

    @test(timeout=60)
    def refused_user():
        """What takes root is refused before anything stops, by name; the job runs on."""
        jobs = Jobs(NOBODY)
        for name, program, said in (
                ("memory", "import mmap, os, tempfile, time\nf = tempfile.TemporaryFile()\nf.write(b'x' * 4096)\nf.flush()\n"
                 "m = mmap.mmap(f.fileno(), 4096, mmap.MAP_PRIVATE)\nm[0] = 65\nos.closerange(3, 64)\n"
                 "while True: print('on', flush=True); time.sleep(.05)",
                 "has no file that can be opened, which needs root"),
                ("part", "import ctypes, mmap, time\nm = mmap.mmap(-1, 12288)\n"
                 "at = ctypes.addressof(ctypes.c_char.from_buffer(m)) + 4096\n"
                 "assert not ctypes.CDLL(None).munmap(ctypes.c_void_p(at), 4096)\n"
                 "while True: print('on', flush=True); time.sleep(.05)",
                 "are mapped nowhere any more, and only root can read them")):
            jobs.start(name, "python3", "-c", program)
            wait_until(lambda name=name: jobs.log(name), "it does not start")
            time.sleep(0.2)
            done = jobs.run("save", name)
            assert done.returncode == 3 and "[permission]" in done.stderr and said in done.stderr, done
            stands = len(jobs.log(name))
            wait_until(lambda name=name, stands=stands: len(jobs.log(name)) > stands, "it does not go on")
            assert jobs.state(name) == "running" and not list(jobs.folder.glob(f"{name}/image-*"))
            jobs.good("stop", name)

    def lost(user):
        """Killed from outside: it is lost, which is said, and can be run on from its image or given up; never by itself."""
        jobs = Jobs(user)
        jobs.start("counter", *COUNTER)
        jobs.moves_on()
        jobs.good("save", "counter")
        saved_at = jobs.counted()
        jobs.good("restore", "counter")
        jobs.moves_on()
        os.kill(jobs.list()["counter"]["pid"], signal.SIGKILL)
        wait_until(lambda: jobs.state() == "lost", "it is not lost")
        assert jobs.list()["counter"]["image"].endswith("/image-1") and jobs.list()["counter"]["status"] is None
        lines = jobs.log()
        for words, said in ((["restore", "counter"], "ferry restore --again --files=as-found counter"), (["rm", "counter"], "--force"),
                            (["save", "counter"], "is lost"), (["stop", "counter"], "is lost"), (["attach", "counter"], "is lost")):
            done = jobs.run(*words)
            assert done.returncode and said in done.stderr, done
        jobs.good("restore", "--all")
        jobs.good("save", "--all")
        assert jobs.state() == "lost" and jobs.log() == lines
        done = jobs.run("restore", "--again", "counter")
        assert done.returncode == 3 and "[files-changed]" in done.stderr and jobs.state() == "lost", done
        jobs.good("restore", "--again", "--files=as-found", "counter")
        assert jobs.state() == "running"
        wait_until(lambda: len(jobs.log()) > len(lines) + 2, "it does not go on")
        again = jobs.log()[len(lines):]
        assert again == [str(saved_at + 1 + n) for n in range(len(again))], (saved_at, again)
        jobs.good("stop", "counter")
        assert jobs.state() == "ended" and jobs.list()["counter"]["status"] is not None
        # One that never had an image has nothing to be run on from.
        os.kill(jobs.start("young", *COUNTER), signal.SIGKILL)
        wait_until(lambda: jobs.state("young") == "lost", "it is not lost")
        assert jobs.run("restore", "--again", "young").returncode == 2
        jobs.good("rm", "young")
        jobs.good("rm", "counter")
        assert not list(jobs.folder.iterdir())

    test(name="lost", timeout=60)(lambda: lost(None))
    test(name="lost_user", timeout=60)(lambda: lost(NOBODY))

    @test(timeout=60)
    def not_restorable():
        """A saved job whose image does not fit the machine any more stays saved, and what is said leads on."""
        jobs = Jobs()
        file = pathlib.Path(tempfile.mkdtemp()) / "written"
        for name in ("writer", "damaged"):
            jobs.start(name, "sh", "-c", 'exec 5>>"$0"; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done', str(file))
        wait_until(lambda: jobs.log("writer") and jobs.log("damaged"), "they do not start")
        jobs.good("save", "--all")
        file.write_text("by somebody else")
        done = jobs.run("restore", "writer")
        assert done.returncode == 3 and "[files-changed]" in done.stderr and "--files=as-found" in done.stderr, done
        assert jobs.state("writer") == "saved" and not jobs.list()["writer"]["pid"]
        pages = max((jobs.folder / "damaged/image-1").glob("pages-*.img"), key=lambda path: path.stat().st_size)
        pages.write_bytes(pages.read_bytes()[:-4096])
        done = jobs.run("restore", "--files=as-found", "damaged")
        assert done.returncode and "ferry rm --force damaged" in done.stderr, done
        assert jobs.state("damaged") == "saved"
        done = jobs.run("restore", "--all", "--json", "--files", "as-found")
        told = {job["name"]: job["state"] for job in json.loads(done.stdout)}
        assert done.returncode and told == {"writer": "running", "damaged": "saved"}, done
        stands = len(jobs.log("writer"))
        wait_until(lambda: len(jobs.log("writer")) > stands, "it does not go on")
        jobs.good("rm", "--force", "damaged")
        jobs.good("stop", "writer")

    @test(timeout=60)
    def zombie_refused():
        """How a zombie of another user's has ended is told to root only: an ordinary user is told before anything stops."""
        jobs = Jobs(NOBODY)
        ends = jobs.folder / "ends"
        shutil.copy("/bin/true", ends)
        ends.chmod(0o4755)
        # sleep waits for no child.
        program = f"{ends} & exec sleep 1000"
        with subprocess.Popen([*jobs.prefix, "sh", "-c", program], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as parent:
            child = wait_until(lambda: children(parent.pid), "no child")[0]
            wait_until(lambda: stat_fields(f"/proc/{child}/stat")[0] == "Z", "no zombie")
            assert status(child)["Uid"].split()[1] == "0", "a file system without set-user-id"
            done = subprocess.run([*jobs.prefix, Ferry().path, "check", "--tree", str(parent.pid)], check=False, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert done.returncode == 3 and f"permission: how pid {child}, a zombie, has ended" in done.stdout, done
            assert "hint: try again when its parent has waited for it" in done.stdout, done
            images = jobs.folder / "images"
            images.mkdir(mode=0o777)
            os.chown(images, NOBODY, NOBODY)
            done = subprocess.run([*jobs.prefix, Ferry().path, "dump", "--tree", str(parent.pid), "-D", str(images)], check=False,
                                  text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            assert done.returncode == 3 and "[permission]" in done.stderr and not list(images.iterdir()), done
            assert status(parent.pid)["TracerPid"] == "0" and status(parent.pid)["State"].startswith("S")
            parent.kill()

    @test(timeout=120)
    def postgresql_user():
        """A database server of an ordinary user: shared anonymous memory of many processes, System V shared memory."""
        jobs, place = Jobs(NOBODY), programs()
        data = jobs.folder.parent / "data"
        data.mkdir(mode=0o700)
        os.chown(data, NOBODY, NOBODY)
        done = subprocess.run([*jobs.prefix, place / "initdb", "-D", data, "-U", "me", "-A", "trust", "--no-sync", "--locale=C"],
                              check=False, text=True, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done
        jobs.start("server", str(place / "postgres"), "-D", str(data), "-k", str(data), "-c", "listen_addresses=", "-c", "fsync=off",
                   "-c", "huge_pages=off")

        def ask(sql):
            return subprocess.run([*jobs.prefix, place / "psql", "-h", data, "-U", "me", "-d", "postgres", "-Atc", sql], check=False,
                                  text=True, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.strip()

        wait_until(lambda: ask("SELECT 1") == "1", "it does not answer", 60)
        ask("CREATE TABLE mine AS SELECT n, md5(n::text) text FROM generate_series(1, 20000) n")
        summary = "SELECT md5(string_agg(text, '' ORDER BY n)) FROM mine WHERE n > 0"
        before = ask(summary), ask("SELECT pg_postmaster_start_time()")
        for number in (1, 2):
            # Its clients' processes may still be ending.
            wait_until(lambda: jobs.run("save", "server").returncode == 0, "it cannot be saved", 30)
            jobs.good("restore", "server")
            assert (ask(summary), ask("SELECT pg_postmaster_start_time()")) == before
            assert ask(f"INSERT INTO mine VALUES ({-number}, '')") == "INSERT 0 1"
        assert ask("SELECT count(*) FROM mine") == "20002" and ask("CHECKPOINT") == "CHECKPOINT"
        jobs.good("stop", "server")
        assert jobs.list()["server"]["status"] == 0, jobs.log("server")[-3:]

    @test(timeout=60)
    def attached():
        """Two at once; a save tells both; what is typed meanwhile is not lost; keys of one's own; a job without a terminal."""
        jobs = Jobs()
        jobs.good("run", "-t", "--name", "cat", "--", "cat")
        one, two = Attached(jobs, "cat"), Attached(jobs, "cat", "--detach-keys", "ctrl-],q")
        time.sleep(0.2)
        one.type("together\n")
        for each in (one, two):
            each.see("together\r\ntogether\r\n")
        # The beginning of the keys is typed on when no keys follow.
        two.type("\x1dx\n")
        two.see("^]x\r\n")
        jobs.good("save", "cat")
        for each in (one, two):
            assert "was saved" in each.ends()
        jobs.good("restore", "cat")
        two = Attached(jobs, "cat", "--detach-keys", "ctrl-],q")
        two.type("\x1dq")
        assert "runs on" in two.ends()
        assert jobs.run("attach", "--detach-keys", "ctrl", "cat").returncode == 2
        done = subprocess.run([Ferry().path, "attach", "--state-dir", str(jobs.folder), "cat"], input="piped\n\x04", text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=30)
        assert done.returncode == 0 and "piped\npiped\n" in done.stdout and "has ended" in done.stderr, done
        jobs.start("plain", "sh", "-c", "sleep 0.5; echo said; exit 3")
        done = jobs.run("attach", "plain")
        assert done.returncode == 3 and done.stdout == "said\n", done

    @test(timeout=120)
    def rounds():
        """As root."""
        Jobs().rounds()

    @test(timeout=120)
    def ordinary_user():
        """As nobody, in a user namespace."""
        Jobs(NOBODY).rounds()

    @test(timeout=60)
    def ready_to_move():
        """Nothing ties a job to where it was started."""
        jobs = Jobs()
        pid = jobs.start("counter", *COUNTER)
        for name in ("pid", "mnt"):
            assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[3]) == pid and fields[4] == "0", "session, terminal"
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)]
        assert links == ["/dev/null", str(jobs.folder / "counter/log"), str(jobs.folder / "counter/log")], links
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        # Its own ps sees it alone.
        inside = subprocess.run(["nsenter", "-t", str(pid), "-p", "-m", "ls", "/proc"], check=True, text=True,
                                stdout=subprocess.PIPE).stdout.split()
        assert "1" in inside and str(pid) not in inside or pid < 10
        check = Ferry().run("check", "--tree", pid)
        assert check.returncode == 0, check
        jobs.good("stop", "counter")

    @test(timeout=60)
    def ends():
        """Exit status of the command; orphans are reaped; the job lasts as long as anybody is there."""
        jobs = Jobs()
        jobs.start("seven", "sh", "-c", "sh -c 'sleep 0.3; echo late' & exit 7")
        wait_until(lambda: jobs.state("seven") == "ended", "the job does not end")
        assert jobs.list()["seven"]["status"] == 7, jobs.list()
        assert jobs.log("seven") == ["late"]
        jobs.start("missing", "/bin/sh", "-c", "exec /nowhere")
        wait_until(lambda: jobs.state("missing") == "ended", "the job does not end")
        assert jobs.list()["missing"]["status"] == 127
        done = jobs.run("run", "no-such-command-anywhere")
        assert done.returncode == 2 and "no command" in done.stderr, done
        assert set(jobs.list()) == {"seven", "missing"}

    @test(timeout=60)
    def stop_hands_on():
        """SIGTERM reaches the command; a deaf one is killed."""
        jobs = Jobs()
        jobs.start("polite", "sh", "-c", "trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done")
        jobs.start("deaf", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
        time.sleep(0.2)
        jobs.good("stop", "polite")
        assert jobs.log("polite") == ["bye"] and jobs.list()["polite"]["status"] == 3
        jobs.good("stop", "--timeout", "1", "deaf")
        assert jobs.state("deaf") == "ended"

    @test(timeout=60)
    def names():
        """One job of a name; the others get numbers. Names are checked."""
        jobs = Jobs()
        jobs.start("one", "sleep", "100")
        assert jobs.run("run", "--name", "one", "sleep", "100").returncode == 2
        assert jobs.run("run", "--name", "../one", "sleep", "100").returncode == 2
        for name in ("sleep", "sleep-2"):
            assert json.loads(jobs.good("run", "--json", "sleep", "100"))["name"] == name
        for verb in ("save", "logs", "stop", "rm", "restore"):
            done = jobs.run(verb, "nobody")
            assert done.returncode == 2 and "[no-such-job]" in done.stderr, done
        for name in ("one", "sleep", "sleep-2"):
            jobs.good("stop", name)

    @test(timeout=60)
    def wrong_state():
        """What a job's state does not allow is refused and changes nothing."""
        jobs = Jobs()
        jobs.start("counter", *COUNTER)
        for words in (["restore", "counter"], ["rm", "counter"], ["rm", "--force", "counter"]):
            assert jobs.run(*words).returncode == 2, words
        jobs.moves_on()
        jobs.good("save", "counter")
        for words in (["save", "counter"], ["stop", "counter"], ["rm", "counter"]):
            assert jobs.run(*words).returncode == 2, words
        assert jobs.state() == "saved"
        jobs.good("rm", "--force", "counter")

    @test(timeout=120)
    def all_of_them():
        """save --all: one that cannot be saved is reported and runs on, the others are saved; restore --all."""
        jobs = Jobs()
        jobs.start("first", *COUNTER)
        time.sleep(1.1)
        # It is connected to us, whom no image could bring back.
        outside = socket.socket(socket.AF_UNIX)
        outside.bind(str(jobs.folder.parent / "outside"))
        outside.listen()
        jobs.start("stuck", "python3", "-c", "import socket, sys, time\ns = socket.socket(socket.AF_UNIX)\n"
                   "s.connect(sys.argv[1])\nwhile True: time.sleep(1)", str(jobs.folder.parent / "outside"))
        peer = outside.accept()
        time.sleep(1.1)
        jobs.start("last", *COUNTER)
        time.sleep(0.5)
        done = jobs.run("save", "--all", "--json")
        assert done.returncode == 3, done
        told = {job["name"]: job for job in json.loads(done.stdout)}
        assert list(told) == ["first", "stuck", "last"], "the oldest first"
        assert told["stuck"]["error"] == "outside-peer" and told["stuck"]["state"] == "running", told
        assert told["first"]["error"] is None and told["last"]["error"] is None
        assert {name: job["state"] for name, job in jobs.list().items()} == {
            "first": "saved", "stuck": "running", "last": "saved"}
        jobs.good("restore", "--all")
        jobs.moves_on("first")
        jobs.moves_on("last")
        for name in ("first", "stuck", "last"):
            jobs.good("stop", name)
        assert not peer[0].recv(1)

    @test(timeout=60)
    def older_image_stays():
        """A failed save leaves the job running and touches no image that is there."""
        jobs = Jobs()
        jobs.start("counter", *COUNTER)
        jobs.good("save", "counter")
        jobs.good("restore", "counter")
        before = sorted(path.name for path in (jobs.folder / "counter/image-1").iterdir())
        for fault in ("image-write", "image-sync", "read-back", "pages-read"):
            done = jobs.run("save", "counter", environment={"FERRY_FAULT": fault})
            assert done.returncode == 1 and "[fault]" in done.stderr, done
            assert jobs.state() == "running"
            images = [path.name for path in jobs.folder.glob("counter/image-*")]
            assert images == ["image-1"], images
        assert sorted(path.name for path in (jobs.folder / "counter/image-1").iterdir()) == before
        jobs.moves_on()
        jobs.good("stop", "counter")

    @test(timeout=60)
    def follow():
        """logs -f prints what comes, and ends with the job."""
        jobs = Jobs()
        jobs.start("short", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
        assert jobs.good("logs", "-f", "short") == "1\n2\n3\n"

    def killed(verb, wanted):
        """Kill ferry at each of its effects in turn: always the running job or an image that restores."""
        jobs = Jobs()
        jobs.start("counter", *COUNTER)
        for number in (*range(1, 40), *range(40, 3000, 11)):
            jobs.moves_on()
            if verb == "restore":
                jobs.good("save", "counter")
            done = jobs.run(verb, "counter", environment={"FERRY_KILL_AT": str(number),
                                                          "FERRY_KILL_VICTIM": ("self", "group")[number % 2]})
            state = wait_until(lambda: jobs.list().get("counter", {}).get("state"), "no state")
            time.sleep(0.05)
            assert state in ("running", "saved"), (number, state, done)
            if done.returncode == 0:
                break
            if jobs.state() == "saved":
                jobs.good("restore", "counter")
            jobs.moves_on()
        assert number > 3 and jobs.state() == wanted, (number, jobs.list())
        print(f"{number} effects")
        shutil.rmtree(jobs.folder / "nothing", ignore_errors=True)
        if wanted == "saved":
            jobs.good("restore", "counter")
        jobs.moves_on()
        jobs.good("stop", "counter")

    test(name="killed_save", timeout=240)(lambda: killed("save", "saved"))
    test(name="killed_restore", timeout=240)(lambda: killed("restore", "running"))

if __name__ == "__main__":
    main()
