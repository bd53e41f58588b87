/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that a dump found, as plain data. Records are the image's own protobuf structures (the record of an
 * eventfd is an EventfdFileEntry here and in files.img), so nothing is said twice. Everything lives in the
 * snapshot's arena. After collect no object is added; dump only reads.
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
#include "image/proto/mm.pb-c.h"
#include "image/proto/seccomp.pb-c.h"
#include "model/family.h"
#include "model/script.h"
#include "proc/status.h"
#include "proc/task.h"

struct blob_tracee;
struct ferry_thread;
struct kind_ops;

/* A file description (what descriptors refer to). */
struct snap_file {
	FileEntry *entry; /* .id is the id that everything else uses */
	const struct kind_ops *kind;
	void *data;        /* the kind's own, in the arena; NULL */
	int copy;          /* our own descriptor for it while the tree is frozen, -1 = none taken */
	pid_t pid, look;   /* a task (see snap_task) and a number in it where the description can be found */
	int fd;            /* -1: not in a descriptor table (mapped file, executable, directory) */
	uint64_t ino, dev; /* as stat(2) tells them, of what is in a table */
	uint32_t mode;
};

struct snap_fd {
	int fd;
	bool cloexec;
	uint32_t file; /* index in snapshot.files */
};

struct snap_vma {
	VmaEntry *entry;
	uint32_t file;              /* index in snapshot.files, or SNAP_NO_FILE */
	uint64_t inode, dev;        /* of the mapped object */
	bool private_;              /* copy-on-write */
	bool dump_pages;            /* its changed pages belong to the image */
	bool common;                /* others have some of its pages mapped, too */
	bool ask_common;            /* whether that is so is not known */
	uint64_t watched;           /* PROC_VM(UFFD_x) flags that it has */
	bool guards;                /* some of its pages may be guard pages */
	struct snap_window *window; /* shared memory is read through it; NULL */
	FerryVmaEntry *extra;       /* what the record has no field for; NULL = nothing */
};

enum { SNAP_NO_FILE = 0xffffffffu };

/* Where a kind's calls and data start in the script of a task or thread; see kind.h. */
struct snap_ask {
	uint32_t call;
	uint64_t data;
};

struct snap_thread {
	pid_t tid;
	bool ended;      /* the leader, while others run: a zombie that can be asked for nothing */
	pid_t inner_tid; /* as the image has it: in the PID namespace of the tree's root */
	CoreEntry *core;
	FerryTaskEntry *extra;
	struct script script;             /* calls to run inside the thread */
	struct snap_ask *asks;            /* by kind index */
	struct ferry_thread *control;     /* while the tree is frozen; not for dump */
	struct proc_status status;        /* read once, while it stands in its own place */
	pid_t tracer;                     /* thread of the tree that traces it; 0 = none */
	const struct blob_tracee *traced; /* what that one has told; NULL */
};

/* Where a process has a part of a shared memory object mapped, for those who may not open the object itself. */
struct snap_window {
	struct snap_window *next;
	pid_t pid;
	uint64_t address, offset, bytes;
	const uint8_t
		*there; /* a byte for each page: whether it exists, as mincore(2) tells; NULL = any may */
};

/* A shared memory object, anonymous or a memfd, by the inode that its mappings show. */
struct snap_shmem {
	uint64_t inode, dev;
	uint64_t shmid; /* id in the image */
	uint64_t bytes;
	char *path; /* in /proc, where it can be opened while the tree is frozen; NULL: ... */
	struct snap_window *windows; /* ... it is read through these, which cover it */
};

/* A number of a thread, group or session, as ferry and as the root's PID namespace know it. */
struct snap_pid {
	pid_t pid, inner;
};

/* A namespace that tasks of the tree live in and ferry does not. */
struct snap_ns {
	enum proc_ns type;
	uint64_t ino;
	uint32_t id; /* in the image; one sequence over all types */
	pid_t pid;   /* a task that lives in it; 0 = none does */
	void *data;  /* of its kind, in the arena */
};

