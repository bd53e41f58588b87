/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a restore is going to do, as plain data: the image's records linked to each other, the place and numbers that
 * everything gets, and the scripts that the tasks will run. The plan is complete and checked against the machine
 * before anything is created.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/vec.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/fs.pb-c.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/mm.pb-c.h"
#include "model/family.h"
#include "model/script.h"
#include "proc/task.h"

struct image_run;
struct kind_ops;
struct plan_task;
struct vdso_bridge;

struct plan_file {
	FileEntry *entry;
	const struct kind_ops *kind;
	void *data;            /* the kind's own, in the arena */
	int fd;                /* in the process that opened it; -1 = not opened yet */
	bool settled;          /* in a task: what is set once for the description is set */
	bool opening;          /* guards against records that refer to each other in a circle */
	bool waits_for_mounts; /* its path is not there before the tree's processes are */
	bool enclosed;         /* it lies in the queue of another */
	bool is_of_net;        /* it belongs to a network namespace, ... */
	uint32_t net;          /* ... that with this id; 0 = ferry's own */
	uint32_t unsent;       /* so many times a task has yet to get it */
	const struct plan_task
		*owner; /* first task that holds it; whose credentials it is opened with. NULL = none */
};

struct plan_fd {
	int fd;
	bool cloexec;
	struct plan_file *file;
};

/* A descriptor that a task has only while it is being restored: mapped files, page files, directories. */
struct plan_temp {
	int number;             /* in the task */
	struct plan_file *file; /* either a file of the image ... */
	int source;             /* ... or a descriptor of the coordinator, which keeps owning it; -1 */
	int flags; /* for a file: open flags that the use needs (O_RDONLY, O_RDWR, O_PATH), -1 = the record's own */
};

struct plan_thread {
	pid_t tid;
	CoreEntry *core;
	FerryTaskEntry *extra; /* NULL when the image has none */
	VEC(pid_t) nested;     /* its numbers in PID namespaces below the root's, outermost first */
	struct script script;
	bool ended;            /* the leader, while others run: it ends again before the barrier opens */
	bool traced;           /* by another thread of the tree */
	bool stands;           /* and stays in a stop when the barrier opens */
	struct script *tracer; /* of the thread that traces it: the call that attaches to it ... */
	uint64_t attach;       /* ... has its argument at this offset in the data */
	uint8_t *xstate;       /* XSAVE area in this machine's layout */
	uint32_t xstate_bytes;
	uint64_t xstate_mask; /* features that XRSTOR loads from it */
};

/* A namespace that the image has and ferry does not live in. */
struct plan_ns {
	enum proc_ns type;
	uint32_t id;                    /* in the image */
	const struct plan_task *member; /* the first task that lives in it; NULL = none does */
	uint32_t owner;                 /* id of the user namespace that it belongs to; 0 = ferry's own */
	int fd;      /* of the one that was made; -1 = not made, or not by the coordinator */
	bool joined; /* the caller named another to live in: fd has it */
	bool given;  /* it was there before, by this or other means */
	void *data;  /* of its kind */
};

/* What a parent has not waited for: ferry_tree_entry.untold. */
enum plan_untold { PLAN_UNTOLD_NOTHING, PLAN_UNTOLD_STOPPED, PLAN_UNTOLD_CONTINUED };

/* Memory that is there before a task makes its children, so that they have the same pages. */
enum plan_early {
	PLAN_EARLY_FILLED = 1 << 0,
	PLAN_EARLY_INHERITED = 1 << 1, /* it begins as what the maker has there */
	PLAN_EARLY_PASSED = 1 << 2,    /* others begin with it, so it is complete before they are made */
};

/* Pages, and where their bytes are. */
struct plan_run {
	uint64_t vaddr, nr_pages;
	uint64_t offset; /* in the file */
	int source;      /* descriptor of the file in the coordinator; PLAN_LATE */
	bool late;       /* left to whoever fills memory later, if the mapping can wait */
};

/* Not in a file: a page server gives it. */
enum { PLAN_LATE = -2 };

struct plan_range {
	uint64_t start, end;
};

