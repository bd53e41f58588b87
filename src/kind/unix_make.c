/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns making one unix socket: its name in the file system, and the calls that stamp it with their caller.
 * listen(2), connect(2) and socketpair(2) leave the caller's PID, user and groups in the socket
 * (SO_PEERCRED), so they run in the task that made them first, with the identity that it had, where that task
 * is of the image.
 *
 * A name whose file is gone is bound in a file system in memory that only we see and that vanishes with the
 * socket.
 *
 * Kernel interface: unix(7), fsmount(2) (5.2), setgroups(2), prctl(2) PR_SET_SECUREBITS.
 */
#include "kind/unix_make.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/warden.h"

/* Linux 5.2 */
#ifndef SYS_fsopen
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#endif

enum {
	UNIX_FSCONFIG_CMD_CREATE = 6,
	UNIX_CALL_GROUPS = 64,
};

/* ------------------------------------------------------------------- places */

int unix_enter(struct unix_place *place, int jail, const char *dir)
{
	*place = (struct unix_place){.root = -1, .cwd = -1};
	if (jail < 0 && !dir[0])
		return 0;
	place->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	place->cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (place->root < 0 || place->cwd < 0)
		return -errno;
	if (jail >= 0 && (fchdir(jail) < 0 || chroot(".") < 0))
		return -errno;
	return dir[0] && chdir(dir) < 0 ? -errno : 0;
}

int unix_leave(struct unix_place *place)
{
	int r = 0;
	if (place->root >= 0 && (fchdir(place->root) < 0 || chroot(".") < 0))
		r = -errno;
	if (place->cwd >= 0 && fchdir(place->cwd) < 0)
		r = -errno;
	if (place->root >= 0)
		close(place->root);
	if (place->cwd >= 0)
		close(place->cwd);
	return r;
}

/* A file system in memory, reachable by nobody else. */
static int unix_jail_open(struct ferry_error *err)
{
	_cleanup_close_ int fs = (int)syscall(SYS_fsopen, "tmpfs", 1);
	int mount = -1;
	if (fs >= 0 && syscall(SYS_fsconfig, fs, UNIX_FSCONFIG_CMD_CREATE, NULL, NULL, 0) >= 0)
		mount = (int)syscall(SYS_fsmount, fs, 1, 0);
	if (mount >= 0)
		return mount;
	error_errno(err, FERRY_ERROR_KERNEL_FEATURE, errno,
		    "making a file system for the name of a unix socket");
	error_hint(err, "this needs CAP_SYS_ADMIN and Linux 5.2");
	return -ENOTSUP;
}

