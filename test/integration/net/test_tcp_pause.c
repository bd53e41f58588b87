/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking a connection in place: its owner and its peer must notice nothing, not even when the taker is killed
 * at the worst moment, and what cannot be taken is refused before it is touched.
 */
#include "lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

enum { TAKES = 1000, SOME_BYTES = 20000 };

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static struct ferry_tcp take(int fd, uint32_t flags)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_tcp t = FERRY_TCP_INIT;
	struct ferry_tcp_options options = FERRY_TCP_OPTIONS_INIT;
	options.flags = flags;
	assert_ferry(ferry_tcp_take(fd, &options, &t, &err), &err);
	return t;
}

static int get_int(int fd, int level, int name)
{
	int value = -1;
	socklen_t n = sizeof(value);
	assert_int_equal(getsockopt(fd, level, name, &value, &n), 0);
	return value;
}

static void set_int(int fd, int level, int name, int value)
{
	assert_int_equal(setsockopt(fd, level, name, &value, sizeof(value)), 0);
}

/* The owner of an end: reads and writes as fast as it can, standing still while the taker holds its gate. */
struct owner {
	struct end *end;
	pthread_mutex_t gate;
	atomic_uint steps; /* that moved something */
	atomic_bool stop;
};

static void *run_owner(void *arg)
{
	struct owner *o = arg;
	while (!atomic_load(&o->stop)) {
		pthread_mutex_lock(&o->gate);
		size_t moved = end_step(o->end, UINT64_MAX);
		pthread_mutex_unlock(&o->gate);
		if (moved)
			atomic_fetch_add(&o->steps, 1);
		else
			usleep(50);
	}
	return NULL;
}

/* Streams at full speed both ways; one end is taken and resumed a thousand times, the other never stops. */
static void test_thousand_takes(void **state)
{
	struct end a;
	struct end b;
	struct owner owners[2] = {{&a, PTHREAD_MUTEX_INITIALIZER, 0, false},
				  {&b, PTHREAD_MUTEX_INITIALIZER, 0, false}};
	pthread_t threads[2];
	uint64_t busy = 0;
	(void)state;
	pair_open(V4, true, NULL, &a, &b);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, run_owner, &owners[i]), 0);
	for (int i = 0; i < TAKES; i++) {
		unsigned before = atomic_load(&owners[0].steps);
		struct ferry_error err = FERRY_ERROR_INIT;
		struct ferry_tcp t = FERRY_TCP_INIT;
		pthread_mutex_lock(&owners[0].gate);
		int r = ferry_tcp_take(a.fd, NULL, &t, &err);
		pthread_mutex_unlock(&owners[0].gate);
		assert_true(!r || r == -EAGAIN);
		busy += t.inq.len || t.outq.len;
		ferry_tcp_release(&t);
		for (unsigned ms = 0; atomic_load(&owners[0].steps) == before; ms++) {
			assert_true(ms < 10000);
			usleep(1000);
		}
	}
	for (int i = 0; i < 2; i++)
		atomic_store(&owners[i].stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	pair_exchange(&a, &b, 1);
	print_message("%d takes, %llu with bytes waiting, %llu and %llu bytes sent meanwhile\n", TAKES,
		      (unsigned long long)busy, (unsigned long long)a.sent, (unsigned long long)b.sent);
	assert_true(busy > TAKES / 10 && a.sent > TAKES && b.sent > TAKES);
	assert_true(a.received == b.sent && b.received == a.sent);
	pair_close(&a, &b);
}

struct sender {
	struct end *b;
	atomic_bool stop;
};

static void *run_sender(void *arg)
{
	struct sender *s = arg;
	while (!atomic_load(&s->stop))
		end_send(s->b, 1000);
	return NULL;
}

/*
 * The peer goes on sending while the connection is taken: packets come in between any two calls of the taker.
 */
