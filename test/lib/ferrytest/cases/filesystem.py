# SPDX-License-Identifier: Apache-2.0
"""Files, directories, devices, and what is watched or locked in them."""

from ferrytest.cases.case import simple

CASES = [
    *simple("regfile", "files", "directories", "devices", "path-only", "covered"),
    *simple("regfile", "ghost-file", "ghost-sparse", "ghost-mapped", "ghost-executable", "ghost-directory", "ghost-special",
            "ghost-name-taken", "link-other", "tmpfile"),
    *simple("filelock", "locks-flock", "locks-record", "locks-ofd", "locks-waiting", "leases"),
]
