/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns established and half-closed TCP connections, through libferry-tcp.
 *
 * Dump: the packets of a connection are blocked, then it is paused (repair mode) and read. It stays paused
 * until the end: then it goes on, or its tasks are killed while it is paused, which closes it without a word
 * to the peer. In that case the packets stay blocked by a lock that outlives us, named after the image, so
 * that nothing answers the peer until the restore. Restore: connections are rebuilt behind that lock and one
 * of our own, and go on in the instant before the tasks run.
 *
 * Every paused socket is in the undo log: a dump that dies lets the connections go on, unless the tasks are
 * to die. Kernel interface: tcp(7) TCP_REPAIR; nf_tables.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/netlock.h"
#include "host/warden.h"
#include "image/dir.h"
#include "image/file.h"
#include "kind/fdcommon.h"
#include "kind/inet.h"
#include "kind/kinds.h"
#include "kind/net.h"
#include "kind/netplace.h"
#include "kind/sockopt.h"
#include "model/record.h"
#include "model/records.h"
#include "proc/read.h"

enum {
	TCP_LOCK_ID_BYTES = 32,
	TCP_LOCK_METHOD_IPTABLES =
		0,          /* inventory_entry.network_lock_method; also where older images lack it */
	TCP_OVER_MSS = 536, /* RFC 9293: what is assumed when nobody says */
};

struct tcp_snap {
	struct ferry_tcp t;
	struct ferry_tcp_undo undo; /* until t has it */
	struct netlock_tcp tuple;
	uint64_t net; /* inode of its network namespace */
	int entry;    /* in the undo log */
	bool paused;
	bool connecting; /* SYN_SENT: there is nothing to pause yet */
};

static struct netlock_tcp tcp_tuple(const InetSkEntry *isk)
{
	struct netlock_tcp tuple = {
		.family = (uint16_t)isk->family,
		.local_port = (uint16_t)isk->src_port,
		.remote_port = (uint16_t)isk->dst_port,
	};
	size_t n = isk->family == AF_INET ? 4 : 16;
	memcpy(tuple.local_addr, isk->src_addr, n);
	memcpy(tuple.remote_addr, isk->dst_addr, n);
	return tuple;
}

/* The lock that waits for the restore of the image with this id. */
static void tcp_lock_id(const char *run_id, char ret_id[TCP_LOCK_ID_BYTES])
{
	snprintf(ret_id, TCP_LOCK_ID_BYTES, "%s%.*s", NETLOCK_IMAGE_PREFIX, NETLOCK_IMAGE_ID_CHARS, run_id);
}

/* Older images have no id, so nobody could find their lock. */
static bool tcp_plan_lock_id(const struct opener *o, char ret_id[TCP_LOCK_ID_BYTES])
{
	const char *run_id = o->plan->inventory ? o->plan->inventory->dump_criu_run_id : NULL;
	if (!run_id || !run_id[0])
		return false;
	tcp_lock_id(run_id, ret_id);
	return true;
}

/* Block connections with a lock of this job. All at once: each transaction waits for the whole machine. */
static int tcp_lock(struct netlocks *locks, uint64_t net, const struct fault *fault, const char *stage,
		    const struct netlock_tcp *tuples, size_t n, struct ferry_error *err)
{
	struct netlock *lock;
	if (fault_hit(fault, FAULT_NET_LOCK))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "locking the network: fault injected");
	fault_effect(fault, stage, "net-lock");
	int r = netlocks_at(locks, net, -1, &lock, err);
	return r < 0 ? r : netlock_add_tcp(lock, tuples, n, err);
}

struct tcp_effects {
	const struct fault *fault;
	const char *stage;
};

static void tcp_on_effect(void *ctx, const char *what)
{
	const struct tcp_effects *e = ctx;
	fault_effect(e->fault, e->stage, what);
}

/* ------------------------------------------------------------------ collect */

