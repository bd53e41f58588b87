/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libferry-inject and everything that interrupts: stops by signals, group stops, signals that become due
 * while a thread is held, time limits, restartable sequences. test_signals TARGET [TEST...].
 */
#include "helpers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* --------------------------------------------------------------------- stops */

static void test_signal_stop(void)
{
	struct ferry_thread *thread;
	siginfo_t info;
	struct target t;

	target_start(&t, "flood");
	struct target_thread *flooded = target_thread(&t, "flooded");
	for (int round = 0; round < 40; round++) {
		fresh();
		MUST(ferry_thread_seize(flooded->tid, NULL, &thread, &error));
		int stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
		check(stop == FERRY_STOP_SIGNAL, "stop %d, not a signal", stop);
		int signal = ferry_thread_stop_signal(thread, &info);
		check(signal == SIGRTMIN + 3 && info.si_code == SI_QUEUE, "signal %d with code %d", signal,
		      info.si_code);
		check((uint64_t)info.si_value.sival_int == (t.shared->handled & 0x7fffffff),
		      "signal number %d is due, %llu were handled", info.si_value.sival_int,
		      (unsigned long long)t.shared->handled);
		if (round % 4 == 0) {
			MUST(ferry_thread_resume(thread, &error));
			MUST(ferry_thread_wait(thread, 5000, &error));
		} else if (round % 4 == 1) {
			struct ferry_inject *inject = open_at(thread, NULL);
			check(call(inject, thread, SYS_gettid) == flooded->tid, "gettid");
			MUST(ferry_inject_cure(inject, thread, &error));
			ferry_inject_close(inject);
		}
		MUST(ferry_thread_release(thread, &error));
	}
	t.shared->go = 1;
	for (int i = 0; i < 1000 && t.shared->sent != t.shared->handled; i++)
		sleep_us(2000);
	check(t.shared->sent == t.shared->handled, "%llu signals sent, %llu handled",
	      (unsigned long long)t.shared->sent, (unsigned long long)t.shared->handled);
	target_check(&t, "after signal stops");
	target_stop(&t);
}

/* The tracer dies with a signal in its hands; no signal may get lost. */
static void die_at_signal(struct target *t)
{
	struct ferry_thread *thread;

	fresh();
	MUST(ferry_thread_seize(target_thread(t, "flooded")->tid, NULL, &thread, &error));
	int stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
	check(stop == FERRY_STOP_SIGNAL, "stop %d, not a signal", stop);
	kill(getpid(), SIGKILL);
}

static void test_death_at_signal(void)
{
	struct target t;
	int status;

	target_start(&t, "flood");
	for (int i = 0; i < 40; i++) {
		pid_t pid = fork();
		if (!pid) {
			harness_disown();
			die_at_signal(&t);
		}
		waitpid(pid, &status, 0);
		check(WIFSIGNALED(status), "the tracer failed");
		target_check(&t, "the tracer died at a signal");
	}
	t.shared->go = 1;
	for (int i = 0; i < 1000 && t.shared->sent != t.shared->handled; i++)
		sleep_us(2000);
	check(t.shared->sent == t.shared->handled, "%llu signals sent, %llu handled",
	      (unsigned long long)t.shared->sent, (unsigned long long)t.shared->handled);
	target_stop(&t);
}

static void check_stopped(struct target *t, const char *when)
{
	uint64_t beats[TARGET_THREADS];

	for (int i = 0; i < t->n; i++)
		check_state(t->shared->thread[i].tid, 'T', when);
	for (int i = 0; i < t->n; i++)
		beats[i] = t->shared->thread[i].beat;
	sleep_us(60000);
	for (int i = 0; i < t->n; i++)
		check(beats[i] == t->shared->thread[i].beat, "%s: a stopped thread beats", when);
}

static void go_on(struct target *t, const char *when)
{
	kill(t->pid, SIGCONT);
	/* Mask 0 for any EINTR: that of SIGSTOP and SIGCONT themselves is the kernel's. */
	target_check_eintr(t, when, true);
}

