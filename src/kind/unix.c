/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns saving unix stream sockets: pairs, connections made through a listener, listeners, sockets that do
 * nothing yet. Queues are peeked, so nothing is consumed. A relative name is recorded with the directory that
 * it counts from.
 *
 * Kernel interface: unix(7), NETLINK_SOCK_DIAG with unix_diag (3.3), SO_PEEK_OFF (3.4), SIOCUNIXFILE (4.15).
 * Does not handle: datagram and seqpacket sockets, connections that wait to be accepted, descriptors and
 * out-of-band data in a queue, peers outside of the tree, names that were moved to another place. They are
 * refused by name.
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
#include "host/warden.h"
#include "image/file.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "kind/sockextra.h"
#include "kind/sockopt.h"
#include "model/record.h"
#include "proc/fdinfo.h"

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif
#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

enum {
	UNIX_NS_OWN = 2,           /* id of the network namespace that the dumping program lives in */
	UNIX_QUEUE_MAX = 1 << 30,  /* bytes */
	UNIX_CONTROL_BYTES = 8192, /* 253 descriptors, credentials, a label */
};

/* A socket of the tree that was seen. */
struct unix_seen {
	struct unix_seen *next;
	uint32_t inode, peer;
	pid_t pid;
	int fd;
	char comm[32];
};

/* During one check or collect. */
struct unix_scan {
	struct unix_sock *socks; /* all of this network namespace, by inode */
	size_t n;
	uint32_t *pending; /* inodes of clients that nobody accepted yet, sorted */
	size_t n_pending;
	struct unix_seen *seen;
	uint32_t *inodes; /* of all that were seen, sorted; made at the end */
	size_t n_inodes;
};

/* snap_file.data */
struct unix_snap {
	FerrySocketEntry *extra;
	uint8_t *queue;
	size_t queue_bytes;
};

static int unix_compare_inodes(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static bool unix_has_inode(const uint32_t *sorted, size_t n, uint32_t inode)
{
	return n && bsearch(&inode, sorted, n, sizeof(*sorted), unix_compare_inodes);
}

/* --------------------------------------------------------------------- scan */

static int unix_scan_keep(struct arena *a, struct unix_scan *scan, const struct unix_sock *socks, size_t n)
{
	size_t n_pending = 0;
	for (size_t i = 0; i < n; i++)
		n_pending += socks[i].n_pending;
	scan->socks = n ? arena_copy(a, socks, n * sizeof(*socks)) : NULL;
	scan->pending = arena_array(a, uint32_t, n_pending + 1);
	if ((n && !scan->socks) || !scan->pending)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < socks[i].n_pending; k++)
			scan->pending[scan->n_pending++] = socks[i].pending[k];
		scan->socks[i].pending = NULL;
	}
	qsort(scan->pending, scan->n_pending, sizeof(*scan->pending), unix_compare_inodes);
	scan->n = n;
	return 0;
}

/* The kernel is asked once for each check or collect. */
static int unix_scan_get(const struct fd_view *view, struct unix_scan **ret, struct ferry_error *err)
{
	struct unix_scan *scan = view->kind_data[KIND_unixsk];
	if (!scan) {
		struct unix_sock *socks = NULL;
		size_t n = 0;
		scan = arena_new(view->arena, struct unix_scan);
		int r = scan ? sockdiag_unix(-1, &socks, &n, err) : error_memory(err);
		if (r < 0)
			return r;
		r = unix_scan_keep(view->arena, scan, socks, n);
		unix_socks_free(socks, n);
		if (r < 0)
			return error_memory(err);
		view->kind_data[KIND_unixsk] = scan;
	}
	*ret = scan;
	return 0;
}

