/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns netlink sockets: their protocol, port and peer, the groups that they listen to, also those above 32, and
 * options. Everything is read from our copy of the socket.
 *
 * Kernel interface: netlink(7), NETLINK_LIST_MEMBERSHIPS (4.2).
 * Does not handle: messages that wait. They come from the kernel, as whom nobody can send, and no call peeks behind the
 * first (Linux 6.18); the dump waits until they are read, and refuses in the end. Socket filters of eBPF.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/proto/sk-netlink.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "kind/peers.h"
#include "kind/sockextra.h"
#include "kind/sockopt.h"
#include "model/record.h"

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

enum {
	NETLINK_STATE_CONNECTED = 1, /* the kernel's numbers in netlink_sk_entry.state */
	NETLINK_STATE_BOUND = 7,
	NETLINK_GROUP_WORDS = 64, /* more groups than any protocol has */
};

/* -------------------------------------------------------------------- check */

static bool netlinksk_owns(const struct fd_view *view)
{
	char name[32];
	return sock_protocol(view, name) >= 0 && !strcmp(name, "NETLINK");
}

static int netlinksk_check_queue(const char *who, int fd, struct ferry_error *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, 0) <= 0 || !(p.revents & (POLLIN | POLLERR)))
		return 0;
	error_set(err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
		  "%s: messages wait in a netlink socket; no call gives them back to it (Linux 6.18)", who);
	error_hint(err, "try again when the program has read them");
	return -ENOTSUP;
}

static int netlinksk_check(const struct fd_view *view, const struct kind_options *options,
			   struct ferry_error *err)
{
	char who[64];
	_cleanup_loan_ struct fd_loan loan = {0};
	fd_view_name(view, who, sizeof(who));
	int r = options->criu_compat ? 0 : peers_refuse(view, PEER_SOCKET, err);
	if (r >= 0)
		r = sock_check(view, err);
	if (r >= 0)
		r = fd_view_lend(view, &loan, err);
	return r < 0 ? r : netlinksk_check_queue(who, loan.fd, err);
}

/* ------------------------------------------------------------------ collect */

static int netlinksk_collect_names(int fd, NetlinkSkEntry *nlsk)
{
	struct sockaddr_nl own = {0}, peer = {0};
	socklen_t n = sizeof(own);
	if (getsockname(fd, (struct sockaddr *)&own, &n) < 0)
		return -errno;
	n = sizeof(peer);
	if (getpeername(fd, (struct sockaddr *)&peer, &n) < 0)
		return -errno;
	nlsk->portid = own.nl_pid;
	nlsk->dst_portid = peer.nl_pid;
	nlsk->dst_group = peer.nl_groups;
	bool connected = peer.nl_pid || peer.nl_groups;
	nlsk->state = connected ? NETLINK_STATE_CONNECTED : own.nl_pid ? NETLINK_STATE_BOUND : 0;
	return 0;
}

static int netlinksk_collect_groups(struct arena *a, int fd, NetlinkSkEntry *nlsk)
{
	uint32_t words[NETLINK_GROUP_WORDS] = {0};
	socklen_t n = sizeof(words);
	int r = sock_get_bytes(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &n);
	if (r < 0)
		return r;
	size_t used = MIN((size_t)n, sizeof(words)) / sizeof(*words);
	while (used && !words[used - 1])
		used--;
	if (!used)
		return 0;
	nlsk->groups = arena_copy(a, words, used * sizeof(*words));
	nlsk->n_groups = nlsk->groups ? used : 0;
	return nlsk->groups ? 0 : -ENOMEM;
}

static int netlinksk_collect_record(struct collect *c, struct fd_view *view, NetlinkSkEntry *nlsk,
				    struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	int protocol = 0;
	int r = sock_get(view->copy, SOL_SOCKET, SO_PROTOCOL, &protocol);
	nlsk->ino = sock_inode(view);
	nlsk->flags = fdcommon_flags(view);
	nlsk->protocol = (uint32_t)protocol;
	if (r >= 0)
		r = netlinksk_collect_names(view->copy, nlsk);
	if (r >= 0)
		r = netlinksk_collect_groups(a, view->copy, nlsk);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading a netlink socket");
	/* Images have it for what the kernel's tables list, which an unbound one is not in. */
	uint32_t net = net_here_id(c, view);
	if (nlsk->state || net != NET_ID_OWN)
		record_set(nlsk, ns_id, net);
	r = fdcommon_owner(c, view, &nlsk->fown, err);
	return r < 0 ? r : sockopt_collect(view->copy, false, a, &nlsk->opts, err);
}

