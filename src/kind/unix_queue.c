/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading what waits in unix sockets: bytes of streams, messages with their boundaries, who sent them
 * (SO_PASSCRED), the name of the sending socket, and descriptors (SCM_RIGHTS), which become files of the image
 * also when nobody else holds them any more. Everything is peeked, so nothing is consumed.
 *
 * A peek of a stream ends behind the bytes that were sent with descriptors, and may begin with bytes sent before
 * them. Where their message begins shows in a second peek whose buffer ends one byte too early, in memory that
 * cannot be written: the kernel copies message by message and gives up the one that does not fit.
 *
 * Kernel interface: unix(7), recvmsg(2) MSG_PEEK, SO_PEEK_OFF (3.4), SIOCINQ.
 * Does not handle: out-of-band data, credentials where the receiver has no SO_PASSCRED (the kernel tells them to
 * nobody); empty datagrams behind others that were peeked at before, which no peek finds again.
 */
#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/warden.h"
#include "image/file.h"
#include "kind/fdcommon.h"
#include "kind/sockopt.h"
#include "kind/unix_snap.h"
#include "model/record.h"

enum {
	UNIX_QUEUE_MAX = 1 << 30,  /* bytes */
	UNIX_ROOM_BYTES = 1 << 16, /* to begin with */
	UNIX_CONTROL_BYTES = 8192, /* 253 descriptors, credentials, a label */
	UNIX_RIGHTS_MAX = 253,
	UNIX_SCM_PIDFD = 4, /* Linux 6.5: comes by itself where SO_PASSPIDFD is set */
};

/* What one peek brought. */
struct unix_peek {
	size_t n; /* bytes; of a message that was cut: its true length */
	bool cut;
	struct ucred sender;
	struct sockaddr_un from;
	size_t from_bytes;
	int fds[UNIX_RIGHTS_MAX];
	size_t n_fds;
};

static void unix_close_all(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

/* --------------------------------------------------------------------- peeking */

static void unix_peek_control(struct msghdr *m, struct unix_peek *p)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n = h->cmsg_len - CMSG_LEN(0);
		if (h->cmsg_level != SOL_SOCKET)
			continue;
		if (h->cmsg_type == SCM_CREDENTIALS && n == sizeof(p->sender))
			memcpy(&p->sender, CMSG_DATA(h), sizeof(p->sender));
		for (size_t i = 0; h->cmsg_type == UNIX_SCM_PIDFD && i < n / sizeof(int); i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
			close(fd);
		}
		if (h->cmsg_type != SCM_RIGHTS)
			continue;
		p->n_fds = MIN(n / sizeof(int), (size_t)UNIX_RIGHTS_MAX);
		memcpy(p->fds, CMSG_DATA(h), p->n_fds * sizeof(int));
	}
}

