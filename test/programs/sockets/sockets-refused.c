/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A socket that a dump refuses; the word in argv[2] says which. Proof: it is as it was made, nothing was taken out of it.
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

struct state {
	const char *folder;
	int a, b, c;
	bool (*holds)(const struct state *s);
};

static struct sockaddr_un unix_address(const struct state *s, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", s->folder, name);
	return address;
}

static int unix_listener(const struct state *s)
{
	struct sockaddr_un address = unix_address(s, "socket");
	int fd = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));

	must(bind(fd, (const struct sockaddr *)&address, sizeof(address)));
	return fd;
}

static bool readable(const struct state *s)
{
	char byte;
	return recv(s->a, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

static bool acceptable(const struct state *s)
{
	struct sockaddr_storage name;
	return getpeername(s->b, (struct sockaddr *)&name, &(socklen_t){sizeof(name)}) == 0;
}

static void make_unix_pending(struct state *s)
{
	struct sockaddr_un address = unix_address(s, "socket");

	s->a = unix_listener(s);
	must(listen(s->a, 3));
	s->b = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(connect(s->b, (const struct sockaddr *)&address, sizeof(address)));
	must(send(s->b, "x", 1, 0));
	s->holds = acceptable;
}

/* The test listens there. */
static void make_outside(struct state *s)
{
	struct sockaddr_un address = unix_address(s, "outside");

	s->a = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	while (connect(s->a, (const struct sockaddr *)&address, sizeof(address)) < 0)
		sleep_ms(2);
}

static bool urgent(const struct state *s)
{
	char byte;
	return recv(s->a, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) == 1 && byte == 'u';
}

static void make_unix_urgent(struct state *s)
{
	int pair[2];

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	must(send(pair[1], "plain", 5, 0));
	if (send(pair[1], "u", 1, MSG_OOB) < 0)
		program_lacks("out-of-band data in unix sockets");
	s->a = pair[0];
	s->b = pair[1];
	s->holds = urgent;
}

static struct sockaddr_in inet_bound(int fd)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};

	must(bind(fd, (const struct sockaddr *)&address, sizeof(address)));
	must(getsockname(fd, (struct sockaddr *)&address, &(socklen_t){sizeof(address)}));
	return address;
}

static void make_tcp_pending(struct state *s)
{
	s->a = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	struct sockaddr_in address = inet_bound(s->a);

	must(listen(s->a, 3));
	s->b = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(connect(s->b, (const struct sockaddr *)&address, sizeof(address)));
	s->holds = acceptable;
}

static void make_tcp(struct state *s)
{
	make_tcp_pending(s);
	s->c = must(accept4(s->a, NULL, NULL, SOCK_CLOEXEC));
	close(s->a);
}

/* The queue of the listener is full, so a further connection waits for an answer. */
static void make_connecting(struct state *s)
{
	int first = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	struct sockaddr_in address = inet_bound(first);
	struct tcp_info info = {0};

	must(listen(first, 0));
	/* Behind the others, of which the first that is refused is told. */
	must(fcntl(first, F_DUPFD_CLOEXEC, 50));
	close(first);
	for (int i = 0; i < 4 && info.tcpi_state != TCP_SYN_SENT; i++) {
		s->a = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
		if (connect(s->a, (const struct sockaddr *)&address, sizeof(address)) < 0 &&
		    errno != EINPROGRESS)
			program_die("connect");
		sleep_ms(20);
		getsockopt(s->a, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	}
	if (info.tcpi_state != TCP_SYN_SENT)
		program_lacks("a connection that stays in SYN_SENT");
}

static void make_datagrams(struct state *s)
{
	s->a = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	struct sockaddr_in address = inet_bound(s->a);

	s->b = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(sendto(s->b, "gram", 4, 0, (const struct sockaddr *)&address, sizeof(address)));
	s->holds = readable;
}

static void make_multipath(struct state *s)
{
	s->a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);
	if (s->a < 0)
		program_lacks("Multipath TCP");
	inet_bound(s->a);
	must(listen(s->a, 1));
}

static const struct {
	const char *word;
	void (*make)(struct state *s);
} makers[] = {
	{"unix-pending", make_unix_pending},
	{"outside", make_outside},
	{"unix-urgent", make_unix_urgent},
	{"tcp-pending", make_tcp_pending},
	{"tcp", make_tcp},
	{"connecting", make_connecting},
	{"datagrams", make_datagrams},
	{"multipath", make_multipath},
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	if (s->holds)
		expect(p, s->holds(s), "what was in the socket is not there any more");
	if (s->c > 0) {
		char byte = 0;
		expect_same(p, "sending", send(s->b, "y", 1, MSG_NOSIGNAL), 1);
		expect_same(p, "receiving", recv(s->c, &byte, 1, 0), 1);
	}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	struct program p;
	struct state s = {0};

	program_start(&p, argc, argv);
	s.folder = p.folder;
	for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
		if (program_told(argc, argv, makers[i].word))
			makers[i].make(&s);
	return program_serve(&p, &ops, &s);
}