static int netlinksk_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			     struct ferry_error *err)
{
	char who[64];
	struct sock_type type;
	struct arena *a = &c->snap->arena;
	fd_view_name(view, who, sizeof(who));
	FerrySocketEntry *extra = NULL;
	int r = sock_copy(view, who, &type, err);
	if (r >= 0)
		r = netlinksk_check_queue(who, view->copy, err);
	NetlinkSkEntry *nlsk = record_new(a, NetlinkSkEntry, netlink_sk_entry);
	if (r < 0 || !nlsk)
		return r < 0 ? r : error_memory(err);
	nlsk->id = file->entry->id;
	r = sockextra_collect(a, view->copy, &type, nlsk->id, &extra, err);
	if (r >= 0)
		r = netlinksk_collect_record(c, view, nlsk, err);
	/* Raw and datagram are the same here, but the program can tell them apart. */
	if (r >= 0 && type.type != SOCK_RAW)
		record_set(extra, type, (uint32_t)type.type);
	file->entry->nlsk = nlsk;
	file->data = extra;
	return r;
}

static int netlinksk_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	return sockextra_dump(d, file->data, err);
}

/* ------------------------------------------------------------------ restore */

static int netlinksk_read(struct reader *r, struct ferry_error *err)
{
	int ret = sockextra_read(r, &kind_netlinksk, err);
	for (size_t i = 0; i < r->plan->n_files && ret >= 0; i++) {
		const struct plan_file *file = &r->plan->files[i];
		if (file->kind != &kind_netlinksk)
			continue;
		if (!file->entry->nlsk)
			ret = fdcommon_no_record(file, err);
		else if (file->entry->nlsk->n_groups > NETLINK_GROUP_WORDS)
			ret = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					"the netlink socket of file id %u has too many groups",
					file->entry->id);
	}
	return ret;
}

static int netlinksk_failed(const struct plan_file *file, int code, const char *what, struct ferry_error *err)
{
	error_errno(err, code == EADDRINUSE ? FERRY_ERROR_ADDRESS_TAKEN : FERRY_ERROR_RESTORE_STEP, code,
		    "%s a netlink socket (protocol %u, port %u)", what, file->entry->nlsk->protocol,
		    file->entry->nlsk->portid);
	if (code == EADDRINUSE)
		error_hint(err, "another process has a netlink socket with this port");
	return -code;
}

static int netlinksk_join(int fd, const NetlinkSkEntry *nlsk)
{
	for (size_t group = 0; group < nlsk->n_groups * 32; group++) {
		if (!(nlsk->groups[group / 32] & 1u << group % 32))
			continue;
		int r = sock_set(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, (int)group + 1);
		if (r < 0)
			return r;
	}
	return 0;
}

static int netlinksk_make(const struct plan_file *file, int fd, struct ferry_error *err)
{
	const NetlinkSkEntry *nlsk = file->entry->nlsk;
	const struct sockaddr_nl own = {.nl_family = AF_NETLINK, .nl_pid = nlsk->portid};
	const struct sockaddr_nl peer = {
		.nl_family = AF_NETLINK, .nl_pid = nlsk->dst_portid, .nl_groups = nlsk->dst_group};
	if (nlsk->portid && bind(fd, (const struct sockaddr *)&own, sizeof(own)) < 0)
		return netlinksk_failed(file, errno, "binding", err);
	if (nlsk->state == NETLINK_STATE_CONNECTED &&
	    connect(fd, (const struct sockaddr *)&peer, sizeof(peer)) < 0)
		return netlinksk_failed(file, errno, "connecting", err);
	int r = netlinksk_join(fd, nlsk);
	return r < 0 ? netlinksk_failed(file, -r, "joining the groups of", err) : 0;
}

static int netlinksk_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const NetlinkSkEntry *nlsk = file->entry->nlsk;
	const FerrySocketEntry *extra = ((struct sock_plan *)file->data)->extra;
	int how = extra && extra->has_type && extra->type == SOCK_DGRAM ? SOCK_DGRAM : SOCK_RAW;
	const struct sock_type type = {.domain = AF_NETLINK, .type = how, .protocol = (int)nlsk->protocol};
	_cleanup_close_ int fd = socket(AF_NETLINK, how | SOCK_CLOEXEC, (int)nlsk->protocol);
	if (fd < 0)
		return netlinksk_failed(file, errno, "making", err);
	/* The filter first: what the groups bring from now on is for the program. */
	int r = sockopt_apply(fd, nlsk->opts, err);
	if (r >= 0)
		r = sockopt_apply_filter(fd, nlsk->opts, err);
	if (r >= 0)
		r = sockextra_apply(o, fd, &type, extra, false, err);
	if (r >= 0)
		r = netlinksk_make(file, fd, err);
	if (r >= 0)
		r = fdcommon_set_flags(fd, nlsk->flags, err);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

static int netlinksk_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	if (!fdcommon_settle_once(s, file))
		return 0;
	return fdcommon_settle(file->entry->nlsk->fown, file->entry->nlsk->flags, fd, err);
}

const struct kind_ops kind_netlinksk = {
	.name = "netlink",
	.what = "netlink sockets, with all groups that they listen to",
	.fd_type = FD_TYPES__NETLINKSK,
	.image_file = -1,
	.owns = netlinksk_owns,
	.check = netlinksk_check,
	.collect = netlinksk_collect,
	.dump = netlinksk_dump,
	.read = netlinksk_read,
	.restore = netlinksk_restore,
	.settle = netlinksk_settle,
};
