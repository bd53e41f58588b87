/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blobs whose end is told by a signal: processes that do all sorts of things with signals are visited, also by a tracer
 * that dies while the blob runs, and must have the same masks, handlers and pending signals afterwards.
 * test_catch TARGET [TEST...].
 */
#include "helpers.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Makes as many calls as its argument says, and returns 77. */
__asm__(".section .rodata\n"
	".globl long_blob, long_blob_end\n"
	"long_blob:\n"
	"push %rbx\n"
	"mov (%rdi), %rbx\n"
	"1: mov $110, %eax\n"
	"syscall\n"
	"dec %rbx\n"
	"jnz 1b\n"
	"mov $77, %eax\n"
	"pop %rbx\n"
	"ret\n"
	"long_blob_end:\n"
	".previous\n");
extern const unsigned char long_blob[], long_blob_end[];

enum { SHORT_CALLS = 3, LONG_CALLS = 300000 };

#define BIT(signal) (1ull << ((signal)-1))

/* What the library did. */
struct deeds {
	unsigned runs, steps;
};

static void note_deed(void *context, const char *what)
{
	struct deeds *d = context;

	d->runs += !strcmp(what, "run");
	d->steps += !strcmp(what, "step");
}

struct visit {
	struct ferry_inject_options options;
	struct deeds deeds; /* of the run of the blob */
	struct ferry_thread *thread;
	struct ferry_inject *inject;
	struct ferry_blob *blob;
};

static void visit_begin(struct visit *v, pid_t pid, int stop)
{
	*v = (struct visit){.options = {.size = sizeof(v->options), .flags = FERRY_INJECT_ALL_STOPPED}};
	v->options.on_effect = note_deed;
	v->options.context = &v->deeds;
	v->thread = seize_stopped(pid, &v->options, stop);
	v->inject = open_at(v->thread, &v->options);
	MUST(ferry_inject_blob_load(v->inject, v->thread, long_blob, (size_t)(long_blob_end - long_blob), 64,
				    &v->blob, &error));
}

static void visit_run(struct visit *v, uint64_t calls)
{
	int64_t r;

	MUST(ferry_inject_write(v->inject, ferry_inject_blob_data(v->blob), &calls, sizeof(calls), &error));
	v->deeds = (struct deeds){0};
	MUST(ferry_inject_blob_run(v->blob, v->thread, 0, &r, &error));
	check(r == 77, "the blob returned %lld", (long long)r);
}

static void visit_end(struct visit *v)
{
	MUST(ferry_inject_blob_unload(v->blob, &error));
	MUST(ferry_inject_cure(v->inject, v->thread, &error));
	MUST(ferry_thread_release(v->thread, &error));
	ferry_inject_close(v->inject);
}

/* ------------------------------------------------------------------- targets */

static unsigned *handled; /* shared with all of them */

static void count_handled(int signal)
{
	(void)signal;
	__atomic_add_fetch(handled, 1, __ATOMIC_SEQ_CST);
}

static void block(uint64_t mask)
{
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
}

static void do_nothing(void)
{
	wait_for_ever();
}

