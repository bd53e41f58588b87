# SPDX-License-Identifier: Apache-2.0
"""Tests that play one scene with CRIU and then with ferry under the name criu; what a scene returns has to be the same."""

from ferrytest.register import test


def register(scenes, ours=None, timeout=180):
    """{name: function of "criu" or "ferry"}; ours: where CRIU 4.2 fails, with ferry alone."""
    for name, scene in scenes.items():
        test(name=name, timeout=timeout, needs=["criu-sid"])(lambda scene=scene: compare(scene))
    for name, scene in (ours or {}).items():
        test(name=name, timeout=120)(lambda scene=scene: scene("ferry"))


def compare(scene):
    """The test."""
    assert scene("criu") == scene("ferry")
