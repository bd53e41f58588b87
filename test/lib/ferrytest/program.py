# SPDX-License-Identifier: Apache-2.0
"""A program of test/programs (test/lib/program.h): start it, ask it, end it."""

import os
import pathlib
import subprocess
import tempfile

from ferrytest.process import describe, is_alive, tree, wait_until
from ferrytest.register import skip

ANSWER_SECONDS = 30
SKIPPED = 77


def program_path(name):
    """Where the program of this name was built; the areas are folders."""
    found = list(pathlib.Path(os.environ["FERRY_PROGRAMS"]).glob(f"*/{name}"))
    assert len(found) == 1, f"{len(found)} programs are called {name}"
    return found[0]


def is_old(name):
    """Whether it is a program of 32 bits."""
    return name.startswith("old-")


def runs(name):
    """Whether a program was built and the kernel knows how to start it."""
    try:
        # Without a mailbox it ends at once.
        subprocess.run([str(path) for path in pathlib.Path(os.environ["FERRY_PROGRAMS"]).glob(f"*/{name}")][:1],
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return True
    except (IndexError, OSError):
        return False


class Program:
    """A running test program. Its pid stays the same over dump and restore."""

    patience = ANSWER_SECONDS  # so long may an answer take

    def __init__(self, name, *arguments, before_ready=None, environment=None, interpreter=None, job=None,
                 patience=ANSWER_SECONDS):
        self.name = name
        self.patience = patience
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=name + "-"))
        # Roles may run as other users.
        self.folder.chmod(0o1777)
        self.asked = 0
        self.ended = None  # exit status of the process that we started
        command = interpreter or [str(program_path(name))]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                [*command, str(self.folder), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=job is None, process_group=job, env=environment)
        self.pid = self.process.pid
        if before_ready:
            before_ready(self)
        wait_until(lambda: self.answer_of("main") or not self.running(), f"{name} is not ready", patience)
        if self.ended == SKIPPED:
            skip(self.log())
        assert self.running(), f"{name} ended before it was ready: {self.log()}"
        self.roles = sorted(p.name.partition(".")[2] for p in self.folder.glob("answer.*"))

    @classmethod
    def adopt(cls, state):
        """What belongs() of the same program said, perhaps in another world where it runs now."""
        program = cls.__new__(cls)
        vars(program).update(state, process=None, ended=None)
        return program

    def belongs(self):
        """What another world has to know of it."""
        return {key: value for key, value in vars(self).items() if key not in ("process", "ended")}

    def log(self):
        """What the program wrote."""
        return (self.folder / "log").read_text(errors="replace").strip()

    def running(self):
        """Whether the first process lives; reaps it when it was ours and ended."""
        if self.process is not None and self.process.poll() is not None:
            self.ended = self.process.returncode
            self.process = None
        return is_alive(self.pid)

    def answer_of(self, role):
        """(number, good, reason) of the last answer, or None."""
        try:
            words = (self.folder / f"answer.{role}").read_text().split(None, 2)
        except OSError:
            return None
        return int(words[0]), words[1] == "ok", words[2].strip() if len(words) > 2 else ""

    def ask(self, word, role):
        """One question to one role: (good, reason)."""
        self.asked += 1
        number = self.asked
        fresh = self.folder / f".ask.{role}"
        fresh.write_text(f"{number} {word}\n")
        fresh.chmod(0o644)
        fresh.rename(self.folder / f"ask.{role}")

        def answered():
            ended = role == "main" and not self.running()
            answer = self.answer_of(role)
            return answer if answer and answer[0] == number else ended

        try:
            answer = wait_until(answered, f"{self.name}: {role} does not answer '{word}' {self.log()}", self.patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; {describe(self.pid)}") from None
        assert answer is not True, f"{self.name} ended: {self.log()}"
        return answer[1], answer[2]

    def ask_all(self, word):
        """All roles, the first process last: some of its final proofs end the others. [(role, good, reason)]"""
        order = [role for role in self.roles if role != "main"] + ["main"]
        return [(role, *self.ask(word, role)) for role in order]

    def expect_good(self, word):
        """Every role must answer ok."""
        bad = [f"{role}: {reason}" for role, good, reason in self.ask_all(word) if not good]
        assert not bad, f"{self.name}: {word}: {'; '.join(bad)}"

    def verify(self):
        """Every role proves its state and leaves it as it is."""
        self.expect_good("verify")

    def finish(self):
        """Every role gives the proofs that use its state up."""
        self.expect_good("finish")

    def spoil(self):
        """Roles change their state; those that can. Returns their names."""
        return [role for role, good, _ in self.ask_all("spoil") if good]

    def volatile(self):
        """Addresses that change although the program does nothing: {pid: [(start, end)]}."""
        ranges = {}
        for path in self.folder.glob("volatile.*"):
            for line in path.read_text().splitlines():
                pid, start, end = line.split()
                ranges.setdefault(int(pid), []).append((int(start, 16), int(end, 16)))
        return ranges

    def tree(self):
        """Pids, parents first."""
        return tree(self.pid)

    def reap(self):
        """Take the exit status of the process that we started; a restored one is not ours."""
        if self.process is not None:
            self.process.wait(timeout=ANSWER_SECONDS)
            self.process = None

    def wait_gone(self, pids):
        """Until none of these processes exists."""
        self.reap()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), f"{self.name} is still there")

    def quit(self):
        """Let it end in order, and take down what is left of its tree."""
        pids = self.tree()
        if self.running():
            self.ask("quit", "main")
            wait_until(lambda: not self.running(), f"{self.name} does not end")
        self.kill(pids)
        self.wait_gone(pids)

    def kill(self, pids=None):
        """End the whole tree."""
        for pid in pids or self.tree():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        self.reap()
