/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the look at all unix sockets of the network namespaces in which the tree has some: which of them the tree has, who is connected to
 * whom, and what stands in the way of a dump.
 *
 * Kernel interface: NETLINK_SOCK_DIAG with unix_diag (3.3).
 * Does not handle: peers outside of the tree, but for those under --ext-unix-sk or --external; connections of
 * outside that wait to be accepted; bytes in a connection that nobody accepted: no call reads them before
 * accept(2), which cannot be taken back (looked at up to Linux 6.18).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/sockdiag.h"
#include "kernel/caps.h"
#include "kind/external.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "kind/peers.h"
#include "kind/sockextra.h"
#include "kind/unix_snap.h"

/* A socket of the tree that was seen. */
struct unix_seen {
	struct unix_seen *next;
	const struct unix_sock *sock;
	pid_t pid;
	int fd;
	char comm[32];
	bool waits_elsewhere;
};

/* A connection that nobody accepted yet. */
struct unix_pending {
	uint32_t client;   /* inode; 0: it was closed */
	uint32_t listener; /* inode */
	uint32_t place;    /* in the listener's queue, from 1 on */
};

/* A socket that was asked for by itself. */
struct unix_late {
	struct unix_late *next;
	struct unix_sock sock;
};

/* All of one network namespace. */
struct unix_list {
	struct unix_list *next;
	struct unix_sock *socks; /* by inode */
	size_t n;
};

/* During one check or collect. */
struct unix_scan {
	struct unix_list *lists;
	struct unix_late *late; /* those that the list lacks */
	struct unix_pending *pending;
	size_t n_pending;
	struct unix_seen *seen;
	uint32_t *inodes; /* of all that were seen, sorted; made at the end */
	size_t n_inodes;
	struct peers *peers;
	bool external_allowed; /* --ext-unix-sk */
	const struct kind_options *options;
};

static int unix_compare_inodes(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static bool unix_is_seen(const struct unix_scan *scan, uint32_t inode)
{
	return scan->n_inodes &&
	       bsearch(&inode, scan->inodes, scan->n_inodes, sizeof(inode), unix_compare_inodes);
}

/* --------------------------------------------------------------------- scan */

static int unix_scan_keep_pending(struct arena *a, struct unix_scan *scan, struct unix_sock *socks, size_t n)
{
	size_t n_pending = scan->n_pending;
	for (size_t i = 0; i < n; i++)
		n_pending += socks[i].n_pending;
	struct unix_pending *pending = arena_array(a, struct unix_pending, n_pending + 1);
	if (!pending)
		return -ENOMEM;
	if (scan->n_pending)
		memcpy(pending, scan->pending, scan->n_pending * sizeof(*pending));
	scan->pending = pending;
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < socks[i].n_pending; k++)
			scan->pending[scan->n_pending++] = (struct unix_pending){
				.client = socks[i].pending[k],
				.listener = socks[i].inode,
				.place = (uint32_t)k + 1,
			};
		socks[i].pending = NULL;
		socks[i].n_pending = 0;
	}
	return 0;
}

static int unix_scan_keep(struct arena *a, struct unix_scan *scan, const struct unix_sock *socks, size_t n)
{
	struct unix_list *list = arena_new(a, struct unix_list);
	if (!list)
		return -ENOMEM;
	*list = (struct unix_list){
		.next = scan->lists, .socks = n ? arena_copy(a, socks, n * sizeof(*socks)) : NULL, .n = n};
	scan->lists = list;
	return n && !list->socks ? -ENOMEM : unix_scan_keep_pending(a, scan, list->socks, n);
}

static const struct unix_sock *unix_scan_find(const struct unix_scan *scan, uint32_t inode)
{
	const struct unix_sock *sock = NULL;
	for (const struct unix_list *l = scan->lists; l && !sock; l = l->next)
		sock = unix_socks_find(l->socks, l->n, inode);
	for (const struct unix_late *late = scan->late; late && !sock; late = late->next)
		sock = late->sock.inode == inode ? &late->sock : NULL;
	return sock;
}

