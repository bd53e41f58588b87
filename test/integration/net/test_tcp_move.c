/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections are taken, closed silently and rebuilt on the same machine, with bytes waiting in every place a
 * queue has, and go on for megabytes afterwards. Everything is done twice in a row: a rebuilt connection must
 * be as good as the first one.
 */
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GENERATIONS = 2, AFTER_BYTES = 3 << 20, BIG_BYTES = 8 << 20 };

/* How the next connection is prepared, in words, for messages. */
static void say(enum family family, bool a_connects, const char *what)
{
	print_message("%s, %s end: %s\n", family_names[family], a_connects ? "connecting" : "accepting",
		      what);
}

static void for_each_kind(const char *what, const struct pair_options *options,
			  void (*run)(struct end *a, struct end *b))
{
	for (int family = 0; family < FAMILIES; family++) {
		bool a_connects = family % 2;
		struct end a;
		struct end b;
		say((enum family)family, a_connects, what);
		pair_open((enum family)family, a_connects, options, &a, &b);
		run(&a, &b);
		pair_close(&a, &b);
	}
}

/* Move a, twice, with traffic after each time. */
static void move_and_go_on(struct end *a, struct end *b)
{
	for (int i = 0; i < GENERATIONS; i++) {
		end_move(a, NULL);
		pair_exchange(a, b, AFTER_BYTES);
	}
}

static void idle(struct end *a, struct end *b)
{
	move_and_go_on(a, b);
}

static void after_traffic(struct end *a, struct end *b)
{
	pair_exchange(a, b, 5 << 20);
	move_and_go_on(a, b);
}

static void unread(struct end *a, struct end *b)
{
	for (int i = 0; i < GENERATIONS; i++) {
		struct ferry_tcp t = FERRY_TCP_INIT;
		end_send(b, 50000);
		usleep(5000);
		int waiting = end_queue(a, SIOCINQ);
		assert_int_equal(waiting, 50000);
		end_move(a, &t);
		assert_int_equal(t.inq.len, waiting);
		assert_int_equal(end_queue(a, SIOCINQ), waiting);
		ferry_tcp_release(&t);
		pair_exchange(a, b, AFTER_BYTES);
	}
}

/* Window closed: everything beyond it was never sent. */
static void unsent(struct end *a, struct end *b)
{
	for (int i = 0; i < GENERATIONS; i++) {
		struct ferry_tcp t = FERRY_TCP_INIT;
		end_fill(a);
		int unsent_bytes = end_queue(a, SIOCOUTQNSD);
		assert_true(unsent_bytes > 0);
		end_move(a, &t);
		assert_true(t.unsent_len > 0);
		ferry_tcp_release(&t);
		end_catch_up(b, a);
		pair_exchange(a, b, AFTER_BYTES);
	}
}

static void unsent_both_ways(struct end *a, struct end *b)
{
	for (int i = 0; i < GENERATIONS; i++) {
		end_fill(a);
		end_fill(b);
		end_move(a, NULL);
		/* The other end too, while the first one's window is still closed. */
		end_move(b, NULL);
		pair_exchange(a, b, AFTER_BYTES);
	}
}

static void check_options(struct end *a, struct end *b)
{
	static const struct {
		int level;
		int name;
		int value;
	} options[] = {
		{SOL_TCP, TCP_NODELAY, 1},           {SOL_TCP, TCP_KEEPIDLE, 77},
		{SOL_TCP, TCP_KEEPINTVL, 7},         {SOL_TCP, TCP_KEEPCNT, 4},
		{SOL_SOCKET, SO_KEEPALIVE, 1},       {SOL_TCP, TCP_USER_TIMEOUT, 4321},
		{SOL_TCP, TCP_NOTSENT_LOWAT, 12345}, {SOL_SOCKET, SO_REUSEADDR, 1},
	};
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		assert_int_equal(setsockopt(a->fd, options[i].level, options[i].name, &options[i].value,
					    sizeof(options[i].value)),
				 0);
	assert_int_equal(setsockopt(a->fd, SOL_TCP, TCP_CONGESTION, "reno", 4), 0);
	for (int g = 0; g < GENERATIONS; g++) {
		end_move(a, NULL);
		for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
			int value = -1;
			socklen_t n = sizeof(value);
			assert_int_equal(getsockopt(a->fd, options[i].level, options[i].name, &value, &n), 0);
			if (value != options[i].value)
				fail_msg("option %d/%d is %d", options[i].level, options[i].name, value);
		}
		char name[16] = "";
		socklen_t n = sizeof(name);
		assert_int_equal(getsockopt(a->fd, SOL_TCP, TCP_CONGESTION, name, &n), 0);
		assert_string_equal(name, "reno");
		pair_exchange(a, b, AFTER_BYTES);
	}
}

