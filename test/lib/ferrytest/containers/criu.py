# SPDX-License-Identifier: Apache-2.0
"""The program called criu that an engine finds first in PATH: ferry, or CRIU to compare with."""

import os
import pathlib

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
