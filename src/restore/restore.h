/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Turning a plan into running tasks. The coordinator (the worker of the job) prepares everything in memory that it
 * shares with the tasks, creates the root task, hands descriptors out and opens the barrier. Each task is
 * at first a fork of the coordinator; it creates its children, takes its descriptors, and then enters the blob, which
 * replaces its memory, creates its threads and leads them to the barrier.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "blob/blob.h"
#include "host/timens.h"
#include "host/vdso.h"
#include "model/kind.h"
#include "model/plan.h"

struct pager;
struct warden;

/* Steps that the coordinator lets the tasks take together. */
enum restore_stage {
	RESTORE_STAGE_CREATE = FAMILY_CREATE, /* stages of the family's plan */
	RESTORE_STAGE_FILL = FAMILY_STAGES,   /* descriptors arrive, memory is built */
};

/* Of each member of the family. */
struct restore_member {
	uint32_t created; /* its PID in ferry's PID namespace once it exists, until it is reaped */
	uint32_t turn;    /* number of the step that it may take, plus one; futex word */
	uint32_t ended;   /* 1 once it ends as it has to */
	uint32_t filed;   /* 1 once it has its descriptors in a table that it shares; futex word */
	/* 1 once it stands stopped, or goes on after a stop that its parent is told of; futex word */
	uint32_t stopped;
	uint32_t built;   /* 1 once its threads wait at the barrier and can be traced; futex word */
	uint32_t left;    /* 1 once its leader, which ends while others run, is a zombie; futex word */
	uint32_t mapped;  /* 1 once it waits for the coordinator to fill its memory; see pour.c */
	uint32_t poured;  /* 1 once that is done; futex word */
	uint32_t baton;   /* of who owns memory that others have, too; see mates.c */
	uint32_t channel; /* its end of what it gets descriptors by, a number in its own table */
};

/* First in the memory that coordinator and tasks share; has pages of its own. */
struct restore_shared {
	struct blob_control control;
	uint32_t stage;   /* enum restore_stage; futex word */
	uint32_t arrived; /* tasks that are done with the stage; futex word */
	uint32_t awaited; /* so many tasks does the stage have; set before it begins */
	uint32_t init;    /* PID of our small init; 0 = none */
	uint32_t failing; /* 1: a task is writing its error, 2: it is written */
	struct ferry_error error;
	struct restore_member members[]; /* by index in the family */
};

struct restore {
	struct plan *plan;
	struct reader *reader;
	struct opener *opener;
	struct progress *progress; /* NULL: nobody looks */
	const struct fault *fault;
	const struct log_sink *log;
	struct warden *warden;
	struct vdso vdso;
	struct vdso32 *vdso32;         /* in the plan's arena, once a task has it */
	uint64_t gadget_offset;        /* of the exit gadget from the start of the vdso block */
	struct restore_shared *shared; /* start of the shared region */
	uint64_t shared_bytes;         /* of its head */
	uint64_t region_bytes;         /* of all of it */
	int *channels;                 /* by task index: the coordinator's ends */
	int births[2];                 /* [0] where the coordinator gets them, [1] where tasks put them; -1 */
	bool leaders_end;              /* some process has lost its leader */
	bool some_stop;                /* some task was stopped, or has been */
	bool some_pour;                /* the coordinator fills memory of some task */
	bool some_guarded;             /* some task is built under a tracer */
	int proc;                      /* a /proc with the numbers that we work with; tasks inherit it */
	int proc_copy;                 /* a mount of it that is nowhere yet; negative = there is none */
	int home[PROC_NS_COUNT]; /* ferry's own namespaces, of types that tasks have others of; of time the root's */
	struct timens_offsets clocks; /* of the root's time namespace */
	bool new_pidns;               /* the root's PID namespace is made with it */
	bool own_init;                /* and its first process is ours */
	bool lazy;                    /* memory comes later */
	int lazy_daemon;              /* a connection to who brings it; -1 = that is the pager */
	int page_server;              /* a connection by which it comes; -1 = none */
	bool page_server_settles;     /* it is ferry's own */
	int pager_log;                /* where the pager says what went wrong; -1 = nowhere */
	struct pager *pager;          /* NULL: there is none */
	bool sibling;                 /* the root becomes a child of our parent (--restore-sibling) */
	pid_t root_pid;               /* in ferry's PID namespace */
	pid_t first_pid;              /* whose end we are told: the root, or the init above it */
	pid_t group;                  /* the coordinator's process group */
	uint32_t *baton;              /* in a task: whoever has it runs; NULL = its memory is its own */
	bool placed;                  /* in a task: the region is where it has to be */
};

