/* SPDX-License-Identifier: Apache-2.0 */
/* Owns opening /proc/PID and reading its files into the parsers. */
#include "proc/read.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "kernel/caps.h"
#include "kernel/syscalls.h"
#include "proc/lex.h"
#include "proc/read_error.h"

enum {
	SMALL_FILE_MAX = 1 << 20,
	BIG_FILE_MAX = 64 << 20, /* mountinfo of a busy host, fdinfo with many watches, locks */
	MAPS_TRIES = 8,
	SMAPS_CHUNK = 32 << 10, /* the kernel gives a page at a time */
	FDINFO_SMALL = 1024,    /* what most of them fit into */
};

bool proc_gone(int dirfd)
{
	return faccessat(dirfd, "stat", F_OK, 0) < 0 && (errno == ENOENT || errno == ESRCH);
}

bool proc_exists(int dirfd)
{
	return !proc_gone(dirfd);
}

/* "/proc/41" for messages, also when it is gone. */
static void dir_path(int dirfd, char *path, size_t n)
{
	ssize_t got = fd_path(dirfd, path, n);
	struct lex l = lex_new(path, got < 0 ? 0 : (size_t)got);
	lex_cut_deleted(&l);
	path[lex_left(&l)] = '\0';
}

int proc_read_error(int dirfd, const char *name, int code, struct ferry_error *err)
{
	char path[128];
	dir_path(dirfd, path, sizeof(path));
	const char *slash = *path ? "/" : "";
	if (code == ENOMEM)
		return error_memory(err);
	if (code == ESRCH ||
	    ((code == ENOENT || code == EBADF || code == EINVAL) && dirfd >= 0 && proc_gone(dirfd)))
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "%s%s%s: the task is gone", path,
				 slash, name);
	enum ferry_error_id id =
		code == EACCES || code == EPERM ? FERRY_ERROR_PERMISSION : FERRY_ERROR_SYSTEM;
	error_errno(err, id, code, "%s%s%s: cannot read", path, slash, name);
	if (id == FERRY_ERROR_PERMISSION)
		error_hint(err,
			   "it is another user's, or lets nobody look into it (PR_SET_DUMPABLE): root can");
	return -code;
}

int proc_open(pid_t pid, struct ferry_error *err)
{
	int fd = fd_openf(O_RDONLY | O_DIRECTORY, "/proc/%d", pid);
	if (fd == -ENOENT || fd == -ESRCH)
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "there is no task %d", pid);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "/proc/%d: cannot open", pid);
	return fd;
}

int proc_open_self(struct ferry_error *err)
{
	int fd = fd_open(AT_FDCWD, "/proc/self", O_RDONLY | O_DIRECTORY, 0);
	return fd < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening '/proc/self'") : fd;
}

int proc_open_task(int dirfd, pid_t tid, struct ferry_error *err)
{
	char name[32];
	snprintf(name, sizeof(name), "task/%d", tid);
	int fd = fd_open(dirfd, name, O_RDONLY | O_DIRECTORY, 0);
	if (fd == -ENOENT || fd == -ESRCH)
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "there is no thread %d", tid);
	return fd < 0 ? proc_read_error(dirfd, name, -fd, err) : fd;
}

int proc_open_file(int dirfd, const char *name, int flags, struct ferry_error *err)
{
	int fd = fd_open(dirfd, name, flags, 0);
	return fd < 0 ? proc_read_error(dirfd, name, -fd, err) : fd;
}

int proc_read_file(int dirfd, const char *name, size_t max_bytes, char **ret_bytes, size_t *ret_n,
		   struct ferry_error *err)
{
	int r = fd_read_path(dirfd, name, max_bytes, ret_bytes, ret_n);
	return r < 0 ? proc_read_error(dirfd, name, -r, err) : 0;
}

int proc_read_piece(int dirfd, const char *name, char **ret_text, size_t *ret_n, struct ferry_error *err)
{
	int r = fd_read_piece(dirfd, name, SMALL_FILE_MAX, ret_text, ret_n);
	return r < 0 ? proc_read_error(dirfd, name, -r, err) : 0;
}