static void corked(struct end *a, struct end *b)
{
	int one = 1;
	int zero = 0;
	assert_int_equal(setsockopt(a->fd, SOL_TCP, TCP_CORK, &one, sizeof(one)), 0);
	end_send(a, 10);
	end_move(a, NULL);
	int value = 0;
	socklen_t n = sizeof(value);
	assert_int_equal(getsockopt(a->fd, SOL_TCP, TCP_CORK, &value, &n), 0);
	assert_int_equal(value, 1);
	end_receive(b, 10);
	assert_int_equal(setsockopt(a->fd, SOL_TCP, TCP_CORK, &zero, sizeof(zero)), 0);
	pair_exchange(a, b, AFTER_BYTES);
}

/*
 * A paced connection sends by a timer that does not stop for repair mode, and its timestamps run ahead of the
 * clock: neither may make the rebuilt one believe that bytes were sent which were not, nor go back in time for
 * its peer.
 */
static void paced(struct end *a, struct end *b, unsigned rate, size_t bytes, int moves)
{
	int with_unsent = 0;
	int gone_back = 0;
	for (int i = 0; i < moves; i++) {
		struct ferry_tcp t = FERRY_TCP_INIT;
		assert_int_equal(setsockopt(a->fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)), 0);
		end_send(a, bytes);
		usleep((useconds_t)(i % 10 * 977));
		/* Acknowledgements are not paced, but carry the time of the next segment. */
		end_send(b, 400000);
		end_receive(a, 400000);
		long old_segments = lab_counter("TcpExt", "PAWSEstab");
		end_move(a, &t);
		with_unsent += t.unsent_len > 0;
		ferry_tcp_release(&t);
		end_send(b, 1000);
		end_receive(a, 1000);
		end_catch_up(b, a);
		gone_back += lab_counter("TcpExt", "PAWSEstab") > old_segments;
	}
	assert_true(with_unsent >= moves / 4);
	/* On a busy machine a segment of the old socket may come after the first one of the new socket. */
	print_message("  %d of %d moves: segments from the past\n", gone_back, moves);
	assert_true(gone_back < moves / 2);
}

static void paced_slowly(struct end *a, struct end *b)
{
	/* The first ten segments are not paced. */
	paced(a, b, 2 << 20, 900000, 6);
}

/* The timer fires while the queue is read. */
static void paced_fast(struct end *a, struct end *b)
{
	int size = 4 * BIG_BYTES;
	assert_int_equal(setsockopt(a->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)), 0);
	paced(a, b, 200 << 20, BIG_BYTES / 2, 10);
}

static void buffers_grow(struct end *a, struct end *b)
{
	int before = 0;
	int after = 0;
	socklen_t n = sizeof(before);
	pair_exchange(a, b, 4 << 20);
	assert_int_equal(getsockopt(a->fd, SOL_SOCKET, SO_RCVBUF, &before, &n), 0);
	end_move(a, NULL);
	assert_int_equal(getsockopt(a->fd, SOL_SOCKET, SO_RCVBUF, &after, &n), 0);
	assert_int_equal(after, before & ~1); /* the kernel doubles what it is given */
	assert_int_equal(getsockopt(a->fd, SOL_SOCKET, 72 /* SO_BUF_LOCK */, &after, &n), 0);
	assert_int_equal(after, 0);
	pair_exchange(a, b, 8 << 20);
}

/* 8 MiB wait unread and 8 MiB wait unsent. */
static void big(struct end *a, struct end *b)
{
	int size = 2 * BIG_BYTES;
	assert_int_equal(setsockopt(a->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)), 0);
	assert_int_equal(setsockopt(b->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)), 0);
	for (int i = 0; i < GENERATIONS; i++) {
		struct ferry_tcp t = FERRY_TCP_INIT;
		end_fill(a);
		end_fill(b);
		assert_true(end_queue(a, SIOCOUTQ) >= BIG_BYTES);
		uint64_t began = lab_now_ms();
		end_move(a, &t);
		print_message("  %u bytes received, %u to send (%u unsent): %llu ms\n", t.inq.len, t.outq.len,
			      t.unsent_len, (unsigned long long)(lab_now_ms() - began));
		assert_true(t.inq.len > BIG_BYTES / 4 && t.outq.len >= BIG_BYTES);
		ferry_tcp_release(&t);
		pair_exchange(a, b, AFTER_BYTES);
	}
}

static void test_idle(void **state)
{
	(void)state;
	for_each_kind("idle", NULL, idle);
}

static void test_after_traffic(void **state)
{
	(void)state;
	for_each_kind("after traffic", NULL, after_traffic);
}

static void test_unread(void **state)
{
	(void)state;
	for_each_kind("unread bytes", NULL, unread);
}

static void test_unsent(void **state)
{
	(void)state;
	for_each_kind("unsent bytes behind a closed window", NULL, unsent);
}

static void test_unsent_both_ways(void **state)
{
	(void)state;
	for_each_kind("both windows closed, both ends moved", NULL, unsent_both_ways);
}

static void test_options(void **state)
{
	(void)state;
	for_each_kind("options", NULL, check_options);
}