/* The library knows our copy; the message names the task's descriptor. */
static int tcp_failed(const struct fd_view *view, int r, const struct ferry_error *inner,
		      struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	error_set(err, inner->id, -r, "%s: %s", who, inner->message);
	if (inner->hint[0])
		error_hint(err, "%s", inner->hint);
	return r;
}

static int tcp_pause(struct collect *c, const struct fd_view *view, struct tcp_snap *tcp,
		     struct ferry_error *err)
{
	struct ferry_error inner = FERRY_ERROR_INIT;
	struct tcp_effects effects = {.fault = c->fault, .stage = "dump"};
	struct ferry_tcp_options options = FERRY_TCP_OPTIONS_INIT;
	options.flags = FERRY_TCP_PAUSE;
	options.on_effect = tcp_on_effect;
	options.on_effect_ctx = &effects;
	if (fault_hit(c->fault, FAULT_TCP_REPAIR))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "pausing a TCP connection: fault injected");
	tcp->entry = warden_arm(c->warden, WARDEN_TCP_RESUME, view->copy, WARDEN_UNLESS_COMMITTED, &tcp->undo,
				sizeof(tcp->undo));
	if (tcp->entry < 0)
		return error_errno(err, FERRY_ERROR_LIMIT, -tcp->entry,
				   "entering a TCP connection into the undo log");
	tcp->t = (struct ferry_tcp)FERRY_TCP_INIT;
	int r = ferry_tcp_take(view->copy, &options, &tcp->t, &inner);
	tcp->paused = r >= 0;
	if (r >= 0)
		return 0;
	warden_disarm(c->warden, tcp->entry);
	return tcp_failed(view, r, &inner, err);
}

static int tcp_record(int fd, const struct ferry_tcp *t, InetSkEntry *isk, FerrySocketEntry *extra,
		      struct ferry_error *err)
{
	int unacknowledged = 0;
	if (ioctl(fd, SIOCOUTQ, &unacknowledged) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno,
				   "reading the send queue of a TCP connection");
	/* It may have moved on until its packets were blocked. */
	isk->state = t->state;
	isk->backlog = (uint32_t)unacknowledged;
	unsigned shut = tcp_shutdown_of(t);
	isk->has_shutdown = shut != SK_SHUTDOWN__NONE;
	isk->shutdown = (SkShutdown)shut;
	if (t->fin_unsent)
		record_set(extra, fin_unsent, true);
	return 0;
}

/* Under --tcp-close it ends with the tree; nobody looks at what it was. */
int tcp_collect_over(struct collect *c, struct snap_file *file, InetSkEntry *isk, struct ferry_error *err)
{
	struct inet_snap *data = file->data;
	data->dead = record_new(&c->snap->arena, TcpStreamEntry, tcp_stream_entry);
	if (!data->dead)
		return error_memory(err);
	isk->state = INET_CLOSED;
	isk->has_ns_id = isk->ns_id != NET_ID_OWN;
	record_set(isk, shutdown, SK_SHUTDOWN__READ);
	record_set(data->extra, dead, true);
	data->dead->mss_clamp = TCP_OVER_MSS;
	return 0;
}

int tcp_collect(struct collect *c, struct fd_view *view, struct snap_file *file, InetSkEntry *isk,
		struct ferry_error *err)
{
	struct inet_snap *data = file->data;
	struct ferry_error inner = FERRY_ERROR_INIT;
	struct tcp_snap *tcp = arena_new(&c->snap->arena, struct tcp_snap);
	if (!tcp)
		return error_memory(err);
	tcp->connecting = isk->state == INET_SYN_SENT;
	int r = tcp->connecting ? 0 : ferry_tcp_check(view->copy, &tcp->undo, &inner);
	if (r < 0)
		return tcp_failed(view, r, &inner, err);
	/* Ferry stands where it has to be by now. */
	struct netlock *lock;
	tcp->net = net_here(view)->inode;
	r = c->netlocks ? netlocks_at(c->netlocks, tcp->net, -1, &lock, err) : 0;
	if (r < 0)
		return r;
	tcp->tuple = tcp_tuple(isk);
	data->tcp = tcp;
	file->copy = view->copy;
	view->copy = -1;
	return 0;
}

