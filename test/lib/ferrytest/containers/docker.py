# SPDX-License-Identifier: Apache-2.0
"""containerd and dockerd of a test's own, with an image made here."""

import pathlib
import shutil
import signal
import subprocess

from ferrytest.containers import groups
from ferrytest.containers.engine import Engine
from ferrytest.process import wait_until

CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "/run/containerd-{name}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/containerd-{name}/containerd.sock"
"""


class Docker(Engine):
    """Both daemons."""

    name = "docker"
    image = "busy:latest"
    logs = ("**/dump.log", "**/restore.log", "**/criu-*.log")

    def __init__(self, criu, folder):
        super().__init__(criu, pathlib.Path(folder).absolute() / f"docker-{criu.name}")
        self.state = pathlib.Path(f"/run/docker-{criu.name}")
        self.group = groups.own("docker")
        self.socket = f"unix://{self.state}/docker.sock"
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
        self.import_image()

    def daemon(self, name, *words):
        """Start one in the background."""
        with open(self.folder / f"{name}.log", "wb") as log:
            self.daemons.append(subprocess.Popen(  # pylint: disable=consider-using-with
                [shutil.which(name, path="/usr/sbin:/usr/bin"), *map(str, words)], env=self.criu.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log))

    def log(self, name):
        """The end of a daemon's."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-1500:]

    def command(self, words):
        return ["/usr/bin/docker", "--host", self.socket, *words], self.criu.environment

    def note(self, words, status):
        self.said.append((words[0], status))

    def explain(self):
        return super().explain() + self.log("dockerd")

    def end(self):
        """Remove all containers, and end the daemons."""
        names = self.good("ps", "--all", "--quiet").stdout.split()
        if names:
            self.run("rm", "--force", *names)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)
        groups.remove(self.group)
