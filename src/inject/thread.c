/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the life of one seized thread: attach, stop, look, resume, detach. Kernel interface: ptrace(2) with
 * PTRACE_SEIZE (Linux 3.4), waitid(2).
 *
 * Stops are looked at with WNOWAIT and never consumed: when the tracer dies, a signal whose stop was
 * consumed is lost, one that was only looked at is delivered. Of a thread that is gone the stop is
 * consumed, so that its parent hears of it. So is the stop after an exec, which carries no signal: until then
 * the kernel refuses everything, the detaching included, where the number that the task had before the exec is
 * not the one that we know (another thread of it had called exec, or it was seized within the exec, when the
 * number was taken for its parent's PID namespace).
 *
 * Waiting polls: a blocking wait with a time limit needs a signal, and all signals of the caller may be
 * blocked. Yielding between looks also costs a third of what sleeping in waitid(2) does, since the two
 * sides then share a CPU.
 *
 * Not handled: tasks that are traced by someone else, and vfork parents, which do not stop before their
 * child execs.
 */
#include <ferry/inject.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "inject/internal.h"
#include "inject/remote.h"

/*
 * Looks with a yield between them, before the polls begin to sleep: about as long as a stop takes to arrive from another processor,
 * which is less than a timer costs.
 */
#define YIELDS 400
#define SLEEP_MIN_NS 5000
#define SLEEP_MAX_NS 1000000

int inject_options_copy(struct ferry_inject_options *ret, const struct ferry_inject_options *opts,
			struct ferry_error *err)
{
	*ret = (struct ferry_inject_options){.size = sizeof(*ret)};
	if (!opts)
		return 0;
	if (opts->size < offsetof(struct ferry_inject_options, context))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
				 "options of libferry-inject have no size");
	memcpy(ret, opts, MIN(opts->size, sizeof(*ret)));
	ret->size = sizeof(*ret);
	return 0;
}

void inject_effect(const struct ferry_inject_options *opts, const char *what)
{
	if (opts->on_effect)
		opts->on_effect(opts->context, what);
}

int inject_fault(const struct ferry_inject_options *opts, const char *point, struct ferry_error *err)
{
	if (!opts->fault || !opts->fault(opts->context, point))
		return 0;
	return error_set(err, FERRY_ERROR_FAULT, EIO, "fault '%s', as asked for", point);
}

long thread_ptrace(const struct ferry_thread *t, int request, uintptr_t address, uintptr_t data)
{
	if (t->remote)
		return remote_ptrace(t->remote, request, address, data);
	long r = ptrace((enum __ptrace_request)request, t->tid, address, data);

	return r < 0 ? -errno : r;
}

int thread_peek(const struct ferry_thread *t, uint64_t address, uint64_t *words, size_t n)
{
	if (t->remote)
		return remote_peek(t->tid, address, words, n);
	for (size_t i = 0; i < n; i++) {
		errno = 0;
		long word = ptrace(PTRACE_PEEKDATA, t->tid, address + 8 * i, 0);
		if (word == -1 && errno)
			return -errno;
		words[i] = (uint64_t)word;
	}
	return 0;
}

int thread_status_number(pid_t tid, const char *key, int base, uint64_t *ret)
{
	char text[4096];
	_cleanup_close_ int fd = fd_openf(O_RDONLY, "/proc/%d/status", tid);
	if (fd < 0)
		return fd;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	const char *line = text;
	size_t key_n = strlen(key);
	while (strncmp(line, key, key_n) != 0) {
		line = strchr(line, '\n');
		if (!line)
			return -ENODATA;
		line++;
	}
	line += key_n;
	while (isblank((unsigned char)*line))
		line++;
	*ret = base ? strtoull(line, NULL, base) : (uint64_t)(unsigned char)*line;
	return 0;
}

/* ------------------------------------------------------------------- seize */

/* PTRACE_SEIZE was refused: say why. */
static int seize_refused(pid_t tid, int code, struct ferry_error *err)
{
	uint64_t tracer = 0, state = 0;

	if (code == ESRCH)
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "there is no task %d", tid);
	if (thread_status_number(tid, "State:", 0, &state) < 0)
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "task %d is gone", tid);
	if (state == 'Z' || state == 'X')
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "task %d has exited (zombie)", tid);
	if (!thread_status_number(tid, "TracerPid:", 10, &tracer) && tracer) {
		error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY, "task %d is traced by task %d already", tid,
			  (int)tracer);
		error_hint(err, "end the debugger or tracer with PID %d, or let it detach", (int)tracer);
		return -EBUSY;
	}
	error_errno(err, FERRY_ERROR_PERMISSION, code, "task %d cannot be traced", tid);
	error_hint(
		err,
		"run as root or as the owner of the task; kernel threads, the caller's own threads, and what "
		"kernel.yama.ptrace_scope or a security module forbids cannot be traced");
	return -code;
}

