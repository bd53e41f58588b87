#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images as CRIU writes them where ferry writes something else; that ferry restores what CRIU dumps is integration/interop."""

import json
import os
import pathlib
import shutil
import subprocess

from ferrytest import Ferry, image, main, test
from ferrytest.leftovers import may_write
from ferrytest.process import is_alive, running, wait_until
from ferrytest.program import Program

IMAGES = pathlib.Path("images")
KEPT = pathlib.Path("kept")
LINKED = 9000  # ids of the records of links start here


def decode(name):
    """The records of a file, as Python has them."""
    return json.loads(Ferry().run("image", "decode", IMAGES / name).stdout)


def encode(name, content):
    """The file of these records."""
    pathlib.Path("content").write_text(json.dumps(content))
    subprocess.run([os.environ["FERRY"], "image", "encode", "-i", "content", "-o", IMAGES / name], check=True)


def by_inode(folder):
    """A name for each inode below a folder."""
    return {path.stat().st_ino: path for path in folder.rglob("*") if path.is_file()}


def with_links(program):
    """A dump as CRIU makes it with --link-remap: what lost the name by which it was opened gets a link for the time being,
    and nothing else tells which file it is. Returns the links."""
    Ferry().dump(program.pid, IMAGES)
    program.reap()
    lost = {entry["id"]: entry["ino"] for entry in decode("ferry-file.img")["entries"] if entry.get("deleted")}
    names, files, remaps = by_inode(program.folder), decode("files.img"), []
    links = []
    for entry in [entry for entry in files["entries"] if entry["id"] in lost]:
        link = program.folder / f"link_remap.{entry['id']}"
        links.append(link)
        os.link(names[lost[entry["id"]]], link)
        number = LINKED + entry["id"]
        files["entries"].append({**entry, "id": number, "reg": {**entry["reg"], "id": number, "name": str(link)}})
        remaps.append({"orig_id": entry["id"], "remap_id": number, "remap_type": "LINKED"})
    encode("files.img", files)
    encode("remap-fpath.img", {"magic": "REMAP_FPATH", "entries": remaps})
    for path in IMAGES.glob("ferry-*.img"):
        path.unlink()
    assert len(links) == 4, links
    return links


def nothing_else(program):
    """The names in the program's folder, without its answers."""
    mine = {path.absolute() for path in may_write(program)}
    return sorted(path for path in program.folder.rglob("*") if path.absolute() not in mine)


if os.environ.get("FERRY"):
    @test(timeout=60)
    def links():
        """They lead to the files, and go."""
        program = Program("link-other")
        program.verify()
        names = nothing_else(program)
        with_links(program)
        Ferry().restore(IMAGES)
        assert nothing_else(program) == names, nothing_else(program)
        program.verify()
        program.finish()
        program.quit()

    @test(timeout=120)
    def links_killed():
        """Killed at each effect: the links stay until the program runs, and then they are gone."""
        program = Program("link-other")
        program.verify()
        names = nothing_else(program)
        made = with_links(program)
        shutil.copytree(IMAGES, KEPT)
        number, runs = 0, False
        while not runs:
            number += 1
            shutil.rmtree(IMAGES)
            shutil.copytree(KEPT, IMAGES)
            Ferry().run("restore", "-D", IMAGES, "-d", environment={"FERRY_KILL_AT": str(number)})
            wait_until(lambda: not running(Ferry().path), "a ferry does not end")
            runs = (IMAGES / "ferry-restored").exists()
            wait_until(lambda: is_alive(program.pid) == runs, f"kill {number}: the image says {runs}")  # pylint: disable=W0640
            assert nothing_else(program) == (names if runs else sorted(names + made)), f"kill {number}, it runs: {runs}"
        assert number > 3, "the first kills hit nothing"
        program.verify()
        program.quit()

    @test(timeout=60)
    def watched_by_handle():
        """An image that tells no paths of what is watched: the handles lead there, on the file system that the record names."""
        program = Program("inotify")
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        whole = image.decode(IMAGES / "files.img")
        watches = [watch for entry in whole["entries"] for watch in entry.get("ify", {}).get("wd", [])]
        assert watches and all(watch["f_handle"].pop("path", None) for watch in watches), watches
        for change in ({"s_dev": 0}, {}):
            kept = {id(watch): dict(watch) for watch in watches}
            for watch in watches:
                watch.update(change)
            assert image.encode(IMAGES / "files.img", whole)
            image.seal(IMAGES, ["files.img"])
            for watch in watches:
                watch.update(kept[id(watch)])
            if change:
                done = Ferry().run("restore", "-D", IMAGES, "-d")
                assert done.returncode and "which is watched" in done.stderr, done
                assert not is_alive(program.pid)
        Ferry().restore(IMAGES)
        program.verify()
        program.finish()
        program.quit()


if __name__ == "__main__":
    main()