/* The directories that lead to path, inside of the jail. */
static int unix_jail_make_dirs(int jail, const char *path)
{
	char text[PATH_MAX];
	if ((size_t)snprintf(text, sizeof(text), "%s", path) >= sizeof(text))
		return -ENAMETOOLONG;
	for (char *p = strchr(text + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		if (mkdirat(jail, text[0] == '/' ? text + 1 : text, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return 0;
}

/* ------------------------------------------------------- calls that leave a stamp */

enum unix_call_type { UNIX_CALL_PAIR, UNIX_CALL_LISTEN, UNIX_CALL_CONNECT };

/* Plain data: it may run in another process. */
struct unix_call {
	enum unix_call_type type;
	int socket_type; /* of a pair */
	int backlog;
	bool as_other; /* as uid, gid and groups */
	uint32_t uid, gid, n_groups;
	gid_t groups[UNIX_CALL_GROUPS];
	struct sockaddr_un address;
	socklen_t address_bytes;
	pid_t pid;          /* out: who ran it */
	char dir[PATH_MAX]; /* that the address counts from */
};

_Static_assert(sizeof(struct unix_call) <= OPENER_CALL_BYTES, "a call fits into a message");

/* The raw calls: those of the C library would look for other threads. */
static int unix_become(uid_t uid, gid_t gid, size_t n_groups, const gid_t *groups)
{
	if (syscall(SYS_setgroups, n_groups, groups) < 0 || syscall(SYS_setresgid, -1, gid, -1) < 0 ||
	    syscall(SYS_setresuid, -1, uid, -1) < 0)
		return -errno;
	return 0;
}

static int unix_call_do(struct unix_call *c, int *fds)
{
	switch (c->type) {
	case UNIX_CALL_PAIR:
		return socketpair(AF_UNIX, c->socket_type | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
	case UNIX_CALL_LISTEN: return listen(fds[0], c->backlog) < 0 ? -errno : 0;
	case UNIX_CALL_CONNECT: break;
	}
	struct unix_place place;
	int r = unix_enter(&place, fds[1], c->dir);
	if (r >= 0 && connect(fds[0], (const struct sockaddr *)&c->address, c->address_bytes) < 0)
		r = -errno;
	int back = unix_leave(&place);
	return r < 0 ? r : back;
}

/* With another user's identity, but with our rights: the socket's file need not be writable for that user. */
static int unix_call_as(struct unix_call *c, int *fds)
{
	gid_t groups[NGROUPS_MAX];
	uid_t uid = geteuid();
	gid_t gid = getegid();
	int n = getgroups(NGROUPS_MAX, groups), bits = prctl(PR_GET_SECUREBITS);
	if (n < 0 || bits < 0 || prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP) < 0)
		return -errno;
	int r = unix_become(c->uid, c->gid, c->n_groups, c->groups);
	if (r >= 0)
		r = unix_call_do(c, fds);
	int back = unix_become(uid, gid, (size_t)n, groups);
	if (prctl(PR_SET_SECUREBITS, bits) < 0 && back >= 0)
		back = -errno;
	return r < 0 ? r : back;
}

/* fds: for a pair none, then two; else the socket and the jail, then none. */
static int unix_call_run(void *arguments, int *fds, size_t *n_fds)
{
	struct unix_call *c = arguments;
	int use[2] = {-1, -1};
	for (size_t i = 0; i < *n_fds && i < 2; i++)
		use[i] = fds[i];
	c->pid = getpid();
	int r = c->as_other ? unix_call_as(c, use) : unix_call_do(c, use);
	*n_fds = 0;
	if (r >= 0 && c->type == UNIX_CALL_PAIR) {
		fds[0] = use[0];
		fds[1] = use[1];
		*n_fds = 2;
	}
	return r;
}

static void unix_call_identity(struct unix_call *c, const FerrySocketCreds *creds)
{
	if (!creds)
		return;
	c->as_other = creds->uid != geteuid() || creds->gid != getegid() || creds->n_groups ||
		      getgroups(0, NULL) > 0;
	c->uid = creds->uid;
	c->gid = creds->gid;
	c->n_groups = (uint32_t)MIN(creds->n_groups, (size_t)UNIX_CALL_GROUPS);
	for (size_t i = 0; i < c->n_groups; i++)
		c->groups[i] = creds->groups[i];
}

/*
 * In the task that did it first, if that is of the image; the stamp has another PID else, as after its death.
 */
static int unix_call(struct opener *o, const FerrySocketCreds *creds, struct unix_call *c, int *fds,
		     size_t *n_fds, struct ferry_error *err)
{
	const struct plan_task *t = creds ? plan_task(o->plan, (pid_t)creds->pid) : NULL;
	unix_call_identity(c, creds);
	if (!t || !o->in_task)
		return unix_call_run(c, fds, n_fds);
	struct opener_call call = {
		.run = unix_call_run, .arguments = c, .bytes = sizeof(*c), .n_fds = *n_fds};
	for (size_t i = 0; i < *n_fds; i++)
		call.fds[i] = fds[i];
	int r = o->in_task(o, t, &call, err);
	c->pid = call.pid;
	*n_fds = call.n_fds;
	for (size_t i = 0; i < call.n_fds; i++)
		fds[i] = call.fds[i];
	return r;
}

/* ----------------------------------------------------------------- one socket */

int unix_failed(const struct plan_file *file, int code, const char *what, struct ferry_error *err)
{
	const UnixSkEntry *usk = file ? file->entry->usk : NULL;
	bool abstract = usk && usk->name.len && !usk->name.data[0];
	if (!usk || !usk->name.len)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, code, "%s a unix socket", what);
	error_errno(err, code == EADDRINUSE ? FERRY_ERROR_ADDRESS_TAKEN : FERRY_ERROR_RESTORE_STEP, code,
		    "%s unix socket '%s%.*s'", what, abstract ? "@" : "", (int)usk->name.len - abstract,
		    (const char *)usk->name.data + abstract);
	if (code == EADDRINUSE)
		error_hint(err, "another process uses this name; end it first");
	return -code;
}

int unix_new(unsigned type)
{
	int fd = socket(AF_UNIX, (int)type | SOCK_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static socklen_t unix_name_address(const UnixSkEntry *usk, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(ret->sun_path, usk->name.data, usk->name.len);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + usk->name.len);
}

static size_t unix_via(const UnixSkEntry *usk, int *ret_number)
{
	return usk->name_dir ? unix_via_descriptor((const char *)usk->name.data, usk->name.len, ret_number)
			     : 0;
}

socklen_t unix_address(const UnixSkEntry *usk, struct sockaddr_un *ret)
{
	int number;
	size_t via = unix_via(usk, &number);
	socklen_t n = unix_name_address(usk, ret);
	memmove(ret->sun_path, ret->sun_path + via, sizeof(ret->sun_path) - via);
	return n - (socklen_t)via;
}

bool unix_has_path(const UnixSkEntry *usk)
{
	return usk->name.len && usk->name.data[0];
}

const char *unix_dir(const UnixSkEntry *usk)
{
	int number;
	bool counts =
		unix_has_path(usk) && usk->name_dir && (usk->name.data[0] != '/' || unix_via(usk, &number));
	return counts ? usk->name_dir : "";
}

/* By a descriptor of that number for the directory that we are in: in a process that has descriptors of its own. */
static int unix_bind_via(int fd, int number, const struct sockaddr_un *address, socklen_t n)
{
	int status = 0;
	pid_t pid = fork();
	if (!pid) {
		int dir = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
		int own = fcntl(fd, F_DUPFD_CLOEXEC, number + 1);
		bool good = dir >= 0 && own >= 0 && (dir == number || dup2(dir, number) >= 0) &&
			    bind(own, (const struct sockaddr *)address, n) >= 0;
		_exit(good ? 0 : errno);
	}
	if (pid < 0)
		return -errno;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
}

static int unix_bind_name(int fd, const UnixSkEntry *usk)
{
	struct sockaddr_un name;
	socklen_t n = unix_name_address(usk, &name);
	int number;
	if (unix_via(usk, &number))
		return unix_bind_via(fd, number, &name, n);
	return bind(fd, (const struct sockaddr *)&name, n) < 0 ? -errno : 0;
}

/* A file that the dumped program left behind is removed, a socket that somebody listens on is not. */
static int unix_remove_stale(unsigned type, const char *path, const struct sockaddr_un *address, socklen_t n)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	_cleanup_close_ int fd = socket(AF_UNIX, (int)type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)address, n) == 0 || errno != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int unix_announce(struct opener *o, const char *path, struct unix_made *ret)
{
	char folder[PATH_MAX] = ".", named[64 + PATH_MAX];
	const char *slash = strrchr(path, '/');
	struct stat st;
	*ret = (struct unix_made){.entry = -1};
	if (!lstat(path, &st) || errno != ENOENT)
		return 0;
	if (slash)
		snprintf(folder, sizeof(folder), "%.*s", (int)MAX(slash - path, 1), path);
	/* The warden may have another root than we have. */
	ret->dir = plan_keep_source(o->plan, open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC));
	ret->base = arena_string(&o->plan->arena, slash ? slash + 1 : path);
	if (ret->dir < 0 || !ret->base)
		return ret->dir < 0 && errno ? -errno : -ENOMEM;
	int n = snprintf(named, sizeof(named), "/proc/%d/fd/%d/%s", getpid(), ret->dir, ret->base);
	int entry = (size_t)n >= sizeof(named)
			    ? -ENAMETOOLONG
			    : warden_arm(o->warden, WARDEN_UNLINK, 0, 0, named, (size_t)n + 1);
	if (entry >= 0)
		ret->entry = entry;
	return MIN(entry, 0);
}

static int unix_bind_path(struct opener *o, int fd, const struct plan_file *file,
			  const struct sockaddr_un *address, socklen_t n, bool jailed)
{
	const UnixSkEntry *usk = file->entry->usk;
	/* A name that fills its place has no end there. */
	char path[UNIX_NAME_BYTES + 1];
	snprintf(path, sizeof(path), "%.*s", UNIX_NAME_BYTES, address->sun_path);
	int r = jailed ? 0 : unix_announce(o, path, &unix_plan_of(file)->made);
	if (r >= 0 && !jailed)
		r = unix_remove_stale(usk->type, path, address, n);
	if (r >= 0)
		r = unix_bind_name(fd, usk);
	if (r < 0)
		return r;
	const FilePermsEntry *perms = usk->file_perms;
	if (!perms)
		return 0;
	if (lchown(path, perms->uid, perms->gid) < 0 || chmod(path, perms->mode & 07777) < 0)
		return -errno;
	return 0;
}

/*
 * Bind fd to the name of the record; in a jail when its file is gone or force_jail. *ret_jail: -1 or the
 * jail, owned.
 */
int unix_bind(struct opener *o, int fd, const struct plan_file *file, bool force_jail, int *ret_jail,
	      struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	struct sockaddr_un address;
	struct unix_place place;
	socklen_t n = unix_address(usk, &address);
	*ret_jail = -1;
	if (!unix_has_path(usk))
		return bind(fd, (const struct sockaddr *)&address, n) < 0
			       ? unix_failed(file, errno, "binding", err)
			       : 0;
	_cleanup_close_ int jail = -1;
	const char *dir = unix_dir(usk);
	int r = 0;
	if (force_jail || (usk->has_deleted && usk->deleted)) {
		char path[PATH_MAX];
		jail = unix_jail_open(err);
		if (jail < 0)
			return jail;
		snprintf(path, sizeof(path), "%s%s%.*s", dir, dir[0] ? "/" : "", UNIX_NAME_BYTES,
			 address.sun_path);
		r = unix_jail_make_dirs(jail, path);
	}
	if (r >= 0)
		r = unix_enter(&place, jail, dir);
	else
		return unix_failed(file, -r, "binding", err);
	if (r >= 0)
		r = unix_bind_path(o, fd, file, &address, n, jail >= 0);
	int back = unix_leave(&place);
	if (r >= 0)
		r = back;
	if (r < 0)
		return unix_failed(file, -r, "binding", err);
	*ret_jail = take_fd(jail);
	return 0;
}

int unix_listen(struct opener *o, const struct plan_file *file, int fd, int backlog,
		const FerrySocketCreds *creds, struct ferry_error *err)
{
	struct unix_call call = {.type = UNIX_CALL_LISTEN, .backlog = backlog};
	int fds[2] = {fd, -1};
	size_t n = 1;
	int r = unix_call(o, creds, &call, fds, &n, err);
	return r < 0 ? unix_failed(file, -r, "listening on", err) : 0;
}

int unix_pair(struct opener *o, unsigned type, const FerrySocketCreds *creds, int ret_fds[2],
	      struct ferry_error *err)
{
	struct unix_call call = {.type = UNIX_CALL_PAIR, .socket_type = (int)type};
	int fds[2] = {-1, -1};
	size_t n = 0;
	int r = unix_call(o, creds, &call, fds, &n, err);
	if (r >= 0 && n != 2)
		r = -EPROTO;
	if (r < 0)
		return unix_failed(NULL, -r, "making", err);
	memcpy(ret_fds, fds, sizeof(fds));
	return 0;
}

int unix_connect_to(struct opener *o, const struct unix_gate *gate, int fd, const FerrySocketCreds *creds,
		    pid_t *ret_pid, struct ferry_error *err)
{
	const UnixSkEntry *named = gate->named->entry->usk;
	struct unix_call call = {.type = UNIX_CALL_CONNECT};
	call.address_bytes = unix_address(named, &call.address);
	if ((size_t)snprintf(call.dir, sizeof(call.dir), "%s", unix_dir(named)) >= sizeof(call.dir))
		return unix_failed(gate->named, ENAMETOOLONG, "connecting to", err);
	int fds[2] = {fd, gate->jail};
	size_t n = gate->jail < 0 ? 1 : 2;
	int r = unix_call(o, creds, &call, fds, &n, err);
	if (r < 0)
		return unix_failed(gate->named, -r, "connecting to", err);
	*ret_pid = call.pid;
	return 0;
}
