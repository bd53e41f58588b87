/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the creation of tasks. Coordinator's side: create the root, lead all tasks through the stages, open the barrier, or
 * kill everything. Task's side: fork the children, join session and group, take descriptors, enter the blob.
 *
 * Kernel interface: clone3(2) with set_tid (5.5), setsid(2), setpgid(2), futex(2), rseq(2) (4.18).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/warden.h"
#include "kernel/syscalls.h"
#include "kind/kinds.h"
#include "proc/read.h"
#include "restore/mates.h"
#include "restore/namespaces.h"
#include "restore/restore.h"

enum {
	TASKS_SHARED_MAX = 256,
	TASKS_POLL_NS = 20000000,
	TASKS_LEAVE_NS = 500000000,
	TASKS_LEAVE_POLL_NS = 20000,
	TASKS_SLACK_NS = 1,
	TASKS_LEADER_TRIES = 2000,
	TASKS_LEAVE_THREADS = 64, /* threads of larger tasks are not looked at one by one */
	TASKS_STACK_BYTES = 8192,
	TASKS_RSEQ_UNREGISTER = 1,
};

/* Every signal that can be blocked; libc keeps two for itself unless asked by the system call. */
#define TASKS_BLOCKED (~(1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1) | 1ull << 31 | 1ull << 32))

void futex_wait(uint32_t *word, uint32_t value, const struct timespec *timeout)
{
	syscall(SYS_futex, word, FUTEX_WAIT, value, timeout, NULL, 0);
}

void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

/* ---------------------------------------------------------------- in a task */

/* The first task that fails leaves its error for the coordinator; all end here. */
void task_fail(struct restore *r, pid_t pid, struct ferry_error *err)
{
	struct restore_shared *shared = r->shared;
	uint32_t none = 0;
	error_context(err, "restore", NULL, pid);
	if (__atomic_compare_exchange_n(&shared->failing, &none, 1, false, __ATOMIC_SEQ_CST,
					__ATOMIC_SEQ_CST)) {
		shared->error = *err;
		__atomic_store_n(&shared->failing, 2, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&shared->control.event, 1, __ATOMIC_SEQ_CST);
		futex_wake(&shared->arrived);
		futex_wake(&shared->control.event);
	}
	_exit(1);
}

int task_open_channel(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	int ends[2];
	uint32_t index = (uint32_t)t->index;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating the channel of pid %d", t->pid);
	__atomic_store_n(&r->shared->members[t->member].channel, (uint32_t)ends[1], __ATOMIC_SEQ_CST);
	int ret = fd_send(r->births[1], &index, sizeof(index), ends, 1);
	close(ends[0]);
	return ret < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret, "sending the channel of pid %d",
				     t->pid)
		       : 0;
}

void task_lead_session(struct restore *r, struct plan_task *t)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct settle s = {.plan = r->plan, .task = t, .log = r->log};
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->join_session && kind_table[i]->join_session(&s, &err) < 0) {
			error_context(&err, "restore", kind_table[i]->name, t->pid);
			task_fail(r, t->pid, &err);
		}
}

/* ------------------------------------------------------- shared descriptor tables */

static bool task_shares_table(const struct plan_task *t, const struct plan_task *owner)
{
	return t == owner || t->files_owner == owner;
}

/*
 * The channels of all that have this table go to their numbers, by way of numbers above all of those; nothing else of ours
 * stays in it.
 */
static int task_place_channels(struct restore *r, const struct plan_task *owner, struct ferry_error *err)
{
	int keep[TASKS_SHARED_MAX], moved[TASKS_SHARED_MAX], top = 0;
	/* The owner is the first of them. */
	size_t n = 0, end = owner->n_table_mates ? r->plan->n_tasks : owner->index + 1;
	for (size_t i = owner->index; i < end; i++)
		if (task_shares_table(&r->plan->tasks[i], owner))
			top = MAX(top, r->plan->tasks[i].first_temp + 1 + r->plan->tasks[i].temps_room);
	for (size_t i = owner->index; i < end; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		if (!task_shares_table(t, owner))
			continue;
		if (n == TASKS_SHARED_MAX)
			return error_set(err, FERRY_ERROR_LIMIT, EMFILE,
					 "more than %d processes share the descriptor table of pid %d",
					 TASKS_SHARED_MAX, owner->pid);
		keep[n] = t->first_temp;
		moved[n] = fcntl((int)r->shared->members[t->member].channel, F_DUPFD_CLOEXEC, top);
		if (moved[n++] >= 0)
			continue;
		error_errno(err, FERRY_ERROR_LIMIT, errno, "descriptor number %d for pid %d", top,
			    owner->pid);
		error_hint(err, "raise RLIMIT_NOFILE (ulimit -n) above %d", top + 1);
		return -EMFILE;
	}
	for (size_t i = 0; i < n; i++)
		if (dup2(moved[i], keep[i]) < 0)
			return error_errno(err, FERRY_ERROR_LIMIT, errno, "descriptor number %d for pid %d",
					   keep[i], owner->pid);
	fd_close_others(0, keep, n);
	return 0;
}

