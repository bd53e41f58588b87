/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns entering, reading and making user namespaces. Nobody comes back from one, so processes of ours go there that end soon:
 * one that reads the maps, as they look from inside; one that makes a namespace, while its parent, who stands one above, writes
 * the maps and hands the descriptor out.
 *
 * Kernel interface: user_namespaces(7): unshare(2), setns(2), /proc/PID/uid_map, gid_map, setgroups, NS_GET_OWNER_UID (4.11).
 */
#include "host/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "proc/read.h"

enum { USERNS_TEXT = USERNS_EXTENTS * 36 + 1 };

static int userns_write(const char *path, const char *text, struct ferry_error *err)
{
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_WRONLY, 0);
	int r = fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
	return r < 0 ? error_errno(err, FERRY_ERROR_PERMISSION, -r, "writing '%s' to '%s'", text, path) : 0;
}

int userns_new(struct ferry_error *err)
{
	char uids[32], gids[32];
	snprintf(uids, sizeof(uids), "%u %u 1", geteuid(), geteuid());
	snprintf(gids, sizeof(gids), "%u %u 1", getegid(), getegid());
	/* After a change of ids the files in /proc/self are root's, who is somebody else in there. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (unshare(CLONE_NEWUSER) < 0) {
		error_errno(err, FERRY_ERROR_PERMISSION, errno, "creating a user namespace");
		error_hint(err, "the machine may forbid it: see sysctl user.max_user_namespaces");
		return -EPERM;
	}
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	int r = userns_write("/proc/self/setgroups", "deny", err);
	if (r >= 0)
		r = userns_write("/proc/self/uid_map", uids, err);
	return r < 0 ? r : userns_write("/proc/self/gid_map", gids, err);
}

int userns_enter(pid_t pid, struct ferry_error *err)
{
	struct proc_namespaces theirs, ours;
	_cleanup_close_ int dir = proc_open_look(pid, err);
	_cleanup_close_ int self = dir < 0 ? -1 : proc_open_self(err);
	int r = self < 0 ? -ESRCH : proc_read_namespaces(dir, &theirs, err);
	if (r >= 0)
		r = proc_read_namespaces(self, &ours, err);
	if (r < 0 || theirs.ino[PROC_NS_USER] == ours.ino[PROC_NS_USER])
		return r;
	_cleanup_close_ int fd = proc_open_namespace(dir, PROC_NS_USER, err);
	if (fd < 0)
		return fd;
	if (setns(fd, CLONE_NEWUSER) < 0)
		return error_errno(err, FERRY_ERROR_PERMISSION, errno,
				   "entering the user namespace of pid %d", pid);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return 0;
}

/* ----------------------------------------------------------------- a helper */

struct userns_call {
	int (*run)(struct userns_call *c); /* in the helper: 0 or -errno */
	int fd;                            /* namespace to enter; -1 */
	int type;
	const char *file;
	const struct userns_about *about;
	struct userns_about *found;
	int result; /* helper: a descriptor to hand out; -1 */
	int socket;
};

struct userns_reply {
	int code;
	struct userns_about about;
};

static __attribute__((noreturn)) void userns_helper(struct userns_call *c)
{
	struct userns_reply *reply = calloc(1, sizeof(*reply));
	if (!reply)
		_exit(1);
	c->found = &reply->about;
	c->result = -1;
	reply->code = c->run(c);
	int r = fd_send(c->socket, reply, sizeof(*reply), &c->result, c->result >= 0);
	_exit(r < 0 ? 1 : 0);
}

/* Run a function in a process of its own; its answer, and the descriptor that it hands out. */
static int userns_run(struct userns_call *c, struct userns_about *ret_about, int *ret_fd)
{
	int ends[2], fd = -1;
	size_t n_fds = 0;
	struct userns_reply *reply = calloc(1, sizeof(*reply));
	if (!reply)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		free(reply);
		return -errno;
	}
	pid_t pid = fork();
	if (!pid) {
		close(ends[0]);
		c->socket = ends[1];
		userns_helper(c);
	}
	close(ends[1]);
	ssize_t n = pid < 0 ? -errno : fd_recv(ends[0], reply, sizeof(*reply), &fd, 1, &n_fds);
	close(ends[0]);
	while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		continue;
	int r = n < 0 ? (int)n : n != (ssize_t)sizeof(*reply) ? -ECHILD : reply->code;
	if (r >= 0 && ret_about)
		*ret_about = reply->about;
	if (r >= 0 && ret_fd && n_fds != 1)
		r = -ECHILD;
	if (r >= 0 && ret_fd)
		*ret_fd = fd;
	else if (n_fds)
		close(fd);
	free(reply);
	return r;
}

