/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix datagram sockets whose peer is closed: connected to a name, to an abstract name, or half of a pair with
 * messages left. The next message tells. CRIU forgets such a peer, so this program has only "more".
 */
#include "messages.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct state {
	struct unix_name path, abstract;
	int to_path, to_abstract, half;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	const struct unix_name none = unix_name(NULL, "");

	expect_name(p, "peer by path", s->to_path, true, &s->path);
	expect_name(p, "abstract peer", s->to_abstract, true, &s->abstract);
	expect_name(p, "half", s->half, true, &none);
	expect_message(p, s->half, MSG_PEEK, "left behind", NULL);
}

static void expect_refused(struct program *p, const char *what, int fd)
{
	expect(p, send(fd, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == ECONNREFUSED, "%s: errno %d",
	       what, errno);
	expect(p, send(fd, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == ENOTCONN,
	       "%s, second time: errno %d", what, errno);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	expect_message(p, s->half, 0, "left behind", NULL);
	expect_nothing(p, "half", s->half);
	expect_refused(p, "by path", s->to_path);
	expect_refused(p, "abstract", s->to_abstract);
	expect_refused(p, "half", s->half);
}

static void spoil(void *state)
{
	const struct state *s = state;

	if (send(s->to_path, "x", 1, MSG_DONTWAIT) >= 0)
		program_die("send");
}

static int connected_to(const struct unix_name *name)
{
	int peer = unix_socket(SOCK_DGRAM, name), fd = unix_socket(SOCK_DGRAM, NULL);

	must(connect(fd, (const struct sockaddr *)&name->address, name->length));
	close(peer);
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	int pair[2];

	program_start(&p, argc, argv);
	s.path = unix_name(p.folder, "closed");
	s.abstract = unix_name(NULL, "@ferry-dgram-closed");
	s.to_path = connected_to(&s.path);
	s.to_abstract = connected_to(&s.abstract);
	must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	message_send(pair[1], "left behind", NULL, 0, NULL);
	close(pair[1]);
	s.half = pair[0];
	return program_serve(&p, &ops, &s);
}
