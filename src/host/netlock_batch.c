/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the bytes of the network lock: kernel include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h
 * (concatenated set keys 4.1, owned tables 5.12).
 *
 * The table holds one set for each of IPv4 and IPv6 whose keys are (local address, local port, remote address,
 * remote port), and two chains, on input and output, that load the fields of a packet in that order as seen
 * from here. A third set has the protocols of which nothing passes at all. The chains come before connection tracking, which a
 * lock should not disturb.
 */
#include "host/netlock_batch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "host/netlink_message.h"

enum {
	MESSAGE_ROOM_BYTES = 64 * 1024, /* attributes have 16-bit lengths */
	ELEMENTS_A_MESSAGE = 1000,
	CHAIN_PRIORITY = -450, /* before defragmentation and connection tracking */
	REG_FIRST = NFT_REG32_00,
	REG_BYTES = 4,
};

/* nft(8)'s numbers of data types: what a listing shows the keys as. */
enum { TYPE_NFPROTO = 2, TYPE_IPV4_ADDR = 7, TYPE_IPV6_ADDR = 8, TYPE_INET_SERVICE = 13, TYPE_BITS = 6 };

struct field {
	uint8_t base; /* enum nft_payload_bases */
	uint8_t offset;
	uint8_t len;
};

/*
 * One family: where its four fields stand in a packet, the remote ones of an outgoing packet being its
 * destination.
 */
static const struct family {
	const char *set;
	uint8_t nfproto;
	uint8_t type;
	uint8_t id; /* of the set within the transaction that makes it */
	uint8_t address_len;
	struct field source;
	struct field destination;
} families[] = {
	{
		.set = "v4",
		.nfproto = NFPROTO_IPV4,
		.type = TYPE_IPV4_ADDR,
		.id = 1,
		.address_len = 4,
		.source = {NFT_PAYLOAD_NETWORK_HEADER, 12, 4},
		.destination = {NFT_PAYLOAD_NETWORK_HEADER, 16, 4},
	},
	{
		.set = "v6",
		.nfproto = NFPROTO_IPV6,
		.type = TYPE_IPV6_ADDR,
		.id = 2,
		.address_len = 16,
		.source = {NFT_PAYLOAD_NETWORK_HEADER, 8, 16},
		.destination = {NFT_PAYLOAD_NETWORK_HEADER, 24, 16},
	},
};

/* Protocols that are blocked whole. */
static const char whole_set[] = "whole";
enum { WHOLE_ID = 3 };

static const struct field source_port = {NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2};
static const struct field destination_port = {NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2};

static const struct chain {
	const char *name;
	uint32_t hook;
} chains[] = {
	{"input", NF_INET_LOCAL_IN},
	{"output", NF_INET_LOCAL_OUT},
};

void netlock_batch_release(struct netlock_batch *b)
{
	free(b->bytes);
	free(b->steps);
	*b = (struct netlock_batch){0};
}

/* A new message behind the others; NULL when memory is short. */
static struct nlmsghdr *begin(struct netlock_batch *b, enum netlock_step step, uint16_t type, uint16_t flags,
			      uint8_t family, uint16_t res_id)
{
	if (b->failed)
		return NULL;
	if (b->cap - b->n < MESSAGE_ROOM_BYTES) {
		size_t cap = b->cap * 2 + MESSAGE_ROOM_BYTES;
		uint8_t *bytes = realloc(b->bytes, cap);
		b->failed = !bytes;
		if (!bytes)
			return NULL;
		b->bytes = bytes;
		b->cap = cap;
	}
	if (b->seq == b->steps_cap) {
		size_t cap = b->steps_cap * 2 + 32;
		uint8_t *steps = realloc(b->steps, cap);
		b->failed = !steps;
		if (!steps)
			return NULL;
		b->steps = steps;
		b->steps_cap = cap;
	}
	b->steps[b->seq++] = (uint8_t)step;
	b->last = b->n;
	struct nlmsghdr *h = netlink_begin(b->bytes + b->n);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	h->nlmsg_seq = b->seq;
	struct nfgenmsg *g = netlink_append(h, sizeof(*g));
	g->nfgen_family = family;
	g->version = NFNETLINK_V0;
	g->res_id = htons(res_id);
	return h;
}

static void end(struct netlock_batch *b, const struct nlmsghdr *h)
{
	b->n += NLMSG_ALIGN(h->nlmsg_len);
}

static struct nlmsghdr *begin_nft(struct netlock_batch *b, enum netlock_step step, uint16_t type,
				  uint16_t flags)
{
	return begin(b, step, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), flags, NFPROTO_INET, 0);
}

static void put_u32(struct nlmsghdr *h, uint16_t type, uint32_t value)
{
	netlink_put_u32(h, type, htonl(value));
}

