/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix stream sockets with every sort of name: relative to a directory that the program left, by a descriptor of it, deleted, bound
 * clients, connections whose listener is gone, several connections to one listener, bound without listening.
 * Proof: both names of each end, the file with its mode and owner, a byte each way; at the end new
 * connections to what still listens.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_MODE = 0640, CONNECTIONS = 3 };

/* How programs bind a path that is too long for a name; they close the directory then. */
enum { VIA_NUMBER = 300 };
#define VIA "/proc/self/fd/300/"

struct name {
	struct sockaddr_un address;
	socklen_t length;
};

struct connection {
	int client, server;
	struct name client_name, server_name;
};

struct server {
	const char *what;
	const char *name; /* "@" stands for the NUL of an abstract name, "#" for the way by a descriptor */
	bool closed;      /* nobody listens any more */
	bool deleted;
	const char *client; /* prefix of the clients' names, NULL = they have none */
	int listener;
	struct name address;
	struct connection connections[CONNECTIONS];
};

static struct server servers[] = {
	{.what = "relative", .name = "relative"},
	{.what = "absolute", .name = "/"},
	{.what = "by a descriptor", .name = "#by-descriptor"},
	{.what = "deleted, by a descriptor", .name = "#gone-by-descriptor", .deleted = true},
	{.what = "client by a descriptor", .name = "second", .client = "#via-"},
	{.what = "deleted", .name = "gone", .deleted = true},
	{.what = "orphans", .name = "orphans", .closed = true},
	{.what = "deleted orphans", .name = "gone-orphans", .closed = true, .deleted = true},
	{.what = "abstract", .name = "@ferry-names"},
	{.what = "abstract orphans", .name = "@ferry-orphans", .closed = true},
	{.what = "bound clients", .name = "bound-clients", .client = "client-"},
	{.what = "abstract clients", .name = "@ferry-clients", .client = "@ferry-client-"},
};

struct state {
	int bound;
	struct name bound_name;
	const char *folder;
};

static struct name name_make(const char *text)
{
	struct name n = {.address.sun_family = AF_UNIX};

	snprintf(n.address.sun_path, sizeof(n.address.sun_path), "%s%s", text[0] == '#' ? VIA : "",
		 text + (text[0] == '#'));
	n.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(n.address.sun_path) + 1);
	if (text[0] == '@') {
		n.address.sun_path[0] = '\0';
		n.length--;
	}
	return n;
}

static const struct sockaddr *name_of(const struct name *n)
{
	return (const struct sockaddr *)&n->address;
}

static void check_name(struct program *p, const char *what, int fd, bool of_peer, const struct name *want)
{
	struct sockaddr_un got = {0};
	socklen_t n = sizeof(got);
	int r = of_peer ? getpeername(fd, (struct sockaddr *)&got, &n)
			: getsockname(fd, (struct sockaddr *)&got, &n);

	expect_same(p, what, r, 0);
	expect_same(p, what, n, want->length);
	expect(p, !memcmp(&got, &want->address, want->length), "%s: another name", what);
}

