/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns bringing unix stream sockets back. Two ends without names are a pair. Where an end has a name it was
 * accepted, so it comes through a listener again: the listener of the image when there is one (which brings
 * its connections with it, so that nobody outside gets in between), else one of our own.
 *
 * Kernel interface: unix(7). Does not handle: the name of a peer that was gone when the dump was taken.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/dir.h"
#include "image/file.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/sockextra.h"
#include "kind/sockopt.h"
#include "kind/unix_make.h"

enum { UNIX_ACCEPT_ATTEMPTS = 1000 };

/* Bytes that wait, in the order of the image. */
struct unix_packet {
	struct unix_packet *next;
	uint8_t *bytes;
	size_t n;
};

/* sock_plan.kind */
struct unix_plan {
	struct unix_packet *packets;
	struct unix_packet **tail;
};

/* plan.kind_data */
struct unix_index {
	struct plan_file **by_inode;
	size_t n;
	struct plan_file **listeners;
	size_t n_listeners;
};

static struct unix_plan *unix_plan_of(const struct plan_file *file)
{
	return ((struct sock_plan *)file->data)->kind;
}

static const FerrySocketEntry *unix_extra_of(const struct plan_file *file)
{
	return ((struct sock_plan *)file->data)->extra;
}

/* --------------------------------------------------------------------- read */

static int unix_compare_files(const void *a, const void *b)
{
	const struct plan_file *const *x = a, *const *y = b;
	uint32_t i = (*x)->entry->usk->ino, k = (*y)->entry->usk->ino;
	return i < k ? -1 : i > k;
}

static struct plan_file *unix_by_inode(const struct plan *p, uint32_t inode)
{
	const struct unix_index *index = p->kind_data[KIND_unixsk];
	size_t low = 0, high = index->n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		uint32_t at = index->by_inode[middle]->entry->usk->ino;
		if (at == inode)
			return index->by_inode[middle];
		if (at < inode)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static int unix_bad(const struct plan_file *file, struct ferry_error *err, const char *what)
{
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "the unix socket of file id %u %s",
			 file->entry->id, what);
}

static int unix_read_check(const struct plan_file *file, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	if (!usk)
		return fdcommon_no_record(file, err);
	if (usk->name.len > UNIX_NAME_BYTES)
		return unix_bad(file, err, "has a name that is too long");
	if (usk->uflags || usk->type != SOCK_STREAM) {
		error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP, "the unix socket of file id %u is %s",
			  file->entry->id,
			  usk->uflags ? "connected to the outside" : "of another type than stream");
		error_hint(err, "this ferry restores stream sockets between the tasks of the image");
		return -ENOTSUP;
	}
	if (usk->state != UNIX_CONNECTED && usk->state != UNIX_CLOSED && usk->state != UNIX_LISTENING)
		return unix_bad(file, err, "is in an unknown state");
	return 0;
}

static int unix_read_index(struct reader *r, struct ferry_error *err)
{
	struct plan *p = r->plan;
	struct unix_index *index = arena_new(&p->arena, struct unix_index);
	if (!index || !(index->by_inode = arena_array(&p->arena, struct plan_file *, p->n_files + 1)) ||
	    !(index->listeners = arena_array(&p->arena, struct plan_file *, p->n_files + 1)))
		return error_memory(err);
	for (size_t i = 0; i < p->n_files; i++) {
		struct plan_file *file = &p->files[i];
		if (file->kind != &kind_unixsk)
			continue;
		struct unix_plan *plan = arena_new(&p->arena, struct unix_plan);
		if (!plan)
			return error_memory(err);
		plan->tail = &plan->packets;
		((struct sock_plan *)file->data)->kind = plan;
		int ret = unix_read_check(file, err);
		if (ret < 0)
			return ret;
		index->by_inode[index->n++] = file;
		if (file->entry->usk->state == UNIX_LISTENING)
			index->listeners[index->n_listeners++] = file;
	}
	qsort(index->by_inode, index->n, sizeof(void *), unix_compare_files);
	p->kind_data[KIND_unixsk] = index;
	return 0;
}

