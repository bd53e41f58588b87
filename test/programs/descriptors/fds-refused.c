/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A descriptor that a dump refuses; the word in argv[2] says which. Proof: it is still open and of the same kind.
 */
#include "program.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FD = 20 };

static struct stat was;

static void verify(struct program *p, void *state)
{
	struct stat st;

	(void)state;
	expect(p, !fstat(FD, &st) && st.st_ino == was.st_ino && st.st_dev == was.st_dev, "it is another");
}

static int make_perf(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_TASK_CLOCK};

	return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static int make_landlock(void)
{
	struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE};

	return (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
}

static int make_fscontext(void)
{
	return (int)syscall(SYS_fsopen, "tmpfs", 1);
}

static int make_device(const char *path)
{
	return open(path, O_RDWR | O_CLOEXEC);
}

static int make_fuse(void)
{
	return make_device("/dev/fuse");
}

static int make_log(void)
{
	return open("/dev/kmsg", O_RDONLY | O_CLOEXEC);
}

/* A network namespace in which nobody lives. */
static int make_namespace(void)
{
	int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	if (own < 0 || unshare(CLONE_NEWNET) < 0)
		return -1;
	int other = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	return setns(own, CLONE_NEWNET) < 0 || close(own) < 0 ? -1 : other;
}

static const struct {
	const char *word;
	int (*make)(void);
} kinds[] = {
	{"perf", make_perf}, {"landlock", make_landlock}, {"fscontext", make_fscontext},
	{"fuse", make_fuse}, {"log", make_log},           {"namespace", make_namespace},
};

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	struct program p;
	int fd = -1;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (program_told(argc, argv, kinds[i].word))
			fd = kinds[i].make();
	if (fd < 0)
		program_lacks("this machine has no such thing");
	must(dup3(fd, FD, O_CLOEXEC));
	close(fd);
	must(fstat(FD, &was));
	return program_serve(&p, &ops, NULL);
}
