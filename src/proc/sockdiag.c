/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading sock_diag(7) answers: struct inet_diag_msg and unix_diag_msg with their attributes. The bytes
 * may be anything: lengths are checked before use, attributes of unknown type are passed over.
 */
/* A field of theirs is named as one of our macros. */
#include <linux/inet_diag.h>

#include "proc/sockdiag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/unix_diag.h>

/* One attribute; value points into the payload and may be unaligned. */
struct attribute {
	uint16_t type;
	size_t n;
	const uint8_t *value;
};

/* Step to the next attribute. 1 = there is one, 0 = none left, or -EBADMSG. */
static int next_attribute(const uint8_t **at, const uint8_t *end, struct attribute *ret)
{
	struct nlattr head;
	size_t left = (size_t)(end - *at);
	if (!left)
		return 0;
	if (left < sizeof(head))
		return -EBADMSG;
	memcpy(&head, *at, sizeof(head));
	if (head.nla_len < sizeof(head) || head.nla_len > left)
		return -EBADMSG;
	*ret = (struct attribute){
		.type = head.nla_type & NLA_TYPE_MASK,
		.n = head.nla_len - sizeof(head),
		.value = *at + sizeof(head),
	};
	/* The last one may lack its padding. */
	*at += MIN(align_up(head.nla_len, NLA_ALIGNTO), left);
	return 1;
}

static int get_bytes(const struct attribute *a, void *ret_value, size_t n)
{
	if (a->n < n)
		return -EBADMSG;
	memcpy(ret_value, a->value, n);
	return 0;
}

static uint64_t cookie_of(const uint32_t halves[2])
{
	return halves[0] | (uint64_t)halves[1] << 32;
}

static int inet_attribute(const struct attribute *a, struct inet_sock *s)
{
	uint8_t byte;
	int r = 0;
	switch (a->type) {
	case INET_DIAG_SHUTDOWN:
		r = get_bytes(a, &s->shutdown, sizeof(s->shutdown));
		s->has_shutdown = !r;
		return r;
	case INET_DIAG_SKV6ONLY:
		r = get_bytes(a, &byte, sizeof(byte));
		if (!r)
			s->v6only = byte != 0;
		return r;
	case INET_DIAG_MARK: return get_bytes(a, &s->mark, sizeof(s->mark));
	case INET_DIAG_MD5SIG: s->has_md5 = a->n > 0; return 0;
	default: return 0;
	}
}

int inet_sock_parse(const void *payload, size_t n, uint8_t protocol, struct inet_sock *ret)
{
	struct inet_diag_msg m;
	if (n < sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, sizeof(m));
	if (m.idiag_family != AF_INET && m.idiag_family != AF_INET6)
		return -EBADMSG;
	struct inet_sock s = {
		.family = m.idiag_family,
		.protocol = protocol,
		.state = m.idiag_state,
		.local_port = ntohs(m.id.idiag_sport),
		.remote_port = ntohs(m.id.idiag_dport),
		.if_index = m.id.idiag_if,
		.rqueue = m.idiag_rqueue,
		.wqueue = m.idiag_wqueue,
		.uid = m.idiag_uid,
		.inode = m.idiag_inode,
		.cookie = cookie_of(m.id.idiag_cookie),
	};
	/* The kernel leaves whatever it likes behind an IPv4 address. */
	size_t address_len = s.family == AF_INET ? 4 : 16;
	memcpy(s.local_addr, m.id.idiag_src, address_len);
	memcpy(s.remote_addr, m.id.idiag_dst, address_len);

	const uint8_t *at = (const uint8_t *)payload + MIN(align_up(sizeof(m), NLA_ALIGNTO), n);
	const uint8_t *end = (const uint8_t *)payload + n;
	struct attribute a = {0};
	int r;
	while ((r = next_attribute(&at, end, &a)) > 0) {
		r = inet_attribute(&a, &s);
		if (r)
			return r;
	}
	if (r)
		return r;
	*ret = s;
	return 0;
}

static int unix_name(const struct attribute *a, struct unix_sock *s)
{
	if (a->n > sizeof(s->name))
		return -EBADMSG;
	memcpy(s->name, a->value, a->n);
	s->name_len = (uint8_t)a->n;
	s->has_name = true;
	return 0;
}

static int unix_vfs(const struct attribute *a, struct unix_sock *s)
{
	struct unix_diag_vfs vfs;
	int r = get_bytes(a, &vfs, sizeof(vfs));
	if (r)
		return r;
	s->vfs_inode = vfs.udiag_vfs_ino;
	s->vfs_dev = vfs.udiag_vfs_dev;
	s->has_vfs = true;
	return 0;
}

static int unix_queues(const struct attribute *a, struct unix_sock *s)
{
	struct unix_diag_rqlen q;
	int r = get_bytes(a, &q, sizeof(q));
	if (r)
		return r;
	s->rqueue = q.udiag_rqueue;
	s->wqueue = q.udiag_wqueue;
	return 0;
}

static int unix_pending(const struct attribute *a, struct unix_sock *s)
{
	if (a->n % sizeof(uint32_t))
		return -EBADMSG;
	uint32_t *inodes = NULL;
	if (a->n) {
		inodes = malloc(a->n);
		if (!inodes)
			return -ENOMEM;
		memcpy(inodes, a->value, a->n);
	}
	free(s->pending);
	s->pending = inodes;
	s->n_pending = a->n / sizeof(uint32_t);
	return 0;
}

