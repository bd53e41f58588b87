#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The processor of an image: the file that tells of it, as CRIU writes it, and what is said where another processor lacks something."""

import copy
import json
import os
import pathlib
import subprocess

from ferrytest import Ferry, main, test
from ferrytest.containers.criu import Named
from ferrytest.criurpc import Worker, descriptor
from ferrytest.engine import Criu
from ferrytest.pageserver import SID
from ferrytest.program import Program

FOLDER = pathlib.Path("cpuinfo").absolute()
REFUSED, MISSING = 3, 3  # exit statuses


def criu(kind, *words):
    """A command line under that name."""
    folder = FOLDER / kind
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"sbin-{kind}" / "criu"
    if not program.exists():
        Named(kind, folder)
    return subprocess.run([program, *map(str, words)], check=False, text=True, timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)


def of_this_machine():
    """What ferry writes, as JSON."""
    here = FOLDER / "here"
    here.mkdir(parents=True)
    assert Ferry().run("cpuinfo", "dump", "-D", here).returncode == 0
    return json.loads(Ferry().run("image", "decode", here / "cpuinfo.img").stdout)


def changed(whole, name, **fields):
    """A folder with such a file. fields: of the entry; capability: {word: bits that are the other way round}."""
    whole = copy.deepcopy(whole)
    entry = whole["entries"][0]["x86_entry"][0]
    for word, bits in fields.pop("capability", {}).items():
        entry["capability"][word] ^= bits
    entry.update(fields)
    folder = FOLDER / name
    folder.mkdir()
    (folder / "cpuinfo.json").write_text(json.dumps(whole))
    done = Ferry().run("image", "encode", folder / "cpuinfo.json", "-o", folder / "cpuinfo.img")
    assert done.returncode == 0, done
    return folder


def lacking(whole, instructions):
    """(word, bit, name) of the first of these that this processor lacks."""
    words = whole["entries"][0]["x86_entry"][0]["capability"]
    return next((word, bit, name) for word, bit, name in instructions if not words[word] >> bit & 1)


NEWER = ((9, 16, "avx512f"), (9, 27, "avx512er"), (9, 26, "avx512pf"))
OPTIONS = ((), ("--cpu-cap",), ("--cpu-cap=ins",), ("--cpu-cap=fpu",), ("--cpu-cap=cpu",), ("--cpu-cap=all",), ("--cpu-cap=^ins",),
           ("--cpu-cap=none",))


def folders():
    """Name -> (folder, what is said of it with --cpu-cap=all, or "")."""
    whole = of_this_machine()
    word, bit, name = lacking(whole, NEWER)
    return {
        "same": (FOLDER / "here", ""),
        "model": (changed(whole, "model", model=199, stepping=3, model_id="Another"), ""),
        "newer": (changed(whole, "newer", capability={word: 1 << bit}), f"instructions that this one lacks: {name}"),
        "older": (changed(whole, "older", capability={4: 1 << 20}), "differs from this one: sse4_2"),
        "unnamed": (changed(whole, "unnamed", capability={3: 1 << 5}), "differs from this one: bit 5 of word 3"),
        "state": (changed(whole, "state", xfeatures_mask=whole["entries"][0]["x86_entry"][0]["xfeatures_mask"] | 1 << 18),
                  "floating point state that this one lacks: amx-tiledata"),
    }


@test(needs=["criu-sid"])
def written_and_compared():
    """The same bytes as CRIU's, the same answers to changes of them, and ferry names what is missing."""
    found = folders()
    criu("criu", "cpuinfo", "dump", "-D", FOLDER / "criu")
    assert (FOLDER / "criu/cpuinfo.img").read_bytes() == (FOLDER / "here/cpuinfo.img").read_bytes()
    for name, (folder, said) in found.items():
        for words in OPTIONS[:-1]:
            theirs, ours = (criu(kind, "cpuinfo", "check", "-D", folder, *words) for kind in ("criu", "ferry"))
            assert theirs.returncode == ours.returncode, (name, words, theirs.stdout, ours)
        own = Ferry().run("cpuinfo", "check", "-D", folder, "--cpu-cap=all")
        assert own.returncode == (REFUSED if said else 0) and said in own.stderr, own
        assert not said or "--cpu-cap=none" in own.stderr, own
    for words in (("cpuinfo",), ("cpuinfo", "other"), ("cpuinfo", "check", "-D", FOLDER), ("cpuinfo", "check", "--cpu-cap=other")):
        assert [criu(kind, *words).returncode for kind in ("criu", "ferry")] == [1, 1], words


