/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that traces its child, or a child of its child, which is in the state that the first argument names. Proof by the
 * tracer, without changing anything: the stop with its siginfo, registers and whether it was waited for, or that the tracee
 * goes on. In the end the tracee is led through what its options make stop, and ends with the status that it has worked out.
 */
#include "relations.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <time.h>

enum { OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEEXIT, STATUS = 40 };

/* What tracer and tracee share. */
struct common {
	volatile int tid; /* of the tracee, once it is ready */
	volatile long count;
	volatile int handled, value, go;
	volatile long watched;
};

struct state {
	struct relations all;
	const struct word *word;
	struct common *common;
	pid_t pid; /* the tracee */
	siginfo_t info;
	struct user_regs_struct regs;
};

/* A state: what the tracee does, and how its tracer goes on with it. */
struct word {
	const char *name;
	void (*child)(struct common *c);
	void (*set_up)(struct state *s); /* it stands at its first SIGSTOP, or runs when it was seized */
	bool stands, untold, seized, below;
	int more; /* processes than it and its tracer */
	uint64_t options;
	void (*lead)(struct program *p,
		     struct state *s); /* in the end, from the stop, or running, to its end */
};

static void child_says(struct common *c)
{
	note_volatile();
	c->tid = gettid();
}

/* ------------------------------------------------------------------ what tracees do */

static void child_end(struct common *c)
{
	while (!c->go)
		sleep_ms(5);
	pid_t pid = fork();
	if (!pid)
		_exit(3);
	int status = 0;
	while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		continue;
	_exit(STATUS + WEXITSTATUS(status));
}

static void child_breakpoint(struct common *c)
{
	c->count = 1;
	__asm__ volatile("int3" : : : "memory");
	c->count = 2;
	child_end(c);
}

static void child_counts(struct common *c)
{
	while (!c->go)
		c->count++;
	child_end(c);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	struct common *c = info->si_value.sival_ptr;

	(void)context;
	if (info->si_code == SI_QUEUE)
		c->value = number;
}

static void handle_signals(int flags)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags};

	sigaction(SIGUSR1, &action, NULL);
}

static void child_waits(struct common *c)
{
	handle_signals(0);
	while (!c->go) {
		pause();
		c->handled++;
	}
	child_end(c);
}

static void child_sleeps(struct common *c)
{
	const struct timespec long_time = {.tv_sec = 10000};

	handle_signals(SA_RESTART);
	while (!c->go)
		c->handled += nanosleep(&long_time, NULL) < 0;
	child_end(c);
}

/* A call that a stop makes fail with EINTR; nobody may see that. */
static void child_polls(struct common *c)
{
	struct epoll_event event;
	int fd = must(epoll_create1(0));

	handle_signals(0);
	while (!c->go)
		c->handled += epoll_wait(fd, &event, 1, -1) < 0;
	child_end(c);
}

static void child_traps(struct common *c)
{
	union sigval value = {.sival_ptr = c};
	sigset_t trap;

	sigemptyset(&trap);
	sigaddset(&trap, SIGTRAP);
	sigaddset(&trap, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &trap, NULL);
	sigqueue(getpid(), SIGTRAP, value);
	raise(SIGTRAP);
	sigqueue(getpid(), SIGRTMIN + 3, value);
	while (!c->go)
		sleep_ms(5);
	sigset_t waits;
	sigpending(&waits);
	c->value = sigismember(&waits, SIGTRAP);
	child_end(c);
}

static void child_watched(struct common *c)
{
	while (!c->go) {
		c->count++;
		sleep_ms(1);
	}
	c->watched++;
	child_end(c);
}

/* ------------------------------------------------------------------ what tracers do */

static int await(pid_t tid, int options)
{
	int status;

	while (waitpid(tid, &status, __WALL | options) < 0)
		if (errno != EINTR)
			program_die("waiting for a tracee");
	return status >> 8;
}

static void go(pid_t tid, int request, int number)
{
	must(ptrace((enum __ptrace_request)request, tid, NULL, (void *)(long)number));
}

