# SPDX-License-Identifier: Apache-2.0
"""Files, directories, devices, and what is watched or locked in them."""

from ferrytest.cases.case import simple

CASES = [
    *simple("regfile", "files", "directories", "devices"),
]
