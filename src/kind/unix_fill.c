/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what comes after all unix sockets of an image were made, and all files that may wait in their queues:
 * options, because some of them mark what is sent next; the queues, each message from a socket of the name that
 * sent it; connections of datagram sockets, since a connected one takes nothing from others any more; what ends a
 * direction; files that were renamed.
 *
 * Kernel interface: unix(7).
 */
#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/warden.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/sockextra.h"
#include "kind/sockopt.h"
#include "kind/unix_make.h"

enum { UNIX_FILL_RIGHTS_MAX = 253 };

/* A socket of the image that stands. */
static bool unix_stands(const struct plan_file *file)
{
	return file->kind == &kind_unixsk && file->fd >= 0;
}

static bool unix_is_dgram(const struct plan_file *file)
{
	return file->entry->usk->type == SOCK_DGRAM;
}

static int unix_apply(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	const struct sock_type type = {.domain = AF_UNIX, .type = (int)usk->type};
	int r = sockopt_apply(file->fd, usk->opts, err);
	return r < 0 ? r : sockextra_apply(o, file->fd, &type, unix_extra_of(file), false, err);
}

/* --------------------------------------------------------------------- sending */

/* What one message is sent with. to: NULL = to whom the sending socket is connected. */
struct unix_letter {
	const struct plan_file *to;
	const uint8_t *bytes;
	size_t n;
	const FerrySocketCreds *sender;
	const struct unix_packet *packet; /* whose descriptors ride along; NULL = none */
};

static size_t unix_letter_control(const struct unix_letter *l, bool with_sender, struct msghdr *m)
{
	size_t used = 0;
	struct cmsghdr *h = CMSG_FIRSTHDR(m);
	if (with_sender) {
		const struct ucred creds = {
			.pid = (pid_t)l->sender->pid, .uid = l->sender->uid, .gid = l->sender->gid};
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_CREDENTIALS;
		h->cmsg_len = CMSG_LEN(sizeof(creds));
		memcpy(CMSG_DATA(h), &creds, sizeof(creds));
		used += CMSG_SPACE(sizeof(creds));
		h = (struct cmsghdr *)((char *)m->msg_control + used);
	}
	size_t n = l->packet ? MIN(l->packet->n_rights, (size_t)UNIX_FILL_RIGHTS_MAX) : 0;
	if (n) {
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(n * sizeof(int));
		for (size_t i = 0; i < n; i++)
			memcpy(CMSG_DATA(h) + i * sizeof(int), &l->packet->rights[i]->fd, sizeof(int));
		used += CMSG_SPACE(n * sizeof(int));
	}
	return used;
}