static void test_takes_under_fire(void **state)
{
	struct end a;
	struct end b;
	(void)state;
	for (int family = V4; family <= V6; family++) {
		struct sender s = {.b = &b};
		pthread_t thread;
		unsigned taken = 0;
		pair_open((enum family)family, false, NULL, &a, &b);
		assert_int_equal(pthread_create(&thread, NULL, run_sender, &s), 0);
		for (int i = 0; i < TAKES; i++) {
			struct ferry_error err = FERRY_ERROR_INIT;
			struct ferry_tcp t = FERRY_TCP_INIT;
			/* Without a lock it may give up; it must not disturb. */
			int r = ferry_tcp_take(a.fd, NULL, &t, &err);
			assert_true(!r || r == -EAGAIN);
			taken += !r;
			ferry_tcp_release(&t);
			end_receive(&a, 5000);
			end_send(&a, 500);
			end_receive(&b, 500);
		}
		atomic_store(&s.stop, true);
		uint64_t deadline = lab_now_ms() + 10000;
		while (pthread_tryjoin_np(thread, NULL) && lab_now_ms() < deadline)
			end_receive(&a, 1000 * (a.received + 1000 <= b.sent));
		end_catch_up(&a, &b);
		print_message("%s: %u of %d takes met a quiet instant, %llu bytes\n", family_names[family],
			      taken, TAKES, (unsigned long long)a.received);
		assert_true(taken > 0);
		pair_close(&a, &b);
	}
}

/* Peeking says what the owner would read, and takes nothing from it. */
static void test_bytes(void **state)
{
	struct end a;
	struct end b;
	(void)state;
	pair_open(V6, false, NULL, &a, &b);
	end_send(&b, SOME_BYTES);
	end_fill(&a);
	usleep(5000);
	struct ferry_tcp t = take(a.fd, 0);
	assert_int_equal(t.inq.len, SOME_BYTES);
	assert_int_equal(t.outq.len, end_queue(&a, SIOCOUTQ));
	assert_int_equal(t.unsent_len, end_queue(&a, SIOCOUTQNSD));
	/* The peer's view: what it will read next is what the send queue holds behind what it has already. */
	static uint8_t bytes[SOME_BYTES];
	assert_int_equal(recv(a.fd, bytes, sizeof(bytes), MSG_PEEK), sizeof(bytes));
	assert_memory_equal(bytes, t.inq.bytes, sizeof(bytes));
	uint32_t unsent_start = t.outq.len - t.unsent_len;
	size_t skip = (size_t)(b.in_seed ? a.sent - b.received - t.unsent_len : 0);
	while (skip) {
		size_t n = skip < sizeof(bytes) ? skip : sizeof(bytes);
		end_receive(&b, n);
		skip -= n;
	}
	ssize_t n = recv(b.fd, bytes, sizeof(bytes), MSG_WAITALL | MSG_PEEK);
	assert_true(n > 0);
	assert_memory_equal(bytes, t.outq.bytes + unsent_start, (size_t)n);
	ferry_tcp_release(&t);
	pair_exchange(&a, &b, SOME_BYTES);
	pair_close(&a, &b);
}

