/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a tree to plain data. check looks from outside and stops nothing; collect works on a frozen tree and finds
 * every object, so that nothing new is discovered after it.
 */
#pragma once

#include <ferry/error.h>

#include "base/vec.h"
#include "collect/memories.h"
#include "freeze/freeze.h"
#include "model/family.h"
#include "model/kind.h"
#include "proc/read.h"

/* Everything that stands in the way of a dump. */
struct obstacles {
	VEC(struct ferry_error) v;
	bool failed; /* memory was short: the list is not complete */
	uint64_t
		image_bytes; /* of memory and of files without a name: what an image of the tree needs at most */
	check_memories large; /* of the tree, the parents first */
	size_t n_vmas;        /* mappings of the tree */
};

void obstacles_release(struct obstacles *o);

/*
 * List what cannot be dumped in the tree of root, without stopping it. Returns the number of obstacles, or -errno when
 * the tree itself could not be looked at.
 */
must_check int check_tree(pid_t root, const struct kern_caps *caps, const struct kind_options *options,
			  struct peers *peers, struct obstacles *ret, struct ferry_error *err);

/* Fill c->snap from the frozen tree. */
must_check int collect_tree(struct collect *c, struct frozen *f, struct ferry_error *err);

/* Predicates that check and collect share. */
must_check int collect_check_vma(const struct vma_view *view, struct ferry_error *err);

/* A task that is looked at, and what was read of it. */
struct check_task {
	pid_t pid, root, look;
	int proc_dir;                          /* of look, see struct snap_task */
	const struct proc_namespaces *of_root; /* NULL: it is the root */
	const struct kind_options *options;
	struct proc_status status;         /* filled by check_task_read(); the caller releases it */
	struct proc_stat stat;             /* of look; may be filled before */
	struct proc_namespaces namespaces; /* may be filled before */
};

must_check int check_task_read(struct check_task *t, struct ferry_error *err);
must_check int collect_check_task(const struct check_task *t, struct ferry_error *err);
must_check int collect_check_fd(const struct fd_view *view, const struct kind_options *options,
				const struct kind_ops **ret_kind, struct ferry_error *err);

/* Whether processes that hang together like this can be made again; plans how. OUTSIDE_SESSION, UNSUPPORTED_TASK. */
/* Whether we are told how a zombie has ended. */
must_check int collect_check_zombie(pid_t pid, struct ferry_error *err);

must_check int collect_check_family(struct family *f, const struct kern_caps *caps, bool shell_job,
				    struct ferry_error *err);

/* A process, and the thread through which it is looked at (snap_task.look). */
struct sharing_process {
	pid_t pid, look;
};

/* Who has an object that another one of the tree has is known by the first that was asked for. */
struct sharing {
	VEC(struct sharing_process) order[SHARING_TYPES];
};

void sharing_release(struct sharing *s);

/*
 * The owners of what a process has: itself, or one that was asked for before. UNSUPPORTED_TASK: it shares what ferry cannot bring
 * back; BUSY_TASK: its parent waits in vfork for it.
 */
must_check int collect_sharing(struct sharing *s, struct sharing_process process,
			       struct sharing_process parent, bool is_root, pid_t ret_owners[SHARING_TYPES],
			       struct ferry_error *err);

/* Whether root is a task or an ancestor of it. */
bool collect_is_below(pid_t pid, pid_t root);

/* Whether anybody outside of the tree, but for the parent of its first, has what its processes have. UNSUPPORTED_TASK */
must_check int collect_check_outside(const struct sharing *s, const struct family *f, pid_t parent,
				     struct ferry_error *err);

/*
 * Who shares memory can be neither stopped nor traced, see sharing.c. A live process and the owner of its memory; all of a tree
 * that stands.
 */
must_check int collect_check_sharer(pid_t pid, pid_t owner, struct ferry_error *err);
must_check int collect_check_shared(const struct snapshot *snap, struct ferry_error *err);

/* Whether any thread of the parent waits in vfork for this child. */
bool collect_in_vfork(struct sharing_process process, struct sharing_process parent);

/* Parts of collect_tree(), one file each. */
must_check int collect_zombies(struct collect *c, const struct frozen *f, struct ferry_error *err);
must_check int collect_tree_entry(struct snapshot *snap, const struct proc_stat *st,
				  FerryTreeEntry **ret_entry, struct ferry_error *err);
must_check int collect_relations(struct snapshot *snap, struct ferry_error *err);
must_check int collect_check_relations(struct collect *c, struct ferry_error *err);
must_check int collect_vmas(struct collect *c, struct snap_task *t, int proc_dir,
			    const struct proc_auxv *auxv, struct proc_maps *maps, struct ferry_error *err);
must_check int collect_fds(struct collect *c, struct snap_task *t, int proc_dir, const struct proc_fds *fds,
			   struct ferry_error *err);
must_check int collect_fds_discover(struct collect *c, struct ferry_error *err);
must_check int collect_fds_end(struct collect *c, struct ferry_error *err);
void collect_fds_release(struct collect *c);
must_check int collect_inside(struct collect *c, struct frozen *f, struct frozen_task *ft,
			      struct snap_task *t, struct ferry_error *err);