void netlock_batch_begin(struct netlock_batch *b)
{
	struct nlmsghdr *h =
		begin(b, NETLOCK_STEP_BATCH, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	if (h)
		end(b, h);
}

uint32_t netlock_batch_end(struct netlock_batch *b)
{
	uint32_t seq = b->seq;
	if (b->failed)
		return 0;
	((struct nlmsghdr *)(b->bytes + b->last))->nlmsg_flags |= NLM_F_ACK;
	struct nlmsghdr *h =
		begin(b, NETLOCK_STEP_BATCH, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	if (!h)
		return 0;
	end(b, h);
	return seq;
}

enum netlock_step netlock_batch_step(const struct netlock_batch *b, uint32_t seq)
{
	return seq && seq <= b->seq ? b->steps[seq - 1] : NETLOCK_STEP_BATCH;
}

static void put_set(struct netlock_batch *b, const char *table, const char *name, uint32_t id, uint32_t type,
		    uint32_t bytes)
{
	struct nlmsghdr *h = begin_nft(b, NETLOCK_STEP_SET, NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL);
	if (!h)
		return;
	netlink_put_string(h, NFTA_SET_TABLE, table);
	netlink_put_string(h, NFTA_SET_NAME, name);
	put_u32(h, NFTA_SET_ID, id);
	put_u32(h, NFTA_SET_KEY_TYPE, type);
	put_u32(h, NFTA_SET_KEY_LEN, bytes);
	end(b, h);
}

static void put_sets(struct netlock_batch *b, const char *table)
{
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		const struct family *f = &families[i];
		uint32_t pair = (uint32_t)f->type << TYPE_BITS | TYPE_INET_SERVICE;
		put_set(b, table, f->set, f->id, pair << (2 * TYPE_BITS) | pair,
			2 * (f->address_len + REG_BYTES));
	}
	put_set(b, table, whole_set, WHOLE_ID, TYPE_NFPROTO, sizeof(uint8_t));
}

static void put_chain(struct netlock_batch *b, const char *table, const struct chain *c)
{
	struct nlmsghdr *h = begin_nft(b, NETLOCK_STEP_CHAIN, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
	if (!h)
		return;
	netlink_put_string(h, NFTA_CHAIN_TABLE, table);
	netlink_put_string(h, NFTA_CHAIN_NAME, c->name);
	netlink_put_string(h, NFTA_CHAIN_TYPE, "filter");
	put_u32(h, NFTA_CHAIN_POLICY, NF_ACCEPT);
	struct nlattr *hook = netlink_nest(h, NFTA_CHAIN_HOOK);
	put_u32(h, NFTA_HOOK_HOOKNUM, c->hook);
	put_u32(h, NFTA_HOOK_PRIORITY, (uint32_t)CHAIN_PRIORITY);
	netlink_nest_end(h, hook);
	end(b, h);
}

struct expression {
	struct nlattr *element;
	struct nlattr *data;
};

static struct expression begin_expression(struct nlmsghdr *h, const char *name)
{
	struct expression e = {.element = netlink_nest(h, NFTA_LIST_ELEM)};
	netlink_put_string(h, NFTA_EXPR_NAME, name);
	e.data = netlink_nest(h, NFTA_EXPR_DATA);
	return e;
}

static void end_expression(struct nlmsghdr *h, struct expression e)
{
	netlink_nest_end(h, e.data);
	netlink_nest_end(h, e.element);
}

static void put_meta(struct nlmsghdr *h, uint32_t key)
{
	struct expression e = begin_expression(h, "meta");
	put_u32(h, NFTA_META_DREG, REG_FIRST);
	put_u32(h, NFTA_META_KEY, key);
	end_expression(h, e);
}

static void put_equals(struct nlmsghdr *h, const void *value, size_t n)
{
	struct expression e = begin_expression(h, "cmp");
	put_u32(h, NFTA_CMP_SREG, REG_FIRST);
	put_u32(h, NFTA_CMP_OP, NFT_CMP_EQ);
	struct nlattr *data = netlink_nest(h, NFTA_CMP_DATA);
	netlink_put(h, NFTA_DATA_VALUE, n, value);
	netlink_nest_end(h, data);
	end_expression(h, e);
}

static void put_field(struct nlmsghdr *h, const struct field *f, uint32_t *reg)
{
	struct expression e = begin_expression(h, "payload");
	put_u32(h, NFTA_PAYLOAD_DREG, *reg);
	put_u32(h, NFTA_PAYLOAD_BASE, f->base);
	put_u32(h, NFTA_PAYLOAD_OFFSET, f->offset);
	put_u32(h, NFTA_PAYLOAD_LEN, f->len);
	end_expression(h, e);
	*reg += (f->len + REG_BYTES - 1u) / REG_BYTES;
}

static void put_lookup(struct nlmsghdr *h, const char *set, uint32_t id)
{
	struct expression e = begin_expression(h, "lookup");
	netlink_put_string(h, NFTA_LOOKUP_SET, set);
	put_u32(h, NFTA_LOOKUP_SET_ID, id);
	put_u32(h, NFTA_LOOKUP_SREG, REG_FIRST);
	end_expression(h, e);
}

static void put_verdict(struct nlmsghdr *h, uint32_t verdict)
{
	struct expression e = begin_expression(h, "immediate");
	put_u32(h, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	struct nlattr *data = netlink_nest(h, NFTA_IMMEDIATE_DATA);
	struct nlattr *code = netlink_nest(h, NFTA_DATA_VERDICT);
	put_u32(h, NFTA_VERDICT_CODE, verdict);
	netlink_nest_end(h, code);
	netlink_nest_end(h, data);
	end_expression(h, e);
}

static struct nlmsghdr *begin_rule(struct netlock_batch *b, const char *table, const char *chain,
				   struct nlattr **ret_expressions)
{
	struct nlmsghdr *h = begin_nft(b, NETLOCK_STEP_RULE, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
	if (!h)
		return NULL;
	netlink_put_string(h, NFTA_RULE_TABLE, table);
	netlink_put_string(h, NFTA_RULE_CHAIN, chain);
	*ret_expressions = netlink_nest(h, NFTA_RULE_EXPRESSIONS);
	return h;
}

static void put_mark_rule(struct netlock_batch *b, const char *table, const struct chain *c, uint32_t mark)
{
	struct nlattr *expressions = NULL;
	struct nlmsghdr *h = begin_rule(b, table, c->name, &expressions);
	if (!h)
		return;
	put_meta(h, NFT_META_MARK);
	put_equals(h, &mark, sizeof(mark));
	put_verdict(h, NF_ACCEPT);
	netlink_nest_end(h, expressions);
	end(b, h);
}

static void put_drop_rule(struct netlock_batch *b, const char *table, const struct chain *c,
			  const struct family *f)
{
	const uint8_t tcp = IPPROTO_TCP;
	bool outgoing = c->hook == NF_INET_LOCAL_OUT;
	uint32_t reg = REG_FIRST;
	struct nlattr *expressions = NULL;
	struct nlmsghdr *h = begin_rule(b, table, c->name, &expressions);
	if (!h)
		return;
	put_meta(h, NFT_META_NFPROTO);
	put_equals(h, &f->nfproto, sizeof(f->nfproto));
	put_meta(h, NFT_META_L4PROTO);
	put_equals(h, &tcp, sizeof(tcp));
	put_field(h, outgoing ? &f->source : &f->destination, &reg);
	put_field(h, outgoing ? &source_port : &destination_port, &reg);
	put_field(h, outgoing ? &f->destination : &f->source, &reg);
	put_field(h, outgoing ? &destination_port : &source_port, &reg);
	put_lookup(h, f->set, f->id);
	put_verdict(h, NF_DROP);
	netlink_nest_end(h, expressions);
	end(b, h);
}

static void put_whole_rule(struct netlock_batch *b, const char *table, const struct chain *c)
{
	struct nlattr *expressions = NULL;
	struct nlmsghdr *h = begin_rule(b, table, c->name, &expressions);
	if (!h)
		return;
	put_meta(h, NFT_META_NFPROTO);
	put_lookup(h, whole_set, WHOLE_ID);
	put_verdict(h, NF_DROP);
	netlink_nest_end(h, expressions);
	end(b, h);
}

void netlock_batch_table(struct netlock_batch *b, const char *table, bool owned, uint32_t mark)
{
	struct nlmsghdr *h = begin_nft(b, NETLOCK_STEP_TABLE, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
	if (!h)
		return;
	netlink_put_string(h, NFTA_TABLE_NAME, table);
	put_u32(h, NFTA_TABLE_FLAGS, owned ? NFT_TABLE_F_OWNER : 0);
	end(b, h);
	put_sets(b, table);
	for (size_t c = 0; c < ARRAY_SIZE(chains); c++) {
		put_chain(b, table, &chains[c]);
		if (mark)
			put_mark_rule(b, table, &chains[c], mark);
		put_whole_rule(b, table, &chains[c]);
		for (size_t f = 0; f < ARRAY_SIZE(families); f++)
			put_drop_rule(b, table, &chains[c], &families[f]);
	}
}

void netlock_batch_remove_table(struct netlock_batch *b, const char *table)
{
	struct nlmsghdr *h = begin_nft(b, NETLOCK_STEP_TABLE, NFT_MSG_DELTABLE, 0);
	if (!h)
		return;
	netlink_put_string(h, NFTA_TABLE_NAME, table);
	end(b, h);
}

/* Naming no element removes all (Linux 4.10). */
static void put_clear(struct netlock_batch *b, const char *table, const char *set)
{
	struct nlmsghdr *h = begin_nft(b, NETLOCK_STEP_ELEMENT, NFT_MSG_DELSETELEM, 0);
	if (!h)
		return;
	netlink_put_string(h, NFTA_SET_ELEM_LIST_TABLE, table);
	netlink_put_string(h, NFTA_SET_ELEM_LIST_SET, set);
	end(b, h);
}

void netlock_batch_clear(struct netlock_batch *b, const char *table)
{
	for (size_t f = 0; f < ARRAY_SIZE(families); f++)
		put_clear(b, table, families[f].set);
	put_clear(b, table, whole_set);
}

static void put_key(struct nlmsghdr *h, const void *key, size_t n)
{
	struct nlattr *element = netlink_nest(h, NFTA_LIST_ELEM);
	struct nlattr *data = netlink_nest(h, NFTA_SET_ELEM_KEY);
	netlink_put(h, NFTA_DATA_VALUE, n, key);
	netlink_nest_end(h, data);
	netlink_nest_end(h, element);
}

void netlock_batch_whole(struct netlock_batch *b, const char *table)
{
	struct nlmsghdr *h = begin_nft(b, NETLOCK_STEP_ELEMENT, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
	if (!h)
		return;
	netlink_put_string(h, NFTA_SET_ELEM_LIST_TABLE, table);
	netlink_put_string(h, NFTA_SET_ELEM_LIST_SET, whole_set);
	struct nlattr *list = netlink_nest(h, NFTA_SET_ELEM_LIST_ELEMENTS);
	for (size_t f = 0; f < ARRAY_SIZE(families); f++)
		put_key(h, &families[f].nfproto, sizeof(families[f].nfproto));
	netlink_nest_end(h, list);
	end(b, h);
}

/* Where the IPv4 address of a v4-mapped one is, else the address itself. */
static const uint8_t *wire_address(const struct netlock_tcp *c, const uint8_t address[static 16], bool v4)
{
	return v4 && c->family == AF_INET6 ? address + 12 : address;
}

static bool is_v4(const struct netlock_tcp *c)
{
	static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
	return c->family == AF_INET || !memcmp(c->local_addr, prefix, sizeof(prefix));
}

static void put_element(struct nlmsghdr *h, const struct netlock_tcp *c, const struct family *f)
{
	bool v4 = f->nfproto == NFPROTO_IPV4;
	uint8_t key[2 * (16 + REG_BYTES)] = {0};
	uint16_t local_port = htons(c->local_port);
	uint16_t remote_port = htons(c->remote_port);
	size_t half = f->address_len + (size_t)REG_BYTES;
	memcpy(key, wire_address(c, c->local_addr, v4), f->address_len);
	memcpy(key + f->address_len, &local_port, sizeof(local_port));
	memcpy(key + half, wire_address(c, c->remote_addr, v4), f->address_len);
	memcpy(key + half + f->address_len, &remote_port, sizeof(remote_port));
	put_key(h, key, 2 * half);
}

/* Elements of one family from *index on, as many as one message takes. */
static void put_elements(struct netlock_batch *b, const char *table, bool remove, const struct family *f,
			 const struct netlock_tcp *connections, size_t n, size_t *index)
{
	uint16_t type = remove ? NFT_MSG_DELSETELEM : NFT_MSG_NEWSETELEM;
	struct nlmsghdr *h = begin_nft(b, NETLOCK_STEP_ELEMENT, type, remove ? 0 : NLM_F_CREATE);
	if (!h) {
		*index = n;
		return;
	}
	netlink_put_string(h, NFTA_SET_ELEM_LIST_TABLE, table);
	netlink_put_string(h, NFTA_SET_ELEM_LIST_SET, f->set);
	struct nlattr *list = netlink_nest(h, NFTA_SET_ELEM_LIST_ELEMENTS);
	for (unsigned count = 0; *index < n && count < ELEMENTS_A_MESSAGE; (*index)++) {
		if (is_v4(&connections[*index]) != (f->nfproto == NFPROTO_IPV4))
			continue;
		put_element(h, &connections[*index], f);
		count++;
	}
	netlink_nest_end(h, list);
	end(b, h);
}

void netlock_batch_connections(struct netlock_batch *b, const char *table, bool remove,
			       const struct netlock_tcp *connections, size_t n)
{
	for (size_t f = 0; f < ARRAY_SIZE(families); f++) {
		size_t i = 0;
		for (;;) {
			while (i < n && is_v4(&connections[i]) != (families[f].nfproto == NFPROTO_IPV4))
				i++;
			if (i >= n)
				break;
			put_elements(b, table, remove, &families[f], connections, n, &i);
		}
	}
}
