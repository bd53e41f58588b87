#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints doc/kinds.md: each kind of src/kind/kinds.def with what its source file says. With --write, writes it."""

import pathlib
import re
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent
PAGE = SOURCE / "doc" / "kinds.md"
ANSWERS = SOURCE / "test" / "criu-answers.tsv"
sys.path[:0] = [str(SOURCE / "test" / "lib"), str(SOURCE / "scripts")]
sys.dont_write_bytecode = True

import refusals  # noqa: E402  pylint: disable=wrong-import-position

HEAD = """# Kinds of resources

Generated from `src/kind/`, the table of test programs and `test/criu-answers.tsv` by `scripts/kinds.py --write`; a lint
compares. A kind without a test is an error. The order of task kinds is the one in which
they run in a restored task. "Does not handle" quotes the head of the source file. What is refused is refused by name,
before anything stops; the rest is different after a restore, in the way the text tells. A descriptor that no kind owns
is refused. Every reason for a refusal, with the tests that provoke it or the cause why none does, is a line of
`test/refusals.tsv`.

CRIU 4.2's answer is what it did with the same test programs on its own, found out by `integration/interop`: of so many
programs it keeps so many, "in part" counted as half of one. The second table has each program.
"""

PROGRAMS_HEAD = """## Test programs

Each is dumped and restored twice in a row, here and in new namespaces; its state is compared from outside and proven by
itself. "yes" means that CRIU keeps all of it, "in part" that it loses what is named, "no" that it refuses or fails.

| program | kind | what it proves | CRIU 4.2 |
|---|---|---|---|"""


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


# What is no kind of its own, and belongs to everything.
PARTS = {
    "memory": ("src/mem", "private memory, the stack, the break, the vdso", "Memory"),
    "tree": ("src/collect/collect.c", "the tree: parents, groups, sessions, states, clocks", "Processes and threads"),
}


# Sources of a kind beside those whose names begin with its own's.
BESIDE = {
    "eventfd": ("uring_look", "unknown"),
    "bpfmap": ("unknown",),
    "inotify": ("watched",),
    "fanotify": ("watched",),
    "regfile": ("reach", "procfile", "ghost"),
    "shmem": ("peers",),
    "inet": ("tcp", "udp", "sockextra", "sockopt"),
    "packetsk": ("packet_ring",),
    "memory": ("vmas",),
    "tree": ("check", "collect", "family", "sharing", "namespaces", "freeze"),
    "trace": ("traced", "inside"),
    "nsfile": ("namespaces",),
}
SHOWN = 6  # tests of a cell


def refusal_tests(stem):
    """Those that prove what a kind refuses (test/refusals.tsv)."""
    stems = (stem, *BESIDE.get(stem, ()))
    tests, rows = {}, 0
    for (file, _), proof in refusals.in_table().items():
        if any(pathlib.Path(file).stem.startswith(one) for one in stems):
            rows += 1
            for name, _ in refusals.tests_of(proof):
                tests[name] = tests.get(name, 0) + 1
    names = sorted(tests, key=lambda name: (-tests[name], name))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "none can" * bool(rows)


def answers():
    """Program of the table -> what CRIU does with it."""
    if not ANSWERS.exists():
        return {}
    return dict(line.split("\t", 1) for line in ANSWERS.read_text(encoding="utf-8").splitlines() if line)


def cell(text):
    """Text that may stand in a table."""
    return text.replace("|", "\\|")


def score(cases, said):
    """How many of the programs of a kind CRIU keeps."""
    if not cases:
        return ""
    points = [{"yes": 1, "in part": 0.5}.get(said.get(case.name, "no").partition(":")[0], 0) for case in cases]
    return f"{sum(points):g} of {len(cases)}"


def proves(case):
    """The first sentence of the program's head comment."""
    for suffix in (".c", ".py"):
        for path in (SOURCE / "test/programs").glob(f"*/{case.program}{suffix}"):
            sentence = comment(path.read_text(encoding="utf-8")).split(". ")[0].rstrip(".")
            return sentence + (f" ({' '.join(case.arguments)})" if case.arguments else "")
    return ""


def page():
    """The text of doc/kinds.md."""
    from ferrytest.cases import CASES  # pylint: disable=import-outside-toplevel

    names = re.findall(r"^KIND\((\w+)\)", (SOURCE / "src/kind/kinds.def").read_text(encoding="utf-8"), re.MULTILINE)
    kinds, said = [describe(name) for name in names], answers()
    lines = [HEAD]
    kinds += [(folder, name, what, section, "") for name, (folder, what, section) in PARTS.items()]
    unknown = {case.kind for case in CASES} - {name for _, name, _, _, _ in kinds}
    if unknown:
        sys.exit(f"cases of no kind: {', '.join(sorted(unknown))}")
    for title in ("Memory", "Descriptors", "Processes and threads"):
        lines += [f"## {title}", "", "| kind | what | does not handle | tests | of what is refused | CRIU 4.2 | source |",
                  "|---|---|---|---|---|---|---|"]
        for path, name, what, section, gap in kinds:
            if section == title:
                cases = [case for case in CASES if case.kind == name]
                tests = ", ".join(case.name for case in cases)
                refused = refusal_tests(pathlib.Path(path).stem if path.endswith(".c") and "/" not in path else name)
                if not tests and not refused:
                    sys.exit(f"no test proves the kind {name}")
                if "refused" in gap and not refused:
                    sys.exit(f"no test proves what the kind {name} refuses")
                source = f"[{path}](../{path})" if "/" in path else f"[{path}](../src/kind/{path})"
                lines.append(f"| {name} | {what} | {cell(gap)} | {tests} | {refused} | {score(cases, said)} | {source} |")
        lines.append("")
    lines.append(PROGRAMS_HEAD)
    for case in CASES:
        lines.append(f"| {case.name} | {case.kind} | {cell(proves(case))} | {cell(said.get(case.name, 'not measured yet'))} |")
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