/*
 * A live tree makes sockets after we asked, and the kernel's list skips one now and then when others come and go while it is
 * read. *ret_sock is NULL when the network namespace has no such socket.
 */
static int unix_scan_ask(const struct fd_view *view, struct unix_scan *scan,
			 const struct unix_sock **ret_sock, struct ferry_error *err)
{
	struct unix_late *late = arena_new(view->arena, struct unix_late);
	if (!late)
		return error_memory(err);
	int r = sockdiag_unix_one(-1, sock_inode(view), &late->sock, err);
	if (r < 0) {
		*ret_sock = NULL;
		return r == -ENOENT ? 0 : r;
	}
	uint32_t *pending = late->sock.pending;
	r = unix_scan_keep_pending(view->arena, scan, &late->sock, 1);
	free(pending);
	if (r < 0)
		return error_memory(err);
	late->next = scan->late;
	scan->late = late;
	*ret_sock = &late->sock;
	return 0;
}

/* The kernel is asked once for each namespace and check or collect. */
static int unix_scan_here(const struct fd_view *view, struct unix_scan *scan, struct ferry_error *err)
{
	struct net_place *here = net_here(view);
	struct unix_sock *socks = NULL;
	size_t n = 0;
	int r = here->has_unix ? 0 : sockdiag_unix(-1, &socks, &n, err);
	if (r < 0 || here->has_unix)
		return r;
	r = unix_scan_keep(view->arena, scan, socks, n);
	unix_socks_free(socks, n);
	here->has_unix = true;
	return r < 0 ? error_memory(err) : 0;
}

static int unix_scan_get(const struct fd_view *view, struct unix_scan **ret, struct ferry_error *err)
{
	struct unix_scan *scan = view->kind_data[KIND_unixsk];
	if (!scan) {
		scan = arena_new(view->arena, struct unix_scan);
		if (!scan)
			return error_memory(err);
		scan->peers = view->peers;
		view->kind_data[KIND_unixsk] = scan;
	}
	*ret = scan;
	return unix_scan_here(view, scan, err);
}

static bool unix_is_pending(const struct unix_scan *scan, uint32_t client)
{
	for (size_t i = 0; i < scan->n_pending; i++)
		if (scan->pending[i].client == client)
			return true;
	return false;
}

/* Nobody has the other end, and nobody closed it: then it waits to be accepted. */
static bool unix_waits(const struct unix_sock *sock)
{
	return sock->type != SOCK_DGRAM && sock->has_peer && !sock->peer_inode &&
	       sock->shutdown != (UNIX_SHUT_RECEIVE | UNIX_SHUT_SEND);
}

/*
 * A connection waits at no listener of this network namespace. A list tells of a moment for each socket: who was connected, or
 * accepted, meanwhile is in the next one.
 */
static int unix_waits_elsewhere(const struct unix_scan *scan, const struct unix_sock *sock, bool *ret,
				struct ferry_error *err)
{
	struct unix_sock *again = NULL;
	_cleanup_(unix_sock_release) struct unix_sock last = {0};
	size_t n = 0;
	*ret = false;
	if (!unix_waits(sock) || unix_is_pending(scan, sock->inode))
		return 0;
	int r = sockdiag_unix(-1, &again, &n, err);
	if (r < 0)
		return r;
	bool here = false;
	for (size_t i = 0; i < n && !here; i++)
		for (size_t k = 0; k < again[i].n_pending && !here; k++)
			here = again[i].pending[k] == sock->inode;
	unix_socks_free(again, n);
	r = here ? 0 : sockdiag_unix_one(-1, sock->inode, &last, err);
	if (r >= 0)
		*ret = !here && unix_waits(&last);
	return r;
}

