# SPDX-License-Identifier: Apache-2.0
"""gcc in the middle of a compilation."""

import hashlib
import subprocess

from ferrytest.process import running, wait_until
from ferrytest.software.base import Software, needed

FUNCTION = """
static unsigned f{n}(unsigned a, const unsigned *v, unsigned m)
{{
	unsigned s = a;
	for (unsigned i = 0; i < m; i++)
		switch ((v[i] + a) % 7) {{
		case 0: s += v[i] * {n}u; break;
		case 1: s ^= v[i] << (a & 7); break;
		case 2: for (unsigned j = 0; j < i; j++) s += v[j] * v[i - j] + {n}u; break;
		case 3: s = s > v[i] ? s - v[i] : v[i] / (s | 1); break;
		default: s = s * 31 + v[i] % (a | {n}u | 1);
		}}
	return s;
}}
"""


class Gcc(Software):
    """The driver waits for cc1."""

    CONNECTED = False
    SECONDS = 300
    FUNCTIONS = 900

    def __init__(self):
        super().__init__("gcc")
        self.gcc = needed("gcc")
        self.compiler = subprocess.check_output([self.gcc, "-print-prog-name=cc1"], text=True).strip()
        text = "".join(FUNCTION.format(n=n) for n in range(self.FUNCTIONS))
        calls = "".join(f"\ts += f{n}(s, v, m);\n" for n in range(self.FUNCTIONS))
        (self.folder / "unit.c").write_text(text + f"unsigned all(unsigned s, const unsigned *v, unsigned m)\n{{\n{calls}\treturn s;\n}}\n")
        self.start(*self.words("ferry.o"))
        wait_until(lambda: running(self.compiler), "cc1 does not start")

    def words(self, output):
        """The command line."""
        return [self.gcc, "-O2", "-fno-ident", "-c", "unit.c", "-o", output]

    def verify(self):
        """It compiles."""
        assert running(self.compiler), "cc1 has ended: it was not in the middle of a compilation"

    def finish(self):
        """The object is the one that a compilation in one piece makes."""
        wait_until(lambda: not self.running(), "gcc does not end", self.SECONDS)
        again = subprocess.run(self.words("whole.o"), cwd=self.folder, check=False, stdin=subprocess.DEVNULL)
        assert again.returncode == 0
        digests = [hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in ("ferry.o", "whole.o")]
        assert digests[0] == digests[1], f"the objects differ: {self.log()}"

    def quit(self):
        """It has ended."""