static void task_await_filed(struct restore *r, const struct plan_task *t)
{
	uint32_t *filed = &r->shared->members[t->member].filed;
	while (!__atomic_load_n(filed, __ATOMIC_SEQ_CST))
		mates_futex_wait(r, filed, 0);
}

static void task_say_filed(struct restore *r, const struct plan_task *t)
{
	uint32_t *filed = &r->shared->members[t->member].filed;
	__atomic_store_n(filed, 1, __ATOMIC_SEQ_CST);
	futex_wake(filed);
}

/* One after the other: what one of them receives lands for a moment on numbers that are another's. */
static void task_await_table(struct restore *r, const struct plan_task *t)
{
	const struct plan_task *before = t->files_owner;
	for (size_t i = 0; i < t->index; i++)
		if (r->plan->tasks[i].files_owner == t->files_owner)
			before = &r->plan->tasks[i];
	task_await_filed(r, before);
}

/* Nobody has calls of its own make descriptors before all have theirs. */
static void task_await_others(struct restore *r, const struct plan_task *t)
{
	const struct plan_task *owner = t->files_owner ? t->files_owner : t;
	for (size_t i = owner->index; i < r->plan->n_tasks && owner->n_table_mates; i++)
		if (r->plan->tasks[i].files_owner == owner)
			task_await_filed(r, &r->plan->tasks[i]);
}

int task_close_inherited(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	return t->files_owner || t->n_table_mates ? 0 : task_place_channels(r, t, err);
}

static void task_take_files(struct restore *r, struct plan_task *t)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int channel = t->first_temp;
	if (t->files_owner)
		task_await_table(r, t);
	else if (t->n_table_mates && task_place_channels(r, t, &err) < 0)
		task_fail(r, t->pid, &err);
	if (fault_hit(r->fault, FAULT_TASK_SETUP)) {
		error_set(&err, FERRY_ERROR_FAULT, EIO, "setting pid %d up: fault injected", t->pid);
		task_fail(r, t->pid, &err);
	}
	if (files_receive(r, t, channel, &err) < 0)
		task_fail(r, t->pid, &err);
	close(channel);
	struct settle s = {.plan = r->plan, .task = t, .log = r->log};
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->settle_task && kind_table[i]->settle_task(&s, &err) < 0) {
			error_context(&err, "restore", kind_table[i]->name, t->pid);
			task_fail(r, t->pid, &err);
		}
	vec_foreach(fd, &t->fds) {
		const struct kind_ops *kind = fd->file->kind;
		if (kind && kind->settle && kind->settle(&s, fd->file, fd->fd, &err) < 0) {
			error_context(&err, "restore", kind->name, t->pid);
			task_fail(r, t->pid, &err);
		}
	}
	task_say_filed(r, t);
	task_await_others(r, t);
}

/* The kernel would write to our thread's rseq area after the memory under it is gone. */
static void task_forget_rseq(void)
{
	if (!__rseq_size)
		return;
	char *area = (char *)__builtin_thread_pointer() + __rseq_offset;
	/* glibc registers at least 32 bytes, more when the kernel has larger areas. */
	unsigned size = MAX(__rseq_size, 32u);
	if (syscall(SYS_rseq, area, size, TASKS_RSEQ_UNREGISTER, RSEQ_SIG) < 0)
		syscall(SYS_rseq, area, 32, TASKS_RSEQ_UNREGISTER, RSEQ_SIG);
}