static int unix_scan_seen(const struct fd_view *view, struct unix_scan *scan, const struct unix_sock *sock,
			  struct ferry_error *err)
{
	bool elsewhere = false;
	int r = unix_waits_elsewhere(scan, sock, &elsewhere, err);
	if (r < 0)
		return r;
	struct unix_seen *seen = arena_new(view->arena, struct unix_seen);
	if (!seen)
		return error_memory(err);
	*seen = (struct unix_seen){.next = scan->seen,
				   .sock = sock,
				   .pid = view->pid,
				   .fd = view->fd,
				   .waits_elsewhere = elsewhere};
	snprintf(seen->comm, sizeof(seen->comm), "%s", view->comm);
	scan->seen = seen;
	return 0;
}

int unix_look_up(const struct fd_view *view, const struct kind_options *options,
		 const struct unix_sock **ret_sock, struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	struct unix_scan *scan = NULL;
	int r = unix_scan_get(view, &scan, err);
	if (r < 0 || !scan)
		return r;
	scan->external_allowed = options->ext_unix_sk;
	scan->options = options;
	const struct unix_sock *sock = unix_scan_find(scan, sock_inode(view));
	if (!sock) {
		r = unix_scan_ask(view, scan, &sock, err);
		if (r < 0)
			return r;
	}
	if (!sock) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_NAMESPACE, ENOTSUP,
			  "%s: a unix socket that this network namespace does not know", who);
		error_hint(err, "it was made in another network namespace");
		return -ENOTSUP;
	}
	*ret_sock = sock;
	return unix_scan_seen(view, scan, sock, err);
}

uint32_t unix_pending_on(const struct fd_view *view, uint32_t inode, uint32_t *ret_place)
{
	const struct unix_scan *scan = view->kind_data[KIND_unixsk];
	for (size_t i = 0; scan && i < scan->n_pending; i++)
		if (scan->pending[i].client == inode) {
			*ret_place = scan->pending[i].place;
			return scan->pending[i].listener;
		}
	return 0;
}

/* -------------------------------------------------------------------- check */

bool unix_owns(const struct fd_view *view)
{
	char name[32];
	return sock_protocol(view, name) >= 0 && !strncmp(name, "UNIX", 4);
}

int unix_check(const struct fd_view *view, const struct kind_options *options, struct ferry_error *err)
{
	const struct unix_sock *sock = NULL;
	int r = sock_check(view, err);
	if (r >= 0)
		r = unix_look_up(view, options, &sock, err);
	if (r >= 0 && sock && kern_denied(options->caps, KERN_CAP_TCP_REPAIR))
		r = unix_check_name(view, sock, err);
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
		inodes[scan->n_inodes++] = s->sock->inode;
	qsort(inodes, n, sizeof(*inodes), unix_compare_inodes);
	scan->inodes = inodes;
	return 0;
}

static void unix_seen_name(const struct unix_seen *s, char *ret_text, size_t n)
{
	snprintf(ret_text, n, "fd %d of pid %d (%s)", s->fd, s->pid, s->comm);
}

/* "'/run/x' ", "'@name' " or nothing. */
static void unix_sock_name(const struct unix_sock *sock, char *ret_text, size_t n)
{
	bool abstract = sock && sock->has_name && sock->name_len && !sock->name[0];
	if (!sock || !sock->has_name || !sock->name_len)
		ret_text[0] = '\0';
	else
		snprintf(ret_text, n, "'%s%.*s' ", abstract ? "@" : "", sock->name_len - abstract,
			 sock->name + abstract);
}

