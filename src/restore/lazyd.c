/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what a restore with --lazy-pages hands over, ferry's or CRIU's: which memory is missing is read from the image, and the pager
 * brings it.
 *
 * Kernel interface: unix(7) SO_PASSCRED, by which the kernel says which task a userfaultfd came from.
 * Does not handle: tasks that cannot be seen from here, in a PID namespace that is not below ours.
 */
#include "restore/lazyd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "image/dir.h"
#include "image/memory.h"
#include "image/pages.h"
#include "restore/lazysock.h"
#include "restore/pager.h"
#include "restore/segments.h"

enum { LAZYD_LOOK_NS = 10000000 };

struct lazyd_job {
	const struct lazyd *d;
	struct ferry_error *err;
	struct pager *pager;
	uint32_t *go;
	int socket;
	VEC(int) kept; /* descriptors that the pager has copies of */
};

int lazyd_listen(int dir, const char *path, struct ferry_error *err)
{
	struct sockaddr_un address;
	const int on = 1;
	lazysock_address(dir, &address);
	_cleanup_close_ int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (probe < 0 || fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a socket");
	if (connect(probe, (struct sockaddr *)&address, sizeof(address)) == 0)
		return error_set(err, FERRY_ERROR_ADDRESS_TAKEN, EADDRINUSE,
				 "somebody waits at " LAZYSOCK_NAME " in '%s' already", path);
	/* One that nobody listens on any more. */
	if (errno == ECONNREFUSED)
		unlinkat(dir, LAZYSOCK_NAME, 0);
	mode_t mask = umask(0177);
	int r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
				setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
				listen(fd, 1) < 0
			? -errno
			: 0;
	umask(mask);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_ADDRESS_TAKEN, -r, "waiting at " LAZYSOCK_NAME " in '%s'",
				   path);
	return take_fd(fd);
}

static int lazyd_keep(struct lazyd_job *j, int fd)
{
	int *slot = fd < 0 ? NULL : vec_push(&j->kept);
	if (slot)
		*slot = fd;
	else if (fd >= 0)
		close(fd);
	return fd < 0 ? fd : slot ? fd : -ENOMEM;
}

/* What the restore leaves to us: it has filled everything else. */
static int lazyd_missing(struct lazyd_job *j, int32_t pid, struct segments *ret)
{
	_cleanup_image_memory_ struct image_memory *m = NULL;
	struct image_piece piece;
	int r = image_memory_open(j->d->dir, IMAGE_PAGEMAP, (uint64_t)pid, &m, j->err);
	if (m)
		image_memory_allow_late(m);
	while (r >= 0 && (r = image_memory_next(m, &piece, j->err)) > 0) {
		if (!piece.lazy)
			continue;
		if (!piece.source && j->d->page_server < 0)
			return error_set(
				j->err, FERRY_ERROR_USAGE, EINVAL,
				"memory of pid %d is not in the image: --page-server ADDRESS is missing",
				pid);
		if (piece.source && piece.source->user < 0)
			piece.source->user = lazyd_keep(j, fd_dup(piece.source->fd, 3));
		if (piece.source && piece.source->user < 0)
			return error_errno(j->err, FERRY_ERROR_SYSTEM, -piece.source->user,
					   "keeping a pages file open");
		const struct segment g = {.start = piece.vaddr,
					  .end = piece.vaddr + piece.nr_pages * IMAGE_PAGE_BYTES,
					  .offset = piece.source ? piece.offset : piece.vaddr,
					  .source = piece.source ? piece.source->user : segment_late(pid)};
		if (segments_add(ret, &g) < 0)
			return error_memory(j->err);
	}
	return r;
}

static int lazyd_broken(struct lazyd_job *j, int code)
{
	return error_errno(j->err, FERRY_ERROR_PEER_GONE, code ? code : EPROTO,
			   "the restore ended before its tasks ran");
}

static bool lazyd_is_uffd(int fd)
{
	char path[32], name[32] = "";
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, name, sizeof(name) - 1) > 0 && !strcmp(name, "anon_inode:[userfaultfd]");
}

/* A byte, a userfaultfd, and who it belongs to. */
static int lazyd_take(struct lazyd_job *j, int *ret_uffd, pid_t *ret_pid)
{
	char byte;
	struct iovec iov = {&byte, 1};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes)};
	struct ucred who = {0};
	_cleanup_close_ int uffd = -1;
	ssize_t n = recvmsg(j->socket, &msg, MSG_CMSG_CLOEXEC);
	for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)) && uffd < 0)
			memcpy(&uffd, CMSG_DATA(c), sizeof(int));
		if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof(who)))
			memcpy(&who, CMSG_DATA(c), sizeof(who));
	}
	if (n != 1 || uffd < 0 || !lazyd_is_uffd(uffd))
		return lazyd_broken(j, n < 0 ? errno : 0);
	if (!who.pid)
		return error_set(
			j->err, FERRY_ERROR_USAGE, ESRCH,
			"the restored tasks cannot be seen from here: they are in a PID namespace that is not below this one");
	*ret_uffd = take_fd(uffd);
	*ret_pid = who.pid;
	return 0;
}

