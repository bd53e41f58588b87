/* SPDX-License-Identifier: Apache-2.0 */
/*
 * io_urings of which the kernel does not tell what a restore would have to know. A word says which: "poll" (a
 * request waits for an event), "nommap" (rings in memory of the program's), "restricted", "provided" (buffers),
 * "personality", "thread" (of a thread other than the first), "closed" (a registered file that no descriptor has),
 * "eventfd" (one of two is signalled), "unmapped" (rings mapped, descriptor closed), "far" (more requests taken than a
 * restore may repeat), "twice" (a registered file that is one of two), "region" (registered memory), "napi", "gone" (of a
 * thread that ended), "two" (rings, one of them registered), "part" (mapped buffers). Proof: after the refusal it works as before.
 */
#include "ring.h"

#include <pthread.h>
#include <sys/eventfd.h>

/* Newer than the headers. */
enum { REGISTER_NAPI = 27, REGISTER_MEM_REGION = 34 };

struct state {
	struct ring ring;
	int fd, event;
	_Atomic int ready;
	_Atomic int ask, answer;
	bool mute; /* the ring cannot be used from here */
};

struct buf_reg {
	uint64_t ring_addr;
	uint32_t ring_entries;
	uint16_t bgid, flags;
	uint64_t resv[3];
};

/* The thread that owns the ring works when it is asked. */
static void *owner(void *context)
{
	struct state *s = context;

	ring_make(&s->ring, 8, IORING_SETUP_SINGLE_ISSUER);
	s->ready = 1;
	for (;; sleep_ms(2)) {
		if (!s->ask)
			continue;
		ring_put(&s->ring, IORING_OP_NOP, -1, NULL, 0, 0, 5);
		s->answer = ring_one(&s->ring, 5) == 0 ? 1 : -1;
		s->ask = 0;
	}
	return NULL;
}

static void make_thread(struct state *s)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, owner, s))
		program_die("pthread_create");
	while (!s->ready)
		sleep_ms(1);
}

static void make_poll(struct state *s)
{
	ring_make(&s->ring, 8, 0);
	ring_put(&s->ring, IORING_OP_POLL_ADD, s->event, NULL, 0, 0, 9)->poll32_events = 1;
	ring_submit(&s->ring, 0);
}

static void make_nommap(struct state *s)
{
	char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct io_uring_params p = {.flags = IORING_SETUP_NO_MMAP};

	memcpy((char *)&p.cq_off + 32, &memory, sizeof(memory));
	memory += 4096;
	memcpy((char *)&p.sq_off + 32, &memory, sizeof(memory));
	s->ring.fd = (int)syscall(SYS_io_uring_setup, 8, &p);
	if (s->ring.fd < 0)
		program_lacks("IORING_SETUP_NO_MMAP");
	s->mute = true;
}

