/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/macros.h"
#include "mem/idle.h"

enum { LONGEST_S = 60 };

/* A child that answers each byte with one, after it used a little processor time, and waits otherwise. */
struct child {
	pid_t pid;
	int ask, answer;
};

static void serve(int ask, int answer)
{
	char byte;
	while (read(ask, &byte, 1) == 1) {
		struct timespec at_first, now;
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at_first);
		do
			clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
		while (now.tv_sec == at_first.tv_sec && now.tv_nsec - at_first.tv_nsec < 10000);
		if (write(answer, &byte, 1) != 1)
			break;
	}
	_exit(0);
}

static struct child child_start(void)
{
	int ask[2], answer[2];
	struct child c;
	assert_int_equal(pipe(ask), 0);
	assert_int_equal(pipe(answer), 0);
	c.pid = fork();
	assert_true(c.pid >= 0);
	if (!c.pid) {
		close(ask[1]);
		close(answer[0]);
		serve(ask[0], answer[1]);
	}
	close(ask[0]);
	close(answer[1]);
	c.ask = ask[1];
	c.answer = answer[0];
	return c;
}

static void child_runs(const struct child *c)
{
	char byte = 'x';
	assert_int_equal(write(c->ask, &byte, 1), 1);
	assert_int_equal(read(c->answer, &byte, 1), 1);
}

static void child_end(const struct child *c)
{
	int status;
	close(c->ask);
	close(c->answer);
	assert_int_equal(kill(c->pid, SIGKILL), 0);
	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	assert_true(WIFSIGNALED(status) || !status); /* it may have ended by itself */
}

static void add(struct mem_idle *idle, pid_t pid)
{
	pid_t *slot = vec_push(&idle->pids);
	assert_non_null(slot);
	*slot = pid;
}

/* On a machine that is busy it may take its time. */
static void wait_until_idle(struct mem_idle *idle)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	time_t until = time(NULL) + LONGEST_S;
	while (!mem_idle(idle)) {
		assert_true(time(NULL) < until);
		nanosleep(&pause, NULL);
	}
}

static void test_who_runs(unused void **state)
{
	struct child a = child_start(), b = child_start();
	struct mem_idle idle = {0};
	add(&idle, a.pid);
	add(&idle, b.pid);
	assert_false(mem_idle(&idle)); /* nothing is known yet */
	wait_until_idle(&idle);
	child_runs(&b);
	assert_false(mem_idle(&idle));
	wait_until_idle(&idle);
	child_runs(&a);
	assert_false(mem_idle(&idle));
	wait_until_idle(&idle);
	child_end(&a);
	assert_false(mem_idle(&idle)); /* it cannot be told any more */
	child_end(&b);
	vec_release(&idle.pids);
}

static void test_many(unused void **state)
{
	const struct timespec while_they_wait = {.tv_nsec = 50000000};
	struct child c = child_start();
	struct mem_idle idle = {0};
	for (int i = 0; i < 1000; i++)
		add(&idle, c.pid);
	for (int i = 0; i < 3; i++) {
		assert_false(mem_idle(&idle));
		nanosleep(&while_they_wait, NULL);
	}
	child_end(&c);
	vec_release(&idle.pids);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_who_runs),
		cmocka_unit_test(test_many),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
