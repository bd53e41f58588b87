/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX timers in unusual states, by the first argument: "waiting", a periodic one whose signal waits to be taken;
 * "waiting-thread", the same with a signal for one thread; "expired", one that fired once and whose signal waits;
 * "thread-clock", one on the processor time of the thread that it signals; "own-clock", one on the processor time of a thread
 * that is told nowhere; "other-clock", one on that of a named thread; "many", with gaps in their numbers;
 * "process-clock", on the processor time of the process.
 * Proof: one signal waits, not two, with value and code; the timer ticks on when it was taken; a clock runs only
 * while its thread works.
 */
#include "program.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MANY = 300, VALUE = 0x1234, LONG_S = 5000 };

static int number; /* of the timer under test */
static pid_t worker;
static volatile int work, ticks;

static int create(clockid_t clock, int notify, int signal_number, pid_t tid)
{
	struct {
		uint64_t value;
		int32_t signo, notify, tid;
		char rest[44];
	} event = {VALUE, signal_number, notify, tid, {0}};
	int id = -1;

	if (syscall(SYS_timer_create, clock, &event, &id) < 0)
		return -1;
	return id;
}

static void arm(int id, long first_ms, long interval_ms)
{
	const struct itimerspec value = {{interval_ms / 1000, interval_ms % 1000 * 1000000},
					 {first_ms / 1000, first_ms % 1000 * 1000000}};

	must(syscall(SYS_timer_settime, id, 0, &value, NULL));
}

static struct itimerspec left(int id)
{
	struct itimerspec now = {{0}, {0}};

	syscall(SYS_timer_gettime, id, &now);
	return now;
}

static void set_of(int signal_number, sigset_t *ret)
{
	sigemptyset(ret);
	sigaddset(ret, signal_number);
}

/* Take a signal that waits; its number, or -1 when none does. */
static int take(int signal_number, siginfo_t *ret)
{
	const struct timespec now = {0, 0};
	sigset_t set;

	set_of(signal_number, &set);
	return sigtimedwait(&set, ret, &now);
}

static void spoil(void *state)
{
	(void)state;
	syscall(SYS_timer_delete, number);
}

/* --------------------------------------------------------- a signal waits */

static int waiting_signal;

