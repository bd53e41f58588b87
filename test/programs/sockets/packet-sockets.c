/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packet sockets: with and without link headers, bound to a device and a protocol, memberships ("more": the same
 * one twice, which CRIU refuses), a fanout group of two,
 * rings that are not mapped, a filter, options. A packet comes where it should afterwards.
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	GROUP = 7,
	LO = 1,
	PROTOCOL = 0x88b5 /* for experiments */,
	RECEIVE_BYTES = 34567,
	SEND_BYTES = 23456,
	LOW_BYTES = 5
};

struct state {
	int cooked, ring, fan[2], filtered;
};

static int option(int fd, int name)
{
	int value = -1;

	getsockopt(fd, SOL_PACKET, name, &value, &(socklen_t){sizeof(value)});
	return value;
}

static void check_name(struct program *p, const char *what, int fd, int device, unsigned protocol)
{
	struct sockaddr_ll got = {0};

	getsockname(fd, (struct sockaddr *)&got, &(socklen_t){sizeof(got)});
	expect_same(p, what, got.sll_ifindex, device);
	expect_same(p, what, ntohs(got.sll_protocol), protocol);
}

static int of_socket(int fd, int name)
{
	int value = -1;

	getsockopt(fd, SOL_SOCKET, name, &value, &(socklen_t){sizeof(value)});
	return value;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sock_filter code[4];
	socklen_t n = ARRAY_SIZE(code);
	int type = 0;

	getsockopt(s->cooked, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)});
	expect_same(p, "type", type, SOCK_DGRAM);
	check_name(p, "cooked", s->cooked, LO, PROTOCOL);
	expect_same(p, "PACKET_AUXDATA", option(s->cooked, PACKET_AUXDATA), 1);
	check_name(p, "ring", s->ring, LO, 0);
	expect_same(p, "PACKET_VERSION", option(s->ring, PACKET_VERSION), TPACKET_V2);
	expect_same(p, "PACKET_RESERVE", option(s->ring, PACKET_RESERVE), 16);
	/* The version is fixed while there is a ring. */
	expect(p,
	       setsockopt(s->ring, SOL_PACKET, PACKET_VERSION, &(int){TPACKET_V1}, sizeof(int)) < 0 &&
		       errno == EBUSY,
	       "the ring is gone");
	for (int i = 0; i < 2; i++)
		expect_same(p, "PACKET_FANOUT", option(s->fan[i], PACKET_FANOUT),
			    GROUP | PACKET_FANOUT_LB << 16);
	expect_same(p, "SO_RCVBUF", of_socket(s->filtered, SO_RCVBUF), 2 * RECEIVE_BYTES);
	expect_same(p, "SO_SNDBUF", of_socket(s->filtered, SO_SNDBUF), 2 * SEND_BYTES);
	expect_same(p, "SO_RCVLOWAT", of_socket(s->filtered, SO_RCVLOWAT), LOW_BYTES);
	check_name(p, "filtered", s->filtered, 0, PROTOCOL + 1);
	expect_same(p, "filter", getsockopt(s->filtered, SOL_SOCKET, SO_GET_FILTER, code, &n), 0);
	expect_same(p, "instructions", n, 1);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET, .sll_ifindex = LO, .sll_protocol = htons(PROTOCOL), .sll_halen = 6};
	struct pollfd poller = {.fd = s->cooked, .events = POLLIN};
	struct packet_mreq mreq = {.mr_ifindex = LO, .mr_type = PACKET_MR_PROMISC};
	char bytes[64];

	expect_same(p, "sent", sendto(s->fan[0], "packet", 6, 0, (const struct sockaddr *)&to, sizeof(to)),
		    6);
	expect_same(p, "arrives", poll(&poller, 1, 2000), 1);
	expect(p, recv(s->cooked, bytes, sizeof(bytes), MSG_DONTWAIT) >= 6 && !memcmp(bytes, "packet", 6),
	       "another packet");
	expect_same(p, "leaving",
		    setsockopt(s->cooked, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &mreq, sizeof(mreq)), 0);
	expect(p,
	       !p->more ||
		       setsockopt(s->cooked, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &mreq, sizeof(mreq)) == 0,
	       "it was joined once only");
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(setsockopt(s->cooked, SOL_PACKET, PACKET_AUXDATA, &(int){0}, sizeof(int)));
}

static int bound(int type, int device, unsigned protocol)
{
	const struct sockaddr_ll name = {
		.sll_family = AF_PACKET, .sll_ifindex = device, .sll_protocol = htons((uint16_t)protocol)};
	int fd = must(socket(AF_PACKET, type | SOCK_CLOEXEC, 0));

	must(bind(fd, (const struct sockaddr *)&name, sizeof(name)));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct packet_mreq mreq = {.mr_ifindex = LO, .mr_type = PACKET_MR_PROMISC};
	const struct tpacket_req ring = {
		.tp_block_size = 4096, .tp_block_nr = 4, .tp_frame_size = 2048, .tp_frame_nr = 8};
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	const struct sock_fprog filter = {.len = 1, .filter = &drop};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.cooked = bound(SOCK_DGRAM, LO, PROTOCOL);
	must(setsockopt(s.cooked, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mreq, sizeof(mreq)));
	if (p.more)
		must(setsockopt(s.cooked, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &mreq, sizeof(mreq)));
	must(setsockopt(s.cooked, SOL_PACKET, PACKET_AUXDATA, &(int){1}, sizeof(int)));
	s.ring = bound(SOCK_RAW, LO, 0);
	must(setsockopt(s.ring, SOL_PACKET, PACKET_VERSION, &(int){TPACKET_V2}, sizeof(int)));
	must(setsockopt(s.ring, SOL_PACKET, PACKET_RESERVE, &(int){16}, sizeof(int)));
	must(setsockopt(s.ring, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)));
	for (int i = 0; i < 2; i++) {
		s.fan[i] = bound(SOCK_DGRAM, LO, PROTOCOL + 2);
		must(setsockopt(s.fan[i], SOL_PACKET, PACKET_FANOUT, &(int){GROUP | PACKET_FANOUT_LB << 16},
				sizeof(int)));
	}
	s.filtered = must(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
	must(setsockopt(s.filtered, SOL_SOCKET, SO_RCVBUF, &(int){RECEIVE_BYTES}, sizeof(int)));
	must(setsockopt(s.filtered, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BYTES}, sizeof(int)));
	must(setsockopt(s.filtered, SOL_SOCKET, SO_RCVLOWAT, &(int){LOW_BYTES}, sizeof(int)));
	must(setsockopt(s.filtered, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)));
	const struct sockaddr_ll name = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL + 1)};
	must(bind(s.filtered, (const struct sockaddr *)&name, sizeof(name)));
	return program_serve(&p, &ops, &s);
}
