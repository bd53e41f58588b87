/* SPDX-License-Identifier: Apache-2.0 */
/* What all descriptor kinds share: names for messages, our copy of a description, the owner for signals. */
#pragma once

#include <fcntl.h>
#include <stdbool.h>

#include "image/files.h"
#include "image/proto/fown.pb-c.h"
#include "model/kind.h"
#include "proc/fdinfo.h"

/* "fd 7 of pid 41 (nginx)" */
void fd_view_name(const struct fd_view *view, char *ret_text, size_t n);

/* Our own descriptor of the description (pidfd_getfd), in view->copy; it belongs to the view's file. */
must_check int fd_view_copy(struct fd_view *view, struct ferry_error *err);

/*
 * The same for a look at a tree that runs (check): what the view has, or a copy for as long as the loan lives. One that lived longer
 * would hide the end of the object from whoever waits for it.
 */
struct fd_loan {
	int fd;
	bool ours;
};

must_check int fd_view_lend(const struct fd_view *view, struct fd_loan *ret, struct ferry_error *err);
void fd_loan_end(struct fd_loan *loan);

#define _cleanup_loan_ __attribute__((cleanup(fd_loan_end)))

/* The owner that gets SIGIO (F_SETOWN_EX, F_SETSIG). *ret belongs to the snapshot. */
must_check int fdcommon_owner(struct collect *c, struct fd_view *view, FownEntry **ret,
			      struct ferry_error *err);
FownEntry *fdcommon_no_owner(struct arena *a);

/* In the task: give the description its owner back. */
must_check int fdcommon_settle_owner(const FownEntry *fown, int fd, struct ferry_error *err);

/*
 * In a task: whether this is the one call of settle that is for the description and not for a further
 * descriptor of it. True once: in the task that owns the file, at the lowest number.
 */
bool fdcommon_settle_once(struct settle *s, struct plan_file *file);

/* In the task, once: owner, then O_ASYNC, which takes the number that SIGIO names. */
must_check int fdcommon_settle(const FownEntry *fown, uint32_t flags, int fd, struct ferry_error *err);

/* Flags of a description as records have them: without those that belong to the descriptor. */
static inline uint32_t fdcommon_flags(const struct fd_view *view)
{
	return view->info->flags & ~(uint32_t)O_CLOEXEC;
}

/* The writer of an image that several records go to; opened when it is first asked for. */
must_check int fdcommon_writer(struct dump *d, enum image_kind kind, struct image_writer **ret,
			       struct ferry_error *err);

/* The lowest number under which a task has a file of the image; -1 = none. */
int fdcommon_number(const struct plan_task *t, uint32_t id);

/*
 * In a task: take number fd from the task that makes the file (file->owner), once it is there, which its link tells. For what
 * does not pass through a socket, or has to be made in one certain task.
 */
must_check int fdcommon_take(const struct plan_file *file, const char *link, int fd, struct ferry_error *err);

/*
 * In a task, before its other descriptors are settled, for epoll instances may watch these: all numbers of a kind whose descriptions
 * only a task itself can make. make() makes one at number fd, once; others of the task are duplicates, and other tasks take it.
 */
must_check int fdcommon_settle_made(struct settle *s, const struct kind_ops *kind, const char *link,
				    int (*make)(struct settle *s, struct plan_file *file, int fd,
						struct ferry_error *err),
				    struct ferry_error *err);

/* A record of files.img without the message that its type promises. */
int fdcommon_no_record(const struct plan_file *file, struct ferry_error *err);

/* F_SETFL with the flags that can be changed after a description was made, O_ASYNC left out (fdcommon_settle). */
must_check int fdcommon_set_flags(int fd, uint32_t flags, struct ferry_error *err);

/* open(2) flags that a mapping needs of the description it maps. */
uint32_t fdcommon_mapped_flags(const struct vma_view *view);

/* A mapping's record when it maps vma->file; .map of kinds with such records. */
void fdcommon_mapped(const struct collect *c, const struct vma_view *view, struct snap_vma *vma);
must_check int fdcommon_map(struct reader *r, struct plan_task *t, const VmaEntry *entry, struct vma_map *m,
			    struct ferry_error *err);

/*
 * Run a function whose children are born in the PID namespace of the tree's root, in a process that has memory and descriptors in
 * common with us: we could go there ourselves, but an ordinary user not back. Its result, or -errno.
 */
must_check int fdcommon_with_children_there(const struct opener *o, int (*run)(void *context), void *context,
					    struct ferry_error *err);

/* Where else what a mapping maps can be opened: a descriptor of the task, or its executable. */
enum { FDCOMMON_REACH_BYTES = 64 };
must_check bool fdcommon_reach_mapped(const struct vma_view *view, char ret_path[FDCOMMON_REACH_BYTES]);

/* A mapping whose file can be reached by /proc/PID/map_files alone, which takes root: -EPERM where we may not. */
must_check int fdcommon_check_map_files(const struct vma_view *view, struct ferry_error *err);
