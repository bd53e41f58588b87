/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes and threads under seccomp, by the first argument: one filter, several on top of each other, threads that
 * differ, threads that share, children that inherit, filters without no_new_privs, filters that kill, filters that leave
 * hardly a system call, strict mode. Proof: each of some system calls that do nothing gives the errno that the newest
 * filter with an opinion wants; what a filter kills is killed; mode and number of filters stand in /proc.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROBES = 4, CODE_MAX = 300 };

/* They fail without effect when nobody objects: arguments are zero. */
static const int probes[PROBES] = {SYS_uselib, SYS_ustat, SYS_sysfs, SYS_lookup_dcookie};

/* struct seccomp_metadata of the kernel, which glibc's <sys/ptrace.h> hides. */
struct metadata {
	uint64_t filter_off, flags;
};

struct role {
	int want[PROBES]; /* errno of each probe */
	int mode, filters;
	pid_t tid;
};

struct rule {
	int nr;
	uint32_t action;
};

static int probe(int i)
{
	errno = 0;
	syscall(probes[i], 0, 0, 0, 0, 0, 0);
	return errno;
}

static unsigned code_build(struct sock_filter *code, const struct rule *rules, size_t n, uint32_t otherwise)
{
	unsigned at = 0;

	code[at++] =
		(struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < n; i++) {
		code[at++] =
			(struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)rules[i].nr, 0, 1);
		code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, rules[i].action);
	}
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, otherwise);
	return at;
}

