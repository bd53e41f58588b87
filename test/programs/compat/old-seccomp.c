/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 32-bit program under a seccomp filter that lets nobody make calls of another table: whoever does is killed. A second filter
 * makes one call fail. A thread has both. Proof: the calls fail as the filters say, and there are two.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
	int call, error;
} denied[] = {{SYS_uselib, 71}, {SYS_sysfs, 72}};

static void filter(int call, int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_I386, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		program_die("seccomp");
}

static long filters_of_thread(void)
{
	char path[64], text[4096] = "";

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)syscall(SYS_gettid));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	close(fd);
	const char *line = n > 0 ? strstr(text, "Seccomp_filters:") : NULL;
	return line ? strtol(line + strlen("Seccomp_filters:"), NULL, 10) : -1;
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		errno = 0;
		syscall(denied[i].call, -1, -1, -1);
		expect_same(p, "errno of a call", errno, denied[i].error);
	}
	expect_same(p, "number of filters", filters_of_thread(), 2);
}

static void spoil(void *state)
{
	(void)state;
	filter(SYS_sysfs, 73);
}

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p = program_role(argument, "thread");

	program_serve(&p, &ops, NULL);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	for (size_t i = 0; i < 2; i++)
		filter(denied[i].call, denied[i].error);
	if (pthread_create(&handle, NULL, thread_main, &p))
		program_die("pthread_create");
	program_await(&p, "thread");
	_exit(program_serve(&p, &ops, NULL));
}
