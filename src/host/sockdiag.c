/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns asking for sockets: sock_diag(7) (Linux 3.3), dumps of inet_diag and unix_diag. What the answers mean is
 * read in proc/sockdiag.c. A dump that the kernel could not take in one piece is asked for again.
 */
/* A field of theirs is named as one of our macros. */
#include <linux/inet_diag.h>

#include "host/sockdiag.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/vec.h"
#include "host/netlink.h"

enum { DUMP_ATTEMPTS = 8 };

typedef VEC(struct inet_sock) inet_vec;
typedef VEC(struct unix_sock) unix_vec;

static const char *protocol_name(int protocol)
{
	return protocol == IPPROTO_TCP ? "TCP" : protocol == IPPROTO_UDP ? "UDP" : "UDP-Lite";
}

static int diag_failed(struct ferry_error *err, int code, const char *what)
{
	/* A module that is missing answers so. */
	if (code == ENOENT || code == EOPNOTSUPP || code == EPROTONOSUPPORT) {
		error_errno(err, FERRY_ERROR_KERNEL_FEATURE, EOPNOTSUPP, "asking the kernel for %s sockets",
			    what);
		error_hint(err,
			   "the kernel needs CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG and CONFIG_UNIX_DIAG");
		return -EOPNOTSUPP;
	}
	return error_errno(err, FERRY_ERROR_SYSTEM, code, "asking the kernel for %s sockets", what);
}

struct inet_dump {
	inet_vec *socks;
	uint8_t protocol;
};

static int inet_each(const struct nlmsghdr *h, void *ctx)
{
	const struct inet_dump *d = ctx;
	if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY)
		return 0;
	struct inet_sock s;
	int r = inet_sock_parse(netlink_body(h), netlink_body_len(h), d->protocol, &s);
	if (r)
		return r;
	struct inet_sock *slot = vec_push(d->socks);
	if (!slot)
		return -ENOMEM;
	*slot = s;
	return 0;
}

static int inet_dump_once(struct netlink_socket *socket, int family, int protocol, uint32_t states,
			  inet_vec *socks)
{
	const struct inet_diag_req_v2 q = {
		.sdiag_family = (uint8_t)family,
		.sdiag_protocol = (uint8_t)protocol,
		.idiag_states = states ? states : ~0u,
		/* Keys are told beside the information only. */
		.idiag_ext = 1 << (INET_DIAG_SHUTDOWN - 1) | 1 << (INET_DIAG_INFO - 1),
	};
	struct inet_dump dump = {socks, (uint8_t)protocol};
	return netlink_list(socket, SOCK_DIAG_BY_FAMILY, &q, sizeof(q), inet_each, &dump);
}

/* Adds to socks; after a failure what it added is taken back. */
static int inet_dump(struct netlink_socket *socket, int family, int protocol, uint32_t states,
		     inet_vec *socks)
{
	size_t before = socks->n;
	int r = -EINTR;
	for (unsigned i = 0; i < DUMP_ATTEMPTS && r == -EINTR; i++) {
		socks->n = before;
		r = inet_dump_once(socket, family, protocol, states, socks);
	}
	if (r)
		socks->n = before;
	return r;
}

static int inet_compare(const void *a, const void *b)
{
	const struct inet_sock *x = a;
	const struct inet_sock *y = b;
	return (x->inode > y->inode) - (x->inode < y->inode);
}

static void inet_give(inet_vec *socks, struct inet_sock **ret_socks, size_t *ret_n)
{
	if (socks->n)
		qsort(socks->v, socks->n, sizeof(*socks->v), inet_compare);
	*ret_n = socks->n;
	*ret_socks = take_ptr(socks->v);
}

int sockdiag_inet(int netns_fd, int family, int protocol, uint32_t states, struct inet_sock **ret_socks,
		  size_t *ret_n, struct ferry_error *err)
{
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	inet_vec socks = {0};
	int r = netlink_open(netns_fd, NETLINK_SOCK_DIAG, &socket);
	if (!r)
		r = inet_dump(socket, family, protocol, states, &socks);
	if (r) {
		vec_release(&socks);
		return diag_failed(err, -r, protocol_name(protocol));
	}
	inet_give(&socks, ret_socks, ret_n);
	return 0;
}

int sockdiag_inet_all(int netns_fd, struct inet_sock **ret_socks, size_t *ret_n, struct ferry_error *err)
{
	static const struct {
		int protocol;
		bool optional;
	} protocols[] = {{IPPROTO_TCP, false}, {IPPROTO_UDP, false}, {IPPROTO_UDPLITE, true}};
	static const int family[] = {AF_INET, AF_INET6};
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	inet_vec socks = {0};
	int r = netlink_open(netns_fd, NETLINK_SOCK_DIAG, &socket);
	if (r)
		return diag_failed(err, -r, "inet");
	for (size_t i = 0; i < ARRAY_SIZE(protocols) * ARRAY_SIZE(family); i++) {
		int protocol = protocols[i / ARRAY_SIZE(family)].protocol;
		r = inet_dump(socket, family[i % ARRAY_SIZE(family)], protocol, 0, &socks);
		/* Few kernels have UDP-Lite, and from 7.0 on none. */
		if (r == -ENOENT && protocols[i / ARRAY_SIZE(family)].optional)
			continue;
		if (r) {
			vec_release(&socks);
			return diag_failed(err, -r, protocol_name(protocol));
		}
	}
	inet_give(&socks, ret_socks, ret_n);
	return 0;
}

