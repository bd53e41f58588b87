#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CRIU's page server wire, both sides of it: ferry and CRIU send to each other."""

import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess

from ferrytest import Criu, Ferry, Leftovers, Program, main, test, wait_until
from ferrytest.chain import stored_pages
from ferrytest.engine import note_refusal
from ferrytest.pageserver import SID, CriuServer, PageServer, take

IMAGES = pathlib.Path("images")
SERVED = pathlib.Path("served")


def together():
    """The rest of an image beside its pages."""
    for path in IMAGES.iterdir():
        path.rename(SERVED / path.name)
    IMAGES.rmdir()


def sent_by_ferry(server_class, names, restorer):
    """Its pages go to a server; with the rest of the image they restore."""
    for name in names:
        program = Program(name)
        watch = Leftovers(program.pid)
        pids = program.tree()
        server = server_class("served")
        report = Ferry().dump(program.pid, IMAGES, more=("--page-server", server.address))
        status, out, said = server.end()
        assert status == 0, f"{out} {said}"
        assert not list(IMAGES.glob("page*.img")), list(IMAGES.iterdir())
        assert report["pages_written"] == stored_pages(SERVED, "pagemap-*.img") > 0, report
        program.wait_gone(pids)
        done = Ferry().run("restore", "-D", IMAGES)
        assert done.returncode == 3 and "pagemap" in done.stderr, done
        together()
        done = Ferry().run("image", "verify", SERVED)
        assert done.returncode == 0, done
        restorer.restore(SERVED.absolute())
        program.verify()
        program.finish()
        program.quit()
        shutil.rmtree(SERVED)
        watch.check(expected=[program.folder, *map(pathlib.Path, Criu.leaves)])


