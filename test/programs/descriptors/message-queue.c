/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX message queues: one with messages of several priorities and two descriptions, one that is full, and two whose names
 * are gone. With the word "left", the first of these is full of messages, too; with "notify", somebody waits for one to come.
 * Proof: what mq_getattr tells; the messages come in order, and the queue without a name works between two descriptions.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MESSAGES = 3, BYTES = 64, FULL = 2, LEFT = 4 };

static const struct message {
	const char *text;
	unsigned priority;
} left[LEFT] = {{"first", 2}, {"second of the same", 2}, {"", 0}, {"more", 32767}};
static const int left_order[LEFT] = {3, 0, 1, 2};

struct state {
	char names[4][64];
	mqd_t queue, reader, full, nameless, again, other;
	long left;
};

static void expect_attr(struct program *p, const char *what, mqd_t q, long flags, long max, long now)
{
	struct mq_attr attr = {0};

	expect(p, !mq_getattr(q, &attr), "%s: no attributes", what);
	expect(p,
	       attr.mq_flags == flags && attr.mq_maxmsg == max && attr.mq_msgsize == BYTES &&
		       attr.mq_curmsgs == now,
	       "%s: flags %lx, %ld of %ld messages of %ld", what, attr.mq_flags, attr.mq_curmsgs,
	       attr.mq_maxmsg, attr.mq_msgsize);
}

/* The higher ones first, of equal ones the older. In this order they are sent again. */
static void verify_left(struct program *p, const struct state *s, bool again)
{
	char got[BYTES];

	for (long i = 0; i < s->left; i++) {
		unsigned priority = 0;
		const struct message *want = &left[left_order[i]];
		ssize_t n = mq_receive(s->again, got, sizeof(got), &priority);
		expect(p, n == (ssize_t)strlen(want->text) && !memcmp(got, want->text, (size_t)n),
		       "message %ld that was left is '%.*s'", i, (int)n, got);
		expect_same(p, "its priority", priority, want->priority);
	}
	for (long i = 0; i < s->left && again; i++)
		must(mq_send(s->nameless, left[left_order[i]].text, strlen(left[left_order[i]].text),
			     left[left_order[i]].priority));
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat st;

	expect_attr(p, "the queue", s->queue, 0, 8, MESSAGES);
	expect_attr(p, "its reader", s->reader, O_NONBLOCK, 8, MESSAGES);
	expect_attr(p, "the full one", s->full, O_NONBLOCK, FULL, FULL);
	expect_attr(p, "the nameless one", s->nameless, 0, 4, s->left);
	expect_attr(p, "the nameless one again", s->again, O_NONBLOCK, 4, s->left);
	expect_attr(p, "the other nameless one", s->other, 0, 5, 0);
	verify_left(p, s, true);
	expect(p, !fstat(s->nameless, &st) && !st.st_nlink && (st.st_mode & 0777) == 0620,
	       "nameless: %lu names, mode %o", st.st_nlink, st.st_mode);
}

static void finish(struct program *p, void *state)
{
	static const char *const wanted[MESSAGES] = {"high", "middle", "low"};
	const struct state *s = state;
	char got[BYTES];
	unsigned priority = 0;

	verify(p, state);
	for (unsigned i = 0; i < MESSAGES; i++) {
		ssize_t n = mq_receive(s->reader, got, sizeof(got), &priority);
		expect(p, n == (ssize_t)strlen(wanted[i]) && !memcmp(got, wanted[i], (size_t)n), "message %u",
		       i);
		expect_same(p, "priority", priority, MESSAGES - i);
	}
	expect(p, mq_receive(s->reader, got, sizeof(got), NULL) < 0 && errno == EAGAIN, "one message more");
	expect(p, mq_send(s->full, "x", 1, 0) < 0 && errno == EAGAIN, "one more fits");
	verify_left(p, s, false);
	must(mq_send(s->nameless, "through", 7, 5));
	expect_same(p, "by the other description", mq_receive(s->again, got, sizeof(got), &priority), 7);
	must(mq_send(s->queue, "again", 5, 0));
	for (int i = 0; i < 2; i++)
		mq_unlink(s->names[i]);
}

static void spoil(void *state)
{
	const struct state *s = state;
	char got[BYTES];

	must(mq_receive(s->queue, got, sizeof(got), NULL));
}

static mqd_t make(struct state *s, int i, long max, int flags)
{
	const struct mq_attr attr = {.mq_maxmsg = max, .mq_msgsize = BYTES};

	snprintf(s->names[i], sizeof(s->names[i]), "/ferry-test-%d-%d", getpid(), i);
	return must(mq_open(s->names[i], O_RDWR | O_CREAT | O_EXCL | flags, 0600, &attr));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGURG};
	struct program p;
	struct state s = {.left = 0};

	program_start(&p, argc, argv);
	s.queue = make(&s, 0, 8, 0);
	s.reader = must(mq_open(s.names[0], O_RDONLY | O_NONBLOCK));
	must(mq_send(s.queue, "low", 3, 1));
	must(mq_send(s.queue, "high", 4, 3));
	must(mq_send(s.queue, "middle", 6, 2));
	s.full = make(&s, 1, FULL, O_NONBLOCK);
	while (!mq_send(s.full, "full", 4, 0))
		continue;
	s.nameless = make(&s, 2, 4, 0);
	must(fchmod(s.nameless, 0620));
	s.again = must(mq_open(s.names[2], O_RDWR | O_NONBLOCK));
	must(mq_unlink(s.names[2]));
	s.other = make(&s, 3, 5, 0);
	must(mq_unlink(s.names[3]));
	for (; program_told(argc, argv, "left") && s.left < LEFT; s.left++)
		must(mq_send(s.nameless, left[s.left].text, strlen(left[s.left].text),
			     left[s.left].priority));
	if (program_told(argc, argv, "notify"))
		must(mq_notify(s.nameless, &event));
	return program_serve(&p, &ops, &s);
}
