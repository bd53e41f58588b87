/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A System V segment that nobody has attached, with contents and a key; with "own" in an IPC namespace of its own. Proof: it can be attached under its id and its key,
 * and holds what it held.
 */
#include "program.h"

#include <sched.h>
#include <sys/shm.h>

enum { PAGE = 4096, PAGES = 6, KEY = 0x7e45 };

static void verify(struct program *p, void *state)
{
	const int *id = state;
	struct shmid_ds ds;

	expect_same(p, "segment of the key", shmget(KEY, 0, 0), *id);
	expect_same(p, "shmctl", shmctl(*id, IPC_STAT, &ds), 0);
	expect_same(p, "attachments", ds.shm_nattch, 0);
	expect_same(p, "size", ds.shm_segsz, PAGES * PAGE);
	const unsigned char *at = shmat(*id, NULL, SHM_RDONLY);
	expect(p, at != (void *)-1, "it cannot be attached");
	if (p->bad)
		return;
	expect(p, pattern_differs(at + PAGE, 3 * PAGE, 9) < 0, "it differs");
	must(shmdt(at));
}

static void spoil(void *state)
{
	const int *id = state;
	unsigned char *at = must(shmat(*id, NULL, 0));

	at[PAGE] ^= 1;
	must(shmdt(at));
}

static void make(int id)
{
	unsigned char *at = must(shmat(id, NULL, 0));

	pattern_fill(at + PAGE, 3 * PAGE, 9);
	must(shmdt(at));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;

	program_start(&p, argc, argv);
	if (program_told(argc, argv, "own"))
		must(unshare(CLONE_NEWIPC));
	int id = must(shmget(KEY, PAGES * PAGE, IPC_CREAT | IPC_EXCL | 0600));
	make(id);
	return program_serve(&p, &ops, &id);
}
