/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that have one memory (CLONE_VM), and what else the first argument says: signal actions, descriptors and folders,
 * threads, timers and credentials, sessions and groups of their own; children of each other, siblings, three generations.
 *
 * The mates run no libc, for they have the first process's idea of which thread it is: each executes calls that the first
 * process leaves for it in memory that is common in any case. Proof: what one writes, maps and unmaps the other has; signals,
 * descriptors and folders are shared or apart as they were; a mate that ends leaves the others at work.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

enum {
	MATES_MAX = 4,
	STACK_BYTES = 64 << 10,
	MARK = 40,
	OWN_UID = 1234,
	SOFT_NOFILE = 777,
	PATIENCE_MS = 4000,
	NOBODY = -1000000
};

#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif

/* Pseudo calls. */
enum { POKE = -1, PEEK = -2, CLONE = -3 };

#define MAP_PLACE 0x660000000000ul

struct mate {
	volatile int wanted; /* 1: a call is to be made */
	long nr, args[6], result;
	char *stack_end;
	char common[512] __attribute__((aligned(16))); /* for what calls are given and give */
};

struct state {
	const char *word;
	unsigned long flags;
	struct mate *mates; /* common memory */
	int n;
	pid_t pids[MATES_MAX], tids[MATES_MAX], parents[MATES_MAX], groups[MATES_MAX], sessions[MATES_MAX];
	bool with_main[MATES_MAX]; /* has the first process's memory */
	timer_t timer;
};

/* As the kernel has it. */
struct action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	unsigned long mask;
};

static volatile long word_of_main;
static volatile int by_first, by_second;

