/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix stream sockets with names, one by path and one abstract: a listener, and a connection from a child with data in
 * both directions. Proof: names, peer credentials, waiting bytes; at the end the bytes are read and a new connection
 * to the listener works.
 */
#include "program.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BYTES = 5000, BACKLOG = 7 };

struct server {
	const char *name; /* "@" stands for the NUL that begins an abstract name */
	struct sockaddr_un address;
	socklen_t length;
	int listener, accepted; /* in the parent */
	int client;             /* in the child */
};

struct state {
	struct server servers[2];
	pid_t pid, child;
};

static unsigned char buffer[BYTES * 2];

static void server_listen(struct server *s, const char *name)
{
	s->name = name;
	s->address.sun_family = AF_UNIX;
	strcpy(s->address.sun_path, name);
	s->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
	if (name[0] == '@') {
		s->address.sun_path[0] = '\0';
		s->length--;
	}
	s->listener = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(bind(s->listener, (const struct sockaddr *)&s->address, s->length));
	must(listen(s->listener, BACKLOG));
}

static void check_name(struct program *p, const struct server *s, int fd, bool of_peer)
{
	struct sockaddr_un got = {0};
	socklen_t n = sizeof(got);

	if (of_peer)
		getpeername(fd, (struct sockaddr *)&got, &n);
	else
		getsockname(fd, (struct sockaddr *)&got, &n);
	expect_same(p, "length of a name", n, s->length);
	expect(p, !memcmp(&got, &s->address, s->length), "%s: another name", s->name);
}

static void check_data(struct program *p, const struct server *s, int fd, uint64_t seed, int flags)
{
	ssize_t n = recv(fd, buffer, sizeof(buffer), flags | MSG_DONTWAIT);

	expect_same(p, s->name, n, BYTES);
	expect(p, pattern_differs(buffer, BYTES, seed) < 0, "%s: the data differ", s->name);
}

static void check_peer(struct program *p, int fd, pid_t pid)
{
	struct ucred peer = {0};

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof(peer)});
	if (p->more)
		expect_same(p, "pid of the peer", peer.pid, pid);
	expect_same(p, "uid of the peer", peer.uid, getuid());
}

static void parent_check(struct program *p, const struct state *st, int flags)
{
	for (size_t i = 0; i < ARRAY_SIZE(st->servers); i++) {
		const struct server *s = &st->servers[i];
		int listening = 0;

		check_name(p, s, s->listener, false);
		getsockopt(s->listener, SOL_SOCKET, SO_ACCEPTCONN, &listening, &(socklen_t){sizeof(int)});
		expect_same(p, "listening", listening, 1);
		if (p->more)
			check_name(p, s, s->accepted, false);
		check_peer(p, s->accepted, st->child);
		check_data(p, s, s->accepted, i, flags);
	}
}

static void child_check(struct program *p, const struct state *st, int flags)
{
	for (size_t i = 0; i < ARRAY_SIZE(st->servers); i++) {
		const struct server *s = &st->servers[i];
		if (p->more)
			check_name(p, s, s->client, true);
		check_peer(p, s->client, st->pid);
		check_data(p, s, s->client, 10 + i, flags);
	}
}

static void parent_verify(struct program *p, void *state)
{
	const struct state *st = state;
	struct stat by_name;

	parent_check(p, st, MSG_PEEK);
	expect(p, lstat(st->servers[0].name, &by_name) == 0 && S_ISSOCK(by_name.st_mode),
	       "the socket's file is gone");
}

static void child_verify(struct program *p, void *state)
{
	child_check(p, state, MSG_PEEK);
}

static void child_finish(struct program *p, void *state)
{
	child_check(p, state, 0);
}

static void parent_finish(struct program *p, void *state)
{
	const struct state *st = state;

	parent_check(p, st, 0);
	for (size_t i = 0; i < ARRAY_SIZE(st->servers); i++) {
		const struct server *s = &st->servers[i];
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		expect_same(p, "a new connection",
			    connect(fd, (const struct sockaddr *)&s->address, s->length), 0);
		int other = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
		expect_same(p, "sending on it", send(fd, "new", 3, MSG_NOSIGNAL), 3);
		expect_same(p, "receiving on it", recv(other, buffer, sizeof(buffer), MSG_DONTWAIT), 3);
		close(other);
		close(fd);
	}
}

static void spoil(void *state)
{
	struct state *st = state;

	must(recv(st->servers[1].accepted, buffer, 1, 0));
}

static void send_pattern(int fd, uint64_t seed)
{
	pattern_fill(buffer, BYTES, seed);
	if (send(fd, buffer, BYTES, 0) != BYTES)
		program_die("send");
}

static int child_main(const struct program *parent, struct state *st)
{
	static const struct program_ops ops = {.verify = child_verify, .finish = child_finish};
	struct program p = program_role(parent, "child");

	for (size_t i = 0; i < ARRAY_SIZE(st->servers); i++) {
		struct server *s = &st->servers[i];
		close(s->listener);
		s->client = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
		must(connect(s->client, (const struct sockaddr *)&s->address, s->length));
		send_pattern(s->client, i);
		/* The parent's data are there before this role is ready. */
		while (recv(s->client, buffer, BYTES, MSG_PEEK | MSG_WAITALL) != BYTES)
			sleep_ms(1);
	}
	return program_serve(&p, &ops, st);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {
		.verify = parent_verify, .spoil = spoil, .finish = parent_finish};
	static struct state st;
	struct program p;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	st.pid = getpid();
	server_listen(&st.servers[0], "socket-by-path");
	server_listen(&st.servers[1], "@ferry-test-abstract");
	st.child = must(fork());
	if (!st.child)
		return child_main(&p, &st);
	for (size_t i = 0; i < ARRAY_SIZE(st.servers); i++) {
		st.servers[i].accepted = must(accept4(st.servers[i].listener, NULL, NULL, SOCK_CLOEXEC));
		send_pattern(st.servers[i].accepted, 10 + i);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &st);
}
