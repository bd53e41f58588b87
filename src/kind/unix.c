/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns saving unix sockets, of streams, messages and datagrams: pairs, connections made through a listener, those
 * that wait there, listeners, sockets that do nothing yet. A relative name is recorded with the directory that it
 * counts from. What waits in them is read by unix_queue.c, who has them is found out by unix_scan.c.
 *
 * Kernel interface: unix(7), SIOCUNIXFILE (4.15).
 * Does not handle: a peer outside of the tree, but with --ext-unix-sk (datagrams) or --external;
 * connections that wait to be accepted and come from outside or have data in them (no call reads that before
 * accept(2), looked at up to Linux 6.18); names in another root directory. They are refused by name.
 */
#include "kind/unix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/sockdiag.h"
#include "image/file.h"
#include "kernel/syscalls.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "kind/sockextra.h"
#include "kind/sockopt.h"
#include "kind/unix_snap.h"
#include "model/record.h"
#include "proc/fdinfo.h"
#include "proc/lex.h"
#include "proc/read.h"

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif
#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

/* ------------------------------------------------------------------ collect */

static int unix_collect_name(struct arena *a, int fd, UnixSkEntry *usk, struct ferry_error *err)
{
	struct sockaddr_un address = {0};
	socklen_t n = sizeof(address);
	if (getsockname(fd, (struct sockaddr *)&address, &n) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the name of a unix socket");
	size_t bytes =
		n > offsetof(struct sockaddr_un, sun_path) ? n - offsetof(struct sockaddr_un, sun_path) : 0;
	usk->name = record_bytes(a, address.sun_path, MIN(bytes, (size_t)UNIX_NAME_BYTES));
	return usk->name.data || !usk->name.len ? 0 : error_memory(err);
}

static bool unix_same_file(const char *dir, const char *name, const struct stat *st)
{
	char path[PATH_MAX];
	struct stat now;
	int n = snprintf(path, sizeof(path), "%s%s%s", dir ? dir : "", dir ? "/" : "", name);
	return n > 0 && (size_t)n < sizeof(path) && !stat(path, &now) && now.st_ino == st->st_ino &&
	       now.st_dev == st->st_dev;
}

/* Where the socket's file is now, as far as it has a place: without the kernel's mark of a deleted one. */
static int unix_file_path(int file, char ret_path[PATH_MAX], struct ferry_error *err)
{
	static const char mark[] = " (deleted)";
	ssize_t n = fd_path(file, ret_path, PATH_MAX);
	if (n < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, (int)-n, "reading the path of a unix socket");
	size_t cut = sizeof(mark) - 1;
	if ((size_t)n > cut && !strcmp(ret_path + n - cut, mark))
		ret_path[(size_t)n - cut] = '\0';
	return 0;
}

/* The directory that a relative name counts from: what is left of the file's path, or a working directory. */
static char *unix_name_dir(struct arena *a, const struct fd_view *view, const char *name, const char *path,
			   const struct stat *st)
{
	size_t n = strlen(name), m = strlen(path);
	if (m > n + 1 && path[m - n - 1] == '/' && !strcmp(path + m - n, name)) {
		char *dir = arena_string(a, path);
		if (dir)
			dir[m - n - 1] = '\0';
		return dir;
	}
	char link[64], cwd[PATH_MAX];
	snprintf(link, sizeof(link), "/proc/%d/cwd", view->look);
	ssize_t got = readlink(link, cwd, sizeof(cwd) - 1);
	if (got < 0)
		return NULL;
	cwd[got] = '\0';
	return unix_same_file(cwd, name, st) ? arena_string(a, cwd) : NULL;
}

size_t unix_via_descriptor(const char *name, size_t n, int *ret_number)
{
	static const char *const folders[] = {"/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"};
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		struct lex l = lex_new(name, n);
		uint64_t number;
		if (!lex_str(&l, folders[i]) || !lex_u64(&l, &number) || number > INT_MAX / 2 ||
		    !lex_char(&l, '/') || !lex_left(&l) || memchr(l.p, '/', lex_left(&l)))
			continue;
		*ret_number = (int)number;
		return n - lex_left(&l);
	}
	return 0;
}

