/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Half-closed connections: every state that has a descriptor, with and without bytes waiting, is taken and
 * rebuilt, and both directions come to their proper end.
 */
#include "lab.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { GENERATIONS = 2, SOME_BYTES = 30000 };

static void for_each_family(const char *what, void (*run)(struct end *a, struct end *b))
{
	for (int family = 0; family < FAMILIES; family++) {
		struct end a;
		struct end b;
		print_message("%s: %s\n", family_names[family], what);
		pair_open((enum family)family, family % 2, NULL, &a, &b);
		pair_exchange(&a, &b, 200000);
		run(&a, &b);
		pair_close(&a, &b);
	}
}

/* Move a as often as asked, each time in the state named. */
static void move_in_state(struct end *a, unsigned state)
{
	for (int i = 0; i < GENERATIONS; i++) {
		end_wait_state(a, state);
		end_move(a, NULL);
		assert_string_equal(ferry_tcp_state_name(end_state(a)), ferry_tcp_state_name(state));
	}
}

static void end_shutdown(const struct end *e)
{
	assert_int_equal(shutdown(e->fd, SHUT_WR), 0);
}

/* b said everything; a still sends. */
static void close_wait(struct end *a, struct end *b)
{
	end_send(b, SOME_BYTES);
	end_shutdown(b);
	move_in_state(a, FERRY_TCP_CLOSE_WAIT);
	assert_int_equal(end_receive_all(a), SOME_BYTES);
	end_send(a, SOME_BYTES);
	end_receive(b, SOME_BYTES);
	move_in_state(a, FERRY_TCP_CLOSE_WAIT);
	end_send(a, SOME_BYTES);
	end_shutdown(a);
	assert_int_equal(end_receive_all(b), SOME_BYTES);
}

static void close_wait_unsent(struct end *a, struct end *b)
{
	end_send(b, SOME_BYTES);
	end_shutdown(b);
	end_fill(a);
	move_in_state(a, FERRY_TCP_CLOSE_WAIT);
	assert_int_equal(end_receive_all(a), SOME_BYTES);
	end_shutdown(a);
	uint64_t left = a->sent - b->received;
	assert_int_equal(end_receive_all(b), left);
}

/* a said everything and b knows; b still sends. */
static void fin_wait2(struct end *a, struct end *b)
{
	end_shutdown(a);
	end_send(b, SOME_BYTES);
	move_in_state(a, FERRY_TCP_FIN_WAIT2);
	end_receive(a, SOME_BYTES);
	assert_int_equal(end_receive_all(b), 0);
	end_send(b, SOME_BYTES);
	move_in_state(a, FERRY_TCP_FIN_WAIT2);
	end_shutdown(b);
	assert_int_equal(end_receive_all(a), SOME_BYTES);
}

/* a's FIN waits behind bytes that were never sent. */
static void fin_wait1_unsent(struct end *a, struct end *b)
{
	end_fill(a);
	end_shutdown(a);
	end_send(b, SOME_BYTES);
	move_in_state(a, FERRY_TCP_FIN_WAIT1);
	uint64_t left = a->sent - b->received;
	assert_int_equal(end_receive_all(b), left);
	end_send(b, SOME_BYTES);
	end_shutdown(b);
	assert_int_equal(end_receive_all(a), 2 * SOME_BYTES);
}

/* a's FIN left, together with bytes, and was lost on its way. */
static void fin_wait1_lost(struct end *a, struct end *b)
{
	end_send(b, SOME_BYTES);
	usleep(5000);
	end_lose_input(b);
	end_send(a, SOME_BYTES);
	end_shutdown(a);
	assert_int_equal(end_queue(a, SIOCOUTQ), SOME_BYTES + 1);
	assert_int_equal(end_queue(a, SIOCOUTQNSD), 0);
	move_in_state(a, FERRY_TCP_FIN_WAIT1);
	end_lose_nothing();
	assert_int_equal(end_receive_all(b), SOME_BYTES);
	end_send(b, SOME_BYTES);
	end_shutdown(b);
	assert_int_equal(end_receive_all(a), 2 * SOME_BYTES);
}

/* The same for an end whose peer closed first. */
static void last_ack_lost(struct end *a, struct end *b)
{
	end_send(b, SOME_BYTES);
	end_shutdown(b);
	end_wait_state(a, FERRY_TCP_CLOSE_WAIT);
	end_lose_input(b);
	end_send(a, SOME_BYTES);
	end_shutdown(a);
	assert_int_equal(end_queue(a, SIOCOUTQNSD), 0);
	move_in_state(a, FERRY_TCP_LAST_ACK);
	end_lose_nothing();
	assert_int_equal(end_receive_all(b), SOME_BYTES);
	assert_int_equal(end_receive_all(a), SOME_BYTES);
}

