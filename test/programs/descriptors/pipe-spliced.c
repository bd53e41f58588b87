/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes whose buffers are not their own: spliced from a file, given by vmsplice(2), shared with another pipe by tee(2); one whose
 * writer waits because it is full, and one whose reader waits because it is empty. Proof: the bytes; at the end the
 * waiting calls end with all of theirs.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READ, WRITE, SPLICED = 3 * 4096, SMALL = 4096, LONG_BYTES = 20000 };

struct state {
	int spliced[2], given[2], shared[2], full[2], empty[2];
	long wrote, read; /* by the waiting threads; 0 = they wait */
};

static unsigned char bytes[LONG_BYTES], got[LONG_BYTES];
static unsigned char gift[SMALL] __attribute__((aligned(4096)));

static void *write_thread(void *state)
{
	struct state *s = state;

	__atomic_store_n(&s->wrote, write(s->full[WRITE], bytes + SMALL, LONG_BYTES - SMALL),
			 __ATOMIC_SEQ_CST);
	return NULL;
}

static void *read_thread(void *state)
{
	struct state *s = state;
	char two[2];

	__atomic_store_n(&s->read, read(s->empty[READ], two, 2), __ATOMIC_SEQ_CST);
	return NULL;
}

static int waiting(int fd)
{
	int n = -1;

	ioctl(fd, FIONREAD, &n);
	return n;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	expect_same(p, "spliced", waiting(s->spliced[READ]), SPLICED);
	expect_same(p, "shared", waiting(s->shared[READ]), SPLICED);
	expect_same(p, "given", waiting(s->given[READ]), SMALL);
	expect_same(p, "full", waiting(s->full[READ]), SMALL);
	expect_same(p, "empty", waiting(s->empty[READ]), 0);
	expect_same(p, "size", fcntl(s->full[READ], F_GETPIPE_SZ), SMALL);
	expect_same(p, "the waiting writer", __atomic_load_n(&s->wrote, __ATOMIC_SEQ_CST), 0);
	expect_same(p, "the waiting reader", __atomic_load_n(&s->read, __ATOMIC_SEQ_CST), 0);
}

static void expect_bytes(struct program *p, const char *what, int fd, size_t n, uint64_t seed)
{
	size_t done = 0;

	while (done < n) {
		ssize_t more = read(fd, got + done, n - done);
		if (more <= 0)
			break;
		done += (size_t)more;
	}
	expect_same(p, what, done, n);
	expect_same(p, what, pattern_differs(got, n, seed), -1);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;

	verify(p, state);
	expect_bytes(p, "spliced", s->spliced[READ], SPLICED, 1);
	expect_bytes(p, "shared", s->shared[READ], SPLICED, 1);
	expect_bytes(p, "given", s->given[READ], SMALL, 2);
	expect_bytes(p, "from the waiting writer", s->full[READ], LONG_BYTES, 3);
	must(write(s->empty[WRITE], "ab", 2));
	for (int i = 0; i < 100 && !(s->read && s->wrote); i++)
		sleep_ms(10);
	expect_same(p, "what the writer wrote", __atomic_load_n(&s->wrote, __ATOMIC_SEQ_CST),
		    LONG_BYTES - SMALL);
	expect_same(p, "what the reader read", __atomic_load_n(&s->read, __ATOMIC_SEQ_CST), 2);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(read(s->given[READ], got, 1));
}

static void make(struct state *s, const char *folder)
{
	char path[256];
	struct iovec give = {gift, SMALL};

	must(pipe2(s->spliced, O_CLOEXEC));
	must(pipe2(s->given, O_CLOEXEC));
	must(pipe2(s->shared, O_CLOEXEC));
	must(pipe2(s->full, O_CLOEXEC));
	must(pipe2(s->empty, O_CLOEXEC));
	snprintf(path, sizeof(path), "%s/data", folder);
	int fd = must(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	pattern_fill(bytes, SPLICED, 1);
	must(write(fd, bytes, SPLICED));
	must(lseek(fd, 0, SEEK_SET));
	if (splice(fd, NULL, s->spliced[WRITE], NULL, SPLICED, 0) != SPLICED)
		program_die("splice");
	close(fd);
	if (tee(s->spliced[READ], s->shared[WRITE], SPLICED, 0) != SPLICED)
		program_die("tee");
	pattern_fill(gift, SMALL, 2);
	if (vmsplice(s->given[WRITE], &give, 1, SPLICE_F_GIFT) != SMALL)
		program_die("vmsplice");
	must(fcntl(s->full[WRITE], F_SETPIPE_SZ, SMALL));
	pattern_fill(bytes, LONG_BYTES, 3);
	/* Full before the writer comes, so that its call has done nothing yet. */
	must(write(s->full[WRITE], bytes, SMALL));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	pthread_t threads[2];

	program_start(&p, argc, argv);
	make(&s, p.folder);
	if (pthread_create(&threads[0], NULL, write_thread, &s) ||
	    pthread_create(&threads[1], NULL, read_thread, &s))
		program_die("pthread_create");
	sleep_ms(50);
	return program_serve(&p, &ops, &s);
}
