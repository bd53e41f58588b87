#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is refused: before anything stops, by name, and with the target as if nothing had happened."""

import ctypes
import fcntl
import json
import mmap
import os
import pathlib
import re
import shutil
import subprocess
import sys
import termios
import time

from ferrytest import Ferry, main, status, test, wait_until
from ferrytest.image import decode, encode, seal
from ferrytest.leftovers import Leftovers
from ferrytest.process import is_alive
from ferrytest.program import Program, program_path
from ferrytest.redis import Server

REFUSED = 3  # exit status

IMAGES = pathlib.Path("images")

# What is said once more when the tree stands.
EARLY = ("aio_inherited",)

# PTRACE_SEIZE, and keep it.
TRACER = """
import ctypes, signal, sys
if ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None) == 0:
    signal.pause()
"""


def refuse_early(program, identifier, text):
    """Before anything stops: what looks alone says so, too."""
    done = Ferry().run("check", "-t", program.pid)
    assert done.returncode == REFUSED and text in done.stdout, done
    refuse(program, identifier, text)


def refuse(program, identifier, text, *words):
    """A dump is refused with this identifier and leaves nothing; the program goes on."""
    done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--json", *words)
    assert done.returncode == REFUSED, f"exit status {done.returncode}: {done.stderr}"
    said = json.loads(done.stdout.splitlines()[0])
    assert said["error"] == identifier, said
    assert text in said["message"], said
    assert not IMAGES.exists(), "an images directory stayed"
    program.verify()


def register(name, identifier, text, program, *arguments):
    """One test for each line of the table."""

    def run():
        running = Program(program, *arguments)
        (refuse_early if name in EARLY else refuse)(running, identifier, text)
        running.quit()

    test(name=name, timeout=60)(run)


