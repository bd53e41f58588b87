/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the order in which a tree is made.
 *
 * Kernel rules that it builds on: a child starts in its maker's session and group; setsid(2) takes the own number and
 * only who leads no group can call it; setpgid(2) joins a group of the own session; CLONE_PARENT makes a sibling, with the
 * maker's exit signal; the children of who ends go to the nearest ancestor that called prctl(PR_SET_CHILD_SUBREAPER) and
 * tell it by SIGCHLD when they end.
 *
 * Does not handle: children of threads other than the leader (they come back as the leader's); two processes that
 * each are in the group of the other.
 */
#include "model/family.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/error.h"

enum { FAMILY_PID_LEAST = 2 };

void family_release(struct family *f)
{
	vec_release(&f->members);
	vec_release(&f->by_pid);
	vec_release(&f->steps);
}

/* Where a number is among by_pid, or belongs. */
static size_t family_place(const struct family *f, pid_t pid)
{
	size_t low = 0, high = f->by_pid.n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (f->members.v[f->by_pid.v[middle]].pid < pid)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int family_find(const struct family *f, pid_t pid)
{
	size_t at = family_place(f, pid);
	return at < f->by_pid.n && f->members.v[f->by_pid.v[at]].pid == pid ? f->by_pid.v[at] : FAMILY_NONE;
}

int family_add(struct family *f, const struct family_member *wanted, struct ferry_error *err)
{
	if (wanted->pid <= 0 || family_find(f, wanted->pid) != FAMILY_NONE)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "pid %d is in the image twice",
				 wanted->pid);
	size_t at = family_place(f, wanted->pid);
	struct family_member *m = vec_push(&f->members);
	int *slot = m ? vec_push(&f->by_pid) : NULL;
	if (!slot)
		return error_memory(err);
	*m = *wanted;
	m->parent = m->maker = m->first_step = FAMILY_NONE;
	m->first_made = m->last_made = m->next_made = FAMILY_NONE;
	memmove(f->by_pid.v + at + 1, f->by_pid.v + at, (f->by_pid.n - 1 - at) * sizeof(*f->by_pid.v));
	f->by_pid.v[at] = (int)f->members.n - 1;
	return 0;
}

static bool family_leads_session(const struct family_member *m)
{
	return m->sid == m->pid;
}

static bool family_is_below(const struct family *f, int member, int ancestor)
{
	for (int i = f->members.v[member].parent; i != FAMILY_NONE; i = f->members.v[i].parent)
		if (i == ancestor)
			return true;
	return false;
}

static int family_depth(const struct family *f, int member)
{
	int depth = 0;
	for (int i = f->members.v[member].parent; i != FAMILY_NONE; i = f->members.v[i].parent)
		depth++;
	return depth;
}

static int family_no_way(const struct family_member *m, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			 "pid %d cannot be made: how the child of pid %d came into session %d is not known",
			 m->pid, m->ppid, m->sid);
}

/* ------------------------------------------------------------------- relations */

/* A session or group that is not ours is the same for all that are in it: what the maker of the first has. */
static void family_inherit(struct family *f)
{
	pid_t session = f->members.v[0].sid, group = f->members.v[0].pgid;
	bool session_outside = family_find(f, session) == FAMILY_NONE,
	     group_outside = family_find(f, group) == FAMILY_NONE;
	vec_foreach(m, &f->members) {
		if (session_outside && m->sid == session)
			m->sid = 0;
		if (session_outside && group_outside && m->pgid == group)
			m->pgid = 0;
	}
}

static int family_link(struct family *f, struct ferry_error *err)
{
	family_inherit(f);
	for (size_t i = 1; i < f->members.n; i++) {
		struct family_member *m = &f->members.v[i];
		m->parent = family_find(f, m->ppid);
		if (m->parent == FAMILY_NONE || m->parent >= (int)i || f->members.v[m->parent].ends)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "pid %d has no parent %d that comes before it and lives", m->pid,
					 m->ppid);
	}
	vec_foreach(m, &f->members)
		m->birth_sid = family_leads_session(m) ? FAMILY_NONE : m->sid;
	return 0;
}

static int family_add_helper(struct family *f, pid_t pid, pid_t sid, int parent, struct ferry_error *err)
{
	struct family_member helper = {
		.pid = pid,
		.ppid = f->members.v[parent].pid,
		.sid = sid,
		.pgid = pid,
		.exit_signal = SIGCHLD,
		.ends = true,
		.helper = true,
	};
	int r = family_add(f, &helper, err);
	if (r < 0)
		return r;
	struct family_member *m = &f->members.v[f->members.n - 1];
	m->parent = parent;
	m->birth_sid = sid == pid ? FAMILY_NONE : sid;
	return 0;
}

