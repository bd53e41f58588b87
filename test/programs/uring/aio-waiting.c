/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that waits for an event of Linux AIO, with an event counter that each request signals (IOCB_FLAG_RESFD).
 * Proof: it still waits and nothing was counted; when a request is made it gets the event, and the counter says so.
 */
#include "aio.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

struct state {
	aio_context_t ctx;
	int fd, events;
	char byte;
	_Atomic long got;
	_Atomic uint64_t rounds, want;
};

static void *wait_for_it(void *context)
{
	struct state *s = context;
	struct io_event e;

	for (;;) {
		long n = syscall(SYS_io_getevents, s->ctx, 1, 1, &e, NULL);
		s->got = n == 1 ? (long)e.data : -1;
		s->rounds++;
		if (n != 1)
			return NULL;
	}
}

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	uint64_t count = 0;

	expect_same(p, "events that the thread got", s->rounds, s->want);
	expect_same(p, "what it got", s->got, s->want);
	expect(p, read(s->events, &count, sizeof(count)) < 0, "the counter says %llu",
	       (unsigned long long)count);
}

static void request(struct state *s)
{
	struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD,
			  .aio_fildes = (uint32_t)s->fd,
			  .aio_buf = (uintptr_t)&s->byte,
			  .aio_nbytes = 1,
			  .aio_flags = IOCB_FLAG_RESFD,
			  .aio_resfd = (uint32_t)s->events,
			  .aio_data = s->rounds + 1};

	if (aio_submit(s->ctx, &cb) != 1)
		program_die("io_submit");
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;
	uint64_t count = 0;

	verify(p, s);
	for (int i = 0; i < 3; i++) {
		s->want++;
		request(s);
		for (int n = 0; n < 1000 && s->rounds < s->want; n++)
			sleep_ms(5);
		expect_same(p, "reading the counter", read(s->events, &count, sizeof(count)), 8);
		expect_same(p, "the counter", count, 1);
		verify(p, s);
	}
}

static void spoil(void *context)
{
	struct state *s = context;

	request(s);
	sleep_ms(20);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	pthread_t thread;

	program_start(&p, argc, argv);
	s.fd = must(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	s.events = must(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	s.ctx = aio_make(8);
	if (pthread_create(&thread, NULL, wait_for_it, &s))
		program_die("pthread_create");
	s.want = 1;
	request(&s);
	while (!s.rounds)
		sleep_ms(1);
	must(read(s.events, &(uint64_t){0}, 8));
	return program_serve(&p, &ops, &s);
}