/* Wait until it stands, and leave the news of it. */
static void await_stop(pid_t tid)
{
	siginfo_t info;

	while (waitid(P_PID, (id_t)tid, &info, WSTOPPED | WNOWAIT | __WALL) < 0)
		continue;
}

static void tracer_cont(struct state *s)
{
	go(s->pid, PTRACE_CONT, 0);
	sleep_ms(50);
}

static void tracer_to_trap(struct state *s)
{
	go(s->pid, PTRACE_CONT, 0);
	if (await(s->pid, 0) != SIGTRAP)
		program_die("no breakpoint");
}

static void tracer_to_signal(struct state *s)
{
	union sigval value = {.sival_ptr = s->common};

	go(s->pid, PTRACE_CONT, 0);
	sleep_ms(50);
	must(sigqueue(s->pid, SIGUSR1, value));
	if (s->word->untold)
		await_stop(s->pid);
	else if (await(s->pid, 0) != SIGUSR1)
		program_die("no signal");
}

static void tracer_interrupt(struct state *s)
{
	go(s->pid, PTRACE_INTERRUPT, 0);
	if (await(s->pid, 0) != (SIGTRAP | PTRACE_EVENT_STOP << 8))
		program_die("no interrupt");
}

static void tracer_watch(struct state *s)
{
	uint64_t at = offsetof(struct user, u_debugreg);

	must(ptrace(PTRACE_POKEUSER, s->pid, (void *)at, (void *)&s->common->watched));
	/* Of the first register: local, writes, eight bytes. */
	must(ptrace(PTRACE_POKEUSER, s->pid, (void *)(at + 7 * 8), (void *)0x90001L));
	tracer_cont(s);
}

static void tracer_to_call(struct state *s)
{
	go(s->pid, PTRACE_SYSCALL, 0);
	if (await(s->pid, 0) != (SIGTRAP | 0x80))
		program_die("no system call");
}

/* Behind the entry of a call that sleeps. */
static void tracer_follow(struct state *s)
{
	struct user_regs_struct regs;

	do {
		tracer_to_call(s);
		must(ptrace(PTRACE_GETREGS, s->pid, NULL, &regs));
	} while (regs.orig_rax != SYS_pause);
	go(s->pid, PTRACE_SYSCALL, 0);
	sleep_ms(50);
}

static void tracer_follow_seized(struct state *s)
{
	go(s->pid, PTRACE_INTERRUPT, 0);
	await(s->pid, 0);
	tracer_follow(s);
}

static void tracer_to_event(struct state *s)
{
	s->common->go = 1;
	go(s->pid, PTRACE_CONT, 0);
	if (await(s->pid, 0) != (SIGTRAP | PTRACE_EVENT_FORK << 8))
		program_die("no event");
}

/* Its first SIGSTOP takes effect. */
static void tracer_to_group_stop(struct state *s)
{
	go(s->pid, PTRACE_CONT, SIGSTOP);
	if (await(s->pid, 0) != SIGSTOP)
		program_die("no stop");
}

/* ------------------------------------------------------------------ the end */

/* From a stop at a fork to the end: what options make stop on the way. */
static void lead_to_end(struct program *p, struct state *s)
{
	unsigned long message = 0;

	expect_same(p, "stop at a fork", await(s->pid, 0), SIGTRAP | PTRACE_EVENT_FORK << 8);
	must(ptrace(PTRACE_GETEVENTMSG, s->pid, NULL, &message));
	expect(p, await((pid_t)message, 0) & SIGSTOP || s->word->seized, "its child does not stop");
	must(ptrace(PTRACE_DETACH, (pid_t)message, NULL, NULL));
	go(s->pid, PTRACE_SYSCALL, 0);
	expect_same(p, "stop at a system call", await(s->pid, 0), SIGTRAP | 0x80);
	go(s->pid, PTRACE_CONT, 0);
	int stop = await(s->pid, 0);
	if (stop == SIGCHLD) {
		go(s->pid, PTRACE_CONT, SIGCHLD);
		stop = await(s->pid, 0);
	}
	expect_same(p, "stop at the end", stop, SIGTRAP | PTRACE_EVENT_EXIT << 8);
	go(s->pid, PTRACE_CONT, 0);
	expect_same(p, "its status", await(s->pid, 0), STATUS + 3);
}

