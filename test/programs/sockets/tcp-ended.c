/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP sockets whose connection is over: reset by the peer with and without the error still waiting, closed by
 * both sides, each with bytes that were not read. Proof: state, the bytes by MSG_PEEK; at the end the bytes,
 * then the error or the end.
 */
#include "program.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BYTES = 40000 };

struct ended {
	const char *what;
	int family;
	int bytes;
	bool reset;
	bool error; /* ECONNRESET still waits */
	int fd;
};

static struct ended all[] = {
	{"closed by both", AF_INET, 0, false, false, -1},
	{"closed by both, unread", AF_INET, BYTES, false, false, -1},
	{"reset", AF_INET, 0, true, false, -1},
	{"reset, unread", AF_INET6, BYTES, true, false, -1},
	{"reset, error waits", AF_INET, 0, true, true, -1},
};

static unsigned char buffer[BYTES + 1];

static int state_of(int fd)
{
	struct tcp_info info = {0};

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	return info.tcpi_state;
}

static void wait_state(int fd, int state)
{
	for (int ms = 0; ms < 5000 && state_of(fd) != state; ms++)
		sleep_ms(1);
	if (state_of(fd) != state)
		program_die("the connection does not end");
}

static void ended_make(struct ended *e, uint64_t seed)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct sockaddr *address = e->family == AF_INET ? (struct sockaddr *)&four : (struct sockaddr *)&six;
	socklen_t n = e->family == AF_INET ? sizeof(four) : sizeof(six);
	int error, listener = must(socket(e->family, SOCK_STREAM | SOCK_CLOEXEC, 0));

	must(bind(listener, address, n));
	must(listen(listener, 1));
	must(getsockname(listener, address, &n));
	e->fd = must(socket(e->family, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(connect(e->fd, address, n));
	int other = must(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	pattern_fill(buffer, (size_t)e->bytes, seed);
	for (int sent = 0; sent < e->bytes;)
		sent += (int)must(send(other, buffer + sent, (size_t)(e->bytes - sent), 0));
	for (int ms = 0;
	     e->bytes && ms < 5000 && recv(e->fd, buffer, BYTES, MSG_PEEK | MSG_DONTWAIT) < e->bytes; ms++)
		sleep_ms(1);
	if (e->reset)
		must(setsockopt(other, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
	else
		must(shutdown(e->fd, SHUT_WR));
	close(other);
	close(listener);
	wait_state(e->fd, TCP_CLOSE);
	if (e->reset && !e->error)
		getsockopt(e->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof(error)});
}

static void ended_check(struct program *p, const struct ended *e, uint64_t seed, int flags)
{
	struct pollfd poller = {.fd = e->fd, .events = POLLIN | POLLRDHUP};

	expect_same(p, e->what, state_of(e->fd), TCP_CLOSE);
	expect_same(p, e->what, poll(&poller, 1, 0) > 0 ? poller.revents : 0,
		    POLLIN | POLLRDHUP | POLLHUP | (e->error ? POLLERR : 0));
	if (!e->bytes)
		return;
	expect_same(p, e->what, recv(e->fd, buffer, sizeof(buffer), flags | MSG_DONTWAIT), e->bytes);
	expect(p, pattern_differs(buffer, (size_t)e->bytes, seed) < 0, "%s: the data differ", e->what);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		ended_check(p, &all[i], i, MSG_PEEK);
}

static void finish(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		const struct ended *e = &all[i];
		ended_check(p, e, i, 0);
		if (e->error)
			expect(p, recv(e->fd, buffer, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET,
			       "%s: no error", e->what);
		expect_same(p, e->what, recv(e->fd, buffer, 1, MSG_DONTWAIT), 0);
		expect(p, send(e->fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "%s: no EPIPE", e->what);
	}
}

static void spoil(void *state)
{
	(void)state;
	must(recv(all[1].fd, buffer, 1, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		ended_make(&all[i], i);
	return program_serve(&p, &ops, NULL);
}