static __attribute__((noreturn)) void task_enter_blob(struct restore *r, struct plan_task *t)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	uint64_t base = t->slice;
	uint64_t task_at =
		base + (uint64_t)((char *)region_task(r, t) - ((char *)r->shared + t->region_offset));
	uint64_t stack = region_thread(r, t, 0)->stack_top;
	task_forget_rseq();
	int ret = mates_place(r, t);
	if (ret < 0) {
		error_errno(&err, FERRY_ERROR_RESTORE_STEP, -ret, "moving the blob of pid %d into place",
			    t->pid);
		task_fail(r, t->pid, &err);
	}
	mates_leave(r);
	struct blob_args *args = (struct blob_args *)(stack - 64);
	*args = (struct blob_args){.command = BLOB_COMMAND_ENTER, .object = task_at};
	__asm__ volatile("mov %[stack], %%rsp\n\txor %%ebp, %%ebp\n\tcall *%[entry]\n\tud2"
			 :
			 : [stack] "r"((uint64_t)args - 64), [entry] "r"(base), "D"(args)
			 : "memory");
	__builtin_unreachable();
}

void task_main(struct restore *r, struct plan_task *t)
{
	stop_child(r, t);
	task_take_files(r, t);
	stop_parent(r, t);
	birth_forget_signals();
	task_enter_blob(r, t);
}

/* ----------------------------------------------------------- in the coordinator */

static void tasks_pause(void)
{
	struct timespec pause = {.tv_nsec = TASKS_LEAVE_POLL_NS};
	nanosleep(&pause, NULL);
}

static pid_t tasks_real(const struct restore *r, const struct plan_task *t)
{
	return (pid_t)__atomic_load_n(&r->shared->members[t->member].created, __ATOMIC_SEQ_CST);
}

pid_t tasks_tid(const struct restore *r, const struct plan_task *t, size_t index)
{
	char path[16];
	struct proc_pid_list tids = {0};
	pid_t tid = 0;
	if (!r->new_pidns)
		return t->threads.v[index].tid;
	if (!index)
		return tasks_real(r, t);
	/* They are made in the order of the plan, so outside they have numbers in that order. */
	snprintf(path, sizeof(path), "%d", tasks_real(r, t));
	_cleanup_close_ int dir = fd_open(r->proc, path, O_RDONLY | O_DIRECTORY, 0);
	if (dir >= 0 && proc_read_tasks(dir, &tids, NULL) >= 0) {
		tid = index < tids.v.n ? tids.v.v[index] : 0;
		proc_pid_list_release(&tids);
	}
	return tid;
}

static char tasks_state(const struct restore *r, uint32_t real)
{
	char path[64], state = 0;
	snprintf(path, sizeof(path), "%u/stat", real);
	int fd = fd_open(r->proc, path, O_RDONLY, 0);
	_cleanup_fclose_ FILE *stat = fd < 0 ? NULL : fdopen(fd, "r");
	return stat && fscanf(stat, "%*d (%*[^)]) %c", &state) == 1 ? state : 'X';
}

static bool tasks_is_ready(const struct restore *r, const struct plan_task *t)
{
	return __atomic_load_n(&region_task(r, t)->state, __ATOMIC_SEQ_CST) == BLOB_STATE_READY;
}

/*
 * A leader that had ended ends again behind everything that it has to do for its process. Children whose parent it is get their
 * parent death signals set after that, and the barrier opens after that.
 */
static void tasks_see_leaders_off(struct restore *r)
{
	for (size_t i = 0; i < r->plan->n_tasks && r->leaders_end; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		uint32_t *left = &r->shared->members[t->member].left;
		if (!plan_first(t) || __atomic_load_n(left, __ATOMIC_SEQ_CST) || !tasks_is_ready(r, t))
			continue;
		/* It is on its last call. */
		for (int n = 0; tasks_state(r, (uint32_t)tasks_real(r, t)) != 'Z'; n++) {
			if (n == TASKS_LEADER_TRIES)
				return;
			tasks_pause();
		}
		__atomic_store_n(left, 1, __ATOMIC_SEQ_CST);
		futex_wake(left);
	}
}

