/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what the members of a family do until everybody has its parent, session and group: each takes its steps of the
 * plan (model/family.h), all together stage by stage. Zombies end here, as they have ended before; helpers do, too, and
 * are forgotten.
 *
 * Kernel interface: clone3(2) with set_tid (5.5), and with what is shared, setsid(2), setpgid(2), PR_SET_CHILD_SUBREAPER (3.4).
 *
 * Does not handle: what a zombie has used of processor and memory, which only its parent's wait4(2) would tell: the
 * kernel counts it and takes no other figure. Whether it left a core dump, where kernel.core_pattern names a program.
 */
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "restore/mates.h"
#include "restore/namespaces.h"
#include "restore/restore.h"

enum { BIRTH_SIGNALS = 64, BIRTH_CORE_BYTES = 4096, BIRTH_DUMPED = 0x80, BIRTH_TRIES = 100 };

static struct family_member *birth_member(const struct restore *r, int member)
{
	return &r->plan->family.members.v[member];
}

/* ----------------------------------------------------------------- zombies */

/* Dumps that go to a program do so whatever the limit. */
static bool birth_pipes_cores(void)
{
	char byte = '|';
	int fd = fd_open(AT_FDCWD, "/proc/sys/kernel/core_pattern", O_RDONLY, 0);
	bool piped = fd < 0 || read(fd, &byte, 1) != 1 || byte == '|';
	if (fd >= 0)
		close(fd);
	return piped;
}

static __attribute__((noreturn)) void birth_end_by(int number, bool dumped)
{
	struct sigaction plain = {.sa_handler = SIG_DFL};
	struct rlimit core = {.rlim_cur = dumped ? BIRTH_CORE_BYTES : 0, .rlim_max = RLIM_INFINITY};
	uint64_t none = 0;
	getrlimit(RLIMIT_CORE, &core);
	core.rlim_cur = dumped ? MIN(core.rlim_max, (rlim_t)BIRTH_CORE_BYTES) : 0;
	setrlimit(RLIMIT_CORE, &core);
	/* The dump goes to a file system that nobody sees, and that is gone with the process. */
	bool hidden = dumped && unshare(CLONE_NEWNS) == 0 &&
		      mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
		      mount("ferry", "/tmp", "tmpfs", 0, "size=64k") == 0 && chdir("/tmp") == 0 &&
		      chroot("/tmp") == 0;
	/* The end of who is not dumpable is told to root only; where there is no dump anyway it need not be so. */
	prctl(PR_SET_DUMPABLE, dumped ? hidden : !birth_pipes_cores());
	sigaction(number, &plain, NULL);
	kill(getpid(), number);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof(none));
	for (;;)
		syscall(SYS_exit_group, 1);
}

static __attribute__((noreturn)) void birth_end(const struct plan_zombie *z)
{
	uint32_t status = z ? z->core->tc->exit_code : 0;
	int none = -1;
	fd_close_others(0, &none, 0);
	if (z) {
		prctl(PR_SET_NAME, z->core->tc->comm);
		syscall(SYS_setresgid, z->gid, z->gid, z->gid);
		if (!(status & BIRTH_DUMPED))
			syscall(SYS_setresuid, z->uid, z->uid, z->uid);
	}
	if (status & 0x7f)
		birth_end_by(status & 0x7f, status & BIRTH_DUMPED);
	for (;;)
		syscall(SYS_exit_group, status >> 8);
}

/* ------------------------------------------------------------------- steps */

static int birth_failed(pid_t pid, int code, struct ferry_error *err)
{
	if (code == EPERM) {
		error_set(err, FERRY_ERROR_PERMISSION, EPERM,
			  "pid %d can be given to a process by CAP_CHECKPOINT_RESTORE alone", pid);
		error_hint(
			err,
			"give ferry that right (setcap cap_checkpoint_restore+ep), or restore with --new-pidns or --user-ns");
		return -EPERM;
	}
	if (code != EEXIST)
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "creating pid %d (clone3)", pid);
	error_set(err, FERRY_ERROR_PID_TAKEN, EEXIST, "pid %d is taken by another process", pid);
	error_hint(err, "end that process, or restore with --new-pidns");
	return -EEXIST;
}

/*
 * A process that ended leaves /proc a moment before its number is free again (since Linux 6.16), and whoever restores may have
 * waited for just that.
 */
static pid_t birth_clone(struct restore *r, int member, struct clone_args *args)
{
	pid_t wanted = birth_member(r, member)->pid;
	const struct timespec tick = {.tv_nsec = 1000 * 1000};
	char path[32];
	snprintf(path, sizeof(path), "/proc/%d", wanted);
	for (int tries = 0;; tries++) {
		pid_t pid = args->flags & CLONE_VM ? mates_clone(r, member, args)
						   : (pid_t)syscall(SYS_clone3, args, sizeof(*args));
		if (pid >= 0 || errno != EEXIST || tries == BIRTH_TRIES)
			return pid;
		if (access(path, F_OK) == 0) {
			errno = EEXIST;
			return -1;
		}
		nanosleep(&tick, NULL);
	}
}