static int unix_each(const struct nlmsghdr *h, void *ctx)
{
	unix_vec *socks = ctx;
	if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY)
		return 0;
	struct unix_sock s;
	int r = unix_sock_parse(netlink_body(h), netlink_body_len(h), &s);
	if (r)
		return r;
	struct unix_sock *slot = vec_push(socks);
	if (!slot) {
		unix_sock_release(&s);
		return -ENOMEM;
	}
	*slot = s;
	return 0;
}

static void unix_drop(unix_vec *socks)
{
	vec_foreach(s, socks)
		unix_sock_release(s);
	vec_release(socks);
}

static int unix_ask(struct netlink_socket *socket, uint32_t inode, unix_vec *socks)
{
	uint8_t bytes[NLMSG_ALIGN(sizeof(struct nlmsghdr)) + sizeof(struct unix_diag_req)]
		__attribute__((aligned(8))) = {0};
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	h->nlmsg_flags = inode ? NLM_F_REQUEST | NLM_F_ACK : NLM_F_REQUEST | NLM_F_DUMP;
	struct unix_diag_req *q = netlink_append(h, sizeof(*q));
	q->sdiag_family = AF_UNIX;
	q->udiag_states = ~0u;
	q->udiag_ino = inode;
	q->udiag_cookie[0] = ~0u;
	q->udiag_cookie[1] = ~0u;
	q->udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS |
			UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID;
	return netlink_ask(socket, h, unix_each, socks);
}

static int unix_dump(int netns_fd, uint32_t inode, unix_vec *socks)
{
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	int r = netlink_open(netns_fd, NETLINK_SOCK_DIAG, &socket);
	if (r)
		return r;
	r = -EINTR;
	for (unsigned i = 0; i < DUMP_ATTEMPTS && r == -EINTR; i++) {
		unix_drop(socks);
		r = unix_ask(socket, inode, socks);
	}
	if (r)
		unix_drop(socks);
	return r;
}

static int unix_compare(const void *a, const void *b)
{
	const struct unix_sock *x = a;
	const struct unix_sock *y = b;
	return (x->inode > y->inode) - (x->inode < y->inode);
}

int sockdiag_unix(int netns_fd, struct unix_sock **ret_socks, size_t *ret_n, struct ferry_error *err)
{
	unix_vec socks = {0};
	int r = unix_dump(netns_fd, 0, &socks);
	if (r)
		return diag_failed(err, -r, "unix");
	if (socks.n)
		qsort(socks.v, socks.n, sizeof(*socks.v), unix_compare);
	*ret_socks = socks.v;
	*ret_n = socks.n;
	return 0;
}

void unix_socks_free(struct unix_sock *socks, size_t n)
{
	for (size_t i = 0; i < n; i++)
		unix_sock_release(&socks[i]);
	free(socks);
}

int sockdiag_unix_one(int netns_fd, uint32_t inode, struct unix_sock *ret_sock, struct ferry_error *err)
{
	unix_vec socks = {0};
	int r = inode ? unix_dump(netns_fd, inode, &socks) : -ENOENT;
	if (!r && socks.n != 1)
		r = -ENOENT;
	if (r) {
		unix_drop(&socks);
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "unix socket with inode %u", inode);
	}
	*ret_sock = socks.v[0];
	vec_release(&socks);
	return 0;
}

struct packet_find {
	uint32_t inode;
	bool found;
	struct packet_sock sock;
};

static int packet_each(const struct nlmsghdr *h, void *ctx)
{
	struct packet_find *find = ctx;
	struct packet_sock s;
	if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || find->found)
		return 0;
	int r = packet_sock_parse(netlink_body(h), netlink_body_len(h), &s);
	if (r)
		return r;
	if (s.inode == find->inode) {
		find->sock = s;
		find->found = true;
	} else {
		packet_sock_release(&s);
	}
	return 0;
}

int sockdiag_packet_one(int netns_fd, uint32_t inode, struct packet_sock *ret_sock, struct ferry_error *err)
{
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	const struct packet_diag_req q = {.sdiag_family = AF_PACKET,
					  .pdiag_show = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST |
							PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT};
	struct packet_find find = {.inode = inode};
	int r = netlink_open(netns_fd, NETLINK_SOCK_DIAG, &socket);
	if (!r)
		r = netlink_list(socket, SOCK_DIAG_BY_FAMILY, &q, sizeof(q), packet_each, &find);
	if (r < 0 && find.found)
		packet_sock_release(&find.sock);
	if (r < 0)
		return diag_failed(err, -r, "packet");
	if (!find.found)
		return error_errno(err, FERRY_ERROR_SYSTEM, ENOENT, "packet socket with inode %u", inode);
	*ret_sock = find.sock;
	return 0;
}

/* Plain loops over arrays of some thousands would be felt: every descriptor of a tree asks. */
const struct inet_sock *inet_socks_find(const struct inet_sock *socks, size_t n, uint32_t inode)
{
	const struct inet_sock key = {.inode = inode};
	return n && inode ? bsearch(&key, socks, n, sizeof(*socks), inet_compare) : NULL;
}

const struct inet_sock *inet_socks_find_cookie(const struct inet_sock *socks, size_t n, uint64_t cookie)
{
	for (size_t i = 0; i < n; i++) {
		if (socks[i].cookie == cookie)
			return &socks[i];
	}
	return NULL;
}

const struct unix_sock *unix_socks_find(const struct unix_sock *socks, size_t n, uint32_t inode)
{
	const struct unix_sock key = {.inode = inode};
	return n && inode ? bsearch(&key, socks, n, sizeof(*socks), unix_compare) : NULL;
}