/* Stopped before: visited, left alone or left to itself, it stays stopped and then goes on. */
static void test_group_stop(void)
{
	const struct scenario s = {.options = plain};
	struct ferry_thread *threads[TARGET_THREADS];
	struct target t;

	target_start(&t, "sleepers");
	kill(t.pid, SIGSTOP);
	check_stopped(&t, "SIGSTOP");
	int n = scenario_seize(&t, &s, threads);
	for (int i = 0; i < n; i++) {
		check(ferry_thread_stop(threads[i]) == FERRY_STOP_GROUP, "stop %d",
		      (int)ferry_thread_stop(threads[i]));
		check(ferry_thread_stop_signal(threads[i], NULL) == SIGSTOP, "not SIGSTOP");
		fresh();
		MUST(ferry_thread_release(threads[i], &error));
	}
	check_stopped(&t, "seized and released");
	check(!scenario_run_apart(&t, &s), "the visit failed");
	check_stopped(&t, "visited");
	go_on(&t, "SIGCONT after a visit");
	/* Stopped while threads are away, then released. */
	n = scenario_seize(&t, &s, threads);
	fresh();
	struct ferry_inject *inject = open_at(threads[0], NULL);
	check(call(inject, threads[0], SYS_gettid) == ferry_thread_tid(threads[0]), "gettid");
	kill(t.pid, SIGSTOP);
	check(call(inject, threads[0], SYS_gettid) == ferry_thread_tid(threads[0]), "gettid");
	check(call(inject, threads[1], SYS_gettid) == ferry_thread_tid(threads[1]), "gettid");
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	ferry_inject_close(inject);
	check_stopped(&t, "stopped while injected into");
	go_on(&t, "SIGCONT after SIGSTOP while injected into");
	/* Seized, stopped, resumed: a group stop lasts, SIGCONT ends it. */
	struct ferry_thread *thread = seize_stopped(t.shared->thread[0].tid, NULL, FERRY_STOP_EVENT);
	kill(t.pid, SIGSTOP);
	MUST(ferry_thread_resume(thread, &error));
	int stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
	if (stop == FERRY_STOP_SIGNAL) {
		MUST(ferry_thread_resume(thread, &error));
		stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
	}
	check(stop == FERRY_STOP_GROUP, "stop %d, not a group stop", stop);
	MUST(ferry_thread_resume(thread, &error));
	check(ferry_thread_wait(thread, 0, &error) == FERRY_STOP_NONE,
	      "a listening thread is reported as stopped");
	kill(t.pid, SIGCONT);
	stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
	check(stop == FERRY_STOP_EVENT || stop == FERRY_STOP_SIGNAL, "stop %d after SIGCONT", stop);
	MUST(ferry_thread_release(thread, &error));
	target_check_eintr(&t, "after listening", true);
	target_stop(&t);
}

/* The tracer dies while a stopped target is away. */
static void die_away(struct target *t)
{
	const struct scenario s = {.options = plain};
	struct ferry_thread *threads[TARGET_THREADS];
	uint64_t address;

	scenario_seize(t, &s, threads);
	fresh();
	struct ferry_inject *inject = open_at(threads[0], NULL);
	MUST(ferry_inject_map(inject, threads[0], 4096, &address, &error));
	call(inject, threads[1], SYS_gettid);
	kill(getpid(), SIGKILL);
}

static void test_death_at_group_stop(void)
{
	const struct scenario s = {.options = plain};
	struct target t;

	target_start(&t, "sleepers");
	for (int i = 0; i < 10; i++) {
		kill(t.pid, SIGSTOP);
		check_stopped(&t, "SIGSTOP");
		pid_t pid = fork();
		if (!pid) {
			harness_disown();
			die_away(&t);
		}
		waitpid(pid, NULL, 0);
		check_stopped(&t, "the tracer died");
		/* A new tracer finds threads in the pad, in a group stop. */
		if (i % 2)
			check(!scenario_run_apart(&t, &s), "the visit failed");
		check_stopped(&t, "the next visit");
		go_on(&t, "SIGCONT after a tracer's death");
	}
	target_stop(&t);
}

static void block_and_wait(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	wait_for_ever();
}

