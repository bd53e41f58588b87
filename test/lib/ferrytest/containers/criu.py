# SPDX-License-Identifier: Apache-2.0
"""The program called criu that an engine finds first in PATH: ferry, or CRIU to compare with."""

import json
import os
import pathlib
import sys

SID = pathlib.Path(os.environ.get("FERRY_CRIU_SID") or pathlib.Path(os.environ.get("FERRY_BUILD", ".")) / "criu-sid")
LIBRARIES = "usr/lib/x86_64-linux-gnu"

SCRIPT = """#!/bin/sh
exec {sid}/{libraries}/ld-linux-x86-64.so.2 --argv0 criu --library-path {sid}/{libraries} {sid}/usr/sbin/criu "$@"
"""


class Named:
    """A folder with it, and the environment in which engines are started."""

    def __init__(self, name, folder):
        self.name = name
        self.folder = pathlib.Path(folder).absolute() / f"sbin-{name}"
        self.folder.mkdir(parents=True)
        program = self.folder / "criu"
        if name == "ferry":
            program.symlink_to(pathlib.Path(os.environ["FERRY"]).absolute())
        else:
            program.write_text(SCRIPT.format(sid=SID.absolute(), libraries=LIBRARIES))
            program.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{self.folder}:/usr/sbin:/usr/bin:/sbin:/bin"}


RELAY = """#!/bin/sh
[ "$1" != swrk ] || exec {python} {relay} {criu} {answers} "$2"
exec {criu} "$@"
"""


class Overheard(Named):
    """ferry, whose answers to engines are written down."""

    def __init__(self, folder):
        super().__init__("ferry", folder)
        self.answers = self.folder / "answers"
        inner = self.folder / "inner"
        inner.mkdir()
        (self.folder / "criu").rename(inner / "criu")
        program = self.folder / "criu"
        program.write_text(RELAY.format(python=sys.executable, relay=pathlib.Path(__file__).with_name("relay.py"), criu=inner / "criu",
                                        answers=self.answers))
        program.chmod(0o755)

    def failed(self):
        """The last request that failed: type, errno, message."""
        return json.loads(self.answers.read_text().splitlines()[-1])