static void test_cork(void **state)
{
	(void)state;
	for_each_kind("corked", NULL, corked);
}

static void test_paced(void **state)
{
	const struct pair_options options = {.b_rcvbuf = 4 * BIG_BYTES};
	(void)state;
	for_each_kind("paced slowly", NULL, paced_slowly);
	for_each_kind("paced fast", &options, paced_fast);
}

static void test_buffers(void **state)
{
	(void)state;
	for_each_kind("buffer sizes", NULL, buffers_grow);
}

static void test_big(void **state)
{
	const struct pair_options options = {.a_rcvbuf = BIG_BYTES, .b_rcvbuf = BIG_BYTES};
	struct end a;
	struct end b;
	(void)state;
	for (int family = V4; family <= V6; family++) {
		say((enum family)family, true, "8 MiB queues");
		pair_open((enum family)family, true, &options, &a, &b);
		big(&a, &b);
		pair_close(&a, &b);
	}
}

static void test_tiny_windows(void **state)
{
	const struct pair_options options = {.a_rcvbuf = 2048, .b_rcvbuf = 2048, .a_sndbuf = 4096};
	(void)state;
	for_each_kind("tiny windows, unsent", &options, unsent);
	for_each_kind("tiny windows, both closed", &options, unsent_both_ways);
}

/* Each option of the handshake switched off alone, and all of them. */
static void test_negotiated(void **state)
{
	static const char *const names[] = {"net/ipv4/tcp_timestamps", "net/ipv4/tcp_sack",
					    "net/ipv4/tcp_window_scaling"};
	(void)state;
	for (unsigned off = 1; off < 8; off++) {
		for (unsigned i = 0; i < 3; i++)
			lab_sysctl(names[i], off & 1u << i ? "0" : "1");
		print_message("timestamps %d, SACK %d, window scaling %d\n", !(off & 1), !(off & 2),
			      !(off & 4));
		for_each_kind("after traffic", NULL, after_traffic);
		for_each_kind("both windows closed", NULL, unsent_both_ways);
	}
	for (unsigned i = 0; i < 3; i++)
		lab_sysctl(names[i], "1");
}

/* The namespace it is rebuilt in has other defaults than the one where it began. */
static void test_other_defaults(void **state)
{
	static const char *const names[] = {"net/ipv4/tcp_timestamps", "net/ipv4/tcp_sack",
					    "net/ipv4/tcp_window_scaling"};
	struct end a;
	struct end b;
	(void)state;
	for (int on = 0; on < 2; on++) {
		for (unsigned i = 0; i < 3; i++)
			lab_sysctl(names[i], on ? "1" : "0");
		pair_open(V4, on, NULL, &a, &b);
		pair_exchange(&a, &b, 1 << 20);
		for (unsigned i = 0; i < 3; i++)
			lab_sysctl(names[i], on ? "0" : "1");
		for (int i = 0; i < GENERATIONS; i++) {
			struct ferry_tcp t = FERRY_TCP_INIT;
			end_move(&a, &t);
			assert_int_equal(t.tcp_options & 7, on ? 7 : 0);
			ferry_tcp_release(&t);
			pair_exchange(&a, &b, AFTER_BYTES);
		}
		pair_close(&a, &b);
	}
	for (unsigned i = 0; i < 3; i++)
		lab_sysctl(names[i], "1");
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(2);
	close(fd);
}

/* Root of a user namespace has all it takes over that namespace's own network, except boundless buffers. */
static void test_user_namespace(void **state)
{
	(void)state;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct end a;
		struct end b;
		if (unshare(CLONE_NEWUSER))
			_exit(77);
		write_file("/proc/self/setgroups", "deny");
		write_file("/proc/self/uid_map", "0 0 1");
		write_file("/proc/self/gid_map", "0 0 1");
		lab_enter();
		for (int family = 0; family < FAMILIES; family++) {
			pair_open((enum family)family, false, NULL, &a, &b);
			unsent_both_ways(&a, &b);
			pair_close(&a, &b);
		}
		_exit(0);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		print_message("no user namespaces here\n");
	else
		assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_nothing_left(void **state)
{
	char text[256];
	(void)state;
	lab_read(text, sizeof(text), "nft list tables");
	assert_string_equal(text, "");
	assert_int_equal(lab_counter("Tcp", "OutRsts"), 0);
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
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_after_traffic),
		cmocka_unit_test(test_unread),
		cmocka_unit_test(test_unsent),
		cmocka_unit_test(test_unsent_both_ways),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_cork),
		cmocka_unit_test(test_paced),
		cmocka_unit_test(test_buffers),
		cmocka_unit_test(test_big),
		cmocka_unit_test(test_tiny_windows),
		cmocka_unit_test(test_negotiated),
		cmocka_unit_test(test_other_defaults),
		cmocka_unit_test(test_user_namespace),
		cmocka_unit_test(test_nothing_left),
	};
	return cmocka_run_group_tests_name("tcp-move", tests, setup, NULL);
}
