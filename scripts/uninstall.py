#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Usage: uninstall.py BUILD [DESTDIR]

Removes what `meson install` of this build directory installs, file by file, and the folders that are empty then and
were made for it. Goes by meson's own list of what is installed where, so it needs no log of the installation.
"""

import json
import pathlib
import subprocess
import sys


def installed(build):
    """Paths of every installed file and link, as meson's plan has them."""
    plan = json.loads((build / "meson-info" / "intro-install_plan.json").read_text(encoding="utf-8"))
    options = json.loads(subprocess.run(["meson", "introspect", "--buildoptions", str(build)], check=True, text=True,
                                        stdout=subprocess.PIPE).stdout)
    values = {option["name"]: option["value"] for option in options}
    prefix = values["prefix"]
    places = {"{" + name + "}": str(pathlib.Path(prefix) / value) for name, value in values.items()
              if isinstance(value, str) and name.endswith("dir")}
    places["{prefix}"] = prefix
    places["{libdir_shared}"] = places["{libdir_static}"] = places["{libdir}"]
    for group in plan.values():
        for entry in group.values():
            path = entry["destination"]
            for name, value in places.items():
                path = path.replace(name, value)
            yield pathlib.Path(path)
    listed = json.loads(subprocess.run(["meson", "introspect", "--installed", str(build)], check=True, text=True,
                                       stdout=subprocess.PIPE).stdout)
    for path in listed.values():
        yield pathlib.Path(path)


def logged(build):
    """Links and aliases are only in the log of the last installation; its paths begin with its DESTDIR."""
    log = build / "meson-logs" / "install-log.txt"
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                yield pathlib.Path(line)


def under(root, path):
    """A path below DESTDIR; one that is there already stays."""
    if not root or path.is_relative_to(root):
        return path
    return pathlib.Path(root) / path.relative_to("/")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build = pathlib.Path(sys.argv[1])
    root = sys.argv[2] if len(sys.argv) > 2 else ""
    if not (build / "build.ninja").exists():
        sys.exit(f"uninstall: {build} is no build directory; nothing is known about what was installed")
    paths = {under(root, path) for path in installed(build)}
    paths |= {path for path in logged(build) if not root or path.is_relative_to(root)}
    count = 0
    for path in sorted(paths):
        if path.is_symlink() or path.is_file():
            path.unlink()
            count += 1
    # Only folders named after us can have been made for us alone.
    for folder in sorted({path.parent for path in paths}, reverse=True):
        if folder.name in ("ferry", "criu") and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    print(f"uninstall: {count} files removed")


if __name__ == "__main__":
    main()