static void make_restricted(struct state *s)
{
	struct io_uring_restriction only[2] = {
		{.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_NOP},
		{.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_ENABLE_RINGS},
	};

	ring_make(&s->ring, 8, IORING_SETUP_R_DISABLED);
	must(ring_register(&s->ring, IORING_REGISTER_RESTRICTIONS, only, 2));
	must(ring_register(&s->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
}

static void make_provided(struct state *s)
{
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct buf_reg reg = {.ring_addr = (uintptr_t)memory, .ring_entries = 8, .bgid = 7};

	ring_make(&s->ring, 8, 0);
	must(ring_register(&s->ring, IORING_REGISTER_PBUF_RING, &reg, 1));
}

static void make_personality(struct state *s)
{
	ring_make(&s->ring, 8, 0);
	int id = must(ring_register(&s->ring, IORING_REGISTER_PERSONALITY, NULL, 0));
	ring_put(&s->ring, IORING_OP_NOP, -1, NULL, 0, 0, 5)->personality = (uint16_t)id;
	ring_one(&s->ring, 5);
}

static void make_closed(struct state *s)
{
	int fd = must(eventfd(0, EFD_CLOEXEC));

	close(s->event);
	ring_make(&s->ring, 8, 0);
	must(ring_register(&s->ring, IORING_REGISTER_FILES, &fd, 1));
	close(fd);
}

static void make_eventfd(struct state *s)
{
	ring_make(&s->ring, 8, 0);
	must(eventfd(0, EFD_CLOEXEC));
	must(ring_register(&s->ring, IORING_REGISTER_EVENTFD, &s->event, 1));
}

static void make_unmapped(struct state *s)
{
	ring_make(&s->ring, 8, 0);
	close(s->ring.fd);
	s->mute = true;
}

static void make_far(struct state *s)
{
	ring_make(&s->ring, 8, 0);
	ring_advance(&s->ring, 100);
}

/* One of two that look the same. */
static void make_twice(struct state *s)
{
	ring_make(&s->ring, 8, 0);
	must(eventfd(0, EFD_CLOEXEC));
	must(ring_register(&s->ring, IORING_REGISTER_FILES, &s->event, 1));
}

static void make_region(struct state *s)
{
	struct {
		uint64_t user_addr, size;
		uint32_t flags, id;
		uint64_t mmap_offset, resv[4];
	} region = {.size = 4096};
	struct {
		uint64_t region, flags, resv[2];
	} reg = {.region = (uintptr_t)&region};

	ring_make(&s->ring, 8, 0);
	if (ring_register(&s->ring, REGISTER_MEM_REGION, &reg, 1) < 0)
		program_lacks("IORING_REGISTER_MEM_REGION");
}

static void make_napi(struct state *s)
{
	struct {
		uint32_t busy_poll_to;
		uint8_t prefer, opcode, pad[2];
		uint32_t parameter, resv;
	} napi = {.busy_poll_to = 50};

	ring_make(&s->ring, 8, 0);
	if (ring_register(&s->ring, REGISTER_NAPI, &napi, 1) < 0)
		program_lacks("IORING_REGISTER_NAPI");
}

static void *maker(void *context)
{
	struct state *s = context;

	ring_make(&s->ring, 8, IORING_SETUP_SINGLE_ISSUER);
	return NULL;
}

/* Who made it has ended. */
static void make_gone(struct state *s)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, maker, s) || pthread_join(thread, NULL))
		program_die("a thread");
	s->mute = true;
}

static void make_two(struct state *s)
{
	struct ring other;
	struct io_uring_rsrc_update update = {.offset = -1u};

	ring_make(&other, 8, 0);
	ring_make(&s->ring, 8, 0);
	update.data = (uint32_t)s->ring.fd;
	must(ring_register(&s->ring, IORING_REGISTER_RING_FDS, &update, 1));
}

/* A buffer ring of the kernel's. */
static void make_part(struct state *s)
{
	struct buf_reg reg = {.ring_entries = 8, .bgid = 7, .flags = 1};

	ring_make(&s->ring, 8, 0);
	if (ring_register(&s->ring, IORING_REGISTER_PBUF_RING, &reg, 1) < 0 ||
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, s->ring.fd,
		 (off_t)(0x80000000ull | (uint64_t)reg.bgid << 16)) == MAP_FAILED)
		program_lacks("IOU_PBUF_RING_MMAP");
}

static const struct {
	const char *word;
	void (*make)(struct state *s);
} makers[] = {
	{"poll", make_poll},
	{"nommap", make_nommap},
	{"restricted", make_restricted},
	{"provided", make_provided},
	{"personality", make_personality},
	{"thread", make_thread},
	{"closed", make_closed},
	{"eventfd", make_eventfd},
	{"unmapped", make_unmapped},
	{"far", make_far},
	{"twice", make_twice},
	{"region", make_region},
	{"napi", make_napi},
	{"gone", make_gone},
	{"two", make_two},
	{"part", make_part},
};

static void verify(struct program *p, void *context)
{
	struct state *s = context;

	if (s->mute)
		return;
	if (s->ready) {
		s->ask = 1;
		for (int i = 0; i < 1000 && s->ask; i++)
			sleep_ms(2);
		expect_same(p, "what the owner says", s->answer, 1);
		return;
	}
	ring_put(&s->ring, IORING_OP_NOP, -1, NULL, 0, 0, 5);
	expect_same(p, "a request that does nothing", ring_one(&s->ring, 5), 0);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	s.fd = must(ring_file(&p, 0));
	s.event = must(eventfd(0, EFD_CLOEXEC));
	for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
		if (program_told(argc, argv, makers[i].word)) {
			makers[i].make(&s);
			return program_serve(&p, &ops, &s);
		}
	return 2;
}