/* The directory of a name that it got by way of a descriptor, which may be closed by now; NULL: it has no such name, or has left. */
static char *unix_via_dir(struct arena *a, const char *name, const char *path, const struct stat *st)
{
	int number;
	size_t via = unix_via_descriptor(name, strlen(name), &number);
	const char *base = strrchr(path, '/');
	if (!via || !base || strcmp(name + via, base + 1) != 0 || !unix_same_file(NULL, path, st))
		return NULL;
	char *dir = arena_string(a, path);
	if (dir)
		dir[MAX(base - path, 1)] = '\0';
	return dir;
}

static bool unix_has_our_root(pid_t pid)
{
	char link[64];
	struct stat theirs, ours;
	snprintf(link, sizeof(link), "/proc/%d/root", pid);
	return !stat(link, &theirs) && !stat("/", &ours) && theirs.st_ino == ours.st_ino &&
	       theirs.st_dev == ours.st_dev;
}

/* It has its name where the process that has it lives: in another mount namespace. */
static bool unix_is_elsewhere(pid_t pid, const char *path, const struct stat *st)
{
	char root[64];
	snprintf(root, sizeof(root), "/proc/%d/root", pid);
	return unix_same_file(root, path, st);
}

/* The socket file, found by its name alone: asking for it takes rights over the network namespace, which ordinary users lack. */
static int unix_open_by_name(const struct fd_view *view, const char *name)
{
	_cleanup_(unix_sock_release) struct unix_sock sock = {0};
	struct stat st;
	int r = sockdiag_unix_one(-1, sock_inode(view), &sock, NULL);
	if (r < 0 || !sock.has_vfs || name[0] != '/')
		return -EPERM;
	_cleanup_close_ int fd = fd_open(AT_FDCWD, name, O_PATH, 0);
	uint32_t dev = fd < 0 || fstat(fd, &st) < 0 ? 0 : kern_dev(st.st_dev);
	return dev == sock.vfs_dev && (uint32_t)st.st_ino == sock.vfs_inode ? take_fd(fd) : -EPERM;
}

static int unix_refuse_lost(const struct fd_view *view, const char *name, struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	error_set(err, FERRY_ERROR_PERMISSION, EPERM,
		  "%s: a unix socket whose name '%s' does not lead to it needs root", who, name);
	error_hint(err, "let the program use an absolute path, and leave the file where it is");
	return -EPERM;
}

int unix_check_name(const struct fd_view *view, const struct unix_sock *sock, struct ferry_error *err)
{
	char name[UNIX_NAME_BYTES + 1];
	if (!sock->has_name || !sock->name_len || !sock->name[0])
		return 0;
	snprintf(name, sizeof(name), "%.*s", (int)sock->name_len, (const char *)sock->name);
	_cleanup_close_ int file = unix_open_by_name(view, name);
	return file < 0 ? unix_refuse_lost(view, name, err) : 0;
}

