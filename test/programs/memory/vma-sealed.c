/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealed mappings (mseal(2)): writable and read-only anonymous memory, and a part of a file. Proof: contents, and that none
 * of them can be unmapped, protected, moved or dropped.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

enum { PAGE = 4096, PAGES = 5 };

struct state {
	unsigned char *writable, *fixed, *file;
	unsigned char first; /* of the file */
};

static void check_sealed(struct program *p, const char *what, unsigned char *at)
{
	errno = 0;
	expect_same(p, what, munmap(at, PAGE), -1);
	expect_same(p, what, errno, EPERM);
	errno = 0;
	expect_same(p, what, mprotect(at, PAGE, PROT_READ | PROT_EXEC), -1);
	expect_same(p, what, errno, EPERM);
	errno = 0;
	expect(p, mremap(at, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EPERM,
	       "%s can be moved", what);
	expect(p, smaps_flag(at, "sl"), "%s is not marked as sealed", what);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	check_sealed(p, "writable", s->writable);
	check_sealed(p, "read-only", s->fixed);
	check_sealed(p, "file", s->file);
	expect(p, pattern_differs(s->writable, PAGES * PAGE, 11) < 0, "the writable one differs");
	expect(p, pattern_differs(s->fixed, PAGES * PAGE, 12) < 0, "the read-only one differs");
	expect(p, madvise(s->fixed, PAGE, MADV_DONTNEED) < 0 && errno == EPERM, "it can be dropped");
	expect_same(p, "first byte of the file", s->file[0], s->first);
}

static void spoil(void *state)
{
	struct state *s = state;

	s->writable[PAGE] ^= 1;
}

static unsigned char *area(unsigned seed)
{
	unsigned char *at = must(
		mmap(NULL, (PAGES + 2) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	must(mprotect(at, PAGE, PROT_NONE));
	must(mprotect(at + (PAGES + 1) * PAGE, PAGE, PROT_NONE));
	pattern_fill(at + PAGE, PAGES * PAGE, seed);
	return at + PAGE;
}

static void seal(unsigned char *at, size_t pages)
{
	if (syscall(SYS_mseal, at, pages * PAGE, 0) < 0)
		program_lacks("mseal(2)");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.writable = area(11);
	s.fixed = area(12);
	must(mprotect(s.fixed, PAGES * PAGE, PROT_READ));
	int fd = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	s.file = must(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0));
	s.first = s.file[0];
	close(fd);
	seal(s.writable, PAGES);
	seal(s.fixed, PAGES);
	seal(s.file, 1);
	return program_serve(&p, &ops, &s);
}
