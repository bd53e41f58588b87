/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process whose first thread has ended after it made children: one that gets a signal whenever the thread ends that is its
 * parent (PR_SET_PDEATHSIG), and a zombie; told "nested", the former is such a process itself, and has the child with the signal.
 * Proof: the signal came once, and comes a second time only when the next thread ends; the zombie's status is there.
 */
#include "leader-ended.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { GENERATIONS = 2, ZOMBIE_STATUS = 33 };

/* In memory that all share. */
struct board {
	atomic_uint signals[GENERATIONS], rounds[GENERATIONS];
	atomic_int death_signal[GENERATIONS], parents[GENERATIONS];
	atomic_bool end; /* of the thread that is the parent */
};

struct state {
	const struct program *program;
	struct board *board;
	pid_t child, zombie;
	bool nested;
};

static struct board *board;
static int generation;

static void on_parent(int number)
{
	(void)number;
	board->signals[generation]++;
}

static void *child_thread(void *argument)
{
	const struct program *of = argument;
	char role[24];

	snprintf(role, sizeof(role), "rest-%d", gettid());
	struct program p = program_role(of, role);
	program_note_volatile(&p);
	for (;;) {
		board->parents[generation] = getppid();
		board->rounds[generation]++;
		sleep_ms(1);
	}
	return NULL;
}

/* It tells the signal of its own thread, which is the one that has one. */
static __attribute__((noreturn)) void child_watch(const struct program *p)
{
	int number = 0;

	prctl(PR_GET_PDEATHSIG, &number);
	board->death_signal[generation] = number;
	child_thread((void *)(uintptr_t)p);
	_exit(0);
}

static __attribute__((noreturn)) void child_main(const struct program *p, int of, bool nested)
{
	generation = of;
	if (!nested || of + 1 == GENERATIONS) {
		signal(SIGUSR1, on_parent);
		must(prctl(PR_SET_PDEATHSIG, SIGUSR1));
		child_watch(p);
	}
	if (!must(fork()))
		child_main(p, of + 1, nested);
	while (!board->rounds[of + 1])
		sleep_ms(1);
	leader_thread(child_thread, (void *)(uintptr_t)p);
	leader_end();
}

/* A signal that a first thread had asked for, and what is left of it, nobody can see: only those that live ask here. */
static unsigned signals_of(const struct state *s, int child)
{
	return !s->nested || child + 1 == GENERATIONS;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	siginfo_t info = {0};

	leader_verify(p, getpid());
	for (int i = 0; i < (s->nested ? GENERATIONS : 1); i++) {
		expect(p, counts_on(&board->rounds[i]), "child %d does not run", i);
		expect_same(p, "signals of the end of the parent", board->signals[i], signals_of(s, i));
		expect_same(p, "the parent death signal", board->death_signal[i],
			    signals_of(s, i) ? SIGUSR1 : 0);
		expect_same(p, "the parent", board->parents[i], i ? s->child : getpid());
	}
	if (s->nested)
		leader_verify(p, s->child);
	expect(p,
	       waitid(P_PID, (id_t)s->zombie, &info, WEXITED | WNOWAIT | WNOHANG) == 0 &&
		       info.si_pid == s->zombie,
	       "the zombie is gone");
	expect_same(p, "the status of the zombie", info.si_status, ZOMBIE_STATUS);
}

/* Now the thread that became the parent ends. */
static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	board->end = true;
	for (int i = 0; i < 2000 && !s->nested && board->signals[0] < 2; i++)
		sleep_ms(1);
	expect_same(p, "signals then", board->signals[0], s->nested ? 0 : 2);
	expect_same(p, "taking the zombie", waitpid(s->zombie, NULL, 0), s->zombie);
}

static void spoil(void *state)
{
	const struct state *s = state;

	waitpid(s->zombie, NULL, 0);
}

static void *parent_main(void *argument)
{
	const struct state *s = argument;
	struct program p = program_role(s->program, "rest-parent");

	program_note_volatile(&p);
	while (!board->end)
		sleep_ms(1);
	return NULL;
}

static void *main_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state *s = argument;
	struct program p = *s->program;

	leader_await_end(getpid());
	for (int i = 0; i < (s->nested ? GENERATIONS : 1); i++)
		while (board->signals[i] < signals_of(s, i))
			sleep_ms(1);
	exit(program_serve(&p, &ops, s));
	return NULL;
}

int main(int argc, char **argv)
{
	static struct state s;
	static struct program p;
	siginfo_t info;

	program_start(&p, argc, argv);
	s = (struct state){.program = &p, .nested = program_told(argc, argv, "nested")};
	s.board = board = must(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	s.child = must(fork());
	if (!s.child)
		child_main(&p, 0, s.nested);
	s.zombie = must(fork());
	if (!s.zombie)
		_exit(ZOMBIE_STATUS);
	must(waitid(P_PID, (id_t)s.zombie, &info, WEXITED | WNOWAIT));
	while (!board->rounds[0])
		sleep_ms(1);
	if (s.nested)
		leader_await_end(s.child);
	/* The first of them becomes the parent. */
	leader_thread(parent_main, &s);
	leader_thread(main_main, &s);
	leader_end();
}