/* Both ends of a connection agree about it. */
static int unix_read_links(struct reader *r, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_files; i++) {
		const struct plan_file *file = &r->plan->files[i];
		const UnixSkEntry *usk = file->kind == &kind_unixsk ? file->entry->usk : NULL;
		if (!usk || !usk->peer || usk->state != UNIX_CONNECTED)
			continue;
		const struct plan_file *peer = unix_by_inode(r->plan, usk->peer);
		if (!peer)
			return error_set(
				err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				"the unix socket of file id %u has a peer (socket:[%u]) that the image lacks",
				file->entry->id, usk->peer);
		if (peer == file || peer->entry->usk->peer != usk->ino ||
		    peer->entry->usk->state != UNIX_CONNECTED)
			return unix_bad(file, err, "has a peer that is connected to another");
	}
	return 0;
}

static int unix_take_packet(struct reader *r, struct image_reader *in, const SkPacketEntry *packet,
			    struct ferry_error *err)
{
	struct plan_file *file = plan_file(r->plan, packet->id_for);
	if (!file || file->kind != &kind_unixsk)
		return image_bad(in, err, "bytes for file id %u, which is no unix socket", packet->id_for);
	if (packet->n_scm)
		return error_set(
			err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			"descriptors wait in the queue of file id %u, which this ferry does not restore",
			packet->id_for);
	if (packet->length > image_reader_left(in))
		return image_bad(in, err, "%u bytes are announced, but the file ends before", packet->length);
	struct unix_packet *p = arena_new(&r->plan->arena, struct unix_packet);
	struct unix_plan *plan = unix_plan_of(file);
	if (!p || !(p->bytes = arena_alloc(&r->plan->arena, packet->length + 1)))
		return error_memory(err);
	p->n = packet->length;
	*plan->tail = p;
	plan->tail = &p->next;
	return image_get_raw(in, p->bytes, p->n, err);
}

static int unix_read_queues(struct reader *r, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	int ret = image_open_optional(r->dir, IMAGE_SK_QUEUES, 0, &in, err);
	if (ret < 0 || !in)
		return ret;
	for (;;) {
		SkPacketEntry *packet;
		ret = image_get(in, &sk_packet_entry__descriptor, &packet, err);
		if (ret <= 0)
			return ret;
		ret = unix_take_packet(r, in, packet, err);
		image_message_free(packet);
		if (ret < 0)
			return ret;
	}
}

int unix_read(struct reader *r, struct ferry_error *err)
{
	int ret = sockextra_read(r, &kind_unixsk, err);
	if (ret >= 0)
		ret = unix_read_index(r, err);
	if (ret >= 0)
		ret = unix_read_links(r, err);
	return ret < 0 ? ret : unix_read_queues(r, err);
}

/* ----------------------------------------------------------------- connections */