static void lead_on(struct program *p, struct state *s)
{
	s->common->go = 1;
	go(s->pid, PTRACE_CONT, 0);
	lead_to_end(p, s);
}

static void lead_trap(struct program *p, struct state *s)
{
	expect_same(p, "count before", s->common->count, 1);
	lead_on(p, s);
	expect_same(p, "count behind", s->common->count, 2);
}

static void lead_signal(struct program *p, struct state *s)
{
	s->common->go = 1;
	if (s->word->untold)
		expect_same(p, "stop for the signal", await(s->pid, 0), SIGUSR1);
	go(s->pid, PTRACE_CONT, SIGUSR1);
	lead_to_end(p, s);
	expect_same(p, "the signal's value", s->common->value, SIGUSR1);
	expect_same(p, "broken off calls", s->common->handled, 1);
}

static void lead_running(struct program *p, struct state *s)
{
	s->common->go = 1;
	lead_to_end(p, s);
}

/* It sleeps in a call, which only a signal breaks off. */
static void lead_sleeping(struct program *p, struct state *s)
{
	union sigval value = {.sival_ptr = s->common};

	expect_same(p, "broken off calls before", s->common->handled, 0);
	s->common->go = 1;
	must(sigqueue(s->pid, SIGUSR1, value));
	expect_same(p, "stop for the signal", await(s->pid, 0), SIGUSR1);
	lead_signal(p, s);
}

static void lead_watched(struct program *p, struct state *s)
{
	uint64_t at = offsetof(struct user, u_debugreg);

	s->common->go = 1;
	expect_same(p, "stop at the write", await(s->pid, 0), SIGTRAP);
	expect_same(p, "what was written", s->common->watched, 1);
	expect_same(p, "which watchpoint", ptrace(PTRACE_PEEKUSER, s->pid, (void *)(at + 6 * 8), NULL) & 0xf,
		    1);
	go(s->pid, PTRACE_CONT, 0);
	lead_to_end(p, s);
}

static void lead_traps(struct program *p, struct state *s)
{
	lead_running(p, s);
	expect_same(p, "SIGTRAP waits", s->common->value, 1);
}

static const struct word words[] = {
	{"breakpoint", child_breakpoint, tracer_to_trap, .stands = true, .options = OPTIONS,
	 .lead = lead_trap},
	{"grandchild", child_breakpoint, tracer_to_trap, .stands = true, .below = true, .options = OPTIONS,
	 .lead = lead_trap},
	{"runs", child_counts, tracer_cont, .options = OPTIONS, .lead = lead_running},
	{"waits", child_waits, tracer_cont, .options = OPTIONS, .lead = lead_sleeping},
	{"sleeps", child_sleeps, tracer_cont, .options = OPTIONS, .lead = lead_sleeping},
	{"polls", child_polls, tracer_cont, .options = OPTIONS, .lead = lead_sleeping},
	{"signal", child_waits, tracer_to_signal, .stands = true, .options = OPTIONS, .lead = lead_signal},
	{"signal-untold", child_waits, tracer_to_signal, .stands = true, .untold = true, .options = OPTIONS,
	 .lead = lead_signal},
	{"seized", child_counts, NULL, .seized = true, .options = OPTIONS, .lead = lead_running},
	{"seized-polls", child_polls, NULL, .seized = true, .options = OPTIONS, .lead = lead_sleeping},
	{"interrupted", child_counts, tracer_interrupt, .stands = true, .seized = true, .options = OPTIONS,
	 .lead = lead_on},
	{"watched", child_watched, tracer_watch, .options = OPTIONS, .lead = lead_watched},
	/* Those that are refused. */
	{"at-call", child_waits, tracer_to_call, .stands = true, .options = OPTIONS},
	{"at-event", child_end, tracer_to_event, .stands = true, .options = OPTIONS, .more = 1},
	{"at-stop", child_waits, tracer_to_group_stop, .options = OPTIONS},
	{"followed", child_waits, tracer_follow, .options = OPTIONS},
	{"seized-followed", child_waits, tracer_follow_seized, .seized = true, .options = OPTIONS},
	{"pending", child_traps, tracer_cont, .options = OPTIONS, .lead = lead_traps},
};

