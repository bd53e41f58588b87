#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints doc/kinds.md: each kind of src/kind/kinds.def with what its source file says. With --write, writes it."""

import pathlib
import re
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent
PAGE = SOURCE / "doc" / "kinds.md"
HEAD = """# Kinds of resources

Generated from `src/kind/` by `scripts/kinds.py --write`; a lint compares. The order of task kinds is the one in which
they run in a restored task. "Does not handle" quotes the head of the source file. What is refused is refused by name,
before anything stops; the rest is different after a restore, in the way the text tells. A descriptor that no kind owns
is refused.
"""


def comment(text):
    """The comment at the head of a source file as one line."""
    found = re.search(r"/\*\n?(?! SPDX)(.*?)\*/", text.split("\n", 1)[1], re.DOTALL)
    return re.sub(r"\s*\n \*\s?", " ", "\n" + found.group(1)).strip() if found else ""


def missing(text):
    """What follows 'Does not handle' in the comment."""
    found = re.search(r"Does not handle(?: yet)?: (.*)", comment(text))
    return found.group(1).strip() if found else ""


def describe(name):
    """(file name, name, what, section, what is missing) of a kind."""
    for path in sorted((SOURCE / "src" / "kind").glob("*.c")):
        text = path.read_text(encoding="utf-8")
        table = re.search(rf"^const struct kind_ops kind_{name} = \{{(.*?)^\}};", text, re.MULTILINE | re.DOTALL)
        if table:
            what = re.search(r'\.what = "([^"]*)"', table.group(1)).group(1)
            fd_type = re.search(r"\.fd_type = (-?\w+)", table.group(1)).group(1)
            shown = re.search(r'\.name = "([^"]*)"', table.group(1)).group(1)
            section = "Descriptors" if fd_type != "-1" else "Memory" if ".owns_vma" in table.group(1) else \
                "Processes and threads"
            return path.name, shown, what, section, missing(text)
    return sys.exit(f"no source file has kind_{name}")


def page():
    """The text of doc/kinds.md."""
    names = re.findall(r"^KIND\((\w+)\)", (SOURCE / "src/kind/kinds.def").read_text(encoding="utf-8"), re.MULTILINE)
    kinds = [describe(name) for name in names]
    lines = [HEAD]
    for title in ("Memory", "Descriptors", "Processes and threads"):
        lines += [f"## {title}", "", "| kind | what | does not handle | source |", "|---|---|---|---|"]
        for path, name, what, section, gap in kinds:
            if section == title:
                gap = gap.replace("|", "\\|")
                lines.append(f"| {name} | {what} | {gap} | [{path}](../src/kind/{path}) |")
        lines.append("")
    return "\n".join(lines)


def main():
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