/* Who is gone or a zombie before the barrier, and was not to end, is a failure that nobody reported. */
static int tasks_look(struct restore *r, struct ferry_error *err)
{
	const struct family *f = &r->plan->family;
	for (size_t i = 0; i < f->members.n; i++) {
		const struct restore_member *m = &r->shared->members[i];
		uint32_t real = __atomic_load_n(&m->created, __ATOMIC_SEQ_CST);
		if (!real)
			continue;
		char state = tasks_state(r, real);
		if (state != 'Z' && state != 'X')
			continue;
		const struct family_member *known = &f->members.v[i];
		const struct plan_task *t = known->ends || known->helper ? NULL : known->context;
		if (t && plan_first(t) && state == 'Z' && tasks_is_ready(r, t))
			continue;
		/* Looked at last: both are said before it ends, or is reaped. */
		if (__atomic_load_n(&m->ended, __ATOMIC_SEQ_CST) ||
		    !__atomic_load_n(&m->created, __ATOMIC_SEQ_CST))
			continue;
		return error_set(err, FERRY_ERROR_RESTORE_STEP, ECHILD,
				 "pid %d died while it was being restored", f->members.v[i].pid);
	}
	return 0;
}

static const char *tasks_name_call(const struct script *s, uint32_t index, uint64_t *ret_detail)
{
	*ret_detail = 0;
	if (index >= s->notes.n)
		return "creating the thread";
	*ret_detail = s->notes.v[index].detail;
	return s->notes.v[index].what;
}

/* A task gave up inside the blob: name the call. */
static int tasks_blob_error(struct restore *r, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		struct plan_task *t = &r->plan->tasks[i];
		const struct blob_task *b = region_task(r, t);
		if (__atomic_load_n(&b->state, __ATOMIC_SEQ_CST) != BLOB_STATE_FAILED)
			continue;
		bool in_memory = b->failed_thread >= t->threads.n;
		const struct script *s = in_memory ? &t->memory : &t->threads.v[b->failed_thread].script;
		uint32_t index =
			in_memory ? b->memory.done : region_thread(r, t, b->failed_thread)->script.done;
		pid_t tid = in_memory ? t->pid : t->threads.v[b->failed_thread].tid;
		uint64_t detail;
		const char *what = tasks_name_call(s, index, &detail);
		if (detail)
			error_errno(err, FERRY_ERROR_RESTORE_STEP, (int)-b->failed_ret,
				    "thread %d of pid %d: %s (0x%llx)", tid, t->pid, what,
				    (unsigned long long)detail);
		else
			error_errno(err, FERRY_ERROR_RESTORE_STEP, (int)-b->failed_ret,
				    "thread %d of pid %d: %s", tid, t->pid, what);
		return -EIO;
	}
	return error_set(err, FERRY_ERROR_INTERNAL, EIO, "a task failed without saying why");
}

static int tasks_failure(struct restore *r, struct ferry_error *err)
{
	if (__atomic_load_n(&r->shared->failing, __ATOMIC_SEQ_CST) == 2) {
		if (err)
			*err = r->shared->error;
		return -EIO;
	}
	if (__atomic_load_n(&r->shared->control.failed, __ATOMIC_SEQ_CST))
		return tasks_blob_error(r, err);
	return 0;
}

int tasks_watch(struct restore *r, bool look, struct ferry_error *err)
{
	int ret = tasks_failure(r, err);
	if (ret >= 0)
		tasks_see_leaders_off(r);
	if (ret >= 0 && r->some_pour)
		ret = pour_tend(r, err);
	/* Others may wait for a leader under seccomp that is to end. */
	if (ret >= 0 && r->some_guarded)
		ret = guard_tend(r, err);
	if (ret < 0 || !look)
		return ret;
	ret = tasks_look(r, err);
	if (ret < 0) {
		/* It may have reported after all. */
		struct ferry_error told = FERRY_ERROR_INIT;
		if (err && tasks_failure(r, &told) < 0)
			*err = told;
	}
	return ret;
}

/* Wait until *counter is at least n; word is what is woken when it changes. */
static int tasks_wait(struct restore *r, const uint32_t *counter, uint32_t *word, uint32_t n,
		      struct ferry_error *err)
{
	for (;;) {
		uint32_t seen = __atomic_load_n(word, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(counter, __ATOMIC_SEQ_CST) >= n)
			return 0;
		int ret = tasks_watch(r, false, err);
		if (ret < 0)
			return ret;
		struct timespec poll = {.tv_nsec = TASKS_POLL_NS};
		uint64_t before = time_now_ns();
		futex_wait(word, seen, &poll);
		if (time_now_ns() - before < TASKS_POLL_NS)
			continue;
		ret = tasks_watch(r, true, err);
		if (ret < 0)
			return ret;
	}
}