/* at: where to begin; -1 = at the start, the socket peeks without an offset. -EAGAIN: nothing is there. */
static int unix_peek(int fd, int at, uint8_t *bytes, size_t room, struct unix_peek *ret)
{
	char control[UNIX_CONTROL_BYTES] __attribute__((aligned(8)));
	struct iovec iov = {.iov_base = bytes, .iov_len = room};
	struct unix_peek p = {.n = 0};
	struct msghdr m = {.msg_name = &p.from,
			   .msg_namelen = sizeof(p.from),
			   .msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};
	int r = at < 0 ? 0 : sock_set(fd, SOL_SOCKET, SO_PEEK_OFF, at);
	if (r < 0)
		return r;
	ssize_t got = recvmsg(fd, &m, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (got < 0)
		return -errno;
	p.n = (size_t)got;
	p.cut = m.msg_flags & MSG_TRUNC;
	unix_peek_control(&m, &p);
	if (m.msg_namelen > offsetof(struct sockaddr_un, sun_path))
		p.from_bytes =
			MIN(m.msg_namelen - offsetof(struct sockaddr_un, sun_path), (size_t)UNIX_NAME_BYTES);
	if (m.msg_flags & MSG_CTRUNC) {
		unix_close_all(p.fds, p.n_fds);
		return -EMFILE;
	}
	*ret = p;
	return 0;
}

static int unix_queue_add(struct arena *a, struct unix_message ***tail, const struct unix_peek *p,
			  const uint8_t *bytes, size_t n, bool with_fds)
{
	struct unix_message *m = arena_new(a, struct unix_message);
	if (!m || !(m->bytes = arena_alloc(a, n + 1)))
		return -ENOMEM;
	memcpy(m->bytes, bytes, n);
	m->n = n;
	m->sender = p->sender;
	m->from_bytes = p->from_bytes;
	memcpy(m->from, p->from.sun_path, p->from_bytes);
	if (with_fds && p->n_fds) {
		m->fds = arena_copy(a, p->fds, p->n_fds * sizeof(int));
		if (!m->fds)
			return -ENOMEM;
		m->n_fds = p->n_fds;
	}
	**tail = m;
	*tail = &m->next;
	return 0;
}

/* --------------------------------------------------------------------- streams */

/* A peek of n bytes from at on brings descriptors: how many of the bytes were sent before those they came with. */
static int unix_rights_start(int fd, int at, size_t n, size_t *ret_before)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), room = align_up(n, page);
	struct unix_peek p = {.n = 0};
	uint8_t *bytes = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (bytes == MAP_FAILED)
		return -errno;
	int r = mprotect(bytes + room, page, PROT_NONE) < 0 ? -errno : 0;
	if (r >= 0)
		r = unix_peek(fd, at, bytes + room - (n - 1), n, &p);
	unix_close_all(p.fds, p.n_fds);
	munmap(bytes, room + page);
	if (r < 0 && r != -EFAULT)
		return r;
	*ret_before = r < 0 ? 0 : p.n;
	return r >= 0 && p.n >= n ? -EIO : 0;
}

static int unix_stream_run(struct arena *a, int fd, size_t at, const uint8_t *bytes,
			   const struct unix_peek *p, struct unix_message ***tail)
{
	size_t before = 0;
	int r = p->n_fds ? unix_rights_start(fd, (int)at, p->n, &before) : 0;
	if (r >= 0 && before)
		r = unix_queue_add(a, tail, p, bytes, before, false);
	if (r >= 0)
		r = unix_queue_add(a, tail, p, bytes + before, p->n - before, true);
	if (r < 0)
		unix_close_all(p->fds, p->n_fds);
	return r;
}

/* A peek ends where the sender changes and behind descriptors; an offset leads on. */
static int unix_stream_runs(struct arena *a, int fd, uint8_t *bytes, size_t n, struct unix_message ***tail)
{
	for (size_t at = 0; at < n;) {
		struct unix_peek p;
		int r = unix_peek(fd, (int)at, bytes, n - at, &p);
		if (r >= 0 && !p.n)
			r = -ENODATA;
		if (r >= 0)
			r = unix_stream_run(a, fd, at, bytes, &p, tail);
		if (r < 0)
			return r;
		at += p.n;
	}
	return 0;
}

/* -------------------------------------------------------------------- messages */

/* Messages one after the other. wanted: bytes of all of them, -1 = not known. */
static int unix_messages(struct arena *a, int fd, ssize_t wanted, struct unix_message ***tail)
{
	size_t at = 0, room = UNIX_ROOM_BYTES;
	_cleanup_free_ uint8_t *bytes = malloc(room);
	while (bytes) {
		struct unix_peek p;
		int r = unix_peek(fd, (int)at, bytes, room, &p);
		if (r < 0)
			return r == -EAGAIN ? 0 : r;
		if (p.cut && p.n > room) {
			unix_close_all(p.fds, p.n_fds);
			room = p.n;
			free(bytes);
			bytes = room > UNIX_QUEUE_MAX ? NULL : malloc(room);
			continue;
		}
		/* The end of a connection looks like an empty message, but it has nothing behind it. */
		if (!p.n && wanted >= 0 && at >= (size_t)wanted)
			return 0;
		r = unix_queue_add(a, tail, &p, bytes, p.n, true);
		if (r < 0) {
			unix_close_all(p.fds, p.n_fds);
			return r;
		}
		at += p.n;
		if (at > UNIX_QUEUE_MAX)
			return -EFBIG;
	}
	return -ENOMEM;
}

/* ----------------------------------------------------------------------- a queue */