static struct tcp_snap *tcp_of(const struct snap_file *file)
{
	const struct inet_snap *data = file->kind == &kind_inetsk ? file->data : NULL;
	return data ? data->tcp : NULL;
}

/* Of one network namespace. */
static int tcp_tuples(struct snapshot *snap, uint64_t net, struct netlock_tcp **ret_tuples, size_t *ret_n)
{
	struct netlock_tcp *tuples = arena_array(&snap->arena, struct netlock_tcp, snap->files.n + 1);
	if (!tuples)
		return -ENOMEM;
	size_t n = 0;
	vec_foreach(file, &snap->files) {
		const struct tcp_snap *tcp = tcp_of(file);
		if (tcp && tcp->net == net)
			tuples[n++] = tcp->tuple;
	}
	*ret_tuples = tuples;
	*ret_n = n;
	return 0;
}

/* Until its packets were blocked a connection could still come to its end. */
static int tcp_collect_ended(struct collect *c, struct fd_view *view, struct snap_file *file,
			     struct ferry_error *err)
{
	struct inet_snap *data = file->data;
	data->tcp = NULL;
	file->entry->isk->state = INET_CLOSED;
	file->entry->isk->has_ns_id = file->entry->isk->ns_id != NET_ID_OWN;
	int r = tcp_dead_collect(c, view, file, file->entry->isk, err);
	close(take_fd(file->copy));
	return r;
}

/* Its packets are blocked by now: the answer that came before shows in the state. */
static int tcp_collect_connecting(const struct snap_file *file, struct ferry_error *err)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof(info);
	int r = sock_get_bytes(file->copy, SOL_TCP, TCP_INFO, &info, &n);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "fd %d of pid %d: reading its state",
				   file->fd, file->pid);
	if (info.tcpi_state == INET_SYN_SENT)
		return 0;
	error_set(err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
		  "fd %d of pid %d: a TCP socket that is being connected", file->fd, file->pid);
	error_hint(err, "try again when connect() has ended");
	return -ENOTSUP;
}

static int tcp_collect_one(struct collect *c, struct snap_file *file, struct tcp_snap *tcp,
			   struct ferry_error *err)
{
	const struct inet_snap *data = file->data;
	const struct snap_task *t = snapshot_task(c->snap, file->pid);
	struct fd_view view = {.pid = file->pid, .fd = file->fd, .copy = file->copy, .pidfd = -1};
	struct ferry_error inner = FERRY_ERROR_INIT;
	view.comm = t ? t->threads.v[0].core->tc->comm : "";
	if (tcp->connecting)
		return tcp_collect_connecting(file, err);
	int r = tcp_pause(c, &view, tcp, &inner);
	if (r == -ENOTCONN && tcp_was_connected(file->copy, INET_CLOSED))
		return tcp_collect_ended(c, &view, file, err);
	if (r >= 0)
		r = tcp_record(file->copy, &tcp->t, file->entry->isk, data->extra, &inner);
	if (r < 0 && err)
		*err = inner;
	return r;
}

/* Whether no earlier connection is of the same network namespace. */
static bool tcp_is_first_of(const struct snapshot *snap, size_t index)
{
	const struct tcp_snap *tcp = tcp_of(&snap->files.v[index]);
	for (size_t i = 0; i < index; i++) {
		const struct tcp_snap *before = tcp_of(&snap->files.v[i]);
		if (before && before->net == tcp->net)
			return false;
	}
	return true;
}

/* Those of the namespace that this connection has, if it is the first. */
static int tcp_lock_of(struct collect *c, size_t index, struct ferry_error *err)
{
	const struct tcp_snap *tcp = tcp_of(&c->snap->files.v[index]);
	struct netlock_tcp *tuples;
	size_t n = 0;
	if (!tcp || netlocks_is_whole(c->netlocks, tcp->net) || !tcp_is_first_of(c->snap, index))
		return 0;
	if (tcp_tuples(c->snap, tcp->net, &tuples, &n) < 0)
		return error_memory(err);
	return tcp_lock(c->netlocks, tcp->net, c->fault, "dump", tuples, n, err);
}

