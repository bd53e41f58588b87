/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libferry-inject against targets that prove their own state: visits, stops of all kinds, refusals, faults,
 * things that go wrong inside the target. test_inject TARGET [TEST...].
 */
#include "harness.h"
#include "scenario.h"

#include <errno.h>
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

static struct ferry_error error;

static struct ferry_error *fresh(void)
{
	error = (struct ferry_error)FERRY_ERROR_INIT;
	return &error;
}

#define MUST(call) must(call, &error)

/* The call fails with this identifier. */
#define refused(call, want)                                                                              \
	do {                                                                                             \
		fresh();                                                                                 \
		long result_ = (call);                                                                   \
		check(result_ < 0, "%s did not fail", #call);                                            \
		check(error.id == FERRY_ERROR_##want, "%s: error %d (%s), not %s", #call, (int)error.id, \
		      error.message, #want);                                                             \
		check(error.message[0], "%s: no message", #call);                                        \
	} while (0)

static const struct ferry_inject_options plain = FERRY_INJECT_OPTIONS_INIT;

/* A small child without a program of its own. */
static pid_t spawn(void (*function)(void))
{
	fflush(NULL);
	pid_t pid = fork();

	check(pid >= 0, "fork: %s", strerror(errno));
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		harness_disown();
		function();
		_exit(0);
	}
	sleep_us(20000);
	return pid;
}

static void reap(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void wait_for_ever(void)
{
	for (;;)
		pause();
}

static struct ferry_thread *seize_stopped(pid_t tid, const struct ferry_inject_options *options, int want)
{
	struct ferry_thread *thread;

	fresh();
	MUST(ferry_thread_seize(tid, options, &thread, &error));
	MUST(ferry_thread_interrupt(thread, &error));
	int stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
	check(stop == want, "stop %d, not %d", stop, want);
	return thread;
}

static struct ferry_inject *open_at(struct ferry_thread *thread, const struct ferry_inject_options *options)
{
	struct ferry_inject *inject;

	MUST(ferry_inject_open(thread, options, &inject, &error));
	return inject;
}

static int64_t call(struct ferry_inject *inject, struct ferry_thread *thread, long nr)
{
	int64_t r;

	MUST(ferry_inject_call(inject, thread, nr, NULL, &r, &error));
	return r;
}

/* ------------------------------------------------------------------- visits */

static void visit(const char *mode, const struct scenario *s)
{
	struct target t;

	target_start(&t, mode);
	for (int i = 0; i < 5; i++) {
		int status = scenario_run_apart(&t, s);
		check(!status, "%s: the visit ended with wait status %#x", mode, status);
		target_check(&t, "after a visit");
	}
	target_stop(&t);
}

static void test_visits(void)
{
	static const char *const names[] = {"compute",       "sleepers",          "rseq", "tcp", "flood",
					    "zombie-leader", "seccomp-kill-other"};
	const struct scenario s = {.options = plain};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		visit(names[i], &s);
}

static int no_vdso(void *context, const char *point)
{
	(void)context;
	return !strcmp(point, "inject-place");
}

/* The pad in the padding of a program: afterwards the text is as in its file. */
static void test_text_padding(void)
{
	struct scenario s = {.options = plain};

	s.options.fault = no_vdso;
	visit("compute", &s);
	visit("sleepers", &s);
}

/* All threads of a large process, one call and one blob each. */
static void test_crowd(void)
{
	struct ferry_blob *blob;
	struct target t;
	char path[64];

	target_start(&t, "crowd");
	snprintf(path, sizeof(path), "ls /proc/%d/task", t.pid);
	FILE *list = popen(path, "r");
	static struct ferry_thread *threads[2000];
	int tid, n = 0;
	fresh();
	while (fscanf(list, "%d", &tid) == 1 && n < 2000)
		MUST(ferry_thread_seize(tid, &plain, &threads[n++], &error));
	pclose(list);
	check(n > 1000, "%d threads", n);
	uint64_t start = clock_ns();
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_interrupt(threads[i], &error));
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_wait(threads[i], 5000, &error));
	uint64_t stopped = clock_ns();
	struct ferry_inject *inject = open_at(threads[0], &plain);
	MUST(ferry_inject_settle_all(inject, threads, (size_t)n, &error));
	MUST(ferry_inject_blob_load(inject, threads[0], test_blob, (size_t)(test_blob_end - test_blob), 128,
				    &blob, &error));
	uint64_t data[2] = {0, 0};
	MUST(ferry_inject_write(inject, ferry_inject_blob_data(blob), data, sizeof(data), &error));
	for (int i = 0; i < n; i++) {
		int64_t r;
		ferry_thread_set_seccomp(threads[i], 0);
		MUST(ferry_inject_blob_run(blob, threads[i], 0, &r, &error));
		check(r == ferry_thread_tid(threads[i]), "the blob returned %lld", (long long)r);
		if (i)
			MUST(ferry_inject_cure(inject, threads[i], &error));
	}
	uint64_t visited = clock_ns();
	MUST(ferry_inject_blob_unload(blob, &error));
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	ferry_inject_close(inject);
	uint64_t end = clock_ns();
	target_check(&t, "after a visit to all threads");
	printf("%d threads: stop %.1f ms, a blob in each %.1f ms, release %.1f ms\n", n,
	       (double)(stopped - start) / 1e6, (double)(visited - stopped) / 1e6,
	       (double)(end - visited) / 1e6);
	target_stop(&t);
}

/* ------------------------------------------------------------------- seizing */

static void be_traced(void)
{
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	wait_for_ever();
}

static void exit_now(void)
{
	_exit(3);
}

/* Far return into a code segment of 32 bits, to a loop. */
static void run_32_bit(void)
{
	unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (code == MAP_FAILED)
		_exit(1);
	memcpy(code, "\xeb\xfe", 2);
	__asm__ volatile("pushq $0x23\n pushq %0\n lretq" : : "r"((uint64_t)code));
}

static void test_seize_refusals(void)
{
	struct ferry_thread *thread, *other;
	struct ferry_inject *inject;
	char number[16];

	refused(ferry_thread_seize(0x3ffffff, NULL, &thread, &error), NO_SUCH_TASK);
	refused(ferry_thread_seize(-5, NULL, &thread, &error), NO_SUCH_TASK);
	refused(ferry_thread_seize(getpid(), NULL, &thread, &error), PERMISSION);

	pid_t zombie = spawn(exit_now);
	refused(ferry_thread_seize(zombie, NULL, &thread, &error), NO_SUCH_TASK);
	reap(zombie);

	pid_t traced = spawn(be_traced);
	refused(ferry_thread_seize(traced, NULL, &thread, &error), BUSY_TASK);
	snprintf(number, sizeof(number), "%d", getpid());
	check(strstr(error.message, number), "'%s' does not name the tracer", error.message);
	reap(traced);

	pid_t plain_child = spawn(wait_for_ever);
	thread = seize_stopped(plain_child, NULL, FERRY_STOP_EVENT);
	refused(ferry_thread_seize(plain_child, NULL, &other, &error), BUSY_TASK);
	fresh();
	MUST(ferry_thread_release(thread, &error));
	reap(plain_child);

	pid_t old = spawn(run_32_bit);
	thread = seize_stopped(old, NULL, FERRY_STOP_EVENT);
	refused(ferry_inject_open(thread, NULL, &inject, &error), UNSUPPORTED_TASK);
	fresh();
	MUST(ferry_thread_release(thread, &error));
	reap(old);
}

static int fault_named(void *context, const char *point)
{
	return !strcmp(context, point);
}

static void test_faults(void)
{
	struct ferry_inject_options options = {.size = sizeof(options), .fault = fault_named};
	struct ferry_thread *thread;
	struct ferry_blob *blob;
	struct target t;
	uint64_t address;
	char name[16] = "seize";

	options.context = name;
	target_start(&t, "compute");
	refused(ferry_thread_seize(t.pid, &options, &thread, &error), FAULT);
	strcpy(name, "nothing");
	thread = seize_stopped(t.pid, &options, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, &options);
	strcpy(name, "inject-call");
	refused(ferry_inject_call(inject, thread, SYS_getpid, NULL, NULL, &error), FAULT);
	strcpy(name, "inject-map");
	refused(ferry_inject_map(inject, thread, 4096, &address, &error), FAULT);
	refused(ferry_inject_blob_load(inject, thread, "x", 1, 1, &blob, &error), FAULT);
	strcpy(name, "nothing");
	fresh();
	check(call(inject, thread, SYS_getpid) == t.pid, "getpid after faults");
	strcpy(name, "inject-map");
	refused(ferry_inject_map(inject, thread, 4096, &address, &error), FAULT);
	fresh();
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	target_check(&t, "after faults");
	target_stop(&t);
}

/* -------------------------------------------------------------------- misuse */

static void test_refused_calls(void)
{
	static const long calls[] = {SYS_clone, SYS_fork,       SYS_vfork,       SYS_execve,
				     SYS_exit,  SYS_exit_group, SYS_rt_sigreturn};
	struct ferry_thread *thread;
	struct target t;
	uint64_t address;

	target_start(&t, "compute");
	fresh();
	MUST(ferry_thread_seize(t.pid, NULL, &thread, &error));
	struct ferry_inject *inject = NULL;
	refused(ferry_inject_open(thread, NULL, &inject, &error), INTERNAL);
	refused(ferry_thread_resume(thread, &error), INTERNAL);
	fresh();
	MUST(ferry_thread_interrupt(thread, &error));
	MUST(ferry_thread_wait(thread, 5000, &error));
	inject = open_at(thread, NULL);
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		refused(ferry_inject_call(inject, thread, calls[i], NULL, NULL, &error), INTERNAL);
	refused(ferry_inject_map(inject, thread, 0, &address, &error), INTERNAL);
	refused(ferry_inject_unmap(inject, thread, 0x1000, &error), INTERNAL);
	fresh();
	check(call(inject, thread, SYS_getpid) == t.pid, "getpid");
	check(ferry_inject_is_away(thread), "not away after a call");
	struct ferry_regs regs = FERRY_REGS_INIT;
	MUST(ferry_thread_get_regs(thread, &regs, &error));
	refused(ferry_thread_set_regs(thread, &regs, &error), INTERNAL);
	refused(ferry_thread_resume(thread, &error), INTERNAL);
	ferry_regs_release(&regs);
	fresh();
	MUST(ferry_inject_cure(inject, thread, &error));
	check(!ferry_inject_is_away(thread), "away after the cure");
	MUST(ferry_thread_resume(thread, &error));
	target_check_beats(&t, "resumed, still seized");
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	MUST(ferry_thread_release(NULL, &error));
	ferry_inject_close(NULL);
	MUST(ferry_inject_blob_unload(NULL, &error));
	target_check(&t, "after misuse");
	target_stop(&t);
}

/* Two threads can be away, not three; a place is free again after a cure. */
static void test_three_away(void)
{
	struct ferry_thread *threads[TARGET_THREADS];
	const struct scenario s = {.options = plain};
	struct target t;

	target_start(&t, "compute");
	int n = scenario_seize(&t, &s, threads);
	check(n == 3, "%d threads", n);
	fresh();
	struct ferry_inject *inject = open_at(threads[0], NULL);
	for (int i = 0; i < 2; i++)
		check(call(inject, threads[i], SYS_gettid) == ferry_thread_tid(threads[i]), "gettid");
	refused(ferry_inject_call(inject, threads[2], SYS_gettid, NULL, NULL, &error), INJECT);
	fresh();
	MUST(ferry_inject_cure(inject, threads[0], &error));
	check(call(inject, threads[2], SYS_gettid) == ferry_thread_tid(threads[2]), "gettid");
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	ferry_inject_close(inject);
	target_check(&t, "after three threads");
	target_stop(&t);
}

/* Closing before releasing is a mistake that heals: threads go home through the pad. */
static void test_close_first(void)
{
	struct ferry_thread *threads[TARGET_THREADS];
	const struct scenario s = {.options = plain};
	struct target t;
	uint64_t address;

	target_start(&t, "sleepers");
	int n = scenario_seize(&t, &s, threads);
	fresh();
	struct ferry_inject *inject = open_at(threads[0], NULL);
	MUST(ferry_inject_map(inject, threads[0], 100000, &address, &error));
	check(call(inject, threads[1], SYS_gettid) == ferry_thread_tid(threads[1]), "gettid");
	ferry_inject_close(inject);
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	target_check(&t, "closed before released");
	target_stop(&t);
}

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

static void check_state(pid_t tid, char want, const char *when)
{
	uint64_t end = clock_ns() + 5000000000u;
	char word[32];

	for (status_word(tid, "State:", word); *word != want; status_word(tid, "State:", word)) {
		check(clock_ns() < end, "%s: task %d is in state %s, not %c", when, tid, word, want);
		sleep_us(500);
	}
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

static void execute(void)
{
	sleep_us(100000);
	execl("/bin/sleep", "sleep", "100", NULL);
	_exit(1);
}

static void test_exec(void)
{
	struct ferry_thread *thread;
	struct ferry_inject *inject;

	pid_t pid = spawn(execute);
	fresh();
	MUST(ferry_thread_seize(pid, NULL, &thread, &error));
	int stop = (int)MUST(ferry_thread_wait(thread, 5000, &error));
	check(stop == FERRY_STOP_EXEC, "stop %d, not exec", stop);
	MUST(ferry_inject_open(thread, NULL, &inject, &error));
	refused(ferry_inject_call(inject, thread, SYS_getpid, NULL, NULL, &error), TARGET_CHANGED);
	fresh();
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	check_state(pid, 'S', "after exec");
	reap(pid);
}

static void test_exit(void)
{
	struct ferry_thread *thread;
	struct target t;
	int status;

	target_start(&t, "compute");
	thread = seize_stopped(t.pid, NULL, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, NULL);
	call(inject, thread, SYS_getpid);
	kill(t.pid, SIGKILL);
	refused(ferry_inject_call(inject, thread, SYS_getpid, NULL, NULL, &error), TARGET_CHANGED);
	fresh();
	check(ferry_thread_wait(thread, 1000, &error) == FERRY_STOP_EXITED, "not exited");
	check(WIFSIGNALED(ferry_thread_exit_status(thread)) &&
		      WTERMSIG(ferry_thread_exit_status(thread)) == SIGKILL,
	      "exit status %#x", ferry_thread_exit_status(thread));
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	check(waitpid(t.pid, &status, 0) == t.pid && WIFSIGNALED(status),
	      "the parent did not get its child's status");
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

static void test_registers(void)
{
	struct ferry_regs regs = FERRY_REGS_INIT, again = FERRY_REGS_INIT;
	struct target t;

	target_start(&t, "compute");
	for (int i = 0; i < 30; i++) {
		struct ferry_thread *thread =
			seize_stopped(target_thread(&t, "compute-1")->tid, NULL, FERRY_STOP_EVENT);
		MUST(ferry_thread_get_regs(thread, &regs, &error));
		/* Something else, then back: only what set_regs writes can make it right again. */
		struct ferry_regs other = regs;
		uint8_t *xstate = calloc(1, regs.xstate_bytes);
		memcpy(xstate + 512, regs.xstate + 512, 64);
		memcpy(xstate + 24, regs.xstate + 24, 8);
		other.xstate = xstate;
		other.user.rbx = 0x1234;
		MUST(ferry_thread_set_regs(thread, &other, &error));
		MUST(ferry_thread_get_regs(thread, &again, &error));
		check(again.user.rbx == 0x1234, "rbx is %llx", again.user.rbx);
		check(memcmp(again.xstate + 160, regs.xstate + 160, 256) != 0,
		      "vector registers did not change");
		MUST(ferry_thread_set_regs(thread, &regs, &error));
		MUST(ferry_thread_get_regs(thread, &again, &error));
		check(!memcmp(&again.user, &regs.user, sizeof(regs.user)),
		      "registers differ after they were set");
		check(again.xstate_bytes == regs.xstate_bytes &&
			      !memcmp(again.xstate + 160, regs.xstate + 160, 256),
		      "xstate differs after it was set");
		MUST(ferry_thread_release(thread, &error));
		free(xstate);
		sleep_us(300);
	}
	ferry_regs_release(&regs);
	ferry_regs_release(&again);
	target_check(&t, "after setting registers");
	target_stop(&t);
}

/* --------------------------------------------------------- what goes wrong inside */

static const unsigned char endless[] = {0xeb, 0xfe};
static const unsigned char faulting[] = {0x31, 0xc0, 0x48, 0x8b, 0x00, 0xc3};

static void test_bad_blobs(void)
{
	struct ferry_inject_options options = {.size = sizeof(options), .timeout_ms = 150};
	struct ferry_blob *blob;
	struct target t;
	char before[32], after[32];

	target_start(&t, "flood");
	t.shared->go = 1;
	sleep_us(20000);
	status_word(t.pid, "SigCgt:", before);
	struct ferry_thread *thread = seize_stopped(t.pid, &options, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, &options);
	MUST(ferry_inject_blob_load(inject, thread, endless, sizeof(endless), 8, &blob, &error));
	refused(ferry_inject_blob_run(blob, thread, 0, NULL, &error), TIMEOUT);
	refused(ferry_inject_blob_run(blob, thread, 100000, NULL, &error), INTERNAL);
	fresh();
	MUST(ferry_inject_cure(inject, thread, &error));
	refused(ferry_inject_blob_run(blob, thread, 0, NULL, &error), INTERNAL);
	fresh();
	MUST(ferry_inject_blob_unload(blob, &error));
	MUST(ferry_inject_blob_load(inject, thread, faulting, sizeof(faulting), 8, &blob, &error));
	refused(ferry_inject_blob_run(blob, thread, 0, NULL, &error), INJECT);
	fresh();
	check(call(inject, thread, SYS_gettid) == t.pid, "gettid after a fault");
	MUST(ferry_thread_release(thread, &error));
	MUST(ferry_inject_blob_unload(blob, &error));
	ferry_inject_close(inject);
	status_word(t.pid, "SigCgt:", after);
	check(!strcmp(before, after), "caught signals were %s, are %s", before, after);
	t.shared->go = 0;
	target_check(&t, "after bad blobs");
	target_stop(&t);
}

static void idle_with_pipe(void)
{
	int fds[2];

	if (pipe(fds) < 0 || dup2(fds[0], 70) < 0 || dup2(fds[1], 71) < 0)
		_exit(1);
	close(fds[0]);
	close(fds[1]);
	for (;;)
		poll(NULL, 0, 5);
}

/* A call that blocks: alive it times out; dead, the next tracer gets the thread out of it. */
static void block_and_die(pid_t pid, uint64_t stack)
{
	struct ferry_inject_options options = {.size = sizeof(options), .timeout_ms = 50};
	struct ferry_thread *thread = seize_stopped(pid, &options, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, &options);

	ferry_inject_call(inject, thread, SYS_read, (uint64_t[6]){70, stack, 1}, NULL, &error);
	kill(getpid(), SIGKILL);
}

static void test_blocking_call(void)
{
	struct ferry_inject_options options = {.size = sizeof(options), .timeout_ms = 100};
	struct ferry_inject_options patient = FERRY_INJECT_OPTIONS_INIT;
	uint64_t address;

	pid_t pid = spawn(idle_with_pipe);
	struct ferry_thread *thread = seize_stopped(pid, &options, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, &options);
	MUST(ferry_inject_map(inject, thread, 16, &address, &error));
	refused(ferry_inject_call(inject, thread, SYS_read, (uint64_t[6]){70, address, 1}, NULL, &error),
		TIMEOUT);
	fresh();
	check(call(inject, thread, SYS_getpid) == pid, "getpid after a time-out");
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	check_state(pid, 'S', "after a blocking call");

	pid_t tracer = fork();
	if (!tracer) {
		harness_disown();
		block_and_die(pid, address);
	}
	waitpid(tracer, NULL, 0);
	thread = seize_stopped(pid, &patient, FERRY_STOP_EVENT);
	inject = open_at(thread, &patient);
	MUST(ferry_inject_settle(inject, thread, &error));
	struct ferry_regs regs = FERRY_REGS_INIT;
	MUST(ferry_thread_get_regs(thread, &regs, &error));
	check(regs.user.orig_rax == SYS_poll || (long)regs.user.orig_rax < 0, "in system call %lld",
	      regs.user.orig_rax);
	ferry_regs_release(&regs);
	check(call(inject, thread, SYS_getpid) == pid, "getpid after a dead tracer's blocking call");
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	reap(pid);
}

static void test_get_fd(void)
{
	int fds[2];

	check(!pipe(fds), "pipe");
	pid_t pid = spawn(wait_for_ever);
	fresh();
	int copy = (int)MUST(ferry_inject_get_fd(pid, fds[1], &error));
	check(syscall(SYS_kcmp, pid, getpid(), 0, fds[1], copy) == 0, "the copy is not the same description");
	close(copy);
	refused(ferry_inject_get_fd(pid, 1023, &error), SYSTEM);
	check(error.code == EBADF, "code %d", error.code);
	refused(ferry_inject_get_fd(0x3ffffff, 0, &error), NO_SUCH_TASK);
	refused(ferry_inject_get_fd(-1, 0, &error), NO_SUCH_TASK);
	reap(pid);
	close(fds[0]);
	close(fds[1]);
}

/* ------------------------------------------------------------------- seccomp */

static void test_seccomp(void)
{
	struct ferry_inject_options options = {.size = sizeof(options), .flags = FERRY_INJECT_DEADLY_CALLS};
	struct scenario s = {.options = options};
	struct ferry_thread *threads[TARGET_THREADS];
	struct ferry_blob *blob;
	struct target t;
	uint64_t address;
	int64_t r;

	/* Filters that forbid what is used: with leave it works, without it is refused and does no harm. */
	s.no_blob = true;
	visit("seccomp-kill-munmap", &s);
	s.no_memory = true;
	visit("strict", &s);
	s.no_memory = s.no_blob = false;
	visit("seccomp-kill-mmap", &s);
	visit("seccomp-errno", &s);
	s.no_blob = true;
	visit("seccomp-kill-mask", &s);

	const struct scenario careful = {.options = plain};
	target_start(&t, "seccomp-kill-mmap");
	int n = scenario_seize(&t, &careful, threads);
	fresh();
	struct ferry_inject *inject = open_at(threads[0], NULL);
	refused(ferry_inject_map(inject, threads[0], 1, &address, &error), SECCOMP);
	check(error.hint[0], "no hint");
	fresh();
	check(call(inject, threads[0], SYS_gettid) == ferry_thread_tid(threads[0]), "gettid");
	refused(ferry_inject_call(inject, threads[0], SYS_userfaultfd, NULL, &r, &error), SECCOMP);
	fresh();
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	ferry_inject_close(inject);
	target_check(&t, "after refusals");
	target_stop(&t);

	/* A filter that answers with an errno harms nobody: no leave needed, and the call works. */
	target_start(&t, "seccomp-errno");
	n = scenario_seize(&t, &careful, threads);
	inject = open_at(threads[0], NULL);
	check(call(inject, threads[0], SYS_getpid) == t.pid, "getpid past a filter");
	MUST(ferry_inject_map(inject, threads[0], 1, &address, &error));
	MUST(ferry_inject_blob_load(inject, threads[0], test_blob, (size_t)(test_blob_end - test_blob), 16,
				    &blob, &error));
	MUST(ferry_inject_blob_run(blob, threads[0], 0, &r, &error));
	MUST(ferry_inject_blob_unload(blob, &error));
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	ferry_inject_close(inject);
	target_check(&t, "past an errno filter");
	target_stop(&t);

	target_start(&t, "strict");
	n = scenario_seize(&t, &careful, threads);
	inject = open_at(threads[0], NULL);
	refused(ferry_inject_call(inject, threads[0], SYS_gettid, NULL, NULL, &error), SECCOMP);
	fresh();
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	ferry_inject_close(inject);
	target_check(&t, "strict mode");
	target_stop(&t);
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

	return syscall(SYS_epoll_wait, epoll_create1(0), &event, 1, -1);
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

	return syscall(SYS_epoll_pwait, epoll_create1(0), &event, 1, -1, &none, sizeof(none));
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
	check(!pipe(due->pipe), "pipe");
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

/* ------------------------------------------------------------- unusual processes */

static char other_stack[65536] __attribute__((aligned(16)));

static int share_memory(void *argument)
{
	(void)argument;
	wait_for_ever();
	return 0;
}

static void have_twin(void)
{
	clone(share_memory, other_stack + sizeof(other_stack), CLONE_VM | SIGCHLD, NULL);
	wait_for_ever();
}

static pid_t child_of(pid_t pid)
{
	char path[64];
	int child = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	FILE *f = fopen(path, "re");
	check(f && fscanf(f, "%d", &child) == 1, "%s names no child", path);
	fclose(f);
	return child;
}

/*
 * Two processes that share their memory, each with a handle of its own: they keep out of each other's pads.
 */
static void test_shared_memory(void)
{
	pid_t pid = spawn(have_twin), twin = child_of(pid);
	struct ferry_thread *a = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
	struct ferry_thread *b = seize_stopped(twin, NULL, FERRY_STOP_EVENT);
	struct ferry_inject *in_a = open_at(a, NULL), *in_b = open_at(b, NULL);

	check(call(in_a, a, SYS_getpid) == pid, "getpid");
	check(call(in_b, b, SYS_getpid) == twin, "getpid of the twin");
	check(call(in_a, a, SYS_getpid) == pid, "getpid");
	MUST(ferry_inject_cure(in_a, a, &error));
	check(call(in_b, b, SYS_getpid) == twin, "getpid of the twin");
	check(call(in_a, a, SYS_getpid) == pid, "getpid");
	MUST(ferry_thread_release(b, &error));
	MUST(ferry_thread_release(a, &error));
	ferry_inject_close(in_a);
	ferry_inject_close(in_b);
	check_state(pid, 'S', "one");
	check_state(twin, 'S', "its twin");
	kill(twin, SIGKILL);
	reap(pid);
}

static volatile unsigned char *dispatch_selector;

static void dispatch_calls(void)
{
	static volatile unsigned char allow;

	dispatch_selector[1] = prctl(59, 1, 0, 0, &allow) == 0;
	/* Blocks in code that makes no call. */
	for (;;)
		allow = dispatch_selector[0];
}

static void test_user_dispatch(void)
{
	dispatch_selector = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid = spawn(dispatch_calls);
	if (!dispatch_selector[1]) {
		printf("user-dispatch: not in this kernel\n");
		reap(pid);
		return;
	}
	struct ferry_thread *thread = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, NULL);
	check(call(inject, thread, SYS_getpid) == pid, "getpid while calls are allowed");
	MUST(ferry_inject_cure(inject, thread, &error));
	MUST(ferry_thread_resume(thread, &error));
	dispatch_selector[0] = 1;
	sleep_us(20000);
	MUST(ferry_thread_interrupt(thread, &error));
	MUST(ferry_thread_wait(thread, 5000, &error));
	refused(ferry_inject_call(inject, thread, SYS_getpid, NULL, NULL, &error), UNSUPPORTED_TASK);
	fresh();
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	check_state(pid, 'R', "dispatching");
	reap(pid);
}

static void move_vdso(void)
{
	uint64_t from = 0, to = 0;
	char line[512];

	FILE *f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[vdso]"))
			sscanf(line, "%lx-%lx", &from, &to);
	if (f)
		fclose(f);
	void *elsewhere = mmap(NULL, to - from, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mremap((void *)from, to - from, to - from, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere);
	/* In its old place something that looks like it, and cannot be executed. */
	void *copy = mmap((void *)from, to - from, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	memcpy(copy, elsewhere, to - from);
	wait_for_ever();
}

static void test_moved_vdso(void)
{
	pid_t pid = spawn(move_vdso);
	struct ferry_thread *thread = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, NULL);

	check(call(inject, thread, SYS_getpid) == pid, "getpid without a vdso");
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	check_state(pid, 'S', "without a vdso");
	reap(pid);
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

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{"visits", test_visits},
	{"text-padding", test_text_padding},
	{"crowd", test_crowd},
	{"seize-refusals", test_seize_refusals},
	{"faults", test_faults},
	{"refused-calls", test_refused_calls},
	{"three-away", test_three_away},
	{"close-first", test_close_first},
	{"signal-stop", test_signal_stop},
	{"death-at-signal", test_death_at_signal},
	{"group-stop", test_group_stop},
	{"death-at-group-stop", test_death_at_group_stop},
	{"exec", test_exec},
	{"exit", test_exit},
	{"pending-signals", test_pending_signals},
	{"registers", test_registers},
	{"bad-blobs", test_bad_blobs},
	{"blocking-call", test_blocking_call},
	{"get-fd", test_get_fd},
	{"seccomp", test_seccomp},
	{"sleep-lengths", test_sleep_lengths},
	{"due-signal", test_due_signal},
	{"due-by-call", test_due_by_call},
	{"ignored-signal", test_ignored_signal},
	{"shared-memory", test_shared_memory},
	{"user-dispatch", test_user_dispatch},
	{"moved-vdso", test_moved_vdso},
	{"rseq", test_rseq},
};

int main(int argc, char **argv)
{
	harness_init(argv[1]);
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		bool wanted = argc < 3;
		for (int j = 2; j < argc; j++)
			wanted = wanted || !strcmp(argv[j], tests[i].name);
		if (!wanted)
			continue;
		uint64_t start = clock_ns();
		tests[i].run();
		printf("%s: ok (%.1f s)\n", tests[i].name, (double)(clock_ns() - start) / 1e9);
		fflush(stdout);
	}
	return 0;
}
