/* SPDX-License-Identifier: Apache-2.0 */
/* What all descriptor kinds share: names for messages, our copy of a description, the owner for signals. */
#pragma once

#include "image/proto/fown.pb-c.h"
#include "model/kind.h"

/* "fd 7 of pid 41 (nginx)" */
void fd_view_name(const struct fd_view *view, char *ret_text, size_t n);

/* Our own descriptor of the description (pidfd_getfd), in view->copy; it belongs to the view's file. */
must_check int fd_view_copy(struct fd_view *view, struct ferry_error *err);

/* The owner that gets SIGIO (F_SETOWN_EX, F_SETSIG). *ret belongs to the snapshot. */
must_check int fdcommon_owner(struct collect *c, struct fd_view *view, FownEntry **ret, struct ferry_error *err);
FownEntry *fdcommon_no_owner(struct arena *a);

/* In the task: give the description its owner back. */
must_check int fdcommon_settle_owner(const FownEntry *fown, int fd, struct ferry_error *err);

/* F_SETFL with the flags that can be changed after a description was made. */
must_check int fdcommon_set_flags(int fd, uint32_t flags, struct ferry_error *err);
