/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX shared memory (a file in /dev/shm) of a parent and its child: mapped, and open in the parent. Proof: contents, name,
 * and that a word which the parent writes comes back through the child.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 5, ANSWER_MS = 3000 };

struct shared {
	volatile unsigned ping, pong;
	unsigned char data[PAGES * PAGE - 8];
};

struct state {
	struct shared *at;
	int fd;
	char name[64];
};

static void check(struct program *p, void *state)
{
	struct state *s = state;

	expect(p, pattern_differs(s->at->data, sizeof(s->at->data), 4) < 0, "it differs");
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	struct stat open_one, named;

	check(p, state);
	must(fstat(s->fd, &open_one));
	int fd = shm_open(s->name, O_RDWR, 0);
	expect(p, fd >= 0 && fstat(fd, &named) == 0 && named.st_ino == open_one.st_ino,
	       "the name leads to another file");
	close(fd);
	unsigned want = ++s->at->ping;
	for (int i = 0; i < ANSWER_MS && s->at->pong != want; i++)
		sleep_ms(1);
	expect_same(p, "what the child answers", s->at->pong, want);
}

static void echo(void *state)
{
	struct state *s = state;

	s->at->pong = s->at->ping;
}

static void spoil(void *state)
{
	struct state *s = state;

	s->at->data[9] ^= 1;
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	shm_unlink(s->name);
}

int main(int argc, char **argv)
{
	static const struct program_ops parent = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child = {.verify = check, .step = echo};
	struct state s;
	struct program p;

	program_start(&p, argc, argv);
	snprintf(s.name, sizeof(s.name), "/ferry-test-%d", getpid());
	s.fd = must(shm_open(s.name, O_RDWR | O_CREAT | O_EXCL, 0600));
	must(ftruncate(s.fd, sizeof(*s.at)));
	s.at = must(mmap(NULL, sizeof(*s.at), PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0));
	pattern_fill(s.at->data, sizeof(s.at->data), 4);
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &parent, &s);
}
