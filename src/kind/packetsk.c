/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns packet sockets: what they are bound to, memberships, fanout groups, rings that nobody mapped, and options. What
 * no option tells comes from sock_diag.
 *
 * Kernel interface: packet(7), NETLINK_SOCK_DIAG with packet_diag (3.7), SO_ATTACH_FILTER.
 * Does not handle: packets that wait: no call puts them back into one socket (Linux 6.18), so the dump waits until
 * they are read, and refuses in the end; rings that are mapped; fanout programs (PACKET_FANOUT_DATA); SOCK_PACKET.
 */
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/sockdiag.h"
#include "image/proto/packet-sock.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "kind/sockextra.h"
#include "kind/sockopt.h"
#include "model/record.h"

#ifndef SOL_PACKET
#define SOL_PACKET 263
#endif

enum {
	PACKET_NS_OWN = 2, /* id of the network namespace that the dumping program lives in */
	PACKET_NO_FANOUT = -1,
	PACKET_FANOUT_TYPE_CBPF = 6, /* from here on a program decides */
	PACKET_LIST_MAX = 4096,
	PACKET_VNET_HDR_LENGTH = 24, /* PACKET_VNET_HDR_SZ, Linux 6.4 */
};

/* snap_file.data */
struct packetsk_snap {
	FerrySocketEntry *extra;
};

/* -------------------------------------------------------------------- check */

static bool packetsk_owns(const struct fd_view *view)
{
	char name[32];
	return sock_protocol(view, name) >= 0 && !strcmp(name, "PACKET");
}

static int packetsk_check_queue(const char *who, int fd, struct ferry_error *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, 0) <= 0 || !(p.revents & (POLLIN | POLLERR)))
		return 0;
	error_set(err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
		  "%s: packets wait in a packet socket; no call puts them back into it (Linux 6.18)", who);
	error_hint(err, "try again when the program has read them");
	return -ENOTSUP;
}

static int packetsk_check(const struct fd_view *view, const struct kind_options *options,
			  struct ferry_error *err)
{
	char who[64];
	struct fd_view own = *view;
	fd_view_name(view, who, sizeof(who));
	int r = options->criu_compat ? 0 : peers_refuse(view, PEER_SOCKET, err);
	if (r >= 0)
		r = sock_check(view, err);
	if (r >= 0)
		r = fd_view_copy(&own, err);
	if (r < 0)
		return r;
	r = packetsk_check_queue(who, own.copy, err);
	if (own.copy != view->copy)
		close(own.copy);
	return r;
}

/* ------------------------------------------------------------------ collect */

static int packetsk_collect_list(struct arena *a, const struct packet_sock *sock, PacketSockEntry *psk)
{
	psk->mclist = arena_array(a, PacketMclist *, sock->n_memberships + 1);
	for (size_t i = 0; psk->mclist && i < sock->n_memberships; i++) {
		const struct packet_membership *m = &sock->memberships[i];
		PacketMclist *entry = record_new(a, PacketMclist, packet_mclist);
		if (!entry)
			return -ENOMEM;
		entry->index = m->index;
		entry->type = m->type;
		entry->addr = record_bytes(a, m->address, m->address_bytes);
		if (m->address_bytes && !entry->addr.data)
			return -ENOMEM;
		psk->mclist[psk->n_mclist++] = entry;
	}
	return psk->mclist ? 0 : -ENOMEM;
}

static PacketRing *packetsk_ring(struct arena *a, const struct packet_ring *ring)
{
	PacketRing *entry = record_new(a, PacketRing, packet_ring);
	if (!entry)
		return NULL;
	entry->block_size = ring->block_bytes;
	entry->block_nr = ring->blocks;
	entry->frame_size = ring->frame_bytes;
	entry->frame_nr = ring->frames;
	entry->retire_tmo = ring->retire_ms;
	entry->sizeof_priv = ring->private_bytes;
	entry->features = ring->features;
	return entry;
}

static int packetsk_collect_diag(struct arena *a, const struct packet_sock *sock, PacketSockEntry *psk)
{
	psk->version = sock->version;
	psk->reserve = sock->reserve;
	psk->copy_thresh = sock->copy_threshold;
	psk->timestamp = sock->timestamp;
	psk->aux_data = sock->flags & PACKET_SOCK_AUXDATA;
	psk->orig_dev = sock->flags & PACKET_SOCK_ORIGDEV;
	psk->vnet_hdr = sock->flags & PACKET_SOCK_VNETHDR;
	psk->loss = sock->flags & PACKET_SOCK_LOSS;
	if (sock->has_fanout)
		record_set(psk, fanout, sock->fanout);
	if (sock->rx.blocks && !(psk->rx_ring = packetsk_ring(a, &sock->rx)))
		return -ENOMEM;
	if (sock->tx.blocks && !(psk->tx_ring = packetsk_ring(a, &sock->tx)))
		return -ENOMEM;
	return packetsk_collect_list(a, sock, psk);
}

