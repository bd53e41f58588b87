#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How processes stand while nobody looks: stopped as a whole, left stopped, in the session of a shell."""

import os
import pathlib
import signal

from ferrytest import Ferry, Leftovers, Program, differences, main, snapshot, status, test, wait_until
from ferrytest.process import PROC, stat_fields, threads

IMAGES = pathlib.Path("images")


def states(program):
    """State letters of all threads of all processes of the tree."""
    return {status(pid, tid).get("State", "?")[:1] for pid in program.tree() for tid in threads(pid)}


def go_on(program):
    """SIGCONT to everybody, from above."""
    for pid in program.tree():
        os.kill(pid, signal.SIGCONT)


if os.environ.get("FERRY"):
    @test(timeout=60)
    def stopped_root():
        """The first process itself is stopped; twice in a row; then it goes on and proves its state."""
        program = Program("threads")
        program.verify()
        os.kill(program.pid, signal.SIGSTOP)
        wait_until(lambda: states(program) == {"T"}, "it does not stop")
        for generation in range(2):
            images = pathlib.Path(f"images-{generation}")
            before = snapshot(program.pid, program.volatile())
            Ferry().dump(program.pid, images)
            program.reap()
            Ferry().restore(images)
            assert states(program) == {"T"}, states(program)
            found = differences(before, snapshot(program.pid, program.volatile()))
            assert not found, "; ".join(found[:12])
        go_on(program)
        program.verify()
        program.quit()


    @test(timeout=60)
    def stopped_left_running():
        """A dump that lets the tree run on leaves who is stopped stopped, and nothing else."""
        program = Program("stopped-family")
        program.verify()
        Ferry().dump(program.pid, IMAGES, leave_running=True)
        program.verify()
        program.finish()
        program.quit()


    @test(timeout=60)
    def left_stopped():
        """dump --leave-stopped: everybody stops, goes on by SIGCONT; the image is as good as any."""
        for name in ("threads", "tree", "stopped"):
            program = Program(name)
            program.verify()
            images = pathlib.Path("images-" + name)
            watch = Leftovers(program.pid)
            Ferry().dump(program.pid, images, more=("--leave-stopped",))
            wait_until(lambda p=program: states(p) == {"T"}, "it is not stopped")
            if name == "stopped":
                program.kill()
                continue
            go_on(program)
            program.verify()
            watch.check(program.pid, expected=[program.folder, images.absolute()])
            pids = program.tree()
            program.kill()
            program.wait_gone(pids)
            Ferry().restore(images)
            program.verify()
            program.quit()


    @test(timeout=60)
    def restored_stopped():
        """restore --leave-stopped: nobody has executed anything yet; all go on by SIGCONT."""
        for name in ("threads", "tree"):
            program = Program(name)
            program.verify()
            images = pathlib.Path("images-" + name)
            pids = program.tree()
            Ferry().dump(program.pid, images)
            program.wait_gone(pids)
            Ferry().restore(images, more=("-s",))
            assert states(program) == {"T"}, states(program)
            go_on(program)
            program.verify()
            program.quit()


    @test(timeout=60)
    def shared_memory_image():
        """The pages are there once, under the number of the first; nothing of it comes back with everybody stopped, which is
        said before anything is made; and then it comes back."""
        program = Program("shared-memory", "generations")
        first, *mates, apart = program.tree()
        Ferry().dump(program.pid, IMAGES)
        program.reap()
        assert {path.name for path in IMAGES.glob("pagemap-[0-9]*.img")} == {
            f"pagemap-{first}.img", f"pagemap-{apart}.img"}, sorted(IMAGES.iterdir())
        done = Ferry().run("show", "-D", IMAGES)
        assert done.stdout.count("memory: that of another task") == len(mates), done.stdout
        done = Ferry().run("image", "verify", IMAGES)
        assert done.returncode == 0, done
        done = Ferry().run("restore", "-D", IMAGES, "--leave-stopped")
        assert done.returncode == 3 and "shares its memory with another process, and is to be stopped" in done.stderr, done
        Ferry().restore(IMAGES)
        program.verify()
        program.finish()
        program.quit()


    @test(timeout=120)
    def vfork_window():
        """Whoever waits in vfork is waited for; ten dumps, and the tree that is brought back goes on making children."""
        program = Program("vfork-window")
        for _ in range(10):
            Ferry().dump(program.pid, IMAGES, leave_running=True, more=("--overwrite",))
            program.verify()
        for _ in range(2):
            pids = program.tree()
            Ferry().dump(program.pid, IMAGES, more=("--overwrite",))
            program.wait_gone(pids)
            Ferry().restore(IMAGES)
            program.verify()
        program.quit()


    @test(timeout=60)
    def vfork_that_lasts():
        """A child that never executes a program: refused by name when the time is over."""
        program = Program("vfork-window", "stuck")
        parent, child = program.tree()[1:]
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--timeout", 1)
        assert done.returncode == 3 and "[busy-task]" in done.stderr, done.stderr
        assert f"pid {parent} waits in vfork for its child, pid {child}," in done.stderr, done.stderr
        # The others look into their mailboxes now and then.
        wait_until(lambda: states(program) == {"S", "D"}, "somebody stands or runs that slept")
        program.kill()


    def shell_job(name):
        """A job of this process's session: refused as such, taken with --shell-job, and back in the session of ferry."""
        program = Program(name, job=0)
        program.verify()
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES)
        assert done.returncode == 3 and "[outside-session]" in done.stderr, done.stderr
        pids = program.tree()
        Ferry().dump(program.pid, IMAGES, shell_job=True)
        program.wait_gone(pids)
        Ferry().restore(IMAGES, shell_job=True)
        fields = stat_fields(PROC / str(program.pid) / "stat")
        assert (int(fields[2]), int(fields[3])) == (program.pid, os.getsid(0)), fields[:5]
        program.verify()
        program.finish()
        program.quit()


    @test(timeout=60)
    def job_of_a_shell():
        """A single process."""
        shell_job("heap-stack")


    @test(timeout=60)
    def job_with_sessions():
        """A tree that has sessions and groups of its own below."""
        shell_job("tree")


    @test(timeout=60)
    def job_in_a_pipeline():
        """The group's leader is another process of the pipeline, outside of the tree: the group of ferry takes its place."""
        leader = Program("heap-stack", job=0)
        program = Program("group-leader-gone", job=leader.pid)
        pids = program.tree()
        Ferry().dump(program.pid, IMAGES, shell_job=True)
        program.wait_gone(pids)
        Ferry().restore(IMAGES, shell_job=True)
        fields = stat_fields(PROC / str(program.pid) / "stat")
        assert (int(fields[2]), int(fields[3])) == (os.getpgid(0), os.getsid(0)), fields[:5]
        program.kill()
        leader.quit()


if __name__ == "__main__":
    main()
