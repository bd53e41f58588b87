/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System V shared memory of a parent and its child. Argument: none, a segment with a key, an owner and a mode of its own
 * that one of them has attached twice, once read-only; "removed", one that was removed while attached and goes with its
 * last attachment; "huge", one of huge pages; "locked", one that SHM_LOCK holds; "own", one in an IPC namespace of
 * its own. Proof: what shmctl(2) tells, that the key
 * leads to it (or no more), contents, that a word which the parent writes comes back through the child, and that what is
 * attached read-only cannot be made writable.
 */
#include "program.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20, ODD_BYTES = 9 * PAGE + 123, ANSWER_MS = 3000, KEY = 0x7e44, USER = 1234 };

struct shared {
	volatile unsigned ping, pong;
	unsigned char data[];
};

struct state {
	int id;
	bool removed, huge, locked;
	size_t bytes;
	struct shared *at;
	const unsigned char *second; /* read-only, at some place of its own */
};

static void check_data(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, pattern_differs(s->at->data, 5 * PAGE, 5) < 0, "the segment differs");
	expect(p, !memcmp(s->second + 8, s->at->data, 5 * PAGE), "the second attachment differs");
	/* CRIU attaches it for writing. */
	if (p->more)
		expect_same(p, "mprotect of what is read-only",
			    mprotect((void *)(uintptr_t)s->second, PAGE, PROT_WRITE), -1);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	struct shmid_ds ds;

	check_data(p, state);
	must(shmctl(s->id, IPC_STAT, &ds));
	expect_same(p, "key", ds.shm_perm.__key, s->removed ? 0 : KEY);
	expect_same(p, "segment of the key", shmget(KEY, 0, 0), s->removed ? -1 : s->id);
	expect_same(p, "size", ds.shm_segsz, s->bytes);
	expect_same(p, "user", ds.shm_perm.uid, USER);
	expect_same(p, "group", ds.shm_perm.gid, USER);
	expect_same(p, "creating user", ds.shm_perm.cuid, 0);
	expect_same(p, "mode", ds.shm_perm.mode & 0777, 0641);
	expect_same(p, "removed", !!(ds.shm_perm.mode & SHM_DEST), s->removed);
	expect_same(p, "locked", !!(ds.shm_perm.mode & SHM_LOCKED), s->locked);
	expect_same(p, "attachments", ds.shm_nattch, 4);
	if (s->huge)
		expect_same(p, "kB a page", smaps_kb(s->at, "KernelPageSize:"), HUGE / 1024);
	unsigned want = ++s->at->ping;
	for (int i = 0; i < ANSWER_MS && s->at->pong != want; i++)
		sleep_ms(1);
	expect_same(p, "what the child answers", s->at->pong, want);
}

static void echo(void *state)
{
	struct state *s = state;

	s->at->pong = s->at->ping;
}

static void spoil(void *state)
{
	struct state *s = state;

	s->at->data[100] ^= 1;
}

static void make(struct state *s)
{
	struct shmid_ds ds = {.shm_perm = {.uid = USER, .gid = USER, .mode = 0641}};

	s->bytes = s->huge ? HUGE : ODD_BYTES;
	s->id = shmget(KEY, s->bytes, IPC_CREAT | IPC_EXCL | 0600 | (s->huge ? SHM_HUGETLB : 0));
	if (s->id < 0 && s->huge)
		program_lacks("free huge pages");
	must(s->id);
	s->at = must(shmat(s->id, NULL, 0));
	s->second = must(shmat(s->id, NULL, SHM_RDONLY));
	pattern_fill(s->at->data, 5 * PAGE, 5);
	must(shmctl(s->id, IPC_SET, &ds));
	if (s->locked)
		must(shmctl(s->id, SHM_LOCK, NULL));
	if (s->removed)
		must(shmctl(s->id, IPC_RMID, NULL));
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	struct shmid_ds ds;

	verify(p, state);
	must(shmdt(s->second));
	must(shmctl(s->id, IPC_STAT, &ds));
	expect_same(p, "attachments after one less", ds.shm_nattch, 3);
}

int main(int argc, char **argv)
{
	static const struct program_ops parent = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child = {.verify = check_data, .step = echo};
	struct state s = {
		.removed = program_told(argc, argv, "removed"),
		.huge = program_told(argc, argv, "huge"),
		.locked = program_told(argc, argv, "locked"),
	};
	struct program p;

	program_start(&p, argc, argv);
	if (program_told(argc, argv, "own"))
		must(unshare(CLONE_NEWIPC));
	make(&s);
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &parent, &s);
}
