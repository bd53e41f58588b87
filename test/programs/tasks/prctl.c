/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What prctl(2), personality(2) and a few /proc files keep for a task. Proof: all read back; and the parent's death
 * signal and subreaper really work at the end.
 */
#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VALUES = 12 };

struct values {
	char name[16];
	long numbers[VALUES];
};

struct state {
	struct values values;
	pid_t child;
};

static const char *const value_names[VALUES] = {
	"PR_GET_DUMPABLE",   "PR_GET_PDEATHSIG",   "PR_GET_CHILD_SUBREAPER", "PR_GET_NO_NEW_PRIVS",
	"PR_GET_TIMERSLACK", "PR_GET_THP_DISABLE", "PR_GET_KEEPCAPS",        "PR_MCE_KILL_GET",
	"personality",       "oom_score_adj",      "coredump_filter",        "PR_GET_TSC",
};

/* What CRIU does not keep. */
static const bool needs_more[VALUES] = {[4] = true, [7] = true, [8] = true, [10] = true};

static long read_number(const char *path, int base)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	close(fd);
	return n > 0 ? strtol(text, NULL, base) : -1;
}

static void write_number(const char *path, const char *text)
{
	int fd = must(open(path, O_WRONLY | O_CLOEXEC));

	must(write(fd, text, strlen(text)));
	close(fd);
}

static void values_read(struct values *ret)
{
	int number = 0;

	memset(ret, 0, sizeof(*ret));
	prctl(PR_GET_NAME, ret->name);
	ret->numbers[0] = prctl(PR_GET_DUMPABLE);
	prctl(PR_GET_PDEATHSIG, &number);
	ret->numbers[1] = number;
	number = 0;
	prctl(PR_GET_CHILD_SUBREAPER, &number);
	ret->numbers[2] = number;
	ret->numbers[3] = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	ret->numbers[4] = prctl(PR_GET_TIMERSLACK);
	ret->numbers[5] = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
	ret->numbers[6] = prctl(PR_GET_KEEPCAPS);
	ret->numbers[7] = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
	ret->numbers[8] = personality(0xffffffff);
	ret->numbers[9] = read_number("/proc/self/oom_score_adj", 10);
	ret->numbers[10] = read_number("/proc/self/coredump_filter", 16);
	number = 0;
	prctl(PR_GET_TSC, &number);
	ret->numbers[11] = number;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct values now;

	values_read(&now);
	expect(p, !strcmp(now.name, s->values.name), "name is '%s', not '%s'", now.name, s->values.name);
	for (int i = 0; i < VALUES; i++)
		if (p->more || !needs_more[i])
			expect_same(p, value_names[i], now.numbers[i], s->values.numbers[i]);
}

static void spoil(void *state)
{
	(void)state;
	prctl(PR_SET_NAME, "spoiled");
}

static void change_main(void)
{
	must(prctl(PR_SET_NAME, "(odd) na me:"));
	must(prctl(PR_SET_CHILD_SUBREAPER, 1));
	must(prctl(PR_SET_TIMERSLACK, 123456));
	must(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	must(prctl(PR_SET_KEEPCAPS, 1));
	must(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	must(personality(ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT));
	write_number("/proc/self/oom_score_adj", "321");
	write_number("/proc/self/coredump_filter", "0x17");
}

static void change_child(void)
{
	must(prctl(PR_SET_NAME, "child"));
	must(prctl(PR_SET_DUMPABLE, 0));
	must(prctl(PR_SET_PDEATHSIG, SIGKILL));
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(prctl(PR_SET_TIMERSLACK, 654321));
}

/* A grandchild whose parent ends must become ours, because we are a subreaper. */
static void finish(struct program *p, void *state)
{
	struct state *s = state;
	int status = 0;

	pid_t middle = fork();
	if (!middle) {
		if (!fork()) {
			sleep_ms(20);
			_exit(9);
		}
		_exit(0);
	}
	expect_same(p, "the child", waitpid(middle, &status, 0), middle);
	pid_t orphan = waitpid(-1, &status, 0);
	expect(p, orphan > 0 && orphan != s->child && WIFEXITED(status) && WEXITSTATUS(status) == 9,
	       "the orphan did not come to its subreaper");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	s.child = must(fork());
	if (!s.child) {
		struct program q = program_role(&p, "child");
		change_child();
		values_read(&s.values);
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "child");
	change_main();
	values_read(&s.values);
	return program_serve(&p, &ops, &s);
}
