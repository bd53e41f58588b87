/* SPDX-License-Identifier: Apache-2.0 */
/* The durable hold in both hierarchies: a counting child stands still, comes back, or dies without another step. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "host/freezer.h"

enum { CHILDREN = 3, TIMEOUT_MS = 5000 };

struct hold {
	struct freezer *f;
	enum freezer_kind kind;
	pid_t pids[CHILDREN];
	volatile unsigned long *counters;
	char group[CHILDREN][512]; /* /proc/PID/cgroup as it was */
};

static char name[40];

static char *groups_of(pid_t pid)
{
	char path[40], *text;
	size_t n;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	assert_int_equal(fd_read_path(AT_FDCWD, path, 65536, &text, &n), 0);
	return text;
}

static int begin(void **state, enum freezer_kind kind)
{
	struct hold *h = calloc(1, sizeof(*h));
	h->kind = kind;
	h->counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < CHILDREN; i++) {
		h->pids[i] = fork();
		while (!h->pids[i])
			h->counters[i]++;
		char *text = groups_of(h->pids[i]);
		snprintf(h->group[i], sizeof(h->group[i]), "%s", text);
		free(text);
	}
	snprintf(name, sizeof(name), "ferry-test-%d-%d", getpid(), (int)time(NULL));
	*state = h;
	return 0;
}

static int begin_v1(void **state)
{
	return begin(state, FREEZER_V1);
}

static int begin_v2(void **state)
{
	return begin(state, FREEZER_V2);
}

static int end(void **state)
{
	struct hold *h = *state;
	for (int i = 0; i < CHILDREN; i++) {
		kill(h->pids[i], SIGKILL);
		waitpid(h->pids[i], NULL, __WALL);
	}
	munmap((void *)h->counters, 4096);
	free(h);
	return 0;
}

/* Whether any child makes a step within a while. */
static bool moves(const struct hold *h)
{
	struct timespec pause = {.tv_nsec = 30000000};
	unsigned long before[CHILDREN];
	for (int i = 0; i < CHILDREN; i++)
		before[i] = h->counters[i];
	nanosleep(&pause, NULL);
	for (int i = 0; i < CHILDREN; i++)
		if (before[i] != h->counters[i])
			return true;
	return false;
}

/* A machine without this hierarchy has nothing to test here; it has at least one of them, which any() shows. */
static bool open_or_skip(struct hold *h)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int r = freezer_open(h->kind, name, NULL, &h->f, &err);
	if (r >= 0)
		r = freezer_try(h->f, h->pids[0], &err);
	if (r >= 0)
		return true;
	assert_int_equal(err.id, FERRY_ERROR_KERNEL_FEATURE);
	return false;
}

static void thaw(void **state)
{
	struct hold *h = *state;
	pid_t *members;
	size_t n;
	if (!open_or_skip(h))
		skip();
	assert_true(moves(h));
	assert_int_equal(freezer_hold(h->f, h->pids, CHILDREN, TIMEOUT_MS, NULL), 0);
	assert_int_equal(freezer_is_frozen(h->f, NULL), 1);
	assert_false(moves(h));
	assert_int_equal(freezer_members(h->f, &members, &n, NULL), 0);
	assert_int_equal(n, CHILDREN);
	free(members);
	/* Nobody holds the descriptors any more, and it holds nevertheless. */
	freezer_close(h->f);
	assert_false(moves(h));
	assert_int_equal(freezer_open(h->kind, name, NULL, &h->f, NULL), 0);
	assert_int_equal(freezer_find(h->f, NULL), 1);
	assert_int_equal(freezer_thaw(h->f, NULL), 0);
	assert_true(moves(h));
	for (int i = 0; i < CHILDREN; i++) {
		char *text = groups_of(h->pids[i]);
		assert_string_equal(text, h->group[i]);
		free(text);
	}
	assert_int_equal(freezer_find(h->f, NULL), 0);
	freezer_close(h->f);
}

static void killed(void **state)
{
	struct hold *h = *state;
	if (!open_or_skip(h))
		skip();
	assert_int_equal(freezer_hold(h->f, h->pids, CHILDREN, TIMEOUT_MS, NULL), 0);
	unsigned long before = h->counters[0];
	assert_int_equal(freezer_kill(h->f, TIMEOUT_MS, NULL), 0);
	assert_int_equal(before, h->counters[0]);
	for (int i = 0; i < CHILDREN; i++) {
		int status;
		assert_int_equal(waitpid(h->pids[i], &status, 0), h->pids[i]);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
	assert_int_equal(freezer_find(h->f, NULL), 0);
	freezer_close(h->f);
}

/* The tracer that stopped them goes away: not one step more is made. */
static void tracer_dies(void **state)
{
	struct hold *h = *state;
	if (!open_or_skip(h))
		skip();
	pid_t tracer = fork();
	if (!tracer) {
		for (int i = 0; i < CHILDREN; i++) {
			if (ptrace(PTRACE_SEIZE, h->pids[i], 0, 0) < 0 ||
			    ptrace(PTRACE_INTERRUPT, h->pids[i], 0, 0) < 0 ||
			    waitpid(h->pids[i], NULL, __WALL) < 0)
				_exit(1);
			h->counters[CHILDREN + i] = h->counters[i];
		}
		if (freezer_hold(h->f, h->pids, CHILDREN, TIMEOUT_MS, NULL) < 0)
			_exit(2);
		kill(getpid(), SIGKILL);
	}
	int status;
	waitpid(tracer, &status, 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_false(moves(h));
	for (int i = 0; i < CHILDREN; i++)
		assert_int_equal(h->counters[i], h->counters[CHILDREN + i]);
	assert_int_equal(freezer_find(h->f, NULL), 1);
	assert_int_equal(freezer_is_frozen(h->f, NULL), 1);
	assert_int_equal(freezer_thaw(h->f, NULL), 0);
	assert_true(moves(h));
	freezer_close(h->f);
}

static void gone_task(void **state)
{
	struct hold *h = *state;
	if (!open_or_skip(h))
		skip();
	kill(h->pids[CHILDREN - 1], SIGKILL);
	waitpid(h->pids[CHILDREN - 1], NULL, 0);
	assert_true(freezer_hold(h->f, h->pids, CHILDREN, TIMEOUT_MS, NULL) < 0);
	/* The others run, where they were. */
	assert_true(moves(h));
	char *text = groups_of(h->pids[0]);
	assert_string_equal(text, h->group[0]);
	free(text);
	freezer_close(h->f);
}

static void any(void **state)
{
	struct hold *h = *state;
	assert_int_equal(freezer_open(FREEZER_ANY, name, NULL, &h->f, NULL), 0);
	assert_int_equal(freezer_try(h->f, h->pids[0], NULL), 0);
	freezer_close(h->f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(any, begin_v1, end),
		cmocka_unit_test_setup_teardown(thaw, begin_v1, end),
		cmocka_unit_test_setup_teardown(thaw, begin_v2, end),
		cmocka_unit_test_setup_teardown(killed, begin_v1, end),
		cmocka_unit_test_setup_teardown(killed, begin_v2, end),
		cmocka_unit_test_setup_teardown(tracer_dies, begin_v1, end),
		cmocka_unit_test_setup_teardown(tracer_dies, begin_v2, end),
		cmocka_unit_test_setup_teardown(gone_task, begin_v1, end),
		cmocka_unit_test_setup_teardown(gone_task, begin_v2, end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
