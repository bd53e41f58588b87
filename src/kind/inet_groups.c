/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the multicast groups that a socket has joined. No call lists them; but the kernel tells which groups a device
 * has, and asked for the sources that a socket wants of one of them it says whether the socket is a member.
 *
 * Kernel interface: /proc/net/igmp, /proc/net/igmp6, ip(7) MCAST_MSFILTER, MCAST_JOIN_GROUP (RFC 3678).
 * Does not handle: anycast addresses (IPV6_JOIN_ANYCAST); a sending device that was chosen by its number alone
 * (IP_MULTICAST_IF), which no call tells.
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <arpa/inet.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "kind/inet.h"
#include "kind/sockopt.h"
#include "model/record.h"
#include "proc/lex.h"

enum { INET_SOURCES_MAX = 256, INET_GROUPS_MAX = 4096 };

static socklen_t inet_group_address(int family, const void *address, struct sockaddr_storage *ret)
{
	*ret = (struct sockaddr_storage){.ss_family = (sa_family_t)family};
	if (family == AF_INET)
		memcpy(&((struct sockaddr_in *)ret)->sin_addr, address, 4);
	else
		memcpy(&((struct sockaddr_in6 *)ret)->sin6_addr, address, 16);
	return family == AF_INET ? 4 : 16;
}

static const void *inet_group_bytes(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)a)->sin_addr
				       : (const void *)&((const struct sockaddr_in6 *)a)->sin6_addr;
}

/* ------------------------------------------------------------------ collect */

struct inet_group_scan {
	struct arena *arena;
	int fd;
	FerrySocketEntry *extra;
};

static int inet_group_record(struct inet_group_scan *s, const struct group_filter *f, socklen_t address_bytes)
{
	char device[IF_NAMESIZE];
	FerrySocketGroup *g = record_new(s->arena, FerrySocketGroup, ferry_socket_group);
	FerrySocketGroup **all = arena_array(s->arena, FerrySocketGroup *, s->extra->n_groups + 1);
	if (!g || !all)
		return -ENOMEM;
	if (f->gf_numsrc > INET_SOURCES_MAX)
		return -E2BIG;
	if (!if_indextoname(f->gf_interface, device))
		return -errno;
	for (size_t i = 0; i < s->extra->n_groups; i++)
		all[i] = s->extra->groups[i];
	g->device = arena_string(s->arena, device);
	g->address = record_bytes(s->arena, inet_group_bytes(&f->gf_group), address_bytes);
	g->mode = f->gf_fmode;
	g->sources = arena_array(s->arena, ProtobufCBinaryData, f->gf_numsrc + 1);
	if (!g->device || !g->address.data || !g->sources)
		return -ENOMEM;
	for (uint32_t i = 0; i < f->gf_numsrc; i++) {
		g->sources[i] = record_bytes(s->arena, inet_group_bytes(&f->gf_slist[i]), address_bytes);
		if (!g->sources[i].data)
			return -ENOMEM;
		g->n_sources++;
	}
	all[s->extra->n_groups++] = g;
	s->extra->groups = all;
	return 0;
}

/* Whether the socket is a member of this group of this device. */
static int inet_group_ask(struct inet_group_scan *s, int family, unsigned device, const void *address)
{
	_cleanup_free_ struct group_filter *f = calloc(1, GROUP_FILTER_SIZE(INET_SOURCES_MAX));
	socklen_t n = GROUP_FILTER_SIZE(INET_SOURCES_MAX);
	if (!f)
		return -ENOMEM;
	f->gf_interface = device;
	f->gf_numsrc = INET_SOURCES_MAX;
	socklen_t bytes = inet_group_address(family, address, &f->gf_group);
	int r = sock_get_bytes(s->fd, family == AF_INET ? SOL_IP : SOL_IPV6, MCAST_MSFILTER, f, &n);
	/* Raw sockets of IPv6 have no groups of IPv4. */
	if (r == -EADDRNOTAVAIL || r == -ENOPROTOOPT)
		return 0;
	return r < 0 ? r : inet_group_record(s, f, bytes);
}