/* -------------------------------------------------------------------- sessions */

/* Whether a member cannot just be forked by its parent as it is in the end. */
static bool family_is_foreign(const struct family *f, const struct family_member *m)
{
	return m->parent != FAMILY_NONE && m->birth_sid != FAMILY_NONE &&
	       m->birth_sid != f->members.v[m->parent].sid;
}

/*
 * A child in the session of somebody who is not below its parent: the parent was in that session itself when it made the
 * child, and made its own later. Then it has to be made in that session, too. Children come before their parents here.
 */
static int family_hand_up(struct family *f, struct ferry_error *err)
{
	for (size_t i = f->members.n; i-- > 1;) {
		struct family_member *m = &f->members.v[i], *parent = &f->members.v[m->parent];
		int leader = m->birth_sid > 0 ? family_find(f, m->birth_sid) : FAMILY_NONE;
		/* Only orphans are sure to tell by SIGCHLD when they end: who tells otherwise is its parent's own child. */
		bool gone = m->birth_sid > 0 && leader == FAMILY_NONE,
		     own = m->exit_signal != SIGCHLD && family_leads_session(parent) && m->parent != 0;
		if (!family_is_foreign(f, m) || m->way == FAMILY_FORKED_EARLY || (gone && !own))
			continue;
		if (leader != FAMILY_NONE && family_is_below(f, leader, m->parent))
			continue;
		if (!family_leads_session(parent) ||
		    (parent->birth_sid != FAMILY_NONE && parent->birth_sid != m->birth_sid))
			return family_no_way(m, err);
		m->way = FAMILY_FORKED_EARLY;
		parent->birth_sid = m->birth_sid;
	}
	return 0;
}

/* Members of a session without leader that are still to be brought to their parents. */
static bool family_awaits_leader(const struct family *f, const struct family_member *m, pid_t sid)
{
	return m->birth_sid == sid && family_is_foreign(f, m) && m->way != FAMILY_FORKED_EARLY;
}

static int family_deepest_parent(const struct family *f, pid_t sid)
{
	int deepest = FAMILY_NONE, depth = -1;
	vec_foreach(m, &f->members) {
		int d = family_awaits_leader(f, m, sid) ? family_depth(f, m->parent) : -1;
		if (d <= depth)
			continue;
		deepest = m->parent;
		depth = d;
	}
	return deepest;
}

/* A member that a leader below that parent could not make and hand up. */
static int family_find_stray(const struct family *f, pid_t sid, int parent)
{
	for (size_t i = 0; i < f->members.n; i++) {
		const struct family_member *m = &f->members.v[i];
		if (!family_awaits_leader(f, m, sid))
			continue;
		if (m->parent != parent && !family_is_below(f, parent, m->parent))
			return (int)i;
		if ((int)i == parent || family_is_below(f, parent, (int)i))
			return (int)i;
	}
	return FAMILY_NONE;
}

/*
 * A session whose leader is gone needs one for a while. Its members came to their parents as orphans, so they were made
 * below all of them: the leader goes below the deepest. Where that cannot be, that parent was in the session itself.
 */
static int family_place_leader(struct family *f, pid_t sid, int *ret_parent, struct ferry_error *err)
{
	for (;;) {
		vec_foreach(m, &f->members) {
			if (family_awaits_leader(f, m, sid) && f->members.v[m->parent].birth_sid == sid)
				m->way = FAMILY_FORKED_EARLY;
		}
		int deepest = family_deepest_parent(f, sid);
		int stray = deepest == FAMILY_NONE ? FAMILY_NONE : family_find_stray(f, sid, deepest);
		if (stray == FAMILY_NONE) {
			*ret_parent = deepest;
			return 0;
		}
		struct family_member *parent = &f->members.v[deepest];
		if (deepest == 0 || !family_leads_session(parent) || parent->birth_sid != FAMILY_NONE)
			return family_no_way(&f->members.v[stray], err);
		parent->birth_sid = sid;
	}
}

/* The leader's siblings have its exit signal. */
static int family_leader_signal(const struct family *f, pid_t sid, int parent)
{
	vec_foreach(m, &f->members) {
		if (m->parent == parent && m->exit_signal != SIGCHLD && family_awaits_leader(f, m, sid))
			return m->exit_signal;
	}
	return SIGCHLD;
}