def broken(serve, text, *more):
    """What becomes of the other side while it gets pages does not concern the tree; of the image nothing is left."""
    program = Program("large")
    watch = Leftovers(program.pid)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(  # pylint: disable=consider-using-with
            [Ferry().path, "dump", "-t", str(program.pid), "-D", IMAGES, "--page-server",
             f"127.0.0.1:{listening.getsockname()[1]}", *more],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        connection = listening.accept()[0]
        with connection:
            serve(connection)
            out, said = process.communicate(timeout=30)
    note_refusal(subprocess.CompletedProcess([], process.returncode, out, said))
    assert process.returncode == 1 and text in said and not IMAGES.exists(), f"{process.returncode}: {said}"
    program.verify()
    program.quit()
    watch.check(expected=[program.folder])


def hang_up(connection):
    """After a megabyte."""
    take(connection, 32)
    connection.sendall(b"\0")
    take(connection, 1 << 20)
    connection.close()


def full(connection):
    """It says in the end that it failed."""
    while True:
        command, _, pages, _, _ = struct.unpack("=IIQQQ", take(connection, 32))
        if command & 0xffff == 4:
            connection.sendall(b"\0")
        elif command & 0xffff == 6:
            take(connection, pages * 4096 if command >> 16 & 4 else 0)
        else:
            connection.sendall(struct.pack("=i", -28))
            return


if os.environ.get("FERRY"):
    @test(timeout=120)
    def from_ferry():
        """To ferry; a family has nothing in common there, shared memory goes the same way."""
        sent_by_ferry(PageServer, ("heap-stack", "vma-shared", "tree", "family", "large"), Ferry())

    @test(timeout=120, needs=["criu-sid"])
    def from_ferry_to_criu():
        """To CRIU, which restores it."""
        sent_by_ferry(CriuServer, ("heap-stack", "vma-shared", "tree"), Criu(SID))

    test(timeout=60, name="gone")(lambda: broken(hang_up, "ended before it had all pages"))
    test(timeout=60, name="silent")(lambda: broken(lambda connection: None, "does not answer", "--timeout", "1"))
    test(timeout=60, name="full")(lambda: broken(full, "could not store the pages (-28)"))

    @test(timeout=60)
    def killed():
        """The sender; whatever the server has then is no image, and the tree runs."""
        program = Program("large")
        watch = Leftovers(program.pid)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            sender = subprocess.Popen(  # pylint: disable=consider-using-with
                [Ferry().path, "dump", "-t", str(program.pid), "-D", IMAGES, "--page-server",
                 f"127.0.0.1:{listening.getsockname()[1]}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with listening.accept()[0] as connection:
                take(connection, 32)
                connection.sendall(b"\0")
                take(connection, 1 << 20)
                sender.send_signal(signal.SIGKILL)
                sender.wait()
        wait_until(lambda: not IMAGES.exists() or not list(IMAGES.glob("inventory.img")), "there is an inventory")
        program.verify()
        program.quit()
        shutil.rmtree(IMAGES, ignore_errors=True)
        watch.check(expected=[program.folder])

    @test(timeout=30)
    def not_so():
        """Where it cannot or should not go."""
        program = Program("heap-stack")
        for words, status, text in ((("127.0.0.1:1",), 1, "127.0.0.1:1"), (("192.0.2.1:7",), 2, "--insecure"),
                                    (("127.0.0.1:1", "--auto-dedup"), 2, "give it to the page server")):
            done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "--page-server", *words)
            assert done.returncode == status and text in done.stderr and not IMAGES.exists(), done
        program.verify()
        program.quit()

    @test(timeout=120, needs=["criu-sid"])
    def from_criu():
        """CRIU sends pages here; with the rest of its images they restore, by ferry and by CRIU."""
        criu = Criu(SID)
        for name, restorer in (("heap-stack", Ferry()), ("vma-shared", Ferry()), ("tree", criu)):
            program = Program(name)
            pids = program.tree()
            server = PageServer("served")
            IMAGES.mkdir()
            criu.dump(program.pid, IMAGES, more=("--page-server", "--address", "127.0.0.1", "--port", server.port))
            status, out, said = server.end()
            assert status == 0 and not list(IMAGES.glob("page*.img")), said
            report = json.loads(out)
            assert report["memories"] >= len(pids) and report["pages"] == stored_pages("served", "pagemap-*.img") > 0, report
            program.wait_gone(pids)
            for path in IMAGES.glob("*.img"):
                path.rename(pathlib.Path("served") / path.name)
            done = Ferry().run("image", "verify", "served")
            assert done.returncode == 0, done
            restorer.restore(pathlib.Path("served").absolute())
            program.verify()
            program.finish()
            program.quit()
            shutil.rmtree(IMAGES)
            shutil.rmtree("served")

    @test(timeout=60)
    def hostile():
        """What makes no sense, and what ends in the middle, leaves nothing behind."""
        def head(command, nr_pages=0, vaddr=0, memory=0):
            return struct.pack("=IIQQQ", command, 0, nr_pages, vaddr, memory)

        begun, page, task = head(4, memory=5 << 8 | 1), b"x" * 4096, 5 << 8 | 1
        cases = (
            (b"", "ended before all pages came"),
            (b"GET / HTTP/1.1\r\n\r\n", "ended before all pages came"),
            (head(77), "does not know what that means"),
            (head(6 | 4 << 16, 1, 4096, task) + page, "was not begun"),
            (head(4, memory=5 << 8 | 3), "no such memory can be"),
            (head(4, memory=1 << 60 | 1), "no such memory can be"),
            (begun + head(6 | 4 << 16, 1, 4097, task) + page, "out of order"),
            (begun + head(6 | 4 << 16, 1 << 62, 4096, task), "out of order"),
            (begun + head(6 | 4 << 16, 2, (1 << 64) - 4096, task), "out of order"),
            (begun + (head(6 | 4 << 16, 1, 4096, task) + page) * 2, "out of order"),
            (begun + head(6 | 5 << 16, 1, 4096, task), "no pages have such flags"),
            (begun + head(6 | 64 << 16, 1, 4096, task), "no pages have such flags"),
            (begun + begun, "has it already"),
            (begun + head(6 | 4 << 16, 2, 4096, task) + page, "cannot read"),
            (begun + head(6 | 1 << 16, 1, 4096, task), "does not have all of these pages"),
            (begun + head(2, 1, 4096, task), "does not have all of these pages"),
            (begun + head(4, 1, 2, memory=6 << 8 | 1), "belongs to another image"),
            (head(5, memory=0), "no such memory can be"),
        )
        for sent, text in cases:
            server = PageServer("served")
            with socket.create_connection(("127.0.0.1", int(server.port))) as connection:
                try:
                    connection.sendall(sent)
                    connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # it has had enough
                status, _, said = server.end()
            assert status == 1 and text in said, f"{text}: {status} {said}"
            assert not pathlib.Path("served").exists(), text
        done = Ferry().run("page-server", "--listen", "0.0.0.0:0", "-D", "served")
        assert done.returncode == 2 and "--insecure" in done.stderr, done


if __name__ == "__main__":
    main()
