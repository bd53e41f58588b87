/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns packet sockets: what they are bound to, memberships, fanout groups, rings (packet_ring.c) with their mappings, and
 * options. What no option tells comes from sock_diag.
 *
 * Kernel interface: packet(7), NETLINK_SOCK_DIAG with packet_diag (3.7), SO_ATTACH_FILTER.
 * Does not handle: packets that wait: no call puts them back into one socket (Linux 6.18), so the dump waits until
 * they are read, and refuses in the end; what packet_ring.c names; fanout programs (PACKET_FANOUT_DATA); SOCK_PACKET.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/sockdiag.h"
#include "image/proto/packet-sock.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/netplace.h"
#include "kind/packet_ring.h"
#include "kind/peers.h"
#include "kind/sockextra.h"
#include "kind/sockopt.h"
#include "model/record.h"
#include "model/vma-status.h"
#include "proc/maps.h"

#ifndef SOL_PACKET
#define SOL_PACKET 263
#endif

enum {
	PACKET_NO_FANOUT = -1,
	PACKET_FANOUT_TYPE_CBPF = 6, /* from here on a program decides */
	PACKET_LIST_MAX = 4096,
	PACKET_VNET_HDR_LENGTH = 24, /* PACKET_VNET_HDR_SZ, Linux 6.4 */
};

/* -------------------------------------------------------------------- check */

static bool packetsk_owns(const struct fd_view *view)
{
	char name[32];
	return sock_protocol(view, name) >= 0 && !strcmp(name, "PACKET");
}

/* Packets in a ring are no obstacle, but what was too long for it waits in the queue. */
static int packetsk_check_queue(const char *who, int fd, bool ring, struct ferry_error *err)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int bytes = 0;
	if (poll(&p, 1, 0) <= 0 || !(p.revents & (POLLIN | POLLERR)) ||
	    (ring && !(p.revents & POLLERR) && ioctl(fd, FIONREAD, &bytes) == 0 && !bytes))
		return 0;
	error_set(err, FERRY_ERROR_IN_FLIGHT, ENOTSUP,
		  "%s: packets wait in a packet socket; no call puts them back into it (Linux 6.18)", who);
	error_hint(err, "try again when the program has read them");
	return -ENOTSUP;
}

/* What no call reads, or makes again. */
static const char *packetsk_obstacle(int fd, const struct packet_sock *sock)
{
	int type = 0;
	uint32_t head;
	if (sock_get(fd, SOL_SOCKET, SO_TYPE, &type) >= 0 && type != SOCK_RAW && type != SOCK_DGRAM)
		return "the type SOCK_PACKET";
	if (sock->has_fanout && (sock->fanout >> 16 & 0xff) >= PACKET_FANOUT_TYPE_CBPF)
		return "a fanout program, which no call reads";
	return packet_ring_look(fd, sock, &head);
}

static int packetsk_check_copy(const struct fd_view *view, int fd, const char *who, struct ferry_error *err)
{
	struct packet_sock sock;
	int r = sockdiag_packet_one(-1, sock_inode(view), &sock, err);
	if (r < 0)
		return r;
	const char *obstacle = packetsk_obstacle(fd, &sock);
	bool ring = packet_ring_bytes(&sock) != 0;
	packet_sock_release(&sock);
	if (!obstacle)
		return packetsk_check_queue(who, fd, ring, err);
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: a packet socket with %s (Linux 6.18)", who,
		  obstacle);
	error_hint(err, "let the program close it and make it anew, or dump before it captures");
	return -ENOTSUP;
}

static int packetsk_check(const struct fd_view *view, const struct kind_options *options,
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
	return r < 0 ? r : packetsk_check_copy(view, loan.fd, who, err);
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

/* Where the kernel goes on is looked at once more: the tree stands, the network does not. */
static int packetsk_collect_ring(struct arena *a, int fd, const struct packet_sock *sock,
				 FerrySocketEntry *extra)
{
	uint32_t head = 0;
	if (!packet_ring_bytes(sock))
		return 0;
	return packet_ring_look(fd, sock, &head) ? -EBUSY : packet_ring_collect(a, fd, sock, head, extra);
}

static int packetsk_collect_record(struct collect *c, struct fd_view *view, PacketSockEntry *psk,
				   FerrySocketEntry *extra, const char *who, struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	struct packet_sock sock;
	struct sockaddr_ll name = {0};
	socklen_t n = sizeof(name);
	int r = sockdiag_packet_one(-1, sock_inode(view), &sock, err);
	if (r < 0)
		return r;
	r = packetsk_collect_diag(a, &sock, psk);
	if (r >= 0)
		r = packetsk_collect_ring(a, view->copy, &sock, extra);
	packet_sock_release(&sock);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "%s: reading a packet socket and its rings",
				   who);
	if (getsockname(view->copy, (struct sockaddr *)&name, &n) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "%s: reading the name of a packet socket",
				   who);
	psk->protocol = name.sll_protocol;
	psk->ifindex = (uint32_t)name.sll_ifindex;
	psk->flags = fdcommon_flags(view);
	record_set(psk, ns_id, net_here_id(c, view));
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
	FerrySocketEntry *extra = NULL;
	int r = sock_copy(view, who, &type, err);
	if (r >= 0)
		r = packetsk_check_copy(view, view->copy, who, err);
	PacketSockEntry *psk = record_new(a, PacketSockEntry, packet_sock_entry);
	if (r < 0 || !psk)
		return r < 0 ? r : error_memory(err);
	psk->id = file->entry->id;
	psk->type = (uint32_t)type.type;
	r = sockextra_collect(a, view->copy, &type, psk->id, &extra, err);
	if (r >= 0)
		r = packetsk_collect_record(c, view, psk, extra, who, err);
	file->entry->psk = psk;
	file->data = extra;
	return r;
}