static int unix_scan_seen(const struct fd_view *view, struct unix_scan *scan, const struct unix_sock *sock,
			  struct ferry_error *err)
{
	struct unix_seen *seen = arena_new(view->arena, struct unix_seen);
	if (!seen)
		return error_memory(err);
	*seen = (struct unix_seen){
		.next = scan->seen, .inode = sock->inode, .pid = view->pid, .fd = view->fd};
	seen->peer = sock->has_peer ? sock->peer_inode : 0;
	snprintf(seen->comm, sizeof(seen->comm), "%s", view->comm);
	scan->seen = seen;
	return 0;
}

/* -------------------------------------------------------------------- check */

static bool unix_owns(const struct fd_view *view)
{
	char name[32];
	return sock_protocol(view, name) >= 0 && !strncmp(name, "UNIX", 4);
}

static int unix_check_sock(const char *who, const struct unix_scan *scan, const struct unix_sock *sock,
			   struct ferry_error *err)
{
	if (sock->type != SOCK_STREAM) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: a unix %s socket", who,
			  sock->type == SOCK_DGRAM ? "datagram" : "seqpacket");
		error_hint(err, "unix sockets of this type are not dumped yet; only stream sockets are");
		return -ENOTSUP;
	}
	if (sock->state == UNIX_LISTENING && sock->rqueue) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: %u connections to this unix socket wait to be accepted", who, sock->rqueue);
		error_hint(err, "try again when the program has accepted them");
		return -ENOTSUP;
	}
	if (unix_has_inode(scan->pending, scan->n_pending, sock->inode)) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: a unix socket whose connection nobody accepted yet", who);
		error_hint(err, "try again when the server has accepted it");
		return -ENOTSUP;
	}
	return 0;
}

static int unix_look_up(const struct fd_view *view, struct unix_scan **ret_scan,
			const struct unix_sock **ret_sock, struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	struct unix_scan *scan = NULL;
	int r = unix_scan_get(view, &scan, err);
	if (r < 0 || !scan)
		return r;
	const struct unix_sock *sock = unix_socks_find(scan->socks, scan->n, sock_inode(view));
	if (!sock) {
		/* A live tree makes sockets after we asked; a frozen one does not. */
		error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			  "%s: a unix socket that this network namespace does not know", who);
		error_hint(err, "it was made in another network namespace, or this very moment");
		return -ENOTSUP;
	}
	r = unix_check_sock(who, scan, sock, err);
	if (r < 0)
		return r;
	*ret_scan = scan;
	*ret_sock = sock;
	return unix_scan_seen(view, scan, sock, err);
}

/*
 * Who has the other end, when that is somebody outside; unix_check_end() finds every such end, but not who
 * has it.
 */
static int unix_check_peer(const struct fd_view *view, struct unix_scan *scan, const struct unix_sock *sock,
			   struct ferry_error *err)
{
	char who[64];
	struct peer peer;
	int r = sock->has_peer && sock->peer_inode
			? peers_outside(view->peers, PEER_SOCKET, sock->peer_inode, &peer, err)
			: 0;
	if (r <= 0)
		return r;
	fd_view_name(view, who, sizeof(who));
	error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
		  "%s: a unix socket connected to fd %d of pid %d, which is outside of the tree", who,
		  peer.fd, peer.pid);
	error_hint(err,
		   "dump from a process on that includes both ends, or let the program close the connection");
	scan->seen->peer = 0;
	return -ENOTSUP;
}

static int unix_check(const struct fd_view *view, const struct kind_options *options, struct ferry_error *err)
{
	struct unix_scan *scan = NULL;
	const struct unix_sock *sock;
	int r = unix_look_up(view, &scan, &sock, err);
	if (r < 0 || !scan)
		return r;
	r = unix_check_peer(view, scan, sock, err);
	return r < 0 || options->criu_compat ? r : peers_refuse(view, PEER_SOCKET, err);
}

static int unix_scan_sort(struct unix_scan *scan, struct ferry_error *err)
{
	size_t n = 0;
	for (const struct unix_seen *s = scan->seen; s; s = s->next)
		n++;
	uint32_t *inodes = calloc(n + 1, sizeof(*inodes));
	if (!inodes)
		return error_memory(err);
	scan->n_inodes = 0;
	for (const struct unix_seen *s = scan->seen; s; s = s->next)
		inodes[scan->n_inodes++] = s->inode;
	qsort(inodes, n, sizeof(*inodes), unix_compare_inodes);
	scan->inodes = inodes;
	return 0;
}

