/* SPDX-License-Identifier: Apache-2.0 */
/* Owns descriptors and whole-file input and output. */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

enum { FD_SCM_MAX = 253 };

int fd_dup(int fd, int min_fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, min_fd);
	return copy < 0 ? -errno : copy;
}

int fd_open(int dir_fd, const char *path, int flags, mode_t mode)
{
	int fd = openat(dir_fd, path, flags | O_CLOEXEC, mode);
	return fd < 0 ? -errno : fd;
}

int fd_openf(int flags, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list args;
	va_start(args, fmt);
	int n = vsnprintf(path, sizeof(path), fmt, args);
	va_end(args);
	if (n < 0 || (size_t)n >= sizeof(path))
		return -ENAMETOOLONG;
	return fd_open(AT_FDCWD, path, flags, 0);
}

/* What is left of reading or writing a number of bytes. */
struct transfer {
	int fd;
	char *bytes;
	size_t n;
	uint64_t offset;
};

/* Until all is done; at_end is the answer to a step that moves nothing. */
static int transfer_all(ssize_t (*step)(const struct transfer *t), struct transfer t, int at_end)
{
	while (t.n) {
		ssize_t done = step(&t);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (!done)
			return at_end;
		t.bytes += done;
		t.n -= (size_t)done;
		t.offset += (uint64_t)done;
	}
	return 0;
}

static ssize_t step_write(const struct transfer *t)
{
	return write(t->fd, t->bytes, t->n);
}

static ssize_t step_read(const struct transfer *t)
{
	return read(t->fd, t->bytes, t->n);
}

static ssize_t step_pread(const struct transfer *t)
{
	return pread(t->fd, t->bytes, t->n, (off_t)t->offset);
}

static ssize_t step_pwrite(const struct transfer *t)
{
	return pwrite(t->fd, t->bytes, t->n, (off_t)t->offset);
}

int fd_write_all(int fd, const void *bytes, size_t n)
{
	return transfer_all(step_write, (struct transfer){fd, (char *)bytes, n, 0}, -ENOSPC);
}

int fd_read_all(int fd, void *bytes, size_t n)
{
	return transfer_all(step_read, (struct transfer){fd, bytes, n, 0}, -ENODATA);
}

int fd_pread_all(int fd, void *bytes, size_t n, uint64_t offset)
{
	return transfer_all(step_pread, (struct transfer){fd, bytes, n, offset}, -ENODATA);
}

int fd_pwrite_all(int fd, const void *bytes, size_t n, uint64_t offset)
{
	return transfer_all(step_pwrite, (struct transfer){fd, (char *)bytes, n, offset}, -ENOSPC);
}

int fd_pwritev_all(int fd, const struct iovec *iov, size_t n_iov, uint64_t offset)
{
	while (n_iov) {
		ssize_t done = pwritev(fd, iov, (int)MIN(n_iov, (size_t)IOV_MAX), (off_t)offset);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (!done && iov->iov_len)
			return -ENOSPC;
		offset += (uint64_t)done;
		size_t left = (size_t)done;
		for (; n_iov && left >= iov->iov_len; iov++, n_iov--)
			left -= iov->iov_len;
		if (!left)
			continue;
		/* The rest of the element in which the kernel stopped. */
		size_t rest = iov->iov_len - left;
		int r = fd_pwrite_all(fd, (const char *)iov->iov_base + left, rest, offset);
		if (r < 0)
			return r;
		offset += rest;
		iov++;
		n_iov--;
	}
	return 0;
}

/* in_one: a read that does not fill the buffer has reached the end. */
static int read_to_end(int fd, bool in_one, size_t max_bytes, char **ret_bytes, size_t *ret_n)
{
	size_t n = 0, cap = 4096;
	_cleanup_free_ char *bytes = malloc(cap);
	if (!bytes)
		return -ENOMEM;
	for (;;) {
		if (cap - n < 2) {
			char *bigger = realloc(bytes, cap * 2);
			if (!bigger)
				return -ENOMEM;
			bytes = bigger;
			cap *= 2;
		}
		ssize_t done = read(fd, bytes + n, cap - n - 1);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		if (!done)
			break;
		n += (size_t)done;
		if (n > max_bytes)
			return -EFBIG;
		if (in_one && cap - n > 1)
			break;
	}
	bytes[n] = '\0';
	*ret_bytes = take_ptr(bytes);
	*ret_n = n;
	return 0;
}