static uint64_t birth_shared(const struct family_member *m)
{
	static const uint64_t flags[SHARING_TYPES] = {
		[SHARING_VM] = CLONE_VM,
		[SHARING_SIGHAND] = CLONE_SIGHAND,
		[SHARING_FILES] = CLONE_FILES,
		[SHARING_FS] = CLONE_FS,
	};
	uint64_t all = 0;
	for (int type = 0; type < SHARING_TYPES; type++)
		all |= m->shares[type] ? flags[type] : 0;
	return all;
}

int birth_create(struct restore *r, int member, uint64_t flags, struct ferry_error *err)
{
	const struct family_member *m = birth_member(r, member);
	struct namespaces_clone c;
	int ret = namespaces_before_child(r, member, &c, err);
	if (ret < 0)
		return ret;
	struct clone_args args = {
		.flags = flags | c.flags | birth_shared(m),
		.pidfd = (uint64_t)(uintptr_t)&c.pidfd,
		.exit_signal = flags & CLONE_PARENT ? 0 : (uint64_t)m->exit_signal,
		.set_tid = (uint64_t)(uintptr_t)c.tids,
		.set_tid_size = c.n_tids,
	};
	fault_effect(r->fault, "restore", "create-task");
	if (fault_hit(r->fault, FAULT_TASK_CREATE))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "creating pid %d: fault injected", m->pid);
	pid_t pid = birth_clone(r, member, &args);
	if (pid < 0)
		return birth_failed(m->pid, errno, err);
	/* In a PID namespace of its own only the first process, which takes all others with it, need be known from outside. */
	uint32_t *created = &r->shared->members[member].created;
	if (!r->new_pidns)
		__atomic_store_n(created, (uint32_t)m->pid, __ATOMIC_SEQ_CST);
	if (!pid) {
		mates_begin(r, m->ends ? NULL : m->context);
		birth_main(r, member);
	}
	if (flags & CLONE_NEWPID)
		__atomic_store_n(created, (uint32_t)pid, __ATOMIC_SEQ_CST);
	return namespaces_after_child(r, member, &c, err);
}

/* Wait until a child is a zombie. */
static int birth_await(struct restore *r, pid_t pid, struct ferry_error *err)
{
	int ret = mates_waitid(r, pid, WEXITED | WNOWAIT | __WALL);
	return ret < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret, "waiting for the end of pid %d",
				     pid)
		       : 0;
}

/* The number can be somebody else's as soon as nobody waits for it. */
static int birth_reap(struct restore *r, int member, struct ferry_error *err)
{
	pid_t pid = birth_member(r, member)->pid;
	int ret = birth_await(r, pid, err);
	if (ret < 0)
		return ret;
	__atomic_store_n(&r->shared->members[member].created, 0, __ATOMIC_SEQ_CST);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		continue;
	return 0;
}

static int birth_join(struct restore *r, const struct family_member *m, struct ferry_error *err)
{
	const struct plan_task *t = m->ends ? NULL : m->context;
	pid_t group = m->pgid ? m->pgid : r->group;
	if (t)
		group = plan_number(r->plan, t, group);
	if (group == getpgrp() || setpgid(0, group) == 0)
		return 0;
	return error_errno(err, FERRY_ERROR_SYSTEM, errno, "moving pid %d to process group %d", m->pid,
			   group);
}

static int birth_did(int result, pid_t pid, const char *what, struct ferry_error *err)
{
	return result < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "making pid %d %s", pid, what) : 0;
}

/* The terminal of a session is lost with its leader, so the sessions of those that end have none. */
static int birth_lead_session(struct restore *r, const struct family_member *m, struct ferry_error *err)
{
	int ret = birth_did(setsid(), m->pid, "a session leader", err);
	if (ret >= 0 && !m->ends)
		task_lead_session(r, m->context);
	return ret;
}

static int birth_step(struct restore *r, const struct family_step *s, struct ferry_error *err)
{
	const struct family_member *m = birth_member(r, s->actor);
	switch (s->op) {
	case FAMILY_OP_CLONE: return birth_create(r, s->other, 0, err);
	case FAMILY_OP_CLONE_SIBLING: return birth_create(r, s->other, CLONE_PARENT, err);
	case FAMILY_OP_SETSID: return birth_lead_session(r, m, err);
	case FAMILY_OP_LEAD: return birth_did(setpgid(0, 0), m->pid, "a process group leader", err);
	case FAMILY_OP_JOIN: return birth_join(r, m, err);
	case FAMILY_OP_ADOPT:
	case FAMILY_OP_ADOPT_LESS:
		return birth_did(prctl(PR_SET_CHILD_SUBREAPER, s->op == FAMILY_OP_ADOPT, 0, 0, 0), m->pid,
				 "the one that takes orphans", err);
	case FAMILY_OP_REAP: return birth_reap(r, s->other, err);
	case FAMILY_OP_AWAIT: return birth_await(r, birth_member(r, s->other)->pid, err);
	case FAMILY_OP_EXIT: break;
	}
	return 0;
}

