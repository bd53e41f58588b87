#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Usage: errors.py PAGE.scd ERRORS.DEF. Prints the page, @ERRORS@ replaced by the list of include/ferry/errors.def."""

import pathlib
import re
import sys

CLASSES = {
    "1": "Exit status 1: failed, the target runs",
    "2": "Exit status 2: usage",
    "3": "Exit status 3: refused before anything stopped",
    "4": "Exit status 4: outcome unknown",
}
ENTRY = re.compile(r'^FERRY_ERROR\((\w+),\s*"([^"]+)",\s*(\d),\s*"((?:[^"\\]|\\.)*)"\)', re.MULTILINE)


def entries(text):
    """(word, exit class, sentence) of every identifier, in the order of the list."""
    return [(word, number, sentence) for _, word, number, sentence in ENTRY.findall(text)]


def escape(text):
    """scdoc takes these for markup."""
    return re.sub(r"([_*\\#~])", r"\\\1", text)


def main():
    page, definitions = (pathlib.Path(name).read_text(encoding="utf-8") for name in sys.argv[1:3])
    found = entries(definitions)
    if len(found) != definitions.count("\nFERRY_ERROR("):
        sys.exit(f"{sys.argv[2]}: an entry is not on one line")
    lines = []
    for number, title in CLASSES.items():
        lines += [f"## {title}", ""]
        for word, of_class, sentence in found:
            if of_class == number:
                lines += [f"*{word}*", f"\t{escape(sentence)}", ""]
    sys.stdout.write(page.replace("@ERRORS@\n", "\n".join(lines)))


if __name__ == "__main__":
    main()
