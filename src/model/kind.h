/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A resource kind: how one kind of thing that tasks hold is recognised, saved and brought back. One file in src/kind/
 * has one `const struct kind_ops`; kind/kinds.def lists them all, in the order in which task kinds run. A function
 * that a kind does not need stays NULL.
 *
 * The life of a resource:
 *   check     before anything stops, by looking from outside: can this be dumped?
 *   ask       which system calls must run inside the task or thread to learn its state (they are batched)
 *   collect   the tree is frozen: fill the record
 *   dump      the tree is frozen: write payloads (queues, contents) that are too large for the record
 *   read      restore: load further image files, link records to each other
 *   restore   restore: create the object (descriptor kinds), or append calls to the script (task kinds)
 *   settle    restore: in the task, when all its descriptors have their final numbers
 *
 * A mapping is memory of the task's own (private and anonymous: collect/vmas.c, restore/memory.c), or a kind has it:
 * owns_vma, check_vma and collect_vma from the task to the record, owns_record and map from the record to the task.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/macros.h"
#include "model/plan.h"
#include "model/snapshot.h"

struct image_dir;
struct kern_caps;
struct proc_fdinfo;
struct proc_status;
struct proc_vma;
struct warden;
struct netlocks;
struct peers;
struct sharing;
struct pause;
struct proc_mounts;

/* What becomes of control groups. */
struct cgroup_options {
	const char *mode;         /* word of --manage-cgroups; NULL: none was asked for */
	const char *const *roots; /* "[CONTROLLER:]PATH" */
	size_t n_roots;
	const char *yard; /* a directory with the hierarchies; NULL = they are reached otherwise */
	const char *const *controllers; /* dump: hierarchies of these alone; none = all */
	size_t n_controllers;
	const char *props;         /* dump: see kind/cgroup_props.h; NULL = what ferry knows */
	const struct pause *pause; /* dump: those that somebody else froze, thawed for it; NULL = none */
};

/* What a job was asked for, as far as kinds care; from engine/options.def. */
struct kind_options {
	bool tcp_established;
	const struct kern_caps *caps;
	bool leave_running;
	bool shell_job;
	bool orphan_pts_master; /* terminals of programs outside go along, see opener.give_terminal */
	bool foreground;        /* restore: ferry waits for the tree, which takes its place in the terminal */
	bool tcp_close;         /* connections end, and come back as sockets whose connection is over */
	bool skip_in_flight;    /* TCP connections that nobody accepted yet are left out */
	uint64_t io_uring_max_replay; /* requests that may bring a ring to its position */
	bool ext_unix_sk;             /* datagram sockets may be connected to names outside of the tree */
	uint32_t
		service_socket; /* inode of the socket by which a task of the tree asked for this dump; 0: none did */
	const char *const *external; /* what may be connected to the outside, see kind/external.h */
	size_t n_external;
	const char *const *inherited; /* descriptors of ferry that take the place of such */
	size_t n_inherited;
	uint32_t timeout_ms; /* longest wait for what ends by itself */
	bool moving; /* a migration: addresses leave the source before its end, and reach the target after its sockets */
	uint64_t ghost_limit; /* bytes of a deleted file that are taken along; 0 = any number */
	bool file_locks;      /* with criu_compat: take locks along; without it they always are */
	bool memory_only;     /* nothing else is stored: what hinders that later is no matter now */
	bool criu_compat;     /* started under the name criu: CRIU's behaviour where the two differ */
	const char *
		file_validation; /* with criu_compat: "filesize" or "buildid": the sizes of all files count; NULL: those of programs */
	bool any_rights; /* with it: permissions of files may have changed */
	struct cgroup_options cgroups;
	bool empty_net;            /* what is in network namespaces is left to the caller */
	const char *const *joined; /* restore: namespaces to live in, "TYPE:FILE" or "TYPE:PID" */
	size_t n_joined;
	struct proc_namespaces own_namespaces; /* those that ferry was started in */
	int home_net;                          /* a descriptor of the network namespace among them; -1 */
	struct proc_looker *looker;            /* how many threads are looked at; may be NULL */
	const struct proc_mounts
		*outside_mounts; /* of its mount namespace, when the tree has another; NULL */
	/* Whose paths ferry sees: a thread of the tree's root, and its mount namespace. */
	pid_t view_pid;
	uint64_t view_ns;
	/* Mount namespace, root directory and /proc that ferry was started in, once it works in others; -1 before. */
	int home_mounts, home_root, home_proc;
	bool ext_sharing; /* mounts from outside may share with others outside what is mounted in them */
	const char *const *skip_mnt; /* mount points that are left out */
	size_t n_skip_mnt;
	const char *const *enable_fs; /* file systems that are mounted again as they were, without contents */
	size_t n_enable_fs;
	const char *root; /* restore: folder with the root file system of a tree that has its own; NULL */
};