int ferry_thread_seize(pid_t tid, const struct ferry_inject_options *opts, struct ferry_thread **ret_thread,
		       struct ferry_error *err)
{
	struct ferry_inject_options copy;

	int r = inject_options_copy(&copy, opts, err);
	if (r >= 0)
		r = inject_fault(&copy, "seize", err);
	if (r < 0)
		return r;
	if (tid <= 0)
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "there is no task %d", tid);
	struct ferry_thread *t = calloc(1, sizeof(*t));
	if (!t)
		return error_memory(err);
	*t = (struct ferry_thread){.tid = tid, .opts = copy, .slot = -1, .seccomp_mode = -1};
	inject_effect(&t->opts, "seize");
	r = (int)thread_ptrace(t, PTRACE_SEIZE, 0, INJECT_PTRACE_OPTIONS);
	if (r < 0) {
		free(t);
		return seize_refused(tid, -r, err);
	}
	*ret_thread = t;
	return 0;
}

/* -------------------------------------------------------------------- waits */

/*
 * The thread is gone. Consuming that tells its parent; but when its parent is this very process, consuming
 * would take the exit status away from it.
 */
static void thread_reap(struct ferry_thread *t)
{
	uint64_t parent = 0, tgid = 0;
	siginfo_t info;

	if (!thread_status_number(t->tid, "PPid:", 10, &parent) &&
	    !thread_status_number(t->tid, "Tgid:", 10, &tgid) && (pid_t)parent == getpid() &&
	    (pid_t)tgid == t->tid)
		return;
	waitid(P_PID, (id_t)t->tid, &info, WEXITED | WNOHANG | __WALL);
}

static int thread_gone(struct ferry_thread *t, int status)
{
	t->stop = FERRY_STOP_EXITED;
	t->exit_status = status;
	return -ESRCH;
}

/* One look: 1 = stopped with *ret_code, 0 = runs, -ESRCH = gone. */
static int thread_look(struct ferry_thread *t, int *ret_code)
{
	siginfo_t info = {.si_pid = 0};

	if (waitid(P_PID, (id_t)t->tid, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0)
		return errno == EINTR ? 0 : thread_gone(t, 0);
	if (!info.si_pid)
		return 0;
	if (info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED) {
		t->trap_pending = false;
		*ret_code = info.si_status;
		return 1;
	}
	thread_reap(t);
	return thread_gone(t, info.si_code == CLD_EXITED
				      ? (info.si_status & 0xff) << 8
				      : info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0));
}

void thread_take_exec(const struct ferry_thread *t, int code)
{
	siginfo_t info;

	if (code >> 8 == PTRACE_EVENT_EXEC)
		waitid(P_PID, (id_t)t->tid, &info, WSTOPPED | WNOHANG | __WALL);
}

int thread_await(struct ferry_thread *t, int timeout_ms, int *ret_code, struct ferry_error *err)
{
	struct timespec pause = {.tv_nsec = SLEEP_MIN_NS};
	uint64_t end = 0;

	for (int i = 0;; i++) {
		int r = thread_look(t, ret_code);
		if (r == -ESRCH)
			return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESRCH, "task %d has exited",
					 t->tid);
		if (r > 0)
			return 0;
		if (i < YIELDS) {
			sched_yield();
			continue;
		}
		uint64_t now = time_now_ns();
		if (!end)
			end = now + (uint64_t)MAX(timeout_ms, 0) * 1000000;
		if (timeout_ms >= 0 && now >= end)
			return error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT,
					 "task %d did not stop within %d ms", t->tid, timeout_ms);
		nanosleep(&pause, NULL);
		pause.tv_nsec = MIN(pause.tv_nsec * 2, SLEEP_MAX_NS);
	}
}

/* What the status of a stop means to a caller. */
static int thread_name_stop(struct ferry_thread *t, int code)
{
	int signal = code & 0x7f, event = code >> 8;

	t->signal = 0;
	t->stepped = false;
	thread_take_exec(t, code);
	if (event == PTRACE_EVENT_EXEC)
		return t->stop = FERRY_STOP_EXEC;
	if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
		t->signal = signal;
		return t->stop = FERRY_STOP_GROUP;
	}
	if (event)
		return t->stop = FERRY_STOP_EVENT;
	if (code & 0x80)
		return t->stop = FERRY_STOP_SYSCALL;
	t->signal = signal;
	if (thread_ptrace(t, PTRACE_GETSIGINFO, 0, (uintptr_t)&t->signal_info) < 0)
		t->signal_info = (siginfo_t){.si_signo = signal};
	return t->stop = FERRY_STOP_SIGNAL;
}

