#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""libcriu.so.2: the calls of CRIU's library of that name, with the same requests, answers and effects."""

import ctypes
import os
import pathlib
import shutil
import subprocess

from ferrytest import Program, main, test
from ferrytest.criurpc import field
from ferrytest.libcriu import answer, calls_of, options_of, stage
from ferrytest.process import wait_until

BUILD = pathlib.Path(os.environ["FERRY_BUILD"])
OURS = BUILD / "src/compat/libcriu/libcriu.so.2"
CLIENT = BUILD / "test/libcriu/libcriu-client"
SID = pathlib.Path(os.environ.get("FERRY_CRIU_SID") or BUILD / "criu-sid")
THEIRS = SID / "usr/lib/x86_64-linux-gnu/libcriu.so.2"
BASE = pathlib.Path("libcriu").absolute()
NAMES = pathlib.Path(__file__).parents[1] / "libcriu/names.txt"


@test()
def names():
    """Each name that CRIU's library has is there."""
    library = ctypes.CDLL(str(OURS))
    missing = [name for name in NAMES.read_text(encoding="ascii").split() if not hasattr(library, name)]
    assert not missing, missing
    assert len(NAMES.read_text(encoding="ascii").split()) > 240


FLAGS = ("leave_running", "ext_unix_sk", "tcp_established", "tcp_skip_in_flight", "tcp_close", "weak_sysctls", "evasive_devices",
         "shell_job", "skip_file_rwx_check", "orphan_pts_master", "file_locks", "track_mem", "auto_dedup", "force_irmap", "link_remap",
         "manage_cgroups", "auto_ext_mnt", "ext_sharing", "ext_masters", "mntns_compat_mode", "unprivileged")
NUMBERS = {
    "pid": (7,), "images_dir_fd": (7,), "work_dir_fd": (7,), "log_level": (4,), "ghost_limit": (1 << 20, 0), "pidfd_store_sk": (9,),
    "empty_ns": (0, 0x40000000), "cpu_cap": (0, 15, 0x7fffffff), "manage_cgroups_mode": range(7), "network_lock": range(5),
    "pre_dump_mode": range(4),
}
TEXTS = ("parent_images", "log_file", "root", "freeze_cgroup", "lsm_profile", "lsm_mount_context", "config_file")
# Several times: lists grow, and what is no list keeps the last.
OTHERS = (
    ("add_ext_mount", "key", "value"), ("add_veth_pair", "in", "out"), ("add_cg_root", "cpu", "/path"), ("add_cg_root", None, "/path"),
    ("add_enable_fs", "all"), ("add_skip_mnt", "/mnt"), ("add_irmap_path", "/path"), ("add_inherit_fd", 3, "pipe:[1]"),
    ("add_external", "mnt[]"), ("join_ns_add", "net", "/net", None), ("join_ns_add", "user", "/user", "1,2"),
    ("join_ns_add", None, "/net", None), ("join_ns_add", "net", None, None), ("add_unix_sk", 5), ("add_unix_sk", 0),
)


def option_calls():
    """(name, words) of each function that sets something."""
    for name in FLAGS:
        yield from ((f"set_{name}", value) for value in (True, False))
    for name, values in NUMBERS.items():
        yield from ((f"set_{name}", value) for value in values)
    yield from ((f"set_{name}", "some text") for name in TEXTS)
    yield from OTHERS


@test(timeout=300, needs=["criu-sid"])
def options():
    """What is set arrives in the request as with CRIU's library."""
    # Twice each: lists grow, and what is no list keeps the last.
    talks = [([*([f"criu_{name}", *words] for _ in range(2)), ["criu_restore"]], [b""])
             for name, *words in option_calls()]
    ours, theirs = (calls_of(path, talks, BASE / "options") for path in (OURS, THEIRS))
    differ = [(talk, *pair) for talk, *pair in zip(talks, ours, theirs) if pair[0] != pair[1]]
    assert not differ and len(ours) > 80, differ
    # CRIU's loses this, and calls it a failure.
    talk = ([["criu_set_timeout", 7], ["criu_set_page_server_address_port", "1.2.3.4", 80], ["criu_restore"]], [b""])
    returned, _, told = calls_of(OURS, [talk], BASE / "options")[0]
    sent = options_of(told)
    assert sent[45] == 7 and sent[11] == field(1, "1.2.3.4") + field(2, 80) and returned[1][0] == 0, (returned, sent)


