#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Images that build on others: chains of any length, those that are broken, and what CRIU makes of them."""

import os
import pathlib
import shutil
import subprocess

from ferrytest import Criu, Ferry, Program, main, test
from ferrytest.chain import Chain, contents, split, stored_pages
from ferrytest.image import decode, encode
from ferrytest.leftovers import Leftovers
from ferrytest.process import wait_until
from ferrytest.snapshot import differences, snapshot

IMAGES = pathlib.Path("images")
SID = pathlib.Path(os.environ.get("FERRY_CRIU_SID") or pathlib.Path(os.environ.get("FERRY_BUILD", ".")) / "criu-sid")
BAD = (1, 3)  # exit statuses of a restore that refuses an image
PROGRAMS = ("heap-stack", "vma-anon", "vma-file", "vma-shared", "memfd-mapped", "huge-transparent", "tree", "threads")


def there_and_back(name, dumper, restorer, n_rounds):
    """A program whose image was made a chain proves its memory afterwards."""
    program = Program(name)
    watch = Leftovers(program.pid)
    pids = program.tree()
    IMAGES.mkdir(exist_ok=True)
    dumper.dump(program.pid, IMAGES)
    program.wait_gone(pids)
    chain = split(IMAGES, n_rounds, seed=n_rounds)
    assert chain.pages() > chain.pages(-1)
    verified = Ferry().run("image", "verify", IMAGES)
    assert verified.returncode == 0, verified
    restorer.restore(IMAGES)
    program.verify()
    program.finish()
    watch.check(expected=[*(folder.absolute() for folder in chain.folders), program.folder,
                          *map(pathlib.Path, dumper.leaves + restorer.leaves)])
    program.quit()
    chain.remove()