static void test_pending_signals(void)
{
	siginfo_t infos[8];
	uint64_t mask;

	pid_t pid = spawn(block_and_wait);
	for (int i = 0; i < 3; i++)
		sigqueue(pid, SIGRTMIN + 1, (union sigval){.sival_int = 40 + i});
	siginfo_t own = {.si_code = SI_QUEUE, .si_value.sival_int = 77};
	syscall(SYS_rt_tgsigqueueinfo, pid, pid, SIGUSR1, &own);
	struct ferry_thread *thread = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
	check(MUST(ferry_thread_peek_signals(thread, 1, 0, infos, 8, &error)) == 3, "not 3 shared signals");
	for (int i = 0; i < 3; i++)
		check(infos[i].si_signo == SIGRTMIN + 1 && infos[i].si_value.sival_int == 40 + i,
		      "shared signal %d", i);
	check(MUST(ferry_thread_peek_signals(thread, 1, 2, infos, 8, &error)) == 1,
	      "not 1 from the third on");
	check(MUST(ferry_thread_peek_signals(thread, 0, 0, infos, 8, &error)) == 1,
	      "not 1 signal of its own");
	check(infos[0].si_signo == SIGUSR1 && infos[0].si_value.sival_int == 77, "own signal");
	MUST(ferry_thread_get_sigmask(thread, &mask, &error));
	check(mask == (1ull << (SIGUSR1 - 1) | 1ull << SIGRTMIN), "mask %llx", (unsigned long long)mask);
	struct ferry_inject *inject = open_at(thread, NULL);
	call(inject, thread, SYS_getpid);
	MUST(ferry_thread_get_sigmask(thread, &mask, &error));
	check(mask == (1ull << (SIGUSR1 - 1) | 1ull << SIGRTMIN), "mask %llx while away",
	      (unsigned long long)mask);
	MUST(ferry_inject_cure(inject, thread, &error));
	check(MUST(ferry_thread_peek_signals(thread, 1, 0, infos, 8, &error)) == 3, "signals after the cure");
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	reap(pid);
}

/* ---------------------------------------------------------------------- time */

#define LONG_MS 3000u
#define LATE_MS 2000u

static void hold_all(struct target *t, long us)
{
	const struct scenario s = {.options = plain};
	struct ferry_thread *threads[TARGET_THREADS];

	int n = scenario_seize(t, &s, threads);
	fresh();
	struct ferry_inject *inject = open_at(threads[0], NULL);
	for (int i = 0; i < n; i++) {
		call(inject, threads[i], SYS_gettid);
		MUST(ferry_inject_cure(inject, threads[i], &error));
	}
	sleep_us(us);
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	ferry_inject_close(inject);
}

/*
 * One long sleep, held three times: it ends when it would have without, but for the calls that begin anew,
 * whose full time counts from the last hold. One that begins anew by mistake is late by more than the
 * machine can be.
 */
static void test_sleep_lengths(void)
{
	struct target t;
	int timed = 0;

	target_start(&t, "sleep-long");
	for (int i = 0; i < 3; i++) {
		sleep_us(LONG_MS / 4 * 1000);
		hold_all(&t, 60000);
	}
	uint64_t released = clock_ns() / 1000000, end = released + LONG_MS + 3 * LATE_MS;
	for (int i = 0; i < t.n; i++) {
		const struct target_thread *thread = &t.shared->thread[i];
		if (!thread->aux[2])
			continue;
		timed++;
		while (!thread->aux[3]) {
			check(clock_ns() / 1000000 < end, "%s never ends", thread->name);
			sleep_us(1000);
		}
		uint64_t due = thread->aux[2] + LONG_MS;
		if (thread->aux[1])
			due = released + LONG_MS;
		else if (due < released)
			due = released;
		check(thread->aux[0] + 1 >= LONG_MS, "%s ended after %llu ms", thread->name,
		      (unsigned long long)thread->aux[0]);
		check(thread->aux[3] <= due + LATE_MS, "%s ended %llu ms late", thread->name,
		      (unsigned long long)(thread->aux[3] - due));
	}
	check(timed == 14, "%d sleeps, not 14", timed);
	check(!t.shared->bad, "%s", t.shared->bad_text);
	for (int i = 0; i < t.n; i++)
		check(!t.shared->thread[i].eintr, "%s returned EINTR", t.shared->thread[i].name);
	target_stop(&t);
}

