# SPDX-License-Identifier: Apache-2.0
"""What dumps and restores: ferry, and CRIU for comparison, behind the same two calls."""

import json
import os
import pathlib
import subprocess
import sys


class EngineError(AssertionError):
    """A dump or a restore failed."""

    def __init__(self, what, done, log=""):
        text = " | ".join(((done.stderr or "").strip() or (done.stdout or "").strip()).splitlines())
        super().__init__(f"{what} exits with {done.returncode}: {text}{log}")
        self.status = done.returncode
        self.output = (done.stdout or "") + (done.stderr or "")


def run(command, timeout, environment=None):
    """Run to the end; output as text."""
    return subprocess.run([str(word) for word in command], check=False, text=True, errors="replace", timeout=timeout,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, **(environment or {})})


def note_refusal(done):
    """What a test was refused for is known to scripts/refusals.py."""
    if "FERRY_BUILD" in os.environ:
        test = f"{pathlib.Path(sys.argv[0]).stem}.{sys.argv[-1]}"
        said = " ".join((done.stderr + done.stdout).split())
        with open(pathlib.Path(os.environ["FERRY_BUILD"]) / "check" / "refused.tsv", "a", encoding="utf-8") as file:
            file.write(f"{test}\t{said}\n")


class Ferry:
    """The program under test ($FERRY)."""

    name = "ferry"
    leaves = ()  # files that may stay

    def __init__(self, path=None):
        self.path = path or os.environ["FERRY"]

    def run(self, *words, timeout=120, environment=None):
        """Any command line."""
        done = run([self.path, *words], timeout, environment)
        if done.returncode not in (0, 2):
            note_refusal(done)
        return done

    def report(self, what, done):
        """The JSON object on standard output; raises when the command failed."""
        if done.returncode:
            raise EngineError(what, done)
        return json.loads(done.stdout)

    def dump(self, pid, images, *, leave_running=False, shell_job=False, tcp_established=False, more=()):
        """ferry dump; its JSON report."""
        words = ["dump", "-t", pid, "-D", images, "--json"]
        words += ["--leave-running"] * leave_running + ["--shell-job"] * shell_job
        words += ["--tcp-established"] * tcp_established
        return self.report("ferry dump", self.run(*words, *more))

    def restore(self, images, *, again=False, shell_job=False, tcp_established=False, more=()):
        """ferry restore -d; its JSON report."""
        words = ["restore", "-D", images, "-d", "--json"]
        words += ["--again"] * again + ["--shell-job"] * shell_job + ["--tcp-established"] * tcp_established
        return self.report("ferry restore", self.run(*words, *more))


# crit's own command line, once for each file.
CRIT_DECODE = """
import os, sys
from crit.__main__ import main
for path in sys.argv[1:]:
    sys.argv = ["crit", "decode", "-i", path, "-o", os.devnull]
    try:
        why = main()
    except SystemExit as end:
        why = end.code
    except Exception as error:
        why = repr(error)
    if why:
        print(os.path.basename(path) + ":", " ".join(str(why).split()))
print("all looked at")
"""


class Criu:
    """CRIU out of a folder that scripts/criu-sid.sh made, run through that folder's own loader."""

    name = "criu"
    leaves = ("/run/criu.kdat",)  # its cache of kernel features
    LOCK = ("--network-lock", "nftables")

    def __init__(self, sid, verbosity=4, words=()):
        self.sid = pathlib.Path(sid)
        self.words = words  # of every dump and restore
        self.path = self.sid / "usr/sbin/criu"
        self.verbosity = f"-v{verbosity}"

    def command(self, program, *words):
        """The command line for a program of that folder."""
        libraries = self.sid / "usr/lib/x86_64-linux-gnu"
        loader = libraries / "ld-linux-x86-64.so.2"
        return [str(loader), "--library-path", str(libraries), str(program), *map(str, words)]

    def crit_decode(self, paths):
        """Have crit decode each file; what it says of those that it cannot: ["NAME: why"]. One process for all."""
        usr = self.sid / "usr"
        environment = {"PYTHONHOME": str(usr), "PYTHONPATH": str(usr / "lib/python3/dist-packages")}
        done = run(self.command(usr / "bin/python3", "-c", CRIT_DECODE, *paths), 120, environment)
        assert done.returncode == 0 and done.stdout.endswith("all looked at\n"), done
        return done.stdout.splitlines()[:-1]

    def run(self, *words, timeout=120, environment=None):
        """Any command line."""
        return run(self.command(self.path, *words), timeout, environment)

    def version(self):
        """As it says itself."""
        return self.run("--version").stdout.split("\n")[0].partition(": ")[2]

    def log_tail(self, path):
        """The errors of a log."""
        try:
            lines = pathlib.Path(path).read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join([""] + [line for line in lines if "Error" in line or "Warn" in line][-8:])

    def dump(self, pid, images, *, leave_running=False, shell_job=False, tcp_established=False, more=()):
        """criu dump."""
        words = ["dump", "-t", pid, "-D", images, self.verbosity, "-o", "dump.log"]
        words += ["--leave-running"] * leave_running + ["--shell-job"] * shell_job
        words += ["--tcp-established", *self.LOCK] * tcp_established
        done = self.run(*words, *self.words, *more)
        if done.returncode:
            raise EngineError("criu dump", done, self.log_tail(pathlib.Path(images) / "dump.log"))
        return {}

    def restore(self, images, *, again=False, shell_job=False, tcp_established=False, more=()):
        """criu restore -d. It restores as often as it is asked to."""
        del again
        words = ["restore", "-D", images, "-d", self.verbosity, "-o", "restore.log"]
        words += ["--shell-job"] * shell_job + ["--tcp-established", "--network-lock", "nftables"] * tcp_established
        done = self.run(*words, *self.words, *more)
        if done.returncode:
            raise EngineError("criu restore", done, self.log_tail(pathlib.Path(images) / "restore.log"))
        return {}
