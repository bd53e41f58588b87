/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP socket that is connecting (SYN_SENT) to a listener whose filter drops everything. When the filter goes, the
 * connection comes. CRIU does not dump such a socket.
 */
#include "program.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PATIENCE_MS = 15000 };

struct state {
	int listener, client;
	struct sockaddr_in name, own;
};

static unsigned tcp_state(int fd)
{
	struct tcp_info info = {0};

	getsockopt(fd, SOL_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	return info.tcpi_state;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_in got = {0};
	struct pollfd poller = {.fd = s->client, .events = POLLOUT};

	expect_same(p, "state", tcp_state(s->client), TCP_SYN_SENT);
	expect_same(p, "writable", poll(&poller, 1, 0), 0);
	getsockname(s->client, (struct sockaddr *)&got, &(socklen_t){sizeof(got)});
	expect_same(p, "its own port", got.sin_port, s->own.sin_port);
	expect(p,
	       connect(s->client, (const struct sockaddr *)&s->name, sizeof(s->name)) < 0 &&
		       errno == EALREADY,
	       "connecting again: errno %d", errno);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct pollfd poller = {.fd = s->client, .events = POLLOUT};
	int error = -1;
	char byte = 0;

	must(setsockopt(s->listener, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, sizeof(int)));
	expect_same(p, "writable in the end", poll(&poller, 1, PATIENCE_MS), 1);
	getsockopt(s->client, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof(error)});
	expect_same(p, "error", error, 0);
	expect_same(p, "state", tcp_state(s->client), TCP_ESTABLISHED);
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	expect(p, fd >= 0, "nobody came");
	expect_same(p, "sent", send(s->client, "x", 1, MSG_NOSIGNAL), 1);
	expect_same(p, "received", recv(fd, &byte, 1, 0), 1);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(shutdown(s->client, SHUT_RDWR));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	const struct sock_fprog filter = {.len = 1, .filter = &drop};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	s.listener = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(bind(s.listener, (const struct sockaddr *)&s.name, sizeof(s.name)));
	must(getsockname(s.listener, (struct sockaddr *)&s.name, &(socklen_t){sizeof(s.name)}));
	must(listen(s.listener, 5));
	must(setsockopt(s.listener, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)));
	s.client = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	if (connect(s.client, (const struct sockaddr *)&s.name, sizeof(s.name)) == 0 || errno != EINPROGRESS)
		program_die("connect");
	must(getsockname(s.client, (struct sockaddr *)&s.own, &(socklen_t){sizeof(s.own)}));
	return program_serve(&p, &ops, &s);
}
