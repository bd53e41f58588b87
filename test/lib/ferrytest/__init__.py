# SPDX-License-Identifier: Apache-2.0
"""What integration tests are made of.

    from ferrytest import main, test

    @test(timeout=30)
    def something_holds():
        assert ...

    if __name__ == "__main__":
        main()

A test passes when its function returns, fails when it raises, is skipped when it calls skip(). It runs as a process of
its own in namespaces of its own (test/lib/nsinit.c), in a folder of its own ($TMPDIR).
"""

from ferrytest.engine import Criu, EngineError, Ferry
from ferrytest.leftovers import Leftovers
from ferrytest.process import children, is_alive, status, tree, wait_until
from ferrytest.program import Program
from ferrytest.register import main, skip, test
from ferrytest.roundtrip import round_trip
from ferrytest.snapshot import differences, snapshot

__all__ = [
    "Criu", "EngineError", "Ferry", "Leftovers", "Program", "children", "differences", "is_alive", "main",
    "round_trip", "skip", "snapshot", "status", "test", "tree", "wait_until",
]
