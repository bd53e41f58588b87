/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of a network lock and of an announcement as bytes: framing, order, keys, checksums. */
#include "unit.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "host/announce.h"
#include "host/netlink_message.h"
#include "host/netlock_batch.h"

/* The types of a batch's messages, for instance "begin new:table end"; also checks the framing. */
static void read_types(const struct netlock_batch *b, uint16_t *ret_types, uint16_t *ret_flags, size_t max,
		       size_t *ret_n)
{
	const struct nlmsghdr *h = (const struct nlmsghdr *)b->bytes;
	int left = (int)b->n;
	size_t n = 0;
	for (; netlink_ok(h, left); h = netlink_next(h, &left)) {
		assert_true(n < max);
		assert_int_equal(h->nlmsg_seq, n + 1);
		netlink_for_each(attr, h, sizeof(struct nfgenmsg))
			assert_true(attr->nla_len >= NLA_HDRLEN);
		ret_types[n] = h->nlmsg_type;
		ret_flags[n] = h->nlmsg_flags;
		n++;
	}
	assert_int_equal(left, 0);
	*ret_n = n;
}

static void test_table(void **state)
{
	enum { NFT = NFNL_SUBSYS_NFTABLES << 8 };
	static const uint16_t expected[] = {
		NFNL_MSG_BATCH_BEGIN,  NFT | NFT_MSG_NEWTABLE, NFT | NFT_MSG_NEWSET,   NFT | NFT_MSG_NEWSET,
		NFT | NFT_MSG_NEWSET,  NFT | NFT_MSG_NEWCHAIN, NFT | NFT_MSG_NEWRULE,  NFT | NFT_MSG_NEWRULE,
		NFT | NFT_MSG_NEWRULE, NFT | NFT_MSG_NEWRULE,  NFT | NFT_MSG_NEWCHAIN, NFT | NFT_MSG_NEWRULE,
		NFT | NFT_MSG_NEWRULE, NFT | NFT_MSG_NEWRULE,  NFT | NFT_MSG_NEWRULE,  NFNL_MSG_BATCH_END,
	};
	enum { N = sizeof(expected) / sizeof(expected[0]) };
	uint16_t types[32];
	uint16_t flags[32];
	size_t n = 0;
	struct netlock_batch b = {0};
	(void)state;
	netlock_batch_begin(&b);
	netlock_batch_table(&b, "ferry-x", true, 1);
	uint32_t last = netlock_batch_end(&b);
	assert_int_equal(last, N - 1);
	read_types(&b, types, flags, 32, &n);
	assert_int_equal(n, N);
	assert_memory_equal(types, expected, sizeof(expected));
	/* One answer is asked for: that of the last message before the end. */
	for (size_t i = 0; i < n; i++)
		assert_int_equal(!!(flags[i] & NLM_F_ACK), i == last - 1);
	assert_int_equal(netlock_batch_step(&b, 2), NETLOCK_STEP_TABLE);
	assert_int_equal(netlock_batch_step(&b, 3), NETLOCK_STEP_SET);
	assert_int_equal(netlock_batch_step(&b, 6), NETLOCK_STEP_CHAIN);
	assert_int_equal(netlock_batch_step(&b, 7), NETLOCK_STEP_RULE);
	assert_int_equal(netlock_batch_step(&b, 0), NETLOCK_STEP_BATCH);
	assert_int_equal(netlock_batch_step(&b, 1000), NETLOCK_STEP_BATCH);
	netlock_batch_release(&b);
	/* Without a mark there is no rule for it. */
	netlock_batch_begin(&b);
	netlock_batch_table(&b, "ferry-x", false, 0);
	assert_int_equal(netlock_batch_end(&b), N - 3);
	netlock_batch_release(&b);
}

/* The key of the n-th element of a NEWSETELEM message. */
static const uint8_t *element_key(const struct nlmsghdr *h, unsigned index, size_t *ret_n)
{
	netlink_for_each(list, h, sizeof(struct nfgenmsg)) {
		if (netlink_attr_type(list) != NFTA_SET_ELEM_LIST_ELEMENTS)
			continue;
		netlink_for_each_nested(element, list) {
			if (index--)
				continue;
			const struct nlattr *key = netlink_attr_body(element);
			assert_int_equal(netlink_attr_type(key), NFTA_SET_ELEM_KEY);
			const struct nlattr *value = netlink_attr_body(key);
			assert_int_equal(netlink_attr_type(value), NFTA_DATA_VALUE);
			*ret_n = netlink_attr_len(value);
			return netlink_attr_body(value);
		}
	}
	return NULL;
}

