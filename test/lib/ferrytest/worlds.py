# SPDX-License-Identifier: Apache-2.0
"""A second world inside that of a test: new namespaces of every kind, in which a function of the test's file runs.

    def there(word):            # in the new world; what it returns comes back
        ...

    in_new_world(there, "word", monotonic=864000)

    if __name__ == "__main__":
        worlds_main(there)      # instead of main()
"""

import os
import pathlib
import pickle
import subprocess
import sys
import tempfile

from ferrytest.register import main

FIRST_PID = 3000


def leave_low_pids():
    """What starts from now on gets numbers that a new world has not given away yet."""
    pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(FIRST_PID))


def in_new_world(function, *arguments, monotonic=0, boottime=0, seconds=60):
    """Run it there, to the end. The clocks of the new world are so many seconds ahead of the machine's."""
    nsinit = pathlib.Path(os.environ["FERRY_BUILD"]) / "test/lib/nsinit"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="world-"))
    (folder / "arguments").write_bytes(pickle.dumps(arguments))
    done = subprocess.run([str(nsinit), "--timeout", str(seconds), "--monotonic", str(monotonic), "--boottime", str(boottime),
                           "--", sys.executable, "-B", sys.argv[0], "--in-world", function.__name__, str(folder)],
                          check=False, text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{function.__name__} in a new world: {done.stdout[-3000:]}"
    return pickle.loads((folder / "result").read_bytes())


def worlds_main(*functions):
    """main() for a file that has functions for new worlds."""
    if sys.argv[1:2] != ["--in-world"]:
        main()
    name, folder = sys.argv[2], pathlib.Path(sys.argv[3])
    function = {f.__name__: f for f in functions}[name]
    result = function(*pickle.loads((folder / "arguments").read_bytes()))
    (folder / "result").write_bytes(pickle.dumps(result))
