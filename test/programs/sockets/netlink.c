/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Netlink sockets: bound with groups below and above 32, unbound, connected to a port, one for uevents with a filter, with
 * options; the kernel answers a question afterwards. "more": the groups above 32, the options, the type.
 */
#include "program.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

enum { PORT = 77123, PEER = 4711, HIGH_GROUP = 34, RECEIVE_BYTES = 34567, SEND_BYTES = 23456, LOW_BYTES = 5 };

struct state {
	int bound, fresh, connected, uevents;
};

static int option(int fd, int name)
{
	int value = -1;

	getsockopt(fd, SOL_NETLINK, name, &value, &(socklen_t){sizeof(value)});
	return value;
}

static int of_socket(int fd, int name)
{
	int value = -1;

	getsockopt(fd, SOL_SOCKET, name, &value, &(socklen_t){sizeof(value)});
	return value;
}

static bool is_member(int fd, unsigned group)
{
	uint32_t words[8] = {0};

	getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &(socklen_t){sizeof(words)});
	return words[(group - 1) / 32] & 1u << (group - 1) % 32;
}

static void check_name(struct program *p, const char *what, int fd, bool of_peer, unsigned port)
{
	struct sockaddr_nl got = {0};
	socklen_t n = sizeof(got);

	if (of_peer)
		getpeername(fd, (struct sockaddr *)&got, &n);
	else
		getsockname(fd, (struct sockaddr *)&got, &n);
	expect_same(p, what, got.nl_pid, port);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sock_filter code[4];
	socklen_t n = ARRAY_SIZE(code);
	int type = 0;

	check_name(p, "port of the bound", s->bound, false, PORT);
	check_name(p, "port of the fresh", s->fresh, false, 0);
	check_name(p, "peer of the connected", s->connected, true, PEER);
	expect(p, is_member(s->bound, RTNLGRP_LINK) && is_member(s->bound, RTNLGRP_IPV4_ROUTE),
	       "groups are missing");
	expect(p, !is_member(s->bound, RTNLGRP_NEIGH), "a group too many");
	expect(p, is_member(s->uevents, 1), "the group of the uevents is missing");
	expect_same(p, "filter", getsockopt(s->uevents, SOL_SOCKET, SO_GET_FILTER, code, &n), 0);
	expect_same(p, "instructions", n, 1);
	expect_same(p, "SO_RCVBUF", of_socket(s->bound, SO_RCVBUF), 2 * RECEIVE_BYTES);
	expect_same(p, "SO_SNDBUF", of_socket(s->bound, SO_SNDBUF), 2 * SEND_BYTES);
	expect_same(p, "SO_RCVLOWAT", of_socket(s->bound, SO_RCVLOWAT), LOW_BYTES);
	if (!p->more)
		return;
	expect(p, is_member(s->bound, HIGH_GROUP), "the group above 32 is missing");
	expect_same(p, "NETLINK_EXT_ACK", option(s->bound, NETLINK_EXT_ACK), 1);
	expect_same(p, "NETLINK_NO_ENOBUFS", option(s->uevents, NETLINK_NO_ENOBUFS), 1);
	getsockopt(s->uevents, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)});
	expect_same(p, "type", type, SOCK_DGRAM);
}

/* The kernel tells of the loopback device, and of a change that the group hears of. */
static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct {
		struct nlmsghdr head;
		struct ifinfomsg info;
	} ask = {.head = {.nlmsg_len = sizeof(ask), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
		 .info = {.ifi_index = 1}};
	static char answer[65536] __attribute__((aligned(8)));

	expect_same(p, "asking", send(s->bound, &ask, sizeof(ask), 0), sizeof(ask));
	struct nlmsghdr *head = (struct nlmsghdr *)answer;
	expect(p, recv(s->bound, answer, sizeof(answer), 0) > 0 && head->nlmsg_type == RTM_NEWLINK,
	       "no answer");
	struct ifreq change = {.ifr_name = "lo"};
	must(ioctl(s->bound, SIOCGIFMTU, &change));
	int mtu = change.ifr_mtu;
	change.ifr_mtu = 60000;
	must(ioctl(s->bound, SIOCSIFMTU, &change));
	expect(p, recv(s->bound, answer, sizeof(answer), MSG_DONTWAIT) > 0 && head->nlmsg_type == RTM_NEWLINK,
	       "the change was not told");
	change.ifr_mtu = mtu;
	must(ioctl(s->bound, SIOCSIFMTU, &change));
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(setsockopt(s->bound, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &(int){RTNLGRP_LINK}, sizeof(int)));
}

static void join(int fd, int group)
{
	must(setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct sock_filter pass = BPF_STMT(BPF_RET | BPF_K, 0xffffffff);
	const struct sock_fprog filter = {.len = 1, .filter = &pass};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	const struct sockaddr_nl name = {.nl_family = AF_NETLINK, .nl_pid = PORT, .nl_groups = RTMGRP_LINK};
	const struct sockaddr_nl peer = {.nl_family = AF_NETLINK, .nl_pid = PEER};
	const struct sockaddr_nl uevents = {.nl_family = AF_NETLINK, .nl_groups = 1};
	s.bound = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
	must(bind(s.bound, (const struct sockaddr *)&name, sizeof(name)));
	join(s.bound, RTNLGRP_IPV4_ROUTE);
	must(setsockopt(s.bound, SOL_SOCKET, SO_RCVBUF, &(int){RECEIVE_BYTES}, sizeof(int)));
	must(setsockopt(s.bound, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BYTES}, sizeof(int)));
	must(setsockopt(s.bound, SOL_SOCKET, SO_RCVLOWAT, &(int){LOW_BYTES}, sizeof(int)));
	s.fresh = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
	s.connected = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
	must(connect(s.connected, (const struct sockaddr *)&peer, sizeof(peer)));
	s.uevents = must(
		socket(AF_NETLINK, (p.more ? SOCK_DGRAM : SOCK_RAW) | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT));
	must(bind(s.uevents, (const struct sockaddr *)&uevents, sizeof(uevents)));
	must(setsockopt(s.uevents, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)));
	if (p.more) {
		join(s.bound, HIGH_GROUP);
		must(setsockopt(s.bound, SOL_NETLINK, NETLINK_EXT_ACK, &(int){1}, sizeof(int)));
		must(setsockopt(s.uevents, SOL_NETLINK, NETLINK_NO_ENOBUFS, &(int){1}, sizeof(int)));
	}
	return program_serve(&p, &ops, &s);
}