static void test_keys(void **state)
{
	static const struct netlock_tcp c[] = {
		{.family = AF_INET,
		 .local_port = 0x0102,
		 .remote_port = 0x0304,
		 .local_addr = {10, 0, 0, 1},
		 .remote_addr = {10, 0, 0, 2}},
		{.family = AF_INET6,
		 .local_port = 1,
		 .remote_port = 2,
		 .local_addr = {0xfd, [15] = 1},
		 .remote_addr = {0xfd, [15] = 2}},
		{.family = AF_INET6,
		 .local_port = 3,
		 .remote_port = 4,
		 .local_addr = {[10] = 0xff, 0xff, 192, 0, 2, 1},
		 .remote_addr = {[10] = 0xff, 0xff, 192, 0, 2, 2}},
	};
	static const uint8_t v4[] = {10, 0, 0, 1, 1, 2, 0, 0, 10, 0, 0, 2, 3, 4, 0, 0};
	static const uint8_t mapped[] = {192, 0, 2, 1, 0, 3, 0, 0, 192, 0, 2, 2, 0, 4, 0, 0};
	static const uint8_t v6[] = {0xfd, [15] = 1, 0, 1, 0, 0, 0xfd, [35] = 2, 0, 2, 0, 0};
	struct netlock_batch b = {0};
	size_t n = 0;
	(void)state;
	netlock_batch_begin(&b);
	netlock_batch_connections(&b, "ferry-x", false, c, 3);
	assert_int_equal(netlock_batch_end(&b), 3);
	int left = (int)b.n;
	const struct nlmsghdr *h = netlink_next((const struct nlmsghdr *)b.bytes, &left);
	const uint8_t *key = element_key(h, 0, &n);
	assert_int_equal(n, sizeof(v4));
	assert_memory_equal(key, v4, sizeof(v4));
	key = element_key(h, 1, &n);
	assert_memory_equal(key, mapped, sizeof(mapped));
	assert_null(element_key(h, 2, &n));
	h = netlink_next(h, &left);
	key = element_key(h, 0, &n);
	assert_int_equal(n, sizeof(v6));
	assert_memory_equal(key, v6, sizeof(v6));
	netlock_batch_release(&b);
}

/* However many there are, no attribute outgrows its 16-bit length. */
static void test_many(void **state)
{
	enum { N = 10000 };
	struct netlock_tcp *c = calloc(N, sizeof(*c));
	struct netlock_batch b = {0};
	uint16_t types[64];
	uint16_t flags[64];
	size_t n = 0;
	(void)state;
	assert_non_null(c);
	for (size_t i = 0; i < N; i++)
		c[i] = (struct netlock_tcp){
			.family = i % 2 ? AF_INET : AF_INET6, .local_port = (uint16_t)i, .local_addr = {1}};
	netlock_batch_begin(&b);
	netlock_batch_connections(&b, "ferry-x", true, c, N);
	assert_int_not_equal(netlock_batch_end(&b), 0);
	read_types(&b, types, flags, 64, &n);
	assert_int_equal(n, 2 + N / 1000);
	size_t elements = 0;
	int left = (int)b.n;
	for (const struct nlmsghdr *h = (const struct nlmsghdr *)b.bytes; netlink_ok(h, left);
	     h = netlink_next(h, &left)) {
		size_t len;
		if (h->nlmsg_type < NFNL_SUBSYS_NFTABLES << 8)
			continue;
		for (unsigned i = 0; element_key(h, i, &len); i++)
			elements++;
	}
	assert_int_equal(elements, N);
	netlock_batch_release(&b);
	free(c);
}

static uint16_t sum16(const uint8_t *bytes, size_t n, uint32_t sum)
{
	for (size_t i = 0; i < n; i += 2)
		sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void test_arp(void **state)
{
	static const uint8_t mac[] = {2, 3, 4, 5, 6, 7};
	static const uint8_t address[] = {192, 0, 2, 9};
	static const uint8_t request[] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 3,   4, 5, 6, 7, 8, 6, 0, 1, 8, 0,   6, 4, 0,
		1,    2,    3,    4,    5,    6,    7, 192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9,
	};
	uint8_t frame[ANNOUNCE_MAX];
	(void)state;
	assert_int_equal(announce_arp(mac, address, false, frame), sizeof(request));
	assert_memory_equal(frame, request, sizeof(request));
	assert_int_equal(announce_arp(mac, address, true, frame), sizeof(request));
	assert_int_equal(frame[21], 2);
	assert_memory_equal(frame + 32, mac, 6);
}

static void test_na(void **state)
{
	static const uint8_t mac[] = {2, 3, 4, 5, 6, 7};
	static const uint8_t address[16] = {0x20, 1, 0xd, 0xb8, [15] = 9};
	static const uint8_t head[] = {0x33, 0x33, 0,    0,    0, 1, 2, 3, 4,  5,  6,
				       7,    0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255};
	uint8_t frame[ANNOUNCE_MAX];
	(void)state;
	assert_int_equal(announce_na(mac, address, frame), 86);
	assert_memory_equal(frame, head, sizeof(head));
	assert_memory_equal(frame + 22, address, 16);
	assert_int_equal(frame[54], 136);
	assert_int_equal(frame[58], 0x20); /* override, not solicited, no router */
	assert_memory_equal(frame + 62, address, 16);
	assert_int_equal(frame[78], 2);
	assert_int_equal(frame[79], 1);
	assert_memory_equal(frame + 80, mac, 6);
	/* Over the pseudo header and all of the message, its own checksum included. */
	uint32_t pseudo = sum16(frame + 22, 32, 32 + 58);
	assert_int_equal(sum16(frame + 54, 32, pseudo), 0xffff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table), cmocka_unit_test(test_keys), cmocka_unit_test(test_many),
		cmocka_unit_test(test_arp),   cmocka_unit_test(test_na),
	};
	return cmocka_run_group_tests_name("netlock-batch", tests, NULL, NULL);
}
