/* SPDX-License-Identifier: Apache-2.0 */
/* sock_diag payloads, well-formed and not, and what becomes of them. */
#include "unit.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/inet_diag.h>

#include <linux/netlink.h>
#include <linux/unix_diag.h>

#include "proc/sockdiag.h"

struct payload {
	uint8_t bytes[1024];
	size_t n;
};

static void add(struct payload *p, const void *bytes, size_t n)
{
	assert_true(p->n + n <= sizeof(p->bytes));
	memcpy(p->bytes + p->n, bytes, n);
	p->n += n;
}

static void add_attribute(struct payload *p, uint16_t type, const void *bytes, size_t n)
{
	struct nlattr a = {.nla_len = (uint16_t)(sizeof(a) + n), .nla_type = type};
	static const uint8_t zero[NLA_ALIGNTO];
	add(p, &a, sizeof(a));
	add(p, bytes, n);
	add(p, zero, NLA_ALIGN(n) - n);
}

static struct payload inet_payload(uint8_t family)
{
	struct inet_diag_msg m = {
		.idiag_family = family,
		.idiag_state = 1,
		.id = {.idiag_sport = htons(80),
		       .idiag_dport = htons(40000),
		       .idiag_if = 3,
		       .idiag_cookie = {7, 9}},
		.idiag_rqueue = 11,
		.idiag_wqueue = 12,
		.idiag_uid = 13,
		.idiag_inode = 14,
	};
	memset(m.id.idiag_src, 0xaa, sizeof(m.id.idiag_src));
	memset(m.id.idiag_dst, 0xbb, sizeof(m.id.idiag_dst));
	struct payload p = {.n = 0};
	add(&p, &m, sizeof(m));
	return p;
}

static void test_inet(void **state)
{
	const uint8_t shutdown = 2;
	const uint8_t v6only = 1;
	const uint32_t mark = 0x1234;
	struct inet_sock s;
	(void)state;
	struct payload p = inet_payload(AF_INET6);
	add_attribute(&p, INET_DIAG_SHUTDOWN, &shutdown, 1);
	add_attribute(&p, INET_DIAG_SKV6ONLY, &v6only, 1);
	add_attribute(&p, INET_DIAG_MARK, &mark, 4);
	add_attribute(&p, INET_DIAG_MD5SIG, "key", 3);
	add_attribute(&p, 999, "unknown", 7);
	assert_int_equal(inet_sock_parse(p.bytes, p.n, IPPROTO_TCP, &s), 0);
	assert_int_equal(s.family, AF_INET6);
	assert_int_equal(s.protocol, IPPROTO_TCP);
	assert_int_equal(s.state, 1);
	assert_int_equal(s.local_port, 80);
	assert_int_equal(s.remote_port, 40000);
	assert_int_equal(s.local_addr[15], 0xaa);
	assert_int_equal(s.remote_addr[15], 0xbb);
	assert_int_equal(s.if_index, 3);
	assert_int_equal(s.rqueue, 11);
	assert_int_equal(s.wqueue, 12);
	assert_int_equal(s.uid, 13);
	assert_int_equal(s.inode, 14);
	assert_true(s.cookie == (7 | 9ull << 32));
	assert_true(s.has_shutdown && s.shutdown == 2 && s.v6only && s.has_md5);
	assert_int_equal(s.mark, mark);

	p = inet_payload(AF_INET);
	assert_int_equal(inet_sock_parse(p.bytes, p.n, IPPROTO_UDP, &s), 0);
	assert_int_equal(s.local_addr[3], 0xaa);
	/* What stands behind an IPv4 address is not part of it. */
	assert_int_equal(s.local_addr[4], 0);
	assert_false(s.has_shutdown || s.v6only || s.has_md5);
}

static struct payload unix_payload(void)
{
	static const uint32_t pending[] = {21, 22, 23};
	const uint32_t peer = 5;
	const uint32_t uid = 1000;
	const uint8_t shutdown = 1;
	const struct unix_diag_vfs vfs = {.udiag_vfs_ino = 77, .udiag_vfs_dev = 8 << 20 | 1};
	const struct unix_diag_rqlen queues = {3, 128};
	const struct unix_diag_msg m = {.udiag_family = AF_UNIX,
					.udiag_type = SOCK_STREAM,
					.udiag_state = 10,
					.udiag_ino = 4,
					.udiag_cookie = {1, 2}};
	struct payload p = {.n = 0};
	add(&p, &m, sizeof(m));
	add_attribute(&p, UNIX_DIAG_NAME, "\0abc", 4);
	add_attribute(&p, UNIX_DIAG_VFS, &vfs, sizeof(vfs));
	add_attribute(&p, UNIX_DIAG_PEER, &peer, sizeof(peer));
	add_attribute(&p, UNIX_DIAG_ICONS, pending, sizeof(pending));
	add_attribute(&p, UNIX_DIAG_RQLEN, &queues, sizeof(queues));
	add_attribute(&p, UNIX_DIAG_UID, &uid, sizeof(uid));
	add_attribute(&p, UNIX_DIAG_SHUTDOWN, &shutdown, sizeof(shutdown));
	return p;
}