/* Say how many members the next stage has. */
static void tasks_await(struct restore *r, enum family_stage stage)
{
	uint32_t n = stage < FAMILY_STAGES ? (uint32_t)family_count(&r->plan->family, stage) : 0;
	__atomic_store_n(&r->shared->awaited, n, __ATOMIC_SEQ_CST);
}

/* Let the members take one stage after the other. */
static int tasks_stages(struct restore *r, struct ferry_error *err)
{
	struct restore_shared *shared = r->shared;
	const struct family *f = &r->plan->family;
	for (enum family_stage stage = FAMILY_CREATE; stage < FAMILY_STAGES; stage++) {
		uint32_t next = stage + 1;
		if (!family_has_stage(f, stage))
			continue;
		int ret = tasks_wait(r, &shared->arrived, &shared->arrived, shared->awaited, err);
		if (ret < 0)
			return ret;
		while (next < FAMILY_STAGES && !family_has_stage(f, (enum family_stage)next))
			next++;
		__atomic_store_n(&shared->arrived, 0, __ATOMIC_SEQ_CST);
		tasks_await(r, (enum family_stage)next);
		__atomic_store_n(&shared->stage, next, __ATOMIC_SEQ_CST);
		futex_wake(&shared->stage);
	}
	return 0;
}

static int tasks_begin(struct restore *r, struct ferry_error *err)
{
	size_t n = r->plan->n_tasks;
	r->births[0] = r->births[1] = -1;
	r->channels = arena_array(&r->plan->arena, int, n);
	if (!r->channels)
		return error_memory(err);
	for (size_t i = 0; i < n; i++) {
		r->channels[i] = -1;
		r->leaders_end |= plan_first(&r->plan->tasks[i]) > 0;
		r->some_stop |= r->plan->tasks[i].stop_signal || r->plan->tasks[i].untold;
		r->some_pour |= r->plan->tasks[i].pour.runs.n > 0;
		r->some_guarded |= r->plan->tasks[i].guarded;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, r->births) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a channel to the tasks");
	return 0;
}

/*
 * The channels come from the tasks, when those have made their children: descriptors that are there before cost each task that is
 * made another moment.
 */
static int tasks_take_channels(struct restore *r, struct ferry_error *err)
{
	struct pollfd birth = {.fd = r->births[0], .events = POLLIN};
	for (size_t known = 0; known < r->plan->n_tasks;) {
		uint32_t index = 0;
		size_t n = 0;
		int fd = -1;
		if (poll(&birth, 1, TASKS_POLL_NS / 1000000) <= 0) {
			int ret = tasks_watch(r, true, err);
			if (ret < 0)
				return ret;
			continue;
		}
		ssize_t got = fd_recv(r->births[0], &index, sizeof(index), &fd, 1, &n);
		if (got != (ssize_t)sizeof(index) || n != 1 || index >= r->plan->n_tasks)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, got < 0 ? (int)-got : EPROTO,
					   "receiving the channel to a task");
		r->channels[index] = fd;
		known++;
	}
	close(r->births[0]);
	close(r->births[1]);
	return 0;
}

static int tasks_arm(struct restore *r, struct ferry_error *err)
{
	struct restore_shared *shared = r->shared;
	/* The log is carried out from its end: the barrier opens before threads that are not asleep at it are woken. */
	int ret = 0;
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++)
		if (r->plan->tasks[i].threads.n > 1)
			ret = warden_arm(r->warden, WARDEN_WAKE, 0,
					 (uint64_t)(uintptr_t)&region_task(r, &r->plan->tasks[i])->park, NULL,
					 0);
	if (ret >= 0)
		ret = warden_arm(r->warden, WARDEN_WAKE, 0, (uint64_t)(uintptr_t)&shared->control.go, NULL,
				 0);
	if (ret >= 0 && r->own_init)
		ret = warden_arm(r->warden, WARDEN_KILL, 0, (uint64_t)(uintptr_t)&shared->init, NULL, 0);
	for (size_t i = 0; i < r->plan->family.members.n && ret >= 0 && !(r->own_init || (r->new_pidns && i));
	     i++)
		ret = warden_arm(r->warden, WARDEN_KILL, 0, (uint64_t)(uintptr_t)&shared->members[i].created,
				 NULL, 0);
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_LIMIT, -ret, "entering %zu tasks into the undo log",
				   r->plan->family.members.n);
	return 0;
}

