/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings of files whose descriptors are closed: private with changed pages, private and only read, shared and
 * written. Proof: pattern of each page, and that only the shared mapping reached its file.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, FILE_PAGES = 8, OFFSET_PAGES = 1, MAP_PAGES = 5, PRIVATE_SEED = 1, SHARED_SEED = 50 };

struct state {
	char private_path[256];
	char shared_path[256];
	unsigned char *changed; /* private, written to */
	unsigned char *clean;   /* private, never written */
	unsigned char *shared;
	uint64_t rounds; /* the shared mapping gets a new pattern at each verify */
};

static int make_file(const char *path, uint64_t seed)
{
	unsigned char page[PAGE];
	int fd = must(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));

	for (uint64_t i = 0; i < FILE_PAGES; i++) {
		pattern_fill(page, PAGE, seed + i);
		must(write(fd, page, PAGE));
	}
	return fd;
}

static void map_private(struct state *s)
{
	int fd = make_file(s->private_path, PRIVATE_SEED);

	s->changed = must(
		mmap(NULL, MAP_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, OFFSET_PAGES * PAGE));
	s->clean = must(mmap(NULL, MAP_PAGES * PAGE, PROT_READ, MAP_PRIVATE, fd, OFFSET_PAGES * PAGE));
	pattern_fill(s->changed, PAGE, 900);
	pattern_fill(s->changed + 2 * PAGE, PAGE, 902);
	s->changed[3 * PAGE + 1] ^= 0xff;
	close(fd);
}

static void map_shared(struct state *s)
{
	int fd = make_file(s->shared_path, SHARED_SEED);

	s->shared = must(mmap(NULL, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	pattern_fill(s->shared + PAGE, PAGE, 800);
	close(fd);
}

/* The page of a file as read(2) sees it differs from the pattern? */
static bool file_differs(const char *path, size_t page, uint64_t seed)
{
	unsigned char bytes[PAGE];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : pread(fd, bytes, PAGE, (off_t)(page * PAGE));

	close(fd);
	return n != PAGE || pattern_differs(bytes, PAGE, seed) >= 0;
}

static void verify_private(struct program *p, struct state *s)
{
	const unsigned char *c = s->changed;

	expect(p, pattern_differs(c, PAGE, 900) < 0, "changed page 0 differs");
	expect(p, pattern_differs(c + PAGE, PAGE, PRIVATE_SEED + 2) < 0, "page 1 is not the file's");
	expect(p, pattern_differs(c + 2 * PAGE, PAGE, 902) < 0, "changed page 2 differs");
	s->changed[3 * PAGE + 1] ^= 0xff;
	expect(p, pattern_differs(c + 3 * PAGE, PAGE, PRIVATE_SEED + 4) < 0,
	       "page 3 with one changed byte differs");
	s->changed[3 * PAGE + 1] ^= 0xff;
	expect(p, pattern_differs(c + 4 * PAGE, PAGE, PRIVATE_SEED + 5) < 0, "page 4 is not the file's");
	for (uint64_t i = 0; i < MAP_PAGES; i++)
		expect(p, pattern_differs(s->clean + i * PAGE, PAGE, PRIVATE_SEED + OFFSET_PAGES + i) < 0,
		       "read-only page %d differs", (int)i);
	for (uint64_t i = 0; i < FILE_PAGES; i++)
		expect(p, !file_differs(s->private_path, i, PRIVATE_SEED + i),
		       "page %d of the private file changed", (int)i);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	verify_private(p, s);
	expect(p, pattern_differs(s->shared, PAGE, SHARED_SEED) < 0, "shared page 0 differs");
	expect(p, pattern_differs(s->shared + PAGE, PAGE, 800 + s->rounds) < 0, "shared page 1 differs");
	expect(p, !file_differs(s->shared_path, 1, 800 + s->rounds), "shared page 1 is not in the file");
	s->rounds++;
	pattern_fill(s->shared + PAGE, PAGE, 800 + s->rounds);
	expect(p, !file_differs(s->shared_path, 1, 800 + s->rounds),
	       "a write to the shared mapping misses the file");
}

static void spoil(void *state)
{
	struct state *s = state;

	s->changed[2 * PAGE + 5] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {.rounds = 0};
	struct program p;

	program_start(&p, argc, argv);
	snprintf(s.private_path, sizeof(s.private_path), "%s/private-file", p.folder);
	snprintf(s.shared_path, sizeof(s.shared_path), "%s/shared-file", p.folder);
	map_private(&s);
	map_shared(&s);
	return program_serve(&p, &ops, &s);
}