static void ignore_all(void)
{
	signal(SIGURG, SIG_IGN);
	signal(SIGWINCH, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	wait_for_ever();
}

static void handle_all(void)
{
	signal(SIGCHLD, count_handled);
	signal(SIGURG, count_handled);
	signal(SIGWINCH, count_handled);
	wait_for_ever();
}

static void handle_two(void)
{
	signal(SIGURG, count_handled);
	signal(SIGWINCH, count_handled);
	wait_for_ever();
}

static void block_all(void)
{
	block(~0ull);
	wait_for_ever();
}

/* As a reader of a signalfd does; a child has died, and nobody has read of it yet. */
static void have_dead_child(void)
{
	block(BIT(SIGCHLD));
	if (!fork())
		_exit(0);
	wait_for_ever();
}

static void have_urgent_pending(void)
{
	block(BIT(SIGURG));
	syscall(SYS_tkill, getpid(), SIGURG);
	kill(getpid(), SIGURG);
	wait_for_ever();
}

static void have_no_queue(void)
{
	setrlimit(RLIMIT_SIGPENDING, &(struct rlimit){0, 0});
	wait_for_ever();
}

static const struct catch_case {
	const char *name;
	void (*run)(void);
	bool by_steps;
} catch_cases[] = {
	{"plain", do_nothing, false},
	{"ignoring", ignore_all, false},
	{"handling all", handle_all, true},
	{"handling two", handle_two, false},
	{"blocking all", block_all, true},
	{"with a dead child", have_dead_child, false},
	{"with SIGURG pending", have_urgent_pending, false},
	{"without a signal queue", have_no_queue, false},
};

/* -------------------------------------------------------------------- checks */

struct signals {
	char pending[32], shared[32], blocked[32], ignored[32], caught[32];
};

static struct signals signals_of(pid_t pid)
{
	struct signals s;

	status_word(pid, "SigPnd:", s.pending);
	status_word(pid, "ShdPnd:", s.shared);
	status_word(pid, "SigBlk:", s.blocked);
	status_word(pid, "SigIgn:", s.ignored);
	status_word(pid, "SigCgt:", s.caught);
	return s;
}

static bool signals_equal(const struct signals *a, const struct signals *b)
{
	return !strcmp(a->pending, b->pending) && !strcmp(a->shared, b->shared) &&
	       !strcmp(a->blocked, b->blocked) && !strcmp(a->ignored, b->ignored) &&
	       !strcmp(a->caught, b->caught);
}

/* The target sleeps again, and its signals are as they were. */
static void check_signals(pid_t pid, const struct signals *before, const char *name, const char *when)
{
	uint64_t end = clock_ns() + 8000000000u;
	struct signals now;
	char word[32];

	do {
		status_word(pid, "State:", word);
		now = signals_of(pid);
		if (*word == 'S' && signals_equal(&now, before))
			break;
		sleep_us(500);
	} while (clock_ns() < end);
	check(*word == 'S', "%s, %s: the target is in state %s", name, when, word);
	check(signals_equal(&now, before), "%s, %s: pending %s %s, not %s %s; blocked %s, not %s", name, when,
	      now.pending, now.shared, before->pending, before->shared, now.blocked, before->blocked);
	check(!*handled, "%s, %s: a handler ran", name, when);
}

static void test_visits(void)
{
	for (size_t i = 0; i < sizeof(catch_cases) / sizeof(catch_cases[0]); i++) {
		const struct catch_case *c = &catch_cases[i];
		pid_t pid = spawn(c->run);
		struct signals before = signals_of(pid);
		struct visit v;

		visit_begin(&v, pid, FERRY_STOP_EVENT);
		for (int run = 0; run < 3; run++) {
			visit_run(&v, SHORT_CALLS);
			if (c->by_steps)
				check(!v.deeds.runs && v.deeds.steps >= 2 * SHORT_CALLS,
				      "%s: %u runs, %u steps", c->name, v.deeds.runs, v.deeds.steps);
			else
				check(v.deeds.runs == 1 && !v.deeds.steps, "%s: %u runs, %u steps", c->name,
				      v.deeds.runs, v.deeds.steps);
		}
		check(call(v.inject, v.thread, SYS_getpid) == pid, "%s: getpid", c->name);
		visit_run(&v, SHORT_CALLS);
		visit_end(&v);
		check_signals(pid, &before, c->name, "after a visit");
		reap(pid);
	}
}

/* A tracer that is killed after so long, in a long blob unless it is early. Whether it had begun to run it. */
static bool die_in_visit(pid_t pid, uint64_t after_ns)
{
	volatile unsigned *begun =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;

	fflush(NULL);
	pid_t tracer = fork();
	if (!tracer) {
		struct sigevent how = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
		struct itimerspec when = {.it_value = {.tv_nsec = (long)after_ns}};
		struct visit v;
		timer_t timer;
		harness_disown();
		visit_begin(&v, pid, FERRY_STOP_EVENT);
		*begun = 1;
		check(!timer_create(CLOCK_MONOTONIC, &how, &timer) && !timer_settime(timer, 0, &when, NULL),
		      "timer: %s", strerror(errno));
		for (;;)
			visit_run(&v, LONG_CALLS);
	}
	check(waitpid(tracer, &status, 0) == tracer && WIFSIGNALED(status),
	      "the tracer failed, wait status %#x", status);
	bool ran = *begun;
	munmap((void *)begun, 4096);
	return ran;
}

static void test_deaths(void)
{
	unsigned deaths = env_number("INJECT_KILLS", 100) / 16;

	for (size_t i = 0; i < sizeof(catch_cases) / sizeof(catch_cases[0]); i++) {
		pid_t pid = spawn(catch_cases[i].run);
		struct signals before = signals_of(pid);

		for (unsigned j = 0; j < deaths; j++) {
			check(die_in_visit(pid, 1 + (uint64_t)random() % 20000000), "%s: killed too early",
			      catch_cases[i].name);
			check_signals(pid, &before, catch_cases[i].name, "after a death");
		}
		reap(pid);
	}
}

/* The first process of a namespace ignores what others do not. */
static void test_first_process(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
	struct visit v;

	check(pid >= 0, "clone: %s", strerror(errno));
	if (!pid) {
		harness_disown();
		wait_for_ever();
	}
	check_state(pid, 'S', "start");
	struct signals before = signals_of(pid);
	visit_begin(&v, pid, FERRY_STOP_EVENT);
	visit_run(&v, SHORT_CALLS);
	check(v.deeds.runs == 1 && !v.deeds.steps, "%u runs, %u steps", v.deeds.runs, v.deeds.steps);
	visit_end(&v);
	check_signals(pid, &before, "first process", "after a visit");
	reap(pid);
}

/* Send signals while a long blob runs; each after a moment. */
static pid_t send_later(pid_t pid, int first, int second)
{
	fflush(NULL);
	pid_t sender = fork();

	if (!sender) {
		harness_disown();
		sleep_us(3000);
		kill(pid, first);
		sleep_us(3000);
		if (second)
			kill(pid, second);
		_exit(0);
	}
	return sender;
}

static void test_stops(void)
{
	static const struct {
		int before, first, second;
		char state;
	} cases[] = {
		{0, SIGSTOP, 0, 'T'},       {0, SIGSTOP, SIGCONT, 'S'},       {SIGSTOP, SIGCONT, 0, 'S'},
		{SIGSTOP, SIGURG, 0, 'T'},  {SIGSTOP, SIGCONT, SIGSTOP, 'T'}, {0, SIGSTOP, SIGURG, 'T'},
		{0, SIGURG, SIGWINCH, 'S'}, {0, SIGCHLD, SIGURG, 'S'},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		pid_t pid = spawn(do_nothing);
		struct signals before = signals_of(pid);
		struct visit v;
		char name[32];

		snprintf(name, sizeof(name), "case %zu", i);
		if (cases[i].before) {
			kill(pid, cases[i].before);
			check_state(pid, 'T', name);
		}
		visit_begin(&v, pid, cases[i].before ? FERRY_STOP_GROUP : FERRY_STOP_EVENT);
		pid_t sender = send_later(pid, cases[i].first, cases[i].second);
		uint64_t end = clock_ns() + 20000000;
		while (clock_ns() < end || waitpid(sender, NULL, WNOHANG) != sender)
			visit_run(&v, LONG_CALLS / 100);
		visit_end(&v);
		check_state(pid, cases[i].state, name);
		kill(pid, SIGCONT);
		check_signals(pid, &before, name, "after all");
		reap(pid);
	}
}

static const struct test tests[] = {
	{"visits", test_visits},
	{"deaths", test_deaths},
	{"first-process", test_first_process},
	{"stops", test_stops},
};

int main(int argc, char **argv)
{
	handled = mmap(NULL, sizeof(*handled), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (handled == MAP_FAILED)
		return 1;
	srandom(env_number("INJECT_SEED", (unsigned)getpid()));
	return run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
