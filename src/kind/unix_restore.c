/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns making unix sockets again. Two ends without names are a pair. Where an end of a connection has a name it
 * was accepted, so it comes through a listener again: the listener of the image when there is one (which brings
 * its connections with it, so that nobody outside gets in between, and those that nobody accepted yet), else one
 * of our own. What is in them and between them is unix_fill.c's.
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
#include "host/warden.h"
#include "image/dir.h"
#include "image/file.h"
#include "image/proto/rpc.pb-c.h"
#include "kind/external.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/sockextra.h"
#include "kind/sockopt.h"
#include "kind/unix_make.h"
#include "model/records.h"

enum { UNIX_ACCEPT_ATTEMPTS = 1000, UNIX_RIGHTS_MAX = 253, UNIX_BACKLOG_MAX = 4096 };

/* plan.kind_data */
struct unix_index {
	struct plan_file **by_inode;
	size_t n;
	struct plan_file **listeners;
	size_t n_listeners;
};

struct unix_plan *unix_plan_of(const struct plan_file *file)
{
	return ((struct sock_plan *)file->data)->kind;
}

const FerrySocketEntry *unix_extra_of(const struct plan_file *file)
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

struct plan_file *unix_by_inode(const struct plan *p, uint32_t inode)
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
	if (usk->uflags == UNIX_SERVICE && usk->type == SOCK_SEQPACKET && usk->state == UNIX_CLOSED &&
	    !usk->peer)
		return 0;
	if (usk->uflags & ~(uint32_t)UNIX_EXTERNAL || (usk->uflags && usk->type != SOCK_DGRAM)) {
		error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
			  "the unix socket of file id %u is connected to the outside", file->entry->id);
		error_hint(err, "only datagram sockets can be connected to a name again");
		return -ENOTSUP;
	}
	if (usk->type != SOCK_STREAM && usk->type != SOCK_DGRAM && usk->type != SOCK_SEQPACKET)
		return unix_bad(file, err, "is of an unknown type");
	if (usk->state != UNIX_CONNECTED && usk->state != UNIX_CLOSED && usk->state != UNIX_LISTENING)
		return unix_bad(file, err, "is in an unknown state");
	if (usk->type == SOCK_DGRAM && usk->state == UNIX_LISTENING && !usk->uflags)
		return unix_bad(file, err, "is a datagram socket that listens");
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
		plan->other = plan->jail = plan->made.entry = -1;
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

/* Both ends of a connection agree about it; a datagram socket sends to any other, a client may still wait. */
static int unix_read_link(const struct plan_file *file, const struct plan_file *peer, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk, *other = peer->entry->usk;
	if (peer == file && usk->type != SOCK_DGRAM)
		return unix_bad(file, err, "is connected to itself");
	if (usk->type != other->type && !other->uflags)
		return unix_bad(file, err, "has a peer of another type");
	if (usk->type == SOCK_DGRAM || other->state == UNIX_LISTENING)
		return 0;
	if (other->peer != usk->ino || other->state != UNIX_CONNECTED)
		return unix_bad(file, err, "has a peer that is connected to another");
	return 0;
}

