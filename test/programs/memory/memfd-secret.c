/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that not even the kernel reads (memfd_secret(2)): a dump refuses it, for nobody but the program can tell what is in
 * it. Argument "mapped": without a descriptor. Proof: contents.
 */
#include "program.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

enum { PAGE = 4096 };

static void verify(struct program *p, void *state)
{
	expect(p, pattern_differs(state, PAGE, 3) < 0, "it differs");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	struct program p;

	program_start(&p, argc, argv);
	int fd = (int)syscall(SYS_memfd_secret, 0);
	if (fd < 0)
		program_lacks("memfd_secret(2)");
	must(ftruncate(fd, PAGE));
	unsigned char *at = must(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	pattern_fill(at, PAGE, 3);
	if (program_told(argc, argv, "mapped"))
		close(fd);
	return program_serve(&p, &ops, at);
}
