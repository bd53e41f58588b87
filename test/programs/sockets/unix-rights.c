/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that wait in unix sockets of each type: of a file that nobody has open any more, of a description that
 * the program has too, several at once, sockets with messages of their own, and a socket that waits in itself.
 */
#include "messages.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TYPES = 3, OFFSET = 4 };

static const int types[TYPES] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};

struct state {
	int from[TYPES], to[TYPES];
	int shared; /* a pipe's end that waits, too */
	int cycle[2];
	const char *folder;
};

static bool same_description(int a, int b)
{
	return syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, (unsigned long)a, (unsigned long)b) == 0;
}

static void take(struct program *p, int fd, int flags, const char *text, size_t n_fds, struct message *m)
{
	message_receive(fd, flags, strlen(text), m);
	expect_same(p, text, m->n, strlen(text));
	expect(p, m->n < 0 || !memcmp(m->bytes, text, strlen(text)), "'%s': other bytes", text);
	expect_same(p, "descriptors", m->n_fds, n_fds);
}

static void drop(struct message *m)
{
	for (size_t i = 0; i < m->n_fds; i++)
		close(m->fds[i]);
}

static void check_file(struct program *p, int fd)
{
	char bytes[8] = "";

	expect_same(p, "offset of the file", lseek(fd, 0, SEEK_CUR), OFFSET);
	expect_same(p, "flags of the file", fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND), O_RDWR | O_APPEND);
	expect_same(p, "reading the file", pread(fd, bytes, 4, OFFSET), 4);
	expect(p, !memcmp(bytes, "4567", 4), "the file has other bytes");
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct message m;

	for (int i = 0; i < TYPES; i++) {
		take(p, s->to[i], MSG_PEEK, "file", 1, &m);
		if (m.n_fds == 1)
			check_file(p, m.fds[0]);
		drop(&m);
	}
	take(p, s->cycle[0], MSG_PEEK, "myself", 1, &m);
	if (m.n_fds == 1)
		expect(p, same_description(m.fds[0], s->cycle[0]), "it is another socket");
	drop(&m);
}

static void finish_socket(struct program *p, int fd)
{
	struct message m;

	take(p, fd, 0, "sockets", 2, &m);
	if (m.n_fds != 2)
		return;
	expect_message(p, m.fds[1], 0, "inside", NULL);
	message_send(m.fds[1], "and back", NULL, 0, NULL);
	expect_message(p, m.fds[0], 0, "and back", NULL);
	drop(&m);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct message m;

	for (int i = 0; i < TYPES; i++) {
		take(p, s->to[i], 0, "file", 1, &m);
		if (m.n_fds == 1)
			check_file(p, m.fds[0]);
		drop(&m);
		if (p->more)
			take(p, s->to[i], 0, "plain", 0, &m);
		take(p, s->to[i], 0, "two", 2, &m);
		if (m.n_fds == 2) {
			expect(p, same_description(m.fds[0], s->shared), "the pipe is another");
			expect(p, same_description(m.fds[0], m.fds[1]), "the two differ");
		}
		drop(&m);
		finish_socket(p, s->to[i]);
		expect_nothing(p, "behind the last", s->to[i]);
	}
	take(p, s->cycle[0], 0, "myself", 1, &m);
	drop(&m);
}

static void spoil(void *state)
{
	const struct state *s = state;
	char bytes[4];

	must(recv(s->to[1], bytes, 4, 0));
}

static void fill(const struct state *s, int from, bool more)
{
	char path[200];
	int inside[2];

	snprintf(path, sizeof(path), "%s/file", s->folder);
	int fd = must(open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
	must(write(fd, "01234567", 8));
	must(lseek(fd, OFFSET, SEEK_SET));
	message_send(from, "file", &fd, 1, NULL);
	close(fd);
	if (more)
		message_send(from, "plain", NULL, 0, NULL);
	message_send(from, "two", (int[]){s->shared, s->shared}, 2, NULL);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, inside));
	message_send(inside[0], "inside", NULL, 0, NULL);
	message_send(from, "sockets", inside, 2, NULL);
	close(inside[0]);
	close(inside[1]);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	int pair[2];

	program_start(&p, argc, argv);
	s.folder = p.folder;
	must(pipe2(pair, O_CLOEXEC));
	s.shared = pair[0];
	for (int i = 0; i < TYPES; i++) {
		must(socketpair(AF_UNIX, types[i] | SOCK_CLOEXEC, 0, pair));
		s.from[i] = pair[0];
		s.to[i] = pair[1];
		fill(&s, s.from[i], p.more);
	}
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s.cycle));
	message_send(s.cycle[1], "myself", &s.cycle[0], 1, NULL);
	return program_serve(&p, &ops, &s);
}