static int family_add_leaders(struct family *f, struct ferry_error *err)
{
	size_t n = f->members.n;
	for (size_t i = 0; i < n; i++) {
		pid_t sid = f->members.v[i].birth_sid;
		int parent = FAMILY_NONE;
		if (sid <= 0 || family_find(f, sid) != FAMILY_NONE)
			continue;
		int r = family_place_leader(f, sid, &parent, err);
		if (r >= 0 && parent == FAMILY_NONE)
			r = family_no_way(&f->members.v[i], err);
		int exit_signal = r < 0 ? 0 : family_leader_signal(f, sid, parent);
		if (r >= 0)
			r = family_add_helper(f, sid, sid, parent, err);
		if (r < 0)
			return r;
		f->members.v[f->members.n - 1].exit_signal = exit_signal;
	}
	return 0;
}

/* ---------------------------------------------------------------------- sharing */

static const char *const family_shared_words[SHARING_TYPES] = {
	[SHARING_VM] = "memory",
	[SHARING_SIGHAND] = "signal actions",
	[SHARING_FILES] = "descriptor table",
	[SHARING_FS] = "working directory",
};

static bool family_shares(const struct family_member *m)
{
	bool any = false;
	for (int type = 0; type < SHARING_TYPES; type++)
		any |= m->shares[type] != 0;
	return any;
}

/* The first thing of a member's that a maker could not pass on; SHARING_TYPES: there is none. */
static int family_lacks(const struct family_member *maker, const struct family_member *m)
{
	int type = 0;
	while (type < SHARING_TYPES &&
	       (!m->shares[type] || maker->pid == m->shares[type] || maker->shares[type] == m->shares[type]))
		type++;
	return type;
}

/* What is shared is inherited, so whoever makes a member has it, too. */
static int family_check_shared(const struct family *f, const struct family_member *m, struct ferry_error *err)
{
	if (!family_shares(m))
		return 0;
	static const struct family_member nobody;
	const struct family_member *maker = m->maker == FAMILY_NONE ? &nobody : &f->members.v[m->maker];
	int type = m->way == FAMILY_ORPHAN ? family_lacks(&nobody, m) : family_lacks(maker, m);
	if (type == SHARING_TYPES)
		return 0;
	return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			 "pid %d shares its %s with pid %d, and pid %d, which has to make it, does not",
			 m->pid, family_shared_words[type], m->shares[type], maker->pid);
}

/*
 * Who shares with a sibling and not with its parent was made by that sibling: one that was there before it, in the same
 * session, with the same exit signal.
 */
static void family_find_sibling(struct family *f, struct family_member *m)
{
	for (int i = 0; &f->members.v[i] < m; i++) {
		const struct family_member *other = &f->members.v[i];
		bool same_session =
			family_leads_session(m) || (other->sid == m->sid && !family_leads_session(other));
		if (other->parent != m->parent || other->ends || other->exit_signal != m->exit_signal ||
		    !same_session || family_lacks(other, m) != SHARING_TYPES)
			continue;
		m->maker = i;
		m->way = FAMILY_SIBLING;
		f->in_turn = true;
		return;
	}
}

static int family_choose_way(struct family *f, int member, struct ferry_error *err)
{
	struct family_member *m = &f->members.v[member];
	int leader = m->birth_sid > 0 ? family_find(f, m->birth_sid) : FAMILY_NONE;
	m->maker = m->parent;
	if (!family_is_foreign(f, m) || m->way == FAMILY_FORKED_EARLY) {
		if (m->parent != FAMILY_NONE && m->way == FAMILY_FORKED &&
		    family_lacks(&f->members.v[m->parent], m) != SHARING_TYPES)
			family_find_sibling(f, m);
		return 0;
	}
	if (leader == FAMILY_NONE || !family_is_below(f, leader, m->parent))
		return family_no_way(m, err);
	m->maker = leader;
	/* A sibling has its maker's exit signal, an orphan SIGCHLD. */
	if (f->members.v[leader].parent == m->parent && f->members.v[leader].exit_signal == m->exit_signal)
		m->way = FAMILY_SIBLING;
	else if (m->exit_signal == SIGCHLD)
		m->way = FAMILY_ORPHAN;
	else
		return family_no_way(m, err);
	f->in_turn = true;
	return 0;
}

/* ---------------------------------------------------------------------- groups */

static int family_add_group(struct family *f, int member, struct ferry_error *err)
{
	const struct family_member *m = &f->members.v[member];
	int parent = FAMILY_NONE;
	/* Somebody in the same session forks the group's leader; rather one that goes on. */
	for (size_t i = 0; i < f->members.n; i++) {
		const struct family_member *other = &f->members.v[i];
		if (other->sid == m->sid && (parent == FAMILY_NONE || f->members.v[parent].ends))
			parent = (int)i;
	}
	return family_add_helper(f, m->pgid, m->sid, parent, err);
}