/* A session or system bus: its socket is named so, by those who follow the specification. */
static bool unix_is_bus(const struct unix_sock *sock)
{
	static const char bus[] = "/bus", dbus[] = "dbus";
	return sock && sock->has_name &&
	       (memmem(sock->name, sock->name_len, dbus, sizeof(dbus) - 1) ||
		(sock->name_len >= sizeof(bus) - 1 && memmem(sock->name + sock->name_len - (sizeof(bus) - 1),
							     sizeof(bus) - 1, bus, sizeof(bus) - 1)) ||
		(sock->name_len >= sizeof(bus) && !sock->name[sock->name_len - 1] &&
		 memmem(sock->name + sock->name_len - sizeof(bus), sizeof(bus), bus, sizeof(bus))));
}

static int unix_refuse_outside(const struct unix_scan *scan, const struct unix_seen *s,
			       const struct unix_sock *other, uint32_t inode, const char *how,
			       struct ferry_error *err)
{
	char who[80], name[128], held[64] = "";
	struct peer peer;
	unix_seen_name(s, who, sizeof(who));
	unix_sock_name(other, name, sizeof(name));
	int r = inode ? peers_outside(scan->peers, PEER_SOCKET, inode, &peer, err) : 0;
	if (r < 0)
		return r;
	if (r > 0)
		snprintf(held, sizeof(held), ", fd %d of pid %d", peer.fd, peer.pid);
	error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
		  "%s: a unix socket %s %s(socket:[%u]%s), which is outside of the tree", who, how, name,
		  inode, held);
	if (s->sock->type == SOCK_DGRAM && !other)
		error_hint(
			err,
			"it was made in another network namespace, where its name is not known: let the program connect again after the restore");
	else if (s->sock->type == SOCK_DGRAM)
		error_hint(err, "with --ext-unix-sk it is connected to that name again at the restore");
	else if (unix_is_bus(other))
		error_hint(
			err,
			"this is D-Bus: start the program with a bus of its own (ferry run -- dbus-run-session -- ...), or without one (DBUS_SESSION_BUS_ADDRESS=disabled:)");
	else
		error_hint(
			err,
			"dump from a process on that includes both ends, or keep it with --external unix[%u] and "
			"give it another peer with restore --inherit-fd fd[N]:socket:[%u]",
			s->sock->inode, s->sock->inode);
	return -ENOTSUP;
}

static int unix_refuse_pending(const struct unix_seen *s, uint32_t n, const char *what,
			       struct ferry_error *err)
{
	char who[80];
	unix_seen_name(s, who, sizeof(who));
	error_set(err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
		  "%s: %u connections to this unix socket wait to be accepted, one of them %s", who, n, what);
	error_hint(err, "try again when the program has accepted them");
	return -ENOTSUP;
}

/* Connections that wait: those of the tree are made again, if nothing waits in them. */
static int unix_check_listener(const struct unix_scan *scan, const struct unix_seen *s,
			       struct ferry_error *err)
{
	for (size_t i = 0; i < scan->n_pending; i++) {
		const struct unix_pending *p = &scan->pending[i];
		if (p->listener != s->sock->inode)
			continue;
		if (!p->client || !unix_is_seen(scan, p->client))
			return unix_refuse_pending(
				s, s->sock->rqueue,
				p->client ? "from outside of the tree" : "closed by its client", err);
		/* What it sent and nobody took yet. */
		const struct unix_sock *client = unix_scan_find(scan, p->client);
		if (client && client->wqueue)
			return unix_refuse_pending(
				s, s->sock->rqueue,
				"with data, which no call reads before accept() (Linux 6.18)", err);
	}
	return 0;
}

/* A client whose connection waits at a listener outside. */
static int unix_check_waiting(const struct unix_scan *scan, const struct unix_seen *s,
			      struct ferry_error *err)
{
	for (size_t i = 0; i < scan->n_pending; i++) {
		const struct unix_pending *p = &scan->pending[i];
		if (p->client == s->sock->inode && !unix_is_seen(scan, p->listener))
			return unix_refuse_outside(scan, s, unix_scan_find(scan, p->listener), p->listener,
						   "that waits to be accepted by", err);
	}
	if (!s->waits_elsewhere || unix_is_pending(scan, s->sock->inode))
		return 0;
	char who[80];
	unix_seen_name(s, who, sizeof(who));
	error_set(err, FERRY_ERROR_OUTSIDE_PEER, ENOTSUP,
		  "%s: a unix socket that waits to be accepted by somebody in another network namespace",
		  who);
	error_hint(err, "let the program connect when the other one accepts, or close the socket");
	return -ENOTSUP;
}

