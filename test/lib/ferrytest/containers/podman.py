# SPDX-License-Identifier: Apache-2.0
"""podman over runc, with storage of its own and an image made here."""

import pathlib

from ferrytest.containers import groups
from ferrytest.containers.engine import Engine

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


def write_configuration(folder, there):
    """Into a folder, for a podman that has it under another name; what its environment says of it."""
    (folder / "containers.conf").write_text(CONFIGURATION.replace("{folder}", str(there)))
    (folder / "storage.conf").write_text(STORAGE.replace("{folder}", str(there)))
    return {"CONTAINERS_CONF": str(there / "containers.conf"), "CONTAINERS_STORAGE_CONF": str(there / "storage.conf"),
            "TMPDIR": str(there)}


class Podman(Engine):
    """One store of containers; image: what is imported into it."""

    name = "podman"
    logs = ("storage/**/dump.log", "storage/**/restore.log")

    def __init__(self, criu, folder, node=None, image="localhost/busy:latest"):
        there = pathlib.Path(folder).absolute() / f"podman-{criu.name}"
        super().__init__(criu, there.with_name(f"{there.name}-{node.name}") if node else there)
        self.image = image
        self.node = node  # None: this machine
        self.group = groups.own("podman")
        self.run_words = ("--cgroup-parent", self.group)
        self.environment = {**criu.environment, **write_configuration(self.folder, there)}
        if node:  # a container that comes from another machine looks for its files where they were there
            there.mkdir(exist_ok=True)
            done = node.run("mount", "--bind", self.folder, there)
            assert done.returncode == 0, done.stderr
        if image:
            self.import_image()

    def command(self, words):
        command = ["podman", *words]
        return self.node.command(*command) if self.node else command, self.environment

    def note(self, words, status):
        if words[0] not in ("logs", "inspect"):  # who waits for something asks any number of times
            self.said.append((*[word for word in words[:2] if isinstance(word, str)], status))

    def end(self):
        """Remove all."""
        self.run("rm", "--all", "--force", "--time", "0")
        groups.remove(self.group)
