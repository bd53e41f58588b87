/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One unix datagram socket with a name that many send to: each message tells the name of its sender, also that of
 * one that was closed, of one with a path whose file is gone, and none for one without a name. "more" proves the
 * senders, which CRIU does not keep.
 */
#include "messages.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct state {
	struct unix_name name, path, abstract, closed, gone, none;
	int receiver, by_path, by_abstract, nameless;
};

static void check_first(struct program *p, const struct state *s, int flags)
{
	expect_message(p, s->receiver, flags, "by path", p->more ? &s->path : NULL);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	check_first(p, s, MSG_PEEK);
	expect_name(p, "name of the receiver", s->receiver, false, &s->name);
	expect_name(p, "name of a sender", s->by_path, false, &s->path);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	check_first(p, s, 0);
	expect_message(p, s->receiver, 0, "abstract", p->more ? &s->abstract : NULL);
	expect_message(p, s->receiver, 0, "closed", p->more ? &s->closed : NULL);
	expect_message(p, s->receiver, 0, "gone", p->more ? &s->gone : NULL);
	expect_message(p, s->receiver, 0, "nameless", p->more ? &s->none : NULL);
	expect_nothing(p, "behind the last", s->receiver);
	/* Answers go to the names that came. */
	message_send(s->receiver, "answer", NULL, 0, &s->path);
	expect_message(p, s->by_path, 0, "answer", &s->name);
	message_send(s->nameless, "once more", NULL, 0, &s->name);
	expect_message(p, s->receiver, 0, "once more", &s->none);
	expect(p, unlink(s->closed.address.sun_path) == 0, "the closed sender's file is gone");
}

static void spoil(void *state)
{
	const struct state *s = state;
	char byte;

	must(recv(s->receiver, &byte, 1, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.name = unix_name(p.folder, "receiver");
	s.path = unix_name(p.folder, "sender");
	s.abstract = unix_name(NULL, "@ferry-dgram-sender");
	s.closed = unix_name(p.folder, "closed");
	s.gone = unix_name(p.folder, "gone");
	s.none = unix_name(NULL, "");
	s.receiver = unix_socket(SOCK_DGRAM, &s.name);
	s.by_path = unix_socket(SOCK_DGRAM, &s.path);
	s.by_abstract = unix_socket(SOCK_DGRAM, &s.abstract);
	s.nameless = unix_socket(SOCK_DGRAM, NULL);
	int closed = unix_socket(SOCK_DGRAM, &s.closed), gone = unix_socket(SOCK_DGRAM, &s.gone);
	message_send(s.by_path, "by path", NULL, 0, &s.name);
	message_send(s.by_abstract, "abstract", NULL, 0, &s.name);
	message_send(closed, "closed", NULL, 0, &s.name);
	message_send(gone, "gone", NULL, 0, &s.name);
	message_send(s.nameless, "nameless", NULL, 0, &s.name);
	close(closed);
	close(gone);
	must(unlink(s.gone.address.sun_path));
	return program_serve(&p, &ops, &s);
}