/* ------------------------------------------------------------------ proof */

static void look(struct program *p, struct state *s, bool first)
{
	pid_t tid = s->pid;
	struct user_regs_struct regs;
	siginfo_t info = {0}, wait = {0};

	expect_same(p, "waitid", waitid(P_PID, (id_t)tid, &wait, WSTOPPED | WNOHANG | WNOWAIT | __WALL), 0);
	expect(p, wait.si_pid == (s->word->untold ? tid : 0), "a stop %#x is told of pid %d", wait.si_status,
	       wait.si_pid);
	long r = ptrace(PTRACE_GETSIGINFO, tid, NULL, &info);
	expect_same(p, "it stands", r >= 0, s->word->stands);
	if (r < 0)
		return;
	must(ptrace(PTRACE_GETREGS, tid, NULL, &regs));
	if (first) {
		s->info = info;
		s->regs = regs;
	}
	expect(p, !memcmp(&info, &s->info, sizeof(info)), "the siginfo is another one");
	for (size_t word = 0; word < sizeof(regs) / 8; word++)
		expect(p, ((uint64_t *)&regs)[word] == ((uint64_t *)&s->regs)[word],
		       "register %zu is %#llx, not %#llx", word,
		       (unsigned long long)((uint64_t *)&regs)[word],
		       (unsigned long long)((uint64_t *)&s->regs)[word]);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	relations_verify(p, &s->all);
	look(p, s, false);
	if (!s->word->stands && s->word->child == child_counts) {
		long before = s->common->count;
		for (int i = 0; i < 400 && s->common->count == before; i++)
			sleep_ms(5);
		expect(p, s->common->count > before, "it does not go on");
	}
	expect_same(p, "calls that were broken off", s->common->handled, 0);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	s->word->lead(p, s);
}

static void spoil(void *state)
{
	struct state *s = state;

	kill(s->pid, SIGKILL);
	sleep_ms(50);
}

/* ------------------------------------------------------------------ start */

static void child_main(struct state *s)
{
	if (!s->word->seized && !s->word->below)
		must(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	child_says(s->common);
	if (!s->word->seized && !s->word->below)
		raise(SIGSTOP);
	while (s->word->below && !s->common->value)
		sleep_ms(1);
	s->common->value = 0;
	s->word->child(s->common);
	_exit(1);
}

static pid_t start_child(struct state *s)
{
	pid_t pid = must(fork());

	if (pid)
		return pid;
	if (!s->word->below)
		child_main(s);
	if (!must(fork()))
		child_main(s);
	rest();
	return 0;
}

static void start(struct state *s)
{
	start_child(s);
	while (!s->common->tid)
		sleep_ms(1);
	s->pid = s->common->tid;
	if (s->word->seized) {
		must(ptrace(PTRACE_SEIZE, s->pid, NULL, (void *)s->word->options));
		sleep_ms(30);
	} else {
		if (s->word->below)
			must(ptrace(PTRACE_ATTACH, s->pid, NULL, NULL));
		if (await(s->pid, 0) != SIGSTOP)
			program_die("no first stop");
		must(ptrace(PTRACE_SETOPTIONS, s->pid, NULL, (void *)s->word->options));
		s->common->value = s->word->below;
	}
	if (s->word->set_up)
		s->word->set_up(s);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	struct state s = {0};
	struct program p;

	relations_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (argc > 2 && !strcmp(argv[2], words[i].name))
			s.word = &words[i];
	if (!s.word)
		program_die("no such word");
	s.common = must(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	start(&s);
	relations_settle(&s.all, 2 + s.word->below + s.word->more);
	look(&p, &s, true);
	return program_serve(&p, &ops, &s);
}
