/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of /proc and /sys: of the process itself, of its child, of the kernel; folders; one that shows the process's memory and one that can be
 * written to. Proof: what they show, and their offsets.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OFFSET = 7 };

struct state {
	pid_t child;
	int status, memory, adjust, folder, tasks, fds, meminfo, release, online;
};

static const char secret[] = "what stands in the memory";

static void verify_text(struct program *p, const char *what, int fd, const char *start)
{
	char text[256] = "";

	expect(p, pread(fd, text, sizeof(text) - 1, 0) > 0, "%s cannot be read", what);
	expect(p, !strncmp(text, start, strlen(start)), "%s shows '%.40s'", what, text);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char text[2048] = "", line[64];

	must(pread(s->status, text, sizeof(text) - 1, 0));
	snprintf(line, sizeof(line), "\nPid:\t%d\n", s->child);
	expect(p, strstr(text, line), "the child's status is that of another");
	expect_same(p, "offset in it", lseek(s->status, 0, SEEK_CUR), OFFSET);
	expect_same(p, "memory", pread(s->memory, text, sizeof(secret), (off_t)(uintptr_t)secret),
		    sizeof(secret));
	expect(p, !strcmp(text, secret), "/proc/self/mem shows other memory");
	expect_same(p, "access mode of oom_score_adj", fcntl(s->adjust, F_GETFL) & O_ACCMODE, O_RDWR);
	verify_text(p, "meminfo", s->meminfo, "MemTotal:");
	expect_same(p, "offset in meminfo", lseek(s->meminfo, 0, SEEK_CUR), OFFSET);
	verify_text(p, "/sys/devices/system/cpu/online", s->online, "0");
	expect(p, pread(s->release, text, sizeof(text), 0) > 0, "the kernel's release is empty");
	expect_same(p, "a file below /proc/self", faccessat(s->folder, "stat", F_OK, 0), 0);
	snprintf(line, sizeof(line), "%d", getpid());
	expect_same(p, "the thread below /proc/self/task", faccessat(s->tasks, line, F_OK, 0), 0);
	snprintf(line, sizeof(line), "%d", s->meminfo);
	expect_same(p, "a descriptor below /proc/self/fd", faccessat(s->fds, line, F_OK, AT_SYMLINK_NOFOLLOW),
		    0);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	char text[16] = "";

	verify(p, state);
	expect_same(p, "writing oom_score_adj", pwrite(s->adjust, "345", 3, 0), 3);
	must(pread(s->adjust, text, sizeof(text) - 1, 0));
	expect_same(p, "oom_score_adj", atoi(text), 345);
}

static void spoil(void *state)
{
	must(lseek(((struct state *)state)->meminfo, 1, SEEK_SET));
}

static int at_offset(const char *path)
{
	int fd = must(open(path, O_RDONLY | O_CLOEXEC));

	must(lseek(fd, OFFSET, SEEK_SET));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;
	char path[64];

	program_start(&p, argc, argv);
	s.child = must(fork());
	if (!s.child) {
		struct program q = program_role(&p, "unasked");
		program_note_volatile(&q);
		for (;;)
			pause();
	}
	snprintf(path, sizeof(path), "/proc/%d/status", s.child);
	s.status = at_offset(path);
	s.memory = must(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	s.adjust = must(open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC));
	s.folder = must(open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	s.tasks = must(open("/proc/self/task", O_PATH | O_CLOEXEC));
	s.fds = must(open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	s.meminfo = at_offset("/proc/meminfo");
	s.release = must(open("/proc/sys/kernel/osrelease", O_RDONLY | O_CLOEXEC));
	s.online = must(open("/sys/devices/system/cpu/online", O_RDONLY | O_CLOEXEC));
	if (program_told(argc, argv, "messages"))
		must(open("/proc/kmsg", O_RDONLY | O_CLOEXEC));
	return program_serve(&p, &ops, &s);
}
