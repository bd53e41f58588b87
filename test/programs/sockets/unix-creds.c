/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who sent the messages that wait (SO_PASSCRED), in datagram and seqpacket sockets: the program, and its child, which
 * is another user; and the credentials of both ends of a pair. CRIU keeps none of it: only "more".
 */
#include "messages.h"

#include <string.h>
#include <unistd.h>

enum { TYPES = 2, USER = 1000 };

static const int types[TYPES] = {SOCK_DGRAM, SOCK_SEQPACKET};

struct state {
	int to[TYPES], from[TYPES];
	pid_t parent, child;
};

static void take(struct program *p, int fd, int flags, const char *text, pid_t pid, uid_t uid)
{
	struct message m;

	message_receive(fd, flags, sizeof(m.bytes), &m);
	expect_same(p, text, m.n, strlen(text));
	expect(p, m.n < 0 || !memcmp(m.bytes, text, strlen(text)), "'%s': other bytes", text);
	expect_same(p, "pid of the sender", m.sender.pid, pid);
	expect_same(p, "uid of the sender", m.sender.uid, uid);
	expect_same(p, "gid of the sender", m.sender.gid, uid);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	for (int i = 0; i < TYPES; i++) {
		struct ucred peer = {0};
		take(p, s->to[i], MSG_PEEK, "parent", s->parent, 0);
		getsockopt(s->from[i], SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof(peer)});
		expect_same(p, "peer", peer.pid, s->parent);
	}
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	for (int i = 0; i < TYPES; i++) {
		take(p, s->to[i], 0, "parent", s->parent, 0);
		take(p, s->to[i], 0, "child", s->child, USER);
		expect_nothing(p, "behind the last", s->to[i]);
	}
}

static void spoil(void *state)
{
	const struct state *s = state;
	char byte;

	must(recv(s->to[0], &byte, 1, 0));
}

static void child_main(const struct program *p, const struct state *s)
{
	must(setresgid(USER, USER, USER));
	must(setresuid(USER, USER, USER));
	struct program q = program_role(p, "child");
	program_note_volatile(&q);
	for (int i = 0; i < TYPES; i++)
		message_send(s->from[i], "child", NULL, 0, NULL);
	must(write(STDERR_FILENO, "", 0));
	pause();
	_exit(0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	int pair[2];

	program_start(&p, argc, argv);
	s.parent = getpid();
	for (int i = 0; i < TYPES; i++) {
		must(socketpair(AF_UNIX, types[i] | SOCK_CLOEXEC, 0, pair));
		s.to[i] = pair[0];
		s.from[i] = pair[1];
		must(setsockopt(s.to[i], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)));
		message_send(s.from[i], "parent", NULL, 0, NULL);
	}
	s.child = must(fork());
	if (!s.child)
		child_main(&p, &s);
	/* The child is done when its last message arrived: the seqpacket socket has both. */
	for (struct message m = {0}; m.n != 5; sleep_ms(2)) {
		must(setsockopt(s.to[1], SOL_SOCKET, SO_PEEK_OFF, &(int){6}, sizeof(int)));
		message_receive(s.to[1], MSG_PEEK, sizeof(m.bytes), &m);
		must(setsockopt(s.to[1], SOL_SOCKET, SO_PEEK_OFF, &(int){-1}, sizeof(int)));
	}
	return program_serve(&p, &ops, &s);
}