/* Memory that the coordinator fills, see restore/pour.c. */
struct plan_pour {
	VEC(struct plan_run) runs;
	VEC(struct plan_range) ranges; /* the mappings that have them */
	int uffd;                      /* in the coordinator */
	bool wanted, done;
	bool lazy; /* not by the coordinator, but by the pager, after the task runs */
};

struct plan_task {
	pid_t pid, ppid, pgid, sid;    /* in the PID namespace of the tree's root */
	uint32_t ns_id[PROC_NS_COUNT]; /* in the image; 0 = ferry's own */
	uint32_t children_pid_ns;      /* new children go there; 0 = into its own PID namespace */
	uint32_t children_time_ns;     /* the same */
	int member;                    /* index in plan.family */
	/* Earlier ones whose memory, actions, descriptors and folders it shares; NULL = none. */
	struct plan_task *vm_owner, *sighand_owner, *files_owner, *fs_owner;
	uint32_t n_mates;                /* so many others have the memory of this one, which owns it */
	uint32_t n_table_mates;          /* and so many its descriptor table */
	int temps_room;                  /* so many numbers from first_temp on are its own; 0 = all */
	int stop_signal;                 /* what stopped it; 0 = it runs */
	uint32_t untold;                 /* enum plan_untold */
	VEC(struct plan_thread) threads; /* leader first */
	TaskKobjIdsEntry *ids;
	MmEntry *mm;
	FerryMmEntry *mm_extra; /* NULL when the image has none */
	FsEntry *fs;
	uint8_t *early;        /* by index of a mapping: PLAN_EARLY_x; NULL = none */
	struct plan_run *runs; /* its pages, ascending; freed with the plan */
	size_t n_runs;
	struct plan_pour pour;
	int pages;               /* descriptor of its own pages file in the coordinator */
	VEC(struct plan_fd) fds; /* ascending */
	VEC(struct plan_temp) temps;
	int first_temp;       /* temps are numbered from here on; number first_temp itself is the channel */
	struct script memory; /* run once by the leader, before threads exist */
	uint64_t hole;        /* where the blob's region goes: free now and in the restored task */
	uint64_t hole_bytes;
	uint64_t hole_rest; /* offset in memory's data: address and bytes of what the region leaves free */
	bool hole_blocked;  /* hole_rest is wanted */
	uint64_t region_offset; /* of the task's slice in the job's shared region */
	uint64_t region_bytes;  /* of the slice; the region's head lies before it in the hole */
	uint64_t group_bytes;   /* of the slices of all that have the memory of this one, its own first */
	uint64_t slice;         /* where the task sees its slice */
	uint64_t spare;         /* behind that, in the hole: for mappings that are made there and moved */
	uint64_t spare_bytes;   /* as much as kinds asked for when they read the image */
	uint64_t vdso_parked;   /* where the kernel's vdso block waits while memory is rebuilt */
	uint64_t vdso_final;    /* where it ends up */
	bool vdso_is_32;        /* it is that of 32-bit programs, which is made in its place */
	struct vdso_bridge
		*bridge; /* the image's vdso is of another kernel and becomes this; NULL = it is not */
	uint64_t gadget; /* address of the exit gadget in the end */
	bool guarded; /* has seccomp filters or the like: built and let go under a tracer, see restore/guard.c */
	bool filtered;         /* these are filters, which are suspended meanwhile */
	bool traced;           /* some of its threads are */
	uint64_t built_offset; /* of a word in the region's head that is 1 once it can be attached to */
	uint64_t left_offset;  /* of a word there that is 1 once its leader has ended again, if that ends */
	size_t index;
};

/* Whether a thread executes 32-bit code. */
static inline bool plan_mode_is_32(const ThreadInfoX86 *info)
{
	return info && info->gpregs && info->gpregs->has_mode &&
	       info->gpregs->mode == USER_X86_REGS_MODE__COMPAT;
}

static inline bool plan_thread_is_32(const struct plan_thread *th)
{
	return plan_mode_is_32(th->core->thread_info);
}

/* The index of the first thread that runs in the end. */
static inline size_t plan_first(const struct plan_task *t)
{
	return t->threads.v[0].ended;
}

