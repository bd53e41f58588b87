# SPDX-License-Identifier: Apache-2.0
"""Memory of every kind."""

from ferrytest.cases.case import Case, simple

CASES = [
    *simple("memory", "vma-anon", "heap-stack", "vdso", "vma-guard", "vma-droppable", "vma-wipeonfork", "vma-sealed",
            "vma-locked"),
    *simple("mm", "mlockall", "numa-policy", "memory-merge"),
    Case("mlockall-on-fault", "mlockall", ("onfault",), kind="mm"),
    Case("memory-merge-all", "memory-merge", ("all",), kind="mm"),
    *simple("regfile", "vma-file"),
    *simple("shmem", "vma-shared"),
    *simple("memfd", "memfd", "memfd-mapped"),
]
