#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Chains of images whose pages go to a page server: each side has its own directories, and together they restore every page."""

import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import threading

from ferrytest import Criu, Ferry, Program, main, test, wait_until
from ferrytest.chain import contents, stored_pages
from ferrytest.engine import note_refusal
from ferrytest.image import MANIFEST, decode, encode, seal
from ferrytest.pageserver import SID, CriuServer, PageServer, take
from ferrytest.process import read_text
from ferrytest.snapshot import differences, snapshot

HERE, THERE, COPY = pathlib.Path("here"), pathlib.Path("there"), pathlib.Path("copy")
PAGES = 800  # that the program has written at first, or some more
FULL = "is a full one"
LAST = "final"


def change(program):
    """Have the program change its memory, as it does."""
    path = program.folder / "change"
    path.touch()
    wait_until(lambda: not path.exists(), "the program does not change its memory")


def send(what, program, name, *more, before=None, server_class=PageServer, environment=None):
    """A dump or pre-dump, and the server that it sends its pages to: what became of both."""
    builds_on = ("--prev-images-dir", f"../{before}") if before else ()
    HERE.mkdir(exist_ok=True)
    THERE.mkdir(exist_ok=True)
    server = server_class(THERE / name, *builds_on)
    command = ["setsid", "-w", Ferry().path, what, "-t", str(program.pid), "-D", HERE / name, "--json", "--page-server", server.address,
               *builds_on, *more]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          env={**os.environ, **(environment or {})})
    note_refusal(done)
    if done.returncode and server_class is CriuServer:
        server.process.kill()  # it waits for the next one
    return done, server.end()


def sent(*arguments, **more):
    """The same, when all is well: (report, what was said)."""
    done, (status, out, said) = send(*arguments, **more)
    report = Ferry().report("ferry", done)
    assert status == 0, f"{out} {said}"
    return report, done.stderr


def beside(*names):
    """What each side has of these images becomes one directory, where the server has it."""
    for name in names:
        for path in (HERE / name).iterdir():
            target = THERE / name / path.name
            target.unlink(missing_ok=True)
            if not path.is_socket():
                path.rename(target)
        shutil.rmtree(HERE / name)


def end(program):
    """All of it, at once."""
    pids = program.tree()
    program.kill()
    program.wait_gone(pids)


def compare(images, copy):
    """Every page of private memory with a copy that was taken in the same freeze and refers to nothing. Returns how many there are."""
    found, wanted = contents(images), contents(copy)
    zero, seen = bytes(4096), 0
    for name, pages in wanted.items():
        for address in pages.keys() | found[name].keys():
            assert pages.get(address, zero) == found[name].get(address, zero), f"{name}: the page at {address:#x} differs"
        seen += len(pages)
    return seen


def keepers():
    """Processes that keep something."""
    return [path.parent.name for path in pathlib.Path("/proc").glob("[0-9]*/comm") if read_text(path) == "ferry-keeper\n"]


def chain(way, restorer, server_class=PageServer):
    """Two pre-dumps and a dump, each page of which is compared, before and after the restore."""
    program = Program("rounds", way)
    report, said = sent("pre-dump", program, "0", server_class=server_class)
    assert report["pages_written"] >= PAGES and not said and not list(HERE.glob("*/page*.img")), (report, said)
    for number in (1, 2):
        change(program)
        report, said = sent("pre-dump", program, str(number), before=str(number - 1), server_class=server_class)
        assert not said, said
        assert stored_pages(THERE / str(number), "pagemap-[0-9]*.img") == report["pages_written"], report
    change(program)
    program.verify()
    volatile = program.volatile()
    seen = snapshot(program.pid, volatile)
    pids = program.tree()
    report, said = sent("dump", program, LAST, before="2", server_class=server_class,
                        environment={"FERRY_FULL_COPY": str(COPY.absolute())})
    program.wait_gone(pids)
    assert not said and not list(HERE.glob("*/page*.img")), said
    beside("0", "1", "2", LAST)
    pages = compare(THERE / LAST, COPY)
    assert pages > 100 and (way != "write" or pages > 3 * report["pages_written"]), (pages, report)
    done = Ferry().run("image", "verify", THERE / LAST)
    assert done.returncode == 0, done
    restorer.restore((THERE / LAST).absolute(), more=() if isinstance(restorer, Criu) else ("--files=as-found",))
    found = differences(seen, snapshot(program.pid, volatile))
    # CRIU makes shared memory of memfds.
    found = [line for line in found if not (isinstance(restorer, Criu) and "/memfd:" in line)]
    assert not found, "; ".join(found[:12])
    program.verify()
    wait_until(lambda: not keepers(), "a keeper does not end with the tree")
    program.quit()
    for folder in (HERE, THERE, COPY):
        shutil.rmtree(folder)