/* The first process of the new PID namespace is ours; the root becomes its child. */
static int tasks_create_init(struct restore *r, uint64_t flags, struct ferry_error *err)
{
	struct ferry_error inside = FERRY_ERROR_INIT;
	struct plan_task *root = &r->plan->tasks[0];
	struct clone_args args = {
		.flags = flags | CLONE_NEWPID,
		.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD,
	};
	fault_effect(r->fault, "restore", "create-init");
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pid namespace");
	if (!pid) {
		__atomic_store_n(&r->shared->init, (uint32_t)namespaces_real_pid(r), __ATOMIC_SEQ_CST);
		if (birth_create(r, 0, 0, &inside) < 0)
			task_fail(r, root->pid, &inside);
		namespaces_init_main(r, root->pid);
	}
	__atomic_store_n(&r->shared->init, (uint32_t)pid, __ATOMIC_SEQ_CST);
	return 0;
}

static int tasks_create_root(struct restore *r, struct ferry_error *err)
{
	uint64_t flags = r->sibling ? CLONE_PARENT : 0;
	if (r->own_init)
		return tasks_create_init(r, flags, err);
	return birth_create(r, 0, flags | (r->new_pidns ? CLONE_NEWPID : 0), err);
}

/* What all tasks inherit; a kind mapped it, and nobody who was forked before has it. */
static int tasks_share_pool(const struct restore *r, struct ferry_error *err)
{
	void *pool = (void *)(uintptr_t)r->plan->pool;
	if (!r->plan->pool_bytes || madvise(pool, r->plan->pool_bytes, MADV_DOFORK) == 0)
		return 0;
	return error_errno(err, FERRY_ERROR_SYSTEM, errno, "handing shared memory on to the tasks");
}

int tasks_create(struct restore *r, struct ferry_error *err)
{
	int ret = tasks_begin(r, err);
	if (ret >= 0)
		ret = tasks_arm(r, err);
	if (ret >= 0)
		ret = tasks_share_pool(r, err);
	if (ret < 0)
		return ret;
	/* Orphans of a failed restore come to us and are reaped. */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	/* Who ignored this would have no zombies. */
	signal(SIGCHLD, SIG_DFL);
	r->group = getpgrp();
	tasks_await(r, FAMILY_CREATE);
	ret = heap_share(r, err);
	if (ret >= 0)
		ret = tasks_create_root(r, err);
	if (ret >= 0)
		ret = tasks_take_channels(r, err);
	if (ret >= 0)
		ret = tasks_stages(r, err);
	r->root_pid = tasks_real(r, &r->plan->tasks[0]);
	r->first_pid = r->own_init ? (pid_t)r->shared->init : r->root_pid;
	return ret;
}

static int tasks_wait_leader(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	const uint32_t *left = &r->shared->members[t->member].left;
	return plan_first(t) ? tasks_wait(r, left, &r->shared->control.event, 1, err) : 0;
}

int tasks_wait_task(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	int ret = tasks_wait(r, &region_task(r, t)->state, &r->shared->control.event, BLOB_STATE_READY, err);
	if (ret >= 0)
		ret = tasks_wait_leader(r, t, err);
	return ret < 0 ? ret : tasks_failure(r, err);
}

int tasks_wait_ready(struct restore *r, struct ferry_error *err)
{
	struct blob_control *control = &r->shared->control;
	if (fault_hit(r->fault, FAULT_BARRIER))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "waiting at the barrier: fault injected");
	int ret = guard_hold(r, err);
	if (ret >= 0)
		ret = tasks_wait(r, &control->ready, &control->event, (uint32_t)r->plan->n_tasks, err);
	for (size_t i = 0; i < r->plan->n_tasks && ret >= 0; i++)
		ret = tasks_wait_leader(r, &r->plan->tasks[i], err);
	return ret < 0 ? ret : guard_finish(r, err);
}

void tasks_commit(struct restore *r)
{
	fault_effect(r->fault, "restore", "commit");
	warden_commit(r->warden);
}

