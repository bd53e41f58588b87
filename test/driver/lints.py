#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each lint passes on a small clean tree and fails on the same tree with one thing wrong."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

LINT = pathlib.Path(__file__).resolve().parent.parent / "lint"
SPDX_C = "/* SPDX-License-Identifier: Apache-2.0 */\n"
SPDX_PY = "# SPDX-License-Identifier: Apache-2.0\n"

CLEAN = {
    ".clang-format": (LINT.parent.parent / ".clang-format").read_text(encoding="utf-8"),
    "meson.build": SPDX_PY + "subdir('src/base')\nsubdir('src/kernel')\n",
    "src/base/a.h": SPDX_C + "#pragma once\n\nint a(void);\n",
    "src/kernel/b.h": SPDX_C + '#pragma once\n\n#include "base/a.h"\n\nint b(void);\n',
    "include/ferry/c.h": SPDX_C + "#pragma once\n\nint ferry_c(void);\n",
    "doc/man/ferry.1.scd": "ferry(1)\n\n# NAME\n\nferry - moves work\n\n# DESCRIPTION\n\nSee *ferry*(1).\n",
    "doc/building.md": "gcc dnf-gcc arch-gcc\n",
    "packaging/packages.tsv": SPDX_PY + "build\tgcc\tdnf-gcc\tarch-gcc\ttrue\n",
    "test/mutations.tsv": SPDX_PY + "a\tsrc/base/a.h\tint a\tint b\tunit/\n",
}

# Lint, what is wrong, file, its text, a word that the lint must say.
WRONG = [
    ("include_direction", "upwards", "src/base/x.c", SPDX_C + '#include "kernel/b.h"\n', "stands above"),
    ("include_direction", "not a room", "src/attic/x.c", SPDX_C, "is no room"),
    ("include_direction", "not from src", "src/base/x.c", SPDX_C + '#include "a.h"\n', "not named from src/"),
    ("include_direction", "missing", "src/base/x.c", SPDX_C + '#include "base/none.h"\n', "does not exist"),
    ("include_direction", "private in public", "include/ferry/x.h", SPDX_C + '#include "base/a.h"\n', "not installed"),
    ("include_direction", "order in meson", "meson.build", SPDX_PY + "subdir('src/kernel')\nsubdir('src/base')\n",
     "another order"),
    ("headers_alone", "missing include", "src/base/x.h", SPDX_C + "#pragma once\n\nuint32_t x(void);\n", "x.h"),
    ("format", "spaces", "src/base/x.c", SPDX_C + "int x(void)\n{\n  return 0;\n}\n", "not formatted"),
    ("text", "no licence line", "src/base/x.c", "int x;\n", "SPDX"),
    ("text", "no pragma", "src/base/x.h", SPDX_C + "int x;\n", "#pragma once"),
    ("text", "leftover", "src/base/x.c", SPDX_C + "/* TO" + "DO: all */\n", "leftover"),
    ("text", "line comment", "src/base/x.c", SPDX_C + "int x; // no\n", "// comment"),
    ("text", "machine path", "README.md", "see /wo" + "rk/x\n", "path of one machine"),
    ("text", "white space", "README.md", "end \n", "white space"),
    ("text", "wide", "x.py", SPDX_PY + "# " + "x" * 150 + "\n", "columns"),
    ("text", "no newline", "README.md", "end", "no newline"),
    ("man_pages", "not scdoc", "doc/man/x.1.scd", "x(1)\n\n# NAME\n\nx - is\n\n*bold\n\n", "scdoc"),
    ("man_pages", "another name", "doc/man/x.1.scd", "y(1)\n\n# NAME\n\nx - is\n", "first line"),
    ("man_pages", "dangling", "doc/man/x.1.scd", "x(1)\n\n# NAME\n\nx - is\n\nSee *ferry-none*(1).\n",
     "does not exist"),
    ("packages", "fields", "packaging/packages.tsv", SPDX_PY + "build\tgcc\n", "2 fields"),
    ("mutations", "text gone", "test/mutations.tsv", SPDX_PY + "a\tsrc/base/a.h\tint z\tint b\tunit/\n", "0 times"),
    ("mutations", "function nobody misses", "src/kind/x.c",
     SPDX_C + "const struct kind_ops kind_x = {\n\t.name = \"x\",\n\t.conjure = x_conjure,\n};\n", ".conjure"),
    ("refusals", "not listed", "src/kind/x.c",
     SPDX_C + "int x = error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, \"%s: it is too blue\");\n", "too blue"),
    ("refusals", "no such test", "test/refusals.tsv", SPDX_PY + "src/kind/x.c\tit is too blue\trefused.blue\n",
     "no test refused.blue"),
    ("packages", "undocumented", "doc/building.md", "nothing\n", "does not name gcc"),
]


def run_lint(name, files):
    """(exit status, output) of a lint over a tree of these files."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        # A lint loads doc/man/pages.py from the tree that it looks at.
        pages = root / "doc" / "man" / "pages.py"
        pages.write_text((LINT.parent.parent / "doc" / "man" / "pages.py").read_text(encoding="utf-8"),
                         encoding="utf-8")
        subprocess.run(["git", "init", "-q", folder], check=True)
        environment = {**os.environ, "FERRY_SOURCE": folder, "FERRY_BUILD": folder + "/build"}
        done = subprocess.run([sys.executable, str(LINT / (name + ".py"))], cwd=folder, env=environment, check=False,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


class Lints(unittest.TestCase):
    """Both directions for every lint that needs no build."""

    def test_clean(self):
        for name in dict.fromkeys(lint for lint, *_ in WRONG):
            status, output = run_lint(name, CLEAN)
            self.assertEqual(status, 0, f"{name} fails on a clean tree: {output}")

    def test_wrong(self):
        for name, what, path, text, word in WRONG:
            status, output = run_lint(name, {**CLEAN, path: text})
            self.assertEqual(status, 1, f"{name} does not notice '{what}': {output}")
            self.assertIn(word, output, f"{name}, {what}")


if __name__ == "__main__":
    unittest.main()
