# SPDX-License-Identifier: Apache-2.0
"""containerd and dockerd of a test's own, with an image made here."""

import json
import pathlib
import shutil
import signal
import subprocess

from ferrytest.containers import groups, rootfs
from ferrytest.process import wait_until

CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "/run/containerd-{name}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/containerd-{name}/containerd.sock"
"""

IMAGE = "busy:latest"


class Docker:
    """Both daemons. Each command that was run, with its exit status, is in .said."""

    def __init__(self, criu, folder):
        self.criu = criu
        self.folder = pathlib.Path(folder).absolute() / f"docker-{criu.name}"
        self.folder.mkdir(parents=True)
        self.state = pathlib.Path(f"/run/docker-{criu.name}")
        self.group = groups.own("docker")
        self.socket = f"unix://{self.state}/docker.sock"
        self.said = []
        self.daemons = []
        configuration = self.folder / "containerd.toml"
        configuration.write_text(CONTAINERD.format(folder=self.folder, name=criu.name))
        containerd = pathlib.Path(f"/run/containerd-{criu.name}/containerd.sock")
        self.daemon("containerd", "--config", configuration)
        wait_until(containerd.exists, "containerd does not come up")
        self.daemon("dockerd", "--experimental", "--data-root", self.folder / "data", "--exec-root", self.state / "exec", "--pidfile",
                    self.state / "pid", "--host", self.socket, "--containerd", containerd, "--cgroup-parent", self.group,
                    "--exec-opt", "native.cgroupdriver=cgroupfs", "--default-ulimit", "nofile=20000:20000")
        wait_until(lambda: self.run("version").returncode == 0, f"dockerd does not come up: {self.log('dockerd')}", 60)
        root = rootfs.make(self.folder / "rootfs")
        archive = self.folder / "rootfs.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        self.good("import", archive, IMAGE)

    def daemon(self, name, *words):
        """Start one in the background."""
        with open(self.folder / f"{name}.log", "wb") as log:
            self.daemons.append(subprocess.Popen(  # pylint: disable=consider-using-with
                [shutil.which(name, path="/usr/sbin:/usr/bin"), *map(str, words)], env=self.criu.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log))

    def log(self, name):
        """The end of a daemon's."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]

    def run(self, *words, **more):
        """Any command."""
        command = ["/usr/bin/docker", "--host", self.socket, *map(str, words)]
        done = subprocess.run(command, env=self.criu.environment, check=False, timeout=90, text=True,
                              **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})
        self.said.append((words[0], done.returncode))
        return done

    def good(self, *words, **more):
        """One that must succeed."""
        done = self.run(*words, **more)
        assert done.returncode == 0, \
            f"{self.criu.name}: docker {words} exits with {done.returncode}: {done.stderr}{self.logs_of_criu()}{self.log('dockerd')}"
        return done

    def logs_of_criu(self):
        """The end of each, for messages of failed tests."""
        logs = [*self.folder.glob("**/dump.log"), *self.folder.glob("**/restore.log"), *self.folder.glob("**/criu-*.log")]
        return "".join(f"\n{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)

    def start(self, name, command, *words):
        """A container that runs a command in the background."""
        self.good("run", "--detach", "--name", name, *words, IMAGE, *command)

    def inspect(self, name):
        """All that Docker says of it."""
        return json.loads(self.good("inspect", name).stdout)[0]

    def lines(self, name):
        """What it printed."""
        return self.good("logs", name).stdout.splitlines()

    def wait_lines(self, name, n, seconds=30):
        """Until it printed so many."""
        wait_until(lambda: len(self.lines(name)) >= n, f"{name} does not print {n} lines", seconds)
        return self.lines(name)

    def end(self):
        """Remove all containers, and end the daemons."""
        names = self.good("ps", "--all", "--quiet").stdout.split()
        if names:
            self.run("rm", "--force", *names)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)
        groups.remove(self.group)
