/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of unix sockets that are not where their names say: renamed after bind (as who replaces a socket atomically
 * does), with another socket at the old place by now, with a plain file there; each with the owner and mode that it
 * was given. CRIU loses where they are: only "more".
 */
#include "messages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { USER = 1000, GROUP = 1001 };

struct state {
	struct unix_name old, now;        /* renamed */
	struct unix_name replaced, plain; /* names whose file is another's by now */
	int moved, first, second, hidden, client, server;
};

static void check_file(struct program *p, const char *path, uid_t uid, gid_t gid, unsigned mode)
{
	struct stat st = {0};

	expect_same(p, path, stat(path, &st), 0);
	expect_same(p, "type and mode", st.st_mode, mode);
	expect_same(p, "owner", st.st_uid, uid);
	expect_same(p, "group", st.st_gid, gid);
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat st;

	expect_name(p, "renamed", s->moved, false, &s->old);
	check_file(p, s->now.address.sun_path, USER, GROUP, S_IFSOCK | 0620);
	expect(p, stat(s->old.address.sun_path, &st) < 0 && errno == ENOENT, "something is at the old place");
	expect_name(p, "replaced", s->first, false, &s->replaced);
	expect_name(p, "in its place", s->second, false, &s->replaced);
	check_file(p, s->replaced.address.sun_path, 0, 0, S_IFSOCK | 0700);
	expect_name(p, "behind a plain file", s->hidden, false, &s->plain);
	check_file(p, s->plain.address.sun_path, 0, 0, S_IFREG | 0600);
	expect_name(p, "client of the hidden", s->client, true, &s->plain);
}

static void expect_reaches(struct program *p, const struct unix_name *name, int listener)
{
	int fd = unix_socket(SOCK_STREAM, NULL);

	expect(p, connect(fd, (const struct sockaddr *)&name->address, name->length) == 0, "%s: errno %d",
	       name->address.sun_path, errno);
	int accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	expect(p, accepted >= 0, "%s leads elsewhere", name->address.sun_path);
	if (accepted >= 0)
		close(accepted);
	close(fd);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	expect_reaches(p, &s->now, s->moved);
	expect_reaches(p, &s->replaced, s->second);
	expect(p, accept4(s->first, NULL, NULL, SOCK_NONBLOCK) < 0 && errno == EAGAIN,
	       "the first is reached");
	message_send(s->client, "still there", NULL, 0, NULL);
	expect_message(p, s->server, 0, "still there", NULL);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(chmod(s->now.address.sun_path, 0600));
}

static int listener(const struct unix_name *name)
{
	int fd = unix_socket(SOCK_STREAM | SOCK_NONBLOCK, name);

	must(listen(fd, 4));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	umask(0077);
	s.old = unix_name(p.folder, "moved.tmp");
	s.now = unix_name(p.folder, "moved");
	s.replaced = unix_name(p.folder, "replaced");
	s.plain = unix_name(p.folder, "plain");
	s.moved = listener(&s.old);
	must(chown(s.old.address.sun_path, USER, GROUP));
	must(chmod(s.old.address.sun_path, 0620));
	must(rename(s.old.address.sun_path, s.now.address.sun_path));
	s.first = listener(&s.replaced);
	must(unlink(s.replaced.address.sun_path));
	s.second = listener(&s.replaced);
	s.hidden = listener(&s.plain);
	s.client = unix_socket(SOCK_STREAM, NULL);
	must(connect(s.client, (const struct sockaddr *)&s.plain.address, s.plain.length));
	s.server = must(accept4(s.hidden, NULL, NULL, SOCK_CLOEXEC));
	must(unlink(s.plain.address.sun_path));
	close(must(open(s.plain.address.sun_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)));
	return program_serve(&p, &ops, &s);
}
