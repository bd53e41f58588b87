/* SPDX-License-Identifier: Apache-2.0 */
/* Frames over a pair of sockets: whole ones, damaged ones, and the ways in which the other side can go away. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "stream/channel.h"

enum { SHORT_MS = 50 };

struct ends {
	struct channel *a;
	int b; /* the raw other end */
};

static int open_ends(void **state)
{
	struct ends *e = calloc(1, sizeof(*e));
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(channel_from_socket(pair[0], &e->a, NULL), 0);
	channel_set_timeout(e->a, SHORT_MS);
	e->b = pair[1];
	*state = e;
	return 0;
}

static int close_ends(void **state)
{
	struct ends *e = *state;
	channel_free(e->a);
	if (e->b >= 0)
		close(e->b);
	free(e);
	return 0;
}

static struct channel *other(struct ends *e)
{
	struct channel *c;
	assert_int_equal(channel_from_socket(e->b, &c, NULL), 0);
	channel_set_timeout(c, SHORT_MS);
	e->b = -1;
	return c;
}

static struct frame frame_of(const char *head, const char *data)
{
	return (struct frame){(const uint8_t *)head, strlen(head), (const uint8_t *)data, strlen(data)};
}

static void whole(void **state)
{
	struct ends *e = *state;
	struct channel *b = other(e);
	const struct frame sent = frame_of("head", "some data"), bare = frame_of("x", "");
	struct frame got;
	channel_set_data_max(b, 100);
	assert_int_equal(channel_send(e->a, &sent, NULL), 0);
	assert_int_equal(channel_send(e->a, &bare, NULL), 0);
	assert_true(channel_has_input(b));
	assert_int_equal(channel_receive(b, &got, NULL), 0);
	assert_int_equal(got.head_bytes, 4);
	assert_memory_equal(got.head, "head", 4);
	assert_int_equal(got.data_bytes, 9);
	assert_memory_equal(got.data, "some data", 9);
	assert_int_equal(channel_receive(b, &got, NULL), 0);
	assert_int_equal(got.data_bytes, 0);
	assert_false(channel_has_input(b));
	assert_int_equal(channel_stats(e->a).sent_bytes, 24 + 4 + 9 + 24 + 1);
	assert_int_equal(channel_stats(b).received_bytes, channel_stats(e->a).sent_bytes);
	channel_free(b);
}

static void expect_failure(struct channel *c, int code, enum ferry_error_id id)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct frame got;
	assert_int_equal(channel_receive(c, &got, &err), -code);
	assert_int_equal(err.id, id);
}

/* Every byte of a frame counts, the checksum itself included. */
static void damaged(void **state)
{
	struct ends *e = *state;
	uint8_t bytes[64];
	const struct frame sent = frame_of("head", "data");
	assert_int_equal(channel_send(e->a, &sent, NULL), 0);
	const size_t n = 24 + 8;
	assert_int_equal(read(e->b, bytes, sizeof(bytes)), (ssize_t)n);
	for (size_t i = 0; i < n; i++) {
		int pair[2];
		struct channel *c;
		struct ferry_error err = FERRY_ERROR_INIT;
		struct frame got;
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
		assert_int_equal(channel_from_socket(pair[0], &c, NULL), 0);
		channel_set_data_max(c, 1000);
		bytes[i] ^= 1;
		assert_int_equal(write(pair[1], bytes, n), (ssize_t)n);
		close(pair[1]);
		bytes[i] ^= 1;
		assert_true(channel_receive(c, &got, &err) < 0);
		/* A length that grew makes the end come too early. */
		assert_true(err.id == FERRY_ERROR_PROTOCOL || err.id == FERRY_ERROR_PEER_GONE);
		channel_free(c);
	}
}

static void too_long(void **state)
{
	struct ends *e = *state;
	const struct frame sent = frame_of("head", "data");
	struct channel *b = other(e);
	channel_set_data_max(b, 3);
	assert_int_equal(channel_send(e->a, &sent, NULL), 0);
	expect_failure(b, EBADMSG, FERRY_ERROR_PROTOCOL);
	channel_free(b);
	static const uint8_t head[CHANNEL_HEAD_MAX + 1];
	const struct frame large = {head, sizeof(head), NULL, 0};
	assert_int_equal(channel_send(e->a, &large, NULL), -EMSGSIZE);
}

static void gone(void **state)
{
	struct ends *e = *state;
	expect_failure(e->a, ETIMEDOUT, FERRY_ERROR_PEER_GONE);
	assert_int_equal(write(e->b, "FRY1", 4), 4);
	expect_failure(e->a, ETIMEDOUT, FERRY_ERROR_PEER_GONE);
	close(e->b);
	e->b = -1;
	expect_failure(e->a, EPIPE, FERRY_ERROR_PEER_GONE);
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct frame sent = frame_of("head", "data");
	assert_int_equal(channel_send(e->a, &sent, &err), -EPIPE);
	assert_int_equal(err.id, FERRY_ERROR_PEER_GONE);
}

static void interrupted(void **state)
{
	struct ends *e = *state;
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	channel_set_interrupt(e->a, ends[0]);
	expect_failure(e->a, ETIMEDOUT, FERRY_ERROR_PEER_GONE);
	close(ends[1]);
	expect_failure(e->a, EINTR, FERRY_ERROR_INTERRUPTED);
	close(ends[0]);
}

/* What does not fit into the socket's buffer waits for the other side, and gives up when it does not read. */
static void full(void **state)
{
	struct ends *e = *state;
	const size_t n = CHANNEL_DATA_MAX;
	uint8_t *data = calloc(1, n);
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct frame sent = {(const uint8_t *)"h", 1, data, n};
	assert_int_equal(channel_send(e->a, &sent, &err), -ETIMEDOUT);
	assert_int_equal(err.id, FERRY_ERROR_PEER_GONE);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(whole, open_ends, close_ends),
		cmocka_unit_test_setup_teardown(damaged, open_ends, close_ends),
		cmocka_unit_test_setup_teardown(too_long, open_ends, close_ends),
		cmocka_unit_test_setup_teardown(gone, open_ends, close_ends),
		cmocka_unit_test_setup_teardown(interrupted, open_ends, close_ends),
		cmocka_unit_test_setup_teardown(full, open_ends, close_ends),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
