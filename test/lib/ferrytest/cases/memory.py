# SPDX-License-Identifier: Apache-2.0
"""Memory of every kind."""

from ferrytest.cases.case import Case, simple

CASES = [
    *simple("memory", "vma-anon", "heap-stack", "vdso", "vma-guard", "vma-droppable", "vma-wipeonfork", "vma-sealed",
            "vma-locked", "family", "huge-transparent"),
    *simple("prctl", "thp-process"),
    Case("thp-process-advised", "thp-process", ("advised",), kind="prctl"),
    *simple("mm", "mlockall", "numa-policy", "memory-merge"),
    Case("mlockall-on-fault", "mlockall", ("onfault",), kind="mm"),
    Case("vma-guard-locked", "vma-guard", ("locked",), kind="memory"),
    *simple("hugetlb", "huge-private"),
    *simple("memory", "rounds"),
    *simple("memfd", "huge-shared", "memfd-code", "memfd-future", "memfd-exe"),
    Case("huge-memfd", "huge-shared", ("memfd",), kind="memfd"),
    *simple("sysvshm", "sysvshm", "sysvshm-parts", "sysvshm-detached", "sysvshm-watched"),
    Case("sysvshm-removed", "sysvshm", ("removed",), kind="sysvshm"),
    Case("sysvshm-locked", "sysvshm", ("locked",), kind="sysvshm"),
    Case("sysvshm-own", "sysvshm", ("own",), kind="sysvshm", also=("ipc",)),
    Case("sysvshm-own-removed", "sysvshm", ("own", "removed"), kind="sysvshm"),
    Case("sysvshm-own-detached", "sysvshm-detached", ("own",), kind="sysvshm"),
    Case("huge-sysvshm", "sysvshm", ("huge",), kind="sysvshm"),
    Case("memory-merge-all", "memory-merge", ("all",), kind="mm"),
    *simple("regfile", "vma-file", "devzero", "vma-short-file", "vma-may-write"),
    Case("posix-shm", kind="regfile", worlds=False),
    *simple("shmem", "vma-shared", "shared-parts"),
    Case("large", kind="mm"),
    Case("large-child", "large", ("child",), kind="mm"),
    *simple("memfd", "memfd", "memfd-mapped"),
]
