/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A TCP listener with a connection, with data in it, that the program accepts when a file "accept" appears in its folder.
 * With a file "reset" the connection was left out: nobody waits, and the client's end sees that.
 */
#include "program.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct state {
	const char *folder;
	int listener, client, server;
	struct sockaddr_in name;
};

static bool is_there(const struct state *s, const char *name)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", s->folder, name);
	return access(path, F_OK) == 0;
}

static void step(void *state)
{
	struct state *s = state;

	if (s->server < 0 && is_there(s, "accept"))
		s->server = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct pollfd poller = {.fd = s->listener, .events = POLLIN};
	char bytes[8] = "";

	if (is_there(s, "reset")) {
		expect_same(p, "waiting", poll(&poller, 1, 0), 0);
		struct pollfd client = {.fd = s->client, .events = POLLIN};
		/* Nobody answers for its other end any more. */
		if (send(s->client, "x", 1, MSG_NOSIGNAL) == 1)
			expect_same(p, "the client's end", poll(&client, 1, 5000), 1);
		return;
	}
	expect(p, s->server >= 0, "it was not accepted");
	expect_same(p, "waiting data", recv(s->server, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT), 5);
	expect(p, !memcmp(bytes, "early", 5), "other bytes");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	char bytes[8] = "";

	expect_same(p, "answered", send(s->server, "yes", 3, MSG_NOSIGNAL), 3);
	expect_same(p, "answer", recv(s->client, bytes, sizeof(bytes), 0), 3);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .step = step};
	static struct state s = {.server = -1};
	struct program p;

	program_start(&p, argc, argv);
	s.folder = p.folder;
	s.name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	s.listener = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	must(bind(s.listener, (const struct sockaddr *)&s.name, sizeof(s.name)));
	must(getsockname(s.listener, (struct sockaddr *)&s.name, &(socklen_t){sizeof(s.name)}));
	must(listen(s.listener, 5));
	s.client = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(connect(s.client, (const struct sockaddr *)&s.name, sizeof(s.name)));
	must(send(s.client, "early", 5, 0));
	return program_serve(&p, &ops, &s);
}