/* Each socket whose peer is not of the tree. */
static int unix_check_end(void *const *kind_data, size_t *at, struct ferry_error *err)
{
	struct unix_scan *scan = kind_data[KIND_unixsk];
	size_t i = 0;
	int r = scan ? unix_scan_sort(scan, err) : 0;
	if (!scan || r < 0)
		return r;
	for (const struct unix_seen *s = scan->seen; s; s = s->next) {
		if (i++ < *at || !s->peer || unix_has_inode(scan->inodes, scan->n_inodes, s->peer))
			continue;
		*at = i;
		r = error_set(
			err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
			"fd %d of pid %d (%s): a unix socket whose peer (socket:[%u]) is outside of the tree",
			s->fd, s->pid, s->comm, s->peer);
		error_hint(err,
			   "dump from a process on that includes both ends, or let the program close it");
		break;
	}
	free(scan->inodes);
	scan->inodes = NULL;
	return r;
}

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
	char link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
	ssize_t n = readlink(link, ret_path, PATH_MAX - 1);
	if (n < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the path of a unix socket");
	ret_path[n] = '\0';
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
	snprintf(link, sizeof(link), "/proc/%d/cwd", view->pid);
	ssize_t got = readlink(link, cwd, sizeof(cwd) - 1);
	if (got < 0)
		return NULL;
	cwd[got] = '\0';
	return unix_same_file(cwd, name, st) ? arena_string(a, cwd) : NULL;
}

/* The file that a name in the file system leads to: its rights, and whether the name still leads there. */
static int unix_collect_file(struct arena *a, const struct fd_view *view, UnixSkEntry *usk,
			     struct ferry_error *err)
{
	char who[64], name[UNIX_NAME_BYTES + 1], path[PATH_MAX];
	struct stat st;
	fd_view_name(view, who, sizeof(who));
	_cleanup_close_ int file = ioctl(view->copy, SIOCUNIXFILE);
	if (file < 0 || fstat(file, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "%s: finding the file of a unix socket",
				   who);
	snprintf(name, sizeof(name), "%.*s", (int)usk->name.len, (const char *)usk->name.data);
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
	if (unix_same_file(usk->name_dir, name, &st))
		return 0;
	if (st.st_nlink && unix_same_file(NULL, path, &st)) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: a unix socket named '%s' whose file is at '%s' now", who, name, path);
		error_hint(err, "renamed sockets, and those of another root directory, are not dumped yet");
		return -ENOTSUP;
	}
	record_set(usk, deleted, true);
	return 0;
}

static FerrySocketCreds *unix_creds(struct snapshot *s, const struct ucred *c)
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

/* -------------------------------------------------------------------- queue */

/*
 * What lies beside peeked bytes: credentials in *ret_sender (pid 0: none); -ENOTSUP: descriptors, which are
 * closed here.
 */
static int unix_control(struct msghdr *m, struct ucred *ret_sender)
{
	int r = 0;
	*ret_sender = (struct ucred){0};
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n = h->cmsg_len - CMSG_LEN(0);
		if (h->cmsg_level != SOL_SOCKET)
			continue;
		if (h->cmsg_type == SCM_CREDENTIALS && n == sizeof(*ret_sender))
			memcpy(ret_sender, CMSG_DATA(h), sizeof(*ret_sender));
		/* SCM_PIDFD (4) comes by itself where SO_PASSPIDFD is set, SCM_RIGHTS was sent. */
		if (h->cmsg_type != SCM_RIGHTS && h->cmsg_type != 4)
			continue;
		for (size_t i = 0; i < n / sizeof(int); i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
			close(fd);
		}
		if (h->cmsg_type == SCM_RIGHTS)
			r = -ENOTSUP;
	}
	return r;
}

