/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a connection may look like that is to be rebuilt, which may come from a file, and the packets made for
 * it.
 */
#include "unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <ferry/tcp.h>

#include "base/error.h"
#include "tcp/packet.h"

static uint8_t some_bytes[100];

static struct ferry_tcp good_state(void)
{
	return (struct ferry_tcp){
		.size = sizeof(struct ferry_tcp),
		.family = AF_INET,
		.local_port = 80,
		.remote_port = 4000,
		.state = FERRY_TCP_ESTABLISHED,
		.local_addr = {127, 0, 0, 1},
		.remote_addr = {127, 0, 0, 2},
		.inq = {.seq = 1000, .len = 10, .bytes = some_bytes},
		.outq = {.seq = 5000, .len = 20, .bytes = some_bytes},
		.unsent_len = 5,
		.mss_clamp = 1460,
		.has_window = 1,
		.snd_wl1 = 990,
		.snd_wnd = 100,
		.max_window = 200,
		.rcv_wnd = 300,
		.rcv_wup = 1000,
		.undo = FERRY_TCP_UNDO_INIT,
	};
}

/* Each breaks one thing; the word is in the message. */
static void break_family(struct ferry_tcp *t)
{
	t->family = AF_UNIX;
}

static void break_port(struct ferry_tcp *t)
{
	t->remote_port = 0;
}

static void break_address(struct ferry_tcp *t)
{
	memset(t->local_addr, 0, sizeof(t->local_addr));
}

static void break_mapped(struct ferry_tcp *t)
{
	t->family = AF_INET6;
	memcpy(t->local_addr, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1", 16);
	t->remote_addr[15] = 1;
}

static void break_state(struct ferry_tcp *t)
{
	t->state = 10;
}

static void break_state_beyond(struct ferry_tcp *t)
{
	t->state = 255;
}

static void break_queue_bytes(struct ferry_tcp *t)
{
	t->inq.bytes = NULL;
}

static void break_queue_len(struct ferry_tcp *t)
{
	t->outq.len = 0x7fffffff;
}

static void break_unsent(struct ferry_tcp *t)
{
	t->unsent_len = 21;
}

static void break_fin(struct ferry_tcp *t)
{
	t->fin_unsent = 1;
}

static void break_fin_order(struct ferry_tcp *t)
{
	t->state = FERRY_TCP_FIN_WAIT1;
}

static void break_fin_wait2(struct ferry_tcp *t)
{
	t->state = FERRY_TCP_FIN_WAIT2;
	t->unsent_len = 0;
}

static void break_wscale(struct ferry_tcp *t)
{
	t->rcv_wscale = 15;
}

static void break_mss(struct ferry_tcp *t)
{
	t->mss_clamp = 0;
}

static void break_mss_high(struct ferry_tcp *t)
{
	t->mss_clamp = 65536;
}

static void break_window(struct ferry_tcp *t)
{
	t->max_window = 99;
}

static void break_wup(struct ferry_tcp *t)
{
	t->rcv_wup = 1001;
}

static void break_wl1(struct ferry_tcp *t)
{
	t->snd_wl1 = 1301;
}

static const struct {
	void (*apply)(struct ferry_tcp *t);
	const char *word;
} breaks[] = {
	{break_family, "family"},     {break_port, "port"},      {break_address, "addresses"},
	{break_mapped, "addresses"},  {break_state, "state"},    {break_state_beyond, "state"},
	{break_queue_bytes, "lacks"}, {break_queue_len, "long"}, {break_unsent, "not sent"},
	{break_fin, "FIN"},           {break_fin_order, "FIN"},  {break_fin_wait2, "FIN_WAIT2"},
	{break_wscale, "scale"},      {break_mss, "segment"},    {break_mss_high, "segment"},
	{break_window, "largest"},    {break_wup, "announced"},  {break_wl1, "beyond"},
};

static void test_contradictions(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(breaks) / sizeof(breaks[0]); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		struct ferry_tcp t = good_state();
		int fd = -7;
		breaks[i].apply(&t);
		int r = ferry_tcp_rebuild(&t, NULL, &fd, &err);
		if (r != -EBADMSG || err.id != FERRY_ERROR_IMAGE_BAD || !strstr(err.message, breaks[i].word))
			fail_msg("break %zu ('%s'): %d: %s", i, breaks[i].word, r, err.message);
		assert_int_equal(fd, -7);
	}
}

static void test_sizes(void **state)
{
	struct ferry_tcp t = good_state();
	struct ferry_tcp_options o = FERRY_TCP_OPTIONS_INIT;
	struct ferry_error err = FERRY_ERROR_INIT;
	int fd = -1;
	(void)state;
	t.size = 4;
	assert_int_equal(ferry_tcp_rebuild(&t, NULL, &fd, &err), -EINVAL);
	assert_int_equal(err.code, EINVAL);
	t = good_state();
	o.size = 0;
	assert_int_equal(ferry_tcp_rebuild(&t, &o, &fd, NULL), -EINVAL);
	t.size = 1;
	assert_int_equal(ferry_tcp_take(0, NULL, &t, NULL), -EINVAL);
}