/* One that always has something in it: none means that the task is gone. */
static int read_text(int dirfd, const char *name, char **ret_text, size_t *ret_n, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = proc_read_piece(dirfd, name, &text, &n, err);
	if (r < 0)
		return r;
	if (!n)
		return proc_read_error(dirfd, name, ESRCH, err);
	*ret_text = take_ptr(text);
	*ret_n = n;
	return 0;
}

int proc_read_status(int dirfd, struct proc_status *ret_status, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = read_text(dirfd, "status", &text, &n, err);
	return r < 0 ? r : proc_status_parse(text, n, ret_status, err);
}

int proc_read_thread_status(int dirfd, pid_t tid, struct proc_status *ret_status, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	char name[48];
	snprintf(name, sizeof(name), "task/%d/status", tid);
	int r = read_text(dirfd, name, &text, &n, err);
	return r < 0 ? r : proc_status_parse(text, n, ret_status, err);
}

int proc_read_stat(int dirfd, struct proc_stat *ret_stat, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t n = 0;
	int r = read_text(dirfd, "stat", &text, &n, err);
	return r < 0 ? r : proc_stat_parse(text, n, ret_stat, err);
}

int proc_start_time(int dirfd, uint64_t *ret_ticks, struct ferry_error *err)
{
	struct proc_stat st;
	int r = proc_read_stat(dirfd, &st, err);
	if (!r)
		*ret_ticks = st.starttime_ticks;
	return r;
}

