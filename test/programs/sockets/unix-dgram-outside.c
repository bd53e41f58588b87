/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix datagram sockets connected to a name outside of the tree, as a program with an open log is: by path and abstract.
 * With --ext-unix-sk they are connected again. What the program says arrives at the test, which counts it.
 */
#include "messages.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct state {
	struct unix_name path, abstract;
	int by_path, by_abstract;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_name(p, "peer by path", s->by_path, true, &s->path);
	expect_name(p, "abstract peer", s->by_abstract, true, &s->abstract);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "said", send(s->by_path, "to the path", 11, MSG_DONTWAIT), 11);
	expect_same(p, "said", send(s->by_abstract, "abstract", 8, MSG_DONTWAIT), 8);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(connect(s->by_path, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr)));
}

static int connected(const struct unix_name *name)
{
	int fd = unix_socket(SOCK_DGRAM, NULL);

	/* The test makes its sockets meanwhile. */
	for (int ms = 0; connect(fd, (const struct sockaddr *)&name->address, name->length) < 0; ms++) {
		if (ms > 5000)
			program_die("connect");
		sleep_ms(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.path = unix_name(p.folder, "outside");
	s.abstract = unix_name(NULL, "@ferry-outside");
	s.by_path = connected(&s.path);
	s.by_abstract = connected(&s.abstract);
	return program_serve(&p, &ops, &s);
}
