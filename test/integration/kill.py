#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SIGKILL to ferry, at each of its effects on the outside and at random instants. A killed dump leaves the target running as
if nothing had happened; a killed restore leaves nothing, or everything running."""

import collections
import os
import pathlib
import random
import shutil
import signal
import subprocess
import threading
import time

from ferrytest import Ferry, main, test
from ferrytest.cases import CASES, Case
from ferrytest.cases import start as start_program
from ferrytest.leftovers import Leftovers, may_write
from ferrytest.process import is_alive, running, wait_until
from ferrytest.redis import Server
from ferrytest.software.java import Java
from ferrytest.software.nginx import Nginx
from ferrytest.software.node import Node
from ferrytest.software.tmux import Tmux

IMAGES = pathlib.Path("images")
EFFECTS = pathlib.Path("effects")
CHECK_KILLS = 25   # of one program, in make check
SOAK_KILLS = 200   # random ones of one program's dumps, in make soak
SOAK_RESTORES = 50 # and of its restores
END_KILLS = 16     # before the last effect of a dump
SEED = 20261121    # the same instants in every run

DUMPED = [case for case in CASES if case.name in (
    "threads", "leader-ended", "leader-ended-parent", "signals-actions", "rseq", "epoll", "pipes", "tcp-established-v4",
    "tcp-pairs", "unix-socket", "unix-queues", "pty-typed", "message-queue-left", "seccomp-bare", "seccomp-threads",
    "ghost-directory", "aio-events", "uring-tables", "uring-polled", "zombie-killed", "session-leader-below",
    "shared-descriptors", "shared-memory-generations", "old-threads", "old-seccomp", "mixed-code", "traced-breakpoint", "traced-polls",
    "traced-seized", "traced-signal-untold", "large")]
# With effects outside of the target: files, names and objects that nobody's end takes away.
OUTSIDE = [case for case in CASES if case.name in (
    "link-other", "ghost-name-taken", "fifo-deleted", "sysvshm", "message-queue", "inotify-deleted", "locks-ofd",
    "unix-places", "pty-session", "mounts-tmpfs", "ipc-messages", "pid-nested")]
# Its filters forbid munmap(2): what ferry mapped stays after a kill, and each dump has more effects than the one before, so
# that counting upwards never meets the last.
KEEPS_PADS = ("seccomp-bare", "old-seccomp")
# Programs that people run, each with its clients; the last ones are killed in make soak only.
SOFTWARE = {"nginx": Nginx, "node": Node, "tmux": Tmux, "redis": Server, "java": Java}
SOFTWARE_IN_CHECK = ("nginx", "node", "tmux")


def start(case):
    """(program, partner): the program ready, with its partner connected where it has one."""
    return (SOFTWARE[case.name](), None) if case.name in SOFTWARE else start_program(case)


def effects_of(*words):
    """Run ferry once and count its effects."""
    EFFECTS.unlink(missing_ok=True)
    done = Ferry().run(*words, environment={"FERRY_EFFECT_LOG": str(EFFECTS)})
    assert done.returncode == 0, done.stderr
    return [line.split(" ", 3) for line in EFFECTS.read_text().splitlines()]


def clear_images():
    """No image, and no lock of an image that is not there."""
    shutil.rmtree(IMAGES, ignore_errors=True)


def dump_words(program, case):
    """The dump that is killed again and again; the program runs on."""
    words = ["dump", "-t", program.pid, "-D", IMAGES, "-R"]
    return words + ["--tcp-established"] * bool(case.options.get("tcp_established"))


def target_is_well(program, watch, what):
    """Nothing of the killed ferry is left but files of an image that never became one, and every role of the program
    proves its state."""
    allowed = [IMAGES.absolute(), pathlib.Path("kept").absolute(), EFFECTS.absolute(), *may_write(program)]
    deadline = time.monotonic() + 20
    while watch.problems(program.pid, allowed) and time.monotonic() < deadline:
        time.sleep(0.02)
    found = watch.problems(program.pid, allowed)
    assert not found, f"{what}: {found}"
    program.verify()


def pick(n, wanted):
    """Numbers 1..n, all or evenly spread."""
    return range(1, n + 1) if wanted is None or n <= wanted else sorted({1 + i * (n - 1) // (wanted - 1) for i in range(wanted)})


def kill_dump_at(case, wanted):
    """At so many of its effects, ferry alone and its whole process group in turn."""
    program, partner = start(case)
    watch = Leftovers(program.pid)
    clear_images()
    effects = effects_of(*dump_words(program, case))
    assert len(effects) > 10, effects
    stages = collections.Counter()
    for number in pick(len(effects), wanted):
        clear_images()
        victim = "group" if number % 2 else "self"
        done = subprocess.run(["setsid", "-w", Ferry().path, *map(str, dump_words(program, case))], check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                              env={**os.environ, "FERRY_KILL_AT": str(number), "FERRY_KILL_VICTIM": victim})
        if done.returncode:
            stages[effects[number - 1][2]] += 1
        target_is_well(program, watch, f"killed ({victim}) at effect {number} of {len(effects)}, {effects[number - 1][2:]}")
    print(f"{case.name}: kills by stage: {dict(stages)}")
    assert "freeze" in stages, f"no kill hit a frozen target: {stages}"
    missed = {effect[2] for effect in effects} - set(stages)
    assert wanted or not missed, f"no kill hit these stages: {missed}"
    if partner:
        partner.finish()
    program.finish()
    program.quit()


def kill_dump_random(case, count):
    """At instants drawn over the length of a dump; the victim is ferry, its group, or a random one of its processes."""
    program, partner = start(case)
    watch = Leftovers(program.pid)
    clear_images()
    before = time.monotonic()
    effects_of(*dump_words(program, case))
    length = time.monotonic() - before
    draw = random.Random(SEED)
    for i in range(count):
        clear_images()
        with subprocess.Popen([Ferry().path, *map(str, dump_words(program, case))], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as ferry:
            time.sleep(draw.uniform(0, length))
            victims = running(Ferry().path)
            try:
                if i % 3 == 0:
                    os.killpg(ferry.pid, signal.SIGKILL)
                else:
                    os.kill(draw.choice(victims) if victims and i % 3 == 1 else ferry.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        target_is_well(program, watch, f"random kill {i}")
    if partner:
        partner.finish()
    program.quit()


def runs_again(program, what):
    """Whether the killed restore was committed. While its warden lives, one that was not is still on its way back, and
    tasks that got their SIGKILL last a moment longer."""
    wait_until(lambda: not running(Ferry().path), f"{what}: a ferry does not end")
    spent = (IMAGES / "ferry-restored").exists()
    wait_until(lambda: is_alive(program.pid) == spent, f"{what}: the image says {'' if spent else 'not '}restored", 5)
    return spent


def kill_restore_at(case):
    """At each effect: before the commit nothing exists and the image is as good as new; after it everything runs."""
    program, partner = start(case)
    watch = Leftovers(program.pid)
    tcp = ["--tcp-established"] * bool(case.options.get("tcp_established"))
    clear_images()
    Ferry().dump(program.pid, IMAGES, **case.options)
    program.reap()
    kept = pathlib.Path("kept")
    shutil.copytree(IMAGES, kept)
    number, ran = 0, False
    while not ran:
        number += 1
        clear_images()
        shutil.copytree(kept, IMAGES)
        subprocess.run(["setsid", "-w", Ferry().path, "restore", "-D", str(IMAGES), "-d", *tcp], check=False,
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                       env={**os.environ, "FERRY_KILL_AT": str(number), "FERRY_KILL_VICTIM": ("self", "group")[number % 2]})
        ran = runs_again(program, f"kill {number}")
        assert number < 100000
    assert number > 3, "the first kills hit nothing"
    target_is_well(program, watch, f"restore killed at effect {number}")
    if partner:
        partner.finish()
    program.quit()


def kill_restore_random(case, count):
    """At instants drawn over the length of a restore: it runs and the image is spent, or neither."""
    program, partner = start(case)
    watch = Leftovers(program.pid)
    words = ["restore", "-D", str(IMAGES), "-d"] + ["--tcp-established"] * bool(case.options.get("tcp_established"))
    draw = random.Random(SEED)
    length, done = None, 0
    while done < count:
        clear_images()
        Ferry().dump(program.pid, IMAGES, **case.options)
        program.reap()
        if length is None:
            before = time.monotonic()
            Ferry().restore(IMAGES, **case.options)
            length = time.monotonic() - before
            continue
        ran = False
        while not ran and done < count:
            with subprocess.Popen([Ferry().path, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, start_new_session=True) as ferry:
                time.sleep(draw.uniform(0, length))
                try:
                    if done % 2:
                        os.killpg(ferry.pid, signal.SIGKILL)
                    else:
                        ferry.kill()
                except ProcessLookupError:
                    pass
            done += 1
            ran = runs_again(program, f"random kill {done}")
        if not ran:
            Ferry().restore(IMAGES, **case.options)
        target_is_well(program, watch, f"restore, random kill {done}")
    if partner:
        partner.finish()
    program.quit()


def stop_and_go(pid, ended):
    """Stop a process and let it go on, as soon as it exists, until told to end."""
    while not ended.is_set():
        try:
            os.kill(pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
        time.sleep(0.0002)


def restore_stopped(rounds):
    """Whoever sleeps at the barrier may be woken for nothing, by a stop for instance: nobody runs early or sleeps on."""
    program, _ = start_program(next(case for case in CASES if case.name == "threads"))
    for _ in range(rounds):
        clear_images()
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        ended = threading.Event()
        disturber = threading.Thread(target=stop_and_go, args=(program.pid, ended))
        disturber.start()
        try:
            Ferry().restore(IMAGES)
        finally:
            ended.set()
            disturber.join()
        program.verify()
    program.quit()


def killed(number, *words):
    """Run ferry, which dies at this effect if it has so many; whether it did."""
    done = subprocess.run(["setsid", "-w", Ferry().path, *map(str, words)], check=False, stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=60,
                          env={**os.environ, "FERRY_KILL_AT": str(number), "FERRY_KILL_VICTIM": ("self", "group")[number % 2]})
    return done.returncode != 0


def restore_at(program, first, *tcp):
    """Restore with kills from this effect on, until the program runs; the effect at which it did."""
    while killed(first, "restore", "-D", IMAGES, "-d", *tcp) and not runs_again(program, f"kill {first}"):
        first += 1
        assert first < 2000
    return first


def kill_end_at(case):
    """A dump that ends the tree dies at each effect around its commit: the tree runs, or the image is whole. A restore dies
    at each effect from its commit on: the tree runs."""
    program, partner = start(case)
    watch = Leftovers(program.pid)
    tcp = ["--tcp-established"] * bool(case.options.get("tcp_established"))
    words = ["dump", "-t", program.pid, "-D", IMAGES, *tcp]
    clear_images()
    last = len(effects_of(*words))
    program.reap()
    commit = restore_at(program, 1)
    first = number = max(1, last - END_KILLS)
    ended, dies = 0, True
    while dies or ended < 2:
        if not dies:
            # This dump had fewer effects than the one that was counted: the commit lies before.
            assert first > 1, "no kill came after the commit of a dump"
            first = number = max(1, first - END_KILLS)
        clear_images()
        dies = killed(number, *words)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and is_alive(program.pid) and (IMAGES / "inventory.img").exists():
            time.sleep(0.02)
        if is_alive(program.pid):
            target_is_well(program, watch, f"dump killed at effect {number} of {last}")
        else:
            program.reap()
            ended += 1
            commit = max(commit, restore_at(program, commit)) + 1
            target_is_well(program, watch, f"restore killed at effect {commit - 1}")
        number += 1
        assert number < 100000
    if partner:
        partner.finish()
    program.finish()
    program.quit()


def register(case, tier="check", dump_tier="check", end_tier="check"):
    """Six tests for each program, the large counts in make soak only."""
    test(name=f"dump.{case.name}", timeout=300, tier=dump_tier)(lambda: kill_dump_at(case, CHECK_KILLS))
    test(name=f"restore.{case.name}", timeout=600, tier=tier)(lambda: kill_restore_at(case))
    if case.name not in KEEPS_PADS:
        test(name=f"end.{case.name}", timeout=600, tier=end_tier)(lambda: kill_end_at(case))
    test(name=f"dump-all.{case.name}", timeout=3600, tier="soak")(lambda: kill_dump_at(case, None))
    test(name=f"dump-random-{SOAK_KILLS}.{case.name}", timeout=3600, tier="soak")(
        lambda: kill_dump_random(case, SOAK_KILLS))
    test(name=f"restore-random-{SOAK_RESTORES}.{case.name}", timeout=3600, tier="soak")(
        lambda: kill_restore_random(case, SOAK_RESTORES))


if os.environ.get("FERRY"):
    for line in DUMPED:
        register(line)
    for line in OUTSIDE:
        register(line, end_tier="soak")
    for software in SOFTWARE:
        in_check = "check" if software in SOFTWARE_IN_CHECK else "soak"
        register(Case(software, options={"tcp_established": True}), "soak", in_check, "soak")
    test(name="restore-stopped", timeout=120)(lambda: restore_stopped(20))

if __name__ == "__main__":
    main()
