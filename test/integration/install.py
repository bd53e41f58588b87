#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Installing ferry in CRIU's place, by make and by Debian's packages, and taking it away again."""

import os
import pathlib
import shutil
import subprocess

from ferrytest import main, skip, test

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BASE = pathlib.Path("install").absolute()
ENVIRONMENT = {**os.environ, "NO_INSTALL": "1", "JOBS": str(os.cpu_count() or 2)}


def run(*words, good=True, **more):
    """A command's output."""
    done = subprocess.run([str(word) for word in words], text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=900, check=False, env={**ENVIRONMENT, **more.pop("env", {})}, **more)
    assert (done.returncode == 0) == good, (words, done.returncode, done.stdout[-3000:])
    return done.stdout


def files(root):
    """Everything but folders."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


def contents(package):
    """Paths in a package."""
    return {line.split()[5][2:] for line in run("dpkg-deb", "--contents", package).splitlines() if not line.split()[5].endswith("/")}


def field(package, name):
    """Of its control file."""
    return run("dpkg-deb", "--field", package, name).strip()


class Root:
    """An empty system of dpkg's own."""

    def __init__(self, path):
        self.path = path
        for folder in ("info", "updates", "triggers"):
            (path / "var/lib/dpkg" / folder).mkdir(parents=True)
        (path / "var/lib/dpkg/status").touch()

    def dpkg(self, *words, good=True):
        """dpkg for it; what packages need of others is not there."""
        return run("dpkg", f"--root={self.path}", "--force-depends", "--log=/dev/null", *words, good=good)

    def files(self):
        """All but dpkg's own."""
        return {name for name in files(self.path) if not name.startswith("var/lib/dpkg/")}


def made_criu(folder):
    """A package criu with the files of Debian's that others look for."""
    root = folder / "criu"
    for name in ("usr/sbin/criu", "usr/lib/x86_64-linux-gnu/libcriu.so.2"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("#!/bin/sh\necho Version: 3.17.1\n", encoding="ascii")
        (root / name).chmod(0o755)
    (root / "DEBIAN").mkdir()
    control = "Package: criu\nVersion: 3.17.1-2\nArchitecture: all\nMaintainer: nobody\nDescription: the other one\n"
    (root / "DEBIAN/control").write_text(control, encoding="ascii")
    run("dpkg-deb", "--root-owner-group", "--build", root, folder / "criu.deb")
    return folder / "criu.deb"


@test(timeout=900)
def packages():
    """make deb: ferry and ferry-criu, which takes the place of criu and gives it back; then make install and make uninstall of the same."""
    if not shutil.which("dpkg-deb") or not shutil.which("dpkg-shlibdeps"):
        skip("no tools to make Debian packages")
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.mkdir()
    run(SOURCE / "packaging/debian/build.sh", BASE / "deb")
    made = {path.name.partition("_")[0]: path for path in (BASE / "deb").glob("*.deb")}
    assert set(made) == {"ferry", "ferry-criu", "libferry-dev"}, made
    in_place = contents(made["ferry-criu"])
    for name in ("usr/sbin/criu", "usr/lib/x86_64-linux-gnu/libcriu.so.2", "usr/include/criu/criu.h",
                 "usr/lib/x86_64-linux-gnu/pkgconfig/criu.pc"):
        assert name in in_place, (name, in_place)
    assert not contents(made["ferry"]) & in_place
    ours = contents(made["ferry"])
    for name in ("usr/bin/ferry", "usr/share/bash-completion/completions/ferry", "usr/share/man/man1/ferry-doctor.1.gz"):
        assert name in ours, (name, ours)
    assert "libssl" in field(made["ferry"], "Depends") and "libprotobuf-c1" in field(made["ferry-criu"], "Depends")
    assert "criu (= 4.2)" in field(made["ferry-criu"], "Provides")

    root = Root(BASE / "root")
    criu = made_criu(BASE)
    root.dpkg("--install", criu)
    before = root.files()
    # In the place of the other, in one step.
    root.dpkg("--install", made["ferry"], made["ferry-criu"])
    states = run("dpkg-query", f"--admindir={root.path}/var/lib/dpkg", "-W", "-f", "${Package} ${db:Status-Abbrev}\n")
    assert [line.split()[0] for line in states.splitlines() if line.split()[1] == "ii"] == ["ferry", "ferry-criu"], states
    said = run(root.path / "usr/sbin/criu", "--version")
    assert "ferry: " in said and said.startswith("Version: 4.2"), said
    run(root.path / "usr/bin/ferry", "--version")
    root.dpkg("--purge", "ferry-criu")
    assert not [name for name in root.files() if "criu" in name and "ferry" not in name], root.files()
    root.dpkg("--purge", "ferry")
    assert not root.files(), root.files()
    root.dpkg("--install", criu)
    assert root.files() == before
    assert run(root.path / "usr/sbin/criu") == "Version: 3.17.1\n"
    by_make(BASE / "deb/build")


# In a mount namespace of its own: what is written to these folders is nobody else's.
INSIDE = """
set -e
for folder in usr/local etc var/cache/ldconfig; do
	mkdir -p "$LAYERS/$folder/upper" "$LAYERS/$folder/work"
	[ -d "/$folder" ] || continue
	mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$LAYERS/$folder/upper,workdir=$LAYERS/$folder/work" "/$folder"
done
list() { find /usr/local ! -type d | LC_ALL=C sort; }
list >"$LAYERS/before"
sbin_criu=$(ls -la /usr/sbin/criu 2>/dev/null || true)
make -C "$SOURCE" --no-print-directory install BUILD="$BUILD" PREFIX=/usr/local CRIU_COMPAT=1
list >"$LAYERS/with"
PATH=/usr/local/sbin:/usr/local/bin:$PATH
[ "$(command -v criu)" = /usr/local/sbin/criu ]
criu --version
[ "$sbin_criu" = "$(ls -la /usr/sbin/criu 2>/dev/null || true)" ]
ldconfig -p | grep -q 'libcriu.so.2 .*/usr/local/lib/libcriu.so.2'
printf '#include <criu.h>\\nint main(void) { return criu_init_opts() < 0 || criu_check_version(40200) != 1; }\\n' >"$LAYERS/use.c"
PKG_CONFIG_PATH=/usr/local/lib/pkgconfig
export PKG_CONFIG_PATH
cc -o "$LAYERS/use" "$LAYERS/use.c" $(pkg-config --cflags --libs criu)
"$LAYERS/use"
make -C "$SOURCE" --no-print-directory uninstall BUILD="$BUILD"
list >"$LAYERS/after"
! ldconfig -p | grep -q /usr/local/lib/libcriu
[ ! -e /usr/local/include/criu ]
"""


def by_make(build):
    """make install CRIU_COMPAT=1 and make uninstall, of a build that is there."""
    layers = BASE / "layers"
    layers.mkdir()
    said = run("unshare", "--mount", "sh", "-c", INSIDE, env={"LAYERS": str(layers), "SOURCE": str(SOURCE), "BUILD": str(build)})
    assert "ferry: " in said, said
    before, between, after = ((layers / name).read_text(encoding="utf-8").splitlines() for name in ("before", "with", "after"))
    new = set(between) - set(before)
    assert "/usr/local/sbin/criu" in new and "/usr/local/lib/libcriu.so.2" in new and "/usr/local/include/criu/criu.h" in new, new
    assert after == before, set(after) ^ set(before)


if __name__ == "__main__":
    main()