static void block(void)
{
	sigset_t set;

	waiting_signal = SIGRTMIN + 3;
	set_of(waiting_signal, &set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static bool waits(void)
{
	sigset_t set;

	sigpending(&set);
	return sigismember(&set, waiting_signal);
}

static void waiting_verify(struct program *p, void *state)
{
	(void)state;
	expect(p, waits(), "no signal waits");
	expect_same(p, "interval", left(number).it_interval.tv_nsec, 50000000);
}

static void waiting_finish(struct program *p, void *state)
{
	siginfo_t info = {.si_code = 0}, second;

	waiting_verify(p, state);
	expect_same(p, "the signal", take(waiting_signal, &info), waiting_signal);
	expect_same(p, "its code", info.si_code, SI_TIMER);
	expect_same(p, "its value", info.si_value.sival_int, VALUE);
	expect_same(p, "its timer", info.si_timerid, number);
	/* The timer waits for its signal to be taken, so there is one only; the next comes within an interval. */
	int more = 0;
	while (more < 3 && take(waiting_signal, &second) > 0)
		more++;
	expect(p, more <= 1, "%d more signals waited", more);
	sleep_ms(120);
	expect(p, waits(), "the timer ticks no more");
}

static void expired_verify(struct program *p, void *state)
{
	(void)state;
	expect(p, waits(), "no signal waits");
	expect_same(p, "what is left", left(number).it_value.tv_sec, 0);
}

static void expired_finish(struct program *p, void *state)
{
	siginfo_t info = {.si_code = 0};

	expired_verify(p, state);
	expect_same(p, "the signal", take(waiting_signal, &info), waiting_signal);
	expect_same(p, "its code", info.si_code, SI_TIMER);
	expect_same(p, "its value", info.si_value.sival_int, VALUE);
	expect(p, take(waiting_signal, &info) < 0, "there are two signals");
}

static void expired_spoil(void *state)
{
	siginfo_t info;

	(void)state;
	take(waiting_signal, &info);
}

static void waiting_run(struct program *p, const char *what)
{
	static const struct program_ops ops = {
		.verify = waiting_verify, .finish = waiting_finish, .spoil = spoil};
	static const struct program_ops expired_ops = {
		.verify = expired_verify, .finish = expired_finish, .spoil = expired_spoil};
	bool thread = !strcmp(what, "waiting-thread"), once = !strcmp(what, "expired");

	block();
	number = create(CLOCK_MONOTONIC, thread ? SIGEV_THREAD_ID : SIGEV_SIGNAL, waiting_signal,
			(pid_t)syscall(SYS_gettid));
	arm(number, 10, once ? 0 : 50);
	while (!waits())
		sleep_ms(5);
	program_serve(p, once ? &expired_ops : &ops, NULL);
}

/* -------------------------------------------------------- processor time */

static void on_tick(int signal_number)
{
	(void)signal_number;
	ticks++;
}

static void *work_main(void *argument)
{
	(void)argument;
	worker = (pid_t)syscall(SYS_gettid);
	number = create(CLOCK_THREAD_CPUTIME_ID, SIGEV_THREAD_ID, SIGRTMIN + 4, worker);
	arm(number, 20, 20);
	work = 1;
	for (;;) {
		for (int i = 0; work == 2 && i < 1000; i++)
			__asm__ volatile("" ::: "memory");
		if (work != 2)
			sleep_ms(2);
	}
	return NULL;
}

/* While the thread sleeps its clock stands still, whatever others do. */
static void clock_verify(struct program *p, void *state)
{
	(void)state;
	int before = ticks;
	for (volatile long i = 0; i < 30000000; i++)
		continue;
	expect(p, ticks - before <= 1, "%d ticks while the thread slept", ticks - before);
	work = 2;
	for (int i = 0; i < 1000 && ticks - before < 3; i++)
		sleep_ms(5);
	work = 1;
	expect(p, ticks - before >= 3, "%d ticks while the thread worked", ticks - before);
}

static void clock_run(struct program *p)
{
	static const struct program_ops ops = {.verify = clock_verify, .spoil = spoil};
	pthread_t thread;

	signal(SIGRTMIN + 4, on_tick);
	if (pthread_create(&thread, NULL, work_main, NULL) != 0)
		program_die("pthread_create");
	while (!work)
		sleep_ms(1);
	program_serve(p, &ops, NULL);
}

static void idle_verify(struct program *p, void *state)
{
	(void)state;
	struct itimerspec now = left(number);
	expect(p, now.it_value.tv_sec > LONG_S - 60 && now.it_value.tv_sec <= LONG_S, "%ld s are left",
	       (long)now.it_value.tv_sec);
}

static void *sleep_main(void *argument)
{
	(void)argument;
	worker = (pid_t)syscall(SYS_gettid);
	if (!work)
		number = create(CLOCK_THREAD_CPUTIME_ID, SIGEV_NONE, 0, 0);
	work = 1;
	for (;;)
		sleep_ms(1000);
	return NULL;
}

static void idle_run(struct program *p, const char *what)
{
	static const struct program_ops ops = {.verify = idle_verify, .spoil = spoil};
	pthread_t thread;
	clockid_t clock;

	work = strcmp(what, "own-clock") != 0;
	if (strcmp(what, "process-clock") != 0) {
		if (pthread_create(&thread, NULL, sleep_main, NULL) != 0)
			program_die("pthread_create");
		while (!worker || !work)
			sleep_ms(1);
	}
	if (!strcmp(what, "other-clock")) {
		pthread_getcpuclockid(thread, &clock);
		number = create(clock, SIGEV_NONE, 0, 0);
	} else if (!strcmp(what, "process-clock")) {
		number = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_NONE, 0, 0);
	}
	arm(number, LONG_S * 1000, 0);
	program_serve(p, &ops, NULL);
}

/* ------------------------------------------------------------ many */

static bool kept(int id)
{
	return id % 7 == 3 || id == MANY - 1;
}

static void many_verify(struct program *p, void *state)
{
	(void)state;
	for (int id = 0; id < MANY; id++) {
		struct itimerspec now = {{0}, {0}};
		bool there = syscall(SYS_timer_gettime, id, &now) == 0;
		expect(p, there == kept(id), "timer %d is %s", id, there ? "there" : "gone");
		if (there)
			expect_same(p, "interval", now.it_interval.tv_sec, 100 + id);
	}
}

static void many_run(struct program *p)
{
	static const struct program_ops ops = {.verify = many_verify, .spoil = spoil};

	for (int id = 0; id < MANY; id++)
		if (create(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0) != id)
			program_die("timer_create");
	for (int id = 0; id < MANY; id++) {
		if (kept(id))
			arm(id, LONG_S * 1000, (100 + id) * 1000L);
		else
			must(syscall(SYS_timer_delete, id));
	}
	number = 3;
	program_serve(p, &ops, NULL);
}

int main(int argc, char **argv)
{
	struct program p;

	program_start(&p, argc, argv);
	const char *what = argc > 2 ? argv[2] : "";
	if (!strncmp(what, "waiting", 7) || !strcmp(what, "expired"))
		waiting_run(&p, what);
	else if (!strcmp(what, "thread-clock"))
		clock_run(&p);
	else if (!strcmp(what, "many"))
		many_run(&p);
	else
		idle_run(&p, what);
	return 0;
}