int fd_read_whole(int fd, size_t max_bytes, char **ret_bytes, size_t *ret_n)
{
	return read_to_end(fd, false, max_bytes, ret_bytes, ret_n);
}

int fd_read_path(int dir_fd, const char *path, size_t max_bytes, char **ret_bytes, size_t *ret_n)
{
	_cleanup_close_ int fd = fd_open(dir_fd, path, O_RDONLY, 0);
	if (fd < 0)
		return fd;
	return fd_read_whole(fd, max_bytes, ret_bytes, ret_n);
}

int fd_read_piece(int dir_fd, const char *path, size_t max_bytes, char **ret_bytes, size_t *ret_n)
{
	_cleanup_close_ int fd = fd_open(dir_fd, path, O_RDONLY, 0);
	return fd < 0 ? fd : read_to_end(fd, true, max_bytes, ret_bytes, ret_n);
}

ssize_t fd_path(int fd, char *ret_path, size_t room)
{
	char link[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = fd < 0 ? (errno = EBADF, -1) : readlink(link, ret_path, room - 1);
	ret_path[n > 0 ? n : 0] = '\0';
	return n < 0 ? -errno : n;
}

int fd_replace_file(int dir_fd, const char *name, mode_t mode, const void *bytes, size_t n)
{
	char temporary[NAME_MAX + 1];
	if ((size_t)snprintf(temporary, sizeof(temporary), ".%s.new", name) >= sizeof(temporary))
		return -ENAMETOOLONG;
	_cleanup_close_ int fd = fd_open(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode);
	if (fd < 0)
		return fd;
	int r = fd_write_all(fd, bytes, n);
	if (!r && fsync(fd) < 0)
		r = -errno;
	if (!r && renameat(dir_fd, temporary, dir_fd, name) < 0)
		r = -errno;
	if (r) {
		unlinkat(dir_fd, temporary, 0);
		return r;
	}
	_cleanup_close_ int dir = fd_open(dir_fd, ".", O_RDONLY | O_DIRECTORY, 0);
	if (dir >= 0 && fsync(dir) < 0 && errno != EINVAL)
		return -errno;
	return 0;
}

int fd_send(int sock, const void *bytes, size_t n, const int *fds, size_t n_fds)
{
	if (n_fds > FD_SCM_MAX)
		return -E2BIG;
	char control[CMSG_SPACE(sizeof(int) * FD_SCM_MAX)] = {0};
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = n};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (n_fds) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	ssize_t done;
	do
		done = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (done < 0 && errno == EINTR);
	if (done < 0)
		return -errno;
	return (size_t)done == n ? 0 : -EIO;
}

ssize_t fd_recv(int sock, void *bytes, size_t n, int *fds, size_t max_fds, size_t *ret_n_fds)
{
	char control[CMSG_SPACE(sizeof(int) * FD_SCM_MAX)];
	struct iovec iov = {.iov_base = bytes, .iov_len = n};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t done;
	do
		done = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (done < 0 && errno == EINTR);
	if (done < 0)
		return -errno;
	size_t got = 0;
	int too_many = !!(msg.msg_flags & MSG_CTRUNC);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (got < max_fds) {
				fds[got++] = fd;
			} else {
				close(fd);
				too_many = 1;
			}
		}
	}
	if (too_many) {
		while (got)
			close(fds[--got]);
		return -EMSGSIZE;
	}
	if (ret_n_fds)
		*ret_n_fds = got;
	return done;
}

void fd_close_others(int first, const int *keep, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (keep[i] < first)
			continue;
		if (keep[i] > first)
			syscall(SYS_close_range, (unsigned)first, (unsigned)keep[i] - 1, 0);
		first = keep[i] + 1;
	}
	syscall(SYS_close_range, (unsigned)first, ~0u, 0);
}
