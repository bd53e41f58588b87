/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that do not share the working directory, root directory and umask of their process (unshare(CLONE_FS), as file
 * servers do it). Proof: each thread's own, by getcwd(2) and umask(2); a change in one is not seen by another.
 */
#include "program.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PATH_BYTES = 300 };

struct place {
	const char *name;
	bool apart, rooted;
	mode_t umask;
	const struct program *program;
	char cwd[PATH_BYTES];
};

static struct place places[] = {
	{"other", true, false, 027, NULL, ""},
	{"rooted", true, true, 077, NULL, ""},
	{"sharing", false, false, 022, NULL, ""},
};

static void where(char path[PATH_BYTES])
{
	memset(path, 0, PATH_BYTES);
	syscall(SYS_getcwd, path, PATH_BYTES);
}

static mode_t umask_now(void)
{
	mode_t now = umask(0);

	umask(now);
	return now;
}

static void verify(struct program *p, void *state)
{
	const struct place *place = state;
	char cwd[PATH_BYTES];

	where(cwd);
	expect(p, !strcmp(cwd, place->cwd), "works in '%s', not in '%s'", cwd, place->cwd);
	expect_same(p, "umask", umask_now(), place->umask);
}

static void spoil(void *state)
{
	struct place *place = state;

	place->umask ^= 070;
}

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct place *place = argument;
	struct program p = program_role(place->program, place->name);

	if (place->apart) {
		must(unshare(CLONE_FS));
		must(chdir(p.folder));
		umask(place->umask);
	}
	/* The mailbox is its root then, where "/ask.rooted" lies. */
	if (place->rooted) {
		must(chroot(p.folder));
		p.folder[0] = '\0';
	} else if (place->apart) {
		must(chdir("other"));
	}
	where(place->cwd);
	program_serve(&p, &ops, place);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct place self = {.umask = 022};
	struct program p;

	program_start(&p, argc, argv);
	umask(self.umask);
	char path[PATH_BYTES];
	snprintf(path, sizeof(path), "%s/other", p.folder);
	must(mkdir(path, 0755));
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		pthread_t thread;
		places[i].program = &p;
		if (pthread_create(&thread, NULL, thread_main, &places[i]) != 0)
			program_die("pthread_create");
		program_await(&p, places[i].name);
	}
	where(self.cwd);
	return program_serve(&p, &ops, &self);
}
