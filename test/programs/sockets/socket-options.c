/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options of sockets of every type, filters, flags and owners for signals. Each option is set to something
 * else than a new socket has. With "more" also those that CRIU does not keep. Proof: every option is read
 * back.
 */
#include "program.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

/* Sockets, as bits. */
enum {
	UNIX = 1,
	TCP4 = 2,
	TCP6 = 4,
	UDP4 = 8,
	UDP6 = 16,
	TCP = TCP4 | TCP6,
	UDP = UDP4 | UDP6,
	IP4 = TCP4 | UDP4,
	IP6 = TCP6 | UDP6,
	IP = TCP | UDP,
	ANY = UNIX | IP
};

static const struct {
	const char *name;
	int level, option, value;
	unsigned on;
	bool more;
} options[] = {
	{"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 34567, ANY, false},
	{"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 45678, ANY, false},
	{"SO_BUF_LOCK", SOL_SOCKET, 72, 3, ANY, true},
	{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1, ANY, false},
	{"SO_REUSEPORT", SOL_SOCKET, SO_REUSEPORT, 1, IP, false},
	{"SO_BROADCAST", SOL_SOCKET, SO_BROADCAST, 1, UDP, false},
	{"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1, TCP, false},
	{"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, 1, TCP, false},
	{"SO_DONTROUTE", SOL_SOCKET, SO_DONTROUTE, 1, UDP, false},
	{"SO_NO_CHECK", SOL_SOCKET, SO_NO_CHECK, 1, UDP4, false},
	{"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, 7, ANY, false},
	{"SO_MARK", SOL_SOCKET, SO_MARK, 4711, ANY, false},
	{"SO_PASSCRED", SOL_SOCKET, SO_PASSCRED, 1, UNIX, false},
	{"SO_PASSSEC", SOL_SOCKET, SO_PASSSEC, 1, UNIX, false},
	{"IP_TOS", IPPROTO_IP, IP_TOS, 0x28, IP4, false},
	{"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 5, ANY, false},
	{"IP_TTL", IPPROTO_IP, IP_TTL, 77, IP4, false},
	{"IP_FREEBIND", IPPROTO_IP, IP_FREEBIND, 1, IP4, false},
	{"IP_PKTINFO", IPPROTO_IP, IP_PKTINFO, 1, UDP4, false},
	{"IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY, 1, IP6, false},
	{"IPV6_RECVPKTINFO", IPPROTO_IPV6, IPV6_RECVPKTINFO, 1, UDP6, false},
	{"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, 1, TCP, false},
	{"TCP_CORK", IPPROTO_TCP, TCP_CORK, 1, TCP, false},
	{"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, 111, TCP, false},
	{"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, 22, TCP, false},
	{"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, 3, TCP, false},
	{"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP, 1, ANY, true},
	{"SO_PEEK_OFF", SOL_SOCKET, SO_PEEK_OFF, 5, UNIX | UDP, true},
	{"SO_RXQ_OVFL", SOL_SOCKET, SO_RXQ_OVFL, 1, UDP, true},
	{"IP_RECVTTL", IPPROTO_IP, IP_RECVTTL, 1, UDP4, true},
	{"IP_RECVERR", IPPROTO_IP, IP_RECVERR, 1, UDP4, true},
	{"IP_MTU_DISCOVER", IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP4, true},
	{"IP_MULTICAST_TTL", IPPROTO_IP, IP_MULTICAST_TTL, 9, UDP4, true},
	{"IPV6_UNICAST_HOPS", IPPROTO_IPV6, IPV6_UNICAST_HOPS, 55, IP6, true},
	{"IPV6_TCLASS", IPPROTO_IPV6, IPV6_TCLASS, 0x10, IP6, true},
	{"IPV6_MULTICAST_LOOP", IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0, UDP6, true},
	{"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, 12345, TCP, true},
	{"TCP_MAXSEG", IPPROTO_TCP, TCP_MAXSEG, 1200, TCP, true},
	{"TCP_SYNCNT", IPPROTO_TCP, TCP_SYNCNT, 3, TCP, true},
	{"TCP_NOTSENT_LOWAT", IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4321, TCP, true},
	{"UDP_CORK", IPPROTO_UDP, UDP_CORK, 1, UDP, true},
};

static const struct sock_filter code[] = {
	{0x28, 0, 0, 12},
	{0x15, 1, 0, 0x0800},
	{0x06, 0, 0, 0xffff},
	{0x06, 0, 0, 0x1234},
};

struct one {
	const char *what;
	unsigned bit;
	int domain, type;
	int fd;
	int values[ARRAY_SIZE(options)];
	int flags;
};

static struct one all[] = {
	{"unix", UNIX, AF_UNIX, SOCK_STREAM, -1, {0}, 0},  {"tcp", TCP4, AF_INET, SOCK_STREAM, -1, {0}, 0},
	{"tcp6", TCP6, AF_INET6, SOCK_STREAM, -1, {0}, 0}, {"udp", UDP4, AF_INET, SOCK_DGRAM, -1, {0}, 0},
	{"udp6", UDP6, AF_INET6, SOCK_DGRAM, -1, {0}, 0},
};

static int option_get(int fd, int level, int option)
{
	int value = -1;

	getsockopt(fd, level, option, &value, &(socklen_t){sizeof(value)});
	return value;
}

static void filter_set(int fd)
{
	const struct sock_fprog program = {.len = ARRAY_SIZE(code),
					   .filter = (struct sock_filter *)(uintptr_t)code};

	must(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
}

static void one_make(struct one *o, bool more)
{
	o->fd = must(socket(o->domain, o->type | SOCK_CLOEXEC, 0));
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		bool wanted = options[i].on & o->bit && (more || !options[i].more);
		if (wanted && setsockopt(o->fd, options[i].level, options[i].option, &options[i].value,
					 sizeof(int)) < 0)
			program_die(options[i].name);
	}
	must(setsockopt(o->fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){3, 500000},
			sizeof(struct timeval)));
	must(setsockopt(o->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 11}, sizeof(struct linger)));
	if (o->bit & UDP)
		filter_set(o->fd);
	must(fcntl(o->fd, F_SETFL, O_NONBLOCK | O_ASYNC));
	must(fcntl(o->fd, F_SETOWN, getpid()));
	must(fcntl(o->fd, F_SETSIG, SIGRTMIN + 2));
	if (more)
		must(fchown(o->fd, 1001, 1002));
	o->flags = fcntl(o->fd, F_GETFL);
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		o->values[i] = option_get(o->fd, options[i].level, options[i].option);
}

static void filter_check(struct program *p, const struct one *o)
{
	struct sock_filter got[16];
	socklen_t n = ARRAY_SIZE(got); /* instructions, for this option */

	expect_same(p, "filter", getsockopt(o->fd, SOL_SOCKET, SO_GET_FILTER, got, &n), 0);
	expect_same(p, "length of the filter", n, ARRAY_SIZE(code));
	expect(p, !memcmp(got, code, sizeof(code)), "%s: another filter", o->what);
}

static void one_check(struct program *p, const struct one *o)
{
	struct timeval time = {0};
	struct linger linger = {0};
	struct stat st = {0};
	char name[64];

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		snprintf(name, sizeof(name), "%s of %s", options[i].name, o->what);
		if (p->more || !options[i].more)
			expect_same(p, name, option_get(o->fd, options[i].level, options[i].option),
				    o->values[i]);
	}
	getsockopt(o->fd, SOL_SOCKET, SO_RCVTIMEO, &time, &(socklen_t){sizeof(time)});
	expect(p, time.tv_sec == 3 && time.tv_usec == 500000, "%s: another SO_RCVTIMEO", o->what);
	getsockopt(o->fd, SOL_SOCKET, SO_LINGER, &linger, &(socklen_t){sizeof(linger)});
	expect(p, linger.l_onoff && linger.l_linger == 11, "%s: another SO_LINGER", o->what);
	if (o->bit & UDP)
		filter_check(p, o);
	expect_same(p, "flags", fcntl(o->fd, F_GETFL), o->flags);
	expect_same(p, "owner", fcntl(o->fd, F_GETOWN), getpid());
	expect_same(p, "signal", fcntl(o->fd, F_GETSIG), SIGRTMIN + 2);
	fstat(o->fd, &st);
	if (p->more)
		expect(p, st.st_uid == 1001 && st.st_gid == 1002, "%s: another owner", o->what);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		one_check(p, &all[i]);
}

static void spoil(void *state)
{
	(void)state;
	setsockopt(all[0].fd, SOL_SOCKET, SO_PRIORITY, &(int){1}, sizeof(int));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;

	signal(SIGRTMIN + 2, SIG_IGN);
	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		one_make(&all[i], p.more);
	return program_serve(&p, &ops, NULL);
}
