/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resource limits, soft and hard, lowered to unusual values where lowering needs no privilege. Proof: all of them read
 * back, and one of them is enforced.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { NOFILE_SOFT = 123 };

/* What to lower to; RLIM_INFINITY leaves the value as it is. */
static const struct wish {
	const char *name;
	int resource;
	rlim_t soft, hard;
} wishes[] = {
	{"RLIMIT_CORE", RLIMIT_CORE, 4096 * 3, 4096 * 7},
	{"RLIMIT_NOFILE", RLIMIT_NOFILE, NOFILE_SOFT, 4567},
	{"RLIMIT_STACK", RLIMIT_STACK, 5 << 20, 6 << 20},
	{"RLIMIT_FSIZE", RLIMIT_FSIZE, 1 << 30, 2UL << 30},
	{"RLIMIT_CPU", RLIMIT_CPU, 5000, 6000},
	{"RLIMIT_DATA", RLIMIT_DATA, 1UL << 35, 1UL << 36},
	{"RLIMIT_AS", RLIMIT_AS, 1UL << 40, RLIM_INFINITY},
	{"RLIMIT_RSS", RLIMIT_RSS, 12345678, RLIM_INFINITY},
	{"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK, 32768, 65536},
	{"RLIMIT_LOCKS", RLIMIT_LOCKS, 99, 100},
	{"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING, 77, 88},
	{"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE, 4000, 5000},
	{"RLIMIT_NICE", RLIMIT_NICE, 0, 0},
	{"RLIMIT_RTPRIO", RLIMIT_RTPRIO, 0, 0},
	{"RLIMIT_RTTIME", RLIMIT_RTTIME, 900000, 950000},
	{"RLIMIT_NPROC", RLIMIT_NPROC, 3000, 3001},
};

struct state {
	struct rlimit limits[ARRAY_SIZE(wishes)];
};

/* Never above what is allowed already. */
static rlim_t lower(rlim_t now, rlim_t wish)
{
	return wish < now ? wish : now;
}

static void set_limits(struct state *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++) {
		struct rlimit l;
		must(getrlimit((__rlimit_resource_t)wishes[i].resource, &l));
		l.rlim_max = lower(l.rlim_max, wishes[i].hard);
		l.rlim_cur = lower(l.rlim_max, wishes[i].soft);
		must(setrlimit((__rlimit_resource_t)wishes[i].resource, &l));
		must(getrlimit((__rlimit_resource_t)wishes[i].resource, &s->limits[i]));
	}
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	for (size_t i = 0; i < ARRAY_SIZE(wishes); i++) {
		struct rlimit now = {0};
		getrlimit((__rlimit_resource_t)wishes[i].resource, &now);
		expect(p, now.rlim_cur == s->limits[i].rlim_cur && now.rlim_max == s->limits[i].rlim_max,
		       "%s is %llu/%llu, not %llu/%llu", wishes[i].name, (unsigned long long)now.rlim_cur,
		       (unsigned long long)now.rlim_max, (unsigned long long)s->limits[i].rlim_cur,
		       (unsigned long long)s->limits[i].rlim_max);
	}
	expect(p, fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, NOFILE_SOFT) < 0 && errno == EINVAL,
	       "a descriptor above RLIMIT_NOFILE could be made");
}

static void spoil(void *state)
{
	(void)state;
	setrlimit(RLIMIT_CORE, &(const struct rlimit){1, 4096 * 7});
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	set_limits(&s);
	return program_serve(&p, &ops, &s);
}