static long call(long nr, const long a[6])
{
	register long r10 __asm__("r10") = a[3];
	register long r8 __asm__("r8") = a[4];
	register long r9 __asm__("r9") = a[5];
	long ret;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

__asm__(".text\n"
	"shared_memory_restorer:\n\t"
	"mov $15, %eax\n\t" /* rt_sigreturn */
	"syscall\n");
extern void shared_memory_restorer(void);

static void first_handler(int number)
{
	(void)number;
	by_first++;
}

static void second_handler(int number)
{
	(void)number;
	by_second++;
}

/* The child begins on the mate's stack, in its loop. */
static __attribute__((noinline)) long mate_clone(unsigned long flags, struct mate *child)
{
	register struct mate *r12 __asm__("r12") = child;
	long ret;
	__asm__ volatile("xor %%r10d, %%r10d\n\t"
			 "xor %%edx, %%edx\n\t"
			 "syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r12, %%rdi\n\t"
			 "call mate_main\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((long)SYS_clone), "D"(flags), "S"(child->stack_end), "r"(r12)
			 : "rcx", "rdx", "r10", "r11", "memory");
	return ret;
}

static __attribute__((noreturn, used)) void mate_main(struct mate *m)
{
	static const struct timespec pause = {.tv_nsec = 2000000};
	for (;;) {
		const long sleep[6] = {(long)&pause};
		if (!__atomic_load_n(&m->wanted, __ATOMIC_SEQ_CST)) {
			call(SYS_nanosleep, sleep);
			continue;
		}
		if (m->nr == POKE)
			*(volatile long *)m->args[0] = m->args[1];
		if (m->nr == CLONE)
			m->result = mate_clone((unsigned long)m->args[0], (struct mate *)m->args[1]);
		else
			m->result = m->nr >= 0 ? call(m->nr, m->args) : *(volatile long *)m->args[0];
		__atomic_store_n(&m->wanted, 0, __ATOMIC_SEQ_CST);
	}
}

static bool silent; /* once one did not answer nobody is waited for */

static bool ask_call(struct mate *m, long nr, const long args[6], long *ret)
{
	m->nr = nr;
	memcpy(m->args, args, sizeof(m->args));
	__atomic_store_n(&m->wanted, 1, __ATOMIC_SEQ_CST);
	for (int ms = 0; ms < PATIENCE_MS && !silent; ms += 2) {
		if (!__atomic_load_n(&m->wanted, __ATOMIC_SEQ_CST)) {
			*ret = m->result;
			return true;
		}
		sleep_ms(2);
	}
	silent = true;
	return false;
}

/* NOBODY answers once a mate did not. */
static long ask_one(struct mate *m, long nr, const long args[6])
{
	long ret;

	return ask_call(m, nr, args, &ret) ? ret : NOBODY;
}

#define ask(m, nr, ...) ask_one((m), (nr), (const long[6]){__VA_ARGS__})

/* What has to go well. */
#define tell(m, nr, ...)                                          \
	do {                                                      \
		if (ask((m), (nr), __VA_ARGS__) < 0)              \
			program_die("what a mate is told: " #nr); \
	} while (0)

static bool told(const struct state *s, const char *word)
{
	return !strcmp(s->word, word);
}

/* ------------------------------------------------------------------------ set up */

static long ask_action(struct mate *m, int number, void (*handler)(int))
{
	*(struct action *)m->common = (struct action){handler, SA_RESTORER, shared_memory_restorer, 0};
	return ask(m, SYS_rt_sigaction, number, (long)m->common, 0, 8);
}

/* maker: -1 is the first process. Those that a process with other memory makes have that one's. */
static int add(struct state *s, int maker, unsigned long flags, bool with_main)
{
	struct mate *m = &s->mates[s->n];
	long tid = maker < 0 ? mate_clone(flags, m) : ask(&s->mates[maker], CLONE, (long)flags, (long)m);
	if (tid <= 0)
		program_die("clone");
	s->tids[s->n] = (pid_t)tid;
	s->with_main[s->n] = with_main;
	return s->n++;
}

/* What a mate has that the first process does not. */
static void set_own(struct state *s, struct mate *m)
{
	static struct itimerspec far = {.it_value = {.tv_sec = 5000}};
	static struct itimerval beat = {.it_value = {.tv_sec = 7000}};
	static struct sigevent event = {.sigev_notify = SIGEV_NONE};
	static struct rlimit files = {.rlim_cur = SOFT_NOFILE, .rlim_max = SOFT_NOFILE};
	static stack_t alternate = {.ss_size = 16 << 10};
	static unsigned long blocked = 1ul << (SIGUSR2 - 1);

	/* Beside its stack, so that nobody minds what lies there. */
	alternate.ss_sp = m->stack_end - STACK_BYTES;
	tell(m, SYS_timer_create, CLOCK_MONOTONIC, (long)&event, (long)&s->timer);
	tell(m, SYS_timer_settime, (long)s->timer, 0, (long)&far, 0);
	tell(m, SYS_setitimer, ITIMER_REAL, (long)&beat, 0);
	tell(m, SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&files, 0);
	tell(m, SYS_sigaltstack, (long)&alternate, 0);
	tell(m, SYS_rt_sigprocmask, SIG_BLOCK, (long)&blocked, 0, 8);
	tell(m, SYS_setpriority, PRIO_PROCESS, 0, 7);
	tell(m, SYS_setresuid, OWN_UID, OWN_UID, OWN_UID);
}

/* A filter of the mate's alone, which answers uname(2) by an error. */
static void set_filter(struct mate *m)
{
	struct {
		struct sock_fprog program;
		struct sock_filter code[4];
	} *f = (void *)m->common;

	f->code[0] =
		(struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	f->code[1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_uname, 0, 1);
	f->code[2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM);
	f->code[3] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	f->program = (struct sock_fprog){.len = ARRAY_SIZE(f->code), .filter = f->code};
	tell(m, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
	tell(m, SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&f->program);
}

static void verify_filter(struct program *p, struct mate *m)
{
	expect_same(p, "uname in the mate", ask(m, SYS_uname, (long)m->common), -EDOM);
	expect_same(p, "uname in the first process", syscall(SYS_uname, m->common), 0);
	expect_same(p, "filters of the first process", prctl(PR_GET_SECCOMP), 0);
}

static void make(struct state *s)
{
	enum { THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM };

	if (told(s, "actions"))
		s->flags |= CLONE_SIGHAND;
	if (told(s, "all"))
		s->flags |= CLONE_SIGHAND | CLONE_FILES | CLONE_FS;
	if (told(s, "apart")) {
		add(s, -1, SIGCHLD, false);
		add(s, 0, s->flags | CLONE_PARENT, false);
		return;
	}
	add(s, -1, s->flags | SIGCHLD, true);
	if (told(s, "threads"))
		for (int i = 0; i < 2; i++)
			add(s, 0, THREAD, true);
	if (told(s, "sibling"))
		add(s, 0, s->flags | CLONE_PARENT, true);
	if (told(s, "generations")) {
		add(s, 0, s->flags | CLONE_SIGHAND | SIGCHLD, true);
		add(s, 1, s->flags | CLONE_FILES | SIGUSR1, true);
		add(s, 1, SIGCHLD, false);
	}
	if (told(s, "sessions")) {
		add(s, -1, s->flags | SIGCHLD, true);
		tell(&s->mates[0], SYS_setsid, 0);
		tell(&s->mates[1], SYS_setpgid, 0, 0);
		add(s, 0, s->flags | SIGCHLD, true);
		add(s, 1, s->flags | SIGCHLD, true);
	}
}

/* Before there are others, who have them then at the same addresses. */
static void make_stacks(struct state *s)
{
	const int private = MAP_PRIVATE | MAP_ANONYMOUS;

	s->mates = mmap(NULL, sizeof(*s->mates) * MATES_MAX, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < MATES_MAX; i++)
		s->mates[i].stack_end =
			(char *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, private, -1, 0) + STACK_BYTES;
}

static void set_up(struct state *s, const char *folder)
{
	struct mate *m = &s->mates[0];
	struct action first = {first_handler, SA_RESTORER, shared_memory_restorer, 0};

	must(syscall(SYS_rt_sigaction, SIGUSR1, &first, NULL, 8));
	must(dup2(0, MARK));
	make(s);
	if (ask_action(m, SIGUSR1, second_handler) < 0)
		program_die("an action of a mate");
	tell(m, SYS_close, MARK);
	snprintf(m->common, sizeof(m->common), "%s/below", folder);
	must(mkdir(m->common, 0777));
	tell(m, SYS_chdir, (long)m->common);
	if (told(s, "own"))
		set_own(s, m);
	if (told(s, "filtered"))
		set_filter(m);
	for (int i = 0; i < s->n; i++) {
		s->pids[i] = (pid_t)ask(&s->mates[i], SYS_getpid, 0);
		s->parents[i] = (pid_t)ask(&s->mates[i], SYS_getppid, 0);
		s->groups[i] = (pid_t)ask(&s->mates[i], SYS_getpgid, 0);
		s->sessions[i] = (pid_t)ask(&s->mates[i], SYS_getsid, 0);
	}
}

/* ------------------------------------------------------------------------- proof */

static void verify_relations(struct program *p, const struct state *s)
{
	for (int i = 0; i < s->n; i++) {
		struct mate *m = &s->mates[i];
		expect_same(p, "the pid of a mate", ask(m, SYS_getpid, 0), s->pids[i]);
		expect_same(p, "the tid of a mate", ask(m, SYS_gettid, 0), s->tids[i]);
		expect_same(p, "the parent of a mate", ask(m, SYS_getppid, 0), s->parents[i]);
		expect_same(p, "the group of a mate", ask(m, SYS_getpgid, 0), s->groups[i]);
		expect_same(p, "the session of a mate", ask(m, SYS_getsid, 0), s->sessions[i]);
	}
}

/* What one writes or maps the others have. */
static void verify_memory(struct program *p, const struct state *s)
{
	for (int i = 0; i < s->n; i++) {
		struct mate *m = &s->mates[i];
		long before = word_of_main, seed = before + 17 + i;

		word_of_main = seed;
		expect_same(p, "what a mate reads", ask(m, PEEK, (long)&word_of_main) == seed,
			    s->with_main[i]);
		ask(m, POKE, (long)&word_of_main, seed + 1);
		expect_same(p, "what a mate writes", word_of_main == seed + 1, s->with_main[i]);
		if (!s->with_main[i])
			continue;
		expect_same(p, "mapping in a mate",
			    ask(m, SYS_mmap, MAP_PLACE, 4096, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1),
			    (long)MAP_PLACE);
		if (memory_readable((void *)MAP_PLACE))
			*(volatile long *)MAP_PLACE = seed;
		expect_same(p, "what is mapped", ask(m, PEEK, MAP_PLACE), seed);
		munmap((void *)MAP_PLACE, 4096);
		expect_same(p, "mapping it again",
			    ask(m, SYS_mmap, MAP_PLACE, 4096, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1),
			    (long)MAP_PLACE);
		munmap((void *)MAP_PLACE, 4096);
	}
	/* Of two with a memory of their own. */
	if (told(s, "apart") && s->n > 1) {
		ask(&s->mates[0], POKE, (long)&word_of_main, 4711);
		expect_same(p, "what a sibling reads", ask(&s->mates[1], PEEK, (long)&word_of_main), 4711);
	}
}

static void verify_kcmp(struct program *p, pid_t a, pid_t b, int type, const char *what, bool same)
{
	long r = syscall(SYS_kcmp, a, b, type, 0, 0);

	expect(p, r >= 0 && !r == same, "pid %d and pid %d: %s, kcmp says %ld", a, b, what, r);
}

static void verify_objects(struct program *p, const struct state *s)
{
	unsigned long flags = s->flags;

	for (int i = 0; i < s->n; i++)
		verify_kcmp(p, getpid(), s->pids[i], KCMP_VM, "memory", s->with_main[i]);
	if (told(s, "apart"))
		verify_kcmp(p, s->pids[0], s->pids[1], KCMP_VM, "the siblings' memory", true);
	verify_kcmp(p, getpid(), s->pids[0], KCMP_SIGHAND, "actions", flags & CLONE_SIGHAND);
	verify_kcmp(p, getpid(), s->pids[0], KCMP_FILES, "descriptors", flags & CLONE_FILES);
	verify_kcmp(p, getpid(), s->pids[0], KCMP_FS, "folders", flags & CLONE_FS);
	if (!told(s, "generations"))
		return;
	verify_kcmp(p, s->pids[0], s->pids[1], KCMP_SIGHAND, "actions of two mates", true);
	verify_kcmp(p, s->pids[1], s->pids[2], KCMP_FILES, "descriptors of two mates", true);
	verify_kcmp(p, s->pids[1], s->pids[3], KCMP_VM, "memory of the last", false);
}

static void expect_signal(struct program *p, pid_t pid, bool first)
{
	int before = first ? by_first : by_second;

	must(kill(pid, SIGUSR1));
	for (int ms = 0; ms < PATIENCE_MS && before == (first ? by_first : by_second); ms += 2)
		sleep_ms(2);
	expect_same(p, "signals that were handled", first ? by_first : by_second, before + 1);
}

/* The mate's own number, folder, handler; or those of both. */
static void verify_shared(struct program *p, const struct state *s)
{
	static struct action now;
	char own[256];
	struct mate *m = &s->mates[0];
	bool actions = s->flags & CLONE_SIGHAND, files = s->flags & CLONE_FILES, fs = s->flags & CLONE_FS;

	must(syscall(SYS_rt_sigaction, SIGUSR1, NULL, &now, 8));
	expect(p, now.handler == (actions ? second_handler : first_handler), "another handler");
	if (!told(s, "apart")) {
		expect_signal(p, getpid(), !actions);
		expect_signal(p, s->pids[0], false);
		/* A change of one is seen by the other, or is not. */
		expect_same(p, "setting an action", ask_action(m, SIGWINCH, second_handler), 0);
		must(syscall(SYS_rt_sigaction, SIGWINCH, NULL, &now, 8));
		expect_same(p, "an action of the mate's", now.handler == second_handler, actions);
		expect_same(p, "taking it back", ask_action(m, SIGWINCH, SIG_DFL), 0);
	}
	expect_same(p, "the mark", fcntl(MARK, F_GETFD), files ? -1 : 0);
	expect_same(p, "the mate's mark", ask(m, SYS_fcntl, MARK, F_GETFD), -EBADF);
	expect_same(p, "a descriptor of the mate's", ask(m, SYS_dup2, 0, MARK + 1), MARK + 1);
	expect_same(p, "seen by the first process", fcntl(MARK + 1, F_GETFD), files ? 0 : -1);
	expect_same(p, "closing it", ask(m, SYS_close, MARK + 1), 0);
	expect_same(p, "asking for the folder", ask(m, SYS_getcwd, (long)m->common, 256) > 0, 1);
	expect(p, strstr(m->common, "/below"), "the mate works in '%s'", m->common);
	expect_same(p, "the own folder", getcwd(own, sizeof(own)) && !strcmp(own, m->common), fs);
}

static void verify_own(struct program *p, const struct state *s)
{
	static struct itimerspec timer;
	static struct itimerval beat;
	static struct rlimit files;
	static stack_t stack;
	static unsigned ids[3];
	static unsigned long blocked;
	struct mate *m = &s->mates[0];

	expect_same(p, "reading the timer", ask(m, SYS_timer_gettime, (long)s->timer, (long)&timer), 0);
	expect(p, timer.it_value.tv_sec > 4000, "%ld s are left of the timer", timer.it_value.tv_sec);
	expect(p, timer_gettime(s->timer, &timer) < 0, "the first process has a timer");
	expect_same(p, "reading the interval timer", ask(m, SYS_getitimer, ITIMER_REAL, (long)&beat), 0);
	expect(p, beat.it_value.tv_sec > 6000, "%ld s are left of the interval timer", beat.it_value.tv_sec);
	expect_same(p, "reading the limit", ask(m, SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&files), 0);
	expect_same(p, "the limit", files.rlim_cur, SOFT_NOFILE);
	must(getrlimit(RLIMIT_NOFILE, &files));
	expect(p, files.rlim_cur != SOFT_NOFILE, "the first process has the mate's limit");
	expect_same(p, "reading the stack", ask(m, SYS_sigaltstack, 0, (long)&stack), 0);
	expect_same(p, "the alternate stack", stack.ss_size, 16 << 10);
	expect_same(p, "reading the mask", ask(m, SYS_rt_sigprocmask, 0, 0, (long)&blocked, 8), 0);
	expect_same(p, "the mask", blocked, 1ul << (SIGUSR2 - 1));
	expect_same(p, "the priority", ask(m, SYS_getpriority, PRIO_PROCESS, 0), 20 - 7);
	expect_same(p, "reading the users",
		    ask(m, SYS_getresuid, (long)&ids[0], (long)&ids[1], (long)&ids[2]), 0);
	expect(p, ids[0] == OWN_UID && ids[1] == OWN_UID && ids[2] == OWN_UID, "the mate is user %u, %u, %u",
	       ids[0], ids[1], ids[2]);
	expect_same(p, "the own user", getuid() == OWN_UID, false);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	verify_relations(p, s);
	if (p->bad)
		return;
	verify_memory(p, s);
	verify_objects(p, s);
	verify_shared(p, s);
	if (told(s, "own"))
		verify_own(p, s);
	if (told(s, "filtered"))
		verify_filter(p, &s->mates[0]);
}

/* The last that was made ends, and nobody else does. */
static void finish(struct program *p, void *state)
{
	struct state *s = state;
	int last = s->n - 1;

	verify(p, state);
	while (last > 0 && s->pids[last] == s->pids[last - 1])
		last--;
	must(kill(s->pids[last], SIGKILL));
	if (s->parents[last] == getpid())
		expect_same(p, "waiting for a mate", waitpid(s->pids[last], NULL, __WALL), s->pids[last]);
	sleep_ms(20);
	s->n = last;
	word_of_main++;
	if (s->n)
		verify_memory(p, s);
}

static void spoil(void *state)
{
	struct state *s = state;

	must(kill(s->pids[0], SIGKILL));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	static struct state s = {.flags = CLONE_VM};
	struct program p;

	program_start(&p, argc, argv);
	s.word = argc > 2 ? argv[2] : "";
	make_stacks(&s);
	set_up(&s, p.folder);
	return program_serve(&p, &ops, &s);
}
