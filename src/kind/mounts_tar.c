/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the contents of file systems in memory: an archive of tar(1) for each. tar is a program of the machine, so it is run in
 * the mount namespace that ferry was started in, and gets the folder as a descriptor: a container has no tar, and what it calls
 * so is not to be run.
 *
 * Kernel interface: setns(2) with CLONE_NEWNS, /proc/self/fd.
 */
#include "kind/mounts_tar.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"

enum { TAR_BLOCK = 1 << 16, TAR_WORDS = 12 };

bool mounts_tar_exists(const struct kind_options *options)
{
	int root = options->home_root;
	if (root < 0)
		return access("/bin/tar", X_OK) == 0 || access("/usr/bin/tar", X_OK) == 0;
	return faccessat(root, "bin/tar", X_OK, 0) == 0 || faccessat(root, "usr/bin/tar", X_OK, 0) == 0;
}

/* Back to where ferry was started. Who works inside of a user namespace cannot; that will do where the root is the same. */
int mounts_tar_go_home(const struct kind_options *options)
{
	struct stat here, there;
	if (options->home_mounts < 0)
		return 0;
	if (setns(options->home_mounts, CLONE_NEWNS) < 0) {
		int code = errno;
		bool same = stat("/", &here) == 0 && fstat(options->home_root, &there) == 0 &&
			    here.st_dev == there.st_dev && here.st_ino == there.st_ino;
		return same ? 0 : -code;
	}
	return fchdir(options->home_root) < 0 || chroot(".") < 0 ? -errno : 0;
}

struct tar_job {
	const char *const *argv;
	int dir;        /* the folder */
	int end, other; /* of the pipe: tar's, ours */
	int where;      /* which descriptor of tar's it is */
	const struct kind_options *options;
};

static __attribute__((noreturn)) void tar_run(const struct tar_job *j)
{
	const char *argv[TAR_WORDS + 2] = {0};
	char folder[48];
	sigset_t none;
	size_t n = 0;
	/* Not as the working directory: the mount hangs on nothing, and what tar starts may ask where it is. */
	int dir = fcntl(j->dir, F_DUPFD, STDERR_FILENO + 1);
	snprintf(folder, sizeof(folder), "--directory=/proc/self/fd/%d", dir);
	for (const char *const *word = j->argv; *word && n < TAR_WORDS; word++) {
		if (!strcmp(*word, "."))
			argv[n++] = folder;
		argv[n++] = *word;
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (mounts_tar_go_home(j->options) < 0 || dup2(j->end, j->where) < 0 || close(j->other) < 0 ||
	    dir < 0)
		_exit(126);
	execvp(argv[0], (char *const *)argv);
	_exit(127);
}

static int tar_start(const struct tar_job *j, pid_t *ret_pid)
{
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		tar_run(j);
	*ret_pid = pid;
	return 0;
}

static int tar_end(pid_t pid, const char *point, const char *what, struct ferry_error *err)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for tar");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return error_set(err, FERRY_ERROR_RESTORE_STEP, EIO, "tar fails at %s what is in '%s' (%s %d)", what,
			 point, WIFEXITED(status) ? "status" : "signal",
			 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static int tar_copy(int from, struct image_writer *w, struct ferry_error *err)
{
	_cleanup_free_ char *block = malloc(TAR_BLOCK);
	if (!block)
		return error_memory(err);
	for (;;) {
		ssize_t n = read(from, block, TAR_BLOCK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading from tar") : 0;
		int r = image_put_raw(w, block, (size_t)n, err);
		if (r < 0)
			return r;
	}
}

int mounts_tar_start(const struct kind_options *options, int dir, struct mounts_tar *ret,
		     struct ferry_error *err)
{
	static const char *const argv[] = {"tar",
					   "--create",
					   "--gzip",
					   "--one-file-system",
					   "--numeric-owner",
					   "--sparse",
					   "--xattrs",
					   "--xattrs-include=*",
					   "--warning=no-file-ignored",
					   ".",
					   NULL};
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	const struct tar_job job = {argv, dir, ends[1], ends[0], STDOUT_FILENO, options};
	int r = tar_start(&job, &ret->pid);
	close(ends[1]);
	if (r >= 0) {
		ret->from = ends[0];
		return 0;
	}
	close(ends[0]);
	return error_errno(err, FERRY_ERROR_SYSTEM, -r, "starting tar");
}

int mounts_tar_store(struct dump *d, struct mounts_tar *tar, uint32_t dev, const char *point,
		     struct ferry_error *err)
{
	struct image_writer *w;
	int r = image_create(d->dir, IMAGE_TMPFS_DEV, dev, &w, err);
	if (r >= 0)
		r = tar_copy(tar->from, w, err);
	close(tar->from);
	int end = tar_end(tar->pid, point, "storing", r < 0 ? NULL : err);
	return r < 0 ? r : end < 0 ? end : image_close(w, err);
}

void mounts_tar_abandon(struct mounts_tar *tar)
{
	close(tar->from); /* it ends when it writes */
	if (tar_end(tar->pid, "", "storing", NULL) < 0)
		tar->pid = 0;
}

int mounts_tar_unpack(struct opener *o, int dir, uint32_t dev, const char *point, struct ferry_error *err)
{
	static const char *const argv[] = {"tar",
					   "--extract",
					   "--gzip",
					   "--preserve-permissions",
					   "--numeric-owner",
					   "--same-owner",
					   "--xattrs",
					   "--xattrs-include=*",
					   ".",
					   NULL};
	_cleanup_reader_ struct image_reader *in = NULL;
	int r = image_open(o->dir, IMAGE_TMPFS_DEV, dev, &in, err);
	if (r < 0)
		return r;
	pid_t pid = 0;
	_cleanup_close_ int end = fd_dup(image_reader_fd(in), 3), spare = fd_dup(image_reader_fd(in), 3);
	if (end < 0 || spare < 0 || lseek(end, 0, SEEK_SET) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the contents of '%s'", point);
	const struct tar_job job = {argv, dir, end, spare, STDIN_FILENO, o->options};
	r = tar_start(&job, &pid);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "starting tar")
		     : tar_end(pid, point, "restoring", err);
}