static ssize_t unix_peek_once(int fd, uint8_t *bytes, size_t n, struct ucred *ret_sender)
{
	char control[UNIX_CONTROL_BYTES] __attribute__((aligned(8)));
	struct iovec iov = {.iov_base = bytes, .iov_len = n};
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (got < 0)
		return -errno;
	int r = unix_control(&m, ret_sender);
	return r < 0 ? r : got ? got : -ENODATA;
}

static int unix_add_run(struct snapshot *s, FerrySocketEntry *extra, size_t n, const struct ucred *sender)
{
	if (!sender->pid)
		return 0;
	FerrySocketRun *run = record_new(&s->arena, FerrySocketRun, ferry_socket_run);
	FerrySocketRun **more = arena_array(&s->arena, FerrySocketRun *, extra->n_runs + 1);
	if (!run || !more)
		return -ENOMEM;
	for (size_t i = 0; i < extra->n_runs; i++)
		more[i] = extra->runs[i];
	run->length = (uint32_t)n;
	run->sender = unix_creds(s, sender);
	if (!run->sender)
		return -ENOMEM;
	more[extra->n_runs++] = run;
	extra->runs = more;
	return 0;
}

/* A peek ends where the sender changes; an offset leads on. It is the owner's option, so it is put back. */
static int unix_peek_runs(struct collect *c, int fd, int peek_off, uint8_t *bytes, size_t n,
			  FerrySocketEntry *extra)
{
	int entry = warden_arm(c->warden, WARDEN_PEEK_OFF, fd, (uint64_t)(int64_t)peek_off, NULL, 0);
	if (entry < 0)
		return entry;
	fault_effect(c->fault, "dump", "unix: SO_PEEK_OFF on");
	int r = sock_set(fd, SOL_SOCKET, SO_PEEK_OFF, 0);
	for (size_t at = 0; at < n && r >= 0;) {
		struct ucred sender = {0};
		ssize_t got = unix_peek_once(fd, bytes + at, n - at, &sender);
		r = got < 0 ? (int)got : unix_add_run(c->snap, extra, (size_t)got, &sender);
		at += got < 0 ? 0 : (size_t)got;
	}
	fault_effect(c->fault, "dump", "unix: SO_PEEK_OFF off");
	int back = sock_set(fd, SOL_SOCKET, SO_PEEK_OFF, peek_off);
	if (back >= 0)
		warden_disarm(c->warden, entry);
	return r < 0 ? r : back;
}

static int unix_peek(struct collect *c, int fd, uint8_t *bytes, size_t n, FerrySocketEntry *extra)
{
	int peek_off = -1;
	struct ucred sender = {0};
	int r = sock_get(fd, SOL_SOCKET, SO_PEEK_OFF, &peek_off);
	if (r < 0)
		return r;
	if (peek_off < 0) {
		ssize_t got = unix_peek_once(fd, bytes, n, &sender);
		if (got < 0)
			return (int)got;
		if ((size_t)got == n)
			return unix_add_run(c->snap, extra, n, &sender);
	}
	return unix_peek_runs(c, fd, peek_off, bytes, n, extra);
}

static int unix_queue_failed(const struct fd_view *view, int code, struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	if (code == ENOMEM)
		return error_memory(err);
	if (code != ENOTSUP)
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "%s: reading the queue of a unix socket",
				   who);
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, code,
		  "%s: descriptors wait in the queue of a unix socket (SCM_RIGHTS)", who);
	error_hint(err, "try again when the program has received them");
	return -code;
}