/* The peek offset is the owner's option, so it is put back. */
static int unix_queue_walk(struct collect *c, int fd, unsigned type, size_t n, int peek_off,
			   struct unix_message ***tail)
{
	_cleanup_free_ uint8_t *bytes = type == SOCK_STREAM ? malloc(n + 1) : NULL;
	if (type == SOCK_STREAM && !bytes)
		return -ENOMEM;
	int entry = warden_arm(c->warden, WARDEN_PEEK_OFF, fd, (uint64_t)(int64_t)peek_off, NULL, 0);
	if (entry < 0)
		return entry;
	fault_effect(c->fault, "dump", "unix: SO_PEEK_OFF on");
	int r = type == SOCK_STREAM
			? unix_stream_runs(&c->snap->arena, fd, bytes, n, tail)
			: unix_messages(&c->snap->arena, fd, type == SOCK_SEQPACKET ? (ssize_t)n : -1, tail);
	fault_effect(c->fault, "dump", "unix: SO_PEEK_OFF off");
	int back = sock_set(fd, SOL_SOCKET, SO_PEEK_OFF, peek_off);
	if (back >= 0)
		warden_disarm(c->warden, entry);
	return r < 0 ? r : back;
}

/* Most streams are read by one plain peek. 0 = this is not one of them. */
static int unix_queue_plain(struct collect *c, int fd, size_t n, struct unix_message ***tail)
{
	struct unix_peek p;
	_cleanup_free_ uint8_t *bytes = malloc(n);
	int r = bytes ? unix_peek(fd, -1, bytes, n, &p) : -ENOMEM;
	if (r < 0)
		return r;
	unix_close_all(p.fds, p.n_fds);
	if (p.n_fds || p.n != n)
		return 0;
	r = unix_queue_add(&c->snap->arena, tail, &p, bytes, n, false);
	return r < 0 ? r : 1;
}

static int unix_queue_failed(const struct snap_file *file, int code, struct ferry_error *err)
{
	if (code == ENOMEM)
		return error_memory(err);
	return error_errno(err, FERRY_ERROR_SYSTEM, code,
			   "fd %d of pid %d: reading the queue of a unix socket", file->fd, file->pid);
}

/* What there is of out-of-band data would hide behind other bytes; an empty queue has none. */
static int unix_queue_refuse(const struct snap_file *file, size_t n, struct ferry_error *err)
{
	char byte;
	bool message = file->entry->usk->type != SOCK_STREAM;
	struct pollfd p = {.fd = file->copy};
	const char *what = NULL;
	if (!message && recv(file->copy, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) > 0)
		what = "out-of-band data waits in a unix socket";
	/* Reading would report the error instead, once. */
	if (message && n && poll(&p, 1, 0) > 0 && p.revents & POLLERR)
		what = "messages wait behind an error in a unix socket";
	if (!what)
		return 0;
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "fd %d of pid %d: %s", file->fd, file->pid, what);
	error_hint(err, "try again when the program has read it");
	return -ENOTSUP;
}

int unix_queue_read(struct collect *c, struct snap_file *file, struct ferry_error *err)
{
	struct unix_snap *data = file->data;
	struct unix_message **tail = &data->queue;
	unsigned type = file->entry->usk->type;
	int n = 0, peek_off = -1, fd = file->copy, r = 0;
	if (ioctl(fd, SIOCINQ, &n) < 0)
		return unix_queue_failed(file, errno, err);
	if (n > UNIX_QUEUE_MAX)
		return unix_queue_failed(file, EFBIG, err);
	if (type == SOCK_STREAM && n <= 0)
		return 0;
	r = unix_queue_refuse(file, (size_t)n, err);
	if (r < 0)
		return r;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (type != SOCK_STREAM && (poll(&p, 1, 0) <= 0 || p.revents & POLLERR))
		return 0;
	r = sock_get(fd, SOL_SOCKET, SO_PEEK_OFF, &peek_off);
	if (r >= 0 && type == SOCK_STREAM && peek_off < 0)
		r = unix_queue_plain(c, fd, (size_t)n, &tail);
	if (r == 0)
		r = unix_queue_walk(c, fd, type, (size_t)n, peek_off, &tail);
	return r < 0 ? unix_queue_failed(file, -r, err) : 0;
}