/*
 * A signal becomes due while its thread, in pause(), is held: the handler runs and pause() returns EINTR,
 * also when the tracer dies meanwhile. A pause() made again would sleep for ever.
 */
static void hold_alarmed(struct target *t, bool away, bool die)
{
	struct ferry_regs regs = FERRY_REGS_INIT;
	struct ferry_thread *thread;
	siginfo_t infos[4];

	for (;;) {
		thread = seize_stopped(t->pid, NULL, FERRY_STOP_EVENT);
		MUST(ferry_thread_get_regs(thread, &regs, &error));
		if (regs.user.orig_rax == SYS_pause && (long)regs.user.rax == -514 &&
		    !MUST(ferry_thread_peek_signals(thread, 1, 0, infos, 4, &error)))
			break;
		MUST(ferry_thread_release(thread, &error));
		sleep_us(1000);
	}
	ferry_regs_release(&regs);
	struct ferry_inject *inject = open_at(thread, NULL);
	if (away)
		call(inject, thread, SYS_gettid);
	while (!MUST(ferry_thread_peek_signals(thread, 1, 0, infos, 4, &error)))
		sleep_us(1000);
	if (die)
		kill(getpid(), SIGKILL);
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
}

static void test_due_signal(void)
{
	struct target t;

	target_start(&t, "alarmed");
	for (int i = 0; i < 16; i++) {
		pid_t pid = fork();
		if (!pid) {
			harness_disown();
			hold_alarmed(&t, i & 1, i & 2);
			_exit(0);
		}
		int status;
		waitpid(pid, &status, 0);
		check((i & 2) ? WIFSIGNALED(status) : !status, "the tracer ended with wait status %#x",
		      status);
		target_check(&t, i & 2 ? "alarm, tracer killed" : "alarm");
	}
	target_stop(&t);
}

/* ------------------------------------------------- a handler is due, by kind of call */

struct due {
	volatile int ready, handled, done;
	volatile long result; /* of the call, or -errno */
	volatile uint64_t mask;
	int pipe[2];
};

static struct due *due;

static void count_due(int signal)
{
	(void)signal;
	due->handled++;
}

static long in_pause(void)
{
	return syscall(SYS_pause);
}

static long in_epoll(void)
{
	struct epoll_event event;

	return syscall(SYS_epoll_wait, epoll_create1(EPOLL_CLOEXEC), &event, 1, -1);
}

static long in_poll(void)
{
	return poll(NULL, 0, 100000);
}

static long in_nanosleep(void)
{
	return nanosleep(&(struct timespec){.tv_sec = 100}, NULL);
}

static long in_read(void)
{
	char byte;

	return read(due->pipe[0], &byte, 1);
}

/* Blocked but for the time of the call: what is due is known to the kernel only inside. */
static long in_sigsuspend(void)
{
	uint64_t none = 0;

	return syscall(SYS_rt_sigsuspend, &none, sizeof(none));
}

static long in_ppoll(void)
{
	uint64_t none = 0;

	return syscall(SYS_ppoll, NULL, 0, NULL, &none, sizeof(none));
}

static long in_epoll_pwait(void)
{
	struct epoll_event event;
	uint64_t none = 0;

	return syscall(SYS_epoll_pwait, epoll_create1(EPOLL_CLOEXEC), &event, 1, -1, &none, sizeof(none));
}

static const struct due_case {
	const char *name;
	long (*call)(void);
	int flags;    /* of the handler */
	bool blocked; /* the signal is, outside of the call */
	bool goes_on; /* after the handler the call is made again */
} due_cases[] = {
	{"pause", in_pause, SA_RESTART, false, false},
	{"epoll_wait", in_epoll, SA_RESTART, false, false},
	{"poll", in_poll, SA_RESTART, false, false},
	{"nanosleep", in_nanosleep, SA_RESTART, false, false},
	{"read with SA_RESTART", in_read, SA_RESTART, false, true},
	{"read", in_read, 0, false, false},
	{"sigsuspend", in_sigsuspend, 0, true, false},
	{"ppoll", in_ppoll, SA_RESTART, true, false},
	{"epoll_pwait", in_epoll_pwait, 0, true, false},
};

