/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two io_urings with one polling thread of the kernel's (IORING_SETUP_SQPOLL, IORING_SETUP_ATTACH_WQ) and a third with its
 * own, in a program that gave up its rights before it made them. Proof: who shares a thread, positions, and that the threads
 * sleep; at the end all take requests again, woken as their flag asks for it.
 */
#include "ring.h"

#include <sys/stat.h>

enum { RINGS = 3, ADVANCE = 20, IDLE_MS = 10 };

struct state {
	struct ring ring[RINGS];
	int fd;
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	long long thread[RINGS];

	for (int i = 0; i < RINGS; i++) {
		thread[i] = fdinfo_number(s->ring[i].fd, "SqThread: %llu");
		ring_verify_positions(p, &s->ring[i], ADVANCE + (uint32_t)i, ADVANCE + (uint32_t)i,
				      ADVANCE + (uint32_t)i);
	}
	expect(p, thread[0] > 0 && thread[0] == thread[1], "the threads are %lld and %lld", thread[0],
	       thread[1]);
	expect(p, thread[2] > 0 && thread[2] != thread[0], "all rings share thread %lld", thread[2]);
	for (int i = 0;
	     i < 1000 && !(*ring_word(&s->ring[0], s->ring[0].p.sq_off.flags) & IORING_SQ_NEED_WAKEUP); i++)
		sleep_ms(2);
	expect(p, *ring_word(&s->ring[0], s->ring[0].p.sq_off.flags) & IORING_SQ_NEED_WAKEUP,
	       "the thread does not sleep");
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;

	verify(p, s);
	for (int i = 0; i < RINGS; i++) {
		ring_work(p, &s->ring[i], s->fd, 40);
		/* The thread may not open what we may not. */
		ring_put(&s->ring[i], IORING_OP_OPENAT, AT_FDCWD, "/etc/shadow", 0, 0, 77);
		expect_same(p, "opening what only root may", ring_one(&s->ring[i], 77), -EACCES);
	}
}

static void spoil(void *context)
{
	struct state *s = context;

	ring_advance(&s->ring[1], 1);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.fd = must(ring_file(&p, 0));
	must(chmod(p.folder, 0777));
	must(setgid(65534));
	must(setuid(65534));
	for (int i = 0; i < RINGS; i++) {
		struct io_uring_params params = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = IDLE_MS};
		if (i == 1) {
			params.flags |= IORING_SETUP_ATTACH_WQ;
			params.wq_fd = (uint32_t)s.ring[0].fd;
		}
		ring_make_with(&s.ring[i], 32, params);
	}
	for (int i = 0; i < RINGS; i++)
		ring_advance(&s.ring[i], ADVANCE + (uint32_t)i);
	return program_serve(&p, &ops, &s);
}
