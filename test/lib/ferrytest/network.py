# SPDX-License-Identifier: Apache-2.0
"""A small network: a bridge in the namespace of the test, and devices that lead from it into others."""

import socket
import subprocess

BRIDGE, OUTSIDE, INSIDE = "ferry-bridge", "10.231.0.1", "10.231.0.2"
OUTSIDE6, INSIDE6 = "fd00:231::1", "fd00:231::2"


def ip(*words, of=None):
    """ip(8), in the network namespace of a process."""
    there = ["nsenter", f"--net=/proc/{of}/ns/net"] if of else []
    done = subprocess.run([*there, "ip", *map(str, words)], check=False, text=True, capture_output=True, timeout=30)
    assert done.returncode == 0, f"ip {' '.join(map(str, words))}: {done.stderr}"
    return done.stdout


def make_bridge():
    """What stays while programs come and go. Duplicate address detection would delay it."""
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
    ip("addr", "add", f"{OUTSIDE6}/64", "dev", BRIDGE, "nodad")
    ip("link", "set", BRIDGE, "up")


def connect(pid, outer="ferry-out", inner="eth0"):
    """A pair of devices from the bridge into the namespace of a process, with an address there."""
    ip("link", "add", outer, "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", inner, "address", "02:00:00:00:00:02",
       "netns", pid)
    ip("link", "set", outer, "master", BRIDGE, "up")
    ip("link", "set", "lo", "up", of=pid)
    ip("addr", "add", f"{INSIDE}/24", "dev", inner, of=pid)
    ip("addr", "add", f"{INSIDE6}/64", "dev", inner, "nodad", of=pid)
    ip("link", "set", inner, "up", of=pid)


def devices(pid=None):
    """Names of the network devices that a process sees."""
    return [line.split(":")[1].strip().partition("@")[0] for line in ip("-o", "link", of=pid).splitlines()]


def free_port():
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]
