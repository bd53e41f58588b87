/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to unix listeners that nobody accepted yet, of streams and messages: in their order, with a client
 * that has a name, one that shut its side down. They can be accepted and used afterwards.
 */
#include "messages.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { TYPES = 2, CLIENTS = 3 };

static const int types[TYPES] = {SOCK_STREAM, SOCK_SEQPACKET};

struct state {
	struct unix_name name[TYPES], client_name[TYPES];
	int listener[TYPES], client[TYPES][CLIENTS];
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	for (int i = 0; i < TYPES; i++) {
		struct pollfd poller = {.fd = s->listener[i], .events = POLLIN};
		expect_same(p, "readable listener", poll(&poller, 1, 0), 1);
		for (int k = 0; k < CLIENTS; k++)
			expect_name(p, "peer of a client", s->client[i][k], true, &s->name[i]);
		if (p->more)
			expect_name(p, "name of a client", s->client[i][1], false, &s->client_name[i]);
	}
}

static void finish_one(struct program *p, const struct state *s, int i, int k)
{
	struct unix_name from = {.length = sizeof(from.address)};
	struct message m;
	struct ucred peer = {0};
	int fd = accept4(s->listener[i], (struct sockaddr *)&from.address, &from.length, SOCK_CLOEXEC);

	expect(p, fd >= 0, "connection %d of type %d is not there", k, types[i]);
	if (fd < 0)
		return;
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof(peer)});
	if (p->more) {
		expect_same(p, "who connected", peer.pid, getpid());
		expect_same(p, "length of the client's name", from.length,
			    k == 1 ? s->client_name[i].length : sizeof(sa_family_t));
	}
	if (p->more && k == 2) {
		message_receive(fd, 0, 10, &m);
		expect_same(p, "end of it", m.n, 0);
	} else if (p->more) {
		message_send(s->client[i][k], "after", NULL, 0, NULL);
		expect_message(p, fd, 0, "after", NULL);
	}
	message_send(fd, "answer", NULL, 0, NULL);
	for (int c = 0; c < CLIENTS; c++)
		if (!p->more || c == k) {
			message_receive(s->client[i][c], 0, 6, &m);
			if (p->more)
				expect_same(p, "answer", m.n, 6);
		}
	close(fd);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	for (int i = 0; i < TYPES; i++) {
		for (int k = 0; k < CLIENTS; k++)
			finish_one(p, s, i, k);
		expect(p, accept4(s->listener[i], NULL, NULL, SOCK_NONBLOCK) < 0 && errno == EAGAIN,
		       "more connections than there were");
	}
}

static void spoil(void *state)
{
	const struct state *s = state;

	for (int k = 0; k < CLIENTS; k++)
		close(must(accept4(s->listener[0], NULL, NULL, 0)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	for (int i = 0; i < TYPES; i++) {
		s.name[i] = unix_name(p.folder, i ? "seqpacket" : "stream");
		s.client_name[i] = unix_name(p.folder, i ? "client-seqpacket" : "client-stream");
		s.listener[i] = unix_socket(types[i] | SOCK_NONBLOCK, &s.name[i]);
		must(listen(s.listener[i], CLIENTS));
		/* They connect in another order than they were made in. */
		for (int k = CLIENTS - 1; k >= 0; k--)
			s.client[i][k] = unix_socket(types[i], k == 1 ? &s.client_name[i] : NULL);
		for (int k = 0; k < CLIENTS; k++)
			must(connect(s.client[i][k], (const struct sockaddr *)&s.name[i].address,
				     s.name[i].length));
		must(shutdown(s.client[i][2], SHUT_WR));
	}
	return program_serve(&p, &ops, &s);
}