/* The file that a name in the file system leads to: its rights, and whether the name still leads there. */
static int unix_collect_file(struct arena *a, const struct fd_view *view, UnixSkEntry *usk,
			     FerrySocketEntry *extra, struct ferry_error *err)
{
	char who[64], name[UNIX_NAME_BYTES + 1], path[PATH_MAX];
	struct stat st;
	fd_view_name(view, who, sizeof(who));
	snprintf(name, sizeof(name), "%.*s", (int)usk->name.len, (const char *)usk->name.data);
	_cleanup_close_ int file = ioctl(view->copy, SIOCUNIXFILE);
	if (file < 0 && errno == EPERM)
		file = unix_open_by_name(view, name);
	if (file == -EPERM)
		return unix_refuse_lost(view, name, err);
	if (file < 0 || fstat(file, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "%s: finding the file of a unix socket",
				   who);
	int r = unix_file_path(file, path, err);
	FilePermsEntry *perms = r < 0 ? NULL : record_new(a, FilePermsEntry, file_perms_entry);
	if (r < 0 || !perms)
		return r < 0 ? r : error_memory(err);
	perms->mode = st.st_mode;
	perms->uid = st.st_uid;
	perms->gid = st.st_gid;
	usk->file_perms = perms;
	if (name[0] != '/') {
		usk->name_dir = unix_name_dir(a, view, name, path, &st);
		if (!usk->name_dir) {
			error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				  "%s: a unix socket named '%s', whose directory is not known", who, name);
			error_hint(err, "let the program use an absolute path");
			return -ENOTSUP;
		}
	}
	if (name[0] == '/')
		usk->name_dir = unix_via_dir(a, name, path, &st);
	if ((name[0] == '/' && usk->name_dir) || unix_same_file(usk->name_dir, name, &st))
		return 0;
	if (!unix_has_our_root(view->look)) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: a unix socket named '%s' in another root directory", who, name);
		return -ENOTSUP;
	}
	bool here = unix_same_file(NULL, path, &st);
	if (!here && unix_is_elsewhere(view->look, path, &st)) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: a unix socket named '%s' in a mount namespace that is not the root's", who,
			  name);
		return -ENOTSUP;
	}
	if (!st.st_nlink || !here) {
		record_set(usk, deleted, true);
		return 0;
	}
	extra->has_moved_to = 1;
	extra->moved_to = record_bytes(a, path, strlen(path));
	return extra->moved_to.data ? 0 : error_memory(err);
}

FerrySocketCreds *unix_creds(struct snapshot *s, const struct ucred *c)
{
	FerrySocketCreds *creds = record_new(&s->arena, FerrySocketCreds, ferry_socket_creds);
	if (creds) {
		creds->pid = (uint32_t)snapshot_inner_pid(s, c->pid);
		creds->uid = c->uid;
		creds->gid = c->gid;
	}
	return creds;
}