if os.environ.get("FERRY"):
    for word, identifier, text in (
            ("poll", "unsupported-fd", "requests of the io_uring wait for events"),
            ("nommap", "unsupported-fd", "IORING_SETUP_NO_MMAP"),
            ("restricted", "unsupported-fd", "has restrictions"),
            ("provided", "unsupported-fd", "has provided buffers"),
            ("personality", "unsupported-fd", "has personalities"),
            ("thread", "unsupported-fd", "belongs to a thread other than the first"),
            ("closed", "unsupported-fd", "no descriptor of the tree has it"),
            ("eventfd", "unsupported-fd", "the tree has not exactly one"),
            ("unmapped", "unsupported-vma", "that it has no descriptor of"),
            ("twice", "unsupported-fd", "and more than one descriptor of the tree has it"),
            ("region", "unsupported-fd", "has a registered region of memory"),
            ("napi", "unsupported-fd", "polls the network (NAPI)"),
            ("gone", "unsupported-fd", "belongs to a thread that is not there any more"),
            ("two", "unsupported-task", "and its process has more than one io_uring"),
            ("part", "unsupported-vma", "that is no ring")):
        register(f"uring_{word}", identifier, text, "uring-refused", word)
    register("supervised", "unsupported-task", "asks a supervisor", "seccomp", "asking")
    register("memfd_secret", "unsupported-fd", "secret memory (memfd_secret)", "memfd-secret")
    register("memfd_secret_mapped", "unsupported-vma", "maps secret memory", "memfd-secret", "mapped")
    for word, identifier, text in (
            ("program", "unsupported-fd", "it holds a BPF program"),
            ("ring", "unsupported-fd", "a BPF map of type 27"),
            ("minor", "unsupported-vma", "is watched by a userfaultfd for minor faults"),
            ("elsewhere", "unsupported-vma", "is watched by a userfaultfd that it does not hold")):
        register(f"engines_{word}", identifier, text, "engines-refused", word)
    register("aio_inherited", "unsupported-vma", "an AIO ring that is no context of its own", "aio-events", "fork")
    for sharing, words in {
            "mate-stopped": "is stopped", "mate-traced": "is traced", "mate-traces": "traces another",
            "mate-leaderless": "has lost its first thread",
            "thread-descriptors": "has a descriptor table of its own (unshare)"}.items():
        register("sharing_" + sharing.replace("-", "_"), "unsupported-task", words, "sharing-refused", sharing)


    for word, said in (
            ("filtered", "was ended by its seccomp filter, and others run"), ("traced", "and the first one has ended"),
            ("traced-first", "and the first one has ended")):
        register("leader_" + word.replace("-", "_"), "unsupported-task", said, "leader-ended-refused", word)


    for word, said in (
            ("at-call", "is stopped at a system call"), ("at-event", "is stopped at an event (fork, exec, exit)"),
            ("at-stop", "is stopped by SIGSTOP or its kin"), ("followed", "runs from system call to system call"),
            ("seized-followed", "runs from system call to system call")):
        register("traced_" + word.replace("-", "_"), "unsupported-task", said, "traced", word)


    @test(timeout=60)
    def sharing_outside():
        """The parent, and the one that made it, have what the first of the tree has, too."""
        for word, text in (("sessions", "shares its memory with pid {parent}, which is outside the tree"),
                           ("apart", "shares its memory with pid {other}, which is outside the tree")):
            program = Program("shared-memory", word)
            children = [int(pid) for pid in pathlib.Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()]
            done = Ferry().run("check", "--tree", children[0], "--shell-job")
            wanted = text.format(parent=program.pid, other=children[1])
            assert done.returncode == REFUSED and wanted in done.stdout, done
            program.verify()
            program.quit()


    def stays(program, said):
        """It does not migrate; the receiver was asked for nothing."""
        place = pathlib.Path("receiver").absolute()
        place.mkdir()
        address = f"unix:{place}/socket"
        words = ("--journal", place / "journal")
        receiver = subprocess.Popen(  # pylint: disable=consider-using-with
            [os.environ["FERRY"], "receive", "--listen", address, *map(str, words)])
        wait_until((place / "socket").exists, "no receiver", 10)
        done = Ferry().run("migrate", "--tree", program.pid, "--to", address, *words)
        assert done.returncode == REFUSED and said in done.stderr, done.stderr
        assert receiver.poll() is None, "the receiver ended"
        program.verify()
        receiver.kill()
        receiver.wait()
        program.quit()


    @test(timeout=60)
    def traced_migration():
        """A program under a debugger does not migrate."""
        stays(Program("traced", "breakpoint"), "does not migrate [unsupported-task]")


    @test(timeout=60)
    def queue_migration():
        """Nor one whose message queue has something in it."""
        stays(Program("message-queue"), "has messages in it, which the kernel shows to nobody")


    @test(timeout=60)
    def uring_far():
        """An io_uring that has taken more requests than a restore may repeat."""
        program = Program("uring-refused", "far")
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--io-uring-max-replay", "99")
        assert done.returncode == REFUSED and "[limit]" in done.stderr and "has taken 100" in done.stderr, done.stderr
        program.verify()
        program.quit()


    @test(timeout=60)
    def no_such_task():
        """A PID that nobody has."""
        done = Ferry().run("dump", "-t", 29999, "-D", IMAGES)
        assert done.returncode == REFUSED and "[no-such-task]" in done.stderr, done.stderr


    @test(timeout=60)
    def pipe_held_outside():
        """A pipe that a process outside of the tree holds, too; once it lets go the dump succeeds."""
        program = Program("pipe-descriptions")
        held = os.open(f"/proc/{program.pid}/fd/10", os.O_RDONLY | os.O_CLOEXEC)
        refuse(program, "outside-peer", f"is also held by fd {held} of pid {os.getpid()} (")
        os.close(held)
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        program.verify()
        program.quit()


    register("pidfd_of_outside", "outside-peer", "which is outside the tree", "pidfd-dead", "outside")
    register("queue_with_notification", "unsupported-fd", "asks for a notification", "message-queue", "notify")
    for word, said in (("watched", "that an epoll watches"), ("inherited", "of another process"),
                       ("elsewhere", "of another process")):
        register(f"pidfd_of_thread_{word}", "unsupported-fd", said, "pidfd-thread", word)


    for word, said in (
            ("perf", "is a performance counter"), ("landlock", "is rules of landlock"), ("fscontext", "(fsopen)"),
            ("fuse", "(device 10:229) is a file system in user space"),
            ("log", "(device 1:11) is the kernel's log"), ("namespace", "is not the namespace that it lives in")):
        register(f"fd_{word}", "unsupported-fd", said, "fds-refused", word)


    @test(timeout=60)
    def fifo_held_outside():
        """A named pipe of the tree that a process outside has open; and bytes of somebody else in it at the restore."""
        program = Program("fifo")
        path = pathlib.Path(program.folder) / "both"
        held = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        refuse(program, "outside-peer", f"is also held by fd {held} of pid {os.getpid()} (")
        os.close(held)
        pids = program.tree()
        Ferry().dump(program.pid, IMAGES)
        program.wait_gone(pids)
        held = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.write(held, b"x")
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode and "in the named pipe" in done.stderr, done.stderr
        os.close(held)
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=60)
    def terminal_outside():
        """A terminal whose master is outside: the exact option is named, and with it another terminal takes its place,
        with the settings that the first one had."""
        master, slave = os.openpty()
        fresh = termios.tcgetattr(slave)
        program = Program("pty-outside", os.ttyname(slave))
        settings = termios.tcgetattr(slave)
        assert settings != fresh
        refuse(program, "outside-peer", "the program behind the terminal /dev/pts/")
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES)
        assert "--shell-job" in done.stderr, done.stderr
        Ferry().dump(program.pid, IMAGES, shell_job=True)
        program.reap()
        done = Ferry().run("restore", "-D", IMAGES, "-d", "--shell-job")
        assert done.returncode == REFUSED and "from a shell in a terminal" in done.stderr, done.stderr
        other, own = os.openpty()
        subprocess.run([os.environ["FERRY"], "restore", "-D", IMAGES, "-d", "--shell-job"], stdin=own, check=True)
        program.verify()
        assert os.read(other, 100) == b"verified"
        assert os.readlink(f"/proc/{program.pid}/fd/20") == os.ttyname(own)
        assert termios.tcgetattr(own) == settings
        program.quit()
        for fd in (master, slave, other, own):
            os.close(fd)


    @test(timeout=60)
    def terminal_of_session_outside():
        """A session leader with such a terminal, which no restore could give to it."""
        master, slave = os.openpty()
        program = Program("pty-outside", os.ttyname(slave), "ctty")
        refuse(program, "outside-session", "leads a session whose controlling terminal")
        refuse(program, "outside-session", "leads a session whose controlling terminal", "--shell-job")
        program.quit()
        os.close(master)
        os.close(slave)


    @test(timeout=60)
    def terminal_held_outside():
        """A terminal of the tree that a process outside has open, from either side."""
        program = Program("pty-pair")
        folder = pathlib.Path(f"/proc/{program.pid}/fd")
        slave = next(link for link in folder.iterdir() if "/pts/" in os.readlink(link))
        held = os.open(os.readlink(slave), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        refuse(program, "outside-peer", f"is also held by fd {held} of pid {os.getpid()} (")
        os.close(held)
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        program.verify()
        program.quit()


    @test(timeout=60)
    def memory_held_outside():
        """Shared memory of a process outside of the tree: by a descriptor, by a mapping, of both kinds."""
        program = Program("memfd")
        name = next(link for link in pathlib.Path(f"/proc/{program.pid}/fd").iterdir() if "memfd:" in os.readlink(link))
        held = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        refuse(program, "outside-peer", f"is also held by fd {held} of pid {os.getpid()} (")
        mapped = mmap.mmap(held, mmap.PAGESIZE)
        os.close(held)
        refuse(program, "outside-peer", f"is also in the memory of pid {os.getpid()} (")
        mapped.close()
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        program.quit()
        shutil.rmtree(IMAGES)
        program = Program("vma-shared")
        range_ = re.search(r"^(\S+) rw-s .*/dev/zero", pathlib.Path(f"/proc/{program.pid}/maps").read_text(), re.M)[1]
        held = os.open(f"/proc/{program.pid}/map_files/{range_}", os.O_RDWR)
        mapped = mmap.mmap(held, mmap.PAGESIZE)
        os.close(held)
        refuse(program, "outside-peer", f"is also in the memory of pid {os.getpid()} (")
        mapped.close()
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        program.quit()


    @test(timeout=60)
    def memory_and_who_waits():
        """A ferry that waits for the tree it restored has no part of its shared memory: it does not hinder a further dump."""
        program = Program("vma-shared")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        with subprocess.Popen([Ferry().path, "restore", "-D", str(IMAGES)], stdin=subprocess.DEVNULL) as waits:
            exe = pathlib.Path(f"/proc/{program.pid}/exe")
            wait_until(lambda: os.path.lexists(exe) and exe.resolve().name == "vma-shared", "it is not there")
            program.verify()
            assert waits.poll() is None
            shutil.rmtree(IMAGES)
            Ferry().dump(program.pid, IMAGES)
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=60)
    def segment_attached_outside():
        """System V shared memory that a process outside of the tree has attached, too."""
        program = Program("sysvshm")
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        segment = re.search(r" (\d+) +/SYSV", pathlib.Path(f"/proc/{program.pid}/maps").read_text())[1]
        at = libc.shmat(int(segment), None, 0)
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES)
        assert done.returncode == REFUSED and "[outside-peer]" in done.stderr, done.stderr
        assert f"is also in the memory of pid {os.getpid()} (" in done.stderr and not IMAGES.exists(), done.stderr
        assert libc.shmdt(ctypes.c_void_p(at)) == 0
        program.verify()
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        program.quit()


    @test(timeout=60)
    def debugged_task():
        """A task that another tracer holds."""
        program = Program("heap-stack")
        tracer = subprocess.Popen([sys.executable, "-c", TRACER, str(program.pid)])  # pylint: disable=consider-using-with
        wait_until(lambda: status(program.pid)["TracerPid"] == str(tracer.pid), "the tracer does not attach", 10)
        refuse(program, "busy-task", f"is traced by pid {tracer.pid} (python3), which is outside the tree")
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES)
        assert "let it detach, or dump from a common ancestor on" in done.stderr, done.stderr
        assert status(program.pid)["TracerPid"] == str(tracer.pid), "it lost its tracer"
        tracer.kill()
        tracer.wait()
        program.verify()
        program.quit()


    @test(timeout=60)
    def changed_files():
        """Memory of one moment with files of another: refused with the list of files."""
        program = Program("files")
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        time.sleep(0.1)
        names = [os.readlink(link) for link in pathlib.Path(f"/proc/{program.pid}/fd").iterdir()]
        paths = [path for path in names if path.startswith(str(program.folder)) and os.path.isfile(path)]
        program.quit()
        assert paths, names
        changed = sorted(set(paths))[:2]
        for path in changed:
            with open(path, "ab") as file:
                file.write(b"later")
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode == REFUSED and "[files-changed]" in done.stderr, done.stderr
        assert len(changed) == 2 and all(path in done.stderr for path in changed), (changed, done.stderr)


    @test(timeout=60)
    def deleted_file_held_outside():
        """A deleted file that a process outside of the tree has, too, where one of both can write to it."""
        program = Program("ghost-file")
        name = next(link for link in sorted(pathlib.Path(f"/proc/{program.pid}/fd").iterdir())
                    if "(deleted)" in os.readlink(link))
        held = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        refuse(program, "outside-peer", f"is also held by fd {held} of pid {os.getpid()} (")
        os.close(held)
        refuse(program, "deleted-file", "more than --ghost-limit", "--ghost-limit", "100000")
        Ferry().dump(program.pid, IMAGES, leave_running=True, more=("--ghost-limit", "1000000"))
        program.verify()
        program.quit()


    @test(timeout=60)
    def kernel_files():
        """A folder that tells of changes by signals, which the kernel does not show; a file that gives each line once."""
        program = Program("directories", "notify")
        refuse(program, "unsupported-fd", "(F_NOTIFY), which the kernel does not show")
        program.quit()
        program = Program("proc-files", "messages")
        refuse(program, "unsupported-fd", "gives each message once")
        program.quit()


    @test(timeout=60)
    def hidden_mount():
        """A file on a mount that another mount hides wholly: no path leads there."""
        program = Program("covered", "wholly")
        refuse(program, "deleted-file", "does not lead to the file that is open")
        program.quit()
        # Nor does one to a mount that was taken away while it was in use.
        program = Program("covered", "detached")
        refuse(program, "deleted-file", "does not lead to the file that is open")
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES)
        assert "or that was unmounted: mount it again" in done.stderr, done.stderr
        program.quit()


    @test(timeout=60)
    def no_space_for_deleted_files():
        """A deleted file that has no room where the image goes: known before anything stops."""
        program = Program("tmpfile")
        link = next(link for link in pathlib.Path(f"/proc/{program.pid}/fd").iterdir() if "(deleted)" in os.readlink(link))
        size = os.stat(link).st_size
        IMAGES.mkdir()
        # Memory takes some, and 16 MiB are kept free.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(IMAGES)], check=True)
        with open(link, "r+b") as ghost:
            ghost.seek(1 << 20)
            ghost.write(bytes(30 << 20))
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES)
        assert done.returncode == REFUSED and "[no-space]" in done.stderr, done.stderr
        assert not list(IMAGES.iterdir()), list(IMAGES.iterdir())
        os.truncate(link, size)
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        program.verify()
        subprocess.run(["umount", str(IMAGES)], check=True)
        program.quit()


    @test(timeout=60)
    def locked_meanwhile():
        """What the tree had locked is locked by somebody else when it comes back: who it is, and nothing is created."""
        for name, lock in (("locks-flock", "flock lock"), ("locks-record", "record lock")):
            program = Program(name)
            Ferry().dump(program.pid, IMAGES)
            program.reap()
            with open(program.folder / ("exclusive" if "flock" in name else "data"), "r+b") as file:
                (fcntl.flock if "flock" in name else fcntl.lockf)(file, fcntl.LOCK_EX)
                done = Ferry().run("restore", "-D", IMAGES, "-d")
                assert done.returncode == REFUSED and "[outside-peer]" in done.stderr, done.stderr
                assert lock in done.stderr and f"pid {os.getpid()} holds one" in done.stderr, done.stderr
                assert not pathlib.Path(f"/proc/{program.pid}").exists(), "it runs"
            Ferry().restore(IMAGES)
            program.verify()
            program.quit()
            shutil.rmtree(IMAGES)


    @test(timeout=60)
    def watchers():
        """Events that nobody has read yet, which the kernel cannot put back; and a group that is asked for permission."""
        program = Program("inotify", "unread")
        refuse_early(program, "unsupported-fd", "wait to be read in 'anon_inode:inotify'")
        program.quit()
        program = Program("fanotify", "permission")
        refuse(program, "unsupported-fd", "a fanotify group that is asked for permission")
        program.kill()


    @test(timeout=60)
    def lease_being_broken():
        """A lease that somebody waits for: refused while he waits."""
        program = Program("leases", "breaking")
        refuse(program, "unsupported-fd", "is being broken by another process")
        program.quit()


    @test(timeout=60)
    def huge_pages_lacking():
        """A restore where no huge page is free is refused before anything exists."""
        program = Program("huge-private")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        none = pathlib.Path("none")
        none.write_text("0\n")
        for folder in pathlib.Path("/sys/kernel/mm/hugepages").iterdir():
            for name in ("free_hugepages", "nr_overcommit_hugepages"):
                subprocess.run(["mount", "--bind", none, folder / name], check=True)
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode == REFUSED, done.stderr
        assert "huge pages of 2048 kB, 0 are free" in done.stderr and "vm.nr_hugepages" in done.stderr, done.stderr
        assert not is_alive(program.pid)
        subprocess.run("umount /sys/kernel/mm/hugepages/*/{free,nr_overcommit}_hugepages", shell=True, check=True,
                       executable="bash")
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    def restore_changed(name, changes):
        """A dump of a program as CRIU would have it, without ferry's own files; one message of one file is changed after the
        other, and each is refused before anything is created."""
        program = Program(name, "plain")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        for path in IMAGES.glob("ferry-*.img"):
            path.unlink()
        for file, change, text in changes:
            path = next(iter(sorted(IMAGES.glob(file))))
            whole = path.read_bytes()
            decoded = subprocess.run([os.environ["FERRY"], "image", "decode", path], check=True, capture_output=True)
            content = json.loads(decoded.stdout)
            change(content["entries"])
            pathlib.Path("changed.json").write_text(json.dumps(content))
            subprocess.run([os.environ["FERRY"], "image", "encode", "-i", "changed.json", "-o", path], check=True)
            done = Ferry().run("restore", "-D", IMAGES, "-d")
            path.write_bytes(whole)
            assert done.returncode in (1, REFUSED) and text in done.stderr, f"{text}: {done.returncode} {done.stderr}"
            assert not pathlib.Path(f"/proc/{program.pid}").exists(), f"{text}: it runs"
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()
        shutil.rmtree(IMAGES)


    @test(timeout=60)
    def hostile_leader():
        """Only the first of several threads can have ended while others run, and only by itself."""
        program = Program("leader-ended")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        shutil.copytree(IMAGES, "whole")
        path = next(IMAGES.glob("ferry-task-*.img"))
        for index, change, text in (
                (0, {"ended": 9}, "cannot have ended with status 0x9"),
                (0, {"ended": 0x10700}, "cannot have ended with status 0x10700"),
                (1, {"ended": 0x700}, "cannot have ended with status 0x700")):
            content = decode(path)
            content["entries"][index].update(change)
            encode(path, content)
            seal(IMAGES, [path.name])
            done = Ferry().run("restore", "-D", IMAGES, "-d")
            assert done.returncode in (1, REFUSED) and text in done.stderr, f"{text}: {done.returncode} {done.stderr}"
            assert not pathlib.Path(f"/proc/{program.pid}").exists(), f"{text}: it runs"
            shutil.rmtree(IMAGES)
            shutil.copytree("whole", IMAGES)
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=120)
    def hostile_files():
        """Records of deleted files and of locks that contradict each other, the files, or themselves."""

        def setting(index, key, value):
            return lambda entries: entries[index].update({key: value})

        restore_changed("ghost-file", [
            ("remap-fpath.img", setting(0, "orig_id", 99999), "which is no file with a path"),
            ("remap-fpath.img", setting(0, "remap_id", 99999), "image-missing"),
            ("remap-fpath.img", setting(0, "remap_type", "PROCFS"), "is no file of process"),
            ("remap-fpath.img", setting(0, "remap_type", "LINKED"), "a link that a dump made"),
            ("remap-fpath.img", lambda entries: entries.append(entries[0]), "is remapped twice"),
            ("ghost-file-*.img", setting(0, "mode", 0o170000), "a deleted file of mode"),
            ("ghost-file-*.img", setting(0, "chunks", True), "without its size"),
        ])
        restore_changed("ghost-sparse", [
            ("ghost-file-*.img", setting(1, "off", 6 << 30), "behind the end of its file"),
            ("ghost-file-*.img", setting(1, "off", 1 << 63), "behind the end of its file"),
            ("ghost-file-*.img", setting(0, "size", 1 << 63), "without its size"),
        ])
        restore_changed("locks-flock", [
            ("filelocks.img", setting(0, "fd", 999), "cannot be"),
            ("filelocks.img", setting(0, "pid", 1), "cannot be"),
            ("filelocks.img", setting(0, "flag", 16), "cannot be"),
            ("filelocks.img", setting(0, "type", 7), "cannot be"),
            ("filelocks.img", setting(0, "start", -1), "cannot be"),
            ("filelocks.img", setting(0, "len", -5), "cannot be"),
        ])


    @test(timeout=60)
    def another_build():
        """A program that was built anew after the dump, with the same name and size."""
        copy = pathlib.Path("program").absolute()
        shutil.copy(program_path("heap-stack"), copy)
        program = Program("heap-stack", interpreter=[str(copy)])
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        whole = copy.read_bytes()
        at = whole.index(b"\x14\0\0\0\x03\0\0\0GNU\0") + 12
        copy.write_bytes(whole[:at] + bytes(byte ^ 1 for byte in whole[at:at + 20]) + whole[at + 20:])
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode == REFUSED and "[files-changed]" in done.stderr, done.stderr
        assert f"'{copy}' is another build" in done.stderr, done.stderr
        copy.write_bytes(whole)
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=60)
    def restored_twice():
        """A finished dump restores once; again only when told to."""
        program = Program("heap-stack")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        Ferry().restore(IMAGES)
        program.verify()
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode == REFUSED and "[image-spent]" in done.stderr, done.stderr
        done = Ferry().run("restore", "-D", IMAGES, "-d", "--again")
        assert done.returncode == REFUSED and "[pid-taken]" in done.stderr, done.stderr
        program.verify()
        program.quit()


    @test(timeout=60)
    def parent_that_does_not_wait():
        """The original has ended, but keeps its number until its parent takes notice: a restore gives it time, and names it."""
        program = Program("heap-stack")
        Ferry().dump(program.pid, IMAGES)
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode == REFUSED and "[pid-taken]" in done.stderr, done.stderr
        assert f"its parent, pid {os.getpid()}, has not waited for it" in done.stderr, done.stderr
        with subprocess.Popen([os.environ["FERRY"], "restore", "-D", str(IMAGES), "-d"]) as late:
            time.sleep(0.3)
            assert late.poll() is None, "it did not wait"
            program.reap()
            assert late.wait(timeout=20) == 0
        program.verify()
        program.quit()


    @test(timeout=60)
    def image_exists():
        """No image is overwritten unasked."""
        program = Program("heap-stack")
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R")
        assert done.returncode == REFUSED and "[image-exists]" in done.stderr, done.stderr
        Ferry().dump(program.pid, IMAGES, leave_running=True, more=("--overwrite",))
        program.verify()
        program.quit()


    @test(timeout=60)
    def damaged_images():
        """A file that is missing, cut or has one bit turned is named, and nothing is created."""
        program = Program("heap-stack")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        for path in sorted(IMAGES.glob("*.img")):
            whole = path.read_bytes()
            turned = bytearray(whole)
            turned[len(whole) // 2] ^= 0x10
            for damaged in (whole[:-1], bytes(turned), None):
                if damaged is None:
                    path.unlink()
                else:
                    path.write_bytes(damaged)
                done = Ferry().run("restore", "-D", IMAGES, "-d")
                path.write_bytes(whole)
                assert done.returncode == REFUSED, f"{path.name}: {done.returncode} {done.stderr}"
                assert not pathlib.Path(f"/proc/{program.pid}").exists(), path.name
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


    @test(timeout=120)
    def damaged_memory():
        """Large memory is compared with its checksum while tasks are built from it: found in time all the same."""
        server = Server()
        Ferry().dump(server.pid, IMAGES, tcp_established=True)
        server.reap()
        watch = Leftovers()
        pages = max(IMAGES.glob("pages-*.img"), key=lambda path: path.stat().st_size)
        assert pages.stat().st_size > 8 << 20, "too small to be compared aside"
        with open(pages, "r+b") as file:
            file.seek(-4000, os.SEEK_END)
            byte = file.read(1)[0]
            for value in (byte ^ 0x10, byte):
                file.seek(-4000, os.SEEK_END)
                file.write(bytes([value]))
                file.flush()
                done = Ferry().run("restore", "-D", IMAGES, "-d", "--tcp-established")
                if value == byte:
                    break
                assert done.returncode == REFUSED and f"'{pages.name}'" in done.stderr, done.stderr
                assert not pathlib.Path(f"/proc/{server.pid}").exists(), "it runs"
                watch.check(expected=[IMAGES.absolute()], locked=True)
        assert done.returncode == 0, done.stderr
        server.verify()
        server.quit()


    @test(timeout=120)
    def faults():
        """Every fault of dump and restore: an error, the target runs, no image; or nothing was created."""
        program = Program("threads")
        words = [line.split("\t") for line in Ferry().run("debug", "faults").stdout.splitlines()]
        assert len(words) > 10, words
        for word, stage, _ in words:
            if stage != "dump" or word in ("tcp-repair", "net-lock"):
                continue  # this program has no connection
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, environment={"FERRY_FAULT": word})
            assert done.returncode in (1, REFUSED), f"{word}: {done.returncode}"
            assert not IMAGES.exists() or not list(IMAGES.iterdir()), f"{word}: {list(IMAGES.iterdir())}"
            program.verify()
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        for word, stage, _ in words:
            if stage != "restore":
                continue
            done = Ferry().run("restore", "-D", IMAGES, "-d", environment={"FERRY_FAULT": word})
            assert done.returncode in (1, REFUSED), f"{word}: {done.returncode} {done.stderr}"
            assert not pathlib.Path(f"/proc/{program.pid}").exists(), word
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()


if __name__ == "__main__":
    main()