static int thread_classify(struct ferry_thread *t, int code, struct ferry_error *err)
{
	int stop = thread_name_stop(t, code);

	if (stop == FERRY_STOP_EXEC && t->home)
		inject_forget(t->home, t);
	if (t->home || (stop != FERRY_STOP_EVENT && stop != FERRY_STOP_GROUP && stop != FERRY_STOP_SIGNAL))
		return stop;
	/* Nothing is known of a thread in 32-bit code, and nothing needs to be. */
	int r = regs_mend(t, NULL);
	if (r < 0 && r != -EOPNOTSUPP && t->stop != FERRY_STOP_EXITED)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "looking at the system call of task %d",
				   t->tid);
	return (int)t->stop;
}

int ferry_thread_wait(struct ferry_thread *t, int timeout_ms, struct ferry_error *err)
{
	int code = 0;

	if (t->stop != FERRY_STOP_NONE)
		return (int)t->stop;
	int r = timeout_ms ? thread_await(t, timeout_ms, &code, NULL) : thread_look(t, &code);
	if (r == -ESRCH)
		return (int)t->stop;
	if (r < 0) {
		uint64_t state = '?';
		if (thread_status_number(t->tid, "State:", 0, &state) < 0)
			state = '?';
		error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT, "task %d did not stop within %d ms (state %c)",
			  t->tid, timeout_ms, (int)state);
		if (state == 'D')
			error_hint(err,
				   "it waits for a device, a file system or a vfork child; try again later");
		return r;
	}
	if (!timeout_ms && !r)
		return FERRY_STOP_NONE;
	return thread_classify(t, code, err);
}

int thread_check_stopped(const struct ferry_thread *t, const char *what, struct ferry_error *err)
{
	if (t->stop == FERRY_STOP_EXITED)
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESRCH, "%s: task %d has exited", what,
				 t->tid);
	if (t->stop == FERRY_STOP_NONE)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY, "%s: task %d is not stopped", what,
				 t->tid);
	return 0;
}

int thread_failed(struct ferry_thread *t, long r, const char *what, struct ferry_error *err)
{
	uint64_t tracer = 0;
	int code = 0;

	if (r != -ESRCH)
		return error_errno(err, FERRY_ERROR_SYSTEM, (int)-r, "%s of task %d", what, t->tid);
	/* Another thread of its process executed a program and has its number now. */
	if (!thread_status_number(t->tid, "TracerPid:", 10, &tracer) && (pid_t)tracer != gettid()) {
		thread_gone(t, 0);
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESRCH,
				 "task %d was replaced by another program", t->tid);
	}
	/* A killed tracee leaves its stop for good; the zombie shows up a moment later. */
	if (thread_await(t, 1000, &code, NULL) == -ESRCH)
		return error_set(err, FERRY_ERROR_TARGET_CHANGED, ESRCH, "task %d has exited", t->tid);
	return error_set(err, FERRY_ERROR_INTERNAL, ESRCH, "%s: task %d is not stopped", what, t->tid);
}

/* ------------------------------------------------------------ stop, look, go */

int ferry_thread_interrupt(struct ferry_thread *t, struct ferry_error *err)
{
	int code;

	if (t->stop != FERRY_STOP_NONE || t->trap_pending)
		return t->stop == FERRY_STOP_EXITED ? thread_check_stopped(t, "interrupt", err) : 0;
	/* An interrupt that comes after the stop outlasts it and would stop the thread once more. */
	if (thread_look(t, &code) == 1)
		return 0;
	if (t->stop == FERRY_STOP_EXITED)
		return thread_check_stopped(t, "interrupt", err);
	inject_effect(&t->opts, "interrupt");
	long r = thread_ptrace(t, PTRACE_INTERRUPT, 0, 0);
	if (r < 0)
		return error_errno(err, r == -ESRCH ? FERRY_ERROR_TARGET_CHANGED : FERRY_ERROR_SYSTEM,
				   (int)-r, "interrupting task %d", t->tid);
	t->trap_pending = true;
	t->listening = false;
	return 0;
}

enum ferry_stop ferry_thread_stop(const struct ferry_thread *t)
{
	return t->stop;
}

int ferry_thread_stop_signal(const struct ferry_thread *t, siginfo_t *ret_info)
{
	if (t->stop != FERRY_STOP_SIGNAL && t->stop != FERRY_STOP_GROUP)
		return 0;
	if (ret_info && t->stop == FERRY_STOP_SIGNAL)
		*ret_info = t->signal_info;
	return t->signal;
}