static int unix_collect_peer(struct snapshot *s, int fd, FerrySocketEntry *extra, struct ferry_error *err)
{
	struct ucred peer = {0};
	socklen_t n = sizeof(peer);
	if (sock_get_bytes(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0 || !peer.pid)
		return 0;
	extra->peer = unix_creds(s, &peer);
	if (!extra->peer)
		return error_memory(err);
	gid_t none;
	n = 0;
	if (sock_get_bytes(fd, SOL_SOCKET, SO_PEERGROUPS, &none, &n) != -ERANGE || !n)
		return 0;
	extra->peer->groups = arena_alloc(&s->arena, n);
	if (!extra->peer->groups)
		return error_memory(err);
	if (sock_get_bytes(fd, SOL_SOCKET, SO_PEERGROUPS, extra->peer->groups, &n) >= 0)
		extra->peer->n_groups = n / sizeof(gid_t);
	return 0;
}

/* A peer that went away with unread bytes leaves an error. Asking for it would take it. */
static void unix_collect_error(int fd, FerrySocketEntry *extra)
{
	struct pollfd p = {.fd = fd};
	if (poll(&p, 1, 0) > 0 && p.revents & POLLERR)
		record_set(extra, error, ECONNRESET);
}

static int unix_collect_record(struct collect *c, struct fd_view *view, const struct unix_sock *sock,
			       UnixSkEntry *usk, FerrySocketEntry *extra, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	usk->ino = sock->inode;
	usk->type = sock->type;
	usk->state = sock->state;
	usk->flags = fdcommon_flags(view);
	/* For a connection the kernel tells something else in its place, and images have that. */
	usk->backlog = sock->wqueue;
	usk->peer = sock->has_peer ? sock->peer_inode : 0;
	record_set(usk, ns_id, net_here_id(c, view));
	if (sock->shutdown)
		record_set(usk, shutdown, (SkShutdown)sock->shutdown);
	int r = fdcommon_owner(c, view, &usk->fown, err);
	if (r >= 0)
		r = sockopt_collect(view->copy, true, a, &usk->opts, err);
	if (r >= 0)
		r = unix_collect_name(a, view->copy, usk, err);
	return r >= 0 && usk->name.len && usk->name.data[0] ? unix_collect_file(a, view, usk, extra, err) : r;
}

/* Who connected, as the accepted end will tell it: the first task that has the socket. */
static int unix_collect_pending(struct collect *c, const struct fd_view *view, UnixSkEntry *usk,
				FerrySocketEntry *extra, struct ferry_error *err)
{
	uint32_t place = 0, listener = unix_pending_on(view, usk->ino, &place);
	const struct snap_task *t = snapshot_task(c->snap, view->pid);
	if (!listener)
		return 0;
	usk->peer = listener;
	record_set(extra, pending, place);
	if (!t)
		return 0;
	_cleanup_proc_status_ struct proc_status status = {0};
	_cleanup_close_ int dir = proc_open(t->look, err);
	int r = dir < 0 ? dir : proc_read_status(dir, &status, err);
	if (r < 0)
		return r;
	const struct ucred who = {.pid = t->pid, .uid = status.uid.effective, .gid = status.gid.effective};
	extra->connector = unix_creds(c->snap, &who);
	return extra->connector ? 0 : error_memory(err);
}

/* A datagram socket stays connected to one that is closed, until it sends. */
static int unix_collect_gone(struct arena *a, int fd, const struct unix_sock *sock, FerrySocketEntry *extra,
			     struct ferry_error *err)
{
	struct sockaddr_un address = {0};
	socklen_t n = sizeof(address);
	if (sock->type != SOCK_DGRAM || (sock->has_peer && sock->peer_inode) ||
	    getpeername(fd, (struct sockaddr *)&address, &n) < 0)
		return 0;
	size_t bytes =
		n > offsetof(struct sockaddr_un, sun_path) ? n - offsetof(struct sockaddr_un, sun_path) : 0;
	extra->has_gone_peer = 1;
	extra->gone_peer = record_bytes(a, address.sun_path, MIN(bytes, (size_t)UNIX_NAME_BYTES));
	return extra->gone_peer.data || !bytes ? 0 : error_memory(err);
}

static int unix_collect_parts(struct collect *c, struct fd_view *view, const struct unix_sock *sock,
			      UnixSkEntry *usk, FerrySocketEntry *extra, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	int r = unix_collect_record(c, view, sock, usk, extra, err);
	if (r >= 0)
		r = unix_collect_peer(c->snap, view->copy, extra, err);
	if (r >= 0)
		r = unix_collect_pending(c, view, usk, extra, err);
	if (r >= 0)
		r = unix_collect_gone(a, view->copy, sock, extra, err);
	if (r >= 0)
		unix_collect_error(view->copy, extra);
	return r;
}

/* CRIU's way to note it: nobody is at the other end. */
static int unix_collect_service(struct collect *c, struct fd_view *view, const struct unix_sock *sock,
				UnixSkEntry *usk, FerrySocketEntry *extra, struct ferry_error *err)
{
	int r = unix_collect_record(c, view, sock, usk, extra, err);
	usk->state = UNIX_CLOSED;
	usk->peer = 0;
	usk->uflags = UNIX_SERVICE;
	return r;
}

static int unix_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			struct ferry_error *err)
{
	const struct unix_sock *sock = NULL;
	struct sock_type type = {0};
	struct arena *a = &c->snap->arena;
	char who[64];
	fd_view_name(view, who, sizeof(who));
	int r = sock_copy(view, who, &type, err);
	if (r >= 0)
		r = unix_look_up(view, c->options, &sock, err);
	if (r < 0 || !sock)
		return r;
	UnixSkEntry *usk = record_new(a, UnixSkEntry, unix_sk_entry);
	struct unix_snap *data = arena_new(a, struct unix_snap);
	if (!usk || !data)
		return error_memory(err);
	usk->id = file->entry->id;
	r = sockextra_collect(a, view->copy, &type, usk->id, &data->extra, err);
	bool is_service = c->options->service_socket && sock->inode == c->options->service_socket;
	if (r >= 0)
		r = is_service ? unix_collect_service(c, view, sock, usk, data->extra, err)
			       : unix_collect_parts(c, view, sock, usk, data->extra, err);
	if (r < 0)
		return r;
	file->entry->usk = usk;
	file->data = data;
	/* Queues are read when all tables are known: they may hold descriptors. */
	struct pollfd p = {.fd = view->copy, .events = POLLIN};
	data->waits = !is_service && sock->state != UNIX_LISTENING && poll(&p, 1, 0) > 0 &&
		      p.revents & (POLLIN | POLLERR);
	if (data->waits)
		file->copy = take_fd(view->copy);
	return 0;
}

