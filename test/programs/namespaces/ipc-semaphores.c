/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System V semaphores in an IPC namespace of its own: sets with keys and private ones, with a gap in their ids, of another
 * owner, with rights. With "waiting" a child sleeps in semop(2) until the first process lets it go, at the end. With "tasks"
 * a child has a namespace of its own, with another set under the same key.
 */
#include "program.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SETS = 4, SEMS = 5, KEY = 0x4711 };

union semun {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
};

struct set {
	key_t key;
	int mode, id;
	unsigned uid;
	unsigned short values[SEMS];
};

struct state {
	struct set sets[SETS];
	size_t n;
	pid_t waiter;
};

static void set_make(struct set *s)
{
	struct semid_ds ds;
	s->id = must(semget(s->key, SEMS, IPC_CREAT | IPC_EXCL | s->mode));
	must(semctl(s->id, 0, SETALL, (union semun){.array = s->values}));
	must(semctl(s->id, 0, IPC_STAT, (union semun){.buf = &ds}));
	ds.sem_perm.uid = s->uid;
	must(semctl(s->id, 0, IPC_SET, (union semun){.buf = &ds}));
}

static void set_verify(struct program *p, const struct set *s)
{
	unsigned short values[SEMS] = {0};
	struct semid_ds ds = {0};
	if (s->key != IPC_PRIVATE)
		expect_same(p, "id of the key", semget(s->key, 0, 0), s->id);
	expect(p, semctl(s->id, 0, IPC_STAT, (union semun){.buf = &ds}) == 0, "set %d is gone", s->id);
	expect_same(p, "semaphores", ds.sem_nsems, SEMS);
	expect_same(p, "mode", ds.sem_perm.mode & 0777, s->mode);
	expect_same(p, "owner", ds.sem_perm.uid, s->uid);
	expect(p, semctl(s->id, 0, GETALL, (union semun){.array = values}) == 0, "set %d cannot be read",
	       s->id);
	for (int i = 0; i < SEMS; i++)
		expect_same(p, "value", values[i], s->values[i]);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	for (size_t i = 0; i < s->n; i++)
		set_verify(p, &s->sets[i]);
	if (s->waiter)
		expect_same(p, "processes that wait", semctl(s->sets[0].id, 2, GETNCNT), 1);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	verify(p, s);
	if (s->waiter) {
		int status = -1;
		struct sembuf up = {.sem_num = 2, .sem_op = 3};
		expect(p, semop(s->sets[0].id, &up, 1) == 0, "semop fails");
		expect_same(p, "the waiter", waitpid(s->waiter, &status, 0), s->waiter);
		expect_same(p, "its status", status, 7 << 8);
	}
	struct sembuf both[2] = {{.sem_num = 0, .sem_op = -1}, {.sem_num = 1, .sem_op = 2}};
	expect(p, semop(s->sets[0].id, both, 2) == 0, "semop fails");
	expect_same(p, "after semop", semctl(s->sets[0].id, 1, GETVAL), s->sets[0].values[1] + 2);
	expect(p, semget(KEY, SEMS, IPC_CREAT | IPC_EXCL) < 0, "the key is free");
}

static void spoil(void *state)
{
	const struct state *s = state;
	must(semctl(s->sets[0].id, 4, SETVAL, (union semun){.val = 99}));
}

static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};

static void child_own(struct program *p)
{
	static struct state other = {.sets = {{.key = KEY, .mode = 0600, .values = {5, 5, 5, 5, 5}}}, .n = 1};
	if (must(fork())) {
		program_await(p, "other");
		return;
	}
	struct program q = program_role(p, "other");
	must(unshare(CLONE_NEWIPC));
	set_make(&other.sets[0]);
	_exit(program_serve(&q, &ops, &other));
}

static pid_t child_waiting(const struct program *p, const struct set *s)
{
	pid_t pid = must(fork());
	struct sembuf down = {.sem_num = 2, .sem_op = -3};
	if (!pid) {
		struct program q = program_role(p, "waiter");
		program_note_volatile(&q);
		_exit(semop(s->id, &down, 1) == 0 ? 7 : 1);
	}
	while (semctl(s->id, 2, GETNCNT) != 1)
		sleep_ms(1);
	return pid;
}

int main(int argc, char **argv)
{
	static struct state s = {
		.sets = {{.key = KEY, .mode = 0640, .values = {1, 2, 0, 30000, 5}},
			 {.key = IPC_PRIVATE, .mode = 0600, .values = {0, 0, 7, 0, 0}},
			 {.key = 0x7fffffff, .mode = 0666, .uid = 65534, .values = {9, 8, 7, 6, 5}},
			 {.key = IPC_PRIVATE, .mode = 0400, .values = {1, 1, 1, 1, 1}}},
		.n = SETS,
	};
	struct program p;
	program_start(&p, argc, argv);
	must(unshare(CLONE_NEWIPC));
	for (int i = 0; i < SETS; i++) {
		int gap = must(semget(IPC_PRIVATE, 1, 0600));
		set_make(&s.sets[i]);
		must(semctl(gap, 0, IPC_RMID));
	}
	if (program_told(argc, argv, "tasks"))
		child_own(&p);
	if (program_told(argc, argv, "waiting"))
		s.waiter = child_waiting(&p, &s.sets[0]);
	return program_serve(&p, &ops, &s);
}