static int packetsk_collect_record(struct collect *c, struct fd_view *view, PacketSockEntry *psk,
				   const char *who, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	struct packet_sock sock;
	struct sockaddr_ll name = {0};
	socklen_t n = sizeof(name);
	int r = sockdiag_packet_one(-1, sock_inode(view), &sock, err);
	if (r < 0)
		return r;
	r = packetsk_collect_diag(a, &sock, psk);
	packet_sock_release(&sock);
	if (r < 0)
		return error_memory(err);
	if (psk->has_fanout && (psk->fanout >> 16 & 0xff) >= PACKET_FANOUT_TYPE_CBPF) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: a packet socket with a fanout program, which no call reads (Linux 6.18)", who);
		return -ENOTSUP;
	}
	if (getsockname(view->copy, (struct sockaddr *)&name, &n) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "%s: reading the name of a packet socket",
				   who);
	psk->protocol = name.sll_protocol;
	psk->ifindex = (uint32_t)name.sll_ifindex;
	psk->flags = fdcommon_flags(view);
	record_set(psk, ns_id, PACKET_NS_OWN);
	r = fdcommon_owner(c, view, &psk->fown, err);
	return r < 0 ? r : sockopt_collect(view->copy, false, a, &psk->opts, err);
}

static int packetsk_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			    struct ferry_error *err)
{
	char who[64];
	struct sock_type type = {0};
	struct arena *a = &c->snap->arena;
	fd_view_name(view, who, sizeof(who));
	int r = fd_view_copy(view, err);
	if (r >= 0)
		r = sock_check_namespace(view->copy, who, err);
	if (r >= 0)
		r = packetsk_check_queue(who, view->copy, err);
	if (r >= 0)
		r = sock_type_of(view->copy, &type, err);
	if (r >= 0 && type.type != SOCK_RAW && type.type != SOCK_DGRAM)
		r = error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: a socket of type SOCK_PACKET",
			      who);
	PacketSockEntry *psk = record_new(a, PacketSockEntry, packet_sock_entry);
	struct packetsk_snap *data = arena_new(a, struct packetsk_snap);
	if (r < 0 || !psk || !data)
		return r < 0 ? r : error_memory(err);
	psk->id = file->entry->id;
	psk->type = (uint32_t)type.type;
	r = sockextra_collect(a, view->copy, &type, psk->id, &data->extra, err);
	if (r >= 0)
		r = packetsk_collect_record(c, view, psk, who, err);
	file->entry->psk = psk;
	file->data = data;
	return r;
}

static int packetsk_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const struct packetsk_snap *data = file->data;
	return sockextra_dump(d, data->extra, err);
}

/* ------------------------------------------------------------------ restore */

static int packetsk_read(struct reader *r, struct ferry_error *err)
{
	int ret = sockextra_read(r, &kind_packetsk, err);
	for (size_t i = 0; i < r->plan->n_files && ret >= 0; i++) {
		const struct plan_file *file = &r->plan->files[i];
		const PacketSockEntry *psk = file->kind == &kind_packetsk ? file->entry->psk : NULL;
		if (file->kind == &kind_packetsk && !psk)
			ret = fdcommon_no_record(file, err);
		if (psk && ((psk->type != SOCK_RAW && psk->type != SOCK_DGRAM) ||
			    psk->protocol > UINT16_MAX || psk->n_mclist > PACKET_LIST_MAX))
			ret = error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					"the packet socket of file id %u contradicts itself",
					file->entry->id);
	}
	return ret;
}

static int packetsk_set_ring(int fd, int name, const PacketRing *ring)
{
	const struct tpacket_req3 req = {
		.tp_block_size = ring->block_size,
		.tp_block_nr = ring->block_nr,
		.tp_frame_size = ring->frame_size,
		.tp_frame_nr = ring->frame_nr,
		.tp_retire_blk_tov = ring->retire_tmo,
		.tp_sizeof_priv = ring->sizeof_priv,
		.tp_feature_req_word = ring->features,
	};
	int version = TPACKET_V1;
	int r = sock_get(fd, SOL_PACKET, PACKET_VERSION, &version);
	socklen_t n = version == TPACKET_V3 ? sizeof(req) : sizeof(struct tpacket_req);
	return r < 0 ? r : sock_set_bytes(fd, SOL_PACKET, name, &req, n);
}

