#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Containers that move from one machine to another with their connections: engines of their own, one network."""

import json
import pathlib
import shutil

from ferrytest import main
from ferrytest.containers import groups
from ferrytest.containers.client import Client
from ferrytest.containers.criu import Named
from ferrytest.containers.nodes import machines
from ferrytest.containers.podman import Podman
from ferrytest.containers.runc import Bundle, Runc
from ferrytest.containers.scenes import register
from ferrytest.nodes import SERVICE, ip

FOLDER = pathlib.Path("containers").absolute()
PORT = 7000
# Answers with the question and how many there were, and writes that down.
SERVER = ("nc", "-ll", "-p", str(PORT), "-e", "sh", "-c",
          "i=0; exec 5> /count; while read q; do echo $q $i; echo $q >&5; i=$((i + 1)); done")


def good(node, *words):
    """A command on a node that must succeed."""
    done = node.run(*words)
    assert done.returncode == 0, f"{words} on {node.name}: {done.stderr}"


def announce(node, pid):
    """All others learn where the address of a container's network is now. pid: one of it, on the node."""
    good(node, "nsenter", "--target", pid, "--net", "busybox", "arping", "-c", "1", "-U", "-I", "eth0", SERVICE)


def moved(kind, client, lines):
    """The connection goes on, and the server has heard every question once."""
    client.goes_on()
    client.end()
    assert [int(line) for line in lines().split()] == list(range(client.answers)), (lines()[-30:], client.answers)
    print(f"{kind}: {client.answers} answers, the longest took {client.longest * 1000:.0f} ms")


def end(*nodes):
    """Of a scene."""
    for node in nodes:
        node.close()
    ip("link", "delete", "bridge")


def podman_on(node, criu):
    """podman there, with a network that can be joined to the node's."""
    podman = Podman(criu, FOLDER, node)
    podman.good("network", "create", "--subnet", "10.77.0.0/24", "--gateway", f"10.77.0.{ord(node.name)}", "far")
    return podman


def reach_out(node, podman):
    """Whoever is in the container is in one network with all others."""
    bridge = json.loads(podman.good("network", "inspect", "far").stdout)[0]["network_interface"]
    good(node, "ip", "link", "set", "eth0", "master", bridge)
    announce(node, podman.inspect("c")["State"]["Pid"])


def exported(kind):
    """From podman to podman, as a file: the same container goes on there."""
    a, b = machines()
    criu = Named(kind, FOLDER)
    one, other = podman_on(a, criu), podman_on(b, criu)
    image = FOLDER / f"image-{kind}.tar"
    one.good("save", "--output", image, one.image)
    other.good("load", "--input", image)
    one.start("c", SERVER, "--network", "far", "--ip", SERVICE)
    reach_out(a, one)
    client = Client.of((SERVICE, PORT), answer="%d %d")
    seen = one.inspect("c")["Id"]
    archive = FOLDER / f"moves-{kind}.tar"
    one.good("container", "checkpoint", "--tcp-established", "--export", archive, "c")
    one.good("rm", "c")
    other.good("container", "restore", "--tcp-established", "--import", archive)
    reach_out(b, other)
    moved(kind, client, lambda: other.good("exec", "c", "cat", "/count").stdout)
    assert other.inspect("c")["Id"] == seen
    for podman in (one, other):
        podman.end()
    end(a, b)
    return one.said, other.said


def pod(node):
    """A network namespace with the node's link and the container's address; nobody reaches it yet, whom the kernel would answer."""
    ip("link", "set", f"to-{node.name}", "nomaster")
    for words in ("netns add pod", "link set eth0 netns pod", "-n pod link set lo up", f"-n pod address add {SERVICE}/24 dev eth0",
                  "-n pod link set eth0 up"):
        good(node, "ip", *words.split())


def plug_in(node, runc):
    """Now one does."""
    ip("link", "set", f"to-{node.name}", "master", "bridge")
    announce(node, runc.pid("moves"))


def copied(kind):
    """From runc to runc: a folder with the image, another with the container's files."""
    a, b = machines()
    criu, group = Named(kind, FOLDER), groups.own("moves")

    def change(config):
        config["linux"]["cgroupsPath"] = group
        for ns in config["linux"]["namespaces"]:
            if ns["type"] == "network":
                ns["path"] = "/run/netns/pod"

    bundle = Bundle(FOLDER / f"bundle-{kind}", SERVER, change)
    one, other = (Runc(criu, "/run", node=node) for node in (a, b))
    for node in (a, b):
        pod(node)
    one.start(bundle, "moves")
    plug_in(a, one)
    client = Client.of((SERVICE, PORT), answer="%d %d")
    images, there = FOLDER / f"images-{kind}", FOLDER / f"there-{kind}"
    one.checkpoint("moves", images, "--tcp-established")
    assert one.status("moves") is None
    shutil.copytree(images, there)
    shutil.move(bundle.folder, bundle.folder.with_name(f"bundle-{kind}-there"))
    bundle.folder = bundle.folder.with_name(f"bundle-{kind}-there")
    other.restore(bundle, "moves", there, "--tcp-established")
    plug_in(b, other)
    moved(kind, client, lambda: (bundle.folder / "rootfs/count").read_text())
    other.end("moves")
    end(a, b)
    return one.said, other.said


SCENES = {"exported": exported, "copied": copied}


register(SCENES)

if __name__ == "__main__":
    main()