/* Also those that are found on the way, in the queues of others. */
static int unix_discover(struct collect *c, struct ferry_error *err)
{
	for (size_t i = 0; i < c->snap->files.n; i++) {
		struct snap_file *file = &c->snap->files.v[i];
		struct unix_snap *data = file->kind == &kind_unixsk ? file->data : NULL;
		if (!data || !data->waits)
			continue;
		int r = unix_queue_read(c, file, err);
		int described = unix_queue_describe(c, i, r < 0 ? NULL : err);
		if (r < 0 || described < 0)
			return r < 0 ? r : described;
		file = &c->snap->files.v[i];
		/* One that was found in a queue is known by its copy. */
		if (file->pid != getpid())
			close(take_fd(file->copy));
	}
	return 0;
}

/* ------------------------------------------------------------- outside of the tree */

static bool unix_is_recorded(const struct snapshot *s, uint32_t inode)
{
	vec_foreach(file, &s->files) {
		if (file->kind == &kind_unixsk && file->entry->usk->ino == inode)
			return true;
	}
	return false;
}

static int unix_record_outside(struct collect *c, const struct unix_sock *sock, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	FileEntry *entry = record_new(a, FileEntry, file_entry);
	UnixSkEntry *usk = record_new(a, UnixSkEntry, unix_sk_entry);
	struct snap_file *file = entry && usk ? vec_push(&c->snap->files) : NULL;
	if (!file)
		return error_memory(err);
	*file = (struct snap_file){.entry = entry, .kind = &kind_unixsk, .copy = -1, .fd = -1};
	entry->type = FD_TYPES__UNIXSK;
	entry->id = ++c->snap->next_file_id;
	entry->usk = usk;
	usk->id = entry->id;
	usk->ino = sock->inode;
	usk->type = SOCK_DGRAM;
	usk->state = UNIX_LISTENING;
	usk->uflags = UNIX_EXTERNAL;
	usk->fown = fdcommon_no_owner(a);
	usk->opts = record_new(a, SkOptsEntry, sk_opts_entry);
	usk->name = record_bytes(a, sock->name, sock->name_len);
	return usk->fown && usk->opts && (usk->name.data || !sock->name_len) ? 0 : error_memory(err);
}

/* The names that datagram sockets are connected to again. */
static int unix_collect_end(struct collect *c, struct ferry_error *err)
{
	for (size_t i = 0, n = c->snap->files.n; i < n; i++) {
		const struct snap_file *file = &c->snap->files.v[i];
		uint32_t peer = file->kind == &kind_unixsk ? file->entry->usk->peer : 0;
		const struct unix_sock *sock = peer ? unix_outside(c, peer) : NULL;
		int r = sock && !unix_is_recorded(c->snap, peer) ? unix_record_outside(c, sock, err) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* --------------------------------------------------------------------- dump */

static int unix_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const struct unix_snap *data = file->data;
	int r = data ? unix_queue_dump(d, file, err) : 0;
	return r < 0 || !data ? r : sockextra_dump(d, data->extra, err);
}

const struct kind_ops kind_unixsk = {
	.name = "unix",
	.what = "unix sockets: streams, messages and datagrams, with what waits in them, also descriptors",
	.fd_type = FD_TYPES__UNIXSK,
	.image_file = IMAGE_SK_QUEUES,
	.late = true,
	.owns = unix_owns,
	.check = unix_check,
	.check_end = unix_check_end,
	.collect = unix_collect,
	.discover = unix_discover,
	.collect_end = unix_collect_end,
	.dump = unix_dump,
	.read = unix_read,
	.restore = unix_restore,
	.opened = unix_opened,
	.abandon = unix_abandon,
	.settle = unix_settle,
};
