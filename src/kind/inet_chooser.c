/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns programs that choose among the sockets of one port (SO_ATTACH_REUSEPORT_CBPF): instructions, and the places of the sockets
 * in their group, which are what a program answers with. Sockets come back in the order of their places.
 *
 * Kernel interface: host/reuseport.h; SO_ATTACH_REUSEPORT_CBPF (4.5).
 * Does not handle: programs of eBPF, groups with sockets outside of the tree or in another order than that of their descriptors:
 * refused by name. Where the kernel has no iterators over sockets (before 5.9, or without a description of its types), such
 * programs are not seen and the kernel's own choice remains; nor are they by ordinary users, who lack CAP_BPF.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "host/reuseport.h"
#include "kind/fdcommon.h"
#include "kind/inet.h"
#include "kind/peers.h"
#include "kind/sockopt.h"
#include "model/record.h"

#ifndef SO_ATTACH_REUSEPORT_CBPF
#define SO_ATTACH_REUSEPORT_CBPF 51
#endif

/* One of the list, and when it was met: from 1 on in its group. */
struct inet_chooser {
	struct reuseport socket;
	uint32_t met;
};

static int inet_chooser_keep(struct arena *a, struct inet_scan *scan, const struct reuseport *list, size_t n)
{
	scan->choosers = arena_array(a, struct inet_chooser, n + 1);
	for (size_t i = 0; scan->choosers && i < n; i++) {
		struct inet_chooser *c = &scan->choosers[scan->n_choosers++];
		*c = (struct inet_chooser){.socket = list[i]};
		if (list[i].code)
			c->socket.code = arena_copy(a, list[i].code, list[i].n * sizeof(*list[i].code));
		if (list[i].code && !c->socket.code)
			return -ENOMEM;
	}
	return scan->choosers ? 0 : -ENOMEM;
}

/* The kernel is asked once for each check or collect. */
static int inet_chooser_list(const struct fd_view *view, struct inet_scan *scan, struct ferry_error *err)
{
	struct reuseport *list = NULL;
	size_t n = 0;
	if (scan->choosers)
		return 0;
	int r = reuseport_list(&list, &n);
	scan->blind = r == -EPERM;
	if (r == -EOPNOTSUPP || r == -EPERM)
		r = n = 0;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r,
				   "looking for programs that choose among sockets");
	r = inet_chooser_keep(view->arena, scan, list, n);
	reuseport_free(list, n);
	return r < 0 ? error_memory(err) : 0;
}

static int inet_chooser_refuse(const char *who, const char *what, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
		  "%s: among the sockets of its port a program chooses%s", who, what);
	error_hint(err, "let the program use a classic one (SO_ATTACH_REUSEPORT_CBPF), or none");
	return -ENOTSUP;
}

static int inet_chooser_outside(const struct fd_view *view, const struct inet_scan *scan, uint64_t group,
				struct ferry_error *err)
{
	struct peer peer;
	int r = 0;
	for (size_t i = 0; i < scan->n_choosers && !r; i++)
		if (scan->choosers[i].socket.group == group)
			r = peers_outside(view->peers, PEER_SOCKET, scan->choosers[i].socket.inode, &peer,
					  err);
	return r;
}

static struct inet_chooser *inet_chooser_meet(struct inet_scan *scan, uint64_t inode)
{
	struct inet_chooser *found = NULL;
	uint32_t met = 1;
	for (size_t i = 0; i < scan->n_choosers && !found; i++)
		if (scan->choosers[i].socket.inode == inode)
			found = &scan->choosers[i];
	for (size_t i = 0; found && !found->met && i < scan->n_choosers; i++)
		met += scan->choosers[i].socket.group == found->socket.group && scan->choosers[i].met;
	if (found && !found->met)
		found->met = met;
	return found;
}

