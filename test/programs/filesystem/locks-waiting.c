/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two children that wait for locks of their parent, one in fcntl(2), one in flock(2). Proof: they wait, and at the end, when the parent
 * lets go, they have them.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

struct shared {
	int has_record, has_flock;
};

struct state {
	int record, flock;
	volatile struct shared *shared;
};

static void wait_record(volatile struct shared *shared)
{
	int fd = must(open("record", O_RDWR | O_CLOEXEC));
	struct flock lock = {.l_type = F_WRLCK, .l_start = 0, .l_len = 10};

	shared->has_record = fcntl(fd, F_SETLKW, &lock) < 0 ? -errno : 1;
	for (;;)
		pause();
}

static void wait_flock(volatile struct shared *shared)
{
	int fd = must(open("flock", O_RDWR | O_CLOEXEC));

	shared->has_flock = flock(fd, LOCK_EX) < 0 ? -errno : 1;
	for (;;)
		pause();
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "the one that waits in fcntl", s->shared->has_record, 0);
	expect_same(p, "the one that waits in flock", s->shared->has_flock, 0);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct flock lock = {.l_type = F_UNLCK};

	verify(p, state);
	sleep_ms(50);
	verify(p, state);
	must(fcntl(s->record, F_SETLK, &lock));
	must(flock(s->flock, LOCK_UN));
	for (int i = 0; i < 2000 && (!s->shared->has_record || !s->shared->has_flock); i++)
		sleep_ms(2);
	expect_same(p, "the record lock", s->shared->has_record, 1);
	expect_same(p, "the flock lock", s->shared->has_flock, 1);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(flock(s->flock, LOCK_UN));
	while (!s->shared->has_flock)
		sleep_ms(1);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct flock lock = {.l_type = F_WRLCK};
	struct program p, q;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.shared = must(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	s.record = must(open("record", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	s.flock = must(open("flock", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(fcntl(s.record, F_SETLK, &lock));
	must(flock(s.flock, LOCK_EX | LOCK_NB));
	if (!must(fork())) {
		close(s.flock);
		close(s.record);
		q = program_role(&p, "record");
		program_note_volatile(&q);
		wait_record(s.shared);
	}
	if (!must(fork())) {
		close(s.flock);
		close(s.record);
		q = program_role(&p, "flock");
		program_note_volatile(&q);
		wait_flock(s.shared);
	}
	sleep_ms(20);
	return program_serve(&p, &ops, &s);
}
