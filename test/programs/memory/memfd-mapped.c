/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory files in less common states: one that only mappings of a parent and a child hold, one of an odd size with owner,
 * mode and a second description, one that can be written only through a mapping from before its seals
 * (F_SEAL_FUTURE_WRITE), and one that nobody may write. Proof: contents, sizes, offsets, access modes, seals and what they
 * forbid, and that a word which the parent writes comes back through the child.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum {
	PAGE = 4096,
	PAGES = 8,
	ODD_BYTES = 5 * PAGE + 777,
	ODD_AT = 4321,
	READER_AT = 77,
	MODE = 0640,
	USER = 1234
};
enum { ANSWER_MS = 3000, FUTURE_SEALS = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL };
enum { FIXED_SEALS = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK };

struct shared {
	volatile unsigned ping, pong;
	unsigned char data[PAGES * PAGE - 8];
};

struct state {
	struct shared *shared; /* of a memfd without a descriptor */
	int odd, odd_reader;
	int future, fixed;
	unsigned char *future_map;
	const unsigned char *fixed_map;
};

static void check_shared(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, pattern_differs(s->shared->data, sizeof(s->shared->data), 5) < 0,
	       "the mapped file differs");
}

static void check_odd(struct program *p, struct state *s)
{
	unsigned char bytes[ODD_BYTES];
	struct stat st;

	must(fstat(s->odd, &st));
	expect_same(p, "size", st.st_size, ODD_BYTES);
	expect_same(p, "mode", st.st_mode & 07777, MODE);
	expect_same(p, "user", st.st_uid, USER);
	expect_same(p, "group", st.st_gid, USER);
	expect_same(p, "seals", fcntl(s->odd, F_GET_SEALS), F_SEAL_SEAL);
	expect_same(p, "offset", lseek(s->odd, 0, SEEK_CUR), ODD_AT);
	expect_same(p, "offset of the reader", lseek(s->odd_reader, 0, SEEK_CUR), READER_AT);
	expect_same(p, "access of the reader", fcntl(s->odd_reader, F_GETFL) & O_ACCMODE, O_RDONLY);
	expect_same(p, "bytes read", pread(s->odd_reader, bytes, sizeof(bytes), 0), ODD_BYTES);
	expect(p, pattern_differs(bytes, sizeof(bytes), 6) < 0, "the file of odd size differs");
}

static void check_future(struct program *p, struct state *s)
{
	unsigned char byte = s->future_map[9], read_back;

	expect_same(p, "seals", fcntl(s->future, F_GET_SEALS), FUTURE_SEALS);
	expect_same(p, "write(2)", pwrite(s->future, &byte, 1, 9), -1);
	expect(p, mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, s->future, 0) == MAP_FAILED && errno == EPERM,
	       "a new writable mapping is allowed");
	expect(p, pattern_differs(s->future_map, PAGES * PAGE, 7) < 0, "the sealed file differs");
	s->future_map[9] ^= 0xff;
	expect_same(p, "read", pread(s->future, &read_back, 1, 9), 1);
	expect_same(p, "byte written through the old mapping", read_back, byte ^ 0xff);
	s->future_map[9] = byte;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	unsigned char byte = 0;

	check_shared(p, s);
	check_odd(p, s);
	check_future(p, s);
	expect_same(p, "seals", fcntl(s->fixed, F_GET_SEALS), FIXED_SEALS);
	expect_same(p, "write(2)", pwrite(s->fixed, &byte, 1, 0), -1);
	expect(p, pattern_differs(s->fixed_map, PAGES * PAGE, 8) < 0, "the file nobody may write differs");
	unsigned want = ++s->shared->ping;
	for (int i = 0; i < ANSWER_MS && s->shared->pong != want; i++)
		sleep_ms(1);
	expect_same(p, "what the child answers through the mapped file", s->shared->pong, want);
}

static void echo(void *state)
{
	struct state *s = state;

	s->shared->pong = s->shared->ping;
}

static void spoil(void *state)
{
	struct state *s = state;

	s->future_map[PAGE] ^= 1;
}

static int sealable(const char *name, unsigned seed)
{
	int fd = must(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));

	must(ftruncate(fd, PAGES * PAGE));
	unsigned char *at = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	pattern_fill(at, PAGES * PAGE, seed);
	must(munmap(at, PAGES * PAGE));
	return fd;
}

static void make(struct state *s)
{
	static unsigned char bytes[ODD_BYTES];
	char path[32];

	int fd = must(memfd_create("", MFD_CLOEXEC));
	must(ftruncate(fd, sizeof(struct shared)));
	s->shared = must(mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	close(fd);
	pattern_fill(s->shared->data, sizeof(s->shared->data), 5);

	pattern_fill(bytes, sizeof(bytes), 6);
	s->odd = must(memfd_create("odd (deleted)", 0));
	must(pwrite(s->odd, bytes, sizeof(bytes), 0));
	must(lseek(s->odd, ODD_AT, SEEK_SET));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->odd);
	s->odd_reader = must(open(path, O_RDONLY | O_CLOEXEC));
	must(lseek(s->odd_reader, READER_AT, SEEK_SET));
	must(fchmod(s->odd, MODE));
	must(fchown(s->odd, USER, USER));

	s->future = sealable("future", 7);
	s->future_map = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s->future, 0));
	must(fcntl(s->future, F_ADD_SEALS, FUTURE_SEALS));

	s->fixed = sealable("fixed", 8);
	must(fcntl(s->fixed, F_ADD_SEALS, FIXED_SEALS));
	s->fixed_map = must(mmap(NULL, PAGES * PAGE, PROT_READ, MAP_PRIVATE, s->fixed, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops parent = {.verify = verify, .spoil = spoil};
	static const struct program_ops child = {.verify = check_shared, .step = echo};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	make(&s);
	pid_t pid = must(fork());
	if (!pid) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &parent, &s);
}
