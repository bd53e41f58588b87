/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file and a folder of /proc that show a process that has ended. Proof: both are there, and reading them fails as it does for every
 * process that is gone.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct state {
	int status, folder;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char bytes[64], link[64] = "", path[64];

	expect_same(p, "reading the status", pread(s->status, bytes, sizeof(bytes), 0), -1);
	expect_same(p, "why", errno, ESRCH);
	expect_same(p, "a name in the folder", openat(s->folder, "stat", O_RDONLY | O_CLOEXEC), -1);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->status);
	must(readlink(path, link, sizeof(link) - 1));
	expect(p, !strncmp(link, "/proc/", 6) && strstr(link, "/status"), "its link is %s", link);
	snprintf(path, sizeof(path), "/proc/%d", atoi(link + 6));
	expect_same(p, "the process", access(path, F_OK), -1);
}

static void spoil(void *state)
{
	const struct state *s = state;
	int fd = must(open("/proc/self/status", O_RDONLY | O_CLOEXEC));

	must(dup2(fd, s->status));
	close(fd);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;
	char path[64];

	program_start(&p, argc, argv);
	pid_t child = must(fork());
	if (!child)
		for (;;)
			pause();
	snprintf(path, sizeof(path), "/proc/%d/status", child);
	s.status = must(open(path, O_RDONLY | O_CLOEXEC));
	snprintf(path, sizeof(path), "/proc/%d", child);
	s.folder = must(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	must(kill(child, SIGKILL));
	must(waitpid(child, NULL, 0));
	return program_serve(&p, &ops, &s);
}
