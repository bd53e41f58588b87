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


class Podman(Engine):
    """One store of containers; image: what is imported into it."""

    name = "podman"
    logs = ("storage/**/dump.log", "storage/**/restore.log")

    def __init__(self, criu, folder, image="localhost/busy:latest"):
        super().__init__(criu, pathlib.Path(folder).absolute() / f"podman-{criu.name}")
        self.image = image
        self.group = groups.own("podman")
        self.run_words = ("--cgroup-parent", self.group)
        (self.folder / "containers.conf").write_text(CONFIGURATION.replace("{folder}", str(self.folder)))
        (self.folder / "storage.conf").write_text(STORAGE.replace("{folder}", str(self.folder)))
        self.environment = {**criu.environment, "CONTAINERS_CONF": str(self.folder / "containers.conf"),
                            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"), "TMPDIR": str(self.folder)}
        if image:
            self.import_image()

    def command(self, words):
        return ["podman", *words], self.environment

    def note(self, words, status):
        if words[0] not in ("logs", "inspect"):  # who waits for something asks any number of times
            self.said.append((*[word for word in words[:2] if isinstance(word, str)], status))

    def end(self):
        """Remove all."""
        self.run("rm", "--all", "--force", "--time", "0")
        groups.remove(self.group)