/* ------------------------------------------------------------------- turns */

static void birth_await_turn(struct restore *r, int actor, int step)
{
	uint32_t *turn = &r->shared->members[actor].turn, seen;
	while (step && (seen = __atomic_load_n(turn, __ATOMIC_SEQ_CST)) != (uint32_t)step + 1)
		mates_futex_wait(r, turn, seen);
}

static void birth_pass_turn(struct restore *r, int step)
{
	if ((size_t)step >= r->plan->family.steps.n)
		return;
	uint32_t *turn = &r->shared->members[r->plan->family.steps.v[step].actor].turn;
	__atomic_store_n(turn, (uint32_t)step + 1, __ATOMIC_SEQ_CST);
	futex_wake(turn);
}

/* ------------------------------------------------------------------ a member */

/* The last one tells the coordinator. */
static void birth_arrive(struct restore *r, uint32_t stage)
{
	uint32_t arrived = __atomic_add_fetch(&r->shared->arrived, 1, __ATOMIC_SEQ_CST);
	if (arrived >= __atomic_load_n(&r->shared->awaited, __ATOMIC_SEQ_CST))
		futex_wake(&r->shared->arrived);
	while (__atomic_load_n(&r->shared->stage, __ATOMIC_SEQ_CST) == stage)
		mates_futex_wait(r, &r->shared->stage, stage);
}

/* Take the own steps of one stage, beginning with *step. */
static void birth_stage(struct restore *r, int member, enum family_stage stage, int *step)
{
	const struct family *f = &r->plan->family;
	const struct family_member *m = birth_member(r, member);
	struct ferry_error err = FERRY_ERROR_INIT;
	for (; *step != FAMILY_NONE && f->steps.v[*step].stage == stage; *step = f->steps.v[*step].next) {
		const struct family_step *s = &f->steps.v[*step];
		bool in_turn = f->in_turn && stage == FAMILY_CREATE;
		if (in_turn)
			birth_await_turn(r, member, *step);
		if (birth_step(r, s, &err) < 0)
			task_fail(r, m->pid, &err);
		if (in_turn)
			birth_pass_turn(r, *step + 1);
		if (s->op != FAMILY_OP_EXIT)
			continue;
		__atomic_store_n(&r->shared->members[member].ended, 1, __ATOMIC_SEQ_CST);
		birth_end(m->context);
	}
}

void birth_main(struct restore *r, int member)
{
	const struct family *f = &r->plan->family;
	const struct family_member *m = birth_member(r, member);
	struct ferry_error err = FERRY_ERROR_INIT;
	int step = m->first_step;
	const struct plan_task *t = m->ends ? NULL : m->context;
	pid_t real = r->new_pidns ? namespaces_real_pid(r) : m->pid;
	__atomic_store_n(&r->shared->members[member].created, (uint32_t)real, __ATOMIC_SEQ_CST);
	if (t && namespaces_enter(r, t, &err) < 0)
		task_fail(r, m->pid, &err);
	if (t && !m->helper && inherit_fill(m->context, &err) < 0)
		task_fail(r, m->pid, &err);
	if (!member)
		inherit_close_idle(r->plan);
	for (enum family_stage stage = FAMILY_CREATE; stage < FAMILY_STAGES; stage++) {
		if (!family_has_stage(f, stage))
			continue;
		birth_stage(r, member, stage, &step);
		if (stage == FAMILY_CREATE && t && namespaces_after_children(r, t, &err) < 0)
			task_fail(r, m->pid, &err);
		bool is_born = stage == FAMILY_CREATE && t && !m->helper;
		if (is_born && task_open_channel(r, t, &err) < 0)
			task_fail(r, m->pid, &err);
		/* While others are being made there is time for it. */
		if (is_born && task_close_inherited(r, t, &err) < 0)
			task_fail(r, m->pid, &err);
		birth_arrive(r, stage);
	}
	task_main(r, m->context);
}

/*
 * Signals of those that ended here were taken before the dump; what the image has of them comes later. Actions are what a new
 * process has: the script sets others only.
 */
void birth_forget_signals(void)
{
	const uint64_t ignore[4] = {(uint64_t)(uintptr_t)SIG_IGN}, plain[4] = {0};
	uint64_t pending = 0;
	syscall(SYS_rt_sigpending, &pending, sizeof(pending));
	for (int number = 1; number <= BIRTH_SIGNALS; number++) {
		/* Ignoring a signal takes it from the queue, blocked or not. */
		if (pending >> (number - 1) & 1)
			syscall(SYS_rt_sigaction, number, ignore, NULL, sizeof(pending));
		/* Not by libc, which names a function of its own that is gone soon. */
		syscall(SYS_rt_sigaction, number, plain, NULL, sizeof(pending));
	}
}