/* "1	lo        :     1      V3", and below it "				010000E0     1 0:00000000		0" */
static int inet_groups_v4(struct inet_group_scan *s, FILE *f)
{
	char line[160];
	unsigned device = 0;
	int r = 0;
	while (r >= 0 && fgets(line, sizeof(line), f)) {
		struct lex l = lex_new(line, strlen(line));
		uint32_t address;
		if (line[0] != '\t') {
			device = (unsigned)strtoul(line, NULL, 10);
			continue;
		}
		lex_blanks(&l);
		if (!lex_u32_base(&l, 16, &address) || !device)
			continue;
		r = inet_group_ask(s, AF_INET, device, &address);
	}
	return r;
}

/* "1    lo              ff020000000000000000000000000001     1 0000000C 0" */
static int inet_groups_v6(struct inet_group_scan *s, FILE *f)
{
	char line[160];
	int r = 0;
	while (r >= 0 && fgets(line, sizeof(line), f)) {
		struct lex l = lex_new(line, strlen(line));
		uint8_t address[16];
		uint32_t device;
		if (!lex_u32(&l, &device) || !lex_skip_words(&l, 1) ||
		    !lex_bytes(&l, address, sizeof(address)))
			continue;
		r = inet_group_ask(s, AF_INET6, device, address);
	}
	return r;
}

int inet_groups_collect(struct arena *a, int fd, int family, FerrySocketEntry *extra, struct ferry_error *err)
{
	static const struct {
		const char *path;
		int (*read)(struct inet_group_scan *s, FILE *f);
	} lists[] = {{"/proc/thread-self/net/igmp", inet_groups_v4},
		     {"/proc/thread-self/net/igmp6", inet_groups_v6}};
	struct inet_group_scan scan = {.arena = a, .fd = fd, .extra = extra};
	/* An IPv6 socket may have joined groups of both. */
	for (size_t i = 0; i < (family == AF_INET6 ? 2u : 1u); i++) {
		_cleanup_fclose_ FILE *f = fopen(lists[i].path, "re");
		int r = f ? lists[i].read(&scan, f) : errno == ENOENT ? 0 : -errno;
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r,
					   "reading the multicast groups of a socket");
	}
	return 0;
}

/* ------------------------------------------------------------------ restore */

static int inet_group_filter(int fd, const FerrySocketGroup *g, int family, unsigned device)
{
	size_t n = g->n_sources;
	_cleanup_free_ struct group_filter *f = calloc(1, GROUP_FILTER_SIZE(n ? n : 1));
	if (!f)
		return -ENOMEM;
	f->gf_interface = device;
	f->gf_fmode = g->mode;
	f->gf_numsrc = (uint32_t)n;
	inet_group_address(family, g->address.data, &f->gf_group);
	for (size_t i = 0; i < n; i++) {
		if (g->sources[i].len != g->address.len)
			return -EBADMSG;
		inet_group_address(family, g->sources[i].data, &f->gf_slist[i]);
	}
	return sock_set_bytes(fd, family == AF_INET ? SOL_IP : SOL_IPV6, MCAST_MSFILTER, f,
			      (socklen_t)GROUP_FILTER_SIZE(n));
}

static int inet_group_join(int fd, const FerrySocketGroup *g)
{
	int family = g->address.len == 4 ? AF_INET : AF_INET6;
	struct group_req req = {.gr_interface = if_nametoindex(g->device)};
	if (!req.gr_interface)
		return -ENODEV;
	if ((g->address.len != 4 && g->address.len != 16) || g->n_sources > INET_SOURCES_MAX)
		return -EBADMSG;
	inet_group_address(family, g->address.data, &req.gr_group);
	int r = sock_set_bytes(fd, family == AF_INET ? SOL_IP : SOL_IPV6, MCAST_JOIN_GROUP, &req,
			       sizeof(req));
	if (r < 0 || (g->mode == MCAST_EXCLUDE && !g->n_sources))
		return r;
	return inet_group_filter(fd, g, family, req.gr_interface);
}

int inet_groups_restore(int fd, const FerrySocketEntry *extra, struct ferry_error *err)
{
	for (size_t i = 0; extra && i < MIN(extra->n_groups, (size_t)INET_GROUPS_MAX); i++) {
		int r = inet_group_join(fd, extra->groups[i]);
		if (r >= 0)
			continue;
		error_errno(err, r == -EBADMSG ? FERRY_ERROR_IMAGE_BAD : FERRY_ERROR_RESTORE_STEP, -r,
			    "joining a multicast group on device '%s' with the socket of file id %u",
			    extra->groups[i]->device, extra->id);
		if (r == -ENODEV)
			error_hint(err, "the device must be there, with that name");
		return r;
	}
	return 0;
}
