/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A packet socket with rings that the program has mapped, by word: "v1", "v2" with packets that were taken and others that wait,
 * so that the kernel stands in the middle; "full": every frame has one; "both": with a ring for sending in which frames
 * wait to be sent; "v3", that nothing came into yet. Refused: "used-v3", "sent". Proof: what waits, its order, and that the
 * next packet comes where the program waits for it.
 */
#include "program.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PROTOCOL = 0x88b5,
	BLOCK = 8192,
	BLOCKS = 3,
	FRAME = 2048,
	FRAMES = BLOCK / FRAME * BLOCKS,
	BYTES = BLOCK * BLOCKS,
	V3_BLOCKS = 4,
	RETIRE_MS = 20
};

struct state {
	int fd, version;
	unsigned char *map;
	size_t bytes;
	unsigned next, waits; /* frame that is taken next; how many wait from there */
	unsigned char serial; /* of the first of them */
	unsigned sends;       /* frames of the other ring that wait */
	bool refused;
};

static void send_one(unsigned char serial)
{
	const struct sockaddr_ll to = {.sll_family = AF_PACKET,
				       .sll_ifindex = (int)if_nametoindex("lo"),
				       .sll_protocol = htons(PROTOCOL),
				       .sll_halen = 6};
	unsigned char bytes[100];
	int fd = must(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	memset(bytes, serial, sizeof(bytes));
	must(sendto(fd, bytes, sizeof(bytes), 0, (const struct sockaddr *)&to, sizeof(to)));
	close(fd);
}

static unsigned char *frame(const struct state *s, unsigned index)
{
	return s->map + (size_t)index * FRAME;
}

static unsigned long status_of(const struct state *s, unsigned index)
{
	return s->version == TPACKET_V1 ? ((volatile struct tpacket_hdr *)frame(s, index))->tp_status
					: ((volatile struct tpacket2_hdr *)frame(s, index))->tp_status;
}

static void give_back(const struct state *s, unsigned index)
{
	if (s->version == TPACKET_V1)
		((volatile struct tpacket_hdr *)frame(s, index))->tp_status = TP_STATUS_KERNEL;
	else
		((volatile struct tpacket2_hdr *)frame(s, index))->tp_status = TP_STATUS_KERNEL;
}

static const unsigned char *contents(const struct state *s, unsigned index)
{
	return frame(s, index) + (s->version == TPACKET_V1
					  ? ((struct tpacket_hdr *)frame(s, index))->tp_net
					  : ((struct tpacket2_hdr *)frame(s, index))->tp_net);
}

/* After how many milliseconds a block that is not full is given out; no option tells. -1: nobody does. */
static long retire_ms(int fd)
{
	struct {
		struct nlmsghdr head;
		struct packet_diag_req ask;
	} request = {.head = {sizeof(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0},
		     .ask = {.sdiag_family = AF_PACKET, .pdiag_show = PACKET_SHOW_RING_CFG}};
	int link = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
	_Alignas(struct nlmsghdr) char text[8192];
	long found = -1;
	struct stat st;

	must(fstat(fd, &st));
	must(send(link, &request, sizeof(request), 0));
	for (bool more = true; more;) {
		int n = (int)must(recv(link, text, sizeof(text), 0));
		struct nlmsghdr *h = (struct nlmsghdr *)text;
		for (more = n > 0; NLMSG_OK(h, (unsigned)n); h = NLMSG_NEXT(h, n)) {
			const struct packet_diag_msg *m = NLMSG_DATA(h);
			if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY) {
				more = false;
				break;
			}
			struct rtattr *a = (struct rtattr *)(m + 1);
			int left = (int)(h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)));
			for (; m->pdiag_ino == st.st_ino && RTA_OK(a, left); a = RTA_NEXT(a, left))
				if (a->rta_type == PACKET_DIAG_RX_RING)
					found = ((const struct packet_diag_ring *)RTA_DATA(a))
							->pdr_retire_tmo;
		}
	}
	close(link);
	return found;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	if (s->version == TPACKET_V3)
		expect_same(p, "time of a block", retire_ms(s->fd), RETIRE_MS);
	for (unsigned i = 0; s->version != TPACKET_V3 && !s->refused && i < FRAMES; i++) {
		unsigned index = (s->next + i) % FRAMES;
		bool waits = i < s->waits;
		expect_same(p, "status", status_of(s, index) & TP_STATUS_USER, waits ? TP_STATUS_USER : 0);
		if (waits)
			expect_same(p, "packet", contents(s, index)[50], (unsigned char)(s->serial + i));
	}
	for (unsigned i = 0; i < s->sends; i++) {
		const struct tpacket2_hdr *h = (const void *)(s->map + BYTES + (size_t)i * FRAME);
		expect_same(p, "to be sent", h->tp_status, TP_STATUS_SEND_REQUEST);
		expect_same(p, "length", h->tp_len, 60 + i);
	}
}

static void take_all(struct program *p, struct state *s)
{
	for (; s->waits; s->waits--, s->serial++, s->next = (s->next + 1) % FRAMES) {
		expect_same(p, "packet", contents(s, s->next)[50], s->serial);
		give_back(s, s->next);
	}
}

