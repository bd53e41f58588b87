# SPDX-License-Identifier: Apache-2.0
"""Memory of every kind."""

from ferrytest.cases.case import simple

CASES = [
    *simple("vma", "vma-anon", "vma-file", "vma-shared", "heap-stack", "vdso"),
    *simple("memfd", "memfd", "memfd-mapped"),
]
