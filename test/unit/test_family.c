/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order in which a tree is made. A small model of the kernel lets random processes fork, lead, end and be taken by others;
 * the tree that is left is planned, and the plan, carried out in the same model, has to give the same relations.
 */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "model/family.h"

enum { WORLD_MAX = 400, SHELL = 0, ROOT = 1, WORLDS = 3000, SPARE = 30000 };

/* ------------------------------------------------------------------- the model */

struct proc {
	pid_t pid, pgid, sid;
	int parent; /* index */
	int exit_signal;
	bool alive, zombie, adopts;
};

/* [SHELL] stands for everything outside, which takes orphans. */
struct world {
	struct proc v[WORLD_MAX];
	int n;
	pid_t next_pid;
};

static int world_clone(struct world *w, int maker, bool sibling, pid_t pid, int exit_signal)
{
	assert_true(w->n < WORLD_MAX);
	struct proc *p = &w->v[w->n];
	*p = w->v[maker];
	p->pid = pid;
	p->parent = sibling ? w->v[maker].parent : maker;
	p->exit_signal = sibling ? w->v[maker].exit_signal : exit_signal;
	p->alive = true;
	p->zombie = p->adopts = false;
	return w->n++;
}

static bool world_group_exists(const struct world *w, pid_t pgid, pid_t *ret_sid)
{
	for (int i = 0; i < w->n; i++)
		if ((w->v[i].alive || w->v[i].zombie) && w->v[i].pgid == pgid) {
			*ret_sid = w->v[i].sid;
			return true;
		}
	return false;
}

static bool world_setsid(struct world *w, int i)
{
	pid_t sid;
	if (world_group_exists(w, w->v[i].pid, &sid))
		return false;
	w->v[i].sid = w->v[i].pgid = w->v[i].pid;
	return true;
}

static bool world_setpgid(struct world *w, int i, pid_t pgid)
{
	pid_t sid;
	if (w->v[i].sid == w->v[i].pid)
		return false;
	if (pgid != w->v[i].pid && (!world_group_exists(w, pgid, &sid) || sid != w->v[i].sid))
		return false;
	w->v[i].pgid = pgid;
	return true;
}

static void world_exit(struct world *w, int i)
{
	int reaper = w->v[i].parent;
	while (reaper != SHELL && !w->v[reaper].adopts)
		reaper = w->v[reaper].parent;
	w->v[i].alive = false;
	w->v[i].zombie = true;
	for (int c = 0; c < w->n; c++)
		if (c != i && w->v[c].parent == i && (w->v[c].alive || w->v[c].zombie)) {
			w->v[c].parent = reaper;
			w->v[c].exit_signal = SIGCHLD;
		}
}

static void world_init(struct world *w)
{
	*w = (struct world){.n = 1, .next_pid = 100};
	w->v[SHELL] = (struct proc){.pid = 50, .pgid = 50, .sid = 50, .alive = true, .adopts = true};
	world_clone(w, SHELL, false, w->next_pid++, SIGCHLD);
}

static void world_random_step(struct world *w, int odds_of_siblings)
{
	int i = ROOT + rand() % (w->n - ROOT), what = rand() % 100;
	struct proc *p = &w->v[i];
	if (p->zombie && what < 40 && i != ROOT)
		p->zombie = false; /* its parent has waited for it */
	if (!p->alive)
		return;
	if (what < 35 && w->n < 60) {
		bool sibling = i != ROOT && rand() % 100 < odds_of_siblings;
		world_clone(w, i, sibling, w->next_pid++, rand() % 8 ? SIGCHLD : SIGUSR1);
	} else if (what < 55) {
		world_setsid(w, i);
	} else if (what < 75) {
		world_setpgid(w, i, rand() % 2 ? p->pid : w->v[rand() % w->n].pid);
	} else if (what < 92 && i != ROOT) {
		world_exit(w, i);
	} else if (what < 97) {
		p->adopts = !p->adopts;
	}
}

static bool world_is_member(const struct world *w, int i)
{
	if (!w->v[i].alive && !w->v[i].zombie)
		return false;
	while (i != SHELL && i != ROOT)
		i = w->v[i].parent;
	return i == ROOT;
}

/* -------------------------------------------------------------------- the plan */

static int member_depth(const struct world *w, int i)
{
	int depth = 0;
	for (; i != ROOT; i = w->v[i].parent)
		depth++;
	return depth;
}

/* Parents first. */
static void family_of(struct family *f, const struct world *w)
{
	for (int depth = 0; depth < w->n; depth++)
		for (int i = ROOT; i < w->n; i++) {
			const struct proc *p = &w->v[i];
			if (!world_is_member(w, i) || member_depth(w, i) != depth)
				continue;
			struct family_member m = {.pid = p->pid,
						  .ppid = i == ROOT ? 0 : w->v[p->parent].pid,
						  .pgid = p->pgid,
						  .sid = p->sid,
						  .exit_signal = p->exit_signal,
						  .ends = p->zombie};
			assert_int_equal(family_add(f, &m, NULL), 0);
		}
	f->spare = SPARE;
}

