/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns copying files.
 *
 * Kernel interface: ioctl_ficlone(2) (4.5; btrfs, XFS, overlayfs on them), lseek(2) SEEK_DATA (3.1).
 */
#include "base/clone.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

enum { CLONE_BLOCK = 1 << 20 };

/* Bytes of [at, end), which has no holes. */
static int clone_range(int from, int to, off_t at, off_t end, char *block)
{
	while (at < end) {
		size_t wanted = (size_t)MIN(end - at, (off_t)CLONE_BLOCK);
		ssize_t n = pread(from, block, wanted, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0; /* it became shorter */
		int r = fd_pwrite_all(to, block, (size_t)n, (uint64_t)at);
		if (r < 0)
			return r;
		at += n;
	}
	return 0;
}

int fd_clone(int from, int to)
{
	_cleanup_free_ char *block = NULL;
	struct stat st;
	if (ioctl(to, FICLONE, from) == 0)
		return 0;
	block = malloc(CLONE_BLOCK);
	if (!block)
		return -ENOMEM;
	if (fstat(from, &st) < 0 || ftruncate(to, st.st_size) < 0)
		return -errno;
	for (off_t at = 0, end; at < st.st_size; at = end) {
		at = lseek(from, at, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			return 0; /* a hole to the end */
		/* Where the file system does not tell it is all data. */
		bool tells = at >= 0;
		at = tells ? at : 0;
		end = tells ? lseek(from, at, SEEK_HOLE) : st.st_size;
		if (end < 0)
			return -errno;
		int r = clone_range(from, to, at, end, block);
		if (r < 0)
			return r;
	}
	return 0;
}