/* What repair mode takes away comes back. */
static void test_settings_survive(void **state)
{
	struct end a;
	struct end b;
	(void)state;
	for (int on = 0; on < 2; on++) {
		for (int oob = 0; oob < 2; oob++) {
			pair_open(V4, false, NULL, &a, &b);
			set_int(a.fd, SOL_SOCKET, SO_REUSEADDR, on);
			set_int(a.fd, SOL_SOCKET, SO_OOBINLINE, oob);
			set_int(a.fd, SOL_TCP, TCP_NODELAY, on);
			int has_peek =
				setsockopt(a.fd, SOL_SOCKET, SO_PEEK_OFF, &(int){100}, sizeof(int)) == 0;
			end_send(&b, SOME_BYTES);
			usleep(3000);
			struct ferry_tcp t = take(a.fd, on ? FERRY_TCP_PAUSE : 0);
			assert_int_equal(t.inq.len, SOME_BYTES);
			if (on) {
				struct ferry_error err = FERRY_ERROR_INIT;
				assert_int_equal(get_int(a.fd, SOL_TCP, TCP_REPAIR), 1);
				assert_int_equal(send(a.fd, "x", 1, MSG_DONTWAIT), -1);
				assert_ferry(ferry_tcp_resume(a.fd, &t.undo, 0, &err), &err);
				assert_ferry(ferry_tcp_resume(a.fd, &t.undo, 0, &err), &err);
			}
			assert_int_equal(get_int(a.fd, SOL_TCP, TCP_REPAIR), 0);
			assert_int_equal(get_int(a.fd, SOL_SOCKET, SO_REUSEADDR), on);
			assert_int_equal(get_int(a.fd, SOL_SOCKET, SO_OOBINLINE), oob);
			assert_int_equal(get_int(a.fd, SOL_TCP, TCP_NODELAY), on);
			if (has_peek) {
				assert_int_equal(get_int(a.fd, SOL_SOCKET, SO_PEEK_OFF), 100);
				set_int(a.fd, SOL_SOCKET, SO_PEEK_OFF, -1);
			}
			ferry_tcp_release(&t);
			pair_exchange(&a, &b, SOME_BYTES);
			pair_close(&a, &b);
		}
	}
}

/* A listener whose connection was taken can be started anew, as SO_REUSEADDR promises. */
static void test_listener_restart(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(address);
	(void)state;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	set_int(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
	assert_int_equal(listen(listener, 4), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
	int client = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&address, n), 0);
	int server = accept(listener, NULL, NULL);
	assert_true(server >= 0);
	struct ferry_tcp t = take(server, 0);
	assert_int_equal(t.undo.reuseaddr, 1);
	ferry_tcp_release(&t);
	close(listener);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	set_int(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
	assert_int_equal(listen(listener, 4), 0);
	close(server);
	close(client);
	close(listener);
}

struct killer {
	unsigned count;
	unsigned kill_at; /* 0 = never */
};

static void on_effect(void *ctx, const char *what)
{
	struct killer *k = ctx;
	(void)what;
	if (++k->count == k->kill_at)
		raise(SIGKILL);
}

/* A taker that is killed right before each change it makes; another process then puts the socket back. */
static void test_killed_taker(void **state)
{
	struct end a;
	struct end b;
	(void)state;
	pair_open(V4, true, NULL, &a, &b);
	set_int(a.fd, SOL_SOCKET, SO_REUSEADDR, 1);
	int has_peek = setsockopt(a.fd, SOL_SOCKET, SO_PEEK_OFF, &(int){7}, sizeof(int)) == 0;
	unsigned kill_at = 1;
	for (int ended = 0; !ended; kill_at++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		struct ferry_tcp_undo undo = FERRY_TCP_UNDO_INIT;
		assert_ferry(ferry_tcp_check(a.fd, &undo, &err), &err);
		end_send(&b, 1000);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			struct killer k = {.kill_at = kill_at};
			struct ferry_tcp t = FERRY_TCP_INIT;
			struct ferry_tcp_options options = FERRY_TCP_OPTIONS_INIT;
			options.on_effect = on_effect;
			options.on_effect_ctx = &k;
			_exit(ferry_tcp_take(a.fd, &options, &t, NULL) ? 1 : 0);
		}
		int status = 0;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		ended = WIFEXITED(status);
		assert_true(ended ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == SIGKILL);
		assert_ferry(ferry_tcp_resume(a.fd, &undo, 0, &err), &err);
		assert_int_equal(get_int(a.fd, SOL_SOCKET, SO_REUSEADDR), 1);
		assert_int_equal(get_int(a.fd, SOL_SOCKET, SO_OOBINLINE), 0);
		if (has_peek)
			assert_int_equal(get_int(a.fd, SOL_SOCKET, SO_PEEK_OFF), 7);
		end_catch_up(&a, &b);
		pair_exchange(&a, &b, SOME_BYTES);
		/* Reading moves it towards 0. */
		if (has_peek)
			set_int(a.fd, SOL_SOCKET, SO_PEEK_OFF, 7);
	}
	print_message("killed at %u effects\n", kill_at - 2);
	assert_true(kill_at - 2 >= 4);
	pair_close(&a, &b);
}