/* Both FINs crossed on the wire and ours was lost. */
static void closing_lost(struct end *a, struct end *b)
{
	end_lose_input(b);
	end_send(a, SOME_BYTES);
	end_shutdown(a);
	end_send(b, SOME_BYTES);
	end_shutdown(b);
	assert_int_equal(end_queue(a, SIOCOUTQNSD), 0);
	move_in_state(a, FERRY_TCP_CLOSING);
	end_lose_nothing();
	assert_int_equal(end_receive_all(b), SOME_BYTES);
	assert_int_equal(end_receive_all(a), SOME_BYTES);
}

/* Both closed; b's FIN came while a's still waits to be sent. */
static void closing(struct end *a, struct end *b)
{
	end_fill(a);
	end_shutdown(a);
	end_send(b, SOME_BYTES);
	end_shutdown(b);
	move_in_state(a, FERRY_TCP_CLOSING);
	uint64_t left = a->sent - b->received;
	assert_int_equal(end_receive_all(b), left);
	assert_int_equal(end_receive_all(a), SOME_BYTES);
}

/* b closed first, then a, whose FIN waits to be sent. */
static void last_ack(struct end *a, struct end *b)
{
	end_send(b, SOME_BYTES);
	end_shutdown(b);
	end_wait_state(a, FERRY_TCP_CLOSE_WAIT);
	end_fill(a);
	end_shutdown(a);
	move_in_state(a, FERRY_TCP_LAST_ACK);
	uint64_t left = a->sent - b->received;
	assert_int_equal(end_receive_all(b), left);
	assert_int_equal(end_receive_all(a), SOME_BYTES);
}

/* shutdown(SHUT_RD) tells the peer nothing, but the owner reads the end of the stream. */
static void shut_read(struct end *a, struct end *b)
{
	char byte;
	assert_int_equal(shutdown(a->fd, SHUT_RD), 0);
	move_in_state(a, FERRY_TCP_ESTABLISHED);
	assert_int_equal(recv(a->fd, &byte, 1, MSG_DONTWAIT), 0);
	end_send(a, SOME_BYTES);
	end_receive(b, SOME_BYTES);
}

/* Only the rebuilt end's owner may see the end of the stream. */
static void half_close_is_seen(struct end *a, struct end *b)
{
	end_shutdown(b);
	move_in_state(a, FERRY_TCP_CLOSE_WAIT);
	struct pollfd p = {.fd = a->fd, .events = POLLIN | POLLRDHUP | POLLOUT};
	assert_int_equal(poll(&p, 1, 1000), 1);
	assert_int_equal(p.revents, POLLIN | POLLRDHUP | POLLOUT);
}

static const struct {
	const char *name;
	void (*run)(struct end *a, struct end *b);
} cases[] = {
	{"CLOSE_WAIT", close_wait},
	{"CLOSE_WAIT, unsent bytes", close_wait_unsent},
	{"FIN_WAIT2", fin_wait2},
	{"FIN_WAIT1, unsent FIN", fin_wait1_unsent},
	{"FIN_WAIT1, lost FIN", fin_wait1_lost},
	{"LAST_ACK, lost FIN", last_ack_lost},
	{"CLOSING, lost FIN", closing_lost},
	{"CLOSING", closing},
	{"LAST_ACK", last_ack},
	{"SHUT_RD", shut_read},
	{"the end of the stream is seen", half_close_is_seen},
};

static void test_states(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for_each_family(cases[i].name, cases[i].run);
}

static void test_states_without_options(void **state)
{
	static const char *const names[] = {"net/ipv4/tcp_timestamps", "net/ipv4/tcp_sack",
					    "net/ipv4/tcp_window_scaling"};
	(void)state;
	for (unsigned i = 0; i < 3; i++)
		lab_sysctl(names[i], "0");
	test_states(state);
	for (unsigned i = 0; i < 3; i++)
		lab_sysctl(names[i], "1");
}

static void test_nothing_left(void **state)
{
	char text[256];
	(void)state;
	lab_read(text, sizeof(text), "nft list tables");
	assert_string_equal(text, "");
}

static int setup(void **state)
{
	(void)state;
	lab_enter();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_states),
		cmocka_unit_test(test_states_without_options),
		cmocka_unit_test(test_nothing_left),
	};
	return cmocka_run_group_tests_name("tcp-close", tests, setup, NULL);
}