/* Find the hole for each task's blob, park and final place of the vdso, temporary descriptor numbers. */
must_check int layout_plan(struct restore *r, struct ferry_error *err);

/* Before the layout: which memory tasks share with those that they make; reserves its addresses. */
must_check int inherit_plan(struct restore *r, struct ferry_error *err);

/* The next part of [*from, to) that a task does not have from its maker; false: there is none. */
bool inherit_differs(const struct plan_task *t, uint64_t *from, uint64_t to, uint64_t *ret_end);

/* When the plan knows all pages: which files with them nobody reads before it gets them over its channel. */
must_check int inherit_sources(struct restore *r, struct ferry_error *err);

/* In the first task, before it makes any: to inherit them would cost each of the others a moment. */
void inherit_close_idle(const struct plan *p);

/* In a task, before it makes any: fill that memory. */
must_check int inherit_fill(struct plan_task *t, struct ferry_error *err);

/* The vdso that the task gets. */
static inline const struct vdso *layout_vdso_of(const struct restore *r, const struct plan_task *t)
{
	return t->vdso_is_32 ? &r->vdso32->v : &r->vdso;
}

/* Append to t->memory everything that rebuilds the task's address space. */
must_check int memory_plan(struct restore *r, struct plan_task *t, struct ferry_error *err);

/* Whether the coordinator can fill memory of tasks. */
bool pour_possible(void);

/* The tasks exist and wait for their descriptors. */
must_check int pour_prepare(struct restore *r, struct ferry_error *err);

/* --lazy, see lazy.c: whether this machine can, which task and which of its mappings, the userfaultfd, and the pager. */
must_check int lazy_check(struct ferry_error *err);
bool lazy_fits(const struct plan_task *t);
must_check int lazy_make_in(struct restore *r, const struct plan_task *t, int *ret_uffd,
			    struct ferry_error *err);
must_check int lazy_start(struct restore *r, struct ferry_error *err);

/* --lazy-pages: who brings memory waits at a socket in the directory of the image, and is told when the tasks run. */
must_check int lazy_connect(struct restore *r, int dir, struct ferry_error *err);
void lazy_tell_run(struct restore *r);

/* Fill the memory of tasks that wait for it. */
must_check int pour_tend(struct restore *r, struct ferry_error *err);

/*
 * Addresses for the shared region, when the warden starts before anybody knows its size: it has to see what the tasks
 * see.
 */
must_check int region_reserve(struct restore *r, struct ferry_error *err);

/* Size the shared region, map it, place blob, scripts, frames and states of all tasks in it. */
must_check int region_build(struct restore *r, struct ferry_error *err);
void region_release(struct restore *r);

/* The blob's argument for a task, as the coordinator sees it. */
struct blob_task *region_task(const struct restore *r, const struct plan_task *t);
struct blob_thread *region_thread(const struct restore *r, const struct plan_task *t, size_t index);

/* From here on large allocations come from the heap as well; before the plan. */
void heap_keep_whole(void);

/* Keep the forks that follow from copying the heap of the coordinator. Nothing is different but what they cost. */
must_check int heap_share(const struct restore *r, struct ferry_error *err);

/* Create the root task, wait until all tasks exist and are grouped. On failure everything created is killed. */
must_check int tasks_create(struct restore *r, struct ferry_error *err);

/* Open files, and hand descriptors out. */
enum files_when {
	FILES_FIRST, /* before there are tasks */
	FILES_LATE,  /* those that need tasks */
	FILES_LAST,  /* and those that need what is mounted for the tasks' PID namespace */
	FILES_SENT,  /* when they are sent: there are too many to have them all at once */
};
must_check int files_open(struct restore *r, enum files_when when, struct ferry_error *err);

/* It need not be open together with all others. */
bool files_is_alone(const struct plan_file *file);
/* Every file is open: what kinds do between them. */
must_check int files_opened(struct restore *r, struct ferry_error *err);
must_check int files_send(struct restore *r, struct ferry_error *err);

/* Stop the tasks that were stopped, where they have to stand in the end. */
must_check int stop_tasks(struct restore *r, struct ferry_error *err);

/* Every task is to be stopped, those that ran with SIGSTOP. */
void stop_all(struct plan *p);

/* In the parent of stopped tasks: wait until they are. In a child that went on after a stop: do so again. */
void stop_parent(struct restore *r, const struct plan_task *t);
void stop_child(struct restore *r, const struct plan_task *t);