VERSION = field(1, 4) + field(2, 2)
# Calls after criu_init_opts(), and what criu answers.
TALKS = (
    ([["criu_check"]], [answer("check")]),
    ([["criu_check"]], [answer("check", False)]),
    ([["criu_check"]], [answer("check", False, field(7, 3))]),
    ([["criu_check"]], [answer("dump")]),
    ([["criu_check"]], [answer(0, False)]),
    ([["criu_check"]], []),
    ([["criu_dump"]], [answer("dump", True, field(3, b""))]),
    ([["criu_dump"]], [answer("dump", True, field(3, field(1, True)))]),
    ([["criu_dump"]], [answer("dump", False, field(7, 3))]),
    ([["criu_set_notify_cb", "STAGE"], ["criu_dump"]], [stage("pre-dump"), stage("post-restore", 77), answer("dump", True, field(3, b""))]),
    ([["criu_set_notify_cb", "STAGE"], ["criu_dump"]], [stage("bad"), b""]),
    ([["criu_dump"]], [stage("pre-dump"), answer("dump", True, field(3, b""))]),
    ([["criu_pre_dump"]], [answer(13)]),
    ([["criu_pre_dump"]], [answer(13, False)]),
    ([["criu_restore"]], [answer("restore", True, field(4, field(1, 77)))]),
    ([["criu_restore"]], [answer("restore", False, field(7, 17))]),
    ([["criu_restore_child"]], [answer("restore", True, field(4, field(1, 77)))]),
    ([["criu_restore_child"]], [answer("restore", False, field(7, 17))]),
    ([["criu_get_version"]], [answer("version", True, field(10, VERSION + field(4, 1)))]),
    ([["criu_get_version"]], [answer("version", True, field(10, VERSION + field(4, 1) + field(3, "a5b6")))]),
    ([["criu_get_version"]], [answer("version", False)]),
    ([["criu_check_version", 31500]], [answer("version", True, field(10, VERSION))]),
    ([["criu_check_version", 40201]], [answer("version", True, field(10, VERSION))]),
    ([["criu_feature_check", [True, True, True], 3]],
     [answer("feature-check", True, field(8, field(1, True) + field(2, False) + field(3, True)))]),
    ([["criu_feature_check", [True, False], 2]], [answer("feature-check", True, field(8, field(1, True)))]),
    ([["criu_feature_check", [True, True, True], 4]], []),
    ([["criu_feature_check", [True], 3]], [answer("feature-check", False)]),
    ([["criu_dump_iters", [1]]], []),
    ([["criu_set_pid", 5], ["criu_dump_iters", [1, 1, 0]]], [answer("pre-dump")] * 3 + [answer("dump", True, field(3, b""))]),
    ([["criu_set_pid", 5], ["criu_dump_iters", [1, -3]]], [answer("pre-dump")] * 2),
    ([["criu_set_pid", 5], ["criu_dump_iters", [1]]], [answer("pre-dump", False, field(7, 3))]),
    ([["criu_set_service_address", "/nowhere"], ["criu_check"]], []),
    ([["criu_set_service_binary", "/nowhere"], ["criu_check"]], []),
    ([["criu_set_service_binary", "/nowhere"], ["criu_dump"]], []),
)


@test(timeout=120, needs=["criu-sid"])
def answers():
    """Each answer is told as by CRIU's library, in the same number and after the same requests."""
    ours, theirs = (calls_of(path, TALKS, BASE / "answers") for path in (OURS, THEIRS))
    for _, _, told in (*ours, *theirs):
        del told[:1]  # who asks, see below
    differ = [(talk, *pair) for talk, *pair in zip(TALKS, ours, theirs) if pair[0] != pair[1]]
    assert not differ, differ
    # A dump may be one of the caller himself, who has no such child then; what is restored may have to be a child of his.
    talks = [([["criu_set_pid", 5], [name, *more]], [b""])
             for name, *more in (("criu_dump",), ("criu_pre_dump",), ("criu_dump_iters", [1]), ("criu_restore_child",))]
    assert [told[0]["alone"] for _, _, told in calls_of(OURS, talks, BASE / "answers")] == [True, True, True, False]


def of_ferry():
    """A folder with a criu that is ferry."""
    folder = BASE / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "criu").is_symlink():
        (folder / "criu").symlink_to(pathlib.Path(os.environ["FERRY"]).absolute())
    return folder, None


def of_criu():
    """The same, of CRIU, and its library."""
    folder = BASE / "bin-criu"
    folder.mkdir(parents=True, exist_ok=True)
    libraries = SID / "usr/lib/x86_64-linux-gnu"
    (folder / "criu").write_text(f'#!/bin/sh\nexec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries} {SID}/usr/sbin/criu "$@"\n',
                                 encoding="ascii")
    (folder / "criu").chmod(0o755)
    return folder, THEIRS


def client(engine, verb, folders, pid=None, **environment):
    """What the program that uses the library prints."""
    folder, library = engine
    more = {"LD_PRELOAD": str(library)} if library else {}
    done = subprocess.run([CLIENT, verb, *folders, *([str(pid)] if pid else [])], text=True, stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=60, check=False, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **more, **environment})
    assert done.returncode == 0, (verb, done)
    return [line for line in done.stdout.splitlines() if line != "Looks good."]


