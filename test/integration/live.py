#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Dumps that store memory while the tree runs: what was written last is in the image, whatever the tree does meanwhile."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from ferrytest import Ferry, Program, main, skip, test
from ferrytest.process import is_alive, read_text, running, tree, wait_until

IMAGES = pathlib.Path("images")
ROUND = "ferry-round-1"
FLAT, MOVED, COPY, BEFORE = (pathlib.Path(name) for name in ("flat", "moved", "copy", "before"))
PAGE = 4096
PE_PARENT, PE_PRESENT = 1, 4  # flags of a run of pages
# Writes the policy of scheduling of who stops the tree to the file that is named.
POLICIES = """import os, pathlib, sys
pids = [p.parent.name for p in pathlib.Path("/proc").glob("[0-9]*/comm") if p.read_text() == "ferry-worker\\n"]
pathlib.Path(sys.argv[1]).write_text(" ".join(str(os.sched_getscheduler(int(pid))) for pid in pids))
"""


def end(program):
    """All of it, at once."""
    pids = program.tree()
    program.kill()
    program.wait_gone(pids)


def come_back(program):
    """It ends, and runs again from its image, with all of its memory."""
    end(program)
    Ferry().restore(IMAGES)
    program.process = None
    program.verify()


def named(root, comm):
    """Who of a tree has this name."""
    return [pid for pid in tree(root) if read_text(f"/proc/{pid}/comm") == f"{comm}\n"]


def kill(pids):
    """The first of them, if there is one, and it is still there."""
    try:
        os.kill(pids[0], signal.SIGKILL)
        return True
    except (IndexError, ProcessLookupError):
        return False


def work(pid, seconds):
    """Let a process use its processors for so long, however busy they are."""
    def used():
        fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    until = used() + seconds
    wait_until(lambda: used() >= until, "it does nothing", 60)


def stored(path):
    """Bytes of the pages files in a directory."""
    return sum(file.stat().st_size for file in path.glob("pages-*.img"))


def resolve(folder, name):
    """What a pagemap has, by address: references lead to that of the same name in the folder 'parent'."""
    decoded = subprocess.run([os.environ["FERRY"], "image", "decode", folder / name], check=True, capture_output=True)
    head, *entries = json.loads(decoded.stdout)["entries"]
    whole = (folder / f"pages-{head['pages_id']}.img").read_bytes()
    older = resolve(folder / "parent", name) if any(entry["flags"] & PE_PARENT for entry in entries) else {}
    pages, offset = {}, 0
    for entry in entries:
        for number in range(entry["nr_pages"]):
            address = entry["vaddr"] + number * PAGE
            if entry["flags"] & PE_PARENT:
                pages[address] = older[address]
            else:
                assert entry["flags"] & PE_PRESENT, entry
                pages[address] = whole[offset:offset + PAGE]
                offset += PAGE
    return pages


def compare(images, copy):
    """Every page of an image with the copy that was taken in the same freeze. Returns how many there are."""
    seen = 0
    for path in copy.glob("pagemap-[0-9]*.img"):
        is_there, should_be = (resolve(folder, path.name) for folder in (images, copy))
        zero = bytes(PAGE)
        for address in is_there.keys() | should_be.keys():
            assert is_there.get(address, zero) == should_be.get(address, zero), \
                f"{path.name}: the page at {address:#x} differs from the frozen copy"
        seen += len(should_be)
    return seen


def snapshots(count):
    """
    A tree that does not rest is dumped, goes on, and each image is it at one instant: every page as it was in the very freeze, by a
    full copy that refers to nothing, and as its thread left it.
    """
    for number in range(count):
        program = Program("restless-pages")
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R", "--json", "-v", environment={"FERRY_FULL_COPY": str(COPY)})
        assert done.returncode == 0 and json.loads(done.stdout).get("rounds"), done
        # A child that was just forked makes it a family.
        assert (IMAGES / ROUND).is_dir() and os.readlink(IMAGES / "parent").startswith(("ferry-round-", "ferry-family")), done
        program.verify()
        end(program)
        try:
            seen = compare(IMAGES, COPY)
            assert seen > 4 * 1500, seen
            Ferry().restore(IMAGES)
            program.process = None
            program.verify()
            program.verify()
        except AssertionError as error:
            raise AssertionError(f"image {number}: {error}") from error
        end(program)
        shutil.rmtree(IMAGES)
        shutil.rmtree(COPY)


