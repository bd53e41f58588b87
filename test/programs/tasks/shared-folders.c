/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processes that have working folder, root and umask together (CLONE_FS), and a third that has its own. Proof: when one
 * changes folder and umask, so does the other, and the third does not.
 */
#include "relations.h"

#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* What the first process sets at each question, and the other finds at the next. */
struct step {
	const char *folder;
	mode_t umask;
};

static const struct step steps[] = {{"one", 027}, {"two", 077}};

struct state {
	char base[200];
	bool follows; /* finds what another process has set */
	bool leads;
	unsigned at;
};

static void check(struct program *p, const struct state *s, const struct step *want)
{
	char path[256], now[256] = "";
	mode_t mask = umask(0);

	umask(mask);
	snprintf(path, sizeof(path), "%s/%s", s->base, want->folder);
	must(getcwd(now, sizeof(now)) ? 0 : -1);
	expect(p, !strcmp(now, path), "the working folder is '%s', not '%s'", now, path);
	expect_same(p, "umask", mask, want->umask);
}

static void set(const struct state *s, const struct step *step)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", s->base, step->folder);
	must(chdir(path));
	umask(step->umask);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	check(p, s, &steps[s->follows || s->leads ? s->at % 2 : 0]);
	s->at++;
	if (s->leads)
		set(s, &steps[s->at % 2]);
}

static void spoil(void *state)
{
	struct state *s = state;

	unshare(CLONE_FS);
	set(s, &steps[(s->at + 1) % 2]);
}

static int serve(const struct program *parent, const char *role, struct state *s)
{
	static const struct program_ops ops = {.verify = verify};
	struct program p = program_role(parent, role);

	return program_serve(&p, &ops, s);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s = {0};
	struct program p;

	relations_start(&p, argc, argv);
	snprintf(s.base, sizeof(s.base), "%s", p.folder);
	must(chdir(s.base));
	must(mkdir("one", 0777));
	must(mkdir("two", 0777));
	set(&s, &steps[0]);
	if (!must(fork()))
		return serve(&p, "apart", &s);
	program_await(&p, "apart");
	s.follows = true;
	if (!must(syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0)))
		return serve(&p, "follows", &s);
	program_await(&p, "follows");
	s.leads = true;
	return program_serve(&p, &ops, &s);
}