/* As the process that sent it, where that is known and still there. */
static int unix_letter_send(int from, const struct unix_letter *l, bool with_sender)
{
	char control[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(UNIX_FILL_RIGHTS_MAX * sizeof(int))]
		__attribute__((aligned(8))) = {0};
	struct sockaddr_un address;
	struct iovec iov = {.iov_base = (void *)(uintptr_t)l->bytes, .iov_len = l->n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	m.msg_control = control;
	m.msg_controllen = sizeof(control);
	m.msg_controllen = unix_letter_control(l, with_sender, &m);
	if (l->to) {
		m.msg_namelen = unix_address(l->to->entry->usk, &address);
		m.msg_name = &address;
	}
	ssize_t sent = sendmsg(from, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && errno == ESRCH && with_sender)
		return unix_letter_send(from, l, false);
	return sent < 0 ? -errno : (int)sent;
}

/* Where the receiver's name leads to it. */
static int unix_letter_post(int from, const struct unix_letter *l)
{
	struct unix_place place;
	if (!l->to)
		return unix_letter_send(from, l, l->sender != NULL);
	int r = unix_enter(&place, unix_plan_of(l->to)->jail, unix_dir(l->to->entry->usk));
	if (r >= 0)
		r = unix_letter_send(from, l, l->sender != NULL);
	int back = unix_leave(&place);
	return r < 0 ? r : back < 0 ? back : r;
}

/* Room for so many bytes more than wait already on their way from there. */
static int unix_make_room(int from, size_t bytes, struct ferry_error *err)
{
	int waiting = 0;
	if (ioctl(from, SIOCOUTQ, &waiting) < 0 || waiting < 0)
		waiting = 0;
	return sockopt_make_room(from, bytes + (size_t)waiting, err);
}

/* ------------------------------------------------------------ streams and messages */

/* Runs say who sent what, over all packets; what they leave over was sent by anyone. */
struct unix_cursor {
	const FerrySocketEntry *extra;
	size_t run;
	size_t left; /* of that run */
};

static size_t unix_cursor_next(struct unix_cursor *c, size_t n, const FerrySocketCreds **ret_sender)
{
	while (c->extra && !c->left && c->run < c->extra->n_runs && !c->extra->runs[c->run]->length)
		c->run++;
	const FerrySocketRun *run = c->extra && c->run < c->extra->n_runs ? c->extra->runs[c->run] : NULL;
	*ret_sender = run ? run->sender : NULL;
	if (!run)
		return n;
	if (!c->left)
		c->left = run->length;
	size_t take = MIN(n, c->left);
	c->left -= take;
	if (!c->left)
		c->run++;
	return take;
}

/* A packet of a stream; its descriptors come with its first byte. */
static int unix_fill_stream_packet(int from, const struct unix_packet *p, struct unix_cursor *cursor)
{
	struct unix_letter l = {.packet = p};
	for (size_t at = 0; at < p->n;) {
		size_t left = unix_cursor_next(cursor, p->n - at, &l.sender);
		while (left) {
			l.bytes = p->bytes + at;
			l.n = left;
			int sent = unix_letter_post(from, &l);
			if (sent < 0)
				return sent;
			l.packet = NULL;
			at += (size_t)sent;
			left -= (size_t)sent;
		}
	}
	return 0;
}

/* A stream one of whose bytes is out-of-band; nothing else came with them. */
static int unix_fill_oob(int from, const struct unix_packet *first, size_t oob_at)
{
	size_t base = 0;
	for (const struct unix_packet *p = first; p; base += p->n, p = p->next) {
		for (size_t at = 0; at < p->n;) {
			size_t here = base + at, left = p->n - at;
			bool oob = here == oob_at;
			size_t n = oob ? 1 : here < oob_at ? MIN(left, oob_at - here) : left;
			ssize_t sent = send(from, p->bytes + at, n,
					    MSG_DONTWAIT | MSG_NOSIGNAL | (oob ? MSG_OOB : 0));
			if (sent < 0)
				return -errno;
			at += (size_t)sent;
		}
	}
	return 0;
}

static const FerrySocketRun *unix_run_of(const struct plan_file *file, size_t index)
{
	const FerrySocketEntry *extra = unix_extra_of(file);
	return extra && index < extra->n_runs ? extra->runs[index] : NULL;
}

static int unix_fill_connection(struct opener *o, struct plan_file *to, struct ferry_error *err)
{
	const UnixSkEntry *usk = to->entry->usk;
	const struct plan_file *peer = usk->peer ? unix_by_inode(o->plan, usk->peer) : NULL;
	int from = peer && peer->entry->usk->state == UNIX_CONNECTED ? peer->fd : unix_plan_of(to)->other;
	struct unix_cursor cursor = {.extra = unix_extra_of(to)};
	size_t total = 0, index = 0;
	for (const struct unix_packet *p = unix_plan_of(to)->packets; p; p = p->next)
		total += p->n;
	if (!unix_plan_of(to)->packets)
		return 0;
	int r = unix_make_room(from, total, err);
	if (r < 0)
		return r;
	if (usk->type == SOCK_STREAM && cursor.extra && cursor.extra->has_oob_at) {
		r = unix_fill_oob(from, unix_plan_of(to)->packets, cursor.extra->oob_at);
		return r < 0 ? unix_failed(to, -r, "filling the queue of", err) : 0;
	}
	for (const struct unix_packet *p = unix_plan_of(to)->packets; p && r >= 0; p = p->next, index++) {
		const FerrySocketRun *run = unix_run_of(to, index);
		const struct unix_letter l = {
			.packet = p, .bytes = p->bytes, .n = p->n, .sender = run ? run->sender : NULL};
		r = usk->type == SOCK_STREAM ? unix_fill_stream_packet(from, p, &cursor)
					     : unix_letter_post(from, &l);
	}
	return r < 0 ? unix_failed(to, -r, "filling the queue of", err) : 0;
}

/* --------------------------------------------------------------------- datagrams */

/* Give a socket of our own the name that another had, in a place that only we see. */
static int unix_bind_like(struct opener *o, int fd, const uint8_t *name, size_t n, int *ret_jail,
			  struct ferry_error *err)
{
	UnixSkEntry usk = UNIX_SK_ENTRY__INIT;
	FileEntry entry = FILE_ENTRY__INIT;
	const struct plan_file file = {.entry = &entry};
	*ret_jail = -1;
	if (!n)
		return 0;
	usk.type = SOCK_DGRAM;
	usk.name = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)name, .len = n};
	entry.usk = &usk;
	return unix_bind(o, fd, &file, name[0] != '\0', ret_jail, err);
}

