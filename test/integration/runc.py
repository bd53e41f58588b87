#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Containers of runc, with ferry in CRIU's place: what runc's command line offers, with the same exit statuses as with CRIU."""

import os
import pathlib
import signal
import socket
import subprocess
import termios

from ferrytest import main, wait_until
from ferrytest.containers import groups
from ferrytest.containers.criu import Named
from ferrytest.containers.output import Console, counter, counts_on
from ferrytest.containers.rootfs import add_program
from ferrytest.containers.runc import Bundle, Runc, log_of
from ferrytest.containers.scenes import register
from ferrytest.network import free_port

FOLDER = pathlib.Path("containers").absolute()
LIMIT = 64 << 20


class Scene:
    """An engine, and one container of a name."""

    def __init__(self, kind, name, command=None, change=None):
        self.kind, self.name = kind, name
        self.group = groups.own(f"runc-{name}")
        self.runc = Runc(Named(kind, FOLDER), FOLDER)

        def change_all(config):
            config["linux"]["cgroupsPath"] = self.group
            if change:
                change(config)

        self.bundle = Bundle(FOLDER / f"bundle-{kind}", command or counter("0.1"), change_all)
        self.root = self.bundle.folder / "rootfs"

    def images(self, name="0"):
        """A folder for an image."""
        return FOLDER / f"images-{self.kind}-{name}"

    def start(self, lines=3):
        """Run it until it printed something."""
        output = self.runc.start(self.bundle, self.name)
        output.wait_lines(lines)
        return output

    def save(self, *words, name="0"):
        """Checkpoint it."""
        return self.runc.checkpoint(self.name, self.images(name), *words)

    def restore(self, *words, name="0", lines=3):
        """Bring it back, until it printed something."""
        output = self.runc.restore(self.bundle, self.name, self.images(name), *words)
        output.wait_lines(lines)
        assert self.runc.status(self.name)["status"] == "running"
        return output

    def end(self):
        """Nothing of it stays; exit statuses of all that was run."""
        self.runc.end(self.name)
        left = groups.places(self.group)
        assert not left, left
        return self.runc.said


def counts(kind, dump=(), restore=(), change=None, name="counter"):
    """A counter is stored, comes back and goes on; twice."""
    scene = Scene(kind, name, change=change)
    output = scene.start()
    numbers = []
    for turn in "01":
        scene.save(*dump, name=turn)
        assert scene.runc.status(name) is None
        numbers += output.numbers()
        output = scene.restore(*restore, name=turn)
        counts_on(numbers, output.numbers())
    return scene.end()


def leaves_running(kind):
    """The container goes on beside its image; from that it comes back as it was when it was stored."""
    scene = Scene(kind, "leave")
    output = scene.start()
    scene.save("--leave-running")
    stored = len(output.lines())
    output.wait_lines(stored + 3)
    assert scene.runc.status("leave")["status"] == "running"
    counts_on([], output.numbers())
    scene.runc.end("leave")
    again = scene.restore()
    # The dump took a moment.
    assert stored - 2 <= again.numbers()[0] <= stored, (stored, again.numbers()[:3])
    return scene.end()


def locks(kind):
    """A lock on a file is held again; without the option nothing is stored, and the container goes on."""
    scene = Scene(kind, "locks", ["flock", "/tmp/lock", *counter("0.1")])
    add_program(scene.root, "flock")
    output = scene.start()
    refused = scene.runc.run("checkpoint", "--image-path", scene.images("no"), "--work-path", scene.images("no-work"), "locks")
    assert refused.returncode, refused
    output.wait_lines(len(output.lines()) + 3)
    scene.save("--file-locks")
    free = subprocess.run(["flock", "--nonblock", scene.root / "tmp/lock", "true"], check=False)
    assert free.returncode == 0, "somebody has the lock"
    again = scene.restore("--file-locks")
    counts_on(output.numbers(), again.numbers())
    taken = subprocess.run(["flock", "--nonblock", scene.root / "tmp/lock", "true"], check=False)
    assert taken.returncode == 1, "nobody has the lock"
    return scene.end()


def limited(config):
    """A change: a limit of memory."""
    config["linux"]["resources"]["memory"] = {"limit": LIMIT}


