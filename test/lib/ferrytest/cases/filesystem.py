# SPDX-License-Identifier: Apache-2.0
"""Files, directories, devices, and what is watched or locked in them."""

from ferrytest.cases.case import Case, simple

CASES = [
    *simple("regfile", "files", "directories", "devices", "devices-control", "path-only", "covered"),
    *simple("regfile", "chrooted", "odd-names", "open-flags", "file-owners", "proc-ended", "proc-files"),
    *simple("regfile", "ghost-file", "ghost-sparse", "ghost-mapped", "ghost-executable", "ghost-directory", "ghost-special",
            "ghost-name-taken", "tmpfile"),
    Case("link-other", kind="regfile", criu=("--link-remap",)),
    *(Case(name, kind="filelock", criu=("--file-locks",)) for name in
      ("locks-flock", "locks-record", "locks-ofd", "locks-waiting", "leases")),
    *simple("inotify", "inotify", "inotify-deleted", "inotify-overlay"),
    *simple("fanotify", "fanotify"),
]