static int world_index(const struct world *w, pid_t pid)
{
	for (int i = w->n; i-- > 0;)
		if (w->v[i].pid == pid && (w->v[i].alive || w->v[i].zombie))
			return i;
	fail_msg("pid %d does not exist when it has to", pid);
	return -1;
}

static void carry_out_step(struct world *w, const struct family *f, const struct family_step *s)
{
	const struct family_member *actor = &f->members.v[s->actor];
	const struct family_member *other = s->other == FAMILY_NONE ? NULL : &f->members.v[s->other];
	int i = world_index(w, actor->pid);
	assert_true(w->v[i].alive);
	switch (s->op) {
	case FAMILY_OP_CLONE:
	case FAMILY_OP_CLONE_SIBLING:
		world_clone(w, i, s->op == FAMILY_OP_CLONE_SIBLING, other->pid, other->exit_signal);
		break;
	case FAMILY_OP_SETSID: assert_true(world_setsid(w, i)); break;
	case FAMILY_OP_LEAD: assert_true(world_setpgid(w, i, actor->pid)); break;
	case FAMILY_OP_JOIN:
		/* A stage that everybody waits for is not made for nothing. */
		assert_true(!actor->pgid || w->v[i].pgid != actor->pgid);
		assert_true(world_setpgid(w, i, actor->pgid ? actor->pgid : w->v[SHELL].pgid));
		break;
	case FAMILY_OP_ADOPT: w->v[i].adopts = true; break;
	case FAMILY_OP_ADOPT_LESS: w->v[i].adopts = false; break;
	case FAMILY_OP_EXIT: world_exit(w, i); break;
	case FAMILY_OP_REAP:
	case FAMILY_OP_AWAIT: {
		int child = world_index(w, other->pid);
		assert_int_equal(w->v[child].parent, i);
		assert_true(w->v[child].zombie);
		if (s->op == FAMILY_OP_REAP)
			w->v[child].zombie = false;
	}
	}
}

static void carry_out(struct world *w, const struct family *f)
{
	*w = (struct world){.n = 1};
	w->v[SHELL] = (struct proc){.pid = 40, .pgid = 40, .sid = 40, .alive = true, .adopts = true};
	world_clone(w, SHELL, false, f->members.v[0].pid, SIGCHLD);
	enum family_stage stage = FAMILY_CREATE;
	vec_foreach(s, &f->steps) {
		assert_true(s->stage >= stage);
		stage = s->stage;
		carry_out_step(w, f, s);
	}
}

static bool world_is_outside(const struct world *w, pid_t pid)
{
	for (int i = ROOT; i < w->n; i++)
		if (w->v[i].pid == pid && world_is_member(w, i))
			return false;
	return true;
}

static void same(const struct world *wanted, const struct world *got)
{
	int members = 0;
	for (int i = ROOT; i < wanted->n; i++) {
		const struct proc *p = &wanted->v[i];
		if (!world_is_member(wanted, i))
			continue;
		members++;
		const struct proc *q = &got->v[world_index(got, p->pid)];
		assert_int_equal(q->zombie, p->zombie);
		/* Session and group of the first are the outside's when nobody here leads them. */
		bool outside = world_is_outside(wanted, wanted->v[ROOT].sid);
		bool group_outside = outside && world_is_outside(wanted, wanted->v[ROOT].pgid);
		assert_int_equal(q->sid, outside && p->sid == wanted->v[ROOT].sid ? 40 : p->sid);
		assert_int_equal(q->pgid, group_outside && p->pgid == wanted->v[ROOT].pgid ? 40 : p->pgid);
		assert_int_equal(q->exit_signal, p->exit_signal);
		if (i != ROOT)
			assert_int_equal(got->v[q->parent].pid, wanted->v[p->parent].pid);
	}
	for (int i = ROOT; i < got->n; i++)
		members -= got->v[i].alive || got->v[i].zombie;
	assert_int_equal(members, 0);
}

/* Whether there was a way. */
static bool try_world(const struct world *w)
{
	static struct world made;
	struct ferry_error err = FERRY_ERROR_INIT;
	struct family f = {0};
	family_of(&f, w);
	int r = family_plan(&f, &err);
	if (r >= 0) {
		carry_out(&made, &f);
		same(w, &made);
	} else {
		assert_int_equal(r, -ENOTSUP);
	}
	family_release(&f);
	return r >= 0;
}

static int random_worlds(int odds_of_siblings)
{
	static struct world w;
	int without = 0;
	for (int seed = 0; seed < WORLDS; seed++) {
		srand((unsigned)seed);
		world_init(&w);
		for (int step = 20 + rand() % 300; step > 0 && w.v[ROOT].alive; step--)
			world_random_step(&w, odds_of_siblings);
		without += !try_world(&w);
	}
	return without;
}

/* Trees that came about by fork(2); what is left without a plan had an exit signal of its own before it lost its session. */
static void test_forked(void **state)
{
	(void)state;
	assert_in_range(random_worlds(0), 0, WORLDS / 400);
}

static void test_siblings(void **state)
{
	(void)state;
	assert_in_range(random_worlds(20), 0, WORLDS / 200);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forked),
		cmocka_unit_test(test_siblings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
