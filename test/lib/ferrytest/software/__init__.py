# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, each with known data, load from outside where it serves somebody, and proofs."""

from ferrytest.software.base import Software

__all__ = ["Software"]