static void expect_refusal(int fd, int code, const char *word)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_error taken = FERRY_ERROR_INIT;
	struct ferry_tcp t = FERRY_TCP_INIT;
	int r = ferry_tcp_check(fd, NULL, &err);
	if (r != -code || !strstr(err.message, word))
		fail_msg("expected -%d with '%s', got %d: %s", code, word, r, err.message);
	assert_int_equal(ferry_tcp_take(fd, NULL, &t, &taken), -code);
	assert_string_equal(taken.message, err.message);
	int repair = 0;
	socklen_t n = sizeof(repair);
	if (!getsockopt(fd, SOL_TCP, TCP_REPAIR, &repair, &n))
		assert_int_equal(repair, 0);
}

static void test_refusals(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(address);
	(void)state;
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	expect_refusal(udp, EPROTONOSUPPORT, "not a TCP socket");
	int unix_socket = socket(AF_UNIX, SOCK_STREAM, 0);
	expect_refusal(unix_socket, EPROTONOSUPPORT, "not a TCP socket");
	int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
	expect_refusal(file, ENOTSOCK, "Socket operation");
	close(file);
	int tcp = socket(AF_INET, SOCK_STREAM, 0);
	expect_refusal(tcp, ENOTCONN, "CLOSE");
	assert_int_equal(bind(tcp, (struct sockaddr *)&address, n), 0);
	assert_int_equal(listen(tcp, 4), 0);
	expect_refusal(tcp, ENOTCONN, "LISTEN");
	assert_int_equal(getsockname(tcp, (struct sockaddr *)&address, &n), 0);
	int connecting = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct end lost = {.fd = tcp};
	end_lose_input(&lost);
	assert_int_equal(connect(connecting, (struct sockaddr *)&address, n), -1);
	expect_refusal(connecting, ENOTCONN, "SYN_SENT");
	end_lose_nothing();
	int mptcp = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
	if (mptcp >= 0) {
		expect_refusal(mptcp, EPROTONOSUPPORT, "Multipath");
		close(mptcp);
	}
	close(udp);
	close(unix_socket);
	close(tcp);
	close(connecting);
}

/* Out-of-band data at the head, in the middle, read already, inline: each would lose bytes silently. */
static void test_urgent(void **state)
{
	(void)state;
	for (int where = 0; where < 4; where++) {
		struct end a;
		struct end b;
		struct ferry_tcp t = FERRY_TCP_INIT;
		struct ferry_error err = FERRY_ERROR_INIT;
		char byte;
		pair_open(V4, false, NULL, &a, &b);
		set_int(a.fd, SOL_SOCKET, SO_OOBINLINE, where == 3);
		if (where != 0)
			assert_int_equal(send(b.fd, "before", 6, 0), 6);
		assert_int_equal(send(b.fd, "!", 1, MSG_OOB), 1);
		assert_int_equal(send(b.fd, "after", 5, 0), 5);
		usleep(3000);
		if (where == 2)
			assert_int_equal(recv(a.fd, &byte, 1, MSG_OOB), 1);
		assert_int_equal(ferry_tcp_take(a.fd, NULL, &t, &err), -EOPNOTSUPP);
		assert_non_null(strstr(err.message, "urgent"));
		assert_int_equal(get_int(a.fd, SOL_TCP, TCP_REPAIR), 0);
		/* The owner still reads what it would have read. */
		char text[16] = "";
		ssize_t n = recv(a.fd, text, sizeof(text), MSG_DONTWAIT);
		assert_true(n > 0);
		assert_string_equal(text, where == 0 ? "after" : "before");
		pair_close(&a, &b);
	}
}