int tcp_collect_end(struct collect *c, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < c->snap->files.n && c->netlocks && r >= 0; i++)
		r = tcp_lock_of(c, i, err);
	for (size_t i = 0; i < c->snap->files.n && r >= 0; i++) {
		struct tcp_snap *tcp = tcp_of(&c->snap->files.v[i]);
		if (tcp)
			r = tcp_collect_one(c, &c->snap->files.v[i], tcp, err);
	}
	return r;
}

/* --------------------------------------------------------------------- dump */

/* Nothing was sent but the first packet, which will be sent anew; others want the record nevertheless. */
static void tcp_connecting_stream(TcpStreamEntry *ret)
{
	tcp_stream_entry__init(ret);
	ret->outq_seq = (uint32_t)time_now_ns();
	ret->mss_clamp = TCP_OVER_MSS;
	record_set(ret, unsq_len, 0);
	record_set(ret, snd_wl1, 0);
	record_set(ret, snd_wnd, 0);
	record_set(ret, max_window, 0);
	record_set(ret, rcv_wnd, UINT16_MAX);
	record_set(ret, rcv_wup, 0);
}

int tcp_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const struct inet_snap *data = file->data;
	TcpStreamEntry stream;
	const uint8_t *inq = data->inq, *outq = NULL;
	if (data->tcp && data->tcp->connecting) {
		tcp_connecting_stream(&stream);
	} else if (data->tcp) {
		tcp_to_stream(&data->tcp->t, &stream);
		inq = data->tcp->t.inq.bytes;
		outq = data->tcp->t.outq.bytes;
	} else {
		stream = *data->dead;
	}
	struct image_writer *w;
	int r = image_create(d->dir, IMAGE_TCP_STREAM, file->entry->isk->ino, &w, err);
	if (r >= 0)
		r = image_put(w, &stream.base, err);
	if (r >= 0 && stream.inq_len)
		r = image_put_raw(w, inq, stream.inq_len, err);
	if (r >= 0 && stream.outq_len)
		r = image_put_raw(w, outq, stream.outq_len, err);
	return r < 0 ? r : image_close(w, err);
}

/* ---------------------------------------------------------------- after the dump */

static struct tcp_snap *tcp_paused(const struct snap_file *file)
{
	struct tcp_snap *tcp = tcp_of(file);
	return tcp && tcp->paused ? tcp : NULL;
}

static void tcp_forget_queues(struct snapshot *snap)
{
	vec_foreach(file, &snap->files) {
		struct tcp_snap *tcp = tcp_paused(file);
		if (tcp)
			ferry_tcp_release(&tcp->t);
	}
}

/* First the lock goes, so that the first packets are not lost. */
static int tcp_resume_all(struct collect *c, struct ferry_error *err)
{
	int first = 0;
	fault_effect(c->fault, "dump", "net-unlock");
	first = netlocks_clear(c->netlocks, err);
	vec_foreach(file, &c->snap->files) {
		struct tcp_snap *tcp = tcp_paused(file);
		if (!tcp)
			continue;
		fault_effect(c->fault, "dump", "tcp: resume");
		struct ferry_tcp_undo undo = tcp->t.undo;
		int r = ferry_tcp_resume(file->copy, &undo, 0, err);
		if (r >= 0)
			warden_disarm(c->warden, tcp->entry);
		if (r < 0 && !first)
			first = r;
		ferry_tcp_release(&tcp->t);
		tcp->paused = false;
		close(take_fd(file->copy));
	}
	return first;
}