/* Somebody outside sends to this one, and would lose it. */
static int unix_check_senders(const struct unix_scan *scan, const struct unix_seen *s,
			      struct ferry_error *err)
{
	int r = 0;
	for (const struct unix_list *l = scan->lists; l && !scan->external_allowed && r >= 0; l = l->next)
		for (size_t i = 0; i < l->n && r >= 0; i++) {
			const struct unix_sock *o = &l->socks[i];
			if (o->type == SOCK_DGRAM && o->inode && o->has_peer &&
			    o->peer_inode == s->sock->inode && !unix_is_seen(scan, o->inode))
				r = unix_refuse_outside(scan, s, o, o->inode, "that is the peer of", err);
		}
	return r;
}

/* What it has received stays with the peer that it had. */
static int unix_check_external(const struct unix_seen *s, struct ferry_error *err)
{
	char who[80];
	if (!s->sock->rqueue)
		return 0;
	unix_seen_name(s, who, sizeof(who));
	error_set(err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
		  "%s: a unix socket with a peer outside of the tree, and data that wait", who);
	error_hint(err, "try again when the program has read them");
	return -ENOTSUP;
}

static int unix_check_seen(const struct unix_scan *scan, const struct unix_seen *s, struct ferry_error *err)
{
	const struct unix_sock *sock = s->sock;
	int r = sock->state == UNIX_LISTENING ? unix_check_listener(scan, s, err) : 0;
	if (r >= 0)
		r = unix_check_waiting(scan, s, err);
	if (r < 0)
		return r;
	if (scan->options->service_socket && sock->inode == scan->options->service_socket)
		return 0;
	bool datagram = sock->type == SOCK_DGRAM;
	const struct unix_sock *peer = sock->has_peer ? unix_scan_find(scan, sock->peer_inode) : NULL;
	bool named = peer && peer->has_name && peer->name_len && (!peer->name[0] || peer->name[0] == '/');
	if (sock->has_peer && sock->peer_inode && !unix_is_seen(scan, sock->peer_inode) &&
	    external_unix(scan->options, sock->inode))
		return unix_check_external(s, err);
	if (sock->has_peer && sock->peer_inode && !unix_is_seen(scan, sock->peer_inode) &&
	    !(datagram && scan->external_allowed && named))
		return unix_refuse_outside(scan, s, peer, sock->peer_inode, "connected to", err);
	return datagram ? unix_check_senders(scan, s, err) : 0;
}

/* What shows only when all sockets of the tree are known. */
int unix_check_end(void *const *kind_data, size_t *at, struct ferry_error *err)
{
	struct unix_scan *scan = kind_data[KIND_unixsk];
	size_t i = 0;
	int r = scan ? unix_scan_sort(scan, err) : 0;
	if (!scan || r < 0)
		return r;
	for (const struct unix_seen *s = scan->seen; s && r >= 0; s = s->next) {
		if (i++ < *at)
			continue;
		*at = i;
		r = unix_check_seen(scan, s, err);
	}
	free(scan->inodes);
	scan->inodes = NULL;
	scan->n_inodes = 0;
	return r;
}

const struct unix_sock *unix_outside(struct collect *c, uint32_t inode)
{
	const struct unix_scan *scan = c->kind_data[KIND_unixsk];
	for (const struct unix_seen *s = scan ? scan->seen : NULL; s; s = s->next)
		if (s->sock->inode == inode)
			return NULL;
	return scan ? unix_scan_find(scan, inode) : NULL;
}
