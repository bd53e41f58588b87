/* SPDX-License-Identifier: Apache-2.0 */
/* The limits of an IPC namespace of its own, as /proc/sys has them; none has the value of a new namespace. */
#include "program.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *path, *value;
} limits[] = {
	{"/proc/sys/kernel/sem", "1000\t40000\t200\t3000\n"},
	{"/proc/sys/kernel/msgmax", "9000\n"},
	{"/proc/sys/kernel/msgmnb", "17000\n"},
	{"/proc/sys/kernel/msgmni", "1234\n"},
	{"/proc/sys/kernel/shmmax", "1073741824\n"},
	{"/proc/sys/kernel/shmall", "300000\n"},
	{"/proc/sys/kernel/shmmni", "777\n"},
	{"/proc/sys/kernel/shm_rmid_forced", "1\n"},
	{"/proc/sys/fs/mqueue/queues_max", "99\n"},
	{"/proc/sys/fs/mqueue/msg_max", "22\n"},
	{"/proc/sys/fs/mqueue/msgsize_max", "9999\n"},
	{"/proc/sys/fs/mqueue/msg_default", "11\n"},
	{"/proc/sys/fs/mqueue/msgsize_default", "5555\n"},
};

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		char text[64] = "";
		int fd = must(open(limits[i].path, O_RDONLY | O_CLOEXEC));
		must(read(fd, text, sizeof(text) - 1));
		close(fd);
		expect(p, !strcmp(text, limits[i].value), "%s is %s", limits[i].path, text);
	}
}

static void put(const char *path, const char *value)
{
	int fd = must(open(path, O_WRONLY | O_CLOEXEC));
	must(write(fd, value, strlen(value)));
	close(fd);
}

static void spoil(void *state)
{
	(void)state;
	put(limits[3].path, "4321\n");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	program_start(&p, argc, argv);
	must(unshare(CLONE_NEWIPC));
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
		put(limits[i].path, limits[i].value);
	return program_serve(&p, &ops, NULL);
}
