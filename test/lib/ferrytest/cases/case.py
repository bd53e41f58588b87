# SPDX-License-Identifier: Apache-2.0
"""One line of the table of test programs."""

import dataclasses


@dataclasses.dataclass
class Case:
    """One line of the table."""

    name: str
    program: str = ""
    arguments: tuple = ()
    options: dict = dataclasses.field(default_factory=dict)
    partner: object = None  # makes the partner; it has connect(program) and finish()
    kind: str = ""  # the kind in src/kind/ whose state it proves, by name; doc/kinds.md lists it there
    also: tuple = ()  # other kinds whose state it proves too
    criu: tuple = ()  # words that CRIU's dump and restore need for it, which ferry does without
    area: str = ""  # its folder in test/programs/; the table fills it in
    worlds: bool = True  # also restored in new namespaces; not when its state belongs to this one's

    def __post_init__(self):
        self.program = self.program or self.name


def simple(kind, *names):
    """Programs that need nothing but their name."""
    return [Case(name, kind=kind) for name in names]