/* Somebody has to say where the other end is now. */
static int unix_read_outside(const struct reader *r, const struct plan_file *file,
			     const struct plan_file *peer, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	int type = 0, fd = external_inherited_socket(r->options, usk->ino);
	bool named = peer->entry->usk->name.len, again = r->options && r->options->ext_unix_sk && named;
	if (usk->type == SOCK_DGRAM && named)
		return 0;
	if (fd >= 0 && (sock_get(fd, SOL_SOCKET, SO_TYPE, &type) < 0 || (uint32_t)type != usk->type))
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "--inherit-fd fd[%d]: it is no socket of the same type as socket:[%u]", fd,
				 usk->ino);
	if (fd >= 0 || again)
		return 0;
	error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTCONN,
		  "the peer of the unix socket of file id %u (socket:[%u]) was outside of the tree",
		  file->entry->id, usk->ino);
	error_hint(err, "give it another with --inherit-fd fd[N]:socket:[%u]%s", usk->ino,
		   named ? ", or let it connect to the same name with --ext-unix-sk" : "");
	return -ENOTCONN;
}

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
		int ret = unix_read_link(file, peer, err);
		if (ret >= 0 && peer->entry->usk->uflags)
			ret = unix_read_outside(r, file, peer, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int unix_take_rights(struct reader *r, struct image_reader *in, const SkPacketEntry *packet,
			    struct unix_packet *p, struct ferry_error *err)
{
	for (size_t i = 0; i < packet->n_scm; i++) {
		const ScmEntry *scm = packet->scm[i];
		if (scm->type != SCM_RIGHTS || scm->n_rights > UNIX_RIGHTS_MAX || p->n_rights)
			return image_bad(in, err, "file id %u has ancillary data of type %u", packet->id_for,
					 scm->type);
		p->rights = arena_array(&r->plan->arena, struct plan_file *, scm->n_rights + 1);
		if (!p->rights)
			return error_memory(err);
		for (size_t k = 0; k < scm->n_rights; k++) {
			p->rights[p->n_rights] = plan_file(r->plan, scm->rights[k]);
			if (p->rights[p->n_rights])
				p->rights[p->n_rights]->enclosed = true;
			if (!p->rights[p->n_rights++])
				return image_bad(in, err, "file id %u, which waits in a queue, is missing",
						 scm->rights[k]);
		}
	}
	return 0;
}

static int unix_take_packet(struct reader *r, struct image_reader *in, void *record, void *context unused,
			    struct ferry_error *err)
{
	const SkPacketEntry *packet = record;
	struct plan_file *file = plan_file(r->plan, packet->id_for);
	if (!file || file->kind != &kind_unixsk || file->entry->usk->uflags)
		return image_bad(in, err, "bytes for file id %u, which is no unix socket", packet->id_for);
	if (packet->length > image_reader_left(in))
		return image_bad(in, err, "%u bytes are announced, but the file ends before", packet->length);
	struct unix_packet *p = arena_new(&r->plan->arena, struct unix_packet);
	struct unix_plan *plan = unix_plan_of(file);
	if (!p || !(p->bytes = arena_alloc(&r->plan->arena, packet->length + 1)))
		return error_memory(err);
	p->n = packet->length;
	int ret = unix_take_rights(r, in, packet, p, err);
	if (ret < 0)
		return ret;
	*plan->tail = p;
	plan->tail = &p->next;
	return image_get_raw(in, p->bytes, p->n, err);
}

int unix_read(struct reader *r, struct ferry_error *err)
{
	int ret = sockextra_read(r, &kind_unixsk, err);
	if (ret >= 0)
		ret = unix_read_index(r, err);
	if (ret >= 0)
		ret = unix_read_links(r, err);
	return ret < 0 ? ret
		       : records_each(r, IMAGE_SK_QUEUES, 0, &sk_packet_entry__descriptor, unix_take_packet,
				      NULL, err);
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
	_cleanup_close_ int fd = unix_new(gate->named->entry->usk->type), jail = -1;
	if (fd < 0)
		return unix_failed(client, -fd, "making", err);
	const FerrySocketEntry *client_extra = client ? unix_extra_of(client) : NULL;
	const FerrySocketEntry *server_extra = server ? unix_extra_of(server) : NULL;
	int r = client && client->entry->usk->name.len ? unix_bind(o, fd, client, false, &jail, err) : 0;
	if (r >= 0 && client_extra && client_extra->peer)
		r = unix_listen(o, gate->named, gate->fd, UNIX_BACKLOG_MAX, client_extra->peer, err);
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

static bool unix_same_name(const UnixSkEntry *a, const UnixSkEntry *b)
{
	return a->type == b->type && a->name.len == b->name.len &&
	       !memcmp(a->name.data, b->name.data, a->name.len) && !strcmp(unix_dir(a), unix_dir(b)) &&
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

/* The end that has no record is kept until its bytes were sent. */
static void unix_take_ends(struct plan_file *a, int fd_a, struct plan_file *b, int fd_b)
{
	a->fd = fd_a;
	if (b)
		b->fd = fd_b;
	else
		unix_plan_of(a)->other = fd_b;
}

static int unix_restore_through(struct opener *o, const struct unix_gate *gate, struct plan_file *server,
				struct plan_file *client, struct ferry_error *err)
{
	int fds[2] = {-1, -1};
	int r = unix_connect(o, gate, client, server, fds, err);
	if (r >= 0)
		unix_take_ends(server, fds[1], client, fds[0]);
	return r;
}

static int unix_restore_pair(struct opener *o, struct plan_file *file, struct plan_file *peer,
			     struct ferry_error *err)
{
	const FerrySocketEntry *extra = unix_extra_of(file);
	int fds[2] = {-1, -1};
	int r = unix_pair(o, file->entry->usk->type, extra ? extra->peer : NULL, fds, err);
	if (r >= 0)
		unix_take_ends(file, fds[0], peer, fds[1]);
	return r;
}

/* ------------------------------------------------------------ listeners, connections */

/* The client of the image whose connection waits at a listener as the next after place. */
static struct plan_file *unix_next_pending(const struct plan *p, const struct plan_file *listener)
{
	struct plan_file *best = NULL;
	for (size_t i = 0; i < p->n_files; i++) {
		struct plan_file *file = &p->files[i];
		const UnixSkEntry *usk = file->kind == &kind_unixsk ? file->entry->usk : NULL;
		if (!usk || usk->state != UNIX_CONNECTED || usk->peer != listener->entry->usk->ino ||
		    usk->type == SOCK_DGRAM || file->fd >= 0)
			continue;
		const FerrySocketEntry *x = unix_extra_of(file), *y = best ? unix_extra_of(best) : NULL;
		if (!best || (x && y && x->has_pending && y->has_pending && x->pending < y->pending))
			best = file;
	}
	return best;
}

/* Connections that nobody accepts before the program does. */
static int unix_restore_pending(struct opener *o, const struct unix_gate *gate, struct ferry_error *err)
{
	struct plan_file *client;
	while ((client = unix_next_pending(o->plan, gate->named))) {
		const FerrySocketEntry *extra = unix_extra_of(client);
		_cleanup_close_ int fd = unix_new(client->entry->usk->type), jail = -1;
		pid_t pid;
		int r = fd < 0 ? unix_failed(client, -fd, "making", err) : 0;
		if (r >= 0 && client->entry->usk->name.len)
			r = unix_bind(o, fd, client, false, &jail, err);
		if (r >= 0)
			r = unix_listen(o, gate->named, gate->fd, UNIX_BACKLOG_MAX,
					extra ? extra->peer : NULL, err);
		if (r >= 0)
			r = unix_connect_to(o, gate, fd, extra ? extra->connector : NULL, &pid, err);
		if (r < 0)
			return r;
		client->fd = take_fd(fd);
	}
	return 0;
}

/* A listener and, before it is open to the world, every connection that was accepted through it. */
static int unix_restore_listener(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	const FerrySocketEntry *extra = unix_extra_of(file);
	_cleanup_close_ int fd = unix_new(file->entry->usk->type), jail = -1;
	if (fd < 0)
		return unix_failed(file, -fd, "making", err);
	int r = unix_bind(o, fd, file, false, &jail, err);
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
			r = unix_listen(o, file, fd, UNIX_BACKLOG_MAX, extra ? extra->peer : NULL, err);
		listening = true;
		if (r >= 0)
			r = unix_restore_through(o, &gate, server, client, err);
	}
	if (r >= 0)
		r = unix_restore_pending(o, &gate, err);
	if (r >= 0)
		r = unix_listen(o, file, fd, (int)usk->backlog, extra ? extra->peer : NULL, err);
	if (r < 0)
		return r;
	file->fd = take_fd(fd);
	return 0;
}

/* Nobody listens under that name any more: a listener of our own, for the moment. */
static int unix_restore_orphan(struct opener *o, struct plan_file *server, struct plan_file *client,
			       struct ferry_error *err)
{
	_cleanup_close_ int fd = unix_new(server->entry->usk->type), jail = -1;
	if (fd < 0)
		return unix_failed(server, -fd, "making", err);
	int r = unix_bind(o, fd, server, true, &jail, err);
	if (r >= 0)
		r = unix_listen(o, server, fd, UNIX_BACKLOG_MAX, NULL, err);
	const struct unix_gate gate = {.named = server, .fd = fd, .jail = jail};
	return r < 0 ? r : unix_restore_through(o, &gate, server, client, err);
}

/* The other end is outside: a connection that somebody made for it, or a new one to the same name. */
static int unix_restore_outside(struct opener *o, struct plan_file *file, const struct plan_file *peer,
				struct ferry_error *err)
{
	int given = external_inherited_socket(o->options, file->entry->usk->ino);
	struct sockaddr_un address;
	struct unix_place place;
	if (given >= 0) {
		file->fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
		return file->fd < 0 ? unix_failed(file, errno, "taking over", err) : 0;
	}
	_cleanup_close_ int fd = unix_new(file->entry->usk->type), jail = -1;
	socklen_t n = unix_address(peer->entry->usk, &address);
	int r = fd < 0 ? unix_failed(file, -fd, "making", err) : 0;
	if (r >= 0 && file->entry->usk->name.len)
		r = unix_bind(o, fd, file, false, &jail, err);
	if (r < 0)
		return r;
	r = unix_enter(&place, -1, unix_dir(peer->entry->usk));
	if (r >= 0 && connect(fd, (const struct sockaddr *)&address, n) < 0)
		r = -errno;
	int back = unix_leave(&place);
	if (r < 0 || back < 0)
		return unix_failed(peer, r < 0 ? -r : -back, "connecting to", err);
	file->fd = take_fd(fd);
	return 0;
}

static int unix_restore_connected(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	struct plan_file *peer =
		file->entry->usk->peer ? unix_by_inode(o->plan, file->entry->usk->peer) : NULL;
	if (peer && peer->entry->usk->uflags)
		return unix_restore_outside(o, file, peer, err);
	/* It waits there, and comes with the listener. */
	if (peer && peer->entry->usk->state == UNIX_LISTENING)
		return peer->fd < 0 ? unix_restore_listener(o, peer, err) : 0;
	struct plan_file *server = unix_server_end(o->plan, file, peer);
	if (!server)
		return unix_restore_pair(o, file, peer, err);
	struct plan_file *listener = unix_listener_of(o->plan, server);
	if (listener && listener->fd < 0)
		return unix_restore_listener(o, listener, err);
	return unix_restore_orphan(o, server, server == file ? peer : file, err);
}

/* Who dumped himself waits for the answer, which tells him that he was restored. */
static int unix_restore_service(struct plan_file *file, struct ferry_error *err)
{
	CriuResp answer = CRIU_RESP__INIT;
	CriuDumpResp dumped = CRIU_DUMP_RESP__INIT;
	uint8_t bytes[64];
	int pair[2];
	answer.type = CRIU_REQ_TYPE__DUMP;
	answer.success = true;
	answer.dump = &dumped;
	dumped.has_restored = dumped.restored = true;
	size_t n = criu_resp__get_packed_size(&answer);
	if (n > sizeof(bytes) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return unix_failed(file, n > sizeof(bytes) ? EMSGSIZE : errno, "making", err);
	file->fd = pair[0];
	criu_resp__pack(&answer, bytes);
	int r = send(pair[1], bytes, n, MSG_NOSIGNAL) == (ssize_t)n ? 0 : -errno;
	close(pair[1]);
	return r < 0 ? unix_failed(file, -r, "answering over", err) : 0;
}

static int unix_restore_closed(struct opener *o unused, struct plan_file *file, struct ferry_error *err)
{
	if (file->entry->usk->uflags == UNIX_SERVICE)
		return unix_restore_service(file, err);
	_cleanup_close_ int fd = unix_new(file->entry->usk->type), jail = -1;
	if (fd < 0)
		return unix_failed(file, -fd, "making", err);
	int r = file->entry->usk->name.len ? unix_bind(o, fd, file, false, &jail, err) : 0;
	if (r >= 0)
		file->fd = take_fd(fd);
	return r;
}

/* --------------------------------------------------------------------- datagrams */

static int unix_bind_dgram(struct opener *o, const struct plan_file *file, int fd, struct ferry_error *err)
{
	int jail = -1;
	int r = file->entry->usk->name.len ? unix_bind(o, fd, file, false, &jail, err) : 0;
	if (r >= 0 && jail >= 0 && plan_keep_source(o->plan, jail) < 0)
		return error_memory(err);
	/* Others send to this name until all queues are filled. */
	unix_plan_of(file)->jail = jail;
	return r;
}

/* Connected since they were made: neither has a name that the other could have been connected to. */
static bool unix_is_pair(const struct plan_file *file, const struct plan_file *peer)
{
	const FerrySocketEntry *extra = unix_extra_of(file);
	const UnixSkEntry *usk = file->entry->usk;
	if (!peer)
		return extra && extra->has_gone_peer && extra->peer;
	if (peer == file || peer->entry->usk->uflags || peer->entry->usk->peer != usk->ino)
		return false;
	return (extra && extra->peer) || !usk->name.len || !peer->entry->usk->name.len;
}

static int unix_restore_dgram(struct opener *o, struct plan_file *file, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	struct plan_file *peer = usk->peer ? unix_by_inode(o->plan, usk->peer) : NULL;
	int r = 0;
	if (unix_is_pair(file, peer)) {
		r = unix_restore_pair(o, file, peer, err);
		unix_plan_of(file)->paired = unix_plan_of(file)->connected = true;
		if (peer)
			unix_plan_of(peer)->paired = unix_plan_of(peer)->connected = true;
		if (r >= 0 && peer)
			r = unix_bind_dgram(o, peer, peer->fd, err);
	} else {
		file->fd = unix_new(SOCK_DGRAM);
		if (file->fd < 0)
			r = unix_failed(file, -file->fd, "making", err);
	}
	return r < 0 ? r : unix_bind_dgram(o, file, file->fd, err);
}

int unix_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const UnixSkEntry *usk = file->entry->usk;
	int r = 0;
	if (usk->uflags & UNIX_EXTERNAL)
		return 0;
	if (usk->type == SOCK_DGRAM)
		r = unix_restore_dgram(o, file, err);
	else if (usk->state == UNIX_LISTENING)
		r = unix_restore_listener(o, file, err);
	else if (usk->state == UNIX_CONNECTED)
		r = unix_restore_connected(o, file, err);
	else
		r = unix_restore_closed(o, file, err);
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

void unix_abandon(struct opener *o)
{
	for (size_t i = 0; i < o->plan->n_files; i++) {
		struct plan_file *file = &o->plan->files[i];
		struct unix_made *made =
			file->kind == &kind_unixsk && file->data ? &unix_plan_of(file)->made : NULL;
		if (!made || made->entry < 0)
			continue;
		unlinkat(made->dir, made->base, 0);
		warden_disarm(o->warden, made->entry);
	}
}