static int packetsk_join(int fd, const PacketMclist *m)
{
	struct packet_mreq mreq = {.mr_ifindex = (int)m->index,
				   .mr_type = (unsigned short)m->type,
				   .mr_alen = (unsigned short)MIN(m->addr.len, sizeof(mreq.mr_address))};
	if (mreq.mr_alen)
		memcpy(mreq.mr_address, m->addr.data, mreq.mr_alen);
	return sock_set_bytes(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mreq, sizeof(mreq));
}

static int packetsk_set_options(int fd, const PacketSockEntry *psk, const FerrySocketEntry *extra)
{
	int header;
	const struct {
		int name;
		uint32_t value;
	} options[] = {
		{PACKET_VERSION, psk->version},     {PACKET_RESERVE, psk->reserve},
		{PACKET_AUXDATA, psk->aux_data},    {PACKET_ORIGDEV, psk->orig_dev},
		{PACKET_VNET_HDR, psk->vnet_hdr},   {PACKET_LOSS, psk->loss},
		{PACKET_TIMESTAMP, psk->timestamp}, {PACKET_COPY_THRESH, psk->copy_thresh},
	};
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		/* Its length was set, and this would choose another. */
		if (options[i].name == PACKET_VNET_HDR &&
		    sockextra_int(extra, SOL_PACKET, PACKET_VNET_HDR_LENGTH, &header))
			continue;
		int r = options[i].value ? sock_set(fd, SOL_PACKET, options[i].name, (int)options[i].value)
					 : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int packetsk_make(const PacketSockEntry *psk, const FerrySocketEntry *extra, int fd)
{
	int r = packetsk_set_options(fd, psk, extra);
	for (size_t i = 0; i < psk->n_mclist && r >= 0; i++)
		r = packetsk_join(fd, psk->mclist[i]);
	if (r >= 0 && psk->rx_ring)
		r = packetsk_set_ring(fd, PACKET_RX_RING, psk->rx_ring);
	if (r >= 0 && psk->tx_ring)
		r = packetsk_set_ring(fd, PACKET_TX_RING, psk->tx_ring);
	const struct sockaddr_ll name = {.sll_family = AF_PACKET,
					 .sll_protocol = (uint16_t)psk->protocol,
					 .sll_ifindex = (int)psk->ifindex};
	if (r >= 0 && (psk->protocol || psk->ifindex) &&
	    bind(fd, (const struct sockaddr *)&name, sizeof(name)) < 0)
		r = -errno;
	if (r >= 0 && psk->has_fanout && (int)psk->fanout != PACKET_NO_FANOUT)
		r = sock_set(fd, SOL_PACKET, PACKET_FANOUT, (int)psk->fanout);
	return r;
}

static int packetsk_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const PacketSockEntry *psk = file->entry->psk;
	const FerrySocketEntry *extra = ((struct sock_plan *)file->data)->extra;
	const struct sock_type type = {.domain = AF_PACKET, .type = (int)psk->type};
	/* Without a protocol nothing comes before all is set. */
	_cleanup_close_ int fd = socket(AF_PACKET, (int)psk->type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "making a packet socket");
	int r = sockopt_apply(fd, psk->opts, err);
	if (r >= 0)
		r = sockopt_apply_filter(fd, psk->opts, err);
	if (r >= 0)
		r = sockextra_apply(o, fd, &type, extra, false, err);
	if (r < 0)
		return r;
	r = packetsk_make(psk, extra, fd);
	if (r < 0) {
		char device[IF_NAMESIZE] = "";
		error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "making the packet socket of file id %u",
			    file->entry->id);
		if (r == -ENODEV || (psk->ifindex && !if_indextoname(psk->ifindex, device)))
			error_hint(err, "network device number %u must be there", psk->ifindex);
		return r;
	}
	r = fdcommon_set_flags(fd, psk->flags, err);
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r;
}

static int packetsk_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	if (!fdcommon_settle_once(s, file))
		return 0;
	return fdcommon_settle(file->entry->psk->fown, file->entry->psk->flags, fd, err);
}

const struct kind_ops kind_packetsk = {
	.name = "packet",
	.what = "packet sockets, with memberships, fanout groups and rings that are not mapped",
	.fd_type = FD_TYPES__PACKETSK,
	.image_file = -1,
	.owns = packetsk_owns,
	.check = packetsk_check,
	.collect = packetsk_collect,
	.dump = packetsk_dump,
	.read = packetsk_read,
	.restore = packetsk_restore,
	.settle = packetsk_settle,
};
