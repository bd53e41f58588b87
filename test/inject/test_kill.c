/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kills the tracer with SIGKILL: before every single call that changes the target, by number, and at random
 * instants. After each kill the target must be as if nothing had happened. test_kill TARGET [MODE...];
 * INJECT_KILLS = random kills over all modes.
 */
#include "harness.h"
#include "scenario.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct counter {
	volatile unsigned at, count;
	char what[32];
};

static void kill_here(void *context, const char *what)
{
	struct counter *c = context;

	if (++c->count != c->at)
		return;
	snprintf(c->what, sizeof(c->what), "%s", what);
	kill(getpid(), SIGKILL);
}

static struct counter *counter_new(void)
{
	struct counter *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	check(c != MAP_FAILED, "mmap: %s", strerror(errno));
	return c;
}

/* Between a stop and the moment at which ferry sees it, the kernel alone decides: some calls return EINTR. */
static bool before_mended(const char *what)
{
	return !strcmp(what, "interrupt") || !strcmp(what, "mend-mask") || !strcmp(what, "mend");
}

/* One kill at every effect, 1 to last; returns the last. step > 1 leaves some out. */
static unsigned kill_everywhere(struct target *t, const struct scenario *plain, struct counter *c,
				unsigned step)
{
	struct scenario s = *plain;
	char when[80];
	unsigned n = 0;

	s.options.on_effect = kill_here;
	s.options.context = c;
	for (unsigned at = 1;; at += step) {
		*c = (struct counter){.at = at};
		int status = scenario_run_apart(t, &s);
		snprintf(when, sizeof(when), "killed at effect %u (%s)", at, c->what);
		target_check_eintr(t, when, before_mended(c->what));
		if (WIFEXITED(status)) {
			check(!WEXITSTATUS(status), "%s: the visit failed", t->mode);
			return n;
		}
		check(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%s: wait status %#x", t->mode,
		      status);
		n++;
	}
}

/* Kills at random instants of a visit. */
static unsigned kill_randomly(struct target *t, const struct scenario *s, unsigned kills)
{
	unsigned killed = 0;
	char when[80];
	int status;

	uint64_t start = clock_ns();
	check(!scenario_run_apart(t, s), "%s: the visit failed", t->mode);
	long length_us = (long)((clock_ns() - start) / 1000);
	/* Some end before their kill comes; those do not count, but they end, too. */
	for (unsigned i = 0; killed < kills && i < 20 * kills; i++) {
		fflush(NULL);
		pid_t pid = fork();
		check(pid >= 0, "fork: %s", strerror(errno));
		if (!pid) {
			harness_disown();
			scenario_run(t, s);
			_exit(0);
		}
		long us = random() % length_us;
		sleep_us(us);
		kill(pid, SIGKILL);
		check(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
		check(WIFSIGNALED(status) || !WEXITSTATUS(status), "%s: the visit failed", t->mode);
		killed += WIFSIGNALED(status);
		snprintf(when, sizeof(when), "killed after %ld us", us);
		/* The next tracer comes at once now and then, when the target is still healing. */
		if (i % 3)
			target_check_eintr(t, when, true);
	}
	target_check_eintr(t, "at last", true);
	return killed;
}

static const struct {
	const char *name;
	bool no_blob, no_memory;
} kill_modes[] = {
	{"compute", false, false},
	{"sleepers", false, false},
	{"rseq", false, false},
	{"tcp", false, false},
	{"flood", false, false},
	{"zombie-leader", false, false},
	{"seccomp-kill-other", false, false},
	{"seccomp-kill-mask", true, false},
	{"seccomp-kill-mmap", true, true},
};

static void kill_mode(const char *name, bool no_blob, bool no_memory, unsigned n_modes)
{
	struct scenario s = {
		.options = FERRY_INJECT_OPTIONS_INIT, .no_blob = no_blob, .no_memory = no_memory};
	struct counter *c = counter_new();
	struct target t;

	target_start(&t, name);
	unsigned everywhere = kill_everywhere(&t, &s, c, t.n > 8 ? 7 : 1);
	unsigned kills = (env_number("INJECT_KILLS", 100) + n_modes - 1) / n_modes;
	unsigned randomly = kill_randomly(&t, &s, kills);
	check(randomly == kills, "%s: only %u of %u kills hit a visit", name, randomly, kills);
	printf("%s: %u threads, killed at %u effects and %u times at random\n", name, (unsigned)t.n,
	       everywhere, randomly);
	fflush(stdout);
	target_stop(&t);
	munmap(c, sizeof(*c));
}

static bool mode_wanted(int argc, char **argv, const char *name)
{
	for (int i = 2; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return argc < 3;
}

int main(int argc, char **argv)
{
	unsigned n = 0;

	harness_init(argv[1]);
	srandom(env_number("INJECT_SEED", (unsigned)getpid()));
	for (size_t i = 0; i < sizeof(kill_modes) / sizeof(kill_modes[0]); i++)
		n += mode_wanted(argc, argv, kill_modes[i].name);
	for (size_t i = 0; i < sizeof(kill_modes) / sizeof(kill_modes[0]); i++)
		if (mode_wanted(argc, argv, kill_modes[i].name))
			kill_mode(kill_modes[i].name, kill_modes[i].no_blob, kill_modes[i].no_memory, n);
	return 0;
}
