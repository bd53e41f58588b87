/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every option that this kernel lets a socket set and read, found by trying: on sockets of the kind that the word in argv[2]
 * says, in three parts, so that those that exclude each other do not all meet. Proof: each is as it was; how many there
 * are is told by the kernel, not by a list, so what a later kernel adds is missed here first.
 */
#include "program.h"

#include <arpa/inet.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	PARTS = 3,
	NAMES = 140,
	BYTES = 64,
	MAX = 2048,
	SOL_RAW_ = 255,
	SOL_NETLINK_ = 270,
	SOL_PACKET_ = 263
};

static const int levels[] = {SOL_SOCKET, IPPROTO_IP,   IPPROTO_IPV6, IPPROTO_TCP,   IPPROTO_UDP,
			     SOL_RAW_,   SOL_NETLINK_, SOL_PACKET_,  IPPROTO_ICMPV6};

static const int values[] = {1, 0, 2, 3, 5, 7, 16, 100, 1000, 5000, 65536, 0x01000000};

static const struct {
	const char *word;
	int domain, type, protocol;
} kinds[] = {
	{"unix", AF_UNIX, SOCK_STREAM, 0},    {"unix", AF_UNIX, SOCK_DGRAM, 0},
	{"unix", AF_UNIX, SOCK_SEQPACKET, 0}, {"tcp", AF_INET, SOCK_STREAM, 0},
	{"tcp", AF_INET6, SOCK_STREAM, 0},    {"udp", AF_INET, SOCK_DGRAM, 0},
	{"udp", AF_INET6, SOCK_DGRAM, 0},     {"raw", AF_INET, SOCK_RAW, 253},
	{"raw", AF_INET6, SOCK_RAW, 253},     {"raw", AF_INET6, SOCK_RAW, IPPROTO_ICMPV6},
	{"netlink", AF_NETLINK, SOCK_RAW, 0}, {"packet", AF_PACKET, SOCK_RAW, 0},
	{"packet", AF_PACKET, SOCK_DGRAM, 0},
};

/* What is no state of the socket, or makes it another one. */
static const struct {
	int level, name;
	const char *why;
} left_out[] = {
	{IPPROTO_TCP, TCP_QUICKACK, "the kernel changes it by itself"},
	{IPPROTO_TCP, TCP_REPAIR, "only while the socket is dumped"},
	{IPPROTO_UDP, 100, "UDP_ENCAP, which is refused"},
};

static const struct so_timestamping stamping = {.flags = SOF_TIMESTAMPING_SOFTWARE |
							 SOF_TIMESTAMPING_RX_SOFTWARE};
static const struct sock_txtime at_time = {.clockid = CLOCK_TAI, .flags = SOF_TXTIME_REPORT_ERRORS};
static const uint64_t pace = 12345678900;
static const unsigned char padding[8] = {0, 0, 1, 4, 0, 0, 0, 0};

/* Those that are no number; each where it is accepted. */
static const struct {
	int level, name;
	const void *bytes;
	socklen_t n;
} wide[] = {
	{SOL_SOCKET, SO_TIMESTAMPING, &stamping, sizeof(stamping)},
	{SOL_SOCKET, SO_TXTIME, &at_time, sizeof(at_time)},
	{SOL_SOCKET, SO_MAX_PACING_RATE, &pace, sizeof(pace)},
	{IPPROTO_IP, IP_OPTIONS, "\1\1\1\0", 4},
	{IPPROTO_IPV6, IPV6_HOPOPTS, padding, sizeof(padding)},
	{IPPROTO_IPV6, IPV6_DSTOPTS, padding, sizeof(padding)},
	{IPPROTO_IPV6, IPV6_RTHDRDSTOPTS, padding, sizeof(padding)},
	{IPPROTO_TCP, TCP_CONGESTION, "reno", 4},
	{IPPROTO_TCP, TCP_FASTOPEN_KEY, "0123456789abcdef", 16},
};

struct option {
	int fd, level, name;
	const char *domain;
	socklen_t n;
	unsigned char was[BYTES];
};

static struct option options[MAX];
static size_t n_options;

static socklen_t option_get(const struct option *o, unsigned char *ret)
{
	socklen_t n = sizeof(int);

	memset(ret, 0, BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(wide); i++)
		if (wide[i].level == o->level && wide[i].name == o->name)
			n = BYTES;
	if (getsockopt(o->fd, o->level, o->name, ret, &n) < 0)
		return 0;
	return n;
}

static void verify(struct program *p, void *state)
{
	unsigned char now[BYTES];
	char what[64];

	(void)state;
	for (size_t i = 0; i < n_options; i++) {
		const struct option *o = &options[i];
		snprintf(what, sizeof(what), "%s: length of option %d of level %d", o->domain, o->name,
			 o->level);
		expect_same(p, what, option_get(o, now), o->n);
		expect(p, !memcmp(now, o->was, BYTES),
		       "%s: option %d of level %d is %02x%02x%02x%02x, not %02x%02x%02x%02x", o->domain,
		       o->name, o->level, now[0], now[1], now[2], now[3], o->was[0], o->was[1], o->was[2],
		       o->was[3]);
	}
}

static void spoil(void *state)
{
	(void)state;
	must(setsockopt(options[0].fd, SOL_SOCKET, SO_RCVLOWAT, &(int){77}, sizeof(int)));
	options[n_options++] = (struct option){options[0].fd, SOL_SOCKET, SO_RCVLOWAT, "spoilt", 4, {1}};
}

static bool option_left_out(int level, int name)
{
	for (size_t i = 0; i < ARRAY_SIZE(left_out); i++)
		if (left_out[i].level == level && left_out[i].name == name)
			return true;
	return false;
}

/* The first value that makes a difference. */
static bool option_change(const struct option *o)
{
	unsigned char before[BYTES], after[BYTES];
	socklen_t n = option_get(o, before);

	for (size_t i = 0; i < ARRAY_SIZE(wide); i++)
		if (n && wide[i].level == o->level && wide[i].name == o->name)
			return setsockopt(o->fd, o->level, o->name, wide[i].bytes, wide[i].n) == 0;
	for (size_t i = 0; n && i < ARRAY_SIZE(values); i++) {
		if (setsockopt(o->fd, o->level, o->name, &values[i], sizeof(int)) < 0)
			continue;
		option_get(o, after);
		if (memcmp(before, after, BYTES) != 0)
			return true;
	}
	return false;
}

static void make_part(size_t kind, int part)
{
	int fd = must(socket(kinds[kind].domain, kinds[kind].type | SOCK_CLOEXEC, kinds[kind].protocol));

	for (size_t l = 0; l < ARRAY_SIZE(levels); l++)
		for (int name = part; name < NAMES; name += PARTS) {
			struct option o = {fd, levels[l], name, kinds[kind].word, 0, {0}};
			if (option_left_out(levels[l], name) || !option_change(&o))
				continue;
			if (n_options + 1 >= MAX)
				program_die("too many options");
			options[n_options++] = o;
		}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t kind = 0; kind < ARRAY_SIZE(kinds); kind++)
		for (int part = 0; program_told(argc, argv, kinds[kind].word) && part < PARTS; part++)
			make_part(kind, part);
	/* Some change others. */
	for (size_t i = 0; i < n_options; i++)
		options[i].n = option_get(&options[i], options[i].was);
	if (n_options < 20)
		program_die("hardly an option can be set");
	return program_serve(&p, &ops, NULL);
}