static void test_release(void **state)
{
	struct ferry_tcp t = FERRY_TCP_INIT;
	(void)state;
	t.inq.bytes = malloc(10);
	t.outq.bytes = malloc(10);
	ferry_tcp_release(&t);
	assert_null(t.inq.bytes);
	assert_null(t.outq.bytes);
	assert_int_equal(t.size, sizeof(t));
	assert_int_equal(t.undo.peek_off, -1);
	ferry_tcp_release(&t);
	ferry_tcp_release(NULL);
}

static void test_names(void **state)
{
	(void)state;
	assert_string_equal(ferry_tcp_state_name(FERRY_TCP_ESTABLISHED), "ESTABLISHED");
	assert_string_equal(ferry_tcp_state_name(FERRY_TCP_CLOSING), "CLOSING");
	assert_string_equal(ferry_tcp_state_name(10), "LISTEN");
	assert_string_equal(ferry_tcp_state_name(0), "UNKNOWN");
	assert_string_equal(ferry_tcp_state_name(13), "UNKNOWN");
	assert_string_equal(ferry_tcp_state_name(~0u), "UNKNOWN");
}

static uint16_t sum16(const uint8_t *bytes, size_t n, uint32_t sum)
{
	for (size_t i = 0; i < n; i += 2)
		sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint32_t read32(const uint8_t *bytes)
{
	uint32_t value;
	memcpy(&value, bytes, sizeof(value));
	return ntohl(value);
}

static void check_tcp(const uint8_t *tcp, uint32_t seq, uint32_t ack, uint8_t flags)
{
	assert_int_equal(tcp[0] << 8 | tcp[1], 4000);
	assert_int_equal(tcp[2] << 8 | tcp[3], 80);
	assert_int_equal(read32(tcp + 4), seq);
	assert_int_equal(read32(tcp + 8), ack);
	assert_int_equal(tcp[12] >> 4, 5);
	assert_int_equal(tcp[13], flags);
	assert_int_equal(tcp[14] << 8 | tcp[15], 0);
}

/*
 * FIN and ACK flags with the sequence numbers that each state gives them; checksums by summing everything up.
 */
static void test_packets_v4(void **state)
{
	struct ferry_tcp t = good_state();
	uint8_t p[TCP_PACKET_MAX];
	(void)state;
	t.state = FERRY_TCP_CLOSE_WAIT;
	assert_int_equal(tcp_packet_build(&t, TCP_PACKET_FIN, p), 40);
	assert_int_equal(p[0], 0x45);
	assert_memory_equal(p + 12, "\x7f\0\0\2\x7f\0\0\1", 8);
	assert_int_equal(sum16(p, 20, 0), 0xffff);
	assert_int_equal(sum16(p + 20, 20, sum16(p + 12, 8, 6 + 20)), 0xffff);
	check_tcp(p + 20, 999, 4980, 0x11);
	/* Our own FIN counts as a byte of the send queue. */
	t.state = FERRY_TCP_LAST_ACK;
	tcp_packet_build(&t, TCP_PACKET_FIN, p);
	check_tcp(p + 20, 999, 4979, 0x11);
	t.state = FERRY_TCP_FIN_WAIT2;
	tcp_packet_build(&t, TCP_PACKET_ACK, p);
	check_tcp(p + 20, 1000, 5000, 0x10);
}

static void test_packets_v6(void **state)
{
	struct ferry_tcp t = good_state();
	uint8_t p[TCP_PACKET_MAX];
	(void)state;
	t.family = AF_INET6;
	t.state = FERRY_TCP_CLOSE_WAIT;
	assert_int_equal(inet_pton(AF_INET6, "fd00::1", t.local_addr), 1);
	assert_int_equal(inet_pton(AF_INET6, "fd00::2", t.remote_addr), 1);
	assert_int_equal(tcp_packet_build(&t, TCP_PACKET_FIN, p), 60);
	assert_int_equal(p[0] >> 4, 6);
	assert_int_equal(p[4] << 8 | p[5], 20);
	assert_int_equal(p[6], 6);
	assert_memory_equal(p + 8, t.remote_addr, 16);
	assert_memory_equal(p + 24, t.local_addr, 16);
	assert_int_equal(sum16(p + 40, 20, sum16(p + 8, 32, 6 + 20)), 0xffff);
	check_tcp(p + 40, 999, 4980, 0x11);
	/* v4-mapped is IPv4 on the wire. */
	assert_int_equal(inet_pton(AF_INET6, "::ffff:127.0.0.1", t.local_addr), 1);
	assert_int_equal(inet_pton(AF_INET6, "::ffff:127.0.0.2", t.remote_addr), 1);
	assert_int_equal(tcp_packet_build(&t, TCP_PACKET_FIN, p), 40);
	assert_memory_equal(p + 12, "\x7f\0\0\2\x7f\0\0\1", 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_contradictions), cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_release),        cmocka_unit_test(test_names),
		cmocka_unit_test(test_packets_v4),     cmocka_unit_test(test_packets_v6),
	};
	return cmocka_run_group_tests_name("tcp-state", tests, NULL, NULL);
}
