/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children whose first thread has ended, in ways that cannot be brought back, by the first argument: "filtered", by a seccomp
 * filter that kills it alone; "traced", and another thread is traced by the parent; "traced-first", and the parent traces it. A
 * dump refuses each by name.
 */
#include "leader-ended.h"
#include "relations.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

static void *outlive(void *argument)
{
	*(pid_t *)argument = gettid();
	note_volatile();
	for (;;)
		pause();
	return NULL;
}

static void load_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_uselib, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = ARRAY_SIZE(code), .filter = code};

	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must((int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static __attribute__((noreturn)) void child_main(bool filtered, int go, int tell)
{
	static pid_t other;
	char byte;

	leader_thread(outlive, &other);
	while (!other)
		sleep_ms(1);
	must((int)write(tell, &other, sizeof(other)));
	must((int)read(go, &byte, 1));
	if (filtered) {
		load_filter();
		syscall(SYS_uselib, 0);
	}
	leader_end();
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = relations_verify, .spoil = relations_spoil};
	static struct relations all;
	struct program p;
	int to[2], from[2];
	pid_t other;

	relations_start(&p, argc, argv);
	must(pipe(to));
	must(pipe(from));
	pid_t child = must(fork());
	if (!child)
		child_main(program_told(argc, argv, "filtered"), to[0], from[1]);
	must((int)read(from[0], &other, sizeof(other)));
	if (program_told(argc, argv, "traced-first"))
		must((int)ptrace(PTRACE_SEIZE, child, 0, 0));
	if (program_told(argc, argv, "traced"))
		must((int)ptrace(PTRACE_SEIZE, other, 0, 0));
	must((int)write(to[1], "x", 1));
	leader_await_end(child);
	sleep_ms(30);
	relations_look(&all);
	return program_serve(&p, &ops, &all);
}