static int family_add_groups(struct family *f, struct ferry_error *err)
{
	size_t n = f->members.n;
	for (size_t i = 0; i < n; i++) {
		struct family_member *m = &f->members.v[i];
		pid_t pgid = m->pgid;
		int r = 0;
		if (m->pgid == m->pid)
			m->leads = true;
		if (m->pgid <= 0 || m->pgid == m->pid)
			continue;
		if (family_leads_session(m))
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "pid %d leads a session from another group", m->pid);
		if (family_find(f, pgid) == FAMILY_NONE)
			r = family_add_group(f, (int)i, err);
		if (r < 0)
			return r;
		struct family_member *leader = &f->members.v[family_find(f, pgid)];
		if (leader->sid != f->members.v[i].sid)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "pid %d is in group %d of another session", f->members.v[i].pid,
					 leader->pid);
		leader->leads = true;
	}
	vec_foreach(m, &f->members) {
		m->moves = m->leads && m->pgid != m->pid;
	}
	return 0;
}

/* ----------------------------------------------------------------------- steps */

static int family_step(struct family *f, enum family_stage stage, int actor, enum family_op op, int other,
		       struct ferry_error *err)
{
	struct family_step *s = vec_push(&f->steps);
	if (!s)
		return error_memory(err);
	f->n_steps[stage]++;
	*s = (struct family_step){
		.stage = stage, .op = op, .actor = actor, .other = other, .next = FAMILY_NONE};
	return 0;
}

/* Early ones first. */
static void family_list_made(struct family *f)
{
	for (int pass = 0; pass < 2; pass++)
		for (int i = 1; i < (int)f->members.n; i++) {
			struct family_member *m = &f->members.v[i];
			if ((m->way == FAMILY_FORKED_EARLY) != !pass || m->maker == FAMILY_NONE)
				continue;
			struct family_member *maker = &f->members.v[m->maker];
			if (maker->last_made == FAMILY_NONE)
				maker->first_made = i;
			else
				f->members.v[maker->last_made].next_made = i;
			maker->last_made = i;
		}
}

/* A number that nobody has. */
static pid_t family_take_spare(struct family *f)
{
	while (f->spare > FAMILY_PID_LEAST && family_find(f, --f->spare) != FAMILY_NONE)
		continue;
	return f->spare > FAMILY_PID_LEAST ? f->spare : 0;
}

/* The maker has a child that makes the member and ends; meanwhile only the parent takes orphans. */
static int family_make_orphan(struct family *f, int member, struct ferry_error *err)
{
	int maker = f->members.v[member].maker, parent = f->members.v[member].parent;
	pid_t pid = family_take_spare(f);
	if (!pid)
		return error_set(err, FERRY_ERROR_LIMIT, EAGAIN, "no process number is left for a helper");
	int r = family_add_helper(f, pid, f->members.v[maker].sid, maker, err);
	if (r < 0)
		return r;
	int helper = (int)f->members.n - 1;
	f->members.v[helper].passes = true;
	f->members.v[helper].maker = maker;
	f->members.v[helper].pgid = 0;
	const struct {
		int actor;
		enum family_op op;
		int other;
	} steps[] = {
		{parent, FAMILY_OP_ADOPT, member}, {maker, FAMILY_OP_CLONE, helper},
		{helper, FAMILY_OP_CLONE, member}, {helper, FAMILY_OP_EXIT, FAMILY_NONE},
		{maker, FAMILY_OP_REAP, helper},   {parent, FAMILY_OP_ADOPT_LESS, member},
	};
	for (size_t i = 0; i < ARRAY_SIZE(steps) && r >= 0; i++)
		r = family_step(f, FAMILY_CREATE, steps[i].actor, steps[i].op, steps[i].other, err);
	return r;
}

static int family_make(struct family *f, int member, struct ferry_error *err)
{
	const struct family_member *m = &f->members.v[member];
	if (m->way == FAMILY_ORPHAN)
		return family_make_orphan(f, member, err);
	return family_step(f, FAMILY_CREATE, m->maker,
			   m->way == FAMILY_SIBLING ? FAMILY_OP_CLONE_SIBLING : FAMILY_OP_CLONE, member, err);
}