static void test_repair_twice(void **state)
{
	struct end a;
	struct end b;
	struct ferry_error err = FERRY_ERROR_INIT;
	(void)state;
	pair_open(V4, false, NULL, &a, &b);
	struct ferry_tcp t = take(a.fd, FERRY_TCP_PAUSE);
	assert_int_equal(ferry_tcp_check(a.fd, NULL, &err), -EBUSY);
	error_clear(&err);
	assert_ferry(ferry_tcp_resume(a.fd, &t.undo, FERRY_TCP_QUIET, &err), &err);
	assert_ferry(ferry_tcp_check(a.fd, NULL, &err), &err);
	ferry_tcp_release(&t);
	pair_exchange(&a, &b, SOME_BYTES);
	pair_close(&a, &b);
}

/* Without the right nothing changes and the message says what is missing. */
static void test_no_right(void **state)
{
	struct end a;
	struct end b;
	(void)state;
	pair_open(V4, false, NULL, &a, &b);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct ferry_error err = FERRY_ERROR_INIT;
		struct ferry_tcp t = FERRY_TCP_INIT;
		if (setuid(65534))
			_exit(2);
		int r = ferry_tcp_take(a.fd, NULL, &t, &err);
		_exit(r == -EPERM && err.id == FERRY_ERROR_PERMISSION && strstr(err.hint, "CAP_NET_ADMIN")
			      ? 0
			      : 1);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pair_exchange(&a, &b, SOME_BYTES);
	pair_close(&a, &b);
}

/* The peer of a connection that was closed silently hears nothing, whoever else still had it open. */
static void test_close_silently(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct end a;
	struct end b;
	(void)state;
	pair_open(V4, false, NULL, &a, &b);
	end_send(&b, SOME_BYTES); /* unread bytes make an ordinary close send a RST */
	usleep(3000);
	int copy = dup(a.fd);
	long resets = lab_counter("Tcp", "OutRsts");
	assert_ferry(ferry_tcp_close_silently(a.fd, &err), &err);
	char byte;
	assert_true(recv(copy, &byte, 1, MSG_DONTWAIT) <= 0);
	close(copy);
	struct pollfd p = {.fd = b.fd, .events = POLLIN | POLLRDHUP};
	assert_int_equal(poll(&p, 1, 50), 0);
	assert_int_equal(lab_counter("Tcp", "OutRsts"), resets);
	assert_int_equal(end_state(&b), FERRY_TCP_ESTABLISHED);
	close(b.fd);
}

static void test_listen_pending(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct ferry_error err = FERRY_ERROR_INIT;
	socklen_t n = sizeof(address);
	int clients[3];
	uint32_t backlog = 0;
	(void)state;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
	assert_int_equal(ferry_tcp_listen_pending(listener, &backlog, &err), -EINVAL);
	assert_int_equal(listen(listener, 17), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
	assert_int_equal(ferry_tcp_listen_pending(listener, &backlog, NULL), 0);
	assert_int_equal(backlog, 17);
	for (int i = 0; i < 3; i++) {
		clients[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(clients[i], (struct sockaddr *)&address, n), 0);
		assert_int_equal(ferry_tcp_listen_pending(listener, NULL, NULL), i + 1);
	}
	int accepted = accept(listener, NULL, NULL);
	assert_int_equal(ferry_tcp_listen_pending(listener, NULL, NULL), 2);
	close(accepted);
	for (int i = 0; i < 3; i++)
		close(clients[i]);
	close(listener);
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
		cmocka_unit_test(test_thousand_takes),
		cmocka_unit_test(test_takes_under_fire),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_settings_survive),
		cmocka_unit_test(test_listener_restart),
		cmocka_unit_test(test_killed_taker),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_urgent),
		cmocka_unit_test(test_repair_twice),
		cmocka_unit_test(test_no_right),
		cmocka_unit_test(test_close_silently),
		cmocka_unit_test(test_listen_pending),
	};
	return cmocka_run_group_tests_name("tcp-pause", tests, setup, NULL);
}
