/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A deleted file of 6 GiB with few bytes in it. Proof: the bytes, the size, and that it takes no more room than before: its
 * holes are holes.
 */
#include "program.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 70000 };

static const off_t places[] = {0, 1 << 20, (1ll << 32) - 100, 5ll << 30};
static const off_t file_size = 6ll << 30;

struct state {
	int fd;
	blkcnt_t blocks;
};

static unsigned char buffer[PIECE];

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat st;
	off_t hole;

	must(fstat(s->fd, &st));
	expect_same(p, "size", st.st_size, file_size);
	expect(p, st.st_blocks <= s->blocks + 64, "it takes %lld blocks, took %lld", (long long)st.st_blocks,
	       (long long)s->blocks);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		expect_same(p, "read", pread(s->fd, buffer, PIECE, places[i]), PIECE);
		expect(p, pattern_differs(buffer, PIECE, i) < 0, "the piece at %llx differs",
		       (long long)places[i]);
	}
	hole = lseek(s->fd, 2 << 20, SEEK_DATA);
	expect(p, hole > 4000000000ll, "data begin at %llx", (long long)hole);
	expect_same(p, "data behind the last piece", lseek(s->fd, places[3] + (1 << 20), SEEK_DATA), -1);
	must(lseek(s->fd, 11, SEEK_SET));
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(pwrite(s->fd, "x", 1, 5ll << 30));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;
	struct stat st;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.fd = must(open("sparse", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		pattern_fill(buffer, PIECE, i);
		must(pwrite(s.fd, buffer, PIECE, places[i]));
	}
	must(ftruncate(s.fd, file_size));
	must(fsync(s.fd));
	must(unlink("sparse"));
	must(fstat(s.fd, &st));
	s.blocks = st.st_blocks;
	must(lseek(s.fd, 11, SEEK_SET));
	return program_serve(&p, &ops, &s);
}
