/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An io_uring that threads use under a number they have registered (IORING_REGISTER_RING_FDS), each under another, and one
 * thread that waits for completions. Proof: the numbers work and others do not, the thread still waits; at the end
 * each submits by its number, and the waiting thread gets everything.
 */
#include "ring.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MAIN_NUMBER = 3, WAITER_NUMBER = 6 };

struct state {
	struct ring ring;
	_Atomic uint32_t got;
	_Atomic int error;
	uint32_t want;
};

static void take_number(const struct ring *r, uint32_t number)
{
	struct io_uring_rsrc_update one = {.offset = number, .data = (uint64_t)r->fd};

	if (ring_register(r, IORING_REGISTER_RING_FDS, &one, 1) != 1)
		program_die("IORING_REGISTER_RING_FDS");
}

static void *wait_for_it(void *context)
{
	struct state *s = context;
	uint32_t *head = ring_word(&s->ring, s->ring.p.cq_off.head);

	take_number(&s->ring, WAITER_NUMBER);
	for (;;) {
		long n = syscall(SYS_io_uring_enter, WAITER_NUMBER, 0, 1,
				 IORING_ENTER_GETEVENTS | IORING_ENTER_REGISTERED_RING, NULL, 0);
		if (n < 0) {
			s->error = errno;
			return NULL;
		}
		uint32_t there = ring_waiting(&s->ring);
		__atomic_store_n(head, *head + there, __ATOMIC_RELEASE);
		s->got += there;
	}
}

static void verify(struct program *p, void *context)
{
	struct state *s = context;

	expect_same(p, "errno of the thread that waits", s->error, 0);
	expect_same(p, "completions that it got", s->got, s->want);
	for (int i = 0; i < 16; i++)
		expect_same(p, "entering by a number",
			    syscall(SYS_io_uring_enter, i, 0, 0, IORING_ENTER_REGISTERED_RING, NULL, 0),
			    i == MAIN_NUMBER ? 0 : -1);
}

static void submit(struct state *s, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		ring_put(&s->ring, IORING_OP_NOP, -1, NULL, 0, 0, i);
		if (ring_submit(&s->ring, 0) != 1)
			program_die("io_uring_enter");
	}
	s->want += n;
	for (int i = 0; i < 1000 && s->got < s->want; i++)
		sleep_ms(2);
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;

	verify(p, s);
	submit(s, 50);
	verify(p, s);
}

static void spoil(void *context)
{
	struct io_uring_rsrc_update one = {.offset = MAIN_NUMBER};
	struct state *s = context;

	ring_register(&s->ring, IORING_UNREGISTER_RING_FDS, &one, 1);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	ring_make(&s.ring, 16, 0);
	take_number(&s.ring, MAIN_NUMBER);
	s.ring.enter_fd = MAIN_NUMBER;
	s.ring.enter_flags = IORING_ENTER_REGISTERED_RING;
	if (pthread_create(&thread, NULL, wait_for_it, &s))
		program_die("pthread_create");
	submit(&s, 7);
	return program_serve(&p, &ops, &s);
}