/* A descriptor as check and collect see it. */
struct fd_view {
	pid_t pid, look; /* see struct snap_task */
	int fd;
	const char *comm;
	const char *link; /* target of /proc/PID/fd/N */
	struct stat stat;
	const struct proc_fdinfo *info;
	bool frozen;         /* the tree stands: collect, and not check */
	int copy;            /* our duplicate (pidfd_getfd); -1 until fd_view_copy() */
	int pidfd;           /* of the task; for fd_view_copy() */
	struct peers *peers; /* see struct collect */
	struct arena *arena; /* lives as long as the check or collect */
	void **kind_data;    /* by kind index: what a kind keeps during one check or collect, in the arena */
};

/* A mapping as check and collect see it. */
struct vma_view {
	pid_t pid, look;            /* see struct snap_task */
	int proc_dir;               /* /proc/PID of the latter */
	const struct proc_vma *vma; /* check: without vm_flags */
	const char *name;           /* as /proc/PID/maps shows it */
	const struct kind_options *options;
	struct peers *peers; /* see struct collect */
	struct arena *arena; /* lives as long as the check or collect */
	void **kind_data;    /* see struct fd_view */
};

/* How a mapping is made again: what mmap(2) gets at the record's place. */
struct vma_map {
	uint64_t prot, flags; /* without MAP_FIXED */
	uint64_t offset;
	int fd;    /* as the task numbers it (plan_temp_file(), plan_temp_source()); -1 = anonymous */
	bool made; /* the kind appended calls to t->memory that make it; mmap(2) is not called */
};

/* What collect works with. */
struct collect {
	struct snapshot *snap;
	const struct kern_caps *caps;
	const struct kind_options *options;
	const struct fault *fault;
	const struct log_sink *log;
	struct warden *warden;      /* changes outside ferry are entered here before they are made */
	struct netlocks *netlocks;  /* the job's, which owns them */
	struct peers *peers;        /* who holds pipes outside of the tree; NULL = nobody asks */
	struct proc_mapper *mapper; /* how mappings are read; NULL: from smaps */
	struct sharing *sharing;    /* who has what of what processes can share */
	void *fd_order;             /* how collect finds descriptions again */
	/*
	 * For discover(): the description behind a descriptor of our own becomes one of the snapshot, if it is not yet. From
	 * then on the descriptor belongs to the snapshot, also after a failure. *ret_index: in snapshot.files.
	 */
	int (*describe)(struct collect *c, int fd, uint32_t *ret_index, struct ferry_error *err);
	void *kind_data
		[64]; /* by kind index: what a kind keeps during one collect, in the snapshot's arena */
};

/* Results of the calls that a kind asked for, in the order in which it appended them. */
struct answers {
	const struct blob_call *calls; /* the kind's first call */
	const char *data;              /* the kind's first data; each script_put() is 64-byte aligned */
};

struct dump {
	struct snapshot *snap;
	struct image_dir *dir;
	const struct kind_options *options;
	const struct fault *fault;
	const struct log_sink *log;
	struct warden *warden;
	struct image_writer **writers; /* by enum image_file: shared images that several records go to */
	void *const *kind_data;        /* see struct collect */
};

struct reader {
	struct plan *plan;
	struct image_dir *dir;
	const struct kern_caps *caps;
	const struct kind_options *options;
	const struct fault *fault;
	const struct log_sink *log;
};

/* What restore functions of descriptor kinds work with; runs in the process that opens. */
struct opener;

/* A function that runs in a task that exists already; a fork of ours, so it finds itself at the same address. */
typedef int opener_function(void *arguments, int *fds, size_t *n_fds);

struct opener_call {
	opener_function *run; /* returns 0 or -errno; may change the arguments, and replace the descriptors */
	void *arguments;
	size_t bytes; /* of the arguments; at most OPENER_CALL_BYTES */
	int fds[4];   /* in: ours, lent; out: new ones, owned by the caller */
	size_t n_fds;
	pid_t pid; /* out: who ran it, in ferry's PID namespace */
};

enum { OPENER_CALL_BYTES = 8192 };