/* ------------------------------------------------------------------- descriptors */

static int unix_message_describe(struct collect *c, struct unix_message *m, struct ferry_error *err)
{
	m->rights = arena_array(&c->snap->arena, uint32_t, m->n_fds + 1);
	int r = m->rights ? 0 : error_memory(err);
	for (size_t i = 0; i < m->n_fds; i++) {
		uint32_t index;
		if (r < 0) {
			close(m->fds[i]);
			continue;
		}
		r = c->describe(c, m->fds[i], &index, err);
		if (r >= 0)
			m->rights[m->n_rights++] = c->snap->files.v[index].entry->id;
	}
	m->n_fds = 0;
	return r;
}

int unix_queue_describe(struct collect *c, size_t index, struct ferry_error *err)
{
	const struct snap_file *file = &c->snap->files.v[index];
	const struct unix_snap *data = file->data;
	int fd = file->fd, first = 0;
	pid_t pid = file->pid;
	for (struct unix_message *m = data->queue; m; m = m->next) {
		struct ferry_error inner = FERRY_ERROR_INIT;
		int r = unix_message_describe(c, m, &inner);
		if (r < 0 && !first) {
			first = r;
			error_set(err, inner.id, -r,
				  "fd %d of pid %d: a descriptor waits in the queue of a unix socket: %s", fd,
				  pid, inner.message);
			error_hint(err, "%s",
				   inner.hint[0] ? inner.hint : "try again when the program has received it");
		}
	}
	return first;
}

/* -------------------------------------------------------------------------- dump */

/* Who sent what, for the socket's own record. */
static int unix_runs(struct snapshot *s, const struct unix_snap *data, unsigned type)
{
	struct arena *a = &s->arena;
	size_t n = 0;
	bool says = false;
	for (const struct unix_message *m = data->queue; m; m = m->next, n++)
		says |= m->sender.pid || m->from_bytes;
	if (!says)
		return 0;
	data->extra->runs = arena_array(a, FerrySocketRun *, n);
	if (!data->extra->runs)
		return -ENOMEM;
	for (const struct unix_message *m = data->queue; m; m = m->next) {
		FerrySocketRun *run = record_new(a, FerrySocketRun, ferry_socket_run);
		if (!run)
			return -ENOMEM;
		run->length = (uint32_t)m->n;
		if (m->sender.pid && !(run->sender = unix_creds(s, &m->sender)))
			return -ENOMEM;
		run->has_from = type == SOCK_DGRAM;
		if (run->has_from)
			run->from = record_bytes(a, m->from, m->from_bytes);
		if (run->has_from && run->from.len && !run->from.data)
			return -ENOMEM;
		data->extra->runs[data->extra->n_runs++] = run;
	}
	return 0;
}

static int unix_message_dump(struct image_writer *w, const struct unix_message *m, uint32_t id,
			     struct ferry_error *err)
{
	SkPacketEntry packet = SK_PACKET_ENTRY__INIT;
	ScmEntry scm = SCM_ENTRY__INIT, *scms[] = {&scm};
	packet.id_for = id;
	packet.length = (uint32_t)m->n;
	if (m->n_rights) {
		scm.type = SCM_RIGHTS;
		scm.rights = m->rights;
		scm.n_rights = m->n_rights;
		packet.scm = scms;
		packet.n_scm = 1;
	}
	int r = image_put(w, &packet.base, err);
	return r < 0 || !m->n ? r : image_put_raw(w, m->bytes, m->n, err);
}

int unix_queue_dump(struct dump *d, const struct snap_file *file, struct ferry_error *err)
{
	const struct unix_snap *data = file->data;
	struct image_writer *w;
	if (!data->queue)
		return 0;
	int r = fdcommon_writer(d, IMAGE_SK_QUEUES, &w, err);
	if (r >= 0 && unix_runs(d->snap, data, file->entry->usk->type) < 0)
		r = error_memory(err);
	for (const struct unix_message *m = data->queue; m && r >= 0; m = m->next)
		r = unix_message_dump(w, m, file->entry->id, err);
	return r;
}