static const struct due_case *due_now;

static void be_interrupted(void)
{
	struct sigaction action = {.sa_handler = count_due, .sa_flags = due_now->flags};
	sigset_t set;

	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	if (due_now->blocked)
		sigprocmask(SIG_BLOCK, &set, NULL);
	due->ready = 1;
	long r = due_now->call();
	due->result = r < 0 ? -errno : r;
	sigprocmask(SIG_BLOCK, NULL, &set);
	due->mask = (uint64_t)sigismember(&set, SIGUSR1);
	due->done = 1;
	wait_for_ever();
}

enum due_way { DUE_RELEASED, DUE_INJECTED, DUE_KILLED, DUE_WAYS };

static void hold_and_signal(pid_t pid, enum due_way way)
{
	struct ferry_thread *thread = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, NULL);

	if (way != DUE_RELEASED)
		call(inject, thread, SYS_gettid);
	kill(pid, SIGUSR1);
	if (way == DUE_KILLED)
		kill(getpid(), SIGKILL);
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
}

static void test_due_case(enum due_way way)
{
	*due = (struct due){0};
	check(!pipe2(due->pipe, O_CLOEXEC), "pipe");
	pid_t pid = spawn(be_interrupted);
	uint64_t end = clock_ns() + 6000000000u;
	while (!due->ready && clock_ns() < end)
		sleep_us(1000);
	sleep_us(15000);
	fflush(NULL);
	pid_t tracer = fork();
	if (!tracer) {
		harness_disown();
		hold_and_signal(pid, way);
		_exit(0);
	}
	int status;
	waitpid(tracer, &status, 0);
	check(way == DUE_KILLED ? WIFSIGNALED(status) : !status, "%s: the tracer failed", due_now->name);
	while (!due->handled && clock_ns() < end)
		sleep_us(500);
	check(due->handled == 1, "%s (way %d): %d signals handled", due_now->name, (int)way, due->handled);
	/* The pad does not know how the handler was installed, and restarts. */
	bool goes_on = due_now->goes_on || (due_now->call == in_read && way == DUE_KILLED);
	if (goes_on) {
		sleep_us(20000);
		check(!due->done, "%s (way %d): returned %ld", due_now->name, (int)way, due->result);
		check(write(due->pipe[1], "x", 1) == 1, "write");
	}
	while (!due->done && clock_ns() < end)
		sleep_us(500);
	check(due->done, "%s (way %d): does not return", due_now->name, (int)way);
	check(due->result == (goes_on ? 1 : -EINTR), "%s (way %d): returned %ld", due_now->name, (int)way,
	      due->result);
	check((int)due->mask == due_now->blocked, "%s (way %d): the signal mask changed", due_now->name,
	      (int)way);
	reap(pid);
	close(due->pipe[0]);
	close(due->pipe[1]);
}