def worked(engine, name):
    """All that a program can ask of the library, with a tree that is there to check it."""
    base = BASE / name
    shutil.rmtree(base, ignore_errors=True)
    places = [base / part for part in ("images", "work")]
    for place in places:
        place.mkdir(parents=True)
    program = Program("heap-stack")
    said = [client(engine, verb, places) for verb in ("check", "at-least-3.15", "at-least-9", "features")]
    said.append(client(engine, "dump-running", places, program.pid))
    program.verify()
    for refused in ("pre-dump", "post-dump"):
        said.append(client(engine, "dump-running", places, program.pid, CRIU_REFUSE=refused))
        program.verify()
    said.append(client(engine, "silent-dump-running", places, program.pid))
    said.append(client(engine, "dump", places, 99999999)[-1].partition(" errno")[0])
    program.verify()
    said.append(client(engine, "dump", places, program.pid))
    program.wait_gone([program.pid])
    said.append(client(engine, "restore", places))
    program.verify()
    said.append(client(engine, "restore", places)[-1].partition(" errno")[0])
    program.verify()
    program.quit()
    first, program = program, Program("heap-stack")
    said.append(client(engine, "silent-dump", places, program.pid))
    program.wait_gone([program.pid])
    with subprocess.Popen([CLIENT, "restore-child", *places], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          env={**os.environ, "PATH": f"{engine[0]}:{os.environ['PATH']}",
                               **({"LD_PRELOAD": str(engine[1])} if engine[1] else {})}) as child:
        lines = []
        for line in child.stdout:
            lines.append(line.strip())
            if line.startswith("returned"):
                break
        program.verify()
        program.quit()
        lines += child.stdout.read().splitlines()
    said.append(lines)
    return [str(one).replace(str(program.pid), "PID").replace(str(first.pid), "PID") for one in said]


@test(timeout=120, needs=["criu-sid"])
def jobs():
    """A program that uses the library dumps and restores, is told and refuses, with the same results as with CRIU and its library."""
    ours, theirs = worked(of_ferry(), "ferry"), worked(of_criu(), "criu")
    assert ours == theirs, [pair for pair in zip(ours, theirs) if pair[0] != pair[1]]
    assert "status 0" in ours[-1] and "no child" not in ours[-1], ours[-1]


@test(timeout=60)
def iters():
    """criu_dump_iters(): pre-dumps as long as more are wanted, then the dump, which is whole."""
    places = [BASE / "iters" / part for part in ("images", "work")]
    for place in places:
        place.mkdir(parents=True)
    program = Program("heap-stack")
    assert client(of_ferry(), "silent-iters", places, program.pid) == ["more 1", "more 1", "returned 0"]
    program.verify()
    program.kill([program.pid])
    program.wait_gone([program.pid])
    assert client(of_ferry(), "silent-restore", places) == [f"returned {program.pid}"]
    program.verify()
    program.quit()


def dumps_itself(engine, places):
    """A program that dumped itself and so has ended; where it prints to."""
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    out = places[1] / "out"
    folder, library = engine
    more = {"LD_PRELOAD": str(library)} if library else {}
    with open(out, "wb") as file:
        done = subprocess.run([CLIENT, "silent-self", *places], stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60, check=False,
                              start_new_session=True, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **more})
    assert done.returncode == -9 and not out.read_bytes(), (done, out.read_bytes())
    return out


def comes_back(engine, places, out):
    """It is restored, and knows it."""
    done = subprocess.run([engine[0] / "criu", "restore", "-D", places[0], "-W", places[1], "-d", "-o", "restore.log"], text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (engine, done, (places[1] / "restore.log").read_text(encoding="utf-8")[-1000:])
    wait_until(lambda: out.read_bytes(), "the program that dumped itself does not go on", 30)
    assert out.read_text(encoding="ascii").startswith("returned 1\n"), out.read_bytes()


@test(timeout=120, needs=["criu-sid"])
def itself():
    """A process dumps itself by criu_dump(): it runs on and is told 0, or ends, and is told 1 when ferry or CRIU restores it."""
    ferry, criu = of_ferry(), of_criu()
    places = [BASE / "self" / part for part in ("images", "work")]
    for dumper in (ferry, criu):
        for restorer in (ferry, criu):
            out = dumps_itself(dumper, places)
            comes_back(restorer, places, out)
    with open(places[1] / "running", "wb") as file:
        subprocess.run([CLIENT, "silent-self-running", *places], stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60, check=True,
                       start_new_session=True, env={**os.environ, "PATH": f"{ferry[0]}:{os.environ['PATH']}"})
    assert (places[1] / "running").read_text(encoding="ascii") == "returned 0\n"


if __name__ == "__main__":
    main()
