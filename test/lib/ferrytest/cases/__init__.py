# SPDX-License-Identifier: Apache-2.0
"""The table of test programs: how each is started, what a dump of it needs, and what a partner outside checks. A module
for each area; the programs lie in test/programs/AREA/."""

from ferrytest.cases import descriptors, filesystem, memory, namespaces, sockets, tasks
from ferrytest.cases.case import Case

__all__ = ["CASES", "Case", "start"]

CASES = [*memory.CASES, *tasks.CASES, *filesystem.CASES, *descriptors.CASES, *sockets.CASES, *namespaces.CASES]


def start(case, more=True):
    """(program, partner): the program ready, with its partner connected where it has one. Without more the program
    leaves out the state that CRIU does not keep."""
    from ferrytest.program import Program  # pylint: disable=import-outside-toplevel

    partner = case.partner() if case.partner else None
    arguments = [*case.arguments, *["more"] * more]
    program = Program(case.program, *arguments, before_ready=partner.connect if partner else None)
    return program, partner