static int unix_attribute(const struct attribute *a, struct unix_sock *s)
{
	int r;
	switch (a->type) {
	case UNIX_DIAG_NAME: return unix_name(a, s);
	case UNIX_DIAG_VFS: return unix_vfs(a, s);
	case UNIX_DIAG_RQLEN: return unix_queues(a, s);
	case UNIX_DIAG_ICONS: return unix_pending(a, s);
	case UNIX_DIAG_SHUTDOWN: return get_bytes(a, &s->shutdown, sizeof(s->shutdown));
	case UNIX_DIAG_PEER:
		r = get_bytes(a, &s->peer_inode, sizeof(s->peer_inode));
		s->has_peer = !r;
		return r;
	case UNIX_DIAG_UID:
		r = get_bytes(a, &s->uid, sizeof(s->uid));
		s->has_uid = !r;
		return r;
	default: return 0;
	}
}

static int unix_attributes(const uint8_t *at, const uint8_t *end, struct unix_sock *s)
{
	struct attribute a = {0};
	int r;
	while ((r = next_attribute(&at, end, &a)) > 0) {
		r = unix_attribute(&a, s);
		if (r)
			return r;
	}
	return r;
}

int unix_sock_parse(const void *payload, size_t n, struct unix_sock *ret)
{
	struct unix_diag_msg m;
	if (n < sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, sizeof(m));
	if (m.udiag_family != AF_UNIX)
		return -EBADMSG;
	struct unix_sock s = {
		.type = m.udiag_type,
		.state = m.udiag_state,
		.inode = m.udiag_ino,
		.cookie = cookie_of(m.udiag_cookie),
	};
	int r = unix_attributes((const uint8_t *)payload + sizeof(m), (const uint8_t *)payload + n, &s);
	if (r)
		unix_sock_release(&s);
	else
		*ret = s;
	return r;
}

void unix_sock_release(struct unix_sock *sock)
{
	if (!sock)
		return;
	free(sock->pending);
	sock->pending = NULL;
	sock->n_pending = 0;
}

/* Joined several times, it counts: the record has it so many times. */
static int packet_memberships(const struct attribute *a, struct packet_sock *s)
{
	struct packet_diag_mclist m;
	size_t n = a->n / sizeof(m), total = 0;
	for (size_t i = 0; i < n; i++) {
		memcpy(&m, a->value + i * sizeof(m), sizeof(m));
		if (m.pdmc_alen > sizeof(m.pdmc_addr) || m.pdmc_count > 65536 || total > 65536)
			return -EBADMSG;
		total += m.pdmc_count;
	}
	struct packet_membership *all = calloc(total + 1, sizeof(*all)), *to = all;
	if (!all)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		memcpy(&m, a->value + i * sizeof(m), sizeof(m));
		for (uint32_t k = 0; k < m.pdmc_count; k++, to++) {
			to->index = m.pdmc_index;
			to->type = m.pdmc_type;
			to->address_bytes = m.pdmc_alen;
			memcpy(to->address, m.pdmc_addr, m.pdmc_alen);
		}
	}
	free(s->memberships);
	s->memberships = all;
	s->n_memberships = total;
	return 0;
}

static int packet_info(const struct attribute *a, struct packet_sock *s)
{
	struct packet_diag_info info;
	int r = get_bytes(a, &info, sizeof(info));
	if (r)
		return r;
	s->version = info.pdi_version;
	s->reserve = info.pdi_reserve;
	s->copy_threshold = info.pdi_copy_thresh;
	s->timestamp = info.pdi_tstamp;
	s->flags = info.pdi_flags;
	return 0;
}

static int packet_attribute(const struct attribute *a, struct packet_sock *s)
{
	_Static_assert(sizeof(struct packet_ring) == sizeof(struct packet_diag_ring), "the same fields");
	int r;
	switch (a->type) {
	case PACKET_DIAG_INFO: return packet_info(a, s);
	case PACKET_DIAG_MCLIST: return packet_memberships(a, s);
	case PACKET_DIAG_RX_RING: return get_bytes(a, &s->rx, sizeof(s->rx));
	case PACKET_DIAG_TX_RING: return get_bytes(a, &s->tx, sizeof(s->tx));
	case PACKET_DIAG_FANOUT:
		r = get_bytes(a, &s->fanout, sizeof(s->fanout));
		s->has_fanout = !r;
		return r;
	default: return 0;
	}
}

int packet_sock_parse(const void *payload, size_t n, struct packet_sock *ret)
{
	struct packet_diag_msg m;
	if (n < sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, sizeof(m));
	if (m.pdiag_family != AF_PACKET)
		return -EBADMSG;
	struct packet_sock s = {.type = m.pdiag_type, .inode = m.pdiag_ino};
	const uint8_t *at = (const uint8_t *)payload + sizeof(m), *end = (const uint8_t *)payload + n;
	struct attribute a = {0};
	int r;
	while ((r = next_attribute(&at, end, &a)) > 0 && (r = packet_attribute(&a, &s)) == 0)
		;
	if (r)
		packet_sock_release(&s);
	else
		*ret = s;
	return r;
}

void packet_sock_release(struct packet_sock *sock)
{
	if (!sock)
		return;
	free(sock->memberships);
	sock->memberships = NULL;
	sock->n_memberships = 0;
}
