# SPDX-License-Identifier: Apache-2.0
"""What the parts of the driver hand to each other."""

import dataclasses


@dataclasses.dataclass
class Test:
    """One thing to run. An isolated test gets namespaces and a folder of its own."""

    name: str
    command: list
    timeout: float = 60
    environment: dict = dataclasses.field(default_factory=dict)
    isolated: bool = True
    exclusive: bool = False  # runs while nothing else does
    needs: list = dataclasses.field(default_factory=list)  # see prepare.py


@dataclasses.dataclass
class Result:
    """What became of it. The reason is one line: why it was skipped or how it failed."""

    name: str
    outcome: str  # passed, failed, skipped
    seconds: float
    reason: str = ""
    output: str = ""
