#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""List the man pages of this folder: one line each, the page and then every other name that its NAME line gives.

The sources are scdoc: the first line is "name(section)", and the text under "# NAME" reads "a, b - what they are".
"""

import pathlib
import re
import sys


def names(source):
    """The page of one source file and the names in its NAME section, each with the section number."""
    text = source.read_text(encoding="utf-8")
    page = source.name[: -len(".scd")]
    section = page.rsplit(".", 1)[1]
    found = re.search(r"^# NAME\s*\n+(.*?) - ", text, re.MULTILINE | re.DOTALL)
    if not found:
        sys.exit(f"{source}: no '# NAME' section of the form 'name, name - text'")
    listed = [name.strip().replace("\\", "") + "." + section for name in found.group(1).split(",")]
    return page, [name for name in listed if name != page]


def main():
    for source in sorted(pathlib.Path(__file__).parent.glob("*.scd")):
        page, others = names(source)
        print(page, *others)


if __name__ == "__main__":
    main()
