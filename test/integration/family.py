#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Memory that a family shares is stored once, also for readers that know of parent images only."""

import json
import os
import pathlib
import shutil
import subprocess

from ferrytest import Ferry, Program, main, test
from ferrytest.leftovers import Leftovers

IMAGES = pathlib.Path("images")
SHARED = 8 << 20  # bytes that all four processes of the program have in common, but for a few pages
BAD = (1, 3)      # exit statuses of a restore that refuses an image


def stored():
    """Bytes of all pages files."""
    return sum(path.stat().st_size for path in IMAGES.glob("pages-*.img"))


def change(path, how):
    """Change the records of one file of an image."""
    decoded = subprocess.run([os.environ["FERRY"], "image", "decode", path], check=True, capture_output=True)
    content = json.loads(decoded.stdout)
    how(content["entries"])
    pathlib.Path("changed.json").write_text(json.dumps(content))
    subprocess.run([os.environ["FERRY"], "image", "encode", "-i", "changed.json", "-o", path], check=True)


if os.environ.get("FERRY"):
    @test(timeout=60)
    def once():
        """Little more than one process of four has; the image is consistent; another one in its place leaves nothing of it."""
        program = Program("family")
        watch = Leftovers(program.pid)
        Ferry().dump(program.pid, IMAGES, leave_running=True, more=("--no-live",))
        assert SHARED < stored() < SHARED * 1.2, stored()
        links = sorted(path.name for path in (IMAGES / "parent").iterdir())
        assert len([name for name in links if name.startswith("pagemap-")]) == 3, links
        assert len([name for name in links if name.startswith("pages-")]) == 1, links
        assert all((IMAGES / "parent" / name).is_symlink() and (IMAGES / "parent" / name).exists() for name in links)
        assert Ferry().run("image", "verify", IMAGES).returncode == 0
        program.verify()
        for fault in ("pages-read", "image-write", "image-sync", "read-back"):
            done = Ferry().run("dump", "-t", program.pid, "-D", "another", environment={"FERRY_FAULT": fault})
            assert done.returncode == 1 and not pathlib.Path("another").exists(), done
        single = Program("heap-stack")
        Ferry().dump(single.pid, IMAGES, leave_running=True, more=("--overwrite",))
        assert not (IMAGES / "ferry-family").exists() and not (IMAGES / "parent").is_symlink()
        single.quit()
        program.quit()
        watch.check(expected=[IMAGES.absolute(), program.folder, single.folder])

    @test(timeout=60)
    def without_links():
        """The links are for others: an image that was copied without them is whole."""
        program = Program("family")
        pids = program.tree()
        Ferry().dump(program.pid, IMAGES)
        program.wait_gone(pids)
        shutil.rmtree(IMAGES / "ferry-family")
        (IMAGES / "parent").unlink()
        assert Ferry().run("image", "verify", IMAGES).returncode == 0
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()

    @test(timeout=60)
    def contradictions():
        """Pages of somebody who does not exist, comes later, or has none there."""
        program = Program("family")
        pids = program.tree()
        Ferry().dump(program.pid, IMAGES)
        program.wait_gone(pids)
        for name in ("ferry-manifest.img", "ferry-clocks.img"):  # the clocks tell that there has to be a manifest
            (IMAGES / name).unlink()

        def refused(path, how, text):
            whole = path.read_bytes()
            change(path, how)
            done = Ferry().run("restore", "-D", IMAGES, "-d")
            assert done.returncode in BAD and text in done.stderr, f"{text}: {done.returncode} {done.stderr}"
            verified = Ferry().run("image", "verify", IMAGES)
            assert verified.returncode, f"{text}: {verified.stdout}"
            assert not any(os.path.exists(f"/proc/{pid}") for pid in pids), f"{text}: somebody runs"
            path.write_bytes(whole)

        extra = IMAGES / f"ferry-mm-{pids[1]}.img"
        refused(extra, lambda entries: entries[0].update(pages_of=29999), "refers to pages of a pagemap that is not there")
        refused(extra, lambda entries: entries[0].update(pages_of=pids[1]), "refers to pages of a task that refers to it")
        refused(extra, lambda entries: entries[0].pop("pages_of"), "refers to pages of a parent image")
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()

if __name__ == "__main__":
    main()