if os.environ.get("FERRY"):
    @test(timeout=120)
    def lengths():
        """Of two rounds, of some, of more than anybody makes."""
        for n_rounds in (2, 3, 7, 60):
            there_and_back("heap-stack", Ferry(), Ferry(), n_rounds)

    @test(timeout=180)
    def programs():
        """Private memory, of files and of none, shared memory, several processes."""
        for name in PROGRAMS:
            there_and_back(name, Ferry(), Ferry(), 4)

    @test(timeout=300, needs=["criu-sid"])
    def exchange():
        """CRIU judges whether the format is right: it restores the same chains, and ferry restores chains of its images."""
        criu = Criu(SID)
        for name in PROGRAMS:
            if name == "huge-transparent":  # they come back as small ones
                continue
            there_and_back(name, Ferry(), criu, 4)
            there_and_back(name, criu, Ferry(), 3)
            there_and_back(name, criu, criu, 3)

    @test(timeout=120)
    def broken():
        """Rounds that are missing, go round in a circle, are no directories or lack pages: refused by name, and nobody runs."""
        program = Program("heap-stack")
        pids = program.tree()
        Ferry().dump(program.pid, IMAGES)
        program.wait_gone(pids)
        oldest, middle, last = split(IMAGES, 3).folders
        folders = pathlib.Path("whole")
        folders.mkdir()
        for folder in (oldest, middle, last):
            shutil.copytree(folder, folders / folder.name, symlinks=True)
        name = f"pagemap-{program.pid}.img"

        def refused(text, how, *more, status=BAD):
            how(*more)
            done = Ferry().run("restore", "-D", IMAGES, "-d")
            assert done.returncode in status and text in done.stderr, f"{text}: {done.returncode} {done.stderr}"
            verified = Ferry().run("image", "verify", IMAGES)
            assert verified.returncode, f"{text}: {verified.stdout}"
            assert not any(os.path.exists(f"/proc/{pid}") for pid in pids), f"{text}: somebody runs"
            for folder in (oldest, middle, last):
                if folder.is_symlink() or folder.is_file():
                    folder.unlink()
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(folders / folder.name, folder, symlinks=True)

        def lead(folder, target):
            (folder / "parent").unlink(missing_ok=True)
            if target:
                (folder / "parent").symlink_to(target)

        def file_at(folder):
            shutil.rmtree(folder)
            folder.write_text("no folder")

        def change(folder, how):
            content = decode(folder / name)
            how(content["entries"])
            assert encode(folder / name, content)

        def cut(folder):
            path = folder / f"pages-{decode(folder / name)['entries'][0]['pages_id']}.img"
            os.truncate(path, 0)

        def elsewhere(folder):
            path = folder / f"pages-{decode(folder / name)['entries'][0]['pages_id']}.img"
            path.rename("pages")
            path.symlink_to(pathlib.Path("pages").absolute())

        def wrong(entries):
            entries[1]["flags"] = 5

        def lazy(entries):
            for entry in entries[1:]:
                entry["flags"] = 2

        refused("cannot open the image 'images/parent' that 'images' builds on", shutil.rmtree, middle)
        refused("cannot open the image 'images/parent/parent' that 'images/parent' builds on", shutil.rmtree, oldest)
        refused("refers to pages of a parent image, but there is none", lead, middle, None)
        refused("leads back to an image that builds on it", lead, oldest, "../images")
        refused("leads back to an image that builds on it", lead, oldest, ".")
        refused("leads back to an image that builds on it", lead, last, ".")
        refused("Too many levels of symbolic links", lead, middle, "parent")
        refused("Not a directory", lead, middle, f"../{oldest.name}/{name}")
        refused("Not a directory", file_at, oldest)
        refused("refers to pages of a pagemap that is not there", (middle / name).unlink)
        refused("which has none there", change, oldest, lambda entries: entries.pop(1))
        refused("which has none there", change, middle, lambda entries: entries.pop(2))
        refused("which has none there", lead, last, f"../{oldest.name}")
        refused("is to come from a page server", change, oldest, lazy)
        refused("are both here and in the parent", change, oldest, wrong)
        refused("truncated", cut, oldest)
        refused("Too many levels of symbolic links", elsewhere, middle)
        refused("a dump into it did not end", (middle / "ferry-unfinished").write_text, "")
        # A round itself is no image of processes, but nothing is wrong with it.
        done = Ferry().run("restore", "-D", oldest, "-d")
        assert done.returncode == 3 and "it is a round before a dump" in done.stderr, done
        for verb in ("verify", "show"):
            done = Ferry().run("image", verb, oldest)
            assert done.returncode == 0 and "a round before a dump" in done.stdout, done
        done = Ferry().run("image", "show", IMAGES)
        assert done.returncode == 0 and f"builds on {middle.absolute()}\n  builds on {oldest.absolute()}\n" in done.stdout, done
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()

    def chain_of(name, n_rounds, dumper):
        """A program's image as a chain, and who has to be there afterwards."""
        program = Program(name)
        pids = program.tree()
        IMAGES.mkdir(exist_ok=True)
        dumper.dump(program.pid, IMAGES)
        program.wait_gone(pids)
        return program, split(IMAGES, n_rounds, seed=3)

    def dedup(folder, **more):
        """ferry dedup; its report."""
        ferry = Ferry()
        return ferry.report("ferry dedup", ferry.run("dedup", "-D", folder, "--json", **more))

    def smaller(chain, before):
        """All older rounds lost what younger ones have; the last one lost nothing."""
        return (chain.disk_bytes(-1) == before[-1] and
                all(chain.disk_bytes(number) < before[number] for number in range(len(before) - 1)))

    def deduplicated(name, dumper, worker, restorer):
        """The chain has the same memory afterwards, and restores."""
        program, chain = chain_of(name, 4, dumper)
        before, whole = [chain.disk_bytes(number) for number in range(4)], contents(chain.last)
        sizes = [[path.stat().st_size for path in sorted(folder.glob("pages-*.img"))] for folder in chain.folders]
        worker(chain.last)
        assert smaller(chain, before), f"{before} {[chain.disk_bytes(number) for number in range(4)]}"
        assert sizes == [[path.stat().st_size for path in sorted(folder.glob("pages-*.img"))] for folder in chain.folders]
        assert contents(chain.last) == whole
        done = Ferry().run("image", "verify", chain.last)
        assert done.returncode == 0, done
        restorer.restore(chain.last)
        program.verify()
        program.finish()
        program.quit()
        chain.remove()

    @test(timeout=120)
    def dedup_programs():
        """What a younger round has is taken out of older ones, and the memory is the same."""
        for name in PROGRAMS:
            deduplicated(name, Ferry(), dedup, Ferry())

    @test(timeout=240, needs=["criu-sid"])
    def dedup_exchange():
        """CRIU restores what ferry deduplicated, and the reverse."""
        criu = Criu(SID)

        def dedup_by_criu(folder):
            done = criu.run("dedup", "-D", folder)
            assert done.returncode == 0, done

        for name in ("heap-stack", "vma-file", "tree"):  # CRIU leaves shared memory as it is
            deduplicated(name, criu, dedup, criu)
            deduplicated(name, Ferry(), dedup, criu)
            deduplicated(name, criu, dedup_by_criu, Ferry())

    @test(timeout=120)
    def dedup_again():
        """Nothing is left to take out; older rounds restore no more by themselves; a chain that leads past the image does not either."""
        program, chain = chain_of("heap-stack", 4, Ferry())
        oldest, _, middle, last = chain.folders
        other = pathlib.Path("other")
        shutil.copytree(last, other, symlinks=True)
        (other / "ferry-manifest.img").unlink()  # has no id any more
        report = dedup(last)
        assert report["images"] == 3 and report["bytes"] > 0, report
        assert dedup(last) == {"images": 3, "bytes": 0}
        for folder in (oldest, middle):
            done = Ferry().run("image", "verify", folder)
            assert done.returncode and "were taken out, since a later image has them" in done.stdout + done.stderr, done
        done = Ferry().run("image", "verify", other)
        assert done.returncode and "were taken out, since a later image has them" in done.stderr + done.stdout, done
        # A file with another name belongs to somebody else, too.
        os.link(next(middle.glob("pages-*.img")), "elsewhere")
        done = Ferry().run("dedup", "-D", last)
        assert done.returncode == 3 and "other images may need its pages" in done.stderr, done
        # One round less is one too few, and nothing changes.
        os.unlink("elsewhere")
        whole = contents(last)
        oldest.rename("away")
        done = Ferry().run("dedup", "-D", last)
        assert done.returncode == 3 and "cannot open the image" in done.stderr, done
        pathlib.Path("away").rename(oldest)
        assert contents(last) == whole
        Ferry().restore(last, more=("--auto-dedup",))
        assert all(chain.disk_bytes(number) == 0 for number in range(4))
        program.verify()
        program.quit()
        done = Ferry().run("restore", "-D", last, "-d", "--again")
        assert done.returncode in BAD and "were taken out when it was restored" in done.stderr, done

    @test(timeout=300)
    def dedup_killed():
        """Wherever dedup is killed, the chain has the same memory, and the next one does the rest."""
        program, chain = chain_of("vma-shared", 3, Ferry())
        whole, before = contents(chain.last), [chain.disk_bytes(number) for number in range(3)]
        number, last = 0, None
        while last is None or last.returncode < 0:
            number += 1
            folder = pathlib.Path(f"copy-{number}")
            folder.mkdir()
            copy = chain.copy(folder)
            last = Ferry().run("dedup", "-D", copy.last, environment={"FERRY_KILL_AT": str(number)})
            assert contents(copy.last) == whole, number
            done = Ferry().run("image", "verify", copy.last)
            assert done.returncode == 0, done
            dedup(copy.last)
            assert contents(copy.last) == whole and smaller(copy, before), number
            if last.returncode < 0:
                shutil.rmtree(folder)
        assert last.returncode == 0 and number > 6, (last, number)
        print(f"killed at {number - 1} places")
        Ferry().restore(copy.last)
        program.verify()
        program.quit()

    def dumped_as_chain(name, restorer, more=()):
        """Images of a tree that runs on, each on the one before, and what the last one restores."""
        program = Program(name)
        watch = Leftovers(program.pid)
        pids = program.tree()
        folders = [pathlib.Path(f"dump-{number}") for number in range(3)]
        Ferry().dump(program.pid, folders[0], leave_running=True, more=("--track-mem",))
        program.verify()
        Ferry().dump(program.pid, folders[1], leave_running=True, more=("--track-mem", "--prev-images-dir", "../dump-0", *more))
        program.verify()
        Ferry().dump(program.pid, folders[2], more=("--prev-images-dir", "../dump-1", *more))
        program.wait_gone(pids)
        chain = Chain(folders)
        shared = [stored_pages(folder, "pagemap-shmem-*.img") for folder in folders]
        assert not shared[0] or shared[0] > 2 * shared[1] and shared[0] > 2 * shared[2], f"{name}: {shared}"
        private = [stored_pages(folder, "pagemap-[0-9]*.img") for folder in folders]
        assert private[0] > private[1] and private[0] > private[2], f"{name}: {private}"
        done = Ferry().run("image", "verify", folders[2])
        assert done.returncode == 0, done
        restorer.restore(folders[2], more=() if isinstance(restorer, Criu) else ("--files=as-found",))
        program.verify()
        program.finish()
        watch.check(expected=[*(folder.absolute() for folder in folders), program.folder, *map(pathlib.Path, restorer.leaves)])
        program.quit()
        chain.remove()
        return shared[0]

    @test(timeout=180)
    def dumps():
        """Dumps that build on each other: shared memory takes part, and pages that younger images have go from older ones."""
        for name in PROGRAMS:
            dumped_as_chain(name, Ferry())
        assert dumped_as_chain("vma-shared", Ferry(), ("--auto-dedup",)), "nothing was shared"

    @test(timeout=180, needs=["criu-sid"])
    def dumps_exchange():
        """CRIU restores what ferry dumped as a chain."""
        for name in PROGRAMS:
            if name != "huge-transparent":
                dumped_as_chain(name, Criu(SID))
        dumped_as_chain("vma-shared", Criu(SID), ("--auto-dedup",))

    def changing(way):
        """A program that changes its memory between dumps that build on each other."""
        program = Program("rounds", way)
        for number in range(3):
            before = ("--prev-images-dir", f"../dump-{number - 1}") if number else ()
            Ferry().dump(program.pid, f"dump-{number}", leave_running=True, more=("--track-mem", *before))
            path = program.folder / "change"
            path.touch()
            wait_until(lambda path=path: not path.exists(), "the program does not change its memory")
        pids = program.tree()
        program.verify()
        volatile = program.volatile()
        seen = snapshot(program.pid, volatile)
        Ferry().dump(program.pid, "dump-3", more=("--prev-images-dir", "../dump-2"))
        program.wait_gone(pids)
        Ferry().restore("dump-3")
        found = differences(seen, snapshot(program.pid, volatile))
        assert not found, "; ".join(found[:12])
        program.verify()
        program.quit()

    @test(timeout=60)
    def changing_shared():
        """Shared memory that changed is stored, what did not is compared."""
        changing("shared")

    def forked_between(restorer):
        """A child that was made since the image before has in common with its parent what the parent has of older images."""
        program = Program("rounds", "fork")

        def change():
            path = program.folder / "change"
            path.touch()
            wait_until(lambda: not path.exists(), "the program does not change its memory")

        Ferry().dump(program.pid, "dump-0", leave_running=True, more=("--track-mem",))
        for number in (1, 2):
            change()
            before = ("--prev-images-dir", f"../dump-{number - 1}")
            if number == 1:
                Ferry().dump(program.pid, "dump-1", leave_running=True, more=("--track-mem", *before))
        pids = program.tree()
        child = next(pid for pid in pids if pid != program.pid)
        program.verify()
        volatile = program.volatile()
        seen = snapshot(program.pid, volatile)
        Ferry().dump(program.pid, "dump-2", more=before)
        program.wait_gone(pids)
        last = pathlib.Path("dump-2")
        assert (last / "ferry-parent").readlink() == pathlib.Path("../dump-1")
        assert (last / "parent").readlink() == pathlib.Path("ferry-family")
        child_map = f"pagemap-{child}.img"
        assert stored_pages(last, child_map) * 4 < len(contents(last)[child_map]), stored_pages(last, child_map)
        done = Ferry().run("image", "verify", last)
        assert done.returncode == 0, done
        # Who knows nothing of families finds the same pages.
        whole = contents(last)
        for name in ("parent", "ferry-family"):
            (last / name).rename(f"away-{name}")
        (last / "parent").symlink_to("ferry-family")
        done = Ferry().run("image", "verify", last)
        assert done.returncode == 0, done
        (last / "parent").unlink()
        for name in ("parent", "ferry-family"):
            pathlib.Path(f"away-{name}").rename(last / name)
        dedup(last)
        assert contents(last) == whole
        restorer.restore(last)
        found = differences(seen, snapshot(program.pid, volatile))
        # CRIU makes shared memory of memfds.
        found = [line for line in found if not (isinstance(restorer, Criu) and "/memfd:" in line)]
        assert not found, "; ".join(found[:12])
        program.verify()
        program.quit()

    @test(timeout=60)
    def little_space():
        """What an older image has takes no space again, so it need not be free."""
        program = Program("rounds")
        pathlib.Path("small").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", "small"], check=True)
        Ferry().dump(program.pid, "small/first", leave_running=True, more=("--track-mem",))
        done = Ferry().run("dump", "-t", program.pid, "-D", "small/full", "-R")
        assert done.returncode == 3 and "[no-space]" in done.stderr, done
        assert not pathlib.Path("small/full").exists()
        pids = program.tree()
        Ferry().dump(program.pid, "small/second", more=("--prev-images-dir", "../first"))
        program.wait_gone(pids)
        Ferry().restore("small/second")
        program.verify()
        program.quit()
        subprocess.run(["umount", "small"], check=True)

    @test(timeout=60)
    def forked():
        """Ferry restores it."""
        forked_between(Ferry())

    @test(timeout=60, needs=["criu-sid"])
    def forked_exchange():
        """CRIU, too, by links that say the same."""
        forked_between(Criu(SID))


if __name__ == "__main__":
    main()