void tasks_go(struct restore *r)
{
	fault_effect(r->fault, "restore", "open-barrier");
	__atomic_store_n(&r->shared->control.go, 1, __ATOMIC_SEQ_CST);
	fault_effect(r->fault, "restore", "wake-barrier");
	futex_wake(&r->shared->control.go);
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		uint32_t *park = &region_task(r, &r->plan->tasks[i])->park;
		__atomic_store_n(park, 1, __ATOMIC_SEQ_CST);
		futex_wake(park);
	}
	guard_release(r);
}

/*
 * Whether the mask that a thread has from its first moment on was replaced by its own. One that blocks everything itself
 * cannot be told apart, and is not waited for: it needs nothing of ours any more but the vdso.
 */
static bool tasks_thread_left(const struct restore *r, const struct plan_task *t,
			      const struct plan_thread *th, pid_t tid)
{
	char path[64];
	if (th->core->thread_core->blk_sigset == TASKS_BLOCKED)
		return true;
	snprintf(path, sizeof(path), "%u/task/%d", (unsigned)tasks_real(r, t), tid);
	_cleanup_close_ int dir = fd_open(r->proc, path, O_RDONLY | O_DIRECTORY, 0);
	_cleanup_proc_status_ struct proc_status status = {0};
	return dir < 0 || proc_read_status(dir, &status, NULL) < 0 || status.sig_blocked != TASKS_BLOCKED;
}

static bool tasks_first_left(const struct restore *r, const struct plan_task *t)
{
	char byte;
	struct iovec ours = {&byte, 1}, theirs = {(void *)(uintptr_t)t->slice, 1};
	return sys_process_vm_readv(tasks_tid(r, t, plan_first(t)), &ours, 1, &theirs, 1) != 1;
}

static void tasks_wait_threads(const struct restore *r, const struct plan_task *t, uint64_t until)
{
	for (size_t n = plan_first(t) + 1; n < t->threads.n && t->threads.n <= TASKS_LEAVE_THREADS; n++) {
		pid_t tid = tasks_tid(r, t, n);
		while (!tasks_thread_left(r, t, &t->threads.v[n], tid) && time_now_ns() < until)
			tasks_pause();
	}
}

void tasks_wait_left(struct restore *r)
{
	uint64_t until = time_now_ns() + TASKS_LEAVE_NS;
	/* Every task has a value of its own by now. */
	prctl(PR_SET_TIMERSLACK, TASKS_SLACK_NS);
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		while (!tasks_first_left(r, t) && time_now_ns() < until)
			tasks_pause();
		tasks_wait_threads(r, t, until);
	}
}

static void tasks_kill_one(uint32_t pid)
{
	if (!pid)
		return;
	kill((pid_t)pid, SIGKILL);
	while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
		continue;
}

/* Whether one that was killed is gone. It is a child of ours at the latest when its parent has ended. */
static bool tasks_reap_one(pid_t pid, uint64_t until)
{
	pid_t ended = waitpid(pid, NULL, __WALL | WNOHANG);
	if (!ended)
		kill(pid, SIGKILL);
	if (ended < 0 && errno == ECHILD)
		return kill(pid, 0) < 0 || time_now_ns() > until;
	return ended > 0;
}

/* In no order: the first process of a PID namespace is gone only when others are, whoever their parents were. */
static void tasks_reap(struct restore *r)
{
	uint64_t until = time_now_ns() + TASKS_LEAVE_NS;
	for (size_t left = 1; left;) {
		left = 0;
		for (size_t i = 0; i < r->plan->family.members.n; i++) {
			uint32_t *pid = &r->shared->members[i].created;
			if (!*pid)
				continue;
			if (tasks_reap_one((pid_t)*pid, until))
				*pid = 0;
			else
				left++;
		}
		if (left)
			tasks_pause();
	}
}

void tasks_kill(struct restore *r)
{
	if (!r->shared)
		return;
	/* With the first process of a PID namespace all others end. */
	if (r->new_pidns) {
		tasks_kill_one(r->own_init ? r->shared->init : r->shared->members[0].created);
		guard_reap(r);
		return;
	}
	const struct family *f = &r->plan->family;
	for (size_t i = 0; i < f->members.n; i++) {
		uint32_t pid = __atomic_load_n(&r->shared->members[i].created, __ATOMIC_SEQ_CST);
		if (pid)
			kill((pid_t)pid, SIGKILL);
	}
	guard_reap(r);
	/* A task that was being created when the first round ran shows up as an orphan of ours. */
	tasks_reap(r);
}
