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
#include <time.h>
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

static void *shared_new(size_t n)
{
	void *shared = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	check(shared != MAP_FAILED, "mmap: %s", strerror(errno));
	return shared;
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

/* What a visit that is to be killed at a random instant leaves behind. */
struct visit {
	volatile uint64_t effects; /* how often it has begun to change the target */
	volatile uint64_t end_ns;  /* its length; 0 = it did not come to its end */
};

static void note_effect(void *context, const char *what)
{
	struct visit *v = context;

	(void)what;
	v->effects++;
}

/*
 * The kernel kills when the time has come: a killer that has to get a CPU first comes too late on a machine that has
 * better things to do.
 */
static void kill_me_after(uint64_t ns)
{
	struct sigevent how = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	struct itimerspec when = {
		.it_value = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)}};
	timer_t timer;

	check(!timer_create(CLOCK_MONOTONIC, &how, &timer) && !timer_settime(timer, 0, &when, NULL),
	      "timer: %s", strerror(errno));
}

/* Visit, and be killed after so long; 0 = not at all. Whether the kill came while the target was being changed. */
static bool visit_killed(struct target *t, const struct scenario *plain, struct visit *v, uint64_t after_ns)
{
	struct scenario s = *plain;
	int status;

	s.options.on_effect = note_effect;
	s.options.context = v;
	*v = (struct visit){.effects = 0};
	fflush(NULL);
	pid_t pid = fork();
	check(pid >= 0, "fork: %s", strerror(errno));
	if (!pid) {
		harness_disown();
		uint64_t start = clock_ns();
		if (after_ns)
			kill_me_after(after_ns);
		scenario_run(t, &s);
		v->end_ns = clock_ns() - start;
		_exit(0);
	}
	check(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
	bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	check(killed || (WIFEXITED(status) && !WEXITSTATUS(status)), "%s: the visit failed, wait status %#x",
	      t->mode, status);
	return killed && v->effects && !v->end_ns;
}

/*
 * Kills at random instants of a visit. Its length is not the same twice, least of all on a busy machine: each visit
 * that ends before its kill says how long it was, each that does not may have been longer.
 */
static unsigned kill_randomly(struct target *t, const struct scenario *s, struct visit *v, unsigned kills)
{
	unsigned hits = 0, tries = 0, bound = 1000 + 100 * kills;
	char when[80];

	check(!visit_killed(t, s, v, 0) && v->end_ns, "%s: an undisturbed visit was killed", t->mode);
	for (uint64_t length_ns = v->end_ns; hits < kills && tries < bound; tries++) {
		uint64_t ns = 1 + (uint64_t)random() % length_ns;
		hits += visit_killed(t, s, v, ns);
		length_ns = v->end_ns ? v->end_ns : length_ns + length_ns / 16;
		snprintf(when, sizeof(when), "killed after %llu ns", (unsigned long long)ns);
		/* The next tracer comes at once now and then, when the target is still healing. */
		if (tries % 3)
			target_check_eintr(t, when, true);
	}
	target_check_eintr(t, "at last", true);
	check(hits == kills, "%s: only %u of %u kills hit one of %u visits, the last of %llu ns", t->mode,
	      hits, kills, tries, (unsigned long long)v->end_ns);
	return tries;
}

static const struct {
	const char *name;
	bool no_blob, no_memory, by_steps;
} kill_modes[] = {
	{"compute", false, false, false},
	{"compute", false, false, true},
	{"sleepers", false, false, false},
	{"sleepers", false, false, true},
	{"rseq", false, false, false},
	{"tcp", false, false, false},
	{"flood", false, false, false},
	{"zombie-leader", false, false, false},
	{"seccomp-kill-other", false, false, false},
	{"seccomp-kill-mask", true, false, false},
	{"seccomp-kill-mmap", true, true, false},
};

static void kill_mode(size_t mode, unsigned n_modes)
{
	const char *name = kill_modes[mode].name;
	struct scenario s = {
		.options = FERRY_INJECT_OPTIONS_INIT,
		.no_blob = kill_modes[mode].no_blob,
		.no_memory = kill_modes[mode].no_memory,
	};
	struct counter *c = shared_new(sizeof(*c));
	struct target t;

	s.options.flags = kill_modes[mode].by_steps ? 0 : FERRY_INJECT_ALL_STOPPED;
	target_start(&t, name);
	unsigned everywhere = kill_everywhere(&t, &s, c, t.n > 8 ? 7 : 1);
	unsigned kills = (env_number("INJECT_KILLS", 100) + n_modes - 1) / n_modes;
	unsigned tries = kill_randomly(&t, &s, shared_new(sizeof(struct visit)), kills);
	printf("%s%s: %u threads, killed at %u effects and %u times at random in %u visits\n", name,
	       kill_modes[mode].by_steps ? " (by steps)" : "", (unsigned)t.n, everywhere, kills, tries);
	fflush(stdout);
	target_stop(&t);
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
			kill_mode(i, n);
	return 0;
}
