/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks of flock(2): exclusive, shared by two descriptions, on a description that parent and child have, on a memory file. Proof: who asks
 * for them gets what stands against it; at the end the child lets go of what the parent took.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

struct state {
	int exclusive, one, two, inherited;
};

/* What flock(2) of somebody else says: 0 when it is granted (and given back), else errno. */
static int try_lock(const char *name, int op)
{
	int fd = must(open(name, O_RDWR | O_CLOEXEC));
	int code = flock(fd, op | LOCK_NB) < 0 ? errno : 0;

	close(fd);
	return code;
}

static void verify(struct program *p, void *state)
{
	(void)state;
	expect_same(p, "shared against exclusive", try_lock("exclusive", LOCK_SH), EWOULDBLOCK);
	expect_same(p, "shared against shared", try_lock("shared", LOCK_SH), 0);
	expect_same(p, "exclusive against shared", try_lock("shared", LOCK_EX), EWOULDBLOCK);
	expect_same(p, "shared against the inherited one", try_lock("inherited", LOCK_SH), EWOULDBLOCK);
}

/* The parent is asked last. */
static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "after the child let go", try_lock("inherited", LOCK_EX), 0);
	must(flock(s->one, LOCK_UN));
	expect_same(p, "with one of two gone", try_lock("shared", LOCK_EX), EWOULDBLOCK);
	must(flock(s->two, LOCK_UN));
	expect_same(p, "with both gone", try_lock("shared", LOCK_EX), 0);
	expect_same(p, "making a lock shared", flock(s->exclusive, LOCK_SH), 0);
	expect_same(p, "shared against it now", try_lock("exclusive", LOCK_SH), 0);
}

static void spoil(void *state)
{
	must(flock(((struct state *)state)->exclusive, LOCK_UN));
}

static void child_verify(struct program *p, void *state)
{
	(void)state;
	expect_same(p, "in the child", try_lock("inherited", LOCK_SH), EWOULDBLOCK);
}

static void child_finish(struct program *p, void *state)
{
	child_verify(p, state);
	must(flock(((struct state *)state)->inherited, LOCK_UN));
}

static int take(const char *name, int op)
{
	int fd = must(open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600));

	must(flock(fd, op | LOCK_NB));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = child_verify, .finish = child_finish};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	s.inherited = take("inherited", LOCK_EX);
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, &s);
	}
	s.exclusive = take("exclusive", LOCK_EX);
	s.one = take("shared", LOCK_SH);
	s.two = take("shared", LOCK_SH);
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