/* Block what the image has in one network namespace, with a lock that outlives us. ns: NULL = ferry's own. */
static int tcp_keep_locked_in(struct collect *c, uint64_t net, const struct snap_ns *ns, const char *id,
			      struct ferry_error *err)
{
	struct netlock_tcp *tuples = NULL;
	struct netlock *lock = NULL;
	size_t n;
	if (tcp_tuples(c->snap, net, &tuples, &n) < 0)
		return error_memory(err);
	_cleanup_close_ int dir = ns ? proc_open_look(ns->pid, err) : -1;
	int netns = dir < 0 ? -1 : proc_open_namespace(dir, PROC_NS_NET, err);
	if (ns && netns < 0)
		return dir < 0 ? dir : netns;
	/* The undo log names it, so it stays open until we end. */
	int entry = warden_arm(c->warden, WARDEN_NET_UNLOCK, netns, WARDEN_UNLESS_COMMITTED, id,
			       TCP_LOCK_ID_BYTES);
	if (entry < 0)
		return error_errno(err, FERRY_ERROR_LIMIT, -entry,
				   "entering the network lock into the undo log");
	fault_effect(c->fault, "dump", "net-lock-persist");
	int r = netlock_open(netns, NETLOCK_PERSIST, id, NETLOCK_IMAGE_MARK, &lock, err);
	if (r >= 0)
		r = netlock_add_tcp(lock, tuples, n, err);
	if (r >= 0) {
		netlock_close(lock);
	} else {
		netlock_remove(lock, NULL);
		warden_disarm(c->warden, entry);
	}
	return r;
}

/*
 * The tasks are about to be killed. Their sockets stay paused, so that whoever closes them last, a task that
 * dies or we, closes them silently; the packets stay blocked by a lock of the image's name. It blocks these connections
 * alone, so whoever keeps the namespace can go on using it; where nobody does it goes with it.
 */
static int tcp_keep_locked(struct collect *c, struct image_dir *dir, struct ferry_error *err)
{
	char run[37], id[TCP_LOCK_ID_BYTES];
	int r = 0;
	if (c->options->moving || !c->netlocks)
		return 0; /* who moves them keeps them blocked until their addresses have left */
	image_dir_id_text(dir, run);
	tcp_lock_id(run, id);
	for (size_t i = 0; i < c->snap->files.n && r >= 0; i++) {
		const struct tcp_snap *tcp = tcp_of(&c->snap->files.v[i]);
		if (tcp && tcp_is_first_of(c->snap, i))
			r = tcp_keep_locked_in(c, tcp->net, snapshot_ns(c->snap, PROC_NS_NET, tcp->net), id,
					       err);
	}
	return r;
}

int tcp_after(struct collect *c, struct image_dir *dir, bool kill, struct ferry_error *err)
{
	int r = kill ? tcp_keep_locked(c, dir, err) : 0;
	if (!kill || r < 0) {
		int back = tcp_resume_all(c, r < 0 ? NULL : err);
		return r < 0 ? r : back;
	}
	tcp_forget_queues(c->snap);
	fault_effect(c->fault, "dump", "net-unlock");
	return netlocks_clear(c->netlocks, err);
}

/* ------------------------------------------------------------------ restore */

static int tcp_read_queue(struct reader *r, struct image_reader *in, uint32_t n, uint8_t **ret,
			  struct ferry_error *err)
{
	if (n > image_reader_left(in))
		return image_bad(in, err, "a queue of %u bytes is announced, but the file ends before", n);
	*ret = arena_alloc(&r->plan->arena, n + 1u);
	return *ret ? image_get_raw(in, *ret, n, err) : error_memory(err);
}