int ferry_thread_exit_status(const struct ferry_thread *t)
{
	return t->exit_status;
}

pid_t ferry_thread_tid(const struct ferry_thread *t)
{
	return t->tid;
}

void ferry_thread_set_seccomp(struct ferry_thread *t, int mode)
{
	t->seccomp_mode = mode;
}

/* Continue with a signal (or 0) and forget the stop. */
static int thread_continue(struct ferry_thread *t, int request, int signal, struct ferry_error *err)
{
	inject_effect(&t->opts, "continue");
	long r = thread_ptrace(t, request, 0, (uintptr_t)signal);
	if (r < 0)
		return thread_failed(t, r, "continuing", err);
	t->stepped = false;
	return 0;
}

/*
 * A cured thread may stand in a system-call stop: a trap that was sent for the sake of system call restart
 * is still to be taken, and only from an event stop can a group stop go on.
 */
static int thread_take_trap(struct ferry_thread *t, struct ferry_error *err)
{
	int code = 0;
	long r = 0;

	if (!t->trap_pending && !(t->stepped && t->stop == FERRY_STOP_GROUP))
		return 0;
	if (!t->trap_pending) {
		inject_effect(&t->opts, "interrupt");
		r = thread_ptrace(t, PTRACE_INTERRUPT, 0, 0);
		if (r < 0)
			return thread_failed(t, r, "interrupting", err);
		t->trap_pending = true;
	}
	r = thread_continue(t, PTRACE_CONT, 0, err);
	if (r < 0)
		return (int)r;
	r = thread_await(t, inject_timeout(&t->opts), &code, err);
	if (r < 0)
		return (int)r;
	bool mended = t->mended;
	r = thread_classify(t, code, err);
	/* It still stands before the call. */
	t->mended = mended;
	return (int)MIN(r, 0);
}

int ferry_thread_resume(struct ferry_thread *t, struct ferry_error *err)
{
	int r = thread_check_stopped(t, "resume", err);

	if (r < 0)
		return r;
	if (t->home)
		return error_set(err, FERRY_ERROR_INTERNAL, EBUSY,
				 "task %d must be cured before it is resumed", t->tid);
	r = thread_take_trap(t, err);
	if (r >= 0)
		r = regs_unmend(t, err);
	if (r < 0)
		return r;
	bool group = t->stop == FERRY_STOP_GROUP;
	r = thread_continue(t, group ? PTRACE_LISTEN : PTRACE_CONT,
			    t->stop == FERRY_STOP_SIGNAL ? t->signal : 0, err);
	if (r < 0)
		return r;
	t->listening = group;
	t->stop = FERRY_STOP_NONE;
	return 0;
}

/* Make it stand still: 0, or -ESRCH when it is gone. */
static int thread_halt(struct ferry_thread *t, struct ferry_error *err)
{
	int r = ferry_thread_interrupt(t, NULL);

	if (r >= 0)
		r = ferry_thread_wait(t, inject_timeout(&t->opts), err);
	if (r == -ESRCH || r == FERRY_STOP_EXITED)
		return -ESRCH;
	return MIN(r, 0);
}

static int thread_detach(struct ferry_thread *t, struct ferry_error *err)
{
	int code;

	if (t->stop == FERRY_STOP_EXITED)
		return 0;
	long r = regs_unmend(t, err);
	if (r < 0)
		return r == -ESRCH ? 0 : (int)r;
	inject_effect(&t->opts, "detach");
	r = thread_ptrace(t, PTRACE_DETACH, 0, t->stop == FERRY_STOP_SIGNAL ? (uintptr_t)t->signal : 0);
	/* Of one that was killed and waited for nothing is left to be asked. */
	if (r >= 0 || (r == -ESRCH && thread_look(t, &code) == -ESRCH))
		return 0;
	int failed = thread_failed(t, r, "detaching", NULL);
	if (t->stop == FERRY_STOP_EXITED)
		return 0;
	return error_errno(err, FERRY_ERROR_SYSTEM, -failed, "detaching from task %d", t->tid);
}

int ferry_thread_release(struct ferry_thread *t, struct ferry_error *err)
{
	int cured = 0;

	if (!t)
		return 0;
	if (t->remote) {
		free(t);
		return 0;
	}
	int r = thread_halt(t, err);
	if (!r && t->home)
		cured = ferry_inject_cure(t->home, t, err);
	if (!r)
		r = thread_detach(t, cured < 0 ? NULL : err);
	if (t->home)
		inject_forget(t->home, t);
	seccomp_release(&t->seccomp);
	free(t);
	if (r == -ESRCH)
		return 0;
	return cured < 0 && cured != -ESRCH ? cured : r;
}