struct opener {
	struct plan *plan;
	struct image_dir *dir;
	const struct kind_options *options;
	const struct fault *fault;
	const struct log_sink *log;
	struct warden *warden;
	struct netlocks *netlocks;
	uint32_t net; /* network namespace that it stands in, as plan_file.net */
	bool listens; /* TCP sockets that listen are open, all of them */
	/* Run a function in a task; what is stamped with the caller's PID has to be made there. */
	int (*in_task)(struct opener *o, const struct plan_task *t, struct opener_call *call,
		       struct ferry_error *err);
	void *in_task_context;
	/* Who asked for the restore takes the program's end of a terminal: a copy of the descriptor. */
	int (*give_terminal)(struct opener *o, int fd, struct ferry_error *err);
	void *give_context;
	/* What ferry's PID namespace calls a task that exists. */
	pid_t (*pid_of)(const struct opener *o, const struct plan_task *t);
};

/* In a task, after its descriptors have their numbers. */
struct settle {
	struct plan *plan;
	struct plan_task *task;
	const struct log_sink *log;
};

/* What a kind of namespaces does. Ferry stands in the namespace where a function says so. */
struct ns_ops {
	enum proc_ns type;
	bool enter; /* collect() runs in the namespace */

	/* A task's namespace of this type is not ferry's: can it be dumped? */
	int (*check)(pid_t pid, int proc_dir, const struct kind_options *options, struct ferry_error *err);
	int (*collect)(struct collect *c, struct snap_ns *ns, struct ferry_error *err);
	/* All of the type at once, before those of others; may enter further ones into the snapshot. */
	int (*collect_all)(struct collect *c, struct ferry_error *err);
	int (*dump)(struct dump *d, struct snap_ns *ns, struct ferry_error *err);