/* --------------------------------------------------------------------- look */

static int userns_read_map(const char *path, struct userns_extent *extents, uint32_t *ret_n)
{
	_cleanup_free_ char *text = NULL;
	size_t bytes;
	int r = fd_read_path(AT_FDCWD, path, USERNS_TEXT, &text, &bytes);
	uint32_t n = 0;
	for (char *at = text; r >= 0 && *at; at += strspn(at, " \n")) {
		unsigned long v[3];
		for (int i = 0; i < 3; i++) {
			char *end;
			v[i] = strtoul(at, &end, 10);
			if (end == at)
				return -EBADMSG;
			at = end;
		}
		if (n == USERNS_EXTENTS)
			return -E2BIG;
		extents[n++] = (struct userns_extent){(uint32_t)v[0], (uint32_t)v[1], (uint32_t)v[2]};
	}
	*ret_n = n;
	return MIN(r, 0);
}

static int userns_look_inside(struct userns_call *c)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	if (setns(c->fd, CLONE_NEWUSER) < 0)
		return -errno;
	int r = userns_read_map("/proc/self/uid_map", c->found->uids, &c->found->n_uids);
	if (r >= 0)
		r = userns_read_map("/proc/self/gid_map", c->found->gids, &c->found->n_gids);
	if (r >= 0)
		r = fd_read_path(AT_FDCWD, "/proc/self/setgroups", 32, &text, &n);
	if (r >= 0)
		c->found->deny_setgroups = !strncmp(text, "deny", 4);
	return MIN(r, 0);
}

int userns_look(int fd, struct userns_about *ret, struct ferry_error *err)
{
	struct userns_call c = {.run = userns_look_inside, .fd = fd};
	uid_t owner;
	int r = userns_run(&c, ret, NULL);
	if (r >= 0 && ioctl(fd, NS_GET_OWNER_UID, &owner) < 0)
		r = -errno;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_PERMISSION, -r, "looking at a user namespace");
	ret->owner = owner;
	return 0;
}

/* --------------------------------------------------------------------- make */

static int userns_write_map(pid_t pid, const char *name, const struct userns_extent *extents, uint32_t n)
{
	char path[64];
	_cleanup_free_ char *text = malloc(USERNS_TEXT);
	size_t used = 0;
	if (!text)
		return -ENOMEM;
	for (uint32_t i = 0; i < n && i < USERNS_EXTENTS; i++)
		used += (size_t)snprintf(text + used, USERNS_TEXT - used, "%u %u %u\n", extents[i].first,
					 extents[i].lower, extents[i].count);
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	_cleanup_close_ int fd = n ? fd_open(AT_FDCWD, path, O_WRONLY, 0) : -1;
	if (!n)
		return 0;
	return fd < 0 ? fd : fd_write_all(fd, text, used);
}

static int userns_deny_setgroups(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, O_WRONLY, 0);
	return fd < 0 ? fd : fd_write_all(fd, "deny", 4);
}

/* A group that the namespace which we stand in knows. */
static gid_t userns_some_group(void)
{
	struct userns_extent *extents = calloc(USERNS_EXTENTS, sizeof(*extents));
	uint32_t n = 0;
	bool any = extents && userns_read_map("/proc/self/gid_map", extents, &n) >= 0 && n;
	gid_t group = any ? extents[0].first : 0;
	free(extents);
	return group;
}

