/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eventfds that threads wait at: one that is full, with a writer, one that is empty, with a reader, and a semaphore whose reader
 * waits in poll(2). Proof: the counts, that nobody has got on; at the end each gets on by what it waits for.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define FULL (UINT64_MAX - 1)

struct state {
	int full, empty, semaphore;
	long wrote, polled;
	uint64_t read;
};

static void *write_thread(void *state)
{
	struct state *s = state;
	uint64_t three = 3;

	__atomic_store_n(&s->wrote, write(s->full, &three, sizeof(three)), __ATOMIC_SEQ_CST);
	return NULL;
}

static void *read_thread(void *state)
{
	struct state *s = state;
	uint64_t value = 0;

	if (read(s->empty, &value, sizeof(value)) == sizeof(value))
		__atomic_store_n(&s->read, value, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *poll_thread(void *state)
{
	struct state *s = state;
	struct pollfd p = {.fd = s->semaphore, .events = POLLIN};

	__atomic_store_n(&s->polled, poll(&p, 1, -1) == 1 ? p.revents : -1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect_same(p, "the full one", fdinfo_number(s->full, "eventfd-count: %llx"), FULL);
	expect_same(p, "the empty one", fdinfo_number(s->empty, "eventfd-count: %llx"), 0);
	expect_same(p, "the semaphore", fdinfo_number(s->semaphore, "eventfd-count: %llx"), 0);
	expect_same(p, "the writer", __atomic_load_n(&s->wrote, __ATOMIC_SEQ_CST), 0);
	expect_same(p, "the reader", __atomic_load_n(&s->read, __ATOMIC_SEQ_CST), 0);
	expect_same(p, "who polls", __atomic_load_n(&s->polled, __ATOMIC_SEQ_CST), 0);
}

static bool reached(const long *at)
{
	for (int i = 0; i < 200 && !__atomic_load_n(at, __ATOMIC_SEQ_CST); i++)
		sleep_ms(10);
	return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	uint64_t value = 0;

	verify(p, state);
	expect_same(p, "reading", read(s->full, &value, sizeof(value)), 8);
	expect_same(p, "value", value, FULL);
	expect(p, reached(&s->wrote), "the writer waits");
	expect_same(p, "after the writer", fdinfo_number(s->full, "eventfd-count: %llx"), 3);
	must(write(s->empty, &(uint64_t){9}, 8));
	expect(p, reached((long *)&s->read), "the reader waits");
	expect_same(p, "what it read", s->read, 9);
	must(write(s->semaphore, &(uint64_t){2}, 8));
	expect(p, reached(&s->polled), "who polls waits");
	expect_same(p, "reading the semaphore", read(s->semaphore, &value, sizeof(value)), 8);
	if (p->more)
		expect_same(p, "value", value, 1);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(write(s->semaphore, &(uint64_t){1}, 8));
}

int main(int argc, char **argv)
{
	static void *(*const mains[])(void *) = {write_thread, read_thread, poll_thread};
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	uint64_t full = FULL;

	program_start(&p, argc, argv);
	s.full = must(eventfd(0, EFD_CLOEXEC));
	s.empty = must(eventfd(0, EFD_CLOEXEC));
	s.semaphore = must(eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE));
	must(write(s.full, &full, sizeof(full)));
	for (size_t i = 0; i < ARRAY_SIZE(mains); i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, mains[i], &s))
			program_die("pthread_create");
	}
	sleep_ms(100);
	return program_serve(&p, &ops, &s);
}