/* Take our connection out of the queue. Whoever else got in, in the instant before, is turned away. */
static int unix_accept(struct opener *o, const struct unix_gate *gate, pid_t from)
{
	for (int i = 0; i < UNIX_ACCEPT_ATTEMPTS; i++) {
		struct ucred peer = {0};
		socklen_t n = sizeof(peer);
		_cleanup_close_ int fd = accept4(gate->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return -errno;
		int r = sock_get_bytes(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n);
		if (r < 0)
			return r;
		if (peer.pid == from)
			return take_fd(fd);
		log_write(o->log, LOG_WARN, "restore", "unix", peer.pid,
			  "connected to a socket that is being restored, turned away");
	}
	return -EAGAIN;
}

/* client, server: records of the two ends; NULL: there is none, the end is closed afterwards. */
static int unix_connect(struct opener *o, const struct unix_gate *gate, const struct plan_file *client,
			const struct plan_file *server, int ret_fds[2], struct ferry_error *err)
{
	_cleanup_close_ int fd = unix_new(), jail = -1;
	if (fd < 0)
		return unix_failed(client, -fd, "making", err);
	const FerrySocketEntry *client_extra = client ? unix_extra_of(client) : NULL;
	const FerrySocketEntry *server_extra = server ? unix_extra_of(server) : NULL;
	int r = client && client->entry->usk->name.len ? unix_bind(fd, client, false, &jail, err) : 0;
	if (r >= 0 && client_extra && client_extra->peer)
		r = unix_listen(o, gate->named, gate->fd, 0, client_extra->peer, err);
	if (r < 0)
		return r;
	pid_t pid;
	r = unix_connect_to(o, gate, fd, server_extra ? server_extra->peer : NULL, &pid, err);
	if (r < 0)
		return r;
	int accepted = unix_accept(o, gate, pid);
	if (accepted < 0)
		return unix_failed(gate->named, -accepted, "connecting to", err);
	ret_fds[0] = take_fd(fd);
	ret_fds[1] = accepted;
	return 0;
}

static int unix_send(struct plan_file *to, int from, struct ferry_error *err);

static int unix_apply(struct opener *o, const struct plan_file *file, int fd, struct ferry_error *err)
{
	static const struct sock_type type = {.domain = AF_UNIX, .type = SOCK_STREAM};
	int r = sockopt_apply(fd, file->entry->usk->opts, err);
	return r < 0 ? r : sockextra_apply(o, fd, &type, unix_extra_of(file), false, err);
}

/* What nothing but the program itself may come after. */
static int unix_seal(const struct plan_file *file, int fd, struct ferry_error *err)
{
	static const int how[] = {[SK_SHUTDOWN__READ] = SHUT_RD,
				  [SK_SHUTDOWN__WRITE] = SHUT_WR,
				  [SK_SHUTDOWN__BOTH] = SHUT_RDWR};
	const UnixSkEntry *usk = file->entry->usk;
	bool shut = usk->state == UNIX_CONNECTED && usk->has_shutdown && usk->shutdown > SK_SHUTDOWN__NONE &&
		    (size_t)usk->shutdown < ARRAY_SIZE(how);
	if (shut && shutdown(fd, how[usk->shutdown]) < 0)
		return unix_failed(file, errno, "shutting down", err);
	int r = sockopt_apply_filter(fd, usk->opts, err);
	return r < 0 ? r : fdcommon_set_flags(fd, usk->flags, err);
}

/*
 * Options first, because some of them mark the bytes that follow; then the queues; then what ends a
 * direction.
 */
static int unix_finish_pair(struct opener *o, struct plan_file *a, int fd_a, struct plan_file *b, int fd_b,
			    struct ferry_error *err)
{
	int r = unix_apply(o, a, fd_a, err);
	if (r >= 0 && b)
		r = unix_apply(o, b, fd_b, err);
	if (r >= 0)
		r = unix_send(a, fd_b, err);
	if (r >= 0 && b)
		r = unix_send(b, fd_a, err);
	/* Room for the bytes was made with another buffer size. */
	if (r >= 0)
		r = sockopt_apply(fd_a, a->entry->usk->opts, err);
	if (r >= 0 && b)
		r = sockopt_apply(fd_b, b->entry->usk->opts, err);
	if (r >= 0)
		r = unix_seal(a, fd_a, err);
	return r < 0 || !b ? r : unix_seal(b, fd_b, err);
}

/* The other end is gone: let ours see that, and the error when it went away with unread bytes. */
static int unix_finish_single(struct opener *o, struct plan_file *file, int fd, int other,
			      struct ferry_error *err)
{
	const FerrySocketEntry *extra = unix_extra_of(file);
	if (extra && extra->has_error && send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return unix_failed(file, errno, "writing to", err);
	return unix_finish_pair(o, file, fd, NULL, other, err);
}

static bool unix_same_name(const UnixSkEntry *a, const UnixSkEntry *b)
{
	return a->name.len == b->name.len && !memcmp(a->name.data, b->name.data, a->name.len) &&
	       !strcmp(unix_dir(a), unix_dir(b)) &&
	       (a->has_deleted && a->deleted) == (b->has_deleted && b->deleted);
}

static bool unix_is_listener_of(const struct plan_file *listener, const struct plan_file *file)
{
	return unix_same_name(listener->entry->usk, file->entry->usk);
}

static struct plan_file *unix_listener_of(const struct plan *p, const struct plan_file *file)
{
	const struct unix_index *index = p->kind_data[KIND_unixsk];
	for (size_t i = 0; i < index->n_listeners; i++)
		if (unix_is_listener_of(index->listeners[i], file))
			return index->listeners[i];
	return NULL;
}

/*
 * The end that was accepted, of a connected socket and its peer (NULL = gone); NULL: neither has a name.
 * Where both have one, the accepted one has its listener's, or was made later.
 */
static struct plan_file *unix_server_end(const struct plan *p, struct plan_file *file, struct plan_file *peer)
{
	bool named = file->entry->usk->name.len, peer_named = peer && peer->entry->usk->name.len;
	if (!named || !peer_named)
		return named ? file : peer_named ? peer : NULL;
	if (unix_listener_of(p, file))
		return file;
	if (unix_listener_of(p, peer))
		return peer;
	return file->entry->usk->ino > peer->entry->usk->ino ? file : peer;
}

static int unix_restore_through(struct opener *o, const struct unix_gate *gate, struct plan_file *server,
				struct plan_file *client, struct ferry_error *err)
{
	int fds[2] = {-1, -1};
	int r = unix_connect(o, gate, client, server, fds, err);
	if (r < 0)
		return r;
	if (client)
		r = unix_finish_pair(o, server, fds[1], client, fds[0], err);
	else
		r = unix_finish_single(o, server, fds[1], fds[0], err);
	if (r < 0 || !client)
		close(fds[0]);
	if (r < 0)
		close(fds[1]);
	if (r < 0)
		return r;
	server->fd = fds[1];
	if (client)
		client->fd = fds[0];
	return 0;
}

static int unix_restore_pair(struct opener *o, struct plan_file *file, struct plan_file *peer,
			     struct ferry_error *err)
{
	const FerrySocketEntry *extra = unix_extra_of(file);
	int fds[2] = {-1, -1};
	int r = unix_pair(o, extra ? extra->peer : NULL, fds, err);
	if (r < 0)
		return r;
	if (peer)
		r = unix_finish_pair(o, file, fds[0], peer, fds[1], err);
	else
		r = unix_finish_single(o, file, fds[0], fds[1], err);
	if (r < 0 || !peer)
		close(fds[1]);
	if (r < 0)
		close(fds[0]);
	if (r < 0)
		return r;
	file->fd = fds[0];
	if (peer)
		peer->fd = fds[1];
	return 0;
}

/* A listener and, before it is open to the world, every connection that was accepted through it. */
static int unix_restore_listener(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	const FerrySocketEntry *extra = unix_extra_of(file);
	_cleanup_close_ int fd = unix_new(), jail = -1;
	if (fd < 0)
		return unix_failed(file, -fd, "making", err);
	int r = unix_bind(fd, file, false, &jail, err);
	const struct unix_gate gate = {.named = file, .fd = fd, .jail = jail};
	bool listening = false;
	for (size_t i = 0; i < o->plan->n_files && r >= 0; i++) {
		struct plan_file *server = &o->plan->files[i];
		if (server->kind != &kind_unixsk || server->entry->usk->state != UNIX_CONNECTED ||
		    server->fd >= 0 || !unix_is_listener_of(file, server))
			continue;
		struct plan_file *client = unix_by_inode(o->plan, server->entry->usk->peer);
		if (unix_server_end(o->plan, server, client) != server ||
		    unix_listener_of(o->plan, server) != file)
			continue;
		if (!listening)
			r = unix_listen(o, file, fd, 0, extra ? extra->peer : NULL, err);
		listening = true;
		if (r >= 0)
			r = unix_restore_through(o, &gate, server, client, err);
	}
	if (r >= 0)
		r = unix_apply(o, file, fd, err);
	if (r >= 0)
		r = unix_listen(o, file, fd, (int)usk->backlog, extra ? extra->peer : NULL, err);
	if (r >= 0)
		r = unix_seal(file, fd, err);
	if (r < 0)
		return r;
	file->fd = take_fd(fd);
	return 0;
}

/* Nobody listens under that name any more: a listener of our own, for the moment. */
static int unix_restore_orphan(struct opener *o, struct plan_file *server, struct plan_file *client,
			       struct ferry_error *err)
{
	_cleanup_close_ int fd = unix_new(), jail = -1;
	if (fd < 0)
		return unix_failed(server, -fd, "making", err);
	int r = unix_bind(fd, server, true, &jail, err);
	if (r >= 0)
		r = unix_listen(o, server, fd, 0, NULL, err);
	const struct unix_gate gate = {.named = server, .fd = fd, .jail = jail};
	return r < 0 ? r : unix_restore_through(o, &gate, server, client, err);
}

static int unix_restore_connected(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	struct plan_file *peer =
		file->entry->usk->peer ? unix_by_inode(o->plan, file->entry->usk->peer) : NULL;
	struct plan_file *server = unix_server_end(o->plan, file, peer);
	if (!server)
		return unix_restore_pair(o, file, peer, err);
	struct plan_file *listener = unix_listener_of(o->plan, server);
	if (listener && listener->fd < 0)
		return unix_restore_listener(o, listener, err);
	return unix_restore_orphan(o, server, server == file ? peer : file, err);
}

static int unix_restore_closed(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	_cleanup_close_ int fd = unix_new(), jail = -1;
	if (fd < 0)
		return unix_failed(file, -fd, "making", err);
	int r = file->entry->usk->name.len ? unix_bind(fd, file, false, &jail, err) : 0;
	if (r >= 0)
		r = unix_apply(o, file, fd, err);
	if (r >= 0)
		r = unix_seal(file, fd, err);
	if (r >= 0)
		file->fd = take_fd(fd);
	return r;
}

int unix_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	int r;
	switch ((enum unix_state)file->entry->usk->state) {
	case UNIX_LISTENING: r = unix_restore_listener(o, file, err); break;
	case UNIX_CONNECTED: r = unix_restore_connected(o, file, err); break;
	default: r = unix_restore_closed(o, file, err);
	}
	if (r >= 0 && file->fd < 0)
		return unix_bad(file, err, "could not be brought back with its peer");
	if (r >= 0)
		*ret_fd = file->fd;
	return r;
}

int unix_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	if (!fdcommon_settle_once(s, file))
		return 0;
	return fdcommon_settle(file->entry->usk->fown, file->entry->usk->flags, fd, err);
}

