/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts of one namespace, as mountinfo or an image tells them: plain data, the same for both. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/arena.h"
#include "base/macros.h"
#include "image/proto/mnt.pb-c.h"

struct proc_mounts;

enum { MOUNTS_MAX = 4096, MOUNTS_PATH_BYTES = 4096 };

/* Where a mount comes from when it is made again. */
enum mounts_from {
	MOUNTS_UNKNOWN,
	MOUNTS_HERE,     /* whoever restores has it at the same place */
	MOUNTS_ROOT,     /* the folder that he names for the root file system */
	MOUNTS_EXTERNAL, /* the folder or file that he names by the mount's key */
	MOUNTS_NEW,      /* a file system that is made, and maybe filled */
	MOUNTS_BIND,     /* a part of another mount of the tree */
};

enum { MOUNTS_NONE = -1 };

struct mounts_one {
	uint32_t id, parent_id;
	Fstype type;
	const char *fstype; /* the kernel's word */
	const char *root, *point, *source;
	const char *options; /* of the file system, without what is in the flags */
	uint32_t dev;        /* kernel's encoding */
	unsigned flags;      /* MS_* of the mount */
	unsigned sb_flags;   /* and of the file system */
	uint32_t shared, master;
	bool unbindable;
	const char *key; /* of an external one; NULL */
	size_t level;    /* how many lie below it at the same place */
	bool known;      /* has its counterpart on the other side */
	bool placed;     /* is in the order */

	/* what mounts_plan() found out */
	enum mounts_from from;
	int parent;        /* index; MOUNTS_NONE: the root of the namespace */
	const char *place; /* below the parent's root, "" = that itself */
	int of;            /* MOUNTS_BIND: index of the other */
	const char *below; /* and what of it, relative to its root; "" = all */
};

struct mounts_list {
	struct mounts_one *v;
	size_t n;
};

Fstype mounts_type(const char *name);
const char *mounts_type_name(const struct mounts_one *m);

/* Whether mounting it makes what was there: the kernel fills it, or ferry does. */
bool mounts_can_be_made(const struct mounts_one *m);

/* In the order in which mounts can be made: parents first. The strings stay those of mounts. */
must_check int mounts_from_proc(struct arena *a, const struct proc_mounts *mounts, struct mounts_list *ret,
				struct ferry_error *err);
must_check int mounts_order(struct arena *a, struct mounts_list *l, struct ferry_error *err);

/* The one at the same place that shows the same. */
struct mounts_one *mounts_find(const struct mounts_list *l, const struct mounts_one *m, bool same_dev);

/* What of path lies below folder, without '/' at its beginning; NULL: it does not. */
const char *mounts_below(const char *path, const char *folder);
