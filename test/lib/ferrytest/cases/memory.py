# SPDX-License-Identifier: Apache-2.0
"""Memory of every kind."""

from ferrytest.cases.case import Case, simple

CASES = [
    *simple("memory", "vma-anon", "heap-stack", "vdso", "vma-guard", "vma-droppable", "vma-wipeonfork", "vma-sealed",
            "vma-locked"),
    *simple("mm", "mlockall", "numa-policy", "memory-merge"),
    Case("mlockall-on-fault", "mlockall", ("onfault",), kind="mm"),
    Case("vma-guard-locked", "vma-guard", ("locked",), kind="memory"),
    *simple("hugetlb", "huge-private"),
    *simple("memfd", "huge-shared"),
    Case("huge-memfd", "huge-shared", ("memfd",), kind="memfd"),
    Case("memory-merge-all", "memory-merge", ("all",), kind="mm"),
    *simple("regfile", "vma-file"),
    *simple("shmem", "vma-shared"),
    *simple("memfd", "memfd", "memfd-mapped"),
]
