/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is registered with an io_uring: a table of files with free places, one of them changed later, a table of buffers
 * with a free place, an eventfd, limits for its workers, which have worked. Proof: the tables in fdinfo, the limits, the count of
 * the eventfd; at the end files are read and written by their places, into the buffers by theirs, and each
 * completion signals the eventfd.
 */
#include "ring.h"

#include <sys/eventfd.h>

enum { BYTES = 16384, FILE_PLACE = 1, CHANGED_PLACE = 5, FILES = 8, BUFFERS = 4 };

struct state {
	struct ring ring;
	int file, other, event;
	unsigned char *memory;
	uint32_t workers[2];
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;
	uint32_t workers[2] = {0};
	char name[64];

	expect_same(p, "places for files", fdinfo_number(s->ring.fd, "UserFiles: %llu"), FILES);
	expect_same(p, "places for buffers", fdinfo_number(s->ring.fd, "UserBufs: %llu"), BUFFERS);
	snprintf(name, sizeof(name), "    2: 0x%lx/%%llu", (unsigned long)(uintptr_t)(s->memory + 4096));
	expect_same(p, "bytes of a buffer", fdinfo_number(s->ring.fd, name), BYTES - 4096);
	expect_same(p, "asking for the limits",
		    ring_register(&s->ring, IORING_REGISTER_IOWQ_MAX_WORKERS, workers, 2), 0);
	expect_same(p, "workers for files", workers[0], s->workers[0]);
	expect_same(p, "workers for all else", workers[1], s->workers[1]);
	expect_same(p, "completions", ring_waiting(&s->ring), 0);
}

/* A request that goes through both tables. */
static void fixed(struct program *p, struct state *s, uint8_t op, int place, unsigned char *at, size_t n)
{
	struct io_uring_sqe *sqe = ring_put(&s->ring, op, place, at, n, 0, 99);
	uint64_t count = 0;

	sqe->flags = IOSQE_FIXED_FILE | IOSQE_ASYNC;
	sqe->buf_index = at == s->memory ? 0 : 2;
	expect_same(p, "result of a request by places", ring_one(&s->ring, 99), (long long)n);
	/* A worker signals it a moment after it has posted. */
	for (int i = 0; i < 1000 && read(s->event, &count, sizeof(count)) != sizeof(count); i++)
		sleep_ms(2);
	expect_same(p, "count of the eventfd", count, 1);
}

static void finish(struct program *p, void *context)
{
	struct state *s = context;
	int fd = s->other;
	struct io_uring_rsrc_update update = {.offset = 7, .data = (uintptr_t)&fd};

	verify(p, s);
	pattern_fill(s->memory, 4096, 5);
	fixed(p, s, IORING_OP_WRITE_FIXED, FILE_PLACE, s->memory, 4096);
	memset(s->memory + 4096, 0, 4096);
	fixed(p, s, IORING_OP_READ_FIXED, FILE_PLACE, s->memory + 4096, 4096);
	expect(p, pattern_differs(s->memory + 4096, 4096, 5) < 0, "what was read by places differs");
	fixed(p, s, IORING_OP_READ_FIXED, CHANGED_PLACE, s->memory + 4096, 512);
	expect_same(p, "filling a free place",
		    ring_register(&s->ring, IORING_REGISTER_FILES_UPDATE, &update, 1), 1);
	fixed(p, s, IORING_OP_READ_FIXED, 7, s->memory, 100);
	ring_put(&s->ring, IORING_OP_READ, 3, s->memory, 10, 0, 98)->flags = IOSQE_FIXED_FILE;
	expect_same(p, "a request for a free place", ring_one(&s->ring, 98), -EBADF);
}

static void spoil(void *context)
{
	struct state *s = context;

	ring_register(&s->ring, IORING_UNREGISTER_BUFFERS, NULL, 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.file = must(ring_file(&p, 0));
	s.other = must(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	s.event = must(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	s.memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pattern_fill(s.memory, BYTES, 1);
	ring_make(&s.ring, 16, 0);
	must(fcntl(s.ring.fd, F_SETFL, O_RDWR | O_NONBLOCK));
	int files[FILES] = {-1, s.file, -1, -1, -1, s.file, -1, -1}, changed = s.other;
	struct io_uring_rsrc_update update = {.offset = CHANGED_PLACE, .data = (uintptr_t)&changed};
	struct iovec buffers[BUFFERS] = {
		{s.memory, 4096}, {NULL, 0}, {s.memory + 4096, BYTES - 4096}, {NULL, 0}};
	uint32_t workers[2] = {3, 5};
	must(ring_register(&s.ring, IORING_REGISTER_FILES, files, FILES));
	must(ring_register(&s.ring, IORING_REGISTER_FILES_UPDATE, &update, 1));
	must(ring_register(&s.ring, IORING_REGISTER_BUFFERS, buffers, BUFFERS));
	must(ring_register(&s.ring, IORING_REGISTER_EVENTFD, &s.event, 1));
	must(ring_register(&s.ring, IORING_REGISTER_IOWQ_MAX_WORKERS, workers, 2));
	fixed(&p, &s, IORING_OP_WRITE_FIXED, FILE_PLACE, s.memory + 4096, 4096);
	s.workers[0] = s.workers[1] = 0;
	must(ring_register(&s.ring, IORING_REGISTER_IOWQ_MAX_WORKERS, s.workers, 2));
	if (p.bad)
		program_die(p.reason);
	return program_serve(&p, &ops, &s);
}
