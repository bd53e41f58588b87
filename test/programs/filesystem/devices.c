/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device nodes that hold no state: null, zero, full, random, urandom; and a private mapping of /dev/zero. Proof: each
 * descriptor is that device with its flags and behaves like it.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PAGE = 4096, MAPPED = 3 * PAGE };

static struct device {
	const char *path;
	int flags;
	unsigned minor;
	int fd;
} devices[] = {
	{"/dev/null", O_RDWR, 3, -1},
	{"/dev/null", O_WRONLY | O_APPEND, 3, -1},
	{"/dev/zero", O_RDONLY, 5, -1},
	{"/dev/full", O_RDWR, 7, -1},
	{"/dev/random", O_RDONLY | O_NONBLOCK, 8, -1},
	{"/dev/urandom", O_RDONLY, 9, -1},
};

struct state {
	unsigned char *mapping;
};

static void verify_mapping(struct program *p, const struct state *s)
{
	static const unsigned char zero[PAGE];

	expect(p, pattern_differs(s->mapping, PAGE, 6) < 0, "the written page of /dev/zero differs");
	expect(p, !memcmp(s->mapping + PAGE, zero, PAGE), "an unwritten page of /dev/zero is not zero");
}

static void verify(struct program *p, void *state)
{
	unsigned char bytes[64], other[64];
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		const struct device *d = &devices[i];
		expect_same(p, "fstat", fstat(d->fd, &st), 0);
		expect(p, S_ISCHR(st.st_mode), "%s is no character device", d->path);
		expect_same(p, "major", major(st.st_rdev), 1);
		expect_same(p, "minor", minor(st.st_rdev), d->minor);
		expect_same(p, "flags", fcntl(d->fd, F_GETFL) & ~0100000, d->flags);
	}
	expect_same(p, "reading null", read(devices[0].fd, bytes, sizeof(bytes)), 0);
	expect_same(p, "reading zero", read(devices[2].fd, bytes, sizeof(bytes)), sizeof(bytes));
	expect(p, !memcmp(bytes, (const unsigned char[64]){0}, 64), "zero gives something else");
	expect(p, write(devices[3].fd, bytes, 1) < 0 && errno == ENOSPC, "full takes a byte");
	expect_same(p, "reading urandom", read(devices[5].fd, other, sizeof(other)), sizeof(other));
	expect(p, memcmp(bytes, other, 64) != 0, "urandom gives zeros");
	verify_mapping(p, state);
}

static void spoil(void *state)
{
	struct state *s = state;

	s->mapping[PAGE + 9] = 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		devices[i].fd = must(open(devices[i].path, devices[i].flags | O_CLOEXEC));
	s.mapping = must(mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_PRIVATE, devices[2].fd, 0));
	pattern_fill(s.mapping, PAGE, 6);
	return program_serve(&p, &ops, &s);
}
