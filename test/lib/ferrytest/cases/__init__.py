# SPDX-License-Identifier: Apache-2.0
"""The table of test programs: how each is started, what a dump of it needs, and what a partner outside checks. A module
for each area; the programs lie in test/programs/AREA/."""

from ferrytest.cases import compat, descriptors, filesystem, memory, namespaces, sockets, tasks, uring
from ferrytest.cases.case import Case

__all__ = ["CASES", "Case", "start"]

CASES = []
for module in (memory, tasks, compat, filesystem, descriptors, sockets, uring, namespaces):
    for case_of_module in module.CASES:
        case_of_module.area = module.__name__.rpartition(".")[2]
        CASES.append(case_of_module)


def start(case, more=True):
    """(program, partner): the program ready, with its partner connected where it has one. Without more the program
    leaves out the state that CRIU does not keep."""
    from ferrytest.program import Program, is_old, runs  # pylint: disable=import-outside-toplevel
    from ferrytest.register import skip  # pylint: disable=import-outside-toplevel

    if is_old(case.program) and not runs(case.program):
        skip("neither compiler nor kernel need have programs of 32 bits")

    partner = case.partner() if case.partner else None
    arguments = [*case.arguments, *["more"] * more]
    program = Program(case.program, *arguments, before_ready=partner.connect if partner else None)
    return program, partner