/* Whether another socket waits on the port of this one. */
static bool inet_chooser_matters(const struct inet_scan *scan, uint32_t inode)
{
	const struct inet_sock *own = NULL;
	for (size_t i = 0; i < scan->n && !own; i++)
		if (scan->socks[i].inode == inode)
			own = &scan->socks[i];
	for (size_t i = 0; own && i < scan->n; i++) {
		const struct inet_sock *s = &scan->socks[i];
		if (s != own && s->protocol == own->protocol && s->local_port == own->local_port &&
		    s->state == own->state && !s->remote_port)
			return own->local_port && !own->remote_port;
	}
	return false;
}

static int inet_chooser_unseen(const char *who, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_PERMISSION, EPERM,
		  "%s: shares its port (SO_REUSEPORT), and whether a program chooses is told to root alone",
		  who);
	error_hint(err, "the program would be lost; let one socket have the port, or run ferry as root");
	return -EPERM;
}

static int inet_chooser_find(const struct fd_view *view, struct inet_scan *scan,
			     const struct inet_chooser **ret, struct ferry_error *err)
{
	char who[64];
	int r = inet_chooser_list(view, scan, err);
	if (r < 0)
		return r;
	fd_view_name(view, who, sizeof(who));
	if (scan->blind && inet_chooser_matters(scan, sock_inode(view)))
		return inet_chooser_unseen(who, err);
	const struct inet_chooser *c = inet_chooser_meet(scan, sock_inode(view));
	*ret = c;
	if (!c)
		return 0;
	if (!c->socket.n)
		return inet_chooser_refuse(who, ", one of eBPF, which nobody can read (Linux 6.18)", err);
	if (!c->socket.code)
		return inet_chooser_refuse(who, ", one that is too long", err);
	r = inet_chooser_outside(view, scan, c->socket.group, err);
	if (r)
		return r < 0 ? r : inet_chooser_refuse(who, ", and some are outside of the tree", err);
	if (c->socket.place + 1 != c->met)
		return inet_chooser_refuse(who, " by an order that a restore would not give to them", err);
	return 0;
}

int inet_chooser_check(const struct fd_view *view, struct inet_scan *scan, struct ferry_error *err)
{
	_cleanup_loan_ struct fd_loan loan = {0};
	const struct inet_chooser *c;
	int shared = 0;
	int r = fd_view_lend(view, &loan, err);
	if (r < 0)
		return r;
	if (sock_get(loan.fd, SOL_SOCKET, SO_REUSEPORT, &shared) < 0)
		shared = 0;
	return shared ? inet_chooser_find(view, scan, &c, err) : 0;
}

int inet_chooser_collect(const struct fd_view *view, struct inet_scan *scan, FerrySocketEntry *extra,
			 struct ferry_error *err)
{
	const struct inet_chooser *c = NULL;
	int shared = 0;
	if (sock_get(view->copy, SOL_SOCKET, SO_REUSEPORT, &shared) < 0 || !shared)
		return 0;
	int r = inet_chooser_find(view, scan, &c, err);
	if (r < 0 || !c)
		return r;
	extra->chooser = arena_array(view->arena, uint64_t, c->socket.n);
	if (!extra->chooser)
		return error_memory(err);
	for (; extra->n_chooser < c->socket.n; extra->n_chooser++)
		extra->chooser[extra->n_chooser] = sockopt_instruction(&c->socket.code[extra->n_chooser]);
	return 0;
}

int inet_chooser_restore(int fd, const FerrySocketEntry *extra, struct ferry_error *err)
{
	struct sock_filter code[REUSEPORT_INSTRUCTIONS_MAX];
	if (!extra || !extra->n_chooser)
		return 0;
	if (extra->n_chooser > ARRAY_SIZE(code))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-socket.img: the program of file id %u is too long", extra->id);
	for (size_t i = 0; i < extra->n_chooser; i++)
		code[i] = sockopt_instruction_of(extra->chooser[i]);
	const struct sock_fprog program = {.len = (unsigned short)extra->n_chooser, .filter = code};
	int r = sock_set_bytes(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program));
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "giving the sockets of one port their program (file id %u)", extra->id)
		     : 0;
}