/* -------------------------------------------------------------------- queues */

/* As the process that sent it, where that is known and still there. */
static int unix_send_some(int from, const uint8_t *bytes, size_t n, const FerrySocketCreds *sender)
{
	char control[CMSG_SPACE(sizeof(struct ucred))] __attribute__((aligned(8))) = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	if (sender) {
		const struct ucred creds = {
			.pid = (pid_t)sender->pid, .uid = sender->uid, .gid = sender->gid};
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_CREDENTIALS;
		h->cmsg_len = CMSG_LEN(sizeof(creds));
		memcpy(CMSG_DATA(h), &creds, sizeof(creds));
	}
	ssize_t sent = sendmsg(from, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0 && errno == ESRCH && sender)
		return unix_send_some(from, bytes, n, NULL);
	return sent < 0 ? -errno : (int)sent;
}

static int unix_send_run(int from, const uint8_t *bytes, size_t n, const FerrySocketCreds *sender)
{
	while (n) {
		int sent = unix_send_some(from, bytes, n, sender);
		if (sent < 0)
			return sent;
		bytes += sent;
		n -= (size_t)sent;
	}
	return 0;
}

/* Runs say who sent what, over all packets; what they leave over was sent by anyone. */
struct unix_cursor {
	const FerrySocketEntry *extra;
	size_t run;
	size_t left; /* of that run */
};

static size_t unix_cursor_next(struct unix_cursor *c, size_t n, const FerrySocketCreds **ret_sender)
{
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

static int unix_send(struct plan_file *to, int from, struct ferry_error *err)
{
	struct unix_cursor cursor = {.extra = unix_extra_of(to)};
	size_t total = 0;
	for (const struct unix_packet *p = unix_plan_of(to)->packets; p; p = p->next)
		total += p->n;
	int r = total ? sockopt_make_room(from, total, err) : 0;
	for (const struct unix_packet *p = unix_plan_of(to)->packets; p && r >= 0; p = p->next) {
		for (size_t at = 0; at < p->n && r >= 0;) {
			const FerrySocketCreds *sender;
			size_t n = unix_cursor_next(&cursor, p->n - at, &sender);
			r = unix_send_run(from, p->bytes + at, n, sender);
			if (r < 0)
				r = unix_failed(to, -r, "filling the queue of", err);
			at += n;
		}
	}
	return r;
}
