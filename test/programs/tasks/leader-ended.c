/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of the tree has lost its first thread, with two others working on: in memory that lies on the stack of the one
 * that ended, with descriptors, a timer and signals of the process. Proof: the first thread is a zombie with its status,
 * name, nice value and, told "user", user ids; what belongs to the process is what it was and goes on; signals for the
 * process reach the others; who waits for the first thread does not wait.
 */
#include "leader-ended.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

enum {
	STACK_BYTES = 3000,
	HEAP_BYTES = 9000,
	HELD = 40,
	PIPE_IN = 41,
	PIPE_OUT = 42,
	OFFSET = 321,
	NICE = 5,
	USER = 4711
};

static const char name[] = "first";

struct state {
	const struct program *program;
	pthread_t leader;
	unsigned char *stack, *heap; /* the first of the leader's */
	timer_t timer;
	bool user;
};

static atomic_uint ticks, taken, seconds;

static void on_tick(int number)
{
	(void)number;
	ticks++;
}

static void on_signal(int number)
{
	(void)number;
	taken++;
}

static void verify_leader(struct program *p, const struct state *s)
{
	char path[64], text[2048] = "", want[64];

	leader_verify(p, getpid());
	snprintf(path, sizeof(path), "/proc/%d/status", getpid());
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	expect(p, fd >= 0 && read(fd, text, sizeof(text) - 1) > 0, "%s cannot be read", path);
	close(fd);
	snprintf(want, sizeof(want), "Name:\t%s\n", name);
	expect(p, strstr(text, want), "the process has another name: %.40s", text);
	snprintf(want, sizeof(want), "\nUid:\t%d\t%d\t%d\t%d\n", s->user ? USER : 0, s->user ? USER : 0,
		 s->user ? USER : 0, s->user ? USER : 0);
	expect(p, strstr(text, want), "the first thread has other user ids");
	expect(p, strstr(text, "\nThreads:\t3\n"), "the process has not three threads");
	expect_same(p, "the nice value of the first thread", getpriority(PRIO_PROCESS, (id_t)getpid()), NICE);
	expect_same(p, "the own nice value", getpriority(PRIO_PROCESS, 0), 0);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	unsigned before = taken;
	int queued = 0;

	verify_leader(p, s);
	expect(p, pattern_differs(s->stack, STACK_BYTES, 1) < 0, "the stack of the first thread differs");
	expect(p, pattern_differs(s->heap, HEAP_BYTES, 2) < 0, "the heap differs");
	expect_same(p, "the position in the file", lseek(HELD, 0, SEEK_CUR), OFFSET);
	expect_same(p, "bytes in the pipe", ioctl(PIPE_IN, FIONREAD, &queued) ? -1 : queued, 4);
	expect(p, counts_on(&ticks), "the timer does not tick");
	expect(p, counts_on(&seconds), "the other thread does not work");
	kill(getpid(), SIGUSR1);
	for (int i = 0; i < 2000 && taken == before; i++)
		sleep_ms(1);
	expect_same(p, "signals that were taken", taken, before + 1);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	char text[5] = "";

	verify(p, state);
	expect_same(p, "reading the pipe", read(PIPE_IN, text, 4), 4);
	expect(p, !strcmp(text, "pipe"), "the pipe held '%s'", text);
	expect_same(p, "joining the first thread", pthread_join(s->leader, NULL), 0);
}

static void spoil(void *state)
{
	const struct state *s = state;

	s->stack[100]++;
}

static void verify_second(struct program *p, void *state)
{
	const struct state *s = state;

	leader_verify(p, getpid());
	expect(p, pattern_differs(s->stack, STACK_BYTES, 1) < 0, "the stack of the first thread differs");
	expect(p, counts_on(&ticks), "the timer does not tick");
}

static void step_second(void *state)
{
	(void)state;
	seconds++;
}

static void *second_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify_second, .step = step_second};
	struct state *s = argument;
	struct program p = program_role(s->program, "second");

	program_serve(&p, &ops, s);
	return NULL;
}

static void *main_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state *s = argument;
	struct program p = *s->program;

	leader_await_end(getpid());
	program_await(&p, "second");
	exit(program_serve(&p, &ops, s));
	return NULL;
}

static void start_timer(struct state *s)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1};
	const struct itimerspec often = {.it_interval = {.tv_nsec = 7000000},
					 .it_value = {.tv_nsec = 7000000}};

	must(timer_create(CLOCK_MONOTONIC, &event, &s->timer));
	must(timer_settime(s->timer, 0, &often, NULL));
}

static void open_files(const struct program *p)
{
	char path[256];
	int ends[2];

	snprintf(path, sizeof(path), "%s/held", p->folder);
	int fd = must(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644));
	must(dup2(fd, HELD));
	must(close(fd));
	must((int)lseek(HELD, OFFSET, SEEK_SET));
	must(pipe(ends));
	must(dup2(ends[0], PIPE_IN));
	must(dup2(ends[1], PIPE_OUT));
	must(close(ends[0]));
	must(close(ends[1]));
	must((int)write(PIPE_OUT, "pipe", 4));
}

int main(int argc, char **argv)
{
	static struct state s;
	static struct program p;
	unsigned char stack[STACK_BYTES];

	program_start(&p, argc, argv);
	s = (struct state){
		.program = &p, .leader = pthread_self(), .stack = stack, .heap = malloc(HEAP_BYTES)};
	s.user = program_told(argc, argv, "user");
	pattern_fill(stack, sizeof(stack), 1);
	pattern_fill(s.heap, HEAP_BYTES, 2);
	open_files(&p);
	signal(SIGRTMIN + 1, on_tick);
	signal(SIGUSR1, on_signal);
	leader_thread(main_main, &s);
	leader_thread(second_main, &s);
	start_timer(&s);
	must(prctl(PR_SET_NAME, name));
	must(setpriority(PRIO_PROCESS, (id_t)getpid(), NICE));
	/* Of this thread alone. */
	if (s.user)
		must((int)syscall(SYS_setresuid, USER, USER, USER));
	leader_end();
}