static void test_due_by_call(void)
{
	due = mmap(NULL, sizeof(*due), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(due != MAP_FAILED, "mmap");
	for (size_t i = 0; i < sizeof(due_cases) / sizeof(due_cases[0]); i++) {
		due_now = &due_cases[i];
		for (int way = 0; way < DUE_WAYS; way++)
			test_due_case((enum due_way)way);
	}
}

/* A traced task is stopped even by signals that it ignores; no call may fail because of that. */
static void test_ignored_signal(void)
{
	static const struct due_case ignoring = {"epoll_wait", in_epoll, 0, false, true};
	struct ferry_thread *thread;

	due = mmap(NULL, sizeof(*due), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(due != MAP_FAILED, "mmap");
	due_now = &ignoring;
	pid_t pid = spawn(be_interrupted);
	fresh();
	MUST(ferry_thread_seize(pid, NULL, &thread, &error));
	for (int i = 0; i < 10; i++) {
		kill(pid, SIGWINCH);
		int stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
		check(stop == FERRY_STOP_SIGNAL && ferry_thread_stop_signal(thread, NULL) == SIGWINCH,
		      "stop %d", stop);
		if (i == 5) {
			struct ferry_inject *inject = open_at(thread, NULL);
			check(call(inject, thread, SYS_getpid) == pid, "getpid");
			MUST(ferry_inject_cure(inject, thread, &error));
			ferry_inject_close(inject);
		}
		MUST(ferry_thread_resume(thread, &error));
		sleep_us(5000);
		check(!due->done, "epoll_wait returned %ld after an ignored signal", due->result);
	}
	MUST(ferry_thread_release(thread, &error));
	sleep_us(20000);
	check(!due->done && !due->handled, "epoll_wait returned %ld", due->result);
	reap(pid);
}

static long in_epoll_limit(void)
{
	struct epoll_event event;

	return syscall(SYS_epoll_wait, epoll_create1(EPOLL_CLOEXEC), &event, 1, 100000);
}

/* Asked for, a call with a time limit returns EINTR after a stop; one without is made again all the same. */
static void test_timed_eintr(void)
{
	static const struct due_case cases[] = {{"epoll_wait", in_epoll, 0, false, true},
						{"epoll_wait with a limit", in_epoll_limit, 0, false, false}};
	const struct ferry_inject_options options = {.size = sizeof(options),
						     .flags = FERRY_INJECT_TIMED_EINTR};

	for (size_t i = 0; i < 2; i++) {
		due = mmap(NULL, sizeof(*due), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		check(due != MAP_FAILED, "mmap");
		due_now = &cases[i];
		pid_t pid = spawn(be_interrupted);
		struct ferry_thread *thread = seize_stopped(pid, &options, FERRY_STOP_EVENT);
		struct ferry_inject *inject = open_at(thread, NULL);
		check(call(inject, thread, SYS_getpid) == pid, "getpid");
		MUST(ferry_thread_release(thread, &error));
		ferry_inject_close(inject);
		sleep_us(60000);
		check(due->done == !cases[i].goes_on, "%s: done %d", cases[i].name, due->done);
		check(!due->done || due->result == -EINTR, "%s returned %ld", cases[i].name, due->result);
		reap(pid);
		munmap(due, sizeof(*due));
	}
}

/* Every stop is inside a restartable sequence; it must end in an abort, never in a commit. */
static void test_rseq(void)
{
	const struct scenario s = {.options = plain};
	struct target t;

	target_start(&t, "rseq");
	for (int i = 0; i < 60; i++) {
		struct target_thread *thread = target_thread(&t, i & 1 ? "rseq-1" : "rseq-main");
		uint64_t aborts = thread->aux[1], commits = thread->aux[2];
		pid_t pid = fork();
		if (!pid) {
			harness_disown();
			struct ferry_thread *seized = seize_stopped(thread->tid, &plain, FERRY_STOP_EVENT);
			struct ferry_inject *inject = open_at(seized, &plain);
			call(inject, seized, SYS_gettid);
			if (i & 2)
				kill(getpid(), SIGKILL);
			MUST(ferry_thread_release(seized, &error));
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		uint64_t end = clock_ns() + 5000000000u;
		while (thread->aux[1] == aborts) {
			check(clock_ns() < end, "a section went on after an injection%s",
			      i & 2 ? " (killed)" : "");
			sleep_us(100);
		}
		thread->aux[0] = 1;
		while (thread->aux[2] == commits) {
			check(clock_ns() < end, "a section does not commit any more");
			sleep_us(100);
		}
	}
	check(!scenario_run_apart(&t, &s), "the visit failed");
	target_stop(&t);
}

static const struct test tests[] = {
	{"signal-stop", test_signal_stop},
	{"death-at-signal", test_death_at_signal},
	{"group-stop", test_group_stop},
	{"death-at-group-stop", test_death_at_group_stop},
	{"pending-signals", test_pending_signals},
	{"sleep-lengths", test_sleep_lengths},
	{"due-signal", test_due_signal},
	{"due-by-call", test_due_by_call},
	{"ignored-signal", test_ignored_signal},
	{"timed-eintr", test_timed_eintr},
	{"rseq", test_rseq},
};

int main(int argc, char **argv)
{
	return run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