struct snap_task {
	pid_t pid, ppid, pgid, sid; /* in ferry's PID namespace */
	/*
	 * The thread through which it is looked at, whose number stands for the process in /proc and in system calls: the leader,
	 * or when that has ended the next one. Everything that opens, reads or compares uses this number; pid is the name.
	 */
	pid_t look;
	pid_t inner_pid, inner_ppid, inner_pgid, inner_sid; /* as the image has them; 0: from outside */
	bool is_root;
	bool may_come_late;              /* it can be restored before its memory is there */
	bool is_32;                      /* a 32-bit program: it can have no memory above 4 GiB */
	uint64_t ns_ino[PROC_NS_COUNT];  /* by enum proc_ns */
	uint32_t order;                  /* among tasks and zombies: older siblings first */
	VEC(struct snap_thread) threads; /* leader first, also one that has ended */
	VEC(struct snap_fd) fds;         /* ascending */
	VEC(struct snap_vma) vmas;       /* ascending */
	MmEntry *mm;
	FerryMmEntry *mm_extra; /* its vmas are the snap_vma's extras, gathered when it is written */
	FsEntry *fs;
	TaskKobjIdsEntry *ids;
	FerryTreeEntry *tree;
	pid_t shares
		[SHARING_TYPES]; /* an earlier task that has the same; 0 = none. Descriptors are that one's */
	struct snap_task
		*memory; /* whose memory it has: itself, or an earlier task, which alone has its mappings */
	uint64_t ours_start,
		ours_end; /* memory of ferry's own that is mapped there while the tree is frozen */
	uint64_t vdso_start, vdso_bytes; /* 0 = none */
	uint64_t vdso_slack;             /* offset behind the vdso's own bytes; 0 = not known */
	struct proc_stat stat;           /* of look; read once, while it stands */
	struct proc_settings settings;   /* likewise */
	struct script script;            /* calls to run once in the task, by snapshot_look() */
	struct snap_ask *asks;
	uint64_t asked_after_ns;        /* how long after the snapshot's clocks were read the script ran */
	const struct snap_task *parent; /* NULL for the root */
	VEC(pid_t) children;            /* those that have not ended */
	bool own_userns;                /* it lives in another user namespace than ferry */
	bool maps_uring;                /* something of an io_uring is mapped in its memory */
};

/* A process that has ended and that its parent has not waited for. */
struct snap_zombie {
	pid_t pid, ppid, pgid, sid;
	uint32_t order; /* as snap_task's */
	CoreEntry *core;
	FerryTreeEntry *tree;
};

/* A child that stopped or went on, which its parent has not been told. */
struct snap_untold {
	pid_t pid;
	bool continued;
};

/* How one process of the tree hangs together with the others. */
struct snap_relation {
	uint32_t order;
	pid_t pid, ppid, pgid, sid;   /* ppid: 0 = the root */
	const struct snap_task *task; /* NULL: a zombie */
	const FerryTreeEntry *tree;
};

struct snapshot {
	struct arena arena;
	VEC(struct snap_task) tasks; /* parents before children */
	VEC(struct snap_zombie) zombies;
	VEC(struct snap_untold) untold;
	struct snap_relation *relations; /* of all of them, parents before children, older siblings first */
	size_t n_relations;
	VEC(struct snap_file) files;
	VEC(struct snap_ns) namespaces; /* those that are not ferry's; that of the root first of its type */
	VEC(struct snap_pid) pids;      /* empty when the root lives in ferry's PID namespace */
	uint32_t pid_level; /* PID namespaces between ferry's and the root's: index into proc_pids.v */
	VEC(struct snap_shmem) shmems;
	VEC(FerryFileGuardEntry *) guards;
	VEC(SeccompFilter *) seccomp_filters;            /* as seccomp.img has them */
	uint64_t monotonic_ns, boottime_ns, realtime_ns; /* as the tree sees them */
	uint64_t uptime_us;
	uint64_t clocks_read_ns; /* our CLOCK_MONOTONIC when the tree's clocks were read */
	uint32_t next_file_id;
	uint32_t next_object_id; /* pipes, sockets, shared memory: one sequence */
	VEC(uint32_t) shmids;    /* given out by snapshot_shmid() */
};

void snapshot_release(struct snapshot *s);

/* vma->extra, made when it is missing; NULL when memory is short. */
FerryVmaEntry *snapshot_vma_extra(struct snapshot *s, struct snap_vma *vma);

/*
 * An id for a shared memory object in the image; those of System V segments are below. It is the same one in each dump of a chain, as
 * long as the object lives. 0: memory is short.
 */
uint32_t snapshot_shmid(struct snapshot *s, uint64_t inode);

/* The thread that stands for the process while it is looked at; see snap_task.look. */
static inline struct snap_thread *snapshot_look(const struct snap_task *t)
{
	return &t->threads.v[t->look != t->pid];
}

/* A task by PID, NULL when it is not part of the tree. */
struct snap_task *snapshot_task(struct snapshot *s, pid_t pid);

/*
 * What the image calls a process, thread, process group or session that ferry's PID namespace calls pid. pid itself when the
 * root lives in ferry's PID namespace; 0 when it belongs to nobody of the tree.
 */
pid_t snapshot_inner_pid(const struct snapshot *s, pid_t pid);

/* The namespace with this number; NULL: it is ferry's own. */
struct snap_ns *snapshot_ns(const struct snapshot *s, enum proc_ns type, uint64_t ino);

/* The same, entered if it is not yet; pid: of a task by which it can be opened, 0 = none. NULL: no memory. */
struct snap_ns *snapshot_add_ns(struct snapshot *s, enum proc_ns type, uint64_t ino, pid_t pid);