/*
 * Where the frame for the exit gadget goes: the alternate stack when the thread is not on it (its contents are
 * dead by definition, and stacks of coroutines may be nearly full), else below the red zone. Until then calls that take
 * addresses of 32 bits have their arguments there.
 */
uint64_t plan_frame_place(const struct plan_thread *th);

/*
 * So many bytes for arguments of the leader's own calls. One that ends has no frame; what lies below that of the next thread, which
 * is in its place by then, is as good.
 */
uint64_t plan_leader_scratch(const struct plan_task *t, size_t bytes);

/* A process of the image that has ended and is not waited for. */
struct plan_zombie {
	pid_t pid;
	CoreEntry *core;
	uint32_t uid, gid;
};

/* The master of a pseudo terminal. */
struct plan_terminal {
	uint64_t dev; /* of its devpts */
	uint32_t index;
	int fd; /* -1: taken */
};

struct plan {
	struct arena arena;
	InventoryEntry *inventory;
	struct plan_task *tasks; /* array of n_tasks, parents before children; the root is tasks[0] */
	size_t n_tasks;
	struct plan_zombie *zombies;
	size_t n_zombies;
	struct family family;    /* who makes whom; the context of a member is its task or zombie */
	struct plan_file *files; /* array of n_files, ascending by id */
	size_t n_files;
	VEC(struct plan_ns) namespaces; /* the root's before others of the type */
	VEC(FerryFileGuardEntry *) guards;
	VEC(void *) messages;                /* unpacked records, freed with the plan */
	VEC(int) sources;                    /* descriptors that temps refer to, kept open until the end */
	VEC(struct plan_terminal) terminals; /* that exist before their files do */
	int *idle_sources;                   /* those that nobody reads before it gets them; n_idle_sources */
	size_t n_idle_sources;
	FerryClocksEntry *clocks; /* NULL: the image has none */
	uint64_t
		pool_bytes; /* of addresses that all tasks inherit, as much as kinds asked for when they read the image */
	uint64_t
		pool; /* which ones: free in every task. Kinds map there, with MADV_DONTFORK until there are tasks */
	bool clocks_continue; /* tasks see CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from clocks */
	void **kind_data;     /* by kind index: what a kind's read function found */
};

void plan_release(struct plan *p);

/* Only the descriptors: for who ends next. */
void plan_close(struct plan *p);

/* A file of the image by id; NULL when there is none. */
struct plan_file *plan_file(const struct plan *p, uint32_t id);

/* What the image has about a mapping beyond its record; NULL = nothing. */
const FerryVmaEntry *plan_vma_extra(const struct plan_task *t, const VmaEntry *vma);

struct plan_task *plan_task(const struct plan *p, pid_t pid);

/* What a task's own PID namespace calls a process that the root's calls pid; 0: it is not in there. */
pid_t plan_number(const struct plan *p, const struct plan_task *t, pid_t pid);

/* The namespace with this id; NULL: ferry's own. */
struct plan_ns *plan_ns(const struct plan *p, enum proc_ns type, uint32_t id);

/* Whether the image has any of this type. */
bool plan_has_ns(const struct plan *p, enum proc_ns type);

/* Whether the root task gets a namespace of this type that is not ferry's. */
bool plan_own_ns(const struct plan *p, enum proc_ns type);

/* Keep fd open as long as the plan; returns it, or fd itself when negative, or -ENOMEM (fd is closed then). */
int plan_keep_source(struct plan *p, int fd);

/* The same for a terminal's master. */
must_check int plan_keep_terminal(struct plan *p, uint64_t dev, uint32_t index, int fd);

/* The one that was kept, which is the caller's from then on; -1: none. */
int plan_take_terminal(struct plan *p, uint64_t dev, uint32_t index);

/* The highest number that is temporary in a task. */
uint32_t plan_last_temp(const struct plan_task *t);

/* Reserve a temporary descriptor number in a task; returns it. -ENOMEM. */
int plan_temp_file(struct plan_task *t, struct plan_file *file, int flags);
int plan_temp_source(struct plan_task *t, int source);