int tcp_read(struct reader *r, struct plan_file *file, struct ferry_error *err)
{
	const InetSkEntry *isk = file->entry->isk;
	bool closed = isk->proto == IPPROTO_TCP && isk->state == INET_CLOSED &&
		      image_dir_has(r->dir, IMAGE_TCP_STREAM, isk->ino);
	if ((!inet_is_connection(isk) && !closed) || isk->state == INET_SYN_SENT)
		return 0;
	_cleanup_reader_ struct image_reader *in = NULL;
	struct tcp_plan *plan = arena_new(&r->plan->arena, struct tcp_plan);
	if (!plan)
		return error_memory(err);
	int ret = image_open(r->dir, IMAGE_TCP_STREAM, isk->ino, &in, err);
	if (ret >= 0)
		ret = image_need(in, &tcp_stream_entry__descriptor, &plan->stream, err);
	if (ret < 0)
		return ret;
	ret = records_keep(r->plan, plan->stream, err);
	if (ret >= 0)
		ret = tcp_read_queue(r, in, plan->stream->inq_len, &plan->inq, err);
	if (ret >= 0)
		ret = tcp_read_queue(r, in, plan->stream->outq_len, &plan->outq, err);
	((struct sock_plan *)file->data)->kind = plan;
	return ret;
}

/*
 * A listener may have a connection's port, and then has to have it first: a connection can be added to a
 * port, but not a listener.
 */
static int tcp_open_listeners(struct opener *o, const struct plan_file *connection, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < o->plan->n_files && !o->listens && r >= 0; i++) {
		struct plan_file *file = &o->plan->files[i];
		if (file->fd >= 0 || file->kind != &kind_inetsk || !inet_is_tcp(file->entry->isk) ||
		    file->entry->isk->state != INET_LISTENING)
			continue;
		r = net_stand_for(o, file, err);
		if (r >= 0)
			r = inet_restore(o, file, &file->fd, err);
	}
	o->listens = true;
	return r < 0 ? r : net_stand_for(o, connection, err);
}

static int tcp_rebuild(struct opener *o, const struct plan_file *file, const struct ferry_tcp *t,
		       bool *ret_transparent, int *ret_fd, struct ferry_error *err)
{
	const InetSkEntry *isk = file->entry->isk;
	const IpOptsEntry *ip = isk->ip_opts;
	struct tcp_effects effects = {.fault = o->fault, .stage = "restore"};
	struct ferry_tcp_options options = FERRY_TCP_OPTIONS_INIT;
	options.on_effect = tcp_on_effect;
	options.on_effect_ctx = &effects;
	options.packet_mark = NETLOCK_IMAGE_MARK;
	options.bound_device =
		isk->opts->so_bound_dev && isk->opts->so_bound_dev[0] ? isk->opts->so_bound_dev : NULL;
	options.mark = isk->opts->has_so_mark ? isk->opts->so_mark : 0;
	if (ip && ip->has_freebind && ip->freebind)
		options.flags |= FERRY_TCP_FREEBIND;
	if (ip && ip->has_tos && isk->family == AF_INET) {
		options.flags |= FERRY_TCP_SET_TOS;
		options.tos = (uint8_t)ip->tos;
	}
	if (ip && ip->has_ttl && isk->family == AF_INET) {
		options.flags |= FERRY_TCP_SET_TTL;
		options.ttl = (uint8_t)ip->ttl;
	}
	int r = ferry_tcp_rebuild(t, &options, ret_fd, err);
	*ret_transparent = r == -EADDRNOTAVAIL && o->options->moving;
	if (!*ret_transparent)
		return r;
	error_clear(err);
	options.flags |= FERRY_TCP_TRANSPARENT;
	return ferry_tcp_rebuild(t, &options, ret_fd, err);
}

/* Void until the job is committed; from then on the connections have to go on whatever happens to us. */
static int tcp_arm(struct opener *o, struct tcp_plan *plan, int fd, struct ferry_error *err)
{
	int r = plan->entry = warden_arm(o->warden, WARDEN_TCP_RESUME, fd, WARDEN_ONCE_COMMITTED, &plan->undo,
					 sizeof(plan->undo));
	if (r < 0)
		return error_errno(err, FERRY_ERROR_LIMIT, -r, "entering a TCP connection into the undo log");
	plan->paused = true;
	return 0;
}

/*
 * The lock that the dump left goes with the commit, too. Its entry is made first, so it is carried out last:
 * harmless.
 */