static void test_unix(void **state)
{
	struct unix_sock s;
	(void)state;
	struct payload p = unix_payload();
	assert_int_equal(unix_sock_parse(p.bytes, p.n, &s), 0);
	assert_int_equal(s.type, SOCK_STREAM);
	assert_int_equal(s.state, 10);
	assert_int_equal(s.inode, 4);
	assert_true(s.cookie == (1 | 2ull << 32));
	assert_true(s.has_peer && s.peer_inode == 5);
	assert_true(s.has_uid && s.uid == 1000);
	assert_int_equal(s.shutdown, 1);
	assert_true(s.has_vfs && s.vfs_inode == 77 && s.vfs_dev == (8 << 20 | 1));
	assert_true(s.has_name && s.name_len == 4);
	assert_memory_equal(s.name, "\0abc", 4);
	assert_int_equal(s.rqueue, 3);
	assert_int_equal(s.wqueue, 128);
	assert_int_equal(s.n_pending, 3);
	assert_int_equal(s.pending[2], 23);
	unix_sock_release(&s);
	unix_sock_release(&s);
	unix_sock_release(NULL);
}

/* Cut anywhere, a payload is refused, or ends between two attributes and is simply shorter. */
static void test_truncated(void **state)
{
	struct payload p = unix_payload();
	struct unix_sock s = {0};
	unsigned refused = 0;
	(void)state;
	for (size_t n = 0; n < p.n; n++) {
		int r = unix_sock_parse(p.bytes, n, &s);
		assert_true(!r || r == -EBADMSG);
		refused += r < 0;
		if (!r)
			unix_sock_release(&s);
	}
	assert_true(refused > p.n / 2);
	struct inet_sock i;
	p = inet_payload(AF_INET);
	for (size_t n = 0; n < p.n; n++)
		assert_int_equal(inet_sock_parse(p.bytes, n, IPPROTO_TCP, &i), -EBADMSG);
}

static void test_malformed(void **state)
{
	struct unix_sock s;
	struct inet_sock i;
	char long_name[200] = "x";
	(void)state;
	struct payload p = inet_payload(AF_UNIX);
	assert_int_equal(inet_sock_parse(p.bytes, p.n, IPPROTO_TCP, &i), -EBADMSG);
	p = inet_payload(AF_INET);
	add_attribute(&p, INET_DIAG_MARK, "x", 1);
	assert_int_equal(inet_sock_parse(p.bytes, p.n, IPPROTO_TCP, &i), -EBADMSG);
	p = inet_payload(AF_INET);
	add(&p, "\x03\x00\x01\x00", 4); /* an attribute shorter than its head */
	assert_int_equal(inet_sock_parse(p.bytes, p.n, IPPROTO_TCP, &i), -EBADMSG);
	p = inet_payload(AF_INET);
	add(&p, "\xff\xff\x01\x00", 4); /* and one that is longer than the message */
	assert_int_equal(inet_sock_parse(p.bytes, p.n, IPPROTO_TCP, &i), -EBADMSG);
	p = unix_payload();
	add_attribute(&p, UNIX_DIAG_NAME, long_name, sizeof(long_name));
	assert_int_equal(unix_sock_parse(p.bytes, p.n, &s), -EBADMSG);
	p = unix_payload();
	add_attribute(&p, UNIX_DIAG_ICONS, "12345", 5);
	assert_int_equal(unix_sock_parse(p.bytes, p.n, &s), -EBADMSG);
	/* The same attribute twice: the last one counts and nothing leaks. */
	p = unix_payload();
	add_attribute(&p, UNIX_DIAG_ICONS, "1234", 4);
	assert_int_equal(unix_sock_parse(p.bytes, p.n, &s), 0);
	assert_int_equal(s.n_pending, 1);
	unix_sock_release(&s);
	p = unix_payload();
	add_attribute(&p, UNIX_DIAG_ICONS, "", 0);
	assert_int_equal(unix_sock_parse(p.bytes, p.n, &s), 0);
	assert_int_equal(s.n_pending, 0);
	assert_null(s.pending);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inet),
		cmocka_unit_test(test_unix),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_malformed),
	};
	return cmocka_run_group_tests_name("sockdiag", tests, NULL, NULL);
}
