/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pair of unix datagram sockets with messages in both directions: boundaries stay, also of a large one, of more
 * than a queue takes from strangers, and ("more") of an empty one.
 */
#include "messages.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { MANY = 40, LARGE = 100000 };

struct state {
	int a, b;
};

static char large[LARGE + 1];

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_message(p, s->a, MSG_PEEK, "first", NULL);
	expect_message(p, s->b, MSG_PEEK, "back", NULL);
	int type = 0;
	getsockopt(s->a, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)});
	expect_same(p, "type", type, SOCK_DGRAM);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	static char got[LARGE + 8];

	expect_message(p, s->a, 0, "first", NULL);
	if (p->more)
		expect_message(p, s->a, 0, "", NULL);
	expect_message(p, s->a, 0, "behind the empty one", NULL);
	expect_same(p, "the large one", recv(s->a, got, sizeof(got), MSG_DONTWAIT), LARGE);
	expect(p, !memcmp(got, large, LARGE), "the large one: other bytes");
	for (int i = 0; i < MANY; i++)
		expect_message(p, s->a, 0, i % 2 ? "odd" : "even", NULL);
	expect_nothing(p, "behind the last", s->a);
	expect_message(p, s->b, 0, "back", NULL);
	expect_nothing(p, "behind the last", s->b);
	message_send(s->a, "goes on", NULL, 0, NULL);
	expect_message(p, s->b, 0, "goes on", NULL);
}

static void spoil(void *state)
{
	const struct state *s = state;
	char byte;

	must(recv(s->a, &byte, 1, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;
	int pair[2];

	program_start(&p, argc, argv);
	must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	s = (struct state){.a = pair[0], .b = pair[1]};
	pattern_fill(large, LARGE, 3);
	message_send(s.b, "first", NULL, 0, NULL);
	if (p.more)
		message_send(s.b, "", NULL, 0, NULL);
	message_send(s.b, "behind the empty one", NULL, 0, NULL);
	must(setsockopt(s.b, SOL_SOCKET, SO_SNDBUF, &(int){LARGE * 3}, sizeof(int)));
	must(send(s.b, large, LARGE, 0));
	for (int i = 0; i < MANY; i++)
		message_send(s.b, i % 2 ? "odd" : "even", NULL, 0, NULL);
	message_send(s.a, "back", NULL, 0, NULL);
	return program_serve(&p, &ops, &s);
}
