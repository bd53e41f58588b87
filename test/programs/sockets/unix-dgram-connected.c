/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix datagram sockets that are connected: one way to a receiver that is connected to nobody, in a chain (its
 * receiver is connected to a third), both ways with more messages than strangers may queue, and ("more") to itself.
 */
#include "messages.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { MANY = 30 };

struct state {
	struct unix_name first, second, third, left, right, self;
	int a, b, c, l, r, own;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_message(p, s->b, MSG_PEEK, "from a", NULL);
	expect_message(p, s->c, MSG_PEEK, "from b", NULL);
	expect_name(p, "peer of a", s->a, true, &s->second);
	expect_name(p, "peer of b", s->b, true, &s->third);
	expect_name(p, "peer of left", s->l, true, &s->right);
	expect_name(p, "peer of right", s->r, true, &s->left);
	if (p->more)
		expect_name(p, "peer of its own", s->own, true, &s->self);
	struct unix_name none = {.length = sizeof(none.address)};
	expect(p, getpeername(s->c, (struct sockaddr *)&none.address, &none.length) < 0 && errno == ENOTCONN,
	       "the last of the chain is connected");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	expect_message(p, s->b, 0, "from a", NULL);
	expect_message(p, s->b, 0, "once more", NULL);
	expect_message(p, s->c, 0, "from b", NULL);
	for (int i = 0; i < MANY; i++)
		expect_message(p, s->r, 0, "many", NULL);
	expect_nothing(p, "behind the last", s->r);
	message_send(s->l, "goes on", NULL, 0, NULL);
	expect_message(p, s->r, 0, "goes on", NULL);
	message_send(s->b, "goes on", NULL, 0, NULL);
	expect_message(p, s->c, 0, "goes on", NULL);
	if (p->more)
		expect_message(p, s->own, 0, "to myself", NULL);
	/* b takes nothing from others than the one that it is connected to. */
	expect(p, send(s->a, "x", 1, MSG_DONTWAIT) < 0 && errno == EPERM, "b listens to strangers");
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(connect(s->l, (const struct sockaddr *)&s->third.address, s->third.length));
}

static void join(int fd, const struct unix_name *to)
{
	must(connect(fd, (const struct sockaddr *)&to->address, to->length));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.first = unix_name(p.folder, "a");
	s.second = unix_name(p.folder, "b");
	s.third = unix_name(NULL, "@ferry-dgram-c");
	s.left = unix_name(p.folder, "left");
	s.right = unix_name(p.folder, "right");
	s.self = unix_name(p.folder, "self");
	s.a = unix_socket(SOCK_DGRAM, &s.first);
	s.b = unix_socket(SOCK_DGRAM, &s.second);
	s.c = unix_socket(SOCK_DGRAM, &s.third);
	s.l = unix_socket(SOCK_DGRAM, &s.left);
	s.r = unix_socket(SOCK_DGRAM, &s.right);
	s.own = unix_socket(SOCK_DGRAM, &s.self);
	join(s.a, &s.second);
	message_send(s.a, "from a", NULL, 0, NULL);
	message_send(s.a, "once more", NULL, 0, NULL);
	join(s.b, &s.third);
	message_send(s.b, "from b", NULL, 0, NULL);
	join(s.l, &s.right);
	join(s.r, &s.left);
	for (int i = 0; i < MANY; i++)
		message_send(s.l, "many", NULL, 0, NULL);
	if (p.more) {
		join(s.own, &s.self);
		message_send(s.own, "to myself", NULL, 0, NULL);
	}
	return program_serve(&p, &ops, &s);
}
