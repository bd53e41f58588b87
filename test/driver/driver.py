#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The driver itself: what counts as passed, failed and skipped, the world of a test, the count of tests."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "test" / "lib"))
NSINIT = os.path.join(os.environ.get("FERRY_BUILD", str(SOURCE / "build")), "test", "lib", "nsinit")

from driver import discover, report, runner  # noqa: E402  pylint: disable=wrong-import-position
from driver.model import Result, Test  # noqa: E402  pylint: disable=wrong-import-position


def skips(text=""):
    """A Skips object of this table."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return report.Skips(pathlib.Path(file.name))


def run(script, table=None, timeout=20):
    """The Result of a shell script as an isolated test."""
    return runner.run_one(Test("x/script", ["sh", "-c", script], timeout), NSINIT, table or skips())


class Outcomes(unittest.TestCase):
    """Exit statuses and skips."""

    def outcome(self, script, *more):
        result = run(script, *more)
        return result.outcome, result.reason

    def test_statuses(self):
        self.assertEqual(self.outcome("exit 0"), ("passed", ""))
        self.assertEqual(self.outcome("echo because; exit 1"), ("failed", "exit 1: because"))
        self.assertEqual(self.outcome("kill -SEGV $$")[0], "failed")

    def test_skips(self):
        self.assertIn("not listed", self.outcome("echo SKIP: no luck; exit 77")[1])
        absent = skips("x/*\tfalse\tno such thing\n")
        self.assertEqual(self.outcome("exit 77", absent), ("skipped", "no such thing"))
        there = skips("x/*\ttrue\tno such thing\n")
        self.assertEqual(self.outcome("exit 77", there)[0], "failed")
        other = skips("y/*\tfalse\tno such thing\n")
        self.assertEqual(self.outcome("exit 77", other)[0], "failed")

    def test_timeout(self):
        self.assertEqual(run("sleep 60", timeout=1).reason, "no end after 1 s")


class World(unittest.TestCase):
    """What nsinit makes around a test."""

    def assert_holds(self, script):
        result = run(script)
        self.assertEqual(result.outcome, "passed", f"{script}: {result.output}")

    def test_namespaces(self):
        outside = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "mnt", "net", "ipc", "uts", "time")}
        for name, link in outside.items():
            self.assert_holds(f'test "$(readlink /proc/self/ns/{name})" != "{link}"')

    def test_contents(self):
        self.assert_holds("ping -c 1 127.0.0.1 >/dev/null 2>&1 || ip addr show lo | grep -q UP")
        self.assert_holds('test "$(ls /proc/self/fd | wc -l)" = 4')  # 0, 1, 2 and the one that ls reads with
        self.assert_holds('test "$PWD" = "$TMPDIR" && touch a && test "$(ls | wc -l)" = 1')
        self.assert_holds("test -z \"$(ls /run /dev/shm | grep -v :)\"")
        self.assert_holds('test "$(readlink /proc/self/fd/0)" = /dev/null')

    def test_init_reaps_and_kills(self):
        self.assert_holds("(sh -c 'sleep 0.05 & echo $! >orphan') ; sleep 0.3; ! test -e /proc/$(cat orphan)")
        marker = f"61.{os.getpid()}"
        self.assert_holds(f"sleep {marker} & exit 0")
        found = subprocess.run(["pgrep", "-f", f"sleep {marker}"], check=False, stdout=subprocess.PIPE).stdout
        self.assertEqual(found, b"", "a process outlived its test")

    def test_nothing_stays(self):
        before = set(os.listdir("/tmp"))
        run("touch file; mkdir -p deep/er")
        self.assertEqual({n for n in set(os.listdir("/tmp")) - before if n.startswith("ferry-test-x")}, set())


class Count(unittest.TestCase):
    """test/count.txt falls only with a line in NEWS.md."""

    def setUp(self):
        # pylint: disable=consider-using-with
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        (self.root / "test").mkdir()
        self.git("init", "-q")
        self.commit(5, "first")

    def tearDown(self):
        self.folder.cleanup()

    def git(self, *words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=self.root,
                       check=True, stdout=subprocess.DEVNULL)

    def commit(self, count, news):
        (self.root / "test" / "count.txt").write_text(f"{count}\n")
        (self.root / "NEWS.md").write_text(news + "\n")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")

    def outcome(self, tests):
        return report.check_count(self.root, [Result(str(i), "passed", 0) for i in range(tests - 1)]).outcome

    def test_fewer_tests_fail(self):
        self.assertEqual(self.outcome(4), "failed")
        self.assertEqual(self.outcome(5), "passed")

    def test_more_tests_raise(self):
        self.assertEqual(self.outcome(7), "passed")
        self.assertEqual((self.root / "test" / "count.txt").read_text(), "7\n")

    def test_fixed_does_not_raise(self):
        os.environ["FERRY_COUNT"] = "fixed"
        try:
            self.assertEqual(self.outcome(7), "passed")
        finally:
            del os.environ["FERRY_COUNT"]
        self.assertEqual((self.root / "test" / "count.txt").read_text(), "5\n")

    def test_lowering_needs_news(self):
        self.commit(3, "first")
        self.assertEqual(self.outcome(3), "failed")

    def test_lowering_with_news(self):
        self.commit(3, "two tests went, since")
        self.assertEqual(self.outcome(3), "passed")


class Names(unittest.TestCase):
    """T=pattern."""

    def test_matches(self):
        self.assertTrue(discover.matches("integration/roundtrip.pipes", "pipes"))
        self.assertTrue(discover.matches("integration/roundtrip.pipes", "integration/*.pipes"))
        self.assertFalse(discover.matches("integration/roundtrip.pipes", "*.pipe"))
        self.assertTrue(discover.matches("anything", ""))


if __name__ == "__main__":
    unittest.main()