static int packetsk_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	return sockextra_dump(d, file->data, err);
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
	return r < 0 ? r : packet_ring_restore(fd, psk, extra);
}

static int packetsk_bind(const PacketSockEntry *psk, int fd)
{
	struct sockaddr_ll now = {0};
	socklen_t n = sizeof(now);
	int r = 0;
	const struct sockaddr_ll name = {.sll_family = AF_PACKET,
					 .sll_protocol = (uint16_t)psk->protocol,
					 .sll_ifindex = (int)psk->ifindex};
	/* Filling a ring has bound it to something else. */
	if (getsockname(fd, (struct sockaddr *)&now, &n) < 0)
		return -errno;
	if ((psk->protocol != now.sll_protocol || (int)psk->ifindex != now.sll_ifindex) &&
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
		r = sockextra_apply(o, fd, &type, extra, true, err);
	if (r < 0)
		return r;
	r = packetsk_make(psk, extra, fd);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "making the packet socket of file id %u with its rings", file->entry->id);
	r = sockopt_apply_filter(fd, psk->opts, err);
	if (r >= 0)
		r = sockextra_apply(o, fd, &type, extra, false, err);
	if (r < 0)
		return r;
	r = packetsk_bind(psk, fd);
	if (r < 0) {
		char device[IF_NAMESIZE] = "";
		error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "binding the packet socket of file id %u",
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

/* ----------------------------------------------------------------- mappings */

static bool packetsk_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_SOCKET;
}

static int packetsk_refuse_vma(pid_t pid, uint64_t start, const char *what, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP, "pid %d maps a socket at %llx: %s", pid,
		  (unsigned long long)start, what);
	error_hint(err, "let the program unmap it");
	return -ENOTSUP;
}

static int packetsk_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	const struct proc_vma *vma = view->vma;
	/* TCP_ZEROCOPY_RECEIVE wants such a mapping. */
	if (!(vma->prot & PROT_WRITE) || !vma->shared)
		return packetsk_refuse_vma(view->pid, vma->start,
					   "it is of another socket, or only to be read", err);
	return vma->offset ? packetsk_refuse_vma(view->pid, vma->start, "a part of it", err) : 0;
}

/* Which socket it is shows when the descriptors are known. */
static int packetsk_collect_vma(struct collect *c unused, struct snap_task *t unused,
				const struct vma_view *view, struct snap_vma *vma, struct ferry_error *err)
{
	VmaEntry *entry = vma->entry;
	int r = packetsk_check_vma(view, err);
	entry->status = VMA_STATUS_REGULAR | VMA_STATUS_SOCKET;
	entry->flags |= MAP_SHARED;
	record_set(entry, fdflags, O_RDWR);
	return r;
}

static const struct snap_file *packetsk_of_vma(const struct snapshot *s, const struct snap_vma *vma)
{
	vec_foreach(file, &s->files) {
		const FerrySocketEntry *extra = file->kind == &kind_packetsk ? file->data : NULL;
		if (extra && file->ino == vma->inode && extra->has_ring &&
		    extra->ring.len == vma->entry->end - vma->entry->start)
			return file;
	}
	return NULL;
}

static int packetsk_collect_end(struct collect *c, struct ferry_error *err)
{
	vec_foreach(t, &c->snap->tasks) {
		vec_foreach(vma, &t->vmas) {
			const struct snap_file *file;
			if (!(vma->entry->status & VMA_STATUS_SOCKET))
				continue;
			file = packetsk_of_vma(c->snap, vma);
			if (!file)
				return packetsk_refuse_vma(
					t->pid, vma->entry->start,
					"a part of it, or no descriptor of the tree has it any more", err);
			vma->entry->shmid = file->entry->id;
		}
	}
	return 0;
}

static bool packetsk_owns_record(const VmaEntry *entry)
{
	return entry->status & VMA_STATUS_SOCKET;
}

static int packetsk_map(struct reader *r, struct plan_task *t, const VmaEntry *entry, struct vma_map *m,
			struct ferry_error *err)
{
	struct plan_file *file = plan_file(r->plan, (uint32_t)entry->shmid);
	if (!file || file->kind != &kind_packetsk)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pid %d maps file id %llu, which is no packet socket", t->pid,
				 (unsigned long long)entry->shmid);
	m->fd = plan_temp_file(t, file, -1);
	return m->fd < 0 ? error_memory(err) : 0;
}

const struct kind_ops kind_packetsk = {
	.name = "packet",
	.what = "packet sockets, with memberships, fanout groups and rings",
	.fd_type = FD_TYPES__PACKETSK,
	.image_file = -1,
	.owns = packetsk_owns,
	.check = packetsk_check,
	.collect = packetsk_collect,
	.collect_end = packetsk_collect_end,
	.dump = packetsk_dump,
	.read = packetsk_read,
	.restore = packetsk_restore,
	.settle = packetsk_settle,
	.owns_vma = packetsk_owns_vma,
	.check_vma = packetsk_check_vma,
	.collect_vma = packetsk_collect_vma,
	.owns_record = packetsk_owns_record,
	.map = packetsk_map,
};
