/* SPDX-License-Identifier: Apache-2.0 */
/* Working inside a user namespace, where an ordinary user may do what root does outside. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

/* Make a user namespace that has the caller's own ids, which stay what they are, and enter it. The caller has one thread. */
must_check int userns_new(struct ferry_error *err);

/* Enter the user namespace of a process unless it is the caller's. */
must_check int userns_enter(pid_t pid, struct ferry_error *err);

/* What user namespaces are made of: user_namespaces(7). Lower ids are those of the parent namespace. */
struct userns_extent {
	uint32_t first, lower, count;
};

enum { USERNS_EXTENTS = 340, USERNS_DEPTH = 32 };

struct userns_about {
	struct userns_extent uids[USERNS_EXTENTS], gids[USERNS_EXTENTS];
	uint32_t n_uids, n_gids;
	uint32_t owner; /* user id, as the caller's namespace knows it */
	bool deny_setgroups;
};

/* Whether a namespace, by descriptor, belongs to the caller's user namespace. */
bool userns_owns(int ns);

/* Look at the user namespace behind a descriptor, which is below the caller's own. */
must_check int userns_look(int fd, struct userns_about *ret, struct ferry_error *err);

/* Make one like that, below the one behind parent (-1: the caller's). */
must_check int userns_make(int parent, const struct userns_about *about, int *ret_fd,
			   struct ferry_error *err);

/* Make a namespace of a type (CLONE_NEWx) that belongs to the user namespace; file: its name in /proc/PID/ns. */
must_check int userns_make_owned(int userns, int type, const char *file, int *ret_fd,
				 struct ferry_error *err);