static long filter_load(const struct rule *rules, size_t n, uint32_t otherwise, unsigned flags)
{
	struct sock_filter code[CODE_MAX];
	struct sock_fprog program = {.filter = code};

	program.len = (unsigned short)code_build(code, rules, n, otherwise);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void deny(int i, int error, unsigned flags)
{
	const struct rule rule = {probes[i], SECCOMP_RET_ERRNO | (uint32_t)error};

	if (filter_load(&rule, 1, SECCOMP_RET_ALLOW, flags) != 0)
		program_die("seccomp");
}

static long status_number(pid_t tid, const char *name)
{
	char path[64], text[4096] = "";

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	close(fd);
	const char *line = n > 0 ? strstr(text, name) : NULL;
	return line ? strtol(line + strlen(name), NULL, 10) : -1;
}

static void role_look(struct role *r)
{
	r->tid = (pid_t)syscall(SYS_gettid);
	for (int i = 0; i < PROBES; i++)
		r->want[i] = probe(i);
	r->mode = (int)status_number(r->tid, "Seccomp:");
	r->filters = (int)status_number(r->tid, "Seccomp_filters:");
}

static void verify(struct program *p, void *state)
{
	const struct role *r = state;

	for (int i = 0; i < PROBES; i++)
		expect_same(p, "errno of a probe", probe(i), r->want[i]);
	expect_same(p, "mode", status_number(r->tid, "Seccomp:"), r->mode);
	expect_same(p, "number of filters", status_number(r->tid, "Seccomp_filters:"), r->filters);
}

static void spoil(void *state)
{
	(void)state;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	deny(PROBES - 1, 99, 0);
}

static void no_new_privs(void)
{
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* ------------------------------------------------------------------- modes */

static void make_one(void)
{
	no_new_privs();
	deny(0, 71, 0);
}

/* The newest filter's errno counts among equal actions; a stronger action of an older one wins. */
static void make_stacked(void)
{
	no_new_privs();
	deny(0, 61, 0);
	deny(1, 62, SECCOMP_FILTER_FLAG_SPEC_ALLOW);
	deny(0, 63, 0);
	deny(2, 64, 0);
	for (int i = 0; i < 12; i++)
		deny(2, 65 + i, 0);
}

/* As container engines do it: with a capability that is given up afterwards instead of no_new_privs. */
static void make_privileged(void)
{
	deny(1, 72, 0);
	must(setgroups(0, NULL));
	must(setresgid(4242, 4242, 4242));
	must(setresuid(4243, 4243, 4243));
	must(prctl(PR_SET_DUMPABLE, 1));
}

static volatile sig_atomic_t trapped;

static void on_sigsys(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	trapped = info->si_syscall == probes[3] ? info->si_errno : -1;
}

static void make_trap(void)
{
	const struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
	const struct rule rule = {probes[3], SECCOMP_RET_TRAP | 7};

	sigaction(SIGSYS, &action, NULL);
	no_new_privs();
	if (filter_load(&rule, 1, SECCOMP_RET_ALLOW, 0) < 0)
		program_die("seccomp");
}

/* Everything but what the mailbox needs is deadly. */
static const int mailbox_calls[] = {
	SYS_read,      SYS_write,           SYS_openat,         SYS_open,         SYS_close,
	SYS_rename,    SYS_renameat,        SYS_fstat,          SYS_newfstatat,   SYS_fchmod,
	SYS_nanosleep, SYS_clock_nanosleep, SYS_exit_group,     SYS_exit,         SYS_wait4,
	SYS_lseek,     SYS_restart_syscall, SYS_seccomp,        SYS_rt_sigreturn, SYS_uselib,
	SYS_ustat,     SYS_sysfs,           SYS_lookup_dcookie, SYS_unlink,       SYS_prctl,
	SYS_getpid,    SYS_gettid,          SYS_sigaltstack,
};

static void make_deadly(const int *more, size_t n)
{
	struct rule rules[64];
	size_t at = 0;

	for (size_t i = 0; i < ARRAY_SIZE(mailbox_calls); i++)
		rules[at++] = (struct rule){mailbox_calls[i], SECCOMP_RET_ALLOW};
	for (size_t i = 0; i < n; i++)
		rules[at++] = (struct rule){more[i], SECCOMP_RET_ALLOW};
	no_new_privs();
	if (filter_load(rules, at, SECCOMP_RET_KILL_PROCESS, 0) < 0)
		program_die("seccomp");
}

static void make_kill(void)
{
	/* fork() of glibc, and what the pad needs to come home by itself. */
	static const int more[] = {SYS_clone, SYS_set_robust_list, SYS_rt_sigprocmask, SYS_munmap};

	make_deadly(more, ARRAY_SIZE(more));
}

static void make_bare(void)
{
	make_deadly(NULL, 0);
}

static void finish_kill(struct program *p, void *state)
{
	int status = 0;

	verify(p, state);
	pid_t child = fork();
	if (!child) {
		syscall(SYS_sync);
		_exit(0);
	}
	expect_same(p, "the child", wait4(child, &status, 0, NULL), child);
	expect(p, WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "a forbidden call did not kill");
}

static void finish_trap(struct program *p, void *state)
{
	verify(p, state);
	trapped = 0;
	probe(3);
	expect_same(p, "what the handler saw", trapped, 7);
}

/* A tracer reads the flags of the filters; only SECCOMP_FILTER_FLAG_LOG can be seen. */
static unsigned long flags_seen(pid_t pid)
{
	unsigned long seen = 0;
	int status;

	if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0 ||
	    waitpid(pid, &status, __WALL) != pid)
		return ~0ul;
	for (uint64_t i = 0; i < 8; i++) {
		struct metadata data = {.filter_off = i};
		if (ptrace(PTRACE_SECCOMP_GET_METADATA, pid, sizeof(data), &data) < 0)
			break;
		seen |= (unsigned long)(data.flags & SECCOMP_FILTER_FLAG_LOG ? 1 : 0) << i;
	}
	ptrace(PTRACE_DETACH, pid, 0, 0);
	return seen;
}

static void verify_flags(struct program *p, void *state)
{
	int seen = -1;

	verify(p, state);
	char text[16] = "", path[256];
	snprintf(path, sizeof(path), "%s/flags", p->folder);
	/* The tracer is there since before the filters: one under a filter is not told. */
	kill(((const struct role *)state)[1].tid, SIGUSR1);
	for (int i = 0; i < 2000 && !text[0]; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
			seen = atoi(text);
		close(fd);
		sleep_ms(2);
	}
	unlink(path);
	/* Newest first: the second of three has the flag. */
	expect_same(p, "filters that log", seen, 2);
}

static void tracer(const struct program *p, pid_t parent)
{
	sigset_t set;
	char path[256], text[16];
	int signal_number;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct program q = program_role(p, "tracer");
	program_note_volatile(&q);
	snprintf(path, sizeof(path), "%s/flags", p->folder);
	for (;;) {
		if (sigwait(&set, &signal_number) != 0)
			continue;
		snprintf(text, sizeof(text), "%lu", flags_seen(parent));
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0 || write(fd, text, strlen(text)) < 0)
			_exit(1);
		close(fd);
	}
}

