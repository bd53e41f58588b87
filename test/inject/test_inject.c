/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libferry-inject against targets that prove their own state: visits, refusals, faults, unusual processes,
 * and things that go wrong inside the target. test_inject TARGET [TEST...].
 */
#include "helpers.h"

#include <asm/ldt.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
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
static void visit_crowd(uint32_t flags, const char *how)
{
	const struct ferry_inject_options options = {.size = sizeof(options), .flags = flags};
	struct ferry_blob *blob;
	struct target t;
	char path[64], line[32];

	target_start(&t, "crowd");
	snprintf(path, sizeof(path), "ls /proc/%d/task", t.pid);
	FILE *list = popen(path, "r");
	static struct ferry_thread *threads[2000];
	int n = 0;
	fresh();
	while (n < 2000 && fgets(line, sizeof(line), list))
		MUST(ferry_thread_seize((pid_t)strtol(line, NULL, 10), &options, &threads[n++], &error));
	pclose(list);
	check(n > 1000, "%d threads", n);
	uint64_t start = clock_ns();
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_interrupt(threads[i], &error));
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_wait(threads[i], 5000, &error));
	uint64_t stopped = clock_ns();
	struct ferry_inject *inject = open_at(threads[0], &options);
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
	printf("%d threads, %s: stop %.1f ms, a blob in each %.1f ms, release %.1f ms\n", n, how,
	       (double)(stopped - start) / 1e6, (double)(visited - stopped) / 1e6,
	       (double)(end - visited) / 1e6);
	target_stop(&t);
}

