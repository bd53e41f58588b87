/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eventfds: plain, semaphore, empty, with a large count, shared with a child. Proof: count and kind from fdinfo, flags;
 * at the end each is read.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct event {
	const char *name;
	uint64_t count;
	int flags;
	bool more; /* only with "more" */
	int fd;
} events[] = {
	{"plain", 7, EFD_NONBLOCK, false, -1},
	{"semaphore", 3, EFD_SEMAPHORE | EFD_NONBLOCK, true, -1},
	{"empty", 0, EFD_NONBLOCK | EFD_CLOEXEC, false, -1},
	{"blocking", 1, 0, false, -1},
	{"large", UINT64_MAX - 1, EFD_NONBLOCK, true, -1},
};

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		const struct event *e = &events[i];

		if (e->fd < 0)
			continue;
		long long semaphore = fdinfo_number(e->fd, "eventfd-semaphore: %llu");

		expect_same(p, e->name, fdinfo_number(e->fd, "eventfd-count: %llx"), e->count);
		/* Shown since Linux 6.5. */
		if (semaphore >= 0)
			expect_same(p, "semaphore", semaphore, !!(e->flags & EFD_SEMAPHORE));
		expect_same(p, "O_NONBLOCK", fcntl(e->fd, F_GETFL) & O_NONBLOCK, e->flags & EFD_NONBLOCK);
		expect_same(p, "close-on-exec", fcntl(e->fd, F_GETFD),
			    e->flags & EFD_CLOEXEC ? FD_CLOEXEC : 0);
	}
}

static void finish(struct program *p, void *state)
{
	uint64_t value;

	verify(p, state);
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		const struct event *e = &events[i];

		if (e->fd < 0)
			continue;
		ssize_t n = e->count || e->flags & EFD_NONBLOCK ? read(e->fd, &value, sizeof(value)) : -1;
		if (!e->count) {
			expect(p, n < 0 && errno == EAGAIN, "%s: reading gives something", e->name);
			continue;
		}
		expect_same(p, e->name, n, sizeof(value));
		expect_same(p, "value", value, e->flags & EFD_SEMAPHORE ? 1 : e->count);
	}
}

static void spoil(void *state)
{
	(void)state;
	must(write(events[0].fd, &(const uint64_t){1}, 8));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		if (events[i].more && !p.more)
			continue;
		events[i].fd = must(eventfd(0, events[i].flags));
		if (events[i].count)
			must(write(events[i].fd, &events[i].count, 8));
	}
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, NULL);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, NULL);
}