/* Wait until one task stands at the barrier. */
must_check int tasks_wait_task(struct restore *r, const struct plan_task *t, struct ferry_error *err);

/* Wait until all tasks stand at the barrier. */
must_check int tasks_wait_ready(struct restore *r, struct ferry_error *err);

/*
 * Tasks under seccomp are built under a tracer, the coordinator, that suspends their filters; see guard.c. They are
 * released when the barrier opens, or by the kernel when the coordinator dies.
 */
must_check int guard_check(const struct plan *plan, const struct kern_caps *caps, struct ferry_error *err);
must_check int guard_hold(struct restore *r, struct ferry_error *err);   /* before they do anything */
must_check int guard_tend(struct restore *r, struct ferry_error *err);   /* hold those that are there */
must_check int guard_finish(struct restore *r, struct ferry_error *err); /* all stand at the barrier */
void guard_release(struct restore *r);
void guard_reap(struct restore *r); /* they were killed */

/* Tell tracers of the tree that their tracees can be attached to, as soon as they can; see tracees.c. */
must_check int tracees_check(const struct plan *plan, struct ferry_error *err);
must_check int tracees_build(struct restore *r, struct ferry_error *err);

/* Whether a task has failed meanwhile: its error. look: also whether one died silently. */
must_check int tasks_watch(struct restore *r, bool look, struct ferry_error *err);

/* opener.in_task: run a function in a task that waits for its descriptors. */
must_check int files_call(struct opener *o, const struct plan_task *t, struct opener_call *call,
			  struct ferry_error *err);

/* opener.pid_of */
pid_t files_pid_of(const struct opener *o, const struct plan_task *t);

/* What ferry's PID namespace calls a thread of a task, once it exists. */
pid_t tasks_tid(const struct restore *r, const struct plan_task *t, size_t index);

/* From here on the restored tasks are what runs, whatever happens to us. Cannot fail. */
void tasks_commit(struct restore *r);

/* Open the barrier. Cannot fail. */
void tasks_go(struct restore *r);

/*
 * After the barrier opened: look until no task has anything of ours mapped any more, so that whoever looks at the tasks next
 * sees only what is theirs. Changes nothing and does not last; the tasks are on their own.
 */
void tasks_wait_left(struct restore *r);

/* Kill and reap everything that was created. */
void tasks_kill(struct restore *r);

/* Make a member. Returns in the maker; the member never comes back. flags: of clone3(2). */
must_check int birth_create(struct restore *r, int member, uint64_t flags, struct ferry_error *err);

__attribute__((noreturn)) void birth_main(struct restore *r, int member);
void birth_forget_signals(void);

/* In a fork of the coordinator that everybody else is related to by now: become the task. */
__attribute__((noreturn)) void task_main(struct restore *r, struct plan_task *t);

/* In a task that has made its children: the channel by which it gets its descriptors. */
must_check int task_open_channel(struct restore *r, const struct plan_task *t, struct ferry_error *err);

/* In a task that has made its children: close what it has from its makers, unless others have its table. */
must_check int task_close_inherited(struct restore *r, const struct plan_task *t, struct ferry_error *err);

/* In a new leader of a session: what its children inherit from it. */
void task_lead_session(struct restore *r, struct plan_task *t);

/* In any of them: leave the error for the coordinator and end. */
__attribute__((noreturn)) void task_fail(struct restore *r, pid_t pid, struct ferry_error *err);

void futex_wait(uint32_t *word, uint32_t value, const struct timespec *timeout);
void futex_wake(uint32_t *word);

/* One message on a channel: so many descriptors ride along, in this order. */
enum { FILES_BATCH = 200 };

enum files_type { FILES_DESCRIPTORS = 1, FILES_CALL };

struct files_message {
	uint32_t type; /* enum files_type, first in both messages */
	uint32_t n;
	uint32_t last; /* 1: no more follow */
	struct {
		int32_t number; /* ascending, over all messages */
		uint32_t cloexec;
	} fds[FILES_BATCH];
};

/* Run a function and send its arguments, result and descriptors back. */
struct files_call {
	uint32_t type;
	int32_t result;
	opener_function *run;
	char arguments[OPENER_CALL_BYTES] __attribute__((aligned(16)));
};

/* In a task: run what it is asked to run, then take all descriptors from the channel and give them their numbers. */
must_check int files_receive(struct restore *r, struct plan_task *t, int channel, struct ferry_error *err);