static int tcp_arm_unlock(struct opener *o, int netns, struct ferry_error *err)
{
	char id[TCP_LOCK_ID_BYTES];
	if (!tcp_plan_lock_id(o, id))
		return 0;
	int r = warden_arm(o->warden, WARDEN_NET_UNLOCK, netns, WARDEN_ONCE_COMMITTED, id, sizeof(id));
	return r < 0 ? error_errno(err, FERRY_ERROR_LIMIT, -r, "entering the network lock into the undo log")
		     : 0;
}

/* Every connection of the image in the namespace where ferry stands, before the first one is rebuilt. */
int tcp_lock_plan(struct opener *o, struct ferry_error *err)
{
	struct plan *p = o->plan;
	size_t n = 0;
	if (!o->netlocks || netlocks_has(o->netlocks, o->net))
		return 0;
	struct netlock_tcp *tuples = arena_array(&p->arena, struct netlock_tcp, p->n_files + 1);
	if (!tuples)
		return error_memory(err);
	for (size_t i = 0; i < p->n_files; i++) {
		const struct plan_file *file = &p->files[i];
		if (file->kind == &kind_inetsk && file->net == o->net && inet_is_connection(file->entry->isk))
			tuples[n++] = tcp_tuple(file->entry->isk);
	}
	if (!n)
		return 0;
	int r = o->net ? 0 : tcp_arm_unlock(o, -1, err);
	if (r >= 0)
		r = tcp_lock(o->netlocks, o->net, o->fault, "restore", tuples, n, err);
	char id[TCP_LOCK_ID_BYTES];
	bool has_id = tcp_plan_lock_id(o, id);
	/* A connection that left this machine before and comes back now is still locked by the image that it left with. */
	return r < 0 || o->net ? r : netlock_forget(-1, has_id ? id : NULL, tuples, n, err);
}

int tcp_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const struct sock_plan *sock = file->data;
	struct tcp_plan *plan = sock->kind;
	const InetSkEntry *isk = file->entry->isk;
	_cleanup_close_ int fd = -1;
	struct ferry_tcp t;
	int r = tcp_from_records(isk, plan, sock->extra, &t, err);
	if (r >= 0)
		r = tcp_open_listeners(o, file, err);
	if (r >= 0)
		r = tcp_lock_plan(o, err);
	if (r >= 0)
		r = tcp_rebuild(o, file, &t, &plan->transparent, &fd, err);
	if (r < 0)
		return r;
	plan->undo = t.undo;
	r = inet_finish(o, file, fd, err);
	if (r >= 0)
		r = tcp_arm(o, plan, fd, err);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

int tcp_connecting_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const InetSkEntry *isk = file->entry->isk;
	_cleanup_close_ int fd = socket((int)isk->family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "making the socket of file id %u",
				   file->entry->id);
	int r = tcp_open_listeners(o, file, err);
	if (r >= 0)
		r = tcp_lock_plan(o, err);
	if (r >= 0)
		r = inet_bind(o, file, fd, err);
	if (r >= 0)
		r = inet_finish(o, file, fd, err);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

/* With a new first packet, as if the one before had been lost; the outcome is the program's to see. */
static void tcp_connect_again(struct opener *o, const struct plan_file *file)
{
	struct sockaddr_storage address;
	socklen_t n = inet_address(file->entry->isk, true, &address);
	int flags = fcntl(file->fd, F_GETFL), r = 0;
	if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    (connect(file->fd, (const struct sockaddr *)&address, n) < 0 && errno != EINPROGRESS))
		r = -errno;
	if (flags >= 0 && fcntl(file->fd, F_SETFL, flags) < 0 && r >= 0)
		r = -errno;
	if (r < 0)
		log_write(o->log, LOG_WARN, "restore", "inet", 0, "file id %u does not connect: %s",
			  file->entry->id, strerror(-r));
}

static bool tcp_is_paused(const struct plan_file *file)
{
	const struct sock_plan *sock =
		file->kind == &kind_inetsk && inet_is_connection(file->entry->isk) ? file->data : NULL;
	const struct tcp_plan *plan = sock ? sock->kind : NULL;
	return plan && plan->paused && file->fd >= 0;
}

