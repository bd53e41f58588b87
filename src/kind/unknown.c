/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the words for descriptors that no kind owns: devices by their numbers, anonymous objects by their names, with the
 * reason why they stay behind. Who meets something that is not in the tables reads its name and its numbers.
 *
 * Kernel interface: Documentation/admin-guide/devices.txt; names of anonymous inodes as their creators give them.
 */
#include "kind/unknown.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "kind/fdcommon.h"

enum { MISC = 10, MEM = 1, SOUND = 116, INPUT = 13, VIDEO = 81, DRM = 226, FRAMEBUFFER = 29, ANY = -1 };

static const struct unknown_device {
	int major, minor;
	const char *what, *hint;
} unknown_devices[] = {
	{MEM, 1, "the machine's memory", "no program that has it open can be moved"},
	{MEM, 11, "the kernel's log",
	 "let the program open it again when it needs it: its place in the log is another after a restore"},
	{MISC, 228, "the high precision timer (hpet)", "a timerfd does the same and can be dumped"},
	{MISC, 229, "a file system in user space (fuse)",
	 "unmount it: the kernel gives its connection to nobody else"},
	{MISC, 238, "a virtual network card (vhost)",
	 "use the migration of the virtual machine monitor itself"},
	{254, 0, "the real time clock", "let the program close it"},
	{INPUT, ANY, "an input device", "start the program in a virtual desktop (VNC)"},
	{SOUND, ANY, "a sound device", "let the program close it, or send its sound to a sound server"},
	{VIDEO, ANY, "a camera", "let the program close it"},
	{DRM, ANY, "a graphics device",
	 "start the program in a virtual desktop (VNC) with software rendering"},
	{FRAMEBUFFER, ANY, "a frame buffer", "start the program in a virtual desktop (VNC)"},
};

static const struct unknown_object {
	const char *link, *what, *hint;
} unknown_objects[] = {
	/* Its number is another on each machine. */
	{"/dev/userfaultfd", "the device that makes userfaultfds",
	 "let the program close it once it has its userfaultfd"},
	{"anon_inode:[perf_event]", "a performance counter",
	 "no interface of the kernel gives a counter its value back: stop measuring first"},
	{"anon_inode:[landlock-ruleset]", "rules of landlock that are not in force yet",
	 "no interface of the kernel tells them: dump before they are made or when they are in force"},
	{"anon_inode:[fscontext]", "a mount that is being prepared (fsopen)",
	 "it is there for a moment only: dump again"},
	{"anon_inode:seccomp notify", "the listener of a seccomp filter",
	 "no interface of the kernel makes a listener for a filter that is in force"},
	{"anon_inode:kvm", "a virtual machine or one of its processors",
	 "use the migration of the virtual machine monitor itself"},
	{"anon_inode:[vfio", "a device given to user space (vfio)", "its state is in the device"},
	{"anon_inode:sync_file", "a fence of a graphics device",
	 "start the program in a virtual desktop (VNC) with software rendering"},
	{"/dmabuf:", "memory of a device (dma-buf)",
	 "start the program in a virtual desktop (VNC) with software rendering"},
	{"anon_inode:dma", "memory of a device (dma-buf)",
	 "start the program in a virtual desktop (VNC) with software rendering"},
	{"anon_inode:bpf", "an object of BPF", "let the program close it"},
};

static const struct unknown_device *unknown_device(const struct stat *st)
{
	for (size_t i = 0; S_ISCHR(st->st_mode) && i < ARRAY_SIZE(unknown_devices); i++) {
		const struct unknown_device *d = &unknown_devices[i];
		if ((unsigned)d->major == major(st->st_rdev) &&
		    (d->minor == ANY || (unsigned)d->minor == minor(st->st_rdev)))
			return d;
	}
	return NULL;
}

static const struct unknown_object *unknown_object(const char *link)
{
	for (size_t i = 0; i < ARRAY_SIZE(unknown_objects); i++)
		if (!strncmp(link, unknown_objects[i].link, strlen(unknown_objects[i].link)))
			return &unknown_objects[i];
	return NULL;
}

int unknown_refuse(const struct fd_view *view, struct ferry_error *err)
{
	const struct unknown_device *device = unknown_device(&view->stat);
	const struct unknown_object *object = device ? NULL : unknown_object(view->link);
	char who[64];
	fd_view_name(view, who, sizeof(who));
	if (S_ISCHR(view->stat.st_mode) || S_ISBLK(view->stat.st_mode))
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' (device %u:%u) is %s", who,
			  view->link, major(view->stat.st_rdev), minor(view->stat.st_rdev),
			  device   ? device->what
			  : object ? object->what
				   : "a device that ferry does not dump");
	else
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' is %s", who, view->link,
			  object ? object->what : "of a kind that ferry does not dump");
	if (device || object)
		error_hint(err, "%s", device ? device->hint : object->hint);
	return -ENOTSUP;
}