/* Feed a whole maps or smaps to the parser, chunk by chunk: smaps has about 700 bytes a mapping. */
static int feed_maps(int dirfd, const char *name, struct proc_maps *maps, struct ferry_error *err)
{
	struct proc_maps_parser parser;
	_cleanup_close_ int fd = proc_open_file(dirfd, name, O_RDONLY, err);
	if (fd < 0)
		return fd;
	_cleanup_free_ char *chunk = malloc(SMAPS_CHUNK);
	if (!chunk)
		return error_memory(err);
	proc_maps_begin(&parser, maps);
	int r;
	for (;;) {
		ssize_t n = read(fd, chunk, SMAPS_CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		r = n < 0 ? proc_read_error(dirfd, name, errno, err) : 0;
		if (!r && n)
			r = proc_maps_feed(&parser, chunk, (size_t)n, err);
		if (r < 0 || !n)
			break;
	}
	if (!r)
		r = proc_maps_end(&parser, err);
	proc_maps_parser_release(&parser);
	return r;
}

/* Ask for the mapping that holds addr or the next one; name has PATH_MAX bytes. 0 or -errno, nothing is told. */
static int query_vma(int maps_fd, uint64_t addr, uint64_t flags, char *name, struct procmap_query *ret_query)
{
	*ret_query = (struct procmap_query){
		.query_flags = flags,
		.query_addr = addr,
		.vma_name_addr = (uintptr_t)name,
		.vma_name_size = PATH_MAX,
	};
	return sys_procmap_query(maps_fd, ret_query);
}

/* Mappings that end behind addr by PROCMAP_QUERY; -ENAMETOOLONG, without a message, for a path that only the text can give. */
static int query_maps_from(int dirfd, const char *file, uint64_t addr, struct proc_maps *maps,
			   struct ferry_error *err)
{
	char name[PATH_MAX];
	_cleanup_close_ int fd = proc_open_file(dirfd, file, O_RDONLY, err);
	if (fd < 0)
		return fd;
	for (;;) {
		struct procmap_query query;
		int r = query_vma(fd, addr, PROCMAP_QUERY_COVERING_OR_NEXT_VMA, name, &query);
		/* a zombie and a kernel thread have no memory; the text is empty then */
		if (r == -ENOENT || (r == -ESRCH && !proc_gone(dirfd)))
			return 0;
		if (r == -ENAMETOOLONG)
			return r;
		if (r < 0)
			return proc_read_error(dirfd, file, -r, err);
		r = proc_maps_add_query(maps, &query, name, err);
		if (r < 0)
			return r;
		addr = query.vma_end;
	}
}

static int query_maps(int dirfd, const char *file, struct proc_maps *maps, struct ferry_error *err)
{
	return query_maps_from(dirfd, file, 0, maps, err);
}

typedef int maps_reader(int dirfd, const char *file, struct proc_maps *maps, struct ferry_error *err);

/* A running task may change its mappings between two answers; when that shows, all is read again. */
static int read_maps(maps_reader *reader, int dirfd, const char *file, struct proc_maps *ret_maps,
		     struct ferry_error *err)
{
	struct ferry_error tried;
	int r = -EAGAIN;
	for (int tries = 0; tries < MAPS_TRIES && r == -EAGAIN; tries++) {
		struct proc_maps maps = {0};
		tried = (struct ferry_error)FERRY_ERROR_INIT;
		r = reader(dirfd, file, &maps, &tried);
		if (!r)
			*ret_maps = maps;
		else
			proc_maps_release(&maps);
	}
	if (r < 0)
		error_pass(err, &tried);
	return r;
}

int proc_read_maps(int dirfd, const struct kern_caps *caps, struct proc_maps *ret_maps,
		   struct ferry_error *err)
{
	if (kern_has(caps, KERN_CAP_PROCMAP_QUERY)) {
		int r = read_maps(query_maps, dirfd, "maps", ret_maps, err);
		if (r != -ENAMETOOLONG)
			return r;
	}
	return read_maps(feed_maps, dirfd, "maps", ret_maps, err);
}

int proc_read_own_maps(struct proc_maps *ret_maps, struct ferry_error *err)
{
	_cleanup_close_ int dirfd = fd_open(AT_FDCWD, "/proc/self", O_RDONLY | O_DIRECTORY, 0);
	if (dirfd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -dirfd, "opening '/proc/self'");
	/* Kernels before 6.11 do not know the question. */
	int r = read_maps(query_maps, dirfd, "maps", ret_maps, NULL);
	return r >= 0 ? r : read_maps(feed_maps, dirfd, "maps", ret_maps, err);
}

int proc_read_own_maps_from(uint64_t from, struct proc_maps *ret_maps, struct ferry_error *err)
{
	struct proc_maps maps = {0};
	_cleanup_close_ int dirfd = fd_open(AT_FDCWD, "/proc/self", O_RDONLY | O_DIRECTORY, 0);
	if (dirfd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -dirfd, "opening '/proc/self'");
	if (query_maps_from(dirfd, "maps", from, &maps, NULL) >= 0) {
		*ret_maps = maps;
		return 0;
	}
	proc_maps_release(&maps);
	return read_maps(feed_maps, dirfd, "maps", ret_maps, err);
}

int proc_read_smaps(int dirfd, struct proc_maps *ret_maps, struct ferry_error *err)
{
	return read_maps(feed_maps, dirfd, "smaps", ret_maps, err);
}

static int no_vma(uint64_t addr, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_SYSTEM, ENOENT, "nothing is mapped at %#llx",
			 (unsigned long long)addr);
}

/* One mapping by PROCMAP_QUERY; -ENAMETOOLONG as in query_maps(). */
static int query_one(int dirfd, uint64_t addr, struct proc_maps *maps, struct proc_vma *ret_vma,
		     struct ferry_error *err)
{
	char name[PATH_MAX];
	struct procmap_query query;
	struct proc_maps one = {.names = maps->names};
	_cleanup_close_ int fd = proc_open_file(dirfd, "maps", O_RDONLY, err);
	if (fd < 0)
		return fd;
	int r = query_vma(fd, addr, 0, name, &query);
	if (r == -ENOENT || (r == -ESRCH && !proc_gone(dirfd)))
		return no_vma(addr, err);
	if (r == -ENAMETOOLONG)
		return r;
	if (r < 0)
		return proc_read_error(dirfd, "maps", -r, err);
	r = proc_maps_add_query(&one, &query, name, err);
	if (!r)
		*ret_vma = one.vmas.v[0];
	maps->names = one.names;
	vec_release(&one.vmas);
	return r;
}