/* Who makes a namespace owns it. The owner's id is one of the caller's namespace, so it is taken before another is entered. */
static int userns_become_owner(const struct userns_call *c)
{
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0 ||
	    setresuid((uid_t)-1, c->about->owner, (uid_t)-1) < 0)
		return -errno;
	if (c->fd >= 0 && setns(c->fd, CLONE_NEWUSER) < 0)
		return -errno;
	/* Processes whose files in /proc are root's could be reached by no one below. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (c->fd >= 0 && setresgid((gid_t)-1, userns_some_group(), (gid_t)-1) < 0)
		return -errno;
	int r = unshare(CLONE_NEWUSER) < 0 ? -errno : 0;
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return r;
}

static __attribute__((noreturn)) void userns_owner(const struct userns_call *c, const int ends[2])
{
	char byte;
	close(ends[0]);
	int r = userns_become_owner(c);
	if (write(ends[1], &r, sizeof(r)) != sizeof(r))
		_exit(1);
	/* It lasts until its maker has a descriptor. */
	_exit(read(ends[1], &byte, 1) == 0 ? 0 : 1);
}

bool userns_owns(int ns)
{
	struct stat own, theirs;
	_cleanup_close_ int owner = ioctl(ns, NS_GET_USERNS);
	return owner >= 0 && fstat(owner, &theirs) == 0 && stat("/proc/self/ns/user", &own) == 0 &&
	       own.st_ino == theirs.st_ino;
}

static int userns_fill(const struct userns_call *c, pid_t pid, int *ret_fd)
{
	const struct userns_about *about = c->about;
	char path[64];
	int r = about->deny_setgroups ? userns_deny_setgroups(pid) : 0;
	if (r >= 0)
		r = userns_write_map(pid, "uid_map", about->uids, about->n_uids);
	if (r >= 0)
		r = userns_write_map(pid, "gid_map", about->gids, about->n_gids);
	snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	if (r >= 0)
		r = *ret_fd = fd_open(AT_FDCWD, path, O_RDONLY, 0);
	return MIN(r, 0);
}

static int userns_make_inside(struct userns_call *c)
{
	int ends[2], r = 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	pid_t pid = fork();
	if (!pid)
		userns_owner(c, ends);
	close(ends[1]);
	if (pid < 0)
		return -errno;
	if (read(ends[0], &r, sizeof(r)) != sizeof(r))
		r = -ECHILD;
	/* Maps are written by who stands right above. */
	if (r >= 0 && c->fd >= 0 && setns(c->fd, CLONE_NEWUSER) < 0)
		r = -errno;
	if (r >= 0)
		r = userns_fill(c, pid, &c->result);
	close(ends[0]);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		continue;
	return r;
}

int userns_make(int parent, const struct userns_about *about, int *ret_fd, struct ferry_error *err)
{
	struct userns_call c = {.run = userns_make_inside, .fd = parent, .about = about};
	int r = userns_run(&c, NULL, ret_fd);
	return r < 0 ? error_errno(err, FERRY_ERROR_PERMISSION, -r,
				   "making a user namespace of user %u with its maps of ids", about->owner)
		     : 0;
}

static int userns_own_inside(struct userns_call *c)
{
	char path[32];
	if (setns(c->fd, CLONE_NEWUSER) < 0)
		return -errno;
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (unshare(c->type) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/ns/%s", c->file);
	return c->result = fd_open(AT_FDCWD, path, O_RDONLY, 0);
}

int userns_make_owned(int userns, int type, const char *file, int *ret_fd, struct ferry_error *err)
{
	struct userns_call c = {.run = userns_own_inside, .fd = userns, .type = type, .file = file};
	int r = userns_run(&c, NULL, ret_fd);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r,
				   "creating a %s namespace of another user namespace", file)
		     : 0;
}