	/*
	 * Restore: in each task, which stands in its namespace of this type, before it has memory or children. maker: as whose child it
	 * begins; NULL = ferry.
	 */
	int (*entered)(const struct plan *p, const struct plan_task *t, const struct plan_task *maker,
		       struct ferry_error *err);
	/* Restore: set ns->fd to one that the caller gave for it, 1; 0: none was given. */
	int (*find)(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
	/* Restore: one that was given is going to be used, and ferry stands in it. */
	int (*taken)(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
	/* Restore: make it, and set ns->fd; without this unshare(2) does. */
	int (*make)(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
	/* Restore: ns was just made, and ferry stands in it. */
	int (*restore)(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
	/* Restore: all of the type are there. ferry stands in one of them, and may in another afterwards. */
	int (*fill)(struct opener *o, struct ferry_error *err);
	/* The root's, when its tasks and their PID namespace exist; see opener.in_task. */
	int (*finish)(struct opener *o, struct plan_ns *ns, struct ferry_error *err);
};

struct kind_ops {
	const char *name;        /* "eventfd": in errors, documentation and FERRY_KIND tests */
	const char *what;        /* one line for the table of kinds */
	int fd_type;             /* FD_TYPES__x of a descriptor kind; -1 for a task kind */
	int image_file;          /* enum image_file that .dump shares between records; -1 none */
	const struct ns_ops *ns; /* a kind of namespaces; NULL */
	bool late;               /* restore() runs when the tasks exist, so it may use opener.in_task */
	/* The same for single files of a kind that is not late; NULL = none. */
	bool (*is_late)(const struct plan_file *file);
	bool (*is_last)(const struct plan_file *file); /* even later: /proc is that of the tasks by then */
	/*
	 * Nobody asks for plan_file.fd between restore() and the tasks that get it, and restore() knows no namespaces: it may run as
	 * late as that.
	 */
	bool is_alone;

	/* descriptors */
	bool (*owns)(const struct fd_view *view);
	int (*check)(const struct fd_view *view, const struct kind_options *options, struct ferry_error *err);
	/*
	 * All descriptors are known: what only shows then. Negative: an obstacle; called again with *at as it was left until
	 * it returns 0.
	 */
	int (*check_end)(void *const *kind_data, size_t *at, struct ferry_error *err);
	int (*collect)(struct collect *c, struct fd_view *view, struct snap_file *file,
		       struct ferry_error *err);
	/* Every table was collected: find descriptions that are nowhere but inside of others, in queues for instance. */
	int (*discover)(struct collect *c, struct ferry_error *err);
	/* Every descriptor was collected: what is done for all of them together. */
	int (*collect_end)(struct collect *c, struct ferry_error *err);
	int (*dump)(struct dump *d, struct snap_file *file, struct ferry_error *err);
	int (*restore)(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err);
	int (*settle)(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err);

	/*
	 * Every descriptor of every task, whatever kind owns it: what a kind finds on descriptors of others. collect_fd() comes
	 * after the owner's collect().
	 */
	int (*check_fd)(const struct fd_view *view, const struct kind_options *options,
			struct ferry_error *err);
	int (*collect_fd)(struct collect *c, const struct snap_task *t, const struct fd_view *view,
			  const struct snap_file *file, struct ferry_error *err);

	/* mappings; of all kinds the first that agrees */
	bool (*owns_vma)(const struct vma_view *view);
	int (*check_vma)(const struct vma_view *view, struct ferry_error *err);
	/*
	 * vma->entry has place, protection and what was advised; to fill in: status, flags (MAP_PRIVATE, MAP_SHARED, ...),
	 * shmid. vma->file: the description that is mapped, when it is one of the snapshot's files.
	 */
	int (*collect_vma)(struct collect *c, struct snap_task *t, const struct vma_view *view,
			   struct snap_vma *vma, struct ferry_error *err);
	bool (*owns_record)(const VmaEntry *entry);
	/* mmap(2) takes no address for them: they are mapped while no other place is free. No protection but that of the record. */
	bool map_anywhere;
	/* m has what the record says; the kind changes what differs. */
	int (*map)(struct reader *r, struct plan_task *t, const VmaEntry *entry, struct vma_map *m,
		   struct ferry_error *err);

	/* tasks and threads; t->threads.v[0] is the leader, and proc_dir is that of the process also where a thread is meant */
	int (*check_task)(pid_t pid, int proc_dir, const struct proc_status *status,
			  const struct kind_options *options, struct ferry_error *err);
	void (*ask_task)(const struct snap_task *t, int proc_dir, struct script *s);
	void (*ask_thread)(const struct snap_task *t, const struct snap_thread *th, struct script *s);
	int (*collect_task)(struct collect *c, struct snap_task *t, int proc_dir, const struct answers *a,
			    struct ferry_error *err);
	int (*collect_thread)(struct collect *c, struct snap_task *t, struct snap_thread *th, int proc_dir,
			      const struct answers *a, struct ferry_error *err);
	/* Instead of collect_thread() for a leader that has ended while others run (snap_thread.ended): it cannot be asked. */
	int (*collect_ended)(struct collect *c, struct snap_task *t, struct snap_thread *th, int proc_dir,
			     const struct answers *a, struct ferry_error *err);
	int (*restore_task)(struct reader *r, struct plan_task *t, struct script *s, struct ferry_error *err);
	int (*restore_thread)(struct reader *r, struct plan_task *t, struct plan_thread *th, struct script *s,
			      struct ferry_error *err);

	/* in a task that just became a session leader, before it has children of that session */
	int (*join_session)(struct settle *s, struct ferry_error *err);

	/* in the task, before its memory is replaced: what is set through its files in /proc */
	int (*settle_task)(struct settle *s, struct ferry_error *err);

	/* once a job, after dump() of every file */
	int (*dump_end)(struct dump *d, struct ferry_error *err);

	/* both */
	int (*read)(struct reader *r, struct ferry_error *err);
	/*
	 * The image is complete (or the dump failed): take back what was changed outside; kill: the tasks are about to
	 * be killed for good, so what ends with them has to end silently. Called once a job, also after a failure.
	 */
	int (*after)(struct collect *c, struct image_dir *dir, bool kill, struct ferry_error *err);
	/*
	 * Restore: if read() left something in plan.kind_data: nothing was made yet, but may be from now on; what namespaces and tasks need
	 * of the machine.
	 */
	int (*prepare)(struct opener *o, struct ferry_error *err);
	/* Restore: every file of the image is open, no task has one yet: what one needs another for. */
	int (*opened)(struct opener *o, struct ferry_error *err);
	/* Restore: every task stands at the barrier, with its memory and descriptors. */
	int (*ready)(struct opener *o, struct ferry_error *err);
	/* Restore: everything stands at the barrier; what has to happen to our own copies before it opens. Cannot fail. */
	void (*before_run)(struct opener *o);
	/* Restore: every task runs its own code, and nothing of ours any more. Cannot fail. */
	void (*left)(struct opener *o);
	/* Restore: it failed and every task is gone: take back what was made outside. Cannot fail. */
	void (*abandon)(struct opener *o);
};