int proc_read_vma(int dirfd, const struct kern_caps *caps, uint64_t addr, struct proc_maps *maps,
		  struct proc_vma *ret_vma, struct ferry_error *err)
{
	if (kern_has(caps, KERN_CAP_PROCMAP_QUERY)) {
		int r = query_one(dirfd, addr, maps, ret_vma, err);
		if (r != -ENAMETOOLONG)
			return r;
	}
	struct proc_maps all;
	int r = read_maps(feed_maps, dirfd, "maps", &all, err);
	if (r < 0)
		return r;
	const struct proc_vma *found = proc_maps_find(&all, addr);
	if (!found) {
		r = no_vma(addr, err);
	} else {
		struct proc_vma vma = *found;
		const char *name = proc_vma_name(&all, found);
		r = proc_names_add(&maps->names, name, strlen(name), &vma.name);
		if (r < 0)
			error_memory(err);
		else
			*ret_vma = vma;
	}
	proc_maps_release(&all);
	return r;
}

int proc_open_vma_file(int dirfd, const struct proc_vma *vma, int flags, struct ferry_error *err)
{
	char name[64];
	snprintf(name, sizeof(name), "map_files/%llx-%llx", (unsigned long long)vma->start,
		 (unsigned long long)vma->end);
	return proc_open_file(dirfd, name, flags, err);
}

/* fdinfo is one record, which the kernel hands over as a whole: a read that leaves room has got all of it. */
static int read_record(int dirfd, const char *name, char *text, size_t room, size_t *ret_n)
{
	_cleanup_close_ int fd = fd_open(dirfd, name, O_RDONLY, 0);
	if (fd < 0)
		return fd;
	ssize_t n = read(fd, text, room);
	if (n < 0)
		return -errno;
	*ret_n = (size_t)n;
	return (size_t)n < room ? 1 : 0;
}

int proc_read_fdinfo(int dirfd, int fd, struct proc_fdinfo *ret_info, struct ferry_error *err)
{
	char name[32], small[FDINFO_SMALL];
	_cleanup_free_ char *text = NULL;
	_cleanup_proc_fdinfo_ struct proc_fdinfo info = {0};
	size_t n = 0;
	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	int whole = read_record(dirfd, name, small, sizeof(small), &n);
	int r = whole > 0 ? 0 : proc_read_file(dirfd, name, BIG_FILE_MAX, &text, &n, err);
	if (r < 0)
		return r;
	r = proc_fdinfo_parse(text ? text : small, n, &info, err);
	if (r < 0)
		return r;
	*ret_info = info;
	info = (struct proc_fdinfo){0};
	return 0;
}

int proc_read_mounts(int dirfd, struct proc_mounts *ret_mounts, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	struct proc_mounts mounts = {0};
	size_t n = 0;
	int r = proc_read_file(dirfd, "mountinfo", BIG_FILE_MAX, &text, &n, err);
	if (r < 0)
		return r;
	r = proc_mounts_parse(text, n, &mounts, err);
	if (r < 0)
		proc_mounts_release(&mounts);
	else
		*ret_mounts = mounts;
	return r;
}

int proc_read_locks(struct proc_locks *ret_locks, struct ferry_error *err)
{
	_cleanup_free_ char *text = NULL;
	struct proc_locks locks = {0};
	size_t n = 0;
	int r = fd_read_path(AT_FDCWD, "/proc/locks", BIG_FILE_MAX, &text, &n);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "/proc/locks: cannot read");
	r = proc_locks_parse(text, n, &locks, err);
	if (r < 0)
		proc_locks_release(&locks);
	else
		*ret_locks = locks;
	return r;
}
