/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A memory file that may be mapped for reading only from now on, while an older mapping still writes (F_SEAL_FUTURE_WRITE),
 * as graphics buffers are handed out; its only holder is a mapping. Proof: the mapping writes, a new one may not.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { PAGE = 4096, PAGES = 7, SEALS = F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK };

static void verify(struct program *p, void *state)
{
	unsigned char *at = state;
	char path[96];

	expect(p, pattern_differs(at, PAGES * PAGE, 3) < 0, "it differs");
	at[5] ^= 1;
	at[5] ^= 1;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at,
		 (unsigned long)at + PAGES * PAGE);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	expect(p, fd >= 0, "%s cannot be opened", path);
	expect_same(p, "seals", fcntl(fd, F_GET_SEALS), SEALS);
	errno = 0;
	expect(p, mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM,
	       "a new mapping may write");
	close(fd);
}

static void spoil(void *state)
{
	unsigned char *at = state;

	at[2 * PAGE] ^= 1;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;

	program_start(&p, argc, argv);
	int fd = must(memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	must(ftruncate(fd, PAGES * PAGE));
	unsigned char *at = must(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	pattern_fill(at, PAGES * PAGE, 3);
	must(fcntl(fd, F_ADD_SEALS, SEALS));
	close(fd);
	return program_serve(&p, &ops, at);
}
