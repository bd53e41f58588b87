/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the place of an image that only passes through.
 *
 * Kernel interface: fsopen(2), fsmount(2) (5.2): a tmpfs that is mounted nowhere and goes with its descriptor.
 * Not handled: a memory limit of a cgroup v2 whose files are not mounted below /sys/fs/cgroup.
 */
#include "migrate/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "proc/read.h"

enum { PLACE_SPARE_BYTES = 256 << 20, PLACE_FILE_MAX = 64 << 10 };

static uint64_t place_number(const char *path)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	if (fd_read_path(AT_FDCWD, path, 64, &text, &n) < 0 || text[0] < '0' || text[0] > '9')
		return UINT64_MAX;
	return strtoull(text, NULL, 10);
}

static uint64_t place_left(const char *folder, const char *limit_file, const char *used_file)
{
	char path[600];
	snprintf(path, sizeof(path), "%s/%s", folder, limit_file);
	uint64_t limit = place_number(path);
	if (limit == UINT64_MAX)
		return UINT64_MAX;
	snprintf(path, sizeof(path), "%s/%s", folder, used_file);
	uint64_t used = place_number(path);
	return used == UINT64_MAX || used > limit ? 0 : limit - used;
}

/* What the memory controller still grants us; pages of a tmpfs count as ours. */
static uint64_t place_group_room(void)
{
	struct proc_cgroups list;
	uint64_t room = UINT64_MAX;
	_cleanup_close_ int self = proc_open(getpid(), NULL);
	if (self < 0 || proc_read_cgroups(self, &list, NULL) < 0)
		return room;
	vec_foreach(c, &list.v) {
		char folder[512];
		uint64_t left = UINT64_MAX;
		if (c->hierarchy && !strcmp(c->controllers, "memory")) {
			snprintf(folder, sizeof(folder), "/sys/fs/cgroup/memory%s", c->path);
			left = place_left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes");
		} else if (!c->hierarchy) {
			snprintf(folder, sizeof(folder), "/sys/fs/cgroup%s", c->path);
			left = place_left(folder, "memory.max", "memory.current");
		}
		room = MIN(room, left);
	}
	proc_cgroups_release(&list);
	return room;
}

static uint64_t place_memory_available(void)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	if (fd_read_path(AT_FDCWD, "/proc/meminfo", PLACE_FILE_MAX, &text, &n) < 0)
		return 0;
	const char *line = strstr(text, "MemAvailable:");
	return line ? (uint64_t)strtoull(line + strlen("MemAvailable:"), NULL, 10) << 10 : 0;
}

static bool place_fits_memory(uint64_t bytes)
{
	uint64_t wanted = bytes + bytes / 4 + PLACE_SPARE_BYTES;
	return place_memory_available() > wanted && place_group_room() > wanted;
}

static int place_mount(uint64_t bytes)
{
	char size[32];
	_cleanup_close_ int fs = sys_fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return fs;
	snprintf(size, sizeof(size), "%" PRIu64, bytes + bytes / 4 + PLACE_SPARE_BYTES);
	int r = sys_fsconfig(fs, FSCONFIG_SET_STRING, "size", size, 0);
	if (r >= 0)
		r = sys_fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0700", 0);
	/* Large folios where files are large: making and freeing page by page takes several times as long. */
	if (r >= 0 && sys_fsconfig(fs, FSCONFIG_SET_STRING, "huge", "within_size", 0) < 0)
		r = 0; /* a kernel without them */
	if (r >= 0)
		r = sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	return r < 0 ? r : sys_fsmount(fs, FSMOUNT_CLOEXEC, 0);
}

static int place_in_memory(uint64_t bytes, struct place *p)
{
	p->fd = place_mount(bytes);
	/* The dot makes path lookup follow the link also where links are not followed. */
	if (p->fd >= 0 && asprintf(&p->path, "/proc/self/fd/%d/.", p->fd) < 0)
		p->path = NULL;
	return p->fd < 0 ? p->fd : p->path ? 0 : -ENOMEM;
}

static int place_in_directory(const char *dir, const char *parent, const char *name, struct place *p)
{
	if (dir)
		p->path = strdup(dir);
	else if (asprintf(&p->path, "%s/%s", parent, name) < 0)
		p->path = NULL;
	if (!p->path)
		return -ENOMEM;
	if (mkdir(p->path, 0700) < 0 && (errno != EEXIST || !dir))
		return -errno;
	p->fd = fd_open(AT_FDCWD, p->path, O_RDONLY | O_DIRECTORY, 0);
	if (p->fd < 0 || dir)
		return MIN(p->fd, 0);
	p->made = strdup(p->path);
	return p->made ? 0 : -ENOMEM;
}

int place_make(const char *dir, const char *parent, const char *name, uint64_t bytes, struct place *ret,
	       struct ferry_error *err)
{
	struct place p = PLACE_INIT;
	int r = -ENOMEM;
	if (!dir && place_fits_memory(bytes))
		r = place_in_memory(bytes, &p);
	if (r < 0) {
		place_release(&p);
		p = (struct place)PLACE_INIT;
		r = place_in_directory(dir, parent, name, &p);
	}
	if (r < 0) {
		error_errno(err, FERRY_ERROR_SYSTEM, -r, "making the directory '%s' for the image",
			    p.path ? p.path : name);
		place_release(&p);
		return r;
	}
	*ret = p;
	return 0;
}

/* Image directories are flat. */
static void place_remove(const char *path)
{
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return;
	for (struct dirent *entry; (entry = readdir(d));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    unlinkat(dirfd(d), entry->d_name, 0) < 0)
			return;
	rmdir(path);
}

void place_release(struct place *p)
{
	if (p->fd >= 0)
		close(p->fd);
	if (p->made)
		place_remove(p->made);
	free(p->made);
	free(p->path);
	*p = (struct place)PLACE_INIT;
}

void place_remove_stale(const char *parent, const char *name)
{
	_cleanup_free_ char *path = NULL;
	if (asprintf(&path, "%s/%s", parent, name) < 0)
		path = NULL;
	else
		place_remove(path);
}
