# SPDX-License-Identifier: Apache-2.0
"""Machines that run containers: nodes with control groups, /run and /dev/shm of their own."""

import tempfile

from ferrytest.containers import groups
from ferrytest.nodes import Node
from ferrytest.process import wait_until

PLACES = "sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \\([^ ]*\\) .* - cgroup\\(2\\?\\) [^ ]* rw,*\\(.*\\)/\\1 cgroup\\2 \\3/p' /proc/self/mountinfo"

# Into a group of the node's in each hierarchy, and then the command. A cpuset takes nobody before it has processors and memory.
JOIN = PLACES + """ | while read -r place _; do
	mkdir -p $place$0
	for file in cpuset.cpus cpuset.mems; do
		[ ! -e $place$0/$file ] || cat $place/$file > $place$0/$file
	done
	echo $$ > $place$0/cgroup.procs
done
exec "$@"
"""

# The hierarchies as they are seen from the node's cgroup namespace.
MOUNT = """
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
""" + PLACES + """ | while read -r place type options; do
	umount $place && mount -t $type ${options:+-o $options} cgroup $place
done
"""


class Machine(Node):
    """A node for engines."""

    spaces = (*Node.spaces, "--ipc", "--cgroup")

    def __init__(self, name, folder):
        self.group = groups.own(name)
        self.entering = ("sh", "-c", JOIN, self.group)
        super().__init__(name, folder)
        done = self.run("sh", "-e", "-c", MOUNT)
        assert done.returncode == 0, done.stderr

    def close(self):
        super().close()

        def is_empty():
            groups.remove(self.group)
            return not groups.places(self.group)

        wait_until(is_empty, f"somebody is left on {self.name}")


def machines():
    """Two of them, a and b, each with a link to the bridge that the test itself is at. The addresses there are for containers."""
    folder = tempfile.mkdtemp(prefix="nodes-")
    both = [Machine(name, folder) for name in ("a", "b")]
    for number, machine in enumerate(both, 1):
        machine.connect(number)
        machine.run("ip", "address", "flush", "dev", "eth0")
    return both