/* The directory that we are in. */
static void open_way(void)
{
	int fd = must(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	must(dup3(fd, VIA_NUMBER, O_CLOEXEC));
	close(fd);
}

static void connection_make(struct server *s, int index)
{
	struct connection *c = &s->connections[index];
	char text[64];

	c->client = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	c->client_name = (struct name){.address.sun_family = AF_UNIX, .length = sizeof(sa_family_t)};
	if (s->client) {
		snprintf(text, sizeof(text), "%s%d", s->client, index);
		c->client_name = name_make(text);
		must(bind(c->client, name_of(&c->client_name), c->client_name.length));
	}
	must(connect(c->client, name_of(&s->address), s->address.length));
	c->server = must(accept4(s->listener, NULL, NULL, SOCK_CLOEXEC));
	c->server_name = s->address;
	must(send(c->client, &(char){(char)('a' + index)}, 1, 0));
	must(send(c->server, &(char){(char)('A' + index)}, 1, 0));
}

static void server_make(struct server *s, const struct state *st)
{
	char text[200];

	snprintf(text, sizeof(text), "%s", s->name);
	if (s->name[0] == '/')
		snprintf(text, sizeof(text), "%s/absolute", st->folder);
	s->address = name_make(text);
	s->listener = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(bind(s->listener, name_of(&s->address), s->address.length));
	if (s->name[0] != '@')
		must(chmod(s->address.address.sun_path, FIRST_MODE));
	must(listen(s->listener, 5));
	for (int i = 0; i < CONNECTIONS; i++)
		connection_make(s, i);
	if (s->deleted)
		must(unlink(s->address.address.sun_path));
	if (!s->closed)
		return;
	close(s->listener);
	s->listener = -1;
}

static void check_file(struct program *p, const struct server *s, const struct state *st)
{
	char path[300];
	struct stat file;
	const char *name = s->address.address.sun_path;
	if (s->name[0] == '#')
		name += sizeof(VIA) - 1;
	bool absolute = name[0] == '/';

	snprintf(path, sizeof(path), "%s%s%s", absolute ? "" : st->folder, absolute ? "" : "/names/", name);
	int r = stat(path, &file);
	expect_same(p, s->what, r, s->deleted ? -1 : 0);
	if (r < 0)
		return;
	expect(p, S_ISSOCK(file.st_mode), "%s: no socket", s->what);
	expect_same(p, "mode", file.st_mode & 07777, FIRST_MODE);
}

static void check_byte(struct program *p, const char *what, int fd, char want, int flags)
{
	char got = 0;

	expect_same(p, what, recv(fd, &got, 1, flags | MSG_DONTWAIT), 1);
	expect_same(p, what, got, want);
}

static void server_check(struct program *p, const struct server *s, const struct state *st, int flags)
{
	if (s->name[0] != '@')
		check_file(p, s, st);
	if (s->listener >= 0)
		check_name(p, s->what, s->listener, false, &s->address);
	for (int i = 0; i < CONNECTIONS; i++) {
		const struct connection *c = &s->connections[i];
		check_name(p, s->what, c->client, false, &c->client_name);
		check_name(p, s->what, c->client, true, &c->server_name);
		check_name(p, s->what, c->server, false, &c->server_name);
		check_name(p, s->what, c->server, true, &c->client_name);
		check_byte(p, s->what, c->server, (char)('a' + i), flags);
		check_byte(p, s->what, c->client, (char)('A' + i), flags);
	}
}

static void verify(struct program *p, void *state)
{
	const struct state *st = state;

	check_name(p, "bound", st->bound, false, &st->bound_name);
	for (size_t i = 0; i < ARRAY_SIZE(servers); i++)
		server_check(p, &servers[i], st, MSG_PEEK);
}

/* A deleted name cannot be reached by anyone; what listens under another can. */
static void finish_listener(struct program *p, const struct server *s)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r = connect(fd, name_of(&s->address), s->address.length);

	if (s->closed || s->deleted) {
		expect(p, r < 0 && (errno == ENOENT || errno == ECONNREFUSED), "%s: somebody listens",
		       s->what);
	} else {
		expect_same(p, s->what, r, 0);
		int other = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
		expect_same(p, s->what, send(fd, "n", 1, MSG_NOSIGNAL), 1);
		check_byte(p, s->what, other, 'n', 0);
		close(other);
	}
	close(fd);
}

static void finish(struct program *p, void *state)
{
	const struct state *st = state;
	char path[200];

	snprintf(path, sizeof(path), "%s/names", st->folder);
	must(chdir(path));
	open_way();
	for (size_t i = 0; i < ARRAY_SIZE(servers); i++) {
		server_check(p, &servers[i], st, 0);
		finish_listener(p, &servers[i]);
	}
	close(VIA_NUMBER);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	expect(p, bind(fd, name_of(&st->bound_name), st->bound_name.length) < 0 && errno == EADDRINUSE,
	       "a bound name is free");
	close(fd);
}

static void spoil(void *state)
{
	(void)state;
	char byte;

	must(recv(servers[3].connections[1].server, &byte, 1, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state st;
	struct program p;

	program_start(&p, argc, argv);
	st.folder = p.folder;
	must(chdir(p.folder));
	must(mkdir("names", 0755));
	must(chdir("names"));
	open_way();
	for (size_t i = 0; i < ARRAY_SIZE(servers); i++)
		server_make(&servers[i], &st);
	close(VIA_NUMBER);
	st.bound = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	st.bound_name = name_make("@ferry-bound");
	must(bind(st.bound, name_of(&st.bound_name), st.bound_name.length));
	must(chdir("/"));
	return program_serve(&p, &ops, &st);
}
