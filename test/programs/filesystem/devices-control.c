/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that only make other things: of loop devices, of the automounter, of virtual machines; and the kernel's log, opened to be
 * written. Those that the machine lacks are left out. Proof: each descriptor is that device with its flags, and answers.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/auto_dev-ioctl.h>
#include <linux/kvm.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static struct device {
	const char *path;
	int flags;
	unsigned major, minor;
	int fd;
} devices[] = {
	{"/dev/loop-control", O_RDWR, 10, 237, -1},
	{"/dev/autofs", O_RDONLY, 10, 235, -1},
	{"/dev/kvm", O_RDWR, 10, 232, -1},
	{"/dev/kmsg", O_WRONLY | O_NONBLOCK, 1, 11, -1},
};

static void verify_answers(struct program *p, const struct device *d)
{
	struct autofs_dev_ioctl ask;

	init_autofs_dev_ioctl(&ask);
	if (d->minor == 237)
		expect(p, ioctl(d->fd, LOOP_CTL_REMOVE, -1) < 0 && errno == EINVAL,
		       "it removes loop devices");
	if (d->minor == 235)
		expect_same(p, "version of autofs", ioctl(d->fd, AUTOFS_DEV_IOCTL_VERSION, &ask), 0);
	if (d->minor == 232)
		expect_same(p, "version of kvm", ioctl(d->fd, KVM_GET_API_VERSION, 0), KVM_API_VERSION);
	if (d->minor == 11)
		expect_same(p, "nothing written", write(d->fd, "", 0), 0);
}

static void verify(struct program *p, void *state)
{
	struct stat st;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		const struct device *d = &devices[i];
		if (d->fd < 0)
			continue;
		expect(p, !fstat(d->fd, &st) && st.st_rdev == makedev(d->major, d->minor),
		       "%s: another device", d->path);
		expect_same(p, d->path, fcntl(d->fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), d->flags);
		verify_answers(p, d);
	}
}

static void spoil(void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		if (devices[i].fd >= 0)
			must(fcntl(devices[i].fd, F_SETFL, devices[i].flags ^ O_NONBLOCK));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	int found = 0;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		devices[i].fd = open(devices[i].path, devices[i].flags | O_CLOEXEC);
		found += devices[i].fd >= 0;
	}
	if (!found)
		program_lacks("any of these devices");
	return program_serve(&p, &ops, NULL);
}