static int unix_collect_queue(struct collect *c, const struct fd_view *view, struct unix_snap *data,
			      struct ferry_error *err)
{
	int n = 0;
	char byte;
	/* A queue that is empty has none either; what there is would hide behind other bytes. */
	if (recv(view->copy, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) > 0) {
		char who[64];
		fd_view_name(view, who, sizeof(who));
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: out-of-band data waits in a unix socket", who);
		return -ENOTSUP;
	}
	if (ioctl(view->copy, SIOCINQ, &n) < 0)
		return unix_queue_failed(view, errno, err);
	if (n <= 0)
		return 0;
	if (n > UNIX_QUEUE_MAX)
		return unix_queue_failed(view, EFBIG, err);
	data->queue = arena_alloc(&c->snap->arena, (size_t)n);
	if (!data->queue)
		return error_memory(err);
	int r = unix_peek(c, view->copy, data->queue, (size_t)n, data->extra);
	if (r < 0)
		return unix_queue_failed(view, -r, err);
	data->queue_bytes = (size_t)n;
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
			       UnixSkEntry *usk, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	usk->ino = sock->inode;
	usk->type = sock->type;
	usk->state = sock->state;
	usk->flags = fdcommon_flags(view);
	/* For a connection the kernel tells something else in its place, and images have that. */
	usk->backlog = sock->wqueue;
	usk->peer = sock->has_peer ? sock->peer_inode : 0;
	record_set(usk, ns_id, UNIX_NS_OWN);
	if (sock->shutdown)
		record_set(usk, shutdown, (SkShutdown)sock->shutdown);
	int r = fdcommon_owner(c, view, &usk->fown, err);
	if (r >= 0)
		r = sockopt_collect(view->copy, true, a, &usk->opts, err);
	if (r >= 0)
		r = unix_collect_name(a, view->copy, usk, err);
	return r >= 0 && usk->name.len && usk->name.data[0] ? unix_collect_file(a, view, usk, err) : r;
}

static int unix_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			struct ferry_error *err)
{
	struct unix_scan *scan;
	const struct unix_sock *sock = NULL;
	struct sock_type type = {0};
	struct arena *a = &c->snap->arena;
	int r = unix_look_up(view, &scan, &sock, err);
	if (r >= 0)
		r = fd_view_copy(view, err);
	if (r >= 0)
		r = sock_type_of(view->copy, &type, err);
	if (r < 0 || !sock)
		return r;
	UnixSkEntry *usk = record_new(a, UnixSkEntry, unix_sk_entry);
	struct unix_snap *data = arena_new(a, struct unix_snap);
	if (!usk || !data)
		return error_memory(err);
	usk->id = file->entry->id;
	r = sockextra_collect(a, view->copy, &type, usk->id, &data->extra, err);
	if (r >= 0)
		r = unix_collect_record(c, view, sock, usk, err);
	if (r >= 0)
		r = unix_collect_peer(c->snap, view->copy, data->extra, err);
	if (r >= 0 && sock->state == UNIX_CONNECTED)
		r = unix_collect_queue(c, view, data, err);
	if (r < 0)
		return r;
	unix_collect_error(view->copy, data->extra);
	file->entry->usk = usk;
	file->data = data;
	return 0;
}

/* --------------------------------------------------------------------- dump */

static int unix_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const struct unix_snap *data = file->data;
	int r = sockextra_dump(d, data->extra, err);
	if (r < 0 || !data->queue_bytes)
		return r;
	struct image_writer *w;
	SkPacketEntry packet = SK_PACKET_ENTRY__INIT;
	packet.id_for = file->entry->id;
	packet.length = (uint32_t)data->queue_bytes;
	r = fdcommon_writer(d, IMAGE_SK_QUEUES, &w, err);
	if (r >= 0)
		r = image_put(w, &packet.base, err);
	return r < 0 ? r : image_put_raw(w, data->queue, data->queue_bytes, err);
}

const struct kind_ops kind_unixsk = {
	.name = "unix",
	.what = "unix stream sockets: pairs, listeners, connections, with what waits in them",
	.fd_type = FD_TYPES__UNIXSK,
	.image_file = IMAGE_SK_QUEUES,
	.late = true,
	.owns = unix_owns,
	.check = unix_check,
	.check_end = unix_check_end,
	.collect = unix_collect,
	.dump = unix_dump,
	.read = unix_read,
	.restore = unix_restore,
	.settle = unix_settle,
};
