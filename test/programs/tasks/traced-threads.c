/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that traces all threads of its child: one at a breakpoint, one stopped by a signal, one that counts, and the first,
 * which sleeps; told "all" every one of them stands. Proof by the tracer, without changing anything: siginfo and registers of
 * those that stand, and that the others go on. In the end all go on.
 */
#include "relations.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

enum { THREADS = 4, SLEEPS = 0, TRAPS, STOPS, RESTART_NO_HANDLER = -514, RESTART_BLOCK = -516 };

struct common {
	volatile int tids[THREADS];
	volatile long count[THREADS];
};

struct state {
	struct relations all;
	struct common *common;
	bool stands[THREADS];
	long counted[THREADS];
	siginfo_t info[THREADS];
	struct user_regs_struct regs[THREADS];
};

static struct common *common;

static void count(long i)
{
	for (;; sleep_ms(1))
		common->count[i]++;
}

static void *thread_main(void *number)
{
	long i = (long)number;

	note_volatile();
	common->tids[i] = gettid();
	if (i == TRAPS)
		__asm__ volatile("int3" : : : "memory");
	count(i);
	return NULL;
}

static void child_main(void)
{
	pthread_t thread;

	must(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
	note_volatile();
	common->tids[0] = gettid();
	raise(SIGSTOP);
	for (long i = 1; i < THREADS; i++)
		pthread_create(&thread, NULL, thread_main, (void *)i);
	count(SLEEPS);
}

static int await(pid_t tid)
{
	int status;

	while (waitpid(tid, &status, __WALL) < 0)
		if (errno != EINTR)
			program_die("waiting for a thread");
	return status >> 8;
}

static void go(pid_t tid)
{
	must(ptrace(PTRACE_CONT, tid, NULL, NULL));
}

static void stop(struct state *s, int i)
{
	must(syscall(SYS_tgkill, s->common->tids[0], s->common->tids[i], SIGSTOP));
	if (await(s->common->tids[i]) != SIGSTOP)
		program_die("a thread does not stop");
	s->stands[i] = true;
}

static void start(struct state *s, bool all)
{
	pid_t pid = must(fork());

	if (!pid)
		child_main();
	if (await(pid) != SIGSTOP)
		program_die("no first stop");
	must(ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)(long)PTRACE_O_TRACECLONE));
	for (int i = 1; i < THREADS; i++) {
		unsigned long tid = 0;
		go(pid);
		if (await(pid) != (SIGTRAP | PTRACE_EVENT_CLONE << 8))
			program_die("no new thread");
		must(ptrace(PTRACE_GETEVENTMSG, pid, NULL, &tid));
		if (await((pid_t)tid) != SIGSTOP)
			program_die("a new thread does not stop");
		go((pid_t)tid);
	}
	go(pid);
	for (int i = 0; i < THREADS; i++)
		while (!s->common->tids[i])
			sleep_ms(1);
	s->stands[TRAPS] = await(s->common->tids[TRAPS]) == SIGTRAP;
	stop(s, STOPS);
	for (int i = 0; all && i < THREADS; i++)
		if (!s->stands[i])
			stop(s, i);
}

static void look(struct program *p, struct state *s, int i, bool first)
{
	pid_t tid = s->common->tids[i];
	siginfo_t info = {0}, told = {0};
	struct user_regs_struct regs;

	expect_same(p, "waitid", waitid(P_PID, (id_t)tid, &told, WSTOPPED | WNOHANG | WNOWAIT | __WALL), 0);
	expect_same(p, "what is told", told.si_pid, 0);
	expect_same(p, "it stands", ptrace(PTRACE_GETSIGINFO, tid, NULL, &info) >= 0, s->stands[i]);
	if (!s->stands[i] || ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
		return;
	/* What the kernel keeps of a time-out is lost: the call is made anew (-ERESTARTNOHAND), and not gone on with. */
	if ((long)regs.rax == RESTART_BLOCK || (long)regs.rax == RESTART_NO_HANDLER)
		regs.rax = regs.orig_rax = 0;
	if (first) {
		s->info[i] = info;
		s->regs[i] = regs;
		s->counted[i] = s->common->count[i];
	}
	expect(p, !memcmp(&info, &s->info[i], sizeof(info)), "the siginfo of thread %d is another one", i);
	for (size_t n = 0; n < sizeof(regs) / sizeof(uint64_t); n++)
		expect(p, ((uint64_t *)&regs)[n] == ((uint64_t *)&s->regs[i])[n],
		       "register %zu of thread %d is %#llx, not %#llx", n, i,
		       (unsigned long long)((uint64_t *)&regs)[n],
		       (unsigned long long)((uint64_t *)&s->regs[i])[n]);
	expect_same(p, "count of one that stands", s->common->count[i], s->counted[i]);
}

static void check_counts(struct program *p, struct state *s, int i)
{
	long before = s->common->count[i];

	for (int n = 0; n < 400 && s->common->count[i] == before; n++)
		sleep_ms(5);
	expect(p, s->common->count[i] > before, "thread %d does not go on", i);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	relations_verify(p, &s->all);
	for (int i = 0; i < THREADS; i++) {
		look(p, s, i, false);
		if (!s->stands[i])
			check_counts(p, s, i);
	}
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	for (int i = 0; i < THREADS; i++)
		if (s->stands[i])
			go(s->common->tids[i]);
	for (int i = 0; i < THREADS; i++)
		check_counts(p, s, i);
}

static void spoil(void *state)
{
	struct state *s = state;

	go(s->common->tids[STOPS]);
	sleep_ms(30);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct state s = {0};
	struct program p;

	relations_start(&p, argc, argv);
	common = must(mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	s.common = common;
	start(&s, program_told(argc, argv, "all"));
	relations_settle(&s.all, 2);
	for (int i = 0; i < THREADS; i++)
		look(&p, &s, i, true);
	return program_serve(&p, &ops, &s);
}
