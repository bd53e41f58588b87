/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In what order a tree of processes has to be made so that everybody gets the parent, the session and the group that it
 * has to have. A number is inherited or one's own, never chosen: who is in a session descends from its leader, and a child
 * whose parent is in none of its ancestors' sessions came to that parent by another way. So some processes are made by
 * others than their parents, and leaders that are gone are made for the time that it takes.
 *
 * Plain data in, plain data out; nothing is created here.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"

enum { FAMILY_NONE = -1 };

/* What processes can share beyond what fork(2) leaves them. */
enum sharing_type { SHARING_VM, SHARING_SIGHAND, SHARING_FILES, SHARING_FS, SHARING_TYPES };

/* How a member comes to its parent. */
enum family_way {
	FAMILY_FORKED,       /* its parent forks it, as the session's member that it is */
	FAMILY_FORKED_EARLY, /* its parent forks it before it makes a session of its own */
	FAMILY_SIBLING, /* a child of the same parent, its session's leader or one that it shares with, makes it by CLONE_PARENT */
	FAMILY_ORPHAN, /* its session's leader, deeper in the tree, has it made by a child that ends; the parent takes it */
};

struct family_member {
	/* wanted; ppid is 0 for the first, sid and pgid are 0 where the maker's own are inherited */
	pid_t pid, ppid, pgid, sid;
	int exit_signal;
	pid_t shares
		[SHARING_TYPES]; /* whose memory, descriptor table... it has (CLONE_VM, CLONE_FILES...); 0 = its own */
	bool ends;               /* ends before the others run: a zombie, or a helper */
	bool helper;             /* nobody's: reaped, too */
	bool passes;             /* a helper that is gone again before the next member is made */
	void *context;

	/* planned */
	int parent, maker; /* index, FAMILY_NONE for the first */
	enum family_way way;
	pid_t birth_sid; /* session that it is made in */
	bool leads;      /* makes a process group of its own */
	bool moves;      /* and leaves it to others */
	int first_step;
	int first_made, last_made, next_made; /* whom it makes, in order */
};

/* Everybody has taken the steps of a stage before anybody takes one of the next. */
enum family_stage { FAMILY_CREATE, FAMILY_GROUP, FAMILY_MOVE, FAMILY_END, FAMILY_STAGES };

enum family_op {
	FAMILY_OP_CLONE,         /* make other */
	FAMILY_OP_CLONE_SIBLING, /* make other as a child of the own parent */
	FAMILY_OP_SETSID,
	FAMILY_OP_LEAD,       /* setpgid(0, 0) */
	FAMILY_OP_JOIN,       /* setpgid(0, pgid); pgid 0 is that of the maker of all */
	FAMILY_OP_ADOPT,      /* become the one that takes orphans */
	FAMILY_OP_ADOPT_LESS, /* and no more */
	FAMILY_OP_EXIT,
	FAMILY_OP_REAP,  /* wait for other, a helper, and forget it */
	FAMILY_OP_AWAIT, /* wait until other is a zombie */
};

struct family_step {
	enum family_stage stage;
	enum family_op op;
	int actor, other;
	int next; /* the actor's next step, FAMILY_NONE */
};

struct family {
	VEC(struct family_member) members; /* the first is [0] */
	VEC(int) by_pid;
	VEC(struct family_step) steps; /* right when taken one after the other */
	bool in_turn; /* steps of the first stage have to be taken so; else everybody takes its own */
	size_t n_steps[FAMILY_STAGES];
	pid_t spare; /* helpers without a number of their own get those below this one that nobody has */
};

void family_release(struct family *f);

/*
 * Add a member; the first has no parent in the family. Siblings are made in the order in which they are added, as far as
 * that can be. *ret_member is valid until the next one is added. EBADMSG: the number is taken.
 */
must_check int family_add(struct family *f, const struct family_member *wanted, struct ferry_error *err);

/* Plan the steps; adds helpers. EBADMSG: no such family can be. ENOTSUP: there is no way to make it. */
must_check int family_plan(struct family *f, struct ferry_error *err);

/* Whether anybody has a step in this stage. */
bool family_has_stage(const struct family *f, enum family_stage stage);

/* How many are still there when a stage is over. */
size_t family_count(const struct family *f, enum family_stage stage);

/* Index of the member with this number, FAMILY_NONE. */
int family_find(const struct family *f, pid_t pid);