def refused(text, *arguments, status=3, **more):
    """The dump says why, nothing is there, and the tree runs on."""
    program, name = arguments[1:3]
    done, (server_status, _, said) = send(*arguments, **more)
    assert done.returncode == status and text in done.stderr, done
    assert server_status in (1, 3) and not (HERE / name).exists() and not (THERE / name).exists(), said
    program.verify()
    return said


def whole(number, status):
    """Killed when the image was complete: then the server has stored it, and it is as good as any."""
    assert status == 0, number
    folder = pathlib.Path("together")
    shutil.copytree(THERE, folder, symlinks=True)
    for name in ("0", "1"):
        shutil.copytree(HERE / name, folder / name, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock", "parent"))
    done = Ferry().run("image", "verify", folder / "1")
    assert done.returncode == 0, (number, done)
    shutil.rmtree(folder)


class Killer:
    """Between ferry and a page server: after so many messages the server is killed, and what it had said is all that was heard."""

    def __init__(self, server, after):
        self.server, self.after, self.messages = server, after, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        """One connection."""
        with self.listening, self.listening.accept()[0] as here, \
                socket.create_connection(("127.0.0.1", int(self.server.port))) as there:
            try:
                while True:
                    head = take(here, 32)
                    if self.messages == self.after:
                        self.server.process.kill()
                        self.server.process.wait()
                        return
                    self.messages += 1
                    there.sendall(head)
                    command, _, pages, _, _ = struct.unpack("=IIQQQ", head)
                    if command & 0xffff == 6 and command >> 16 & 4:
                        there.sendall(take(here, pages * 4096))
                    answer = {4: 1, 5: 4, 0x1023: 4}.get(command & 0xffff, 0)
                    here.sendall(take(there, answer))
            except (AssertionError, OSError):
                return  # one of them has ended


if os.environ.get("FERRY"):
    def add(way):
        """One test for each."""
        test(timeout=120, name=way)(lambda: chain(way, Ferry()))

    for each in ("write", "replace", "move", "drop", "fork", "shared", "file", "grow", "huge"):
        add(each)

    def add_exchange(way, restorer):
        """CRIU takes the pages; it, or ferry, restores them."""
        test(timeout=120, needs=["criu-sid"], name=f"{way}-criu-{restorer.name}")(lambda: chain(way, restorer, CriuServer))

    for each in ("write", "drop"):
        for with_whom in (Ferry(), Criu(SID)):
            add_exchange(each, with_whom)

    @test(timeout=60, needs=["criu-sid"])
    def restored_by_criu():
        """What ferry's server took."""
        chain("write", Criu(SID))

    @test(timeout=120)
    def running_on():
        """Dumps of a tree that runs on build on each other, shared memory included; each has its own pages."""
        program = Program("rounds", "shared")
        more = ("-R", "--track-mem")
        sent("dump", program, "0", *more)
        for number in (1, 2):
            change(program)
            report, said = sent("dump", program, str(number), *more, before=str(number - 1))
            assert report["pages_written"] == stored_pages(THERE / str(number), "pagemap-*.img") and not said, (report, said)
        program.verify()
        end(program)
        beside("0", "1", "2")
        Ferry().restore(THERE / "2")
        program.verify()
        program.quit()

    @test(timeout=60)
    def mixed():
        """A round that is stored here and copied, then one that is sent; and back, once its pages are beside it."""
        program = Program("rounds")
        done = Ferry().run("pre-dump", "-t", program.pid, "-D", HERE / "0")
        assert done.returncode == 3 or not HERE.exists()
        HERE.mkdir()
        done = Ferry().run("pre-dump", "-t", program.pid, "-D", HERE / "0")
        assert done.returncode == 0, done
        shutil.copytree(HERE / "0", THERE / "0", ignore=shutil.ignore_patterns("*.sock"))
        change(program)
        report, said = sent("pre-dump", program, "1", before="0")
        assert report["pages_written"] < PAGES / 4 and not said, (report, said)
        change(program)
        local = ("pre-dump", "-t", program.pid, "-D", HERE / "2", "--prev-images-dir", "../1", "--json")
        done = Ferry().run(*local)
        assert done.returncode == 3 and "went to a page server" in done.stderr and not (HERE / "2").exists(), done
        shutil.copytree(THERE / "1", HERE / "1", symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("parent"))
        report = Ferry().report("ferry pre-dump", Ferry().run(*local))
        assert report["pages_written"] < PAGES / 4, report
        change(program)
        pids = program.tree()
        Ferry().dump(program.pid, HERE / LAST, more=("--prev-images-dir", "../2"))
        program.wait_gone(pids)
        Ferry().restore(HERE / LAST)
        program.verify()
        program.quit()

    @test(timeout=120)
    def not_so():
        """What the server has not, or has of another image, is not referred to; nothing was stopped for it."""
        program = Program("rounds")
        sent("pre-dump", program, "0")
        name = f"pagemap-{program.pid}.img"
        lacks = "does not have what the image before has"
        # The wrong directory: of another dump.
        sent("pre-dump", Program("rounds"), "other")
        shutil.copytree(THERE / "other", "other", symlinks=True)
        shutil.copy(THERE / "0" / name, THERE / "other" / name)
        (THERE / "other").rename("wrong")
        (THERE / "0").rename("right")
        pathlib.Path("other").rename(THERE / "0")
        said = refused(lacks, "dump", program, LAST, before="0")
        assert "it is from another dump" in said, said
        # Less than there should be.
        shutil.rmtree(THERE / "0")
        pathlib.Path("right").rename(THERE / "0")
        kept = (THERE / "0" / name).rename(pathlib.Path("map").absolute())
        (THERE / "0" / "ferry-pages.img").rename("list")
        refused(lacks, "dump", program, LAST, before="0")
        # Nor what has fewer pages: found out while the tree stands.
        decoded = decode(kept)
        head, *runs = decoded["entries"]
        pages = THERE / "0" / f"pages-{head['pages_id']}.img"
        whole = pages.read_bytes()
        # Without the longest run: of that at least something was not written since.
        longest = max(range(len(runs)), key=lambda i: runs[i]["nr_pages"])
        starts = [4096 * sum(entry["nr_pages"] for entry in runs[:i]) for i in (longest, longest + 1)]
        decoded["entries"] = [head, *runs[:longest], *runs[longest + 1:]]
        pages.write_bytes(whole[:starts[0]] + whole[starts[1]:])
        assert encode(THERE / "0" / name, decoded)
        done, (_, _, said) = send("dump", program, LAST, before="0")
        assert done.returncode == 1 and "ended before it had all pages" in done.stderr and not (HERE / LAST).exists(), done
        assert "the image before does not have all of these pages" in said and not (THERE / LAST).exists(), said
        program.verify()
        pages.write_bytes(whole)
        kept.rename(THERE / "0" / name)
        pathlib.Path("list").rename(THERE / "0" / "ferry-pages.img")
        # A server that has no image before.
        server = PageServer(THERE / LAST)
        done = Ferry().run("dump", "-t", program.pid, "-D", HERE / LAST, "--page-server", server.address, "--prev-images-dir", "../0")
        assert done.returncode == 3 and lacks in done.stderr and server.end()[0] == 1, done
        # A list of pages that is not the one that was written.
        coverage = HERE / "0" / "ferry-coverage.img"
        whole = coverage.read_bytes()
        other = whole[:-1] + bytes([whole[-1] ^ 2])
        for broken, texts in ((other, ("not what was written", "no such pages")), (whole[:-1], ("not the",)), (None, ("missing",))):
            coverage.unlink()
            if broken:
                coverage.write_bytes(broken)
            done, _ = send("dump", program, LAST, before="0")
            assert done.returncode in (1, 3) and any(text in done.stderr for text in texts) and not (HERE / LAST).exists(), done
            coverage.write_bytes(whole)
        # Lists that cannot be.
        manifest = HERE / "0" / MANIFEST
        sealed = manifest.read_bytes()
        for number, change_it in enumerate((lambda e: e.update(start=e["start"] + 1), lambda e: e["pages"].insert(0, 0),
                                            lambda e: e["pages"].append(1 << 63), lambda e: e.update(start=(1 << 64) - 4096))):
            listed = decode(coverage)
            change_it(listed["entries"][0])
            assert encode(coverage, listed)
            seal(HERE / "0", {coverage.name})
            done, _ = send("dump", program, LAST, before="0")
            assert done.returncode in (1, 3) and "no such pages" in done.stderr and not (HERE / LAST).exists(), (number, done)
            coverage.write_bytes(whole)
            manifest.write_bytes(sealed)
        # After all that the keeper is still there, and what it tracked is right.
        program.verify()
        pids = program.tree()
        report, said = sent("dump", program, LAST, before="0")
        assert report["pages_written"] < PAGES / 4 and not said, (report, said)
        program.wait_gone(pids)
        beside("0", LAST)
        Ferry().restore(THERE / LAST)
        program.verify()
        program.quit()

    @test(timeout=60)
    def damaged():
        """Pages that came are compared with what the server wrote down of them, and belong to one image."""
        program = Program("rounds")
        sent("pre-dump", program, "0")
        change(program)
        pids = program.tree()
        sent("dump", program, LAST, before="0")
        program.wait_gone(pids)
        beside("0", LAST)
        for folder in ("0", LAST):
            path = next((THERE / folder).glob("pages-*.img"))
            whole = path.read_bytes()
            path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
            done = Ferry().run("image", "verify", THERE / LAST)
            assert done.returncode in (1, 3) and "is not what was written" in done.stdout + done.stderr, done
            path.write_bytes(whole)
        both = [THERE / folder / "ferry-pages.img" for folder in ("0", LAST)]
        whole = both[1].read_bytes()
        shutil.copy(*both)
        done = Ferry().run("restore", "-D", THERE / LAST, "-d")
        assert done.returncode in (1, 3) and "lists pages of another image" in done.stderr, done
        both[1].write_bytes(whole)
        Ferry().restore(THERE / LAST)
        program.verify()
        program.quit()

    @test(timeout=60)
    def keeper_killed():
        """Without a keeper the next image is a full one, over the wire as well."""
        program = Program("rounds")
        sent("pre-dump", program, "0")
        os.kill(int(keepers()[0]), signal.SIGKILL)
        wait_until(lambda: not keepers(), "the keeper lives")
        change(program)
        pids = program.tree()
        report, said = sent("dump", program, LAST, before="0")
        assert FULL in said and report["pages_written"] > PAGES, (report, said)
        program.wait_gone(pids)
        beside(LAST)
        (THERE / LAST / "parent").unlink(missing_ok=True)
        Ferry().restore(THERE / LAST)
        program.verify()
        program.quit()

    @test(timeout=300)
    def keeper_victim():
        """
        The keeper of the round before killed at each effect of a dump that is sent: the image has every page as it was in the freeze,
        and nothing of the program stays protected.
        """
        program = Program("rounds")
        effects, number = pathlib.Path("effects"), 0
        while True:
            number += 1
            for folder in (HERE, THERE, COPY):
                shutil.rmtree(folder, ignore_errors=True)
            effects.unlink(missing_ok=True)
            sent("pre-dump", program, "0")
            change(program)
            keeper, = keepers()
            sent("dump", program, "1", "-R", before="0", environment={
                "FERRY_KILL_AT": str(number), "FERRY_KILL_VICTIM": keeper, "FERRY_FULL_COPY": str(COPY.absolute()),
                "FERRY_EFFECT_LOG": str(effects.absolute())})
            assert compare(THERE / "1", COPY) > PAGES, number
            program.verify()
            wait_until(lambda: not keepers(), "a keeper lives")
            if len(effects.read_text().splitlines()) < number:
                break
        assert number > 10, number
        end(program)
        beside("0", "1")
        Ferry().restore(THERE / "1")
        program.verify()
        program.quit()

    @test(timeout=300)
    def server_killed():
        """A server that dies after any message fails the round or the dump: the program runs on, and nothing looks whole."""
        program = Program("rounds")
        for what, more in (("pre-dump", ()), ("dump", ("-R", "--track-mem"))):
            after = 0
            while True:
                shutil.rmtree(HERE, ignore_errors=True)
                shutil.rmtree(THERE, ignore_errors=True)
                sent("pre-dump", program, "0")
                change(program)
                server = PageServer(THERE / "1", "--prev-images-dir", "../0")
                killer = Killer(server, after)
                done = Ferry().run(what, "-t", program.pid, "-D", HERE / "1", "--prev-images-dir", "../0", "--page-server",
                                   killer.address, *more)
                killer.thread.join()
                program.verify()
                if not done.returncode:
                    assert server.end()[0] == 0 and after > 3, after
                    break
                assert "page server ended before" in done.stderr and not (HERE / "1").exists(), done
                assert not (THERE / "1" / "ferry-pages.img").exists() and not (THERE / "1" / "inventory.img").exists(), after
                after += 1 if after < 12 else 7
                server.process.communicate()
        end(program)
        beside("0", "1")
        Ferry().restore(THERE / "1")
        program.verify()
        program.quit()

    @test(timeout=400)
    def stages():
        """
        A round and a dump, killed at each effect, alone or with all of their processes: the program is as it was, the server has
        ended, and what comes next is right, with or without the round before.
        """
        program = Program("rounds")
        effects = pathlib.Path("effects")
        wanted = {"dump ask-server", "image end-pages", "image coverage"}
        for what, more in (("pre-dump", ()), ("dump", ("-R", "--track-mem"))):
            number, again, full = 0, True, 0
            while True:
                number += 1
                if again:
                    shutil.rmtree(HERE, ignore_errors=True)
                    shutil.rmtree(THERE, ignore_errors=True)
                    sent("pre-dump", program, "0")
                for folder in (HERE, THERE):
                    shutil.rmtree(folder / "1", ignore_errors=True)
                effects.unlink(missing_ok=True)
                done, (status, _, _) = send(what, program, "1", *more, before="0", environment={
                    "FERRY_KILL_AT": str(number), "FERRY_KILL_VICTIM": "group" if number % 2 else "self",
                    "FERRY_EFFECT_LOG": str(effects.absolute())})
                program.verify()
                full += FULL in done.stderr
                if not done.returncode:
                    assert status == 0
                    break
                if (HERE / "1" / "inventory.img").exists():
                    whole(number, status)
                again = number % 3 == 0
            stages = {line.split(" ", 2)[2] for line in effects.read_text().splitlines()}
            assert number > 10 and full and wanted - {"dump ask-server"} <= stages, (number, full, stages)
        end(program)
        beside("0", "1")
        Ferry().restore(THERE / "1")
        program.verify()
        program.quit()


if __name__ == "__main__":
    main()
