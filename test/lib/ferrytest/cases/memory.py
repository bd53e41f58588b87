# SPDX-License-Identifier: Apache-2.0
"""Memory of every kind."""

from ferrytest.cases.case import simple

CASES = [
    *simple("memory", "vma-anon", "heap-stack", "vdso"),
    *simple("regfile", "vma-file"),
    *simple("shmem", "vma-shared"),
    *simple("memfd", "memfd", "memfd-mapped"),
]
