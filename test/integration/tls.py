#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Page servers over TLS: ferry and CRIU send to each other, and nobody gets or gives anything who does not prove who he is."""

import pathlib
import shutil
import subprocess

from ferrytest import Criu, Ferry, Leftovers, Program, main, test, wait_until
from ferrytest.engine import EngineError
from ferrytest.network import free_port
from ferrytest.pageserver import SID, CriuServer, PageServer, large_pipes

FOLDER = pathlib.Path("tls").absolute()
IMAGES = pathlib.Path("images").absolute()
SERVED = pathlib.Path("served").absolute()

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*words):
    """A command of it."""
    subprocess.run(["openssl", *map(str, words)], check=True, cwd=FOLDER, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def authority(name):
    """One that signs."""
    FOLDER.mkdir(exist_ok=True)
    openssl("req", "-x509", *KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-addext",
            "basicConstraints=critical,CA:true")


def certificate(name, signer, names):
    """Words of a command line that shows it, and trusts the first authority."""
    (FOLDER / f"{name}.ext").write_text(f"subjectAltName={names}\n")
    openssl("req", *KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.req")
    openssl("x509", "-req", "-in", f"{name}.req", "-CA", f"{signer}.pem", "-CAkey", f"{signer}.key", "-CAcreateserial", "-days", "2",
            "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    return ("--tls", "--tls-cacert", str(FOLDER / "one.pem"), "--tls-cert", str(FOLDER / f"{name}.pem"), "--tls-key",
            str(FOLDER / f"{name}.key"))


class World:
    """Certificates of a server and a client, and of some who should not get through."""

    def __init__(self):
        authority("one")
        authority("other")
        self.server = certificate("server", "one", "DNS:localhost,IP:127.0.0.1")
        self.elsewhere = certificate("elsewhere", "one", "DNS:example.org,IP:192.0.2.1")
        # CRIU's server compares it with the address that it listens at.
        self.client = certificate("client", "one", "DNS:client,IP:127.0.0.1")
        self.stranger = certificate("stranger", "other", "DNS:client")


def together():
    """The rest of an image beside its pages."""
    for path in IMAGES.iterdir():
        path.rename(SERVED / path.name)
    IMAGES.rmdir()


def send(sender, program, server, words):
    """A dump with its pages going there."""
    if sender == "ferry":
        return Ferry().dump(program.pid, IMAGES, more=("--page-server", server.address, *words))
    IMAGES.mkdir()
    return Criu(SID).dump(program.pid, IMAGES,
                          more=("--page-server", "--address", "127.0.0.1", "--port", server.port, *words))


def sent(sender, server_class):
    """A program whose pages go over TLS is the same afterwards."""
    world = World()
    program = Program("vma-anon")
    watch = Leftovers(program.pid)
    pids = program.tree()
    server = server_class(SERVED, *world.server)
    send(sender, program, server, world.client)
    status, out, said = server.end()
    assert status == 0, f"{out} {said}"
    assert not list(IMAGES.glob("page*.img")) and list(SERVED.glob("pages-*.img")), (list(IMAGES.iterdir()), list(SERVED.iterdir()))
    program.wait_gone(pids)
    together()
    Ferry().restore(SERVED)
    program.verify()
    program.quit()
    shutil.rmtree(SERVED)
    watch.check(expected=[program.folder, *map(pathlib.Path, Criu.leaves)])


@test(needs=["criu-sid"])
def ferry_to_ferry():
    """Both sides ferry's."""
    sent("ferry", PageServer)


@test(needs=["criu-sid"])
def ferry_to_criu():
    """From ferry to CRIU's server."""
    sent("ferry", CriuServer)


@test(needs=["criu-sid"])
def criu_to_ferry():
    """From CRIU to ferry's server."""
    sent("criu", PageServer)


def refused(server_words, client_words, text, server_text=None):
    """The dump fails and says this, the program goes on, and the server has got nothing."""
    program = Program("vma-anon")
    watch = Leftovers(program.pid)
    server = PageServer(SERVED, *server_words)
    try:
        send("ferry", program, server, client_words)
        raise AssertionError("it was sent")
    except EngineError as error:
        assert error.status in (1, 2) and text in error.output, error
    if server_text:
        status, out, said = server.end()
        assert status == 1 and server_text in said, (status, out, said)
    else:
        server.process.kill()
        server.process.communicate()
    assert not list(SERVED.glob("page*.img")) and not IMAGES.exists()
    program.verify()
    program.quit()
    shutil.rmtree(SERVED, ignore_errors=True)
    watch.check(expected=[program.folder])


@test()
def strangers():
    """A client whose authority the server does not know, a server whose name is another one, one who speaks no TLS, files that are
    not there."""
    world = World()
    refused(world.server, world.stranger, "", "TLS: Certificate is required")
    refused(world.elsewhere, world.client, "The name in the certificate does not match the expected", "TLS: ")
    refused(world.server, (), "page server", "TLS: ")
    refused(world.server, ("--tls", "--tls-cacert", str(FOLDER / "none.pem"), *world.client[3:]), f"--tls-cacert '{FOLDER / 'none.pem'}'")
    refused(world.server, (*world.client[:5], "--tls-key", str(FOLDER / "server.pem")), "--tls-key")
    done = Ferry().run("page-server", "--listen", "127.0.0.1:0", "-D", SERVED, *world.server[:3], "--tls-cert", FOLDER / "none.pem",
                       "--tls-key", FOLDER / "server.key")
    assert done.returncode == 2 and f"--tls-cert '{FOLDER / 'none.pem'}'" in done.stderr, done


@test()
def any_name():
    """A server whose name is another one, if that is accepted."""
    world = World()
    program = Program("vma-anon")
    server = PageServer(SERVED, *world.elsewhere)
    send("ferry", program, server, (*world.client, "--tls-no-cn-verify"))
    assert server.end()[0] == 0
    program.reap()
    together()
    Ferry().restore(SERVED)
    program.verify()
    program.quit()


# ------------------------------------------------------------------------------------------------- memory that comes late


def source(kind, program, words):
    """A dump that keeps the memory for who asks for it: (process, port)."""
    port, engine = str(free_port()), Criu(SID) if kind == "criu" else Ferry()
    if kind == "criu":
        IMAGES.mkdir()
        command = engine.command(engine.path, "dump", "-t", program.pid, "-D", IMAGES, "-o", "dump.log", "--lazy-pages", "--address",
                                 "127.0.0.1", "--port", port, *words)
    else:
        command = [engine.path, "dump", "-t", str(program.pid), "-D", IMAGES, "--lazy-pages", "--listen", f"127.0.0.1:{port}", *words]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # pylint: disable=consider-using-with
    listening = f":{int(port):04X} 00000000:0000 0A"
    wait_until(lambda: (IMAGES / "inventory.img").exists() and listening in pathlib.Path("/proc/net/tcp").read_text(encoding="ascii") or
               process.poll() is not None, "it does not listen")
    assert process.poll() is None, process.returncode
    return process, port


def late(kind):
    """Memory that is given over TLS, to ferry; who shows no certificate, and who speaks no TLS, gets nothing."""
    world = World()
    program = Program("vma-anon")
    pids = program.tree()
    process, port = source(kind, program, world.server)
    words = ("--lazy", "--page-server", f"127.0.0.1:{port}", "--new-pidns")
    if kind == "ferry":
        for others in (world.stranger, ()):
            done = Ferry().run("restore", "-D", IMAGES, "-d", *words, *others)
            assert done.returncode, done
    with large_pipes():
        program.pid = Ferry().restore(IMAGES, more=(*words, *world.client))["pid"]
        program.verify()
        assert process.wait(60) == 0
    program.wait_gone(pids)
    program.verify()
    program.quit()


test(name="late_from_ferry", timeout=60)(lambda: late("ferry"))
test(name="late_from_criu", timeout=60, needs=["criu-sid"])(lambda: late("criu"))


@test(timeout=60, needs=["criu-sid"])
def late_to_criu():
    """From ferry to CRIU's lazy-pages, and the same to ferry's."""
    world = World()
    for kind in ("criu", "ferry"):
        program = Program("vma-anon")
        pids = program.tree()
        process, port = source("ferry", program, world.server)
        engine = Criu(SID)
        words = ("lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", port, "-D", IMAGES, "-o", "lazy.log", *world.client)
        if kind == "ferry":
            words = ("lazy-pages", "--page-server", f"127.0.0.1:{port}", "-D", IMAGES, *world.client)
        command = engine.command(engine.path, *words) if kind == "criu" else [Ferry().path, *map(str, words)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as daemon:
            wait_until(lambda daemon=daemon: (IMAGES / "lazy-pages.socket").exists() or daemon.poll() is not None, "it does not listen")
            assert daemon.poll() is None, engine.log_tail(IMAGES / "lazy.log")
            program.pid = Ferry().restore(IMAGES, more=("--lazy-pages", "--new-pidns"))["pid"]
            program.verify()
            assert process.wait(60) == 0 and daemon.wait(60) == 0
        program.wait_gone(pids)
        program.verify()
        program.quit()
        shutil.rmtree(IMAGES)


if __name__ == "__main__":
    main()
