/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals whose numbers have gaps and are held in another order, some by a child alone, and two in a further mount of
 * devpts, where the same numbers are others. Proof: each has its number and its size; at the end each works.
 */
#include "pty.h"

#include <sys/mount.h>

enum { COUNT = 12, OWN = 2 };

struct state {
	struct pty all[COUNT], own[OWN];
	bool has_own, child;
};

static bool is_kept(int i)
{
	return i % 3 != 1;
}

static bool is_childs(int i)
{
	return i % 4 == 2;
}

static void verify_one(struct program *p, const struct pty *t, int i)
{
	struct winsize size = {0};
	char name[160] = "", link[64];
	unsigned number = 0;

	expect_same(p, "number", ioctl(t->master, TIOCGPTN, &number), 0);
	expect(p, atoi(strrchr(t->name, '/') + 1) == (int)number, "%s has number %u", t->name, number);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", t->slave);
	expect(p, readlink(link, name, sizeof(name) - 1) > 0 && !strcmp(name, t->name), "%s is called %s",
	       t->name, name);
	expect_same(p, "size", ioctl(t->slave, TIOCGWINSZ, &size), 0);
	expect_same(p, "rows", size.ws_row, i + 1);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	for (int i = 0; i < COUNT; i++)
		if (is_kept(i) && is_childs(i) == s->child)
			verify_one(p, &s->all[i], i);
	for (int i = 0; s->has_own && !s->child && i < OWN; i++)
		verify_one(p, &s->own[i], 100 + i);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	for (int i = 0; i < COUNT; i++)
		if (is_kept(i) && is_childs(i) == s->child)
			pty_expect_works(p, &s->all[i]);
	for (int i = 0; s->has_own && !s->child && i < OWN; i++)
		pty_expect_works(p, &s->own[i]);
}

static void spoil(void *state)
{
	const struct state *s = state;
	const struct winsize size = {.ws_row = 99};

	must(ioctl(s->all[0].slave, TIOCSWINSZ, &size));
}

static void set_rows(const struct pty *t, int i)
{
	const struct winsize size = {.ws_row = (unsigned short)(i + 1)};

	must(ioctl(t->slave, TIOCSWINSZ, &size));
}

static void make_own(struct state *s, const char *folder)
{
	char path[256];
	unsigned number;
	int unlocked = 0;

	snprintf(path, sizeof(path), "%s/pts", folder);
	must(mkdir(path, 0755));
	must(mount("devpts", path, "devpts", 0, "newinstance,ptmxmode=0666"));
	for (int i = 0; i < OWN; i++) {
		snprintf(path, sizeof(path), "%s/pts/ptmx", folder);
		s->own[i].master = must(open(path, O_RDWR | O_NOCTTY | O_CLOEXEC));
		must(ioctl(s->own[i].master, TIOCSPTLCK, &unlocked));
		must(ioctl(s->own[i].master, TIOCGPTN, &number));
		if (snprintf(s->own[i].name, sizeof(s->own[i].name), "%s/pts/%u", folder, number) >=
		    (int)sizeof(s->own[i].name))
			program_die("the folder's name is too long");
		s->own[i].slave = pty_open_slave(&s->own[i], O_RDWR);
		set_rows(&s->own[i], 100 + i);
	}
	s->has_own = true;
}

static void close_pty(const struct pty *t)
{
	close(t->master);
	close(t->slave);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify, .finish = finish};
	struct program p;
	struct state s = {.child = false};

	program_start(&p, argc, argv);
	for (int i = 0; i < COUNT; i++) {
		s.all[i] = pty_pair(0);
		set_rows(&s.all[i], i);
	}
	for (int i = 0; i < COUNT; i++)
		if (!is_kept(i))
			close_pty(&s.all[i]);
	s.child = !must(fork());
	for (int i = 0; i < COUNT; i++)
		if (is_kept(i) && is_childs(i) != s.child)
			close_pty(&s.all[i]);
	if (s.child) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, &s);
	}
	if (p.more)
		make_own(&s, p.folder);
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
