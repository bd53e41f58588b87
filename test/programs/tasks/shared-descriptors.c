/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three processes, in three generations, that have one descriptor table (CLONE_FILES), and a fourth with its own. Proof: what one
 * opens and closes the others see, at once, and the fourth does not; the descriptors themselves are what they were.
 */
#include "relations.h"

#include <sched.h>
#include <sys/syscall.h>

enum { SHARED = 40, HELD = 41, OUTER = 42 };

struct state {
	bool shares;
};

/* Everybody of one table counts up the same offset, which starts at what the first has left there. */
static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char path[256], byte;
	int number;

	expect_same(p, "the held descriptor", lseek(HELD, 0, SEEK_CUR), 1234);
	snprintf(path, sizeof(path), "%s/made.%s", p->folder, p->role);
	expect(p, (number = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644)) >= 0, "cannot open a file");
	expect_same(p, "writing to it", write(number, "x", 1), 1);
	expect_same(p, "giving it a number", dup2(number, SHARED), SHARED);
	close(number);
	expect_same(p, "reading it", pread(SHARED, &byte, 1, 0), 1);
	if (!strcmp(p->role, "main"))
		expect_same(p, "the others' number", fcntl(OUTER, F_GETFD), s->shares ? FD_CLOEXEC : -1);
}

static void check_sees(struct program *p, const char *whose, bool wanted)
{
	char link[256] = "", want[256];

	must(readlink("/proc/self/fd/40", link, sizeof(link) - 1));
	snprintf(want, sizeof(want), "%s/made.%s", p->folder, whose);
	expect(p, !strcmp(link, want) == wanted, "number 40 is '%s'", link);
}

/* Asked in the order of their names, the first process last: apart, second, third, main. */
static void verify_second(struct program *p, void *state)
{
	verify(p, state);
}

static void verify_third(struct program *p, void *state)
{
	check_sees(p, "second", true);
	verify(p, state);
}

static void verify_main(struct program *p, void *state)
{
	check_sees(p, "third", true);
	check_sees(p, "apart", false);
	verify(p, state);
}

static void spoil(void *state)
{
	(void)state;
	unshare(CLONE_FILES);
	dup2(0, SHARED);
}

/* They are there before anybody looks what the folder has. */
static void make_files(const struct program *p)
{
	static const char *const roles[] = {"main", "apart", "second", "third"};
	char path[256];

	for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
		snprintf(path, sizeof(path), "%s/made.%s", p->folder, roles[i]);
		close(must(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644)));
	}
}

static pid_t clone_child(unsigned long flags)
{
	return (pid_t)must(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
}

static int serve(const struct program *parent, const char *role,
		 void (*proof)(struct program *p, void *state))
{
	const struct program_ops ops = {.verify = proof};
	struct program p = program_role(parent, role);
	struct state s = {.shares = true};

	return program_serve(&p, &ops, &s);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify_main, .finish = verify_main, .spoil = spoil};
	struct state s = {.shares = true};
	struct program p;
	char path[256];

	relations_start(&p, argc, argv);
	make_files(&p);
	snprintf(path, sizeof(path), "%s/held", p.folder);
	int held = must(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644));
	must(dup2(held, HELD));
	must(dup2(held, SHARED));
	must(close(held));
	must((int)lseek(HELD, 1234, SEEK_SET));
	if (!must(fork()))
		return serve(&p, "apart", verify);
	program_await(&p, "apart");
	if (!clone_child(CLONE_FILES)) {
		if (!clone_child(CLONE_FILES))
			return serve(&p, "third", verify_third);
		program_await(&p, "third");
		return serve(&p, "second", verify_second);
	}
	program_await(&p, "second");
	must(dup2(HELD, OUTER));
	must(fcntl(OUTER, F_SETFD, FD_CLOEXEC));
	return program_serve(&p, &ops, &s);
}
