/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is read of network namespaces: answers of the kernel, and files of an image. The first byte chooses the reader, the rest is one message or
 * one file. Beside crashes: what is made of a tracked connection fits into its room and is itself a message, and lists are within their bounds.
 */
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "host/netlink_message.h"
#include "kind/net.h"
#include "kind/netlist.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Values of the first byte. Lists come last. */
enum { READ_TRACKED, READ_LINK, READ_SAVED, READ_LIST };

enum { SAVED_MAGIC = 0x45311224 };

static const struct netlist_table *const tables[] = {&netlist_addresses, &netlist_routes,
						     &netlist_rules,     &netlist_neighbours,
						     &netlist_labels,    &netlist_forwarding};

static void promise(bool kept, const char *what)
{
	if (kept)
		return;
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static void check_attributes(const struct nlmsghdr *h, size_t head)
{
	const char *at = (const char *)netlink_body(h) + NLMSG_ALIGN(head),
		   *end = (const char *)h + h->nlmsg_len;
	netlink_for_each_between(attr, at, end)
	{
		at = (const char *)netlink_attr_next(attr);
	}
	promise(at >= end, "attributes fill the message");
}

static void fuzz_tracked(const struct net_bytes *file)
{
	int left = (int)file->n;
	if (!net_track_valid(file))
		return;
	const struct nlmsghdr *h = file->bytes;
	for (; netlink_ok(h, left); h = netlink_next(h, &left)) {
		void *room = malloc(2 * (size_t)NETLIST_MESSAGE_BYTES);
		if (!room)
			return;
		const struct nlmsghdr *made = net_track_request(h, room);
		promise(made->nlmsg_len <= 2 * (size_t)NETLIST_MESSAGE_BYTES, "a request within its room");
		check_attributes(made, sizeof(struct nfgenmsg));
		free(room);
	}
}

/* One message after the other, as the kernel tells them. */
static void fuzz_messages(struct arena *a, const struct net_bytes *told, const struct netlist_table *table)
{
	struct netlist list = {.arena = a};
	FerryNetEntry net = FERRY_NET_ENTRY__INIT;
	int left = (int)told->n, r = 0;
	const struct nlmsghdr *h = told->bytes;
	for (; netlink_ok(h, left) && r >= 0; h = netlink_next(h, &left))
		r = table ? table->each(h, &list) : net_read_link(a, h, &net);
	for (size_t i = 0; i < list.n; i++)
		promise(list.v[i].len >= table->head && list.v[i].len <= NETLIST_MESSAGE_BYTES,
			"an entry has its head");
	promise(list.n <= NETLIST_MAX && net.n_links <= NET_LINKS_MAX, "a list within its bounds");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct arena a = {0};
	/* A copy of its own, so that a sanitizer sees a read beyond the end. */
	uint8_t *copy = n ? malloc(n - 1) : NULL;
	if (!copy)
		return 0;
	memcpy(copy, bytes + 1, n - 1);
	const struct net_bytes file = {copy, n - 1};
	struct netlist list = {.arena = &a};
	if (bytes[0] == READ_TRACKED)
		fuzz_tracked(&file);
	else if (bytes[0] == READ_LINK)
		fuzz_messages(&a, &file, NULL);
	else if (bytes[0] == READ_SAVED)
		(void)!net_parse_list(&file, SAVED_MAGIC, RTM_NEWROUTE, sizeof(struct rtmsg), &list);
	else
		fuzz_messages(&a, &file, tables[(bytes[0] - READ_LIST) % ARRAY_SIZE(tables)]);
	arena_release(&a);
	free(copy);
	return 0;
}
