# SPDX-License-Identifier: Apache-2.0
"""What make bench measures, and what ferry is to reach."""

import dataclasses

MIB = 1 << 20


@dataclasses.dataclass
class Case:
    """A target, what is done with it, and how often."""

    name: str
    words: tuple  # of bench/targets/memory.c; those with a dash are options of ferry dump; redis only tells its size
    runs: int
    what: str
    # Largest ratio of ferry's median to CRIU's, for each metric that has one.
    ratio: dict = dataclasses.field(default_factory=dict)
    # Largest value of ferry's own median.
    most: dict = dataclasses.field(default_factory=dict)
    steps: tuple = ("leave", "back")  # of bench/measure.py


CASES = [
    Case("smallest", (), 15, "a process of one thread and no memory of its own", {"wall": 0.25, "restore": 0.25}),
    Case("processes-1000", ("processes=1000",), 5, "1000 such processes", {"wall": 1 / 3, "restore": 1 / 3}),
    Case("threads-1000", ("threads=1000",), 5, "a process of 1000 threads that sleep", {"wall": 1 / 3, "restore": 1 / 3}),
    Case("threads-10000", ("threads=10000",), 5, "one of 10000", {"wall": 1 / 3, "restore": 1 / 3}),
    Case("descriptors-1000", ("descriptors=1000",), 5, "a process with 250 eventfds, 250 files and both ends of 250 pipes"),
    Case("memory-256m", ("mib=256",), 5, "256 MiB that do not compress, in pages of 4 KiB"),
    Case("memory-4g", ("mib=4096", "--no-live"), 5, "4 GiB of that, stored while the process stands",
         {"wall": 0.85, "restore": 0.85}, steps=("back",)),
    Case("memory-4g-huge", ("mib=4096", "huge"), 5, "4 GiB of that in huge pages", {"restore": 0.67}, steps=("back",)),
    Case("memory-4g-writing", ("mib=4096", "writes=10000"), 5, "4 GiB of that, 10000 pages being written a second",
         {"freeze": 0.01}, {"freeze": 10e6}),
    Case("memory-4g-lazy", ("mib=4096",), 5, "4 GiB of that, which ferry fills in after the program has begun to run (restore --lazy)",
         {"answer": 0.02}, steps=("lazy",)),
    Case("memory-4g-again", ("mib=4096", "changes"), 5,
         "4 GiB of that, dumped a second time after a page of a hundred was written to; CRIU has no way on this kernel but a full dump",
         {"second_wall": 0.05, "second_image": 0.05}, steps=("again",)),
    Case("memory-4g-unwritten", ("mib=4096", "unwritten"), 5,
         "4 GiB that were read and never written; a tenth of the 3.3 s that CRIU takes for 4 GiB is wanted", {},
         {"image": MIB, "wall": 330e6}, steps=("back",)),
    Case("memory-4g-zeros", ("mib=4096", "zeros"), 5, "4 GiB of zeroes that were written", {"wall": 0.25}, {"image": MIB},
         steps=("back",)),
    Case("family-1g", ("mib=1024", "processes=8", "family"), 5, "1 GiB that 9 processes have in common since they were forked",
         {}, {"image": 1.1 * 1024 * MIB, "pss": 1.1 * 1024 * MIB}, steps=("back",)),
    Case("redis-2g", ("mib=2048",), 5, "a redis-server with 2 GiB, which a client writes to without a pause", {}, {"request": 20e6},
         steps=("redis",)),
    Case("runc-counter", (), 7, "a container of runc that counts", steps=("runc",)),
    Case("podman-counter", (), 7, "one of podman over runc", steps=("podman",)),
]

METRICS = {
    "idle_gap": ("ns", "largest gap in CLOCK_MONOTONIC that the target saw in 0.3 s without a dump: the noise"),
    "freeze": ("ns", "largest gap that it saw during a dump with --leave-running"),
    "freeze_reported": ("ns", "what the tool says about that"),
    "wall_leave_running": ("ns", "that dump, from the start of the command to its end"),
    "idle_request": ("ns", "longest time that a request took in half a second without a dump: the noise"),
    "request": ("ns", "longest time that one took during a dump with --leave-running"),
    "wall": ("ns", "a dump that ends the target"),
    "image": ("bytes", "what the image takes on the disk"),
    "restore": ("ns", "restoring that image, to the end of the command"),
    "answer": ("ns", "from the start of that command until the program has answered a question about its memory"),
    "first_wall": ("ns", "a first dump with --leave-running, with which tracking begins"),
    "second_wall": ("ns", "the second one"),
    "second_image": ("bytes", "what the second image takes on the disk"),
    "pss": ("bytes", "memory of the restored tree, what is shared counted once"),
}