/* Everybody is made right after the one before it, then makes its own; without recursion, for trees may be deep. */
static int family_plan_creation(struct family *f, struct ferry_error *err)
{
	size_t made = 1, all = f->members.n;
	int at = 0, r = 0;
	family_list_made(f);
	for (;;) {
		struct family_member *m = &f->members.v[at];
		int next = m->first_made;
		bool early = next != FAMILY_NONE && f->members.v[next].way == FAMILY_FORKED_EARLY;
		if (!early && family_leads_session(m) && m->birth_sid != m->pid) {
			r = family_step(f, FAMILY_CREATE, at, FAMILY_OP_SETSID, FAMILY_NONE, err);
			m->birth_sid = m->pid; /* done */
		}
		if (r >= 0 && next != FAMILY_NONE) {
			m->first_made = f->members.v[next].next_made;
			made++;
			r = family_make(f, next, err);
			at = next;
		} else if (r >= 0) {
			if (m->leads && !family_leads_session(m))
				r = family_step(f, FAMILY_CREATE, at, FAMILY_OP_LEAD, FAMILY_NONE, err);
			at = m->maker;
		}
		if (r < 0)
			return r;
		if (at == FAMILY_NONE)
			break;
	}
	if (made == all)
		return 0;
	return error_set(err, FERRY_ERROR_UNSUPPORTED_TASK, ENOTSUP,
			 "%zu of %zu processes cannot be made: each needs another one of them first",
			 all - made, all);
}

/*
 * The group that a member is forked into, 0 if that is whatever the root's maker is in. Of all that changes a group only setsid()
 * comes before the children, and not before early ones.
 */
static pid_t family_birth_group(const struct family *f, const struct family_member *m)
{
	while (m->maker != FAMILY_NONE) {
		const struct family_member *maker = &f->members.v[m->maker];
		if (m->way != FAMILY_FORKED_EARLY && family_leads_session(maker))
			return maker->pid;
		m = maker;
	}
	return 0;
}

/* Whether it has its group from its maker, and nothing takes it out of there. */
static bool family_is_born_in_group(const struct family *f, const struct family_member *m)
{
	return !m->leads && m->pgid > 0 && family_birth_group(f, m) == m->pgid;
}

static int family_plan_groups(struct family *f, struct ferry_error *err)
{
	int r = 0;
	for (enum family_stage stage = FAMILY_GROUP; stage <= FAMILY_MOVE; stage++)
		for (size_t i = 0; i < f->members.n && r >= 0; i++) {
			const struct family_member *m = &f->members.v[i];
			if (m->pgid != m->pid && (m->pgid > 0 || m->moves) &&
			    m->moves == (stage == FAMILY_MOVE) && !family_is_born_in_group(f, m))
				r = family_step(f, stage, (int)i, FAMILY_OP_JOIN, FAMILY_NONE, err);
		}
	return r;
}

/* Children before parents: who waits for a helper may have to end itself. */
static int family_plan_ends(struct family *f, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = f->members.n; i-- > 1 && r >= 0;) {
		const struct family_member *m = &f->members.v[i];
		if (!m->ends || m->passes)
			continue;
		r = family_step(f, FAMILY_END, (int)i, FAMILY_OP_EXIT, FAMILY_NONE, err);
		if (r >= 0)
			r = family_step(f, FAMILY_END, m->parent,
					m->helper ? FAMILY_OP_REAP : FAMILY_OP_AWAIT, (int)i, err);
	}
	return r;
}

static void family_link_steps(struct family *f)
{
	for (size_t i = f->steps.n; i-- > 0;) {
		struct family_step *s = &f->steps.v[i];
		struct family_member *actor = &f->members.v[s->actor];
		s->next = actor->first_step;
		actor->first_step = (int)i;
	}
}

int family_plan(struct family *f, struct ferry_error *err)
{
	int r = family_link(f, err);
	if (r >= 0)
		r = family_hand_up(f, err);
	if (r >= 0)
		r = family_add_leaders(f, err);
	if (r >= 0)
		r = family_add_groups(f, err);
	for (size_t i = 0; i < f->members.n && r >= 0; i++)
		r = family_choose_way(f, (int)i, err);
	for (size_t i = 0; i < f->members.n && r >= 0; i++)
		r = family_check_shared(f, &f->members.v[i], err);
	if (r >= 0)
		r = family_plan_creation(f, err);
	if (r >= 0)
		r = family_plan_groups(f, err);
	if (r >= 0)
		r = family_plan_ends(f, err);
	if (r >= 0)
		family_link_steps(f);
	return r;
}

bool family_has_stage(const struct family *f, enum family_stage stage)
{
	return f->n_steps[stage] || stage == FAMILY_CREATE;
}

size_t family_count(const struct family *f, enum family_stage stage)
{
	size_t n = 0;
	vec_foreach(m, &f->members)
		n += !m->passes && (!m->ends || stage < FAMILY_END);
	return n;
}