static void test_crowd(void)
{
	visit_crowd(FERRY_INJECT_ALL_STOPPED, "a stop a run");
	visit_crowd(0, "by steps");
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

/* jmp . */
static const unsigned char endless[] = {0xeb, 0xfe};

/* Far return into a code segment, to a loop: the one that 32-bit programs have, or one of the process's own. */
static void run_in_segment(uint64_t selector)
{
	unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (code == MAP_FAILED)
		_exit(1);
	code[0] = endless[0];
	code[1] = endless[1];
	__asm__ volatile("pushq %1\n pushq %0\n lretq" : : "r"((uint64_t)code), "r"(selector));
}

static void run_32_bit(void)
{
	run_in_segment(0x23);
}

static void run_own_segment(void)
{
	struct user_desc own = {.entry_number = 0,
				.limit = 0xfffff,
				.seg_32bit = 1,
				.contents = 2,
				.limit_in_pages = 1,
				.useable = 1};

	if (syscall(SYS_modify_ldt, 0x11, &own, sizeof(own)))
		_exit(1);
	run_in_segment(7);
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

	pid_t own = spawn(run_own_segment);
	thread = seize_stopped(own, NULL, FERRY_STOP_EVENT);
	refused(ferry_inject_open(thread, NULL, &inject, &error), UNSUPPORTED_TASK);
	fresh();
	MUST(ferry_thread_release(thread, &error));
	reap(own);
}

/* 64-bit calls in a thread that executes 32-bit code, and it goes on there. */
static void test_32_bit_code(void)
{
	static const uint64_t none[6];
	struct ferry_thread *thread;
	struct ferry_inject *inject;
	struct ferry_regs before = FERRY_REGS_INIT, after = FERRY_REGS_INIT;
	int64_t result = 0;

	pid_t pid = spawn(run_32_bit);
	thread = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
	MUST(ferry_thread_get_regs(thread, &before, &error));
	check(before.user.cs == 0x23, "it executes code in segment %#llx", before.user.cs);
	MUST(ferry_inject_open(thread, NULL, &inject, &error));
	MUST(ferry_inject_call(inject, thread, SYS_getpid, none, &result, &error));
	check(result == pid, "getpid() is %lld, not %d", (long long)result, pid);
	MUST(ferry_inject_cure(inject, thread, &error));
	MUST(ferry_thread_get_regs(thread, &after, &error));
	check(!memcmp(&before.user, &after.user, sizeof(before.user)), "registers differ");
	/* Away, and nobody takes it back: through the pad it comes home. */
	MUST(ferry_inject_call(inject, thread, SYS_getpid, none, &result, &error));
	ferry_inject_close(inject);
	MUST(ferry_thread_release(thread, &error));
	usleep(20000);
	thread = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
	MUST(ferry_thread_get_regs(thread, &after, &error));
	check(after.user.cs == 0x23 && after.user.rip == before.user.rip && after.user.rsp == before.user.rsp,
	      "it is at %#llx:%#llx", after.user.cs, after.user.rip);
	MUST(ferry_thread_release(thread, &error));
	ferry_regs_release(&before);
	ferry_regs_release(&after);
	reap(pid);
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

static struct ferry_thread *thread_named(struct target *t, struct ferry_thread **threads, int n,
					 const char *name)
{
	for (int i = 0; i < n; i++)
		if (ferry_thread_tid(threads[i]) == target_thread(t, name)->tid)
			return threads[i];
	fail("no thread %s", name);
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
	/* One whose call is made again by ferry, and one whose call the kernel restarts. */
	struct ferry_thread *epoll = thread_named(&t, threads, n, "epoll_wait");
	struct ferry_thread *sleeper = thread_named(&t, threads, n, "nanosleep");
	MUST(ferry_inject_map(inject, epoll, 100000, &address, &error));
	check(call(inject, sleeper, SYS_gettid) == ferry_thread_tid(sleeper), "gettid");
	ferry_inject_close(inject);
	for (int i = 0; i < n; i++)
		MUST(ferry_thread_release(threads[i], &error));
	target_check(&t, "closed before released");
	target_stop(&t);
}

/* ------------------------------------------------------- exec, exit, registers */

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

static void *execute_aside(void *unused)
{
	execute();
	return unused;
}

static void execute_from_thread(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, execute_aside, NULL);
	for (;;)
		pause();
}

static size_t thread_ids(pid_t pid, pid_t *ret, size_t max)
{
	char path[64];
	struct dirent *entry;
	size_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	DIR *dir = opendir(path);
	while (dir && n < max && (entry = readdir(dir)))
		if (atoi(entry->d_name) > 0)
			ret[n++] = atoi(entry->d_name);
	if (dir)
		closedir(dir);
	return n;
}

/* The thread that executes takes the number of its process: its stop is told with another number than before. */
static void test_exec_from_thread(void)
{
	struct ferry_thread *threads[2];
	pid_t tids[2];

	pid_t pid = spawn(execute_from_thread);
	while (thread_ids(pid, tids, 2) < 2)
		sleep_us(1000);
	tids[1] += tids[0] - pid; /* in whatever order they came */
	tids[0] = pid;
	fresh();
	for (int i = 0; i < 2; i++)
		MUST(ferry_thread_seize(tids[i], NULL, &threads[i], &error));
	int stop = (int)MUST(ferry_thread_wait(threads[0], 5000, &error));
	check(stop == FERRY_STOP_EXEC, "stop %d, not exec", stop);
	check(ferry_thread_wait(threads[1], 1000, &error) == FERRY_STOP_EXITED,
	      "the old number is still there");
	for (int i = 0; i < 2; i++)
		MUST(ferry_thread_release(threads[i], &error));
	check_state(pid, 'S', "after exec");
	/* Nothing holds it: it can be seized once more. */
	MUST(ferry_thread_seize(pid, NULL, &threads[0], &error));
	MUST(ferry_thread_release(threads[0], &error));
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

	if (pipe2(fds, O_CLOEXEC) < 0 || dup2(fds[0], 70) < 0 || dup2(fds[1], 71) < 0)
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

	check(!pipe2(fds, O_CLOEXEC), "pipe");
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
	uint64_t end = clock_ns() + 10000000000u;
	char path[64], line[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	while (!*line && clock_ns() < end) {
		FILE *f = fopen(path, "re");
		if (f && !fgets(line, sizeof(line), f))
			*line = '\0';
		if (f)
			fclose(f);
		sleep_us(*line ? 0 : 500);
	}
	check(*line, "%s names no child", path);
	return (pid_t)strtol(line, NULL, 10);
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

/* Memory between a test and its child. */
static volatile int *flag;

static void *execute_later(void *unused)
{
	(void)unused;
	while (!*flag)
		sleep_us(500);
	execl("/bin/sleep", "sleep", "100", NULL);
	return NULL;
}

static void have_executor(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, execute_later, NULL);
	wait_for_ever();
}

static void flag_new(void)
{
	flag = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(flag != MAP_FAILED, "mmap");
}

/*
 * Another thread executes a program while this one is away: the new program gets none of the old registers.
 */
static void test_exec_elsewhere(void)
{
	uint64_t address;
	char word[32];

	flag_new();
	pid_t pid = spawn(have_executor);
	struct ferry_thread *thread = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, NULL);
	MUST(ferry_inject_map(inject, thread, 4096, &address, &error));
	*flag = 1;
	sleep_us(100000);
	refused(ferry_inject_call(inject, thread, SYS_getpid, NULL, NULL, &error), TARGET_CHANGED);
	fresh();
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	check_state(pid, 'S', "executed");
	status_word(pid, "Name:", word);
	check(!strcmp(word, "sleep"), "the program is %s", word);
	reap(pid);
}

static void fork_when_told(void)
{
	while (!*flag)
		sleep_us(500);
	if (!fork())
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	wait_for_ever();
}

/* What a dead tracer left is inherited by a child: it is nobody's there. */
static void test_forked_leftover(void)
{
	flag_new();
	pid_t pid = spawn(fork_when_told);
	pid_t tracer = fork();
	if (!tracer) {
		harness_disown();
		struct ferry_thread *thread = seize_stopped(pid, NULL, FERRY_STOP_EVENT);
		call(open_at(thread, NULL), thread, SYS_getpid);
		kill(getpid(), SIGKILL);
	}
	waitpid(tracer, NULL, 0);
	*flag = 1;
	sleep_us(50000);
	pid_t child = child_of(pid);
	struct ferry_thread *thread = seize_stopped(child, NULL, FERRY_STOP_EVENT);
	struct ferry_inject *inject = open_at(thread, NULL);
	uint64_t start = clock_ns();
	check(call(inject, thread, SYS_getpid) == child, "getpid");
	check(clock_ns() - start < 900000000, "the child's pad was thought to be in use");
	MUST(ferry_thread_release(thread, &error));
	ferry_inject_close(inject);
	check_state(child, 'S', "the child");
	kill(child, SIGKILL);
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
	char line[512], *dash;

	FILE *f = fopen("/proc/self/maps", "re");
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[vdso]"))
			from = strtoul(line, &dash, 16), to = strtoul(dash + 1, NULL, 16);
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

static const struct test tests[] = {
	{"visits", test_visits},
	{"text-padding", test_text_padding},
	{"crowd", test_crowd},
	{"seize-refusals", test_seize_refusals},
	{"32-bit-code", test_32_bit_code},
	{"faults", test_faults},
	{"refused-calls", test_refused_calls},
	{"three-away", test_three_away},
	{"close-first", test_close_first},
	{"exec", test_exec},
	{"exec-from-thread", test_exec_from_thread},
	{"exit", test_exit},
	{"registers", test_registers},
	{"bad-blobs", test_bad_blobs},
	{"blocking-call", test_blocking_call},
	{"get-fd", test_get_fd},
	{"seccomp", test_seccomp},
	{"shared-memory", test_shared_memory},
	{"user-dispatch", test_user_dispatch},
	{"moved-vdso", test_moved_vdso},
	{"exec-elsewhere", test_exec_elsewhere},
	{"forked-leftover", test_forked_leftover},
};

int main(int argc, char **argv)
{
	return run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