/* Twice around, each where it is waited for. */
static void finish_frames(struct program *p, struct state *s)
{
	take_all(p, s);
	for (int i = 0; i < 2 * FRAMES; i++) {
		struct pollfd poller = {.fd = s->fd, .events = POLLIN};
		send_one((unsigned char)(i + 1));
		for (int tries = 0; tries < 1000 && !(status_of(s, s->next) & TP_STATUS_USER); tries++)
			sleep_ms(1);
		expect_same(p, "a packet comes", status_of(s, s->next) & TP_STATUS_USER, TP_STATUS_USER);
		expect_same(p, "poll", poll(&poller, 1, 0), 1);
		expect_same(p, "packet", contents(s, s->next)[50], (unsigned char)(i + 1));
		give_back(s, s->next);
		s->next = (s->next + 1) % FRAMES;
	}
}

static void finish_block(struct program *p, const struct state *s)
{
	volatile struct tpacket_block_desc *d = (volatile void *)s->map;

	send_one(33);
	for (int tries = 0; tries < 2000 && !(d->hdr.bh1.block_status & TP_STATUS_USER); tries++)
		sleep_ms(1);
	expect_same(p, "packets of the block", d->hdr.bh1.num_pkts, 1);
	const struct tpacket3_hdr *h = (const void *)(s->map + d->hdr.bh1.offset_to_first_pkt);
	expect_same(p, "packet", ((const unsigned char *)h)[h->tp_net + 50], 33);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	if (s->version == TPACKET_V3)
		finish_block(p, s);
	else
		finish_frames(p, s);
	if (!s->sends)
		return;
	must(send(s->fd, NULL, 0, 0));
	for (unsigned i = 0; i < s->sends; i++)
		expect_same(p, "was sent",
			    ((const struct tpacket2_hdr *)(s->map + BYTES + (size_t)i * FRAME))->tp_status,
			    TP_STATUS_AVAILABLE);
}

static void spoil(void *state)
{
	struct state *s = state;

	if (s->version == TPACKET_V3)
		s->version = TPACKET_V2;
	s->map[0] ^= TP_STATUS_USER;
}

static void set_ring(const struct state *s, int name)
{
	const struct tpacket_req3 ring = {
		.tp_block_size = BLOCK,
		.tp_block_nr = s->version == TPACKET_V3 ? V3_BLOCKS : BLOCKS,
		.tp_frame_size = FRAME,
		.tp_frame_nr = BLOCK / FRAME * (s->version == TPACKET_V3 ? V3_BLOCKS : BLOCKS),
		.tp_retire_blk_tov = RETIRE_MS,
	};
	must(setsockopt(s->fd, SOL_PACKET, name, &ring,
			s->version == TPACKET_V3 ? sizeof(ring) : sizeof(struct tpacket_req)));
}

static void make(struct state *s, bool both)
{
	const struct sockaddr_ll name = {.sll_family = AF_PACKET,
					 .sll_ifindex = (int)if_nametoindex("lo"),
					 .sll_protocol = htons(PROTOCOL)};

	s->fd = must(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(setsockopt(s->fd, SOL_PACKET, PACKET_VERSION, &s->version, sizeof(s->version)));
	set_ring(s, PACKET_RX_RING);
	if (both)
		set_ring(s, PACKET_TX_RING);
	s->bytes = (size_t)(s->version == TPACKET_V3 ? V3_BLOCKS : BLOCKS) * BLOCK * (both ? 2 : 1);
	s->map = must(mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0));
	must(bind(s->fd, (const struct sockaddr *)&name, sizeof(name)));
}

static void receive(struct program *p, struct state *s, unsigned taken, unsigned waits)
{
	for (unsigned i = 0; i < taken + waits; i++) {
		send_one((unsigned char)(100 + i));
		while (!(status_of(s, i % FRAMES) & TP_STATUS_USER))
			sleep_ms(1);
		sleep_ms(1);
		if (i < taken)
			give_back(s, i % FRAMES);
	}
	s->next = taken % FRAMES;
	s->waits = waits;
	s->serial = (unsigned char)(100 + taken);
	(void)p;
}

static void fill_sending(struct state *s)
{
	for (s->sends = 0; s->sends < 3; s->sends++) {
		struct tpacket2_hdr *h = (void *)(s->map + BYTES + (size_t)s->sends * FRAME);
		h->tp_len = 60 + s->sends;
		h->tp_status = TP_STATUS_SEND_REQUEST;
	}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s = {.version = TPACKET_V2};
	struct program p;

	program_start(&p, argc, argv);
	bool both = program_told(argc, argv, "both") || program_told(argc, argv, "sent");
	if (program_told(argc, argv, "v1"))
		s.version = TPACKET_V1;
	if (program_told(argc, argv, "v3") || program_told(argc, argv, "used-v3"))
		s.version = TPACKET_V3;
	make(&s, both);
	if (program_told(argc, argv, "used-v3"))
		send_one(1);
	else if (program_told(argc, argv, "full"))
		receive(&p, &s, 5, FRAMES);
	else if (s.version != TPACKET_V3)
		receive(&p, &s, FRAMES + 3, 4);
	if (both)
		fill_sending(&s);
	if (program_told(argc, argv, "sent")) {
		must(send(s.fd, NULL, 0, 0));
		s.sends = 0;
		s.refused = true;
	}
	return program_serve(&p, &ops, &s);
}