static int lazyd_add(struct lazyd_job *j)
{
	struct segments missing = {0};
	struct pager_task task = {.ready = j->go, .missing = &missing};
	int32_t pid = 0;
	int r = fd_read_all(j->socket, &pid, sizeof(pid));
	if (r < 0)
		return lazyd_broken(j, -r);
	r = lazyd_take(j, &task.uffd, &task.pid);
	if (r < 0)
		return r;
	if (lazyd_keep(j, task.uffd) < 0)
		return error_memory(j->err);
	int flags = fcntl(task.uffd, F_GETFL);
	if (flags < 0 || fcntl(task.uffd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_errno(j->err, FERRY_ERROR_SYSTEM, errno, "setting up a userfaultfd");
	if (!image_dir_has(j->d->dir, IMAGE_PAGEMAP, (uint64_t)pid))
		return error_set(j->err, FERRY_ERROR_PROTOCOL, EPROTO,
				 "the restore has a pid %d, and the image has not", pid);
	r = lazyd_missing(j, pid, &missing);
	if (r >= 0)
		r = pager_add(j->pager, &task, j->err);
	segments_release(&missing);
	return r;
}

/* Tasks with memory of their own. */
static int lazyd_count(struct lazyd_job *j, size_t *ret)
{
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n = 0;
	int r = image_dir_list(j->d->dir, &files, &n, j->err);
	*ret = 0;
	for (size_t i = 0; i < n && r >= 0; i++)
		*ret += files[i].kind == IMAGE_PAGEMAP;
	return r;
}

/* Who only looks whether somebody waits here says nothing. */
static int lazyd_accept(const struct lazyd_job *j)
{
	for (;;) {
		char first;
		int fd = accept4(j->d->listening, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0 || recv(fd, &first, 1, MSG_PEEK) == 1)
			return fd;
		close(fd);
	}
}

static int lazyd_take_all(struct lazyd_job *j)
{
	const int on = 1;
	size_t n = 0;
	int r = lazyd_count(j, &n);
	if (r < 0)
		return r;
	j->socket = lazyd_accept(j);
	if (j->socket < 0 || setsockopt(j->socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		return error_errno(j->err, FERRY_ERROR_SYSTEM, errno, "waiting for a restore");
	for (size_t i = 0; i < n && r >= 0; i++)
		r = lazyd_add(j);
	/* Who has an image open has its lock. */
	for (struct image_dir *dir = j->d->dir; r >= 0 && dir;) {
		r = pager_hold(j->pager, image_dir_fd(dir), j->err);
		if (r >= 0 && image_dir_parent(dir, &dir, NULL) < 0)
			break;
	}
	return r;
}

static int lazyd_wait(struct lazyd_job *j)
{
	const struct timespec pause = {.tv_nsec = LAZYD_LOOK_NS};
	uint32_t word = 0;
	int r = fd_read_all(j->socket, &word, sizeof(word));
	if (r < 0 || word != LAZYSOCK_RUNS) {
		pager_abandon(j->pager);
		return lazyd_broken(j, -r);
	}
	__atomic_store_n(j->go, 1, __ATOMIC_SEQ_CST);
	while (!pager_is_over(j->pager))
		nanosleep(&pause, NULL);
	if (!pager_is_broken(j->pager))
		return 0;
	error_set(j->err, FERRY_ERROR_PEER_GONE, ECONNRESET,
		  "memory could not be had before all of it came: the restored tasks were killed");
	if (j->d->page_server >= 0)
		error_hint(j->err, "look whether the tree runs on, or is left stopped, where it was dumped");
	return -ECONNRESET;
}

int lazyd_serve(const struct lazyd *d, struct ferry_error *err)
{
	struct lazyd_job j = {.d = d, .err = err, .socket = -1};
	_cleanup_close_ int proc = fd_open(AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY, 0);
	j.go = mmap(NULL, IMAGE_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (j.go == MAP_FAILED)
		return error_memory(err);
	const struct pager_setup setup = {.go = j.go,
					  .proc = proc,
					  .log = d->log,
					  .page_server = d->page_server,
					  .page_server_settles = image_dir_has_manifest(d->dir)};
	int r = pager_new(&setup, &j.pager, err);
	if (r >= 0)
		r = lazyd_take_all(&j);
	if (r >= 0)
		r = pager_start(j.pager, err);
	if (r >= 0)
		r = lazyd_wait(&j);
	if (j.socket >= 0)
		close(j.socket);
	vec_foreach(fd, &j.kept)
		close(*fd);
	vec_release(&j.kept);
	pager_free(j.pager);
	munmap(j.go, IMAGE_PAGE_BYTES);
	return r;
}
