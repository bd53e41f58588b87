# SPDX-License-Identifier: Apache-2.0
"""cgroups of containers: the hierarchies are those of the machine, and other tests have theirs there."""

import os
import pathlib

TOP = pathlib.Path("/sys/fs/cgroup")


def places(path):
    """A group in every hierarchy that has it."""
    return [place for place in (TOP / path[1:], *(base / path[1:] for base in TOP.iterdir() if base.is_dir())) if place.is_dir()]


def remove(path):
    """With all that is below. Whoever is in one makes it stay."""
    for place in places(path):
        for folder in sorted((place, *(below for below in place.glob("**/") if below.is_dir())), reverse=True):
            try:
                folder.rmdir()
            except OSError:
                continue


def own(word):
    """Path of a group that no other test has now; one before it may have left some."""
    path = f"/ferry-test-{os.readlink('/proc/self/ns/pid')[5:-1]}-{word}"
    remove(path)
    return path
