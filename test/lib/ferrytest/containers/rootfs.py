# SPDX-License-Identifier: Apache-2.0
"""The root file system of a container: busybox, and a name for each of its programs."""

import pathlib
import re
import shutil
import subprocess

FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
BUSYBOX = "/bin/busybox"


def make(folder):
    """Fill a folder that is not there yet."""
    root = pathlib.Path(folder)
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    names = subprocess.run([BUSYBOX, "--list"], check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    for name in names:
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root


def add_program(root, path):
    """A program of this machine, and the libraries it needs, at the same places."""
    found = shutil.which(path, path="/usr/sbin:/usr/bin:/sbin:/bin") or path
    listed = subprocess.run(["ldd", found], check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    for name in [found, *re.findall(r"(/\S+) \(0x", listed)]:
        place = pathlib.Path(root) / name[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy(name, place)
    return found