def running_as(name):
    """Processes of that name."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"({name})" in text and text.rpartition(")")[2].split()[0] != "Z":
            found.append(int(path.parent.name))
    return found


def sweep(program, images, *words, step=1):
    """Kill a command at each (or each third, say) of its effects, itself and all of its processes in turn. Yields after each."""
    effects = pathlib.Path("effects")
    for number in range(1, 1000, step):
        shutil.rmtree(images, ignore_errors=True)
        effects.unlink(missing_ok=True)
        done = subprocess.run(["setsid", "-w", Ferry().path, *map(str, words)], check=False, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60, env={**os.environ, "FERRY_KILL_AT": str(number), "FERRY_EFFECT_LOG": str(effects),
                                                          "FERRY_KILL_VICTIM": "group" if number % 2 else "self"})
        program.verify()
        yield number, done
        if len(effects.read_text().splitlines()) < number:
            assert not done.returncode, (number, done)
            return
    raise AssertionError("it never ends")


if os.environ.get("FERRY"):
    test(name="restless", timeout=120)(lambda: snapshots(4))
    test(name="restless-500", timeout=3600, tier="soak")(lambda: snapshots(500))

    @test(timeout=60)
    def chosen():
        """Rounds are for trees that have some memory, unless one wants none."""
        program = Program("large")
        Ferry().dump(program.pid, IMAGES, leave_running=True, more=("--no-live",))
        assert not (IMAGES / ROUND).exists()
        shutil.rmtree(IMAGES)
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        assert (IMAGES / ROUND).exists()
        done = Ferry().run("image", "verify", IMAGES)
        assert done.returncode == 0, done
        # What another dump left is gone with it.
        Ferry().dump(program.pid, IMAGES, leave_running=True, more=("--overwrite", "--no-live"))
        assert not (IMAGES / ROUND).exists() and not (IMAGES / "parent").exists()
        end(program)
        small = Program("pipes")
        Ferry().dump(small.pid, IMAGES, leave_running=True, more=("--overwrite",))
        assert not (IMAGES / ROUND).exists()
        end(small)

    @test(timeout=60)
    def first():
        """While a tree stands that is to run on, the one that waits for processors is not ferry; else it takes its turn."""
        program = Program("large")
        lister = pathlib.Path("policies.py")
        lister.write_text(POLICIES)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        except PermissionError:
            skip("no other policy of scheduling is allowed")
        for words, policy in ((("--no-live", ), os.SCHED_OTHER), ((), os.SCHED_FIFO)):
            more = (*words, "--overwrite", "--hook", f"{sys.executable} {lister.absolute()} {pathlib.Path('seen').absolute()}")
            Ferry().dump(program.pid, IMAGES, leave_running=True, more=more)
            assert pathlib.Path("seen").read_text().split() == [str(policy)], (words, pathlib.Path("seen").read_text())
        wait_until(lambda: not running(Ferry().path), "a ferry does not end")
        assert os.sched_getscheduler(program.pid) == os.SCHED_OTHER
        end(program)

    @test(timeout=60)
    def ended():
        """A dump that ends the tree has rounds, too; what the tree stood still for is little of it. Files alone are no image."""
        program = Program("large")
        pids = program.tree()
        result = Ferry().dump(program.pid, IMAGES)
        program.wait_gone(pids)
        assert (IMAGES / ROUND).is_dir() and os.readlink(IMAGES / "parent") == f"ferry-round-{len(result['rounds'])}", result
        assert stored(IMAGES / ROUND) > 10 * stored(IMAGES), (stored(IMAGES / ROUND), stored(IMAGES))
        assert result["rounds"][0]["pages"] > 10 * result["pages_written"], result
        FLAT.mkdir()
        for path in IMAGES.iterdir():
            if path.is_file():
                shutil.copy2(path, FLAT)
        done = Ferry().run("restore", "-D", FLAT, "-d")
        assert done.returncode in (1, 3) and "parent" in done.stderr, done
        # With everything in it the image may lie anywhere.
        shutil.move(IMAGES, MOVED)
        Ferry().restore(MOVED)
        program.process = None
        program.verify()
        program.finish()
        end(program)

    @test(timeout=60)
    def family():
        """What a family has in common is stored once: of its head, in a round; its child refers to it, and needs no round."""
        program = Program("large", "child")
        pids = program.tree()
        assert len(pids) == 2, pids
        Ferry().dump(program.pid, IMAGES)
        program.wait_gone(pids)
        rounds = sorted(IMAGES.glob("ferry-round-*"))
        assert rounds and all(len(list(path.glob("pagemap-*.img"))) == 1 for path in rounds), list(IMAGES.rglob("*"))
        alone = stored(rounds[0])
        assert stored(IMAGES) + sum(stored(path) for path in rounds) < 1.2 * alone, (stored(IMAGES), alone)
        Ferry().restore(IMAGES)
        program.process = None
        program.verify()
        program.finish()
        end(program)
        shutil.rmtree(IMAGES)
        # One that goes on stores what it wrote last only when the tree runs, which must not be too late for the child.
        program = Program("large", "child")
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        assert stored(IMAGES) + sum(stored(path) for path in IMAGES.glob("ferry-round-*")) < 1.2 * alone, (stored(IMAGES), alone)
        come_back(program)
        end(program)

    @test(timeout=120)
    def budget():
        """How many rounds there are follows from what they leave: one that rests takes one; one that never does is told about."""
        program = Program("large")
        result = Ferry().dump(program.pid, IMAGES, leave_running=True, more=("--freeze-budget", "10000"))
        assert len(result["rounds"]) == 1 and result["predicted_ns"] < 10e9, result
        # Nothing is within it, and there is nothing left either.
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R", "--overwrite", "--json", "--freeze-budget", "0")
        assert done.returncode == 0 and "not 0, for what is no tracked memory" in done.stderr, done
        assert len(json.loads(done.stdout)["rounds"]) <= 2, done.stdout
        end(program)
        program = Program("restless-pages")
        # One that gets no processor, since others work, writes too little.
        for _ in range(30):
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R", "--overwrite", "--json", "--freeze-budget", "0")
            assert done.returncode == 0 and "stand still for about" in done.stderr, done
            if "it will stand still for about" in done.stderr:
                break
        else:
            raise AssertionError(done)
        rounds = json.loads(done.stdout)["rounds"]
        assert 1 <= len(rounds) <= 16 and all(one["ns"] > 0 for one in rounds), rounds
        program.verify()
        come_back(program)
        end(program)
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--freeze-budget", "soon")
        assert done.returncode == 2 and "--freeze-budget" in done.stderr, done

    @test(timeout=60)
    def throttled():
        """What writes faster than it is stored is slowed down where one allows that, until little is left; it is never stopped for long."""
        program = Program("restless-pages")

        def dump(*words):
            result = Ferry().dump(program.pid, IMAGES, leave_running=True, more=(*words, "--freeze-budget", "0", "--overwrite"))
            program.verify()
            return result

        assert not dump()["throttled_ns"]
        # One that gets no processor, since others work, writes too little to be slowed down.
        for _ in range(30):
            result = dump("--throttle", "95")
            if result["throttled_ns"]:
                break
        # What it wrote meanwhile is a matter of what else the machine does; how long it stood still is not.
        assert result["throttled_ns"] > result["rounds"][-1]["ns"] / 2, result
        come_back(program)
        program.verify()
        end(program)
        done = Ferry().run("dump", "-t", os.getpid(), "-D", IMAGES, "--throttle", "100")
        assert done.returncode == 2 and "--throttle" in done.stderr, done

    @test(timeout=120)
    def throttle_killed():
        """Whoever of those that slow down a tree is killed while they do, it runs on; without the one who does it the dump goes on, too."""
        program = Program("restless-pages")
        for victim in ("ferry-throttle", "ferry-worker", "ferry"):
            killed = False
            for _ in range(50):
                with subprocess.Popen([Ferry().path, "dump", "-t", str(program.pid), "-D", IMAGES, "-R", "--overwrite", "--freeze-budget",
                                       "0", "--throttle", "95"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as dump:
                    # Slowing down begins after some rounds, and may be over soon.
                    while dump.poll() is None and not killed:
                        if named(dump.pid, "ferry-throttle"):
                            killed = kill(named(dump.pid, victim))
                    status = dump.wait(timeout=60)
                if killed:
                    break
            assert killed, "nobody slows it down"
            assert (status == 0) == (victim == "ferry-throttle"), (victim, status)
            wait_until(lambda: not running(Ferry().path), "somebody of ferry is left")
            program.verify()
            if not status:
                assert Ferry().run("image", "verify", IMAGES).returncode == 0
        end(program)

    @test(timeout=120)
    def failed():
        """Whatever fails in a round, the tree runs on and nothing stays."""
        program = Program("large")
        for name in ("seize", "pages-read", "image-write", "image-sync", "read-back", "inject-call", "inject-map"):
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R", environment={"FERRY_FAULT": name})
            assert done.returncode in (1, 3), (name, done)
            assert not IMAGES.exists() or not list(IMAGES.iterdir()), (name, list(IMAGES.iterdir()))
            program.verify()
        program.quit()

    @test(timeout=300)
    def killed():
        """A dump that is killed at any effect leaves no image; the next one takes its place."""
        program = Program("large")
        for number in range(1, 400):
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R", environment={"FERRY_KILL_AT": str(number)})
            if not done.returncode:
                break
            assert not (IMAGES / "inventory.img").exists() or number > 20, number
            program.verify()
            if (IMAGES / "inventory.img").exists():
                shutil.rmtree(IMAGES)
        assert 20 < number < 399, number
        wait_until(lambda: is_alive(program.pid), "it is gone")
        come_back(program)
        program.finish()
        end(program)

    @test(timeout=300)
    def stages():
        """
        A pre-dump, and a dump that goes on with what it tracked, killed at each effect: whoever is left over, the program is as it was,
        nothing of it stays protected without a keeper, and the next image is right, with or without the one before.
        """
        program = Program("large")
        effects = pathlib.Path("effects")
        before = ["pre-dump", "-t", program.pid, "-D", BEFORE, "--overwrite"]
        done = Ferry().run(*before, environment={"FERRY_EFFECT_LOG": str(effects)})
        stages = {line.split(" ", 2)[2] for line in effects.read_text().splitlines()}
        assert not done.returncode and {"track start-keeper", "track arm", "track hand-over", "track keep"} <= stages, stages
        for number, done in sweep(program, BEFORE, *before):
            assert not done.returncode or number < 200, done
        builds_on = ["dump", "-t", program.pid, "-D", IMAGES, "-R", "--track-mem", "--prev-images-dir", f"../{BEFORE}"]
        full = 0
        for number, done in sweep(program, IMAGES, *builds_on):
            full += "so this image is a full one" in done.stderr
            # The keeper may have been told to end: then there has to be another round, or the next image is full.
            if number % 3 == 0:
                assert not Ferry().run(*before).returncode
        assert number > 30 and full, (number, full)
        come_back(program)
        program.finish()
        end(program)

    @test(timeout=300)
    def keeper_victim():
        """
        The keeper of the image before killed at each effect of a dump that builds on it: the dump makes an image that has
        every page as it was in the freeze, and the program runs on with nothing protected.
        """
        program = Program("large")
        for number in range(1, 400):
            for path in (BEFORE, IMAGES, COPY):
                shutil.rmtree(path, ignore_errors=True)
            assert not Ferry().run("pre-dump", "-t", program.pid, "-D", BEFORE).returncode
            keeper, = running_as("ferry-keeper")
            effects = pathlib.Path("effects")
            effects.unlink(missing_ok=True)
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R", "--prev-images-dir", f"../{BEFORE}", "--no-live",
                               environment={"FERRY_KILL_AT": str(number), "FERRY_KILL_VICTIM": str(keeper),
                                            "FERRY_FULL_COPY": str(COPY), "FERRY_EFFECT_LOG": str(effects)})
            assert done.returncode == 0, (number, done)
            assert compare(IMAGES, COPY) > 1000, number
            program.verify()
            wait_until(lambda: not running_as("ferry-keeper"), f"a keeper lives after {number}")
            if len(effects.read_text().splitlines()) < number:
                break
        assert 20 < number < 399, number
        come_back(program)
        program.finish()
        end(program)

    @test(timeout=300)
    def stages_on_top():
        """The same of a dump that has rounds of its own on top of the image before."""
        effects = pathlib.Path("effects")
        program = Program("restless-pages")

        def stage_before():
            done = Ferry().run("pre-dump", "-t", program.pid, "-D", BEFORE, "--overwrite")
            assert not done.returncode and not done.stderr, done
            # There are rounds only where much was written since.
            work(program.pid, 0.2)

        stage_before()
        for number, _ in sweep(program, IMAGES, "dump", "-t", program.pid, "-D", IMAGES, "-R", "--track-mem", "--prev-images-dir",
                               f"../{BEFORE}", step=3):
            # A dump that comes to its end spends the keeper, too, and does so when it is a helper of it that was killed.
            if len(effects.read_text().splitlines()) >= number:
                stage_before()
        assert number > 40, number
        assert (IMAGES / ROUND / "parent").resolve() == BEFORE.resolve(), "its rounds build on nothing"
        come_back(program)
        program.verify()
        end(program)


if __name__ == "__main__":
    main()
