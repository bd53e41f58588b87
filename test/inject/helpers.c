/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the small helpers of the tests, and their list. */
#include "helpers.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct ferry_error error;
const struct ferry_inject_options plain = FERRY_INJECT_OPTIONS_INIT;

struct ferry_error *fresh(void)
{
	error = (struct ferry_error)FERRY_ERROR_INIT;
	return &error;
}

/* CPU time of a task. */
static uint64_t cpu_ns(pid_t pid)
{
	unsigned long long ns = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
	FILE *f = fopen(path, "re");
	if (f && fscanf(f, "%llu", &ns) != 1)
		ns = 0;
	if (f)
		fclose(f);
	return ns;
}

/* It has begun: it sleeps, or has had so much CPU that it must be in its loop. */
static bool has_begun(pid_t pid)
{
	char word[32];

	status_word(pid, "State:", word);
	return *word == 'S' || *word == 'Z' || cpu_ns(pid) > 10000000;
}

pid_t spawn(void (*function)(void))
{
	uint64_t end = clock_ns() + 10000000000u;

	fflush(NULL);
	pid_t pid = fork();

	check(pid >= 0, "fork: %s", strerror(errno));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		harness_disown();
		function();
		_exit(0);
	}
	do
		sleep_us(20000);
	while (!has_begun(pid) && clock_ns() < end);
	return pid;
}

void reap(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

void wait_for_ever(void)
{
	for (;;)
		pause();
}

struct ferry_thread *seize_stopped(pid_t tid, const struct ferry_inject_options *options, int want)
{
	struct ferry_thread *thread;

	fresh();
	MUST(ferry_thread_seize(tid, options, &thread, &error));
	MUST(ferry_thread_interrupt(thread, &error));
	int stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
	check(stop == want, "stop %d, not %d", stop, want);
	return thread;
}

struct ferry_inject *open_at(struct ferry_thread *thread, const struct ferry_inject_options *options)
{
	struct ferry_inject *inject;

	MUST(ferry_inject_open(thread, options, &inject, &error));
	return inject;
}

int64_t call(struct ferry_inject *inject, struct ferry_thread *thread, long nr)
{
	int64_t r;

	MUST(ferry_inject_call(inject, thread, nr, NULL, &r, &error));
	return r;
}

void check_state(pid_t tid, char want, const char *when)
{
	uint64_t end = clock_ns() + 5000000000u;
	char word[32];

	for (status_word(tid, "State:", word); *word != want; status_word(tid, "State:", word)) {
		check(clock_ns() < end, "%s: task %d is in state %s, not %c", when, tid, word, want);
		sleep_us(500);
	}
}

static bool wanted(int argc, char **argv, const char *name)
{
	for (int i = 2; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return argc < 3;
}

int run_tests(const struct test *tests, size_t n, int argc, char **argv)
{
	harness_init(argv[1]);
	for (size_t i = 0; i < n; i++) {
		if (!wanted(argc, argv, tests[i].name))
			continue;
		uint64_t start = clock_ns();
		tests[i].run();
		printf("%s: ok (%.1f s)\n", tests[i].name, (double)(clock_ns() - start) / 1e9);
		fflush(stdout);
	}
	return 0;
}
