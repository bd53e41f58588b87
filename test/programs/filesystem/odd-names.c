/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names that are easily mistaken: one that ends as the kernel marks deleted files, with spaces, newlines and backslashes, as long as
 * names can be, deep below many folders; each as it is and deleted. Proof: contents of each, and which names are there.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH = 12 };

static char long_name[256];

static const char *names[] = {"plain (deleted)", "line\nbreak", "back\\slash \\040 tab\t", " ",
			      long_name,         "quote'\""};

struct state {
	int there[ARRAY_SIZE(names)], gone[ARRAY_SIZE(names)];
};

static void verify_file(struct program *p, int fd, uint64_t seed, nlink_t links)
{
	unsigned char bytes[500];
	struct stat st;

	must(fstat(fd, &st));
	expect_same(p, "links", st.st_nlink, links);
	expect_same(p, "bytes", pread(fd, bytes, sizeof(bytes), 0), 400);
	expect(p, pattern_differs(bytes, 400, seed) < 0, "file %d differs", (int)seed);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		verify_file(p, s->there[i], i, 1);
		verify_file(p, s->gone[i], 100 + i, 0);
		expect_same(p, "the name", access(names[i], F_OK), 0);
	}
}

static void spoil(void *state)
{
	must(pwrite(((struct state *)state)->gone[3], "x", 1, 3));
}

static int make(const char *name, uint64_t seed)
{
	unsigned char bytes[400];
	int fd = must(open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600));

	pattern_fill(bytes, sizeof(bytes), seed);
	must(write(fd, bytes, sizeof(bytes)));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	memset(long_name, 'n', 255);
	for (int i = 0; i < DEPTH; i++) {
		must(mkdir("a folder whose name is not short at all", 0755));
		must(chdir("a folder whose name is not short at all"));
	}
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		s.gone[i] = make(names[i], 100 + i);
		must(unlink(names[i]));
		/* No room for another ending of this one, which the deleted file gets when its name is taken. */
		if (names[i] == long_name)
			long_name[0] = 'm';
		s.there[i] = make(names[i], i);
	}
	return program_serve(&p, &ops, &s);
}