static void make_log(void)
{
	no_new_privs();
	deny(0, 81, 0);
	deny(1, 82, SECCOMP_FILTER_FLAG_LOG);
	deny(2, 83, 0);
}

/* What a supervisor would answer; only to be refused. */
static void make_asking(void)
{
	const struct rule rule = {probes[0], SECCOMP_RET_USER_NOTIF};

	no_new_privs();
	long listener = filter_load(&rule, 1, SECCOMP_RET_ALLOW, SECCOMP_FILTER_FLAG_NEW_LISTENER);
	if (listener < 0)
		program_die("seccomp");
	close((int)listener);
}

/* ----------------------------------------------------------------- threads */

struct thread {
	const struct program *program;
	const char *name;
	int probe, error; /* a filter of its own; error 0 = none */
	struct role role;
};

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct thread *t = argument;
	struct program p = program_role(t->program, t->name);

	if (t->error)
		deny(t->probe, t->error, 0);
	role_look(&t->role);
	program_serve(&p, &ops, &t->role);
	return NULL;
}

static void threads_start(const struct program *p, struct thread *threads, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		pthread_t handle;
		threads[i].program = p;
		if (pthread_create(&handle, NULL, thread_main, &threads[i]) != 0)
			program_die("pthread_create");
		program_await(p, threads[i].name);
	}
}

static struct thread apart[] = {
	{NULL, "free", 0, 0, {{0}, 0, 0, 0}},
	{NULL, "first", 0, 91, {{0}, 0, 0, 0}},
	{NULL, "second", 1, 92, {{0}, 0, 0, 0}},
	{NULL, "like-first", 0, 91, {{0}, 0, 0, 0}},
};

static struct thread together[] = {
	{NULL, "one", 0, 0, {{0}, 0, 0, 0}},
	{NULL, "two", 0, 0, {{0}, 0, 0, 0}},
	{NULL, "three", 3, 93, {{0}, 0, 0, 0}},
};

/*
 * A filter for all threads at once is possible only while theirs are ancestors of the caller's: the one that has a filter of
 * its own is named, and without it the rest takes part.
 */
static void finish_together(struct program *p, void *state)
{
	const struct rule rule = {probes[2], SECCOMP_RET_ERRNO | 94};

	verify(p, state);
	long refused = filter_load(&rule, 1, SECCOMP_RET_ALLOW, SECCOMP_FILTER_FLAG_TSYNC);
	expect_same(p, "the thread that does not fit", refused, together[2].role.tid);
}

static void finish_alike(struct program *p, void *state)
{
	const struct rule rule = {probes[2], SECCOMP_RET_ERRNO | 94};
	struct role *r = state;

	verify(p, state);
	expect_same(p, "a filter for all threads",
		    filter_load(&rule, 1, SECCOMP_RET_ALLOW, SECCOMP_FILTER_FLAG_TSYNC), 0);
	expect_same(p, "filters of another thread", status_number(together[0].role.tid, "Seccomp_filters:"),
		    r->filters + 1);
}

/* In strict mode a thread can read, write and exit; one byte comes back incremented. */
struct strict {
	int to[2], from[2];
	pid_t tid;
};

static void *strict_main(void *argument)
{
	struct strict *s = argument;
	unsigned char byte;

	s->tid = (pid_t)syscall(SYS_gettid);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0) < 0)
		syscall(SYS_exit, 1);
	byte = 1;
	do {
		byte++;
		if (syscall(SYS_write, s->from[1], &byte, 1) != 1)
			break;
	} while (syscall(SYS_read, s->to[0], &byte, 1) == 1);
	syscall(SYS_exit, 0);
	return NULL;
}

