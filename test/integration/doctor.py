#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry doctor: which programs engines would start, by a PATH and files that are made up, what is found, and the self-test."""

import json
import os
import pathlib
import shutil
import subprocess

from ferrytest import main, test

BASE = pathlib.Path("doctor").absolute()
FERRY = pathlib.Path(os.environ["FERRY"]).absolute()


class World:
    """A folder of programs, and one that takes the place of /etc."""

    def __init__(self, name):
        self.programs = BASE / name / "bin"
        self.etc = BASE / name / "etc"
        shutil.rmtree(BASE / name, ignore_errors=True)
        self.programs.mkdir(parents=True)
        self.etc.mkdir()

    def program(self, name, says=""):
        """A program that says that, whatever it is asked."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\nprintf '{says}'\n", encoding="ascii")
        path.chmod(0o755)

    def file(self, name, text):
        """A file of /etc."""
        path = self.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")

    def ask(self, *before, **environment):
        """(what the doctor says as JSON, exit status)"""
        inside = f"mount --bind {self.etc} /etc && PATH={self.programs} && exec {' '.join(before)} {FERRY} doctor --json"
        own = {"HOME": str(self.etc), "TMPDIR": str(self.etc.parent)}
        done = subprocess.run(["unshare", "--mount", "sh", "-c", inside], text=True, capture_output=True, stdin=subprocess.DEVNULL,
                              timeout=60, check=False, env={**os.environ, **own, **environment})
        assert done.returncode in (0, 1) and not done.stderr, done
        said = json.loads(done.stdout)
        assert said["healthy"] == (done.returncode == 0)
        return {one["name"]: one for one in said["engines"]}, said["findings"], said["self_test"]


def found(findings, text):
    """The one finding with that in it."""
    those = [one for one in findings if text in one["text"]]
    assert len(those) == 1, (text, findings)
    return those[0]


@test(timeout=60)
def nothing():
    """Without any engine there is nothing to say of them, and the self-test moves a process."""
    engines, findings, trip = World("nothing").ask()
    assert not engines and not [one for one in findings if one["level"] == "failure"], findings
    assert trip["moved"] and trip["dump_ns"] > 0 and trip["restore_ns"] > 0, trip
    left = [str(path) for folder in BASE.glob("*/ferry-doctor-*") for path in (folder, *folder.rglob("*"))]
    assert not left, left


@test(timeout=60)
def engines_and_criu():
    """runc starts criu of PATH: none, another one, ferry."""
    world = World("criu")
    world.program("runc")
    world.program("lxc-checkpoint")
    engines, findings, _ = world.ask()
    assert engines["runc"]["criu"] is None and engines["lxc"]["runtime"] is None
    one = found(findings, "no criu in PATH")
    assert one["about"] == "runc, lxc" and one["level"] == "failure" and "CRIU_COMPAT=1" in one["fix"], one
    world.program("criu", "Version: 3.17.1\\n")
    engines, findings, _ = world.ask()
    assert engines["runc"]["criu"] == str(world.programs / "criu") and engines["runc"]["criu_version"] == "3.17.1"
    assert not engines["runc"]["criu_is_ferry"] and found(findings, "not ferry")["level"] == "warning"
    world.program("criu", "nonsense\\n")
    assert found(world.ask()[1], "does not tell its version")["level"] == "failure"
    world.program("criu", "")
    (world.programs / "criu").write_text("#!/bin/sh\nexec sleep 1000\n", encoding="ascii")
    found(world.ask()[1], "does not tell its version")
    (world.programs / "criu").unlink()
    (world.programs / "criu").symlink_to(FERRY)
    engines, findings, _ = world.ask()
    assert engines["runc"]["criu_is_ferry"] and engines["runc"]["criu_version"] == "4.2", engines
    assert not [one for one in findings if one["about"].startswith("runc")], findings


@test(timeout=60)
def runtimes():
    """podman's and docker's runtimes come from their files; a crun without checkpoints and one without its library are found."""
    world = World("runtimes")
    (world.programs / "criu").symlink_to(FERRY)
    world.program("crun", "crun version 1.8.1\\n+SYSTEMD +CAP\\n")
    world.program("podman")
    world.program("dockerd")
    engines, findings, _ = world.ask()
    assert engines["podman"]["runtime"] == str(world.programs / "crun")
    one = found(findings, "without checkpoints")
    assert one["about"] == "crun, podman" and "--runtime runc" in one["fix"], one
    assert found(findings, "experimental features")["about"] == "docker"
    assert found(findings, "runtime 'runc' is not in PATH")["about"] == "docker"
    world.program("runc")
    world.file("containers/containers.conf", '# nothing\n[containers]\nruntime = "crun"\n[engine]\n  runtime = "runc" # it is\n')
    world.file("docker/daemon.json", '{"experimental": true, "default-runtime": "other", "runtimes": {"other": {"path": "crun"}}}')
    engines, findings, _ = world.ask()
    assert engines["podman"]["runtime"] == str(world.programs / "runc"), engines
    assert engines["docker"]["runtime"] == str(world.programs / "crun"), engines
    assert not [one for one in findings if "experimental" in one["text"]]
    world.file("own.conf", '[engine]\nruntime = "crun"\n')
    engines = world.ask(CONTAINERS_CONF="/etc/own.conf")[0]
    assert engines["podman"]["runtime"] == str(world.programs / "crun"), engines
    # A crun that can: the loader finds its library, or not.
    world.program("crun", "crun version 1.28\\n+SYSTEMD +CRIU\\n")
    built = pathlib.Path(os.environ["FERRY_BUILD"]) / "src/compat/libcriu"
    engines, findings, _ = world.ask(LD_LIBRARY_PATH=str(built))
    assert engines["crun"]["libcriu"] == str(built / "libcriu.so.2"), engines
    assert not [one for one in findings if "libcriu" in one["text"]], findings
    engines, findings, _ = world.ask(LD_LIBRARY_PATH="")
    if engines["crun"]["libcriu"] is None:
        assert found(findings, "no libcriu.so.2")["level"] == "failure"


@test(timeout=60)
def rights():
    """Rights that are missing are named, with what that costs."""
    world = World("rights")
    setpriv = shutil.which("setpriv")
    _, findings, trip = world.ask(setpriv, "--bounding-set=-sys_resource,-net_admin", "--inh-caps=-sys_resource,-net_admin")
    assert "default_ulimits" in found(findings, "CAP_SYS_RESOURCE is missing")["fix"]
    assert found(findings, "CAP_NET_ADMIN is missing")["level"] == "warning" and trip["moved"]
    _, findings, _ = world.ask(setpriv, "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    assert found(findings, "CAP_SYS_ADMIN is missing")["level"] == "failure"
    done = subprocess.run([FERRY, "doctor"], text=True, capture_output=True, timeout=60, check=False)
    assert "self-test: a process went" in done.stdout, done


if __name__ == "__main__":
    main()
