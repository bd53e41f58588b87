/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading and making time namespaces. A process that makes one stays where it is; only its new children go there.
 *
 * Kernel interface: time_namespaces(7) (5.6): unshare(2) with CLONE_NEWTIME, /proc/PID/timens_offsets, /proc/PID/ns/time_for_children.
 */
#include "host/timens.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "proc/read.h"

#define TIMENS_SECOND 1000000000ll

static int64_t timens_ns(int64_t sec, int64_t nsec)
{
	return sec * TIMENS_SECOND + nsec;
}

int timens_read(int proc_dir, struct timens_offsets *ret, struct ferry_error *err)
{
	struct proc_timens_offsets o = {0};
	int r = proc_read_timens_offsets(proc_dir, &o, err);
	if (r == -ENOENT) {
		error_clear(err);
		r = 0;
	}
	if (r >= 0)
		*ret = (struct timens_offsets){timens_ns(o.monotonic.sec, o.monotonic.nsec),
					       timens_ns(o.boottime.sec, o.boottime.nsec)};
	return r;
}

int timens_read_own(int proc, struct timens_offsets *ret, struct ferry_error *err)
{
	_cleanup_close_ int self = fd_open(proc, "self", O_RDONLY | O_DIRECTORY, 0);
	return self < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -self, "opening '/proc/self'")
			: timens_read(self, ret, err);
}

static void timens_add(char *text, size_t n, const char *clock, int64_t offset_ns)
{
	int64_t sec = offset_ns / TIMENS_SECOND, nsec = offset_ns % TIMENS_SECOND;
	size_t used = strlen(text);
	if (nsec < 0) {
		nsec += TIMENS_SECOND;
		sec--;
	}
	snprintf(text + used, n - used, "%s %lld %lld\n", clock, (long long)sec, (long long)nsec);
}

int timens_unshare(int proc, const struct timens_offsets *offsets, struct ferry_error *err)
{
	char text[160] = "";
	if (unshare(CLONE_NEWTIME) < 0) {
		error_errno(err, FERRY_ERROR_KERNEL_FEATURE, errno, "creating a time namespace");
		error_hint(err, "restore with --clock=host if the programs bear a jump of CLOCK_MONOTONIC");
		return -ENOTSUP;
	}
	timens_add(text, sizeof(text), "monotonic", offsets->monotonic_ns);
	timens_add(text, sizeof(text), "boottime", offsets->boottime_ns);
	_cleanup_close_ int fd = fd_open(proc, "self/timens_offsets", O_WRONLY, 0);
	int r = fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "setting the clocks of a time namespace") : 0;
}

int timens_open(int proc, struct ferry_error *err)
{
	int fd = fd_open(proc, "self/ns/time_for_children", O_RDONLY, 0);
	return fd < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening a time namespace") : fd;
}
