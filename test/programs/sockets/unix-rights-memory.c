/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is handed over, as a window's client does: a memfd that the program maps and whose descriptor waits in a
 * socket only; a file that was deleted and waits, too. What the program writes shows in what is received.
 */
#include "messages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES = 3 * 4096 };

struct state {
	int to;
	unsigned char *map;
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct message m;
	char text[16] = "";

	expect(p, pattern_differs(s->map, BYTES - 1, 11) < 0, "the memory differs");
	message_receive(s->to, MSG_PEEK, 6, &m);
	expect_same(p, "descriptors", m.n_fds, 2);
	if (m.n_fds != 2)
		return;
	/* One memory, seen in two ways. */
	unsigned char mark = (unsigned char)(s->map[BYTES - 1] + 1), seen = 0;
	s->map[BYTES - 1] = mark;
	expect_same(p, "reading the memfd", pread(m.fds[0], &seen, 1, BYTES - 1), 1);
	expect_same(p, "what was written", seen, mark);
	s->map[BYTES - 1] = (unsigned char)(mark - 1);
	expect_same(p, "seals", fcntl(m.fds[0], F_GET_SEALS), F_SEAL_SHRINK);
	expect_same(p, "reading the file", pread(m.fds[1], text, sizeof(text), 0), 7);
	expect(p, !strcmp(text, "deleted"), "the file says '%s'", text);
	close(m.fds[0]);
	close(m.fds[1]);
}

static void spoil(void *state)
{
	const struct state *s = state;

	s->map[5]++;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct state s;
	struct program p;
	char path[200];
	int fds[2], pair[2];

	program_start(&p, argc, argv);
	fds[0] = must(memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	must(ftruncate(fds[0], BYTES));
	must(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SHRINK));
	s.map = must(mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0));
	pattern_fill(s.map, BYTES - 1, 11);
	snprintf(path, sizeof(path), "%s/deleted", p.folder);
	fds[1] = must(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	must(write(fds[1], "deleted", 7));
	must(unlink(path));
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	message_send(pair[0], "window", fds, 2, NULL);
	close(fds[0]);
	close(fds[1]);
	s.to = pair[1];
	return program_serve(&p, &ops, &s);
}
