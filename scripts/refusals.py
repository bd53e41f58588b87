#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every reason for which a dump is refused, as the sources have it, beside the tests that provoke it: test/refusals.tsv. A
reason that no test provokes stands there with the cause why none does; a lint compares the table with the sources, and
make check with what its tests were refused for (build/check/refused.tsv, which they write). With --write the table gets
what is new and leaves what is gone."""

import pathlib
import re
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True

ROOMS = ("src/kind", "src/collect", "src/freeze", "src/inject", "src/tcp")
TABLE = "test/refusals.tsv"
HEAD = """# SPDX-License-Identifier: Apache-2.0
# Why a dump is refused: source file, text of the message (%s and its kin stand for anything), tests that provoke it. A question
# mark after a test: where the machine has the thing. Where no test does: a minus and the cause. scripts/refusals.py --write BUILD
# takes new texts from the sources; lint/refusals compares with them, make check with what its tests were told.
"""
# Identifiers that say of a tree that it cannot be dumped as it is. Others speak of images, restores, or the machine.
WORDS = "BUSY_TASK|UNSUPPORTED_FD|UNSUPPORTED_VMA|UNSUPPORTED_TASK|UNSUPPORTED_NAMESPACE|OUTSIDE_PEER|IN_FLIGHT|" \
        "OUTSIDE_SESSION|TCP_ESTABLISHED|DELETED_FILE|SECCOMP"
STRING = r'"(?:[^"\\]|\\.)*"'
LITERAL = re.compile(rf"{STRING}(?:\s+{STRING})*")
CONVERSION = re.compile(r"%(?:\.\*)?[-#0-9.]*(?:ll|l|z|h)?[a-zA-Z]")
# Where a reason stands that is handed on to a message: variables and tables.
VARIABLE = re.compile(r"(?<![.\w])\*?(?:why|what|\w*obstacle)(?:\[\])? = ([^;]*);")
TABLES = re.compile(r"\} (?:unknown_devices|unknown_objects|sockother_known|procfile_states|vma_refusals)\[\] = (\{.*?\n\});",
                    re.DOTALL)
# A table of what is looked for.
LOOKED = re.compile(rf"\{{\.what = ({STRING}(?:\s+{STRING})*)")
RETURNED = re.compile(r"^(?:static )?const char \*(?:\w+_obstacle|packet_ring_look)\(.*?^\}", re.DOTALL | re.MULTILINE)


def joined(literal):
    """Adjacent strings of C as one."""
    return "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literal)).replace('\\"', '"')


def calls(text, name):
    """Every call of a function whose name matches, with what is in its brackets."""
    for start in re.finditer(rf"(?<!\w)(?:{name})\(", text):
        depth = 0
        for match in re.finditer(rf"{STRING}|'.'|[()]", text[start.start():]):
            depth += {"(": 1, ")": -1}.get(match[0], 0)
            if match[0] == ")" and not depth:
                yield text[start.start():start.start() + match.end()]
                break


def says(text):
    """Whether a text says something: a wrapper's does not."""
    words = re.sub(r"\b(fd|of|pid|thread|task|is|maps|memory|at|socket)\b", "", CONVERSION.sub("", text))
    return len(re.sub(r"\W", "", words)) > 3


def literals(code, first=False):
    """The strings in a piece of code that say something."""
    found = [joined(literal) for literal in LITERAL.findall(code)]
    return [text for text in found if says(text)][:1 if first else None]


def reasons(text):
    """Those in the text of one source file, in its order."""
    found = []
    for call in calls(text, "error_(?:set|errno)"):
        if re.search(rf"FERRY_ERROR_(?:{WORDS})\b", call):
            found += literals(call)
    for call in calls(text, r"\w*refuse\w*"):
        if not re.match(r"\w+\((?:const struct|struct|pid_t) ", call):
            found += literals(call, first=True)
    for match in VARIABLE.finditer(text):
        found += literals(match[1])
    for match in LOOKED.finditer(text):
        found += literals(match[1])
    for function in RETURNED.findall(text):
        found += [reason for line in re.findall(r"\breturn ([^;]*);", function) for reason in literals(line)]
    for table in TABLES.findall(text):
        for row in re.findall(r"\{((?:[^{}]|\n)*?)\}", table[1:]):
            found += [reason for reason in literals(row)
                      if " " in reason and not reason.startswith("anon_inode:")][:1]
    return list(dict.fromkeys(found))


def in_sources(source=SOURCE):
    """[(file, reason)] of all."""
    return [(str(path.relative_to(source)), reason) for room in ROOMS for path in sorted((source / room).rglob("*.c"))
            for reason in reasons(path.read_text(encoding="utf-8"))]


def in_table(source=SOURCE):
    """{(file, reason): tests or cause}."""
    path = source / TABLE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {(file, reason): proof for file, reason, proof in rows}


def pattern(reason):
    """What a message with this reason looks like."""
    return re.compile(".*?".join(re.escape(part) for part in CONVERSION.split(reason.replace("\\n", ""))), re.DOTALL)


def seen(build):
    """{message: tests that were told so}."""
    found = {}
    path = build / "check" / "refused.tsv"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        test, message = line.split("\t", 1)
        found.setdefault(message, set()).add(test)
    return found


def provoked(reason, messages):
    """The tests that were told this reason."""
    wanted = pattern(reason)
    return sorted({test for message, tests in messages.items() if wanted.search(message) for test in tests})


def tests_of(proof):
    """The names in a proof, and whether they provoke it on every machine."""
    return [] if proof.startswith("-") else [(name.rstrip("?"), not name.endswith("?")) for name in proof.split(", ")]


def unseen(build, passed, source=SOURCE):
    """Lines of the table whose tests ran well, and that none of them was told."""
    messages = seen(build)
    return [f"{file}: {reason}" for (file, reason), proof in in_table(source).items()
            if (tests := tests_of(proof)) and all(always and name in passed for name, always in tests)
            and not set(provoked(reason, messages)) & {name for name, _ in tests}]


def write(build):
    """The table, with what is new in the sources and what tests were told."""
    table, messages, lines = in_table(), seen(build), []
    for file, reason in in_sources():
        tests, proof = provoked(reason, messages), table.get((file, reason), "")
        if tests and not set(tests) & {name for name, _ in tests_of(proof)}:
            proof = ", ".join(tests[:2])
        lines.append(f"{file}\t{reason}\t{proof or '?'}\n")
    (SOURCE / TABLE).write_text(HEAD + "".join(lines), encoding="utf-8")


def main():
    if sys.argv[1:2] == ["--unseen"]:
        lines = unseen(pathlib.Path(sys.argv[2]), set(sys.argv[3:]))
        print(*lines, sep="\n")
        sys.exit(1 if lines else 0)
    if len(sys.argv) != 3 or sys.argv[1] != "--write":
        sys.exit(f"usage: {sys.argv[0]} --write BUILD | --unseen BUILD TEST...")
    write(pathlib.Path(sys.argv[2]))


if __name__ == "__main__":
    main()