def limits(kind, mode):
    """The limit of memory is there again, whoever puts it there."""
    scene = Scene(kind, f"limits-{mode}", change=limited)
    output = scene.start()
    scene.save("--manage-cgroups-mode", mode)
    again = scene.restore("--manage-cgroups-mode", mode)
    counts_on(output.numbers(), again.numbers())
    path = pathlib.Path(f"/proc/{scene.runc.pid(scene.name)}/cgroup")
    memory = [line.split(":")[2] for line in path.read_text().splitlines() if line.split(":")[1] == "memory"]
    assert (pathlib.Path("/sys/fs/cgroup/memory") / memory[0][1:] / "memory.limit_in_bytes").read_text().strip() == str(LIMIT)
    return scene.end()


def own_network(config):
    """A change: the network of whoever starts it."""
    config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "network"]


def connection(kind):
    """A connection to somebody outside goes on, with every line once."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    script = counter("0.1")[2]
    scene = Scene(kind, "tcp", ["/bin/sh", "-c", f"echo ready; ({script}) | nc 127.0.0.1 {port}"], change=own_network)
    scene.start(1)
    server.settimeout(20)
    client, _ = server.accept()
    client.settimeout(20)
    stream = client.makefile("rb")
    before = [int(stream.readline()) for _ in range(5)]
    scene.save("--tcp-established")
    scene.restore("--tcp-established", lines=0)
    counts_on(before, [int(stream.readline()) for _ in range(10)])
    return scene.end()


def another_network(kind):
    """A network namespace that has a path is entered again, with what is in it."""
    name = f"net-{kind}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "netns", "exec", name, "ip", "address", "add", "10.99.1.1/24", "dev", "lo"], check=True)
    path = f"/var/run/netns/{name}"

    def change(config):
        for ns in config["linux"]["namespaces"]:
            if ns["type"] == "network":
                ns["path"] = path

    said = counts(kind, change=change, name="netns")
    shown = subprocess.run(["ip", "netns", "exec", name, "ip", "-brief", "address", "show", "lo"], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
    assert "10.99.1.1/24" in shown, shown
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return said


def several(kind):
    """Processes of several users, sessions and states; what they have in files and pipes."""
    script = ("mkfifo /tmp/pipe; (setsid sh -c 'while read l; do echo got $l; done < /tmp/pipe') & "
              "exec 5> /tmp/pipe; exec 6<> /tmp/kept; rm /tmp/kept; echo secret >&6; (sleep 1000 & exec sleep 2000) & "
              "i=0; while true; do echo $i >&5; i=$(expr $i + 1); sleep 0.1; done")
    scene = Scene(kind, "several", ["/bin/sh", "-c", script])
    output = scene.start()
    init = scene.runc.pid("several")
    before = sorted(path.name for path in pathlib.Path("/proc", str(init), "root", "proc").glob("[0-9]*"))
    scene.save()
    lines = output.lines()
    again = scene.restore()
    counts_on([int(line[4:]) for line in lines], [int(line[4:]) for line in again.lines()])
    init = scene.runc.pid("several")
    kept = pathlib.Path(f"/proc/{init}/fd/6").read_bytes()
    assert kept == b"secret\n", kept
    after = sorted(path.name for path in pathlib.Path("/proc", str(init), "root", "proc").glob("[0-9]*"))
    # sleep(1) and expr(1) of the loop come and go.
    assert len(set(before) & set(after)) >= 4, (before, after)
    return scene.end()


def with_terminal(config):
    """A change: it has one."""
    config["process"]["terminal"] = True


def terminal(kind):
    """Its settings are as they were, what is typed comes in, and the session still has it."""
    scene = Scene(kind, "terminal", ["/bin/sh", "-c", "stty -echo rows 33 columns 77; echo ready; while read l; do echo got $l; done"],
                  change=with_terminal)
    console = Console(FOLDER / f"console-{kind}-1")
    scene.runc.good("run", "--detach", "--console-socket", console.path, "terminal", cwd=scene.bundle.folder)
    console.accept()
    console.wait_lines(1)
    os.write(console.terminal, b"one\n")
    assert console.wait_lines(2)[1] == "got one"
    scene.save()
    images, again = scene.images(), Console(FOLDER / f"console-{kind}-2")
    scene.runc.good("restore", "--detach", "--console-socket", again.path, "--bundle", scene.bundle.folder, "--image-path", images,
                    "--work-path", images.with_name(images.name + "-work"), "terminal")
    again.accept()
    os.write(again.terminal, b"two\n")
    assert again.wait_lines(1) == ["got two"]
    assert termios.tcgetwinsize(again.terminal) == (33, 77)
    assert not termios.tcgetattr(again.terminal)[3] & termios.ECHO
    pid = scene.runc.pid("terminal")
    assert pathlib.Path(f"/proc/{pid}/stat").read_text().split()[6] != "0", "no terminal"
    os.write(again.terminal, b"\x03")
    wait_until(lambda: scene.runc.status("terminal")["status"] == "stopped", "control-C does not reach it")
    return scene.end()


def killed_process(kind):
    """Who is killed after a restore is reaped as before, and runc tells how it ended."""
    scene = Scene(kind, "killed")
    scene.start()
    scene.save()
    scene.restore()
    os.kill(scene.runc.pid("killed"), signal.SIGKILL)
    wait_until(lambda: scene.runc.status("killed")["status"] == "stopped", "it goes on after SIGKILL")
    return scene.end()


def chain(kind):
    """Memory is stored twice while the container runs, and what was written since with the rest."""
    scene = Scene(kind, "chain", ["/bin/sh", "-c", "x=$(head -c 8000000 /dev/zero | tr '\\0' x); " + counter("0.1")[2] + "; echo $x"])
    output = scene.start()
    for n in "12":
        previous = ("--parent-path", f"../{scene.images(str(int(n) - 1)).name}") if n == "2" else ()
        scene.runc.checkpoint("chain", scene.images(n), "--pre-dump", *previous)
        assert scene.runc.status("chain")["status"] == "running"
        output.wait_lines(len(output.lines()) + 2)
    scene.save("--parent-path", f"../{scene.images('2').name}", name="3")
    pages = [sum(path.stat().st_size for path in scene.images(n).glob("pages-*.img")) for n in "123"]
    assert max(pages[1:]) < pages[0] / 4 > 1 << 20, pages
    again = scene.restore(name="3")
    counts_on(output.numbers(), again.numbers())
    return scene.end()


def lazily(kind):
    """Its memory stays where it was until somebody asks for it over the wire."""
    scene = Scene(kind, "lazily")
    output = scene.start()
    reading, writing = os.pipe()
    images, port = scene.images(), free_port()
    work = images.with_name(images.name + "-work")
    dump = subprocess.Popen(  # pylint: disable=consider-using-with
        ["runc", "--root", scene.runc.state, "checkpoint", "--lazy-pages", "--page-server", f"127.0.0.1:{port}", "--status-fd",
         str(writing), "--image-path", images, "--work-path", work, "lazily"],
        env=scene.runc.criu.environment, pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.close(writing)
    assert os.read(reading, 1) == b"\0", dump.communicate()[0].decode() + log_of(("--work-path", work), "dump.log")
    daemon = subprocess.Popen(  # pylint: disable=consider-using-with
        [scene.runc.criu.folder / "criu", "lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", str(port), "-D", images, "-W",
         work, "-o", "lazy.log"], stdin=subprocess.DEVNULL)
    wait_until(lambda: (work / "lazy-pages.socket").exists() or daemon.poll() is not None, "lazy-pages does not listen")
    assert daemon.poll() is None, log_of(("--work-path", work), "lazy.log")
    # The engine forgets the container when its dump has ended; it does so only when its memory was given away.
    other = Runc(scene.runc.criu, FOLDER / "other")
    words = ("restore", "--detach", "--lazy-pages", "--bundle", scene.bundle.folder, "--image-path", images, "--work-path", work)
    again = other.adopt(lambda stdio: other.good(*words, "lazily", **stdio))
    again.wait_lines(3)
    counts_on(output.numbers(), again.numbers())
    assert dump.wait(60) == 0 and daemon.wait(60) == 0, dump.communicate()[0]
    other.end("lazily")
    return scene.end()


OURS = {"chain": chain, "lazily": lazily}  # where CRIU 4.2 fails: it has no dirty tracking on this kernel, or loses the container

SCENES = {
    "counts": counts,
    "leaves_running": leaves_running,
    "locks": locks,
    "limits_soft": lambda kind: limits(kind, "soft"),
    "limits_full": lambda kind: limits(kind, "full"),
    "limits_strict": lambda kind: limits(kind, "strict"),
    "connection": connection,
    "another_network": another_network,
    "empty_network": lambda kind: counts(kind, ("--empty-ns", "network"), ("--empty-ns", "network"), name="empty"),
    "auto_dedup": lambda kind: counts(kind, ("--auto-dedup",), ("--auto-dedup",), name="dedup"),
    "several": several,
    "terminal": terminal,
    "killed_process": killed_process,
}


register(SCENES, OURS, timeout=120)

if __name__ == "__main__":
    main()