static bool unix_has_name(const struct plan_file *file, const uint8_t *name, size_t n)
{
	const UnixSkEntry *usk = file->entry->usk;
	return unix_is_dgram(file) && usk->name.len == n && !memcmp(usk->name.data, name, n);
}

/* A datagram socket of the image with the sender's name, or a new one, *ret_made. */
static int unix_sender(struct opener *o, const FerrySocketRun *run, int *ret_made, struct ferry_error *err)
{
	const uint8_t *name = run && run->has_from ? run->from.data : NULL;
	size_t n = run && run->has_from ? run->from.len : 0;
	if (n > UNIX_NAME_BYTES)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-socket.img: the name of a sender has %zu bytes", n);
	for (size_t i = 0; n && i < o->plan->n_files; i++)
		if (unix_stands(&o->plan->files[i]) && unix_has_name(&o->plan->files[i], name, n))
			return o->plan->files[i].fd;
	_cleanup_close_ int fd = unix_new(SOCK_DGRAM), jail = -1;
	int r = fd < 0 ? unix_failed(NULL, -fd, "making", err) : unix_bind_like(o, fd, name, n, &jail, err);
	if (r < 0)
		return r;
	return *ret_made = take_fd(fd);
}

/* An external peer is in the file system as it is. */
static int unix_connect_dgram(struct opener *o, struct plan_file *file, const struct plan_file *peer,
			      struct ferry_error *err)
{
	struct sockaddr_un address;
	struct unix_place place;
	socklen_t n = unix_address(peer->entry->usk, &address);
	bool outside = peer->entry->usk->uflags & UNIX_EXTERNAL;
	int r = unix_enter(&place, outside ? -1 : unix_plan_of(peer)->jail, unix_dir(peer->entry->usk));
	if (r >= 0 && connect(file->fd, (const struct sockaddr *)&address, n) < 0)
		r = -errno;
	int back = unix_leave(&place);
	unix_plan_of(file)->connected = true;
	if (r >= 0 && back >= 0)
		return 0;
	r = unix_failed(peer, r < 0 ? -r : -back, "connecting to", err);
	if (outside)
		error_hint(err, "it is outside of the image: somebody has to listen there");
	log_write(o->log, LOG_DEBUG, "restore", "unix", 0, "file id %u could not be connected",
		  file->entry->id);
	return r;
}

static int unix_fill_dgram(struct opener *o, struct plan_file *to, const struct unix_packet *p, size_t index,
			   struct ferry_error *err)
{
	const FerrySocketRun *run = unix_run_of(to, index);
	struct plan_file *peer = to->entry->usk->peer ? unix_by_inode(o->plan, to->entry->usk->peer) : NULL;
	const struct unix_plan *plan = unix_plan_of(to);
	struct unix_letter l = {
		.packet = p, .bytes = p->bytes, .n = p->n, .sender = run ? run->sender : NULL};
	_cleanup_close_ int made = -1;
	int from;
	bool told = run && run->has_from, mutual = peer && peer->entry->usk->peer == to->entry->usk->ino;
	if (plan->paired) {
		from = peer ? peer->fd : plan->other;
	} else if (mutual && !told && to->entry->usk->name.len) {
		l.to = to;
		from = peer->fd;
	} else if (!to->entry->usk->name.len) {
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "datagrams wait in file id %u, which nobody could have sent to",
				 to->entry->id);
	} else {
		l.to = to;
		from = unix_sender(o, run, &made, err);
	}
	int r = from < 0 ? from : unix_make_room(from, p->n, err);
	if (r < 0)
		return r;
	r = unix_letter_post(from, &l);
	/* Its queue is full for others, but not for the one that it is connected to. */
	if (r == -EAGAIN && peer && !plan->connected) {
		r = unix_connect_dgram(o, to, peer, err);
		if (r < 0)
			return r;
		r = unix_letter_post(from, &l);
	}
	return r < 0 ? unix_failed(to, -r, "filling the queue of", err) : 0;
}

