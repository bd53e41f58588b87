/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors and whole-file input and output. Every function returns 0 or a count, or -errno; descriptors
 * are born close-on-exec.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/macros.h"

must_check int fd_dup(int fd, int min_fd);
must_check int fd_open(int dir_fd, const char *path, int flags, mode_t mode);

/* printf-formatted path; for /proc. */
must_check int fd_openf(int flags, const char *fmt, ...) printf_like(2, 3);

/* Write, read all n bytes, going on after short counts and EINTR. End of file early is -ENODATA. */
must_check int fd_write_all(int fd, const void *bytes, size_t n);
must_check int fd_read_all(int fd, void *bytes, size_t n);
must_check int fd_pread_all(int fd, void *bytes, size_t n, uint64_t offset);
must_check int fd_pwrite_all(int fd, const void *bytes, size_t n, uint64_t offset);
must_check int fd_pwritev_all(int fd, const struct iovec *iov, size_t n_iov, uint64_t offset);

/*
 * Read to the end of the file into a new buffer, NUL-terminated beyond its length. At most max_bytes
 * (-EFBIG beyond). The caller frees *ret_bytes.
 */
must_check int fd_read_whole(int fd, size_t max_bytes, char **ret_bytes, size_t *ret_n);
must_check int fd_read_path(int dir_fd, const char *path, size_t max_bytes, char **ret_bytes, size_t *ret_n);

/* The same for a file of /proc whose text is made as a whole by the first read: one that falls short was the last. */
must_check int fd_read_piece(int dir_fd, const char *path, size_t max_bytes, char **ret_bytes, size_t *ret_n);

/* The name that the kernel has for a descriptor's file at the moment, cut to what there is room for. Returns its length, or -errno and "". */
must_check ssize_t fd_path(int fd, char *ret_path, size_t room);

/* Write a small file by temporary name, fsync and rename, so that it is there whole or not at all. */
must_check int fd_replace_file(int dir_fd, const char *name, mode_t mode, const void *bytes, size_t n);

/* Send, receive descriptors over a unix socket together with a message (SCM_RIGHTS; at most 253 a message). */
must_check int fd_send(int sock, const void *bytes, size_t n, const int *fds, size_t n_fds);
must_check ssize_t fd_recv(int sock, void *bytes, size_t n, int *fds, size_t max_fds, size_t *ret_n_fds);

/* Close every descriptor >= first except those in keep (ascending, n of them). */
void fd_close_others(int first, const int *keep, size_t n);
