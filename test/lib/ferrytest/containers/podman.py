# SPDX-License-Identifier: Apache-2.0
"""podman over runc, with storage of its own and an image made here."""

import json
import pathlib
import subprocess

from ferrytest.containers import groups, rootfs
from ferrytest.process import wait_until

CONFIGURATION = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[network]
network_config_dir = "{folder}/networks"
[engine]
tmp_dir = "{folder}/tmp"
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
helper_binaries_dir = ["/usr/lib/podman", "/usr/libexec/podman"]
"""

STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""

IMAGE = "localhost/busy:latest"


class Podman:
    """One store of containers. Each command that was run, with its exit status, is in .said."""

    def __init__(self, criu, folder):
        self.criu = criu
        self.folder = pathlib.Path(folder).absolute() / f"podman-{criu.name}"
        self.folder.mkdir(parents=True)
        self.group = groups.own("podman")
        (self.folder / "containers.conf").write_text(CONFIGURATION.replace("{folder}", str(self.folder)))
        (self.folder / "storage.conf").write_text(STORAGE.replace("{folder}", str(self.folder)))
        self.environment = {**criu.environment, "CONTAINERS_CONF": str(self.folder / "containers.conf"),
                            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"), "TMPDIR": str(self.folder)}
        self.said = []
        root = rootfs.make(self.folder / "rootfs")
        archive = self.folder / "rootfs.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        self.good("import", archive, IMAGE)

    def run(self, *words, **more):
        """Any command."""
        done = subprocess.run(["podman", *map(str, words)], env=self.environment, check=False, timeout=90, text=True,
                              **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})
        if words[0] not in ("logs", "inspect"):  # who waits for something asks any number of times
            self.said.append((*[word for word in words[:2] if isinstance(word, str)], done.returncode))
        return done

    def good(self, *words, **more):
        """One that must succeed."""
        done = self.run(*words, **more)
        assert done.returncode == 0, f"{self.criu.name}: podman {words} exits with {done.returncode}: {done.stderr}{self.logs_of_criu()}"
        return done

    def logs_of_criu(self):
        """The end of each, for messages of failed tests."""
        logs = [*self.folder.glob("storage/**/dump.log"), *self.folder.glob("storage/**/restore.log")]
        return "".join(f"\n{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)

    def start(self, name, command, *words):
        """A container that runs a command in the background."""
        self.good("run", "--detach", "--name", name, "--cgroup-parent", self.group, *words, IMAGE, *command)

    def inspect(self, name):
        """All that podman says of it."""
        return json.loads(self.good("inspect", name).stdout)[0]

    def lines(self, name):
        """What it printed."""
        return self.good("logs", name).stdout.splitlines()

    def wait_lines(self, name, n, seconds=30):
        """Until it printed so many."""
        wait_until(lambda: len(self.lines(name)) >= n, f"{name} does not print {n} lines", seconds)
        return self.lines(name)

    def end(self):
        """Remove all."""
        self.run("rm", "--all", "--force", "--time", "0")
        groups.remove(self.group)