static int unix_fill(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	size_t index = 0;
	if (!unix_is_dgram(file))
		return unix_fill_connection(o, file, err);
	for (const struct unix_packet *p = unix_plan_of(file)->packets; p; p = p->next) {
		int r = unix_fill_dgram(o, file, p, index++, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Somebody else still has to connect to it, which works as long as it is connected to nobody else. */
static bool unix_is_wanted(const struct plan *p, const struct plan_file *file)
{
	const UnixSkEntry *usk = file->entry->usk;
	for (size_t i = 0; i < p->n_files; i++) {
		const struct plan_file *other = &p->files[i];
		if (other != file && unix_stands(other) && unix_is_dgram(other) &&
		    other->entry->usk->peer == usk->ino && other->entry->usk->ino != usk->peer &&
		    !unix_plan_of(other)->connected)
			return true;
	}
	return false;
}

/* It was connected to a socket that is closed. */
static int unix_connect_gone(struct opener *o, struct plan_file *file, const FerrySocketEntry *extra,
			     struct ferry_error *err)
{
	UnixSkEntry usk = UNIX_SK_ENTRY__INIT;
	FileEntry entry = FILE_ENTRY__INIT;
	struct plan_file gone = {.entry = &entry};
	struct sockaddr_un address;
	struct unix_place place;
	_cleanup_close_ int fd = unix_new(SOCK_DGRAM), jail = -1;
	if (extra->gone_peer.len > UNIX_NAME_BYTES)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-socket.img: the name of a peer has %zu bytes", extra->gone_peer.len);
	usk.name = extra->gone_peer;
	entry.usk = &usk;
	int r = fd < 0 ? unix_failed(file, -fd, "making the peer of", err)
		       : unix_bind_like(o, fd, usk.name.data, usk.name.len, &jail, err);
	if (r < 0)
		return r;
	socklen_t n = unix_address(&usk, &address);
	r = unix_enter(&place, jail, "");
	if (r >= 0 && connect(file->fd, (const struct sockaddr *)&address, n) < 0)
		r = -errno;
	int back = unix_leave(&place);
	unix_plan_of(file)->connected = true;
	return r < 0 || back < 0 ? unix_failed(&gone, r < 0 ? -r : -back, "connecting to", err) : 0;
}

static int unix_connect_one(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	const FerrySocketEntry *extra = unix_extra_of(file);
	const struct plan_file *peer =
		file->entry->usk->peer ? unix_by_inode(o->plan, file->entry->usk->peer) : NULL;
	if (peer)
		return unix_connect_dgram(o, file, peer, err);
	if (extra && extra->has_gone_peer && extra->gone_peer.len)
		return unix_connect_gone(o, file, extra, err);
	unix_plan_of(file)->connected = true;
	return 0;
}

/* Senders before their receivers, which may be connected to somebody else. */
static int unix_connect_all(struct opener *o, struct ferry_error *err)
{
	for (bool more = true; more;) {
		more = false;
		for (size_t i = 0; i < o->plan->n_files; i++) {
			struct plan_file *file = &o->plan->files[i];
			if (!unix_stands(file) || !unix_is_dgram(file) || unix_plan_of(file)->connected ||
			    unix_is_wanted(o->plan, file))
				continue;
			int r = unix_connect_one(o, file, err);
			if (r < 0)
				return r;
			more = true;
		}
	}
	return 0;
}

/* ----------------------------------------------------------------------- the end */

/* The other end is gone: let ours see that, and the error when it went away with unread bytes. */
static int unix_drop_other(struct plan_file *file, struct ferry_error *err)
{
	const FerrySocketEntry *extra = unix_extra_of(file);
	if (extra && extra->has_error && send(file->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return unix_failed(file, errno, "writing to", err);
	close(take_fd(unix_plan_of(file)->other));
	return 0;
}

/* A file that the dumped program left behind is in the way, what anybody else put there is not touched. */
static int unix_move(struct opener *o, const struct plan_file *file, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	const FerrySocketEntry *extra = unix_extra_of(file);
	char from[UNIX_NAME_BYTES + 1], to[PATH_MAX];
	struct unix_place place;
	struct stat st;
	if (!extra || !extra->has_moved_to)
		return 0;
	snprintf(from, sizeof(from), "%.*s", (int)usk->name.len, (const char *)usk->name.data);
	if (extra->moved_to.len >= sizeof(to) || !extra->moved_to.len || extra->moved_to.data[0] != '/')
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-socket.img: file id %u was moved to no path", file->entry->id);
	snprintf(to, sizeof(to), "%.*s", (int)extra->moved_to.len, (const char *)extra->moved_to.data);
	int r = unix_enter(&place, -1, unix_dir(usk));
	if (r >= 0 && !lstat(to, &st) && !S_ISSOCK(st.st_mode))
		r = -EEXIST;
	struct unix_made *made = &unix_plan_of(file)->made, moved = {0};
	if (r >= 0)
		r = unix_announce(o, to, &moved);
	if (r >= 0 && rename(from, to) < 0)
		r = -errno;
	if (r >= 0) {
		if (made->entry >= 0)
			warden_disarm(o->warden, made->entry);
		*made = moved;
	}
	int back = unix_leave(&place);
	return r < 0 || back < 0 ? unix_failed(file, r < 0 ? -r : -back, "renaming", err) : 0;
}

/* What nothing but the program itself may come after. */
static int unix_seal(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	static const int how[] = {[SK_SHUTDOWN__READ] = SHUT_RD,
				  [SK_SHUTDOWN__WRITE] = SHUT_WR,
				  [SK_SHUTDOWN__BOTH] = SHUT_RDWR};
	const UnixSkEntry *usk = file->entry->usk;
	bool shut = (usk->state == UNIX_CONNECTED || usk->type == SOCK_DGRAM) && usk->has_shutdown &&
		    usk->shutdown > SK_SHUTDOWN__NONE && (size_t)usk->shutdown < ARRAY_SIZE(how);
	/* Room for the bytes was made with another buffer size. */
	int r = sockopt_apply(file->fd, usk->opts, err);
	if (r >= 0 && unix_plan_of(file)->other >= 0)
		r = unix_drop_other(file, err);
	if (r >= 0 && shut && shutdown(file->fd, how[usk->shutdown]) < 0)
		r = unix_failed(file, errno, "shutting down", err);
	if (r >= 0)
		r = unix_move(o, file, err);
	if (r >= 0)
		r = sockopt_apply_filter(file->fd, usk->opts, err);
	return r < 0 ? r : fdcommon_set_flags(file->fd, usk->flags, err);
}

/* What the tasks set for their files (owners of signals) is set here for one that only waits in a queue. */
static int unix_settle_waiting(struct opener *o, struct ferry_error *err)
{
	struct settle s = {.plan = o->plan, .task = o->plan->tasks, .log = o->log};
	for (size_t i = 0; i < o->plan->n_files; i++) {
		struct plan_file *file = &o->plan->files[i];
		const struct kind_ops *kind = file->kind;
		bool simple = kind == &kind_unixsk || kind == &kind_inetsk || kind == &kind_netlinksk ||
			      kind == &kind_packetsk || kind == &kind_pipe || kind == &kind_eventfd;
		if (!simple || file->owner || file->fd < 0 || !kind->settle || !o->plan->n_tasks)
			continue;
		int r = kind->settle(&s, file, file->fd, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The kernel wants to be told senders by the numbers of our PID namespace. */
static void unix_translate_senders(struct opener *o)
{
	for (size_t i = 0; i < o->plan->n_files; i++) {
		struct plan_file *file = &o->plan->files[i];
		const FerrySocketEntry *extra = file->kind == &kind_unixsk ? unix_extra_of(file) : NULL;
		for (size_t n = 0; extra && n < extra->n_runs; n++) {
			FerrySocketCreds *sender = extra->runs[n]->sender;
			const struct plan_task *t = sender ? plan_task(o->plan, (pid_t)sender->pid) : NULL;
			if (t)
				sender->pid = (uint32_t)o->pid_of(o, t);
		}
	}
}

int unix_opened(struct opener *o, struct ferry_error *err)
{
	unix_translate_senders(o);
	struct plan *p = o->plan;
	int r = 0;
	for (size_t i = 0; i < p->n_files && r >= 0; i++)
		r = unix_stands(&p->files[i]) ? unix_apply(o, &p->files[i], err) : 0;
	for (size_t i = 0; i < p->n_files && r >= 0; i++)
		r = unix_stands(&p->files[i]) ? unix_fill(o, &p->files[i], err) : 0;
	if (r >= 0)
		r = unix_connect_all(o, err);
	for (size_t i = 0; i < p->n_files && r >= 0; i++)
		r = unix_stands(&p->files[i]) ? unix_seal(o, &p->files[i], err) : 0;
	return r < 0 ? r : unix_settle_waiting(o, err);
}
