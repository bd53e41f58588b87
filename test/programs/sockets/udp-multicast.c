/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UDP sockets in multicast groups: of IPv4 and IPv6, one with a list of sources that it wants, one that blocks a source.
 * What is sent to a group arrives afterwards, from the right sources only. CRIU forgets groups: only "more".
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LO = 1 };

static const char plain_group[] = "239.1.2.3", chosen_group[] = "239.1.2.4", blocked_group[] = "239.1.2.5",
		  group6[] = "ff15::77";

struct state {
	int plain, chosen, blocked, v6, sender, other;
	struct sockaddr_in name;
	struct sockaddr_in6 name6;
};

static struct sockaddr_storage v4(const char *text)
{
	struct sockaddr_storage s = {.ss_family = AF_INET};

	inet_pton(AF_INET, text, &((struct sockaddr_in *)&s)->sin_addr);
	return s;
}

static bool is_member(int fd, int level, const struct sockaddr_storage *group, unsigned *ret_mode,
		      unsigned *ret_sources)
{
	struct group_filter f = {.gf_interface = LO, .gf_group = *group};
	socklen_t n = sizeof(f);

	if (getsockopt(fd, level, MCAST_MSFILTER, &f, &n) < 0)
		return false;
	*ret_mode = f.gf_fmode;
	*ret_sources = f.gf_numsrc;
	return true;
}

static void check_group(struct program *p, int fd, const char *group, unsigned want_mode,
			unsigned want_sources)
{
	struct sockaddr_storage address = v4(group);
	unsigned mode = 99, sources = 99;

	expect(p, is_member(fd, SOL_IP, &address, &mode, &sources), "not a member of %s", group);
	expect_same(p, group, mode, want_mode);
	expect_same(p, "its sources", sources, want_sources);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_storage address = {.ss_family = AF_INET6};
	unsigned mode, sources;

	check_group(p, s->plain, plain_group, MCAST_EXCLUDE, 0);
	check_group(p, s->chosen, chosen_group, MCAST_INCLUDE, 1);
	check_group(p, s->blocked, blocked_group, MCAST_EXCLUDE, 1);
	inet_pton(AF_INET6, group6, &((struct sockaddr_in6 *)&address)->sin6_addr);
	expect(p, is_member(s->v6, SOL_IPV6, &address, &mode, &sources), "not a member of %s", group6);
	address = v4(plain_group);
	expect(p, !is_member(s->chosen, SOL_IP, &address, &mode, &sources), "a member of one more");
}

static void send_to(int from, const char *group, struct sockaddr_in to, const char *text)
{
	inet_pton(AF_INET, group, &to.sin_addr);
	must(sendto(from, text, strlen(text), 0, (const struct sockaddr *)&to, sizeof(to)));
}

static void expect_next(struct program *p, int fd, const char *text)
{
	struct pollfd poller = {.fd = fd, .events = POLLIN};
	char bytes[32] = "";

	expect_same(p, text, poll(&poller, 1, 2000), 1);
	ssize_t n = recv(fd, bytes, sizeof(bytes) - 1, MSG_DONTWAIT);
	expect(p, n == (ssize_t)strlen(text) && !strcmp(bytes, text), "'%s' instead of '%s'", bytes, text);
}

static struct sockaddr_in port_of(int fd)
{
	struct sockaddr_in name = {0};

	getsockname(fd, (struct sockaddr *)&name, &(socklen_t){sizeof(name)});
	return name;
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	send_to(s->sender, plain_group, port_of(s->plain), "to the plain one");
	expect_next(p, s->plain, "to the plain one");
	send_to(s->other, chosen_group, port_of(s->chosen), "not wanted");
	send_to(s->sender, chosen_group, port_of(s->chosen), "wanted");
	expect_next(p, s->chosen, "wanted");
	send_to(s->sender, blocked_group, port_of(s->blocked), "blocked");
	send_to(s->other, blocked_group, port_of(s->blocked), "from the other");
	expect_next(p, s->blocked, "from the other");
}

static void spoil(void *state)
{
	const struct state *s = state;
	struct group_req req = {.gr_interface = LO, .gr_group = v4(plain_group)};

	must(setsockopt(s->plain, SOL_IP, MCAST_LEAVE_GROUP, &req, sizeof(req)));
}

static int receiver(void)
{
	struct sockaddr_in name = {.sin_family = AF_INET};
	int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	must(setsockopt(fd, SOL_IP, IP_MULTICAST_ALL, &(int){0}, sizeof(int)));
	must(bind(fd, (const struct sockaddr *)&name, sizeof(name)));
	return fd;
}

static int sender(const char *text)
{
	struct sockaddr_storage name = v4(text);
	int fd = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	must(bind(fd, (const struct sockaddr *)&name, sizeof(struct sockaddr_in)));
	must(setsockopt(fd, SOL_IP, IP_MULTICAST_IF, &((struct sockaddr_in *)&name)->sin_addr,
			sizeof(struct in_addr)));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct group_req req = {.gr_interface = LO, .gr_group = v4(plain_group)};
	struct group_source_req source = {
		.gsr_interface = LO, .gsr_group = v4(chosen_group), .gsr_source = v4("127.0.0.1")};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.plain = receiver();
	s.chosen = receiver();
	s.blocked = receiver();
	s.sender = sender("127.0.0.1");
	s.other = sender("127.0.0.2");
	must(setsockopt(s.plain, SOL_IP, MCAST_JOIN_GROUP, &req, sizeof(req)));
	must(setsockopt(s.chosen, SOL_IP, MCAST_JOIN_SOURCE_GROUP, &source, sizeof(source)));
	req.gr_group = source.gsr_group = v4(blocked_group);
	must(setsockopt(s.blocked, SOL_IP, MCAST_JOIN_GROUP, &req, sizeof(req)));
	must(setsockopt(s.blocked, SOL_IP, MCAST_BLOCK_SOURCE, &source, sizeof(source)));
	s.v6 = must(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	struct ipv6_mreq mreq = {.ipv6mr_interface = LO};
	inet_pton(AF_INET6, group6, &mreq.ipv6mr_multiaddr);
	must(setsockopt(s.v6, SOL_IPV6, IPV6_JOIN_GROUP, &mreq, sizeof(mreq)));
	return program_serve(&p, &ops, &s);
}
