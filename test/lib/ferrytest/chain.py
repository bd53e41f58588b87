# SPDX-License-Identifier: Apache-2.0
"""An image made into a chain of rounds, as incremental dumps leave them: independent of what ferry writes."""

import pathlib
import random
import shutil
import subprocess

from ferrytest.image import MANIFEST, decode, encode, seal

PAGE = 4096
PARENT, PRESENT = 1, 4


class Chain:
    """The folders of a chain, the oldest first; the last one is the image that is restored."""

    def __init__(self, folders):
        self.folders = folders

    @property
    def last(self):
        """What is restored."""
        return self.folders[-1]

    def pages(self, round_number=None):
        """How many pages are stored, in one round or in all."""
        folders = self.folders if round_number is None else [self.folders[round_number]]
        return sum(path.stat().st_size for folder in folders for path in folder.glob("pages-*.img")) // PAGE

    def disk_bytes(self, round_number):
        """What the pages of a round take on the file system."""
        return sum(path.stat().st_blocks * 512 for path in self.folders[round_number].glob("pages-*.img"))

    def copy(self, to):
        """The same chain in another folder; a copy has the holes that this one has."""
        for folder in self.folders:
            subprocess.run(["cp", "--archive", "--sparse=auto", folder, to], check=True)
        return Chain([to / folder.name for folder in self.folders])

    def remove(self):
        """All folders."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def entries(pagemap):
    """Each page of a pagemap: (address, flags)."""
    for entry in pagemap["entries"][1:]:
        for number in range(entry.get("nr_pages") or entry["compat_nr_pages"]):
            yield entry["vaddr"] + number * PAGE, entry["flags"]


def page_bytes(folder, name):
    """Each page that a pagemap and those that its references lead to have: {address: bytes}."""
    pagemap = decode(folder / name)
    stored = (folder / f"pages-{pagemap['entries'][0]['pages_id']}.img").read_bytes()
    older, found, at = None, {}, 0
    for address, flags in entries(pagemap):
        if flags & PRESENT:
            found[address], at = stored[at:at + PAGE], at + PAGE
        else:
            older = older or page_bytes(folder / "parent", name)
            found[address] = older[address]
    return found


def contents(folder):
    """All memory that an image has, without ferry's help: {name of the pagemap: {address: bytes}}."""
    return {path.name: page_bytes(folder, path.name) for path in sorted(pathlib.Path(folder).glob("pagemap-*.img"))}


def stored_pages(folder, names):
    """How many pages the pagemaps of these names have by themselves."""
    return sum(flags & PRESENT != 0 for path in pathlib.Path(folder).glob(names) for _, flags in entries(decode(path)))


class Round:
    """One pagemap of one round, while it is put together."""

    def __init__(self, pages_id):
        self.records = [{"pages_id": pages_id}]
        self.bytes = []

    def add(self, address, flags, data=b""):
        """One page, behind the others."""
        last = self.records[-1]
        if "vaddr" in last and last["flags"] == flags and last["vaddr"] + last["nr_pages"] * PAGE == address:
            last["nr_pages"] += 1
        else:
            self.records.append({"vaddr": address, "compat_nr_pages": 0, "flags": flags, "nr_pages": 1})
        self.bytes.append(data)


def split_pagemap(path, n_rounds, dice):
    """One pagemap as n_rounds of them. A page is in one round, older rounds have other bytes or none there, younger ones refer to it."""
    pagemap = decode(path)
    pages_id = pagemap["entries"][0]["pages_id"]
    stored = (path.parent / f"pages-{pages_id}.img").read_bytes()
    rounds = [Round(pages_id) for _ in range(n_rounds)]
    home, hole = 0, False
    for index, (address, flags) in enumerate(entries(pagemap)):
        assert flags & PRESENT, f"{path.name} is split already"
        data = stored[index * PAGE:(index + 1) * PAGE]
        # The first pages come from each round in turn, of the others neighbours mostly from the same one.
        if index < n_rounds:
            home = index
        elif index % 8 == 0 or dice.random() < 0.1:
            home, hole = dice.randrange(n_rounds), dice.random() < 0.5
        for number, one in enumerate(rounds):
            if number == home:
                one.add(address, flags, data)
            elif number > home:
                one.add(address, PARENT)
            elif not hole:
                one.add(address, flags, bytes([0xa5 ^ number]) * PAGE)
    # What the last round does not name is not there, whatever older ones have.
    for one in rounds[:-1]:
        end = max((record["vaddr"] + record["nr_pages"] * PAGE for record in one.records[1:]), default=PAGE)
        one.add(end + PAGE, PRESENT, b"\x5a" * PAGE)
    return pagemap["magic"], rounds


def split(images, n_rounds, seed=1):
    """Make an image directory the last round of a chain; the others are made beside it."""
    images = pathlib.Path(images)
    dice = random.Random(seed)
    folders = [images.parent / f"{images.name}-{number}" for number in range(n_rounds - 1)] + [images]
    for number, folder in enumerate(folders[:-1]):
        folder.mkdir()
        # A round that a page server took has no inventory.
        if number % 2 == 0:
            shutil.copy(images / "inventory.img", folder)
    for path in sorted(images.glob("pagemap-*.img")):
        magic, rounds = split_pagemap(path, n_rounds, dice)
        for folder, one in zip(folders, rounds):
            pages = folder / f"pages-{one.records[0]['pages_id']}.img"
            pages.unlink(missing_ok=True)
            pages.write_bytes(b"".join(one.bytes))
            assert encode(folder / path.name, {"magic": magic, "entries": one.records})
    for older, younger in zip(folders, folders[1:]):
        (younger / "parent").symlink_to(f"../{older.name}")
    if (images / MANIFEST).exists():
        seal(images, {path.name for path in images.glob("page*.img")})
    return Chain(folders)
