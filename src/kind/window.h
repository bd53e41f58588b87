/* SPDX-License-Identifier: Apache-2.0 */
/* Shared memory that is read where tasks have it mapped, by those who may not open the object itself. */
#pragma once

#include "model/kind.h"

/* Whether a mapping's object cannot be opened (/proc/PID/map_files takes a right of the machine's). */
must_check bool window_wanted(const struct vma_view *view);

/* A mapping of such an object: during check and collect, for window_check_end(). -ENOMEM. */
must_check int window_note(const struct vma_view *view, struct ferry_error *err);

/* All are known: a part of an object that no task has mapped, so that nobody can read it. As kind_ops.check_end. */
must_check int window_check_end(void *const *kind_data, size_t *at, struct ferry_error *err);

/* Enter a mapping as a way to read the object, through the thread look; which pages exist is asked in the task. -ENOMEM. */
must_check int window_add(struct collect *c, struct snap_shmem *shmem, pid_t look,
			  const struct vma_view *view, struct snap_vma *vma);

/* A place where ferry itself has the whole object mapped. -ENOMEM. */
must_check int window_add_own(struct collect *c, struct snap_shmem *shmem, const void *at);

void window_ask(const struct snap_task *t, int proc_dir, struct script *s);
must_check int window_answer(struct collect *c, struct snap_task *t, int proc_dir, const struct answers *a,
			     struct ferry_error *err);
