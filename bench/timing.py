# SPDX-License-Identifier: Apache-2.0
"""How long a call takes."""

import time


def timed(call):
    """(result, nanoseconds)."""
    began = time.monotonic_ns()
    result = call()
    return result, time.monotonic_ns() - began