static void strict_verify(struct program *p, void *state)
{
	struct strict *s = state;
	unsigned char byte = 40;

	must(write(s->to[1], &byte, 1));
	must(read(s->from[0], &byte, 1));
	expect_same(p, "what came back", byte, 41);
	expect_same(p, "mode of the thread", status_number(s->tid, "Seccomp:"), SECCOMP_MODE_STRICT);
	expect_same(p, "mode of the others", status_number(getpid(), "Seccomp:"), 0);
}

static void strict_spoil(void *state)
{
	struct strict *s = state;

	s->tid = getpid();
}

static int strict_run(struct program *p)
{
	static const struct program_ops ops = {.verify = strict_verify, .spoil = strict_spoil};
	static struct strict s;
	pthread_t handle;
	unsigned char byte;

	must(pipe2(s.to, O_CLOEXEC));
	must(pipe2(s.from, O_CLOEXEC));
	if (pthread_create(&handle, NULL, strict_main, &s) != 0)
		program_die("pthread_create");
	must(read(s.from[0], &byte, 1));
	return program_serve(p, &ops, &s);
}

/* ---------------------------------------------------------------- children */

static void children_start(const struct program *p)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static const char *const names[] = {"heir", "heir-with-more", "like-it"};
	struct role role;

	no_new_privs();
	deny(0, 51, 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (!must(fork())) {
			struct program q = program_role(p, names[i]);
			if (i)
				deny(1, 52, 0);
			role_look(&role);
			exit(program_serve(&q, &ops, &role));
		}
		program_await(p, names[i]);
	}
	deny(2, 53, 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops plain_ops = {.verify = verify, .spoil = spoil};
	static const struct program_ops log_ops = {.verify = verify_flags, .spoil = spoil};
	static const struct program_ops kill_ops = {.verify = verify, .spoil = spoil, .finish = finish_kill};
	static const struct program_ops trap_ops = {.verify = verify, .spoil = spoil, .finish = finish_trap};
	static const struct program_ops together_ops = {
		.verify = verify, .spoil = spoil, .finish = finish_together};
	static const struct program_ops alike_ops = {
		.verify = verify, .spoil = spoil, .finish = finish_alike};
	static const struct {
		const char *word;
		void (*make)(void);
		const struct program_ops *ops;
	} modes[] = {
		{"one", make_one, &plain_ops},       {"stacked", make_stacked, &plain_ops},
		{"trap", make_trap, &trap_ops},      {"privileged", make_privileged, &plain_ops},
		{"kill", make_kill, &kill_ops},      {"bare", make_bare, &plain_ops},
		{"asking", make_asking, &plain_ops}, {"log", make_log, &log_ops},
	};
	const struct program_ops *ops = &plain_ops;
	struct program p;
	struct role self[2];

	program_start(&p, argc, argv);
	if (program_told(argc, argv, "strict"))
		return strict_run(&p);
	if (program_told(argc, argv, "log")) {
		pid_t parent = getpid();
		self[1].tid = must(fork());
		if (!self[1].tid)
			tracer(&p, parent);
		sleep_ms(20);
	}
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (program_told(argc, argv, modes[i].word)) {
			role_look(self);
			modes[i].make();
			ops = modes[i].ops;
		}
	if (program_told(argc, argv, "threads")) {
		no_new_privs();
		threads_start(&p, apart, ARRAY_SIZE(apart));
	}
	if (program_told(argc, argv, "children"))
		children_start(&p);
	if (program_told(argc, argv, "tsync") || program_told(argc, argv, "alike")) {
		bool alike = program_told(argc, argv, "alike");
		no_new_privs();
		deny(0, 95, 0);
		threads_start(&p, together, alike ? 2 : 3);
		ops = alike ? &alike_ops : &together_ops;
	}
	role_look(self);
	return program_serve(&p, ops, self);
}
