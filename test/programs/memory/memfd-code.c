/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code in memory files: one that is mapped writable and, elsewhere, executable, as just-in-time compilers have it; and one that
 * may never be executed (MFD_NOEXEC_SEAL). Proof: the code runs and returns what it is written to return, modes and seals.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008
#define MFD_EXEC 0x0010
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

enum { PAGE = 4096, ANSWER = 4711, OTHER = 815 };

struct state {
	int data;
	unsigned char *write;
	int (*run)(void);
};

/* mov eax, number; ret */
static void put_code(unsigned char *to, int number)
{
	to[0] = 0xb8;
	memcpy(to + 1, &number, sizeof(number));
	to[5] = 0xc3;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	struct stat st;

	expect_same(p, "what the code returns", s->run(), ANSWER);
	put_code(s->write, OTHER);
	expect_same(p, "what it returns when it was rewritten", s->run(), OTHER);
	put_code(s->write, ANSWER);
	must(fstat(s->data, &st));
	expect_same(p, "mode", st.st_mode & 0777, 0666);
	expect_same(p, "seals", fcntl(s->data, F_GET_SEALS), F_SEAL_EXEC);
	errno = 0;
	expect_same(p, "making it executable", fchmod(s->data, 0777), -1);
	expect_same(p, "and why not", errno, EPERM);
}

static void spoil(void *state)
{
	struct state *s = state;

	put_code(s->write, OTHER - 1);
	must(fcntl(s->data, F_ADD_SEALS, F_SEAL_GROW));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	int fd = memfd_create("code", MFD_CLOEXEC | MFD_EXEC);
	if (fd < 0)
		program_lacks("MFD_EXEC");
	must(ftruncate(fd, PAGE));
	s.write = must(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	void *run = must(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0));
	memcpy(&s.run, &run, sizeof(run));
	close(fd);
	put_code(s.write, ANSWER);
	s.data = must(memfd_create("data", MFD_CLOEXEC | MFD_NOEXEC_SEAL));
	return program_serve(&p, &ops, &s);
}
