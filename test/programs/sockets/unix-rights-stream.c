/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where in a stream descriptors wait: behind bytes that a short read takes first, at the start of a message that is
 * read in two pieces, and twice in a row. CRIU moves them, so this program has only "more".
 */
#include "messages.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct state {
	int to, from;
};

/* So many bytes, and whether descriptors come with them. */
static void take(struct program *p, int fd, int flags, const char *text, size_t n_fds)
{
	struct message m;

	message_receive(fd, flags, strlen(text), &m);
	expect_same(p, text, m.n, strlen(text));
	expect(p, m.n < 0 || !memcmp(m.bytes, text, strlen(text)), "'%s': other bytes", text);
	expect_same(p, text, m.n_fds, n_fds);
	for (size_t i = 0; i < m.n_fds; i++)
		close(m.fds[i]);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	/* A peek brings the next descriptors wherever they are. */
	take(p, s->to, MSG_PEEK, "beforewith", 1);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	take(p, s->to, 0, "bef", 0);
	take(p, s->to, 0, "ore", 0);
	take(p, s->to, 0, "wi", 1);
	take(p, s->to, 0, "th", 0);
	take(p, s->to, 0, "again", 2);
	take(p, s->to, 0, "after", 0);
	expect_nothing(p, "behind the last", s->to);
}

static void spoil(void *state)
{
	const struct state *s = state;
	char byte;

	must(recv(s->to, &byte, 1, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;
	int pair[2];

	program_start(&p, argc, argv);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	s = (struct state){.to = pair[0], .from = pair[1]};
	int fd = must(open("/dev/null", O_RDONLY | O_CLOEXEC));
	message_send(s.from, "before", NULL, 0, NULL);
	message_send(s.from, "with", &fd, 1, NULL);
	message_send(s.from, "again", (int[]){fd, fd}, 2, NULL);
	message_send(s.from, "after", NULL, 0, NULL);
	close(fd);
	return program_serve(&p, &ops, &s);
}