@test(needs=["criu-sid"], timeout=120)
def restored():
    """An image of CRIU's, with files of other processors. Under the name criu one is compared when that is asked for, else whenever
    there is one."""
    found = folders()
    program = Program("vma-anon")
    images = FOLDER / "images"
    images.mkdir()
    done = criu("criu", "dump", "-t", program.pid, "-D", images, "--cpu-cap", "-o", "dump.log")
    assert done.returncode == 0 and (images / "cpuinfo.img").read_bytes() == (FOLDER / "here/cpuinfo.img").read_bytes(), done
    program.reap()
    for name in ("newer", "older", "state"):
        (images / "cpuinfo.img").write_bytes((found[name][0] / "cpuinfo.img").read_bytes())
        for kind in ("criu", "ferry"):
            done = criu(kind, "restore", "-D", images, "-d", "-o", "restore.log", "--cpu-cap")
            assert done.returncode == 1, (name, kind, done)
        assert found[name][1] in (images / "restore.log").read_text().splitlines()[-1]
    done = Ferry().run("restore", "-D", images, "-d")
    assert done.returncode == REFUSED and found["state"][1] in done.stderr and "[cpu-feature]" in done.stderr, done
    (images / "cpuinfo.img").unlink()
    for kind in ("criu", "ferry"):
        assert criu(kind, "restore", "-D", images, "-d", "-o", "restore.log", "--cpu-cap=ins").returncode == 1
    done = Ferry().run("restore", "-D", images, "-d", "--cpu-cap=ins")
    assert done.returncode == MISSING and "dump with --cpu-cap" in done.stderr, done
    (images / "cpuinfo.img").write_bytes((found["newer"][0] / "cpuinfo.img").read_bytes())
    done = criu("ferry", "restore", "-D", images, "-d", "-o", "restore.log")
    assert done.returncode == 0, (images / "restore.log").read_text()[-1000:]
    program.verify()
    program.quit()


@test()
def of_our_own():
    """A dump of ferry's has the file when it is asked for, and its image is compared with the same processor."""
    of_this_machine()
    program = Program("vma-anon")
    for words, there in (((), False), (("--cpu-cap=none",), False), (("--cpu-cap=all",), True)):
        images = FOLDER / f"images-{there}-{len(words)}"
        Ferry().dump(program.pid, images, more=words)
        program.reap()
        assert (images / "cpuinfo.img").exists() == there, sorted(os.listdir(images))
        Ferry().restore(images, more=words)
        program.verify()
    assert (images / "cpuinfo.img").read_bytes() == (FOLDER / "here/cpuinfo.img").read_bytes()
    done = Ferry().run("dump", "-t", program.pid, "-D", FOLDER / "no", "--cpu-cap=sse")
    assert done.returncode == 2 and "invalid argument for --cpu-cap: sse" in done.stderr, done
    program.quit()


def remote():
    """ferry, as it is asked by that protocol."""
    engine = Ferry(path=Named("ferry", FOLDER).folder / "criu")
    engine.command = lambda *words: [str(word) for word in words]
    return engine


@test(needs=["criu-sid"], timeout=120)
def bits():
    """What is compared, in the numbers of the protocol: each answer is CRIU's. A dump has the file if there are any."""
    found, ours = folders(), remote()
    for asked in (None, 0, 1, 2, 4, 5, 7, 8, 0xffffffff):
        options = {} if asked is None else {"cpu_cap": asked}
        for name, (folder, _) in found.items():
            fd, answers = descriptor(folder), []
            for engine in (Criu(SID), ours):
                with Worker(engine) as worker:
                    answers.append(bool(worker.ask("cpuinfo-check", {"images_dir_fd": fd, "log_file": "check.log", **options})[0].get(2)))
            os.close(fd)
            assert answers[0] == answers[1], (asked, name, answers)
    program = Program("vma-anon")

    def ask(engine, what, images, **options):
        fd = descriptor(images)
        with Worker(engine) as worker:
            answer, _ = worker.ask(what, {"images_dir_fd": fd, "log_file": "log", **options})
        os.close(fd)
        return bool(answer[2])

    for asked, there in (({}, False), ({"cpu_cap": 1}, True)):
        images = FOLDER / f"images-{there}"
        images.mkdir()
        assert ask(ours, "dump", images, pid=program.pid, **asked)
        program.reap()
        assert (images / "cpuinfo.img").exists() == there
        assert ask(ours, "restore", images, **asked)
    images = FOLDER / "images-criu"
    images.mkdir()
    assert ask(Criu(SID), "dump", images, pid=program.pid, cpu_cap=0xffffffff)
    program.reap()
    (images / "cpuinfo.img").write_bytes((found["newer"][0] / "cpuinfo.img").read_bytes())
    assert not ask(ours, "restore", images, cpu_cap=4) and not ask(ours, "restore", images, cpu_cap=0xffffffff)
    assert ask(ours, "restore", images, cpu_cap=1)
    program.verify()
    program.quit()


@test()
def asked_remotely():
    """The requests of CRIU's protocol."""
    found = folders()
    engine = remote()
    for folder, status in ((FOLDER / "empty", False), (found["newer"][0], False), (found["older"][0], True)):
        folder.mkdir(exist_ok=True)
        fd = descriptor(folder)
        with Worker(engine) as worker:
            answer, _ = worker.ask("cpuinfo-check", {"images_dir_fd": fd})
            assert bool(answer[2]) is status, answer
            assert status or answer[9], answer
        os.close(fd)
    fd = descriptor(FOLDER / "empty")
    with Worker(engine) as worker:
        answer, _ = worker.ask("cpuinfo-dump", {"images_dir_fd": fd})
        assert answer[2], answer
    os.close(fd)
    assert (FOLDER / "empty/cpuinfo.img").read_bytes() == (FOLDER / "here/cpuinfo.img").read_bytes()


if __name__ == "__main__":
    main()