/* In a namespace that the caller has kept CRIU leaves its lock, which blocks all of it. */
static bool tcp_may_be_blocked(const struct plan_ns *ns)
{
	return ns->type == PROC_NS_NET && ns->given;
}

int tcp_ready(struct opener *o, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < o->plan->namespaces.n && r >= 0; i++)
		if (tcp_may_be_blocked(&o->plan->namespaces.v[i]))
			r = tcp_arm_unlock(o, o->plan->namespaces.v[i].fd, err);
	return r;
}

/* ferry stands in it. id: NULL = it has none. CRIU's lock has one of two forms, and which it was the image tells. */
static int tcp_unlock_given(struct opener *o, const char *id, struct ferry_error *err)
{
	int r = id ? netlock_find_and_remove(-1, id, err) : 0;
	if (r < 0 || !o->plan->inventory ||
	    o->plan->inventory->network_lock_method != TCP_LOCK_METHOD_IPTABLES)
		return r;
	r = net_rules_unlock(o->options);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "taking the chain CRIU out of the rules of iptables")
		     : 0;
}

static int tcp_unlock_image(struct opener *o, struct ferry_error *err)
{
	char id[TCP_LOCK_ID_BYTES];
	bool has_id = tcp_plan_lock_id(o, id), home = has_id && netlocks_has(o->netlocks, 0);
	int r = home ? net_stand_in(o, 0, err) : 0;
	if (r >= 0 && home)
		r = netlock_find_and_remove(-1, id, err);
	for (size_t i = 0; i < o->plan->namespaces.n && r >= 0; i++) {
		const struct plan_ns *ns = &o->plan->namespaces.v[i];
		r = tcp_may_be_blocked(ns) ? net_stand_in(o, ns->id, err) : 0;
		if (r >= 0 && tcp_may_be_blocked(ns))
			r = tcp_unlock_given(o, has_id ? id : NULL, err);
	}
	return r;
}

static void tcp_unlock(struct opener *o)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	fault_effect(o->fault, "restore", "net-unlock");
	int r = tcp_unlock_image(o, &err);
	fault_effect(o->fault, "restore", "net-unlock");
	if (netlocks_remove(o->netlocks, r < 0 ? NULL : &err) < 0 || r < 0)
		log_write(o->log, LOG_WARN, "restore", "inet", 0, "removing the network lock: %s",
			  err.message);
}

void tcp_before_run(struct opener *o)
{
	bool locked = netlocks_has_any(o->netlocks);
	for (size_t i = 0; i < o->plan->namespaces.n && !locked; i++)
		locked = tcp_may_be_blocked(&o->plan->namespaces.v[i]);
	if (locked)
		tcp_unlock(o);
	for (size_t i = 0; i < o->plan->n_files; i++) {
		struct plan_file *file = &o->plan->files[i];
		if (file->kind == &kind_inetsk && file->fd >= 0 && file->entry->isk->state == INET_SYN_SENT &&
		    inet_is_connection(file->entry->isk))
			tcp_connect_again(o, file);
		if (!tcp_is_paused(file))
			continue;
		struct ferry_error err = FERRY_ERROR_INIT;
		struct tcp_plan *plan = ((struct sock_plan *)file->data)->kind;
		fault_effect(o->fault, "restore", "tcp: resume");
		if (ferry_tcp_resume(file->fd, &plan->undo, 0, &err) < 0)
			log_write(o->log, LOG_WARN, "restore", "inet", 0, "file id %u: %s", file->entry->id,
				  err.message);
		else
			warden_disarm(o->warden, plan->entry);
		/* Its address is there by now. */
		if (plan->transparent && inet_set_transparent(file->fd, file->entry->isk, false) < 0)
			log_write(o->log, LOG_WARN, "restore", "inet", 0, "file id %u keeps IP_TRANSPARENT",
				  file->entry->id);
		plan->paused = false;
	}
}
