/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System V message queues in an IPC namespace of its own: messages of several types and sizes, empty ones, a queue that
 * holds more than it would take now, an empty queue, one of another owner. With "waiting" a child sleeps in msgrcv(2).
 */
#include "program.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

enum { QUEUES = 3, BIG = 8000, TYPE_WAITED = 77 };

struct message {
	long type;
	unsigned char bytes[BIG];
};

struct queue {
	key_t key;
	int id, mode, n;
	unsigned uid, limit;
};

struct state {
	struct queue queues[QUEUES];
	pid_t waiter;
};

static struct message buffer;

static size_t size_of(int index)
{
	static const size_t sizes[] = {0, 1, 7, 8, 4096, BIG};
	return sizes[index % 6];
}

static void queue_make(struct queue *q)
{
	struct msqid_ds ds;
	q->id = must(msgget(q->key, IPC_CREAT | IPC_EXCL | q->mode));
	for (int i = 0; i < q->n; i++) {
		buffer.type = 1 + i % 4;
		pattern_fill(buffer.bytes, size_of(i), (uint64_t)i);
		must(msgsnd(q->id, &buffer, size_of(i), IPC_NOWAIT));
	}
	must(msgctl(q->id, IPC_STAT, &ds));
	ds.msg_perm.uid = q->uid;
	ds.msg_qbytes = q->limit;
	must(msgctl(q->id, IPC_SET, &ds));
}

static void message_check(struct program *p, const struct queue *q, int i, ssize_t got)
{
	expect_same(p, "size of a message", got, (ssize_t)size_of(i));
	expect_same(p, "type of a message", buffer.type, 1 + i % 4);
	expect(p, got < 0 || pattern_differs(buffer.bytes, (size_t)got, (uint64_t)i) < 0,
	       "message %d of queue %d differs", i, q->id);
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	for (int k = 0; k < QUEUES; k++) {
		const struct queue *q = &s->queues[k];
		struct msqid_ds ds = {0};
		if (q->key != IPC_PRIVATE)
			expect_same(p, "id of the key", msgget(q->key, 0), q->id);
		expect(p, msgctl(q->id, IPC_STAT, &ds) == 0, "queue %d is gone", q->id);
		expect_same(p, "messages", ds.msg_qnum, q->n);
		expect_same(p, "limit", ds.msg_qbytes, q->limit);
		expect_same(p, "mode", ds.msg_perm.mode & 0777, q->mode);
		expect_same(p, "owner", ds.msg_perm.uid, q->uid);
		for (int i = 0; i < q->n; i++)
			message_check(p, q, i, msgrcv(q->id, &buffer, BIG, i, IPC_NOWAIT | MSG_COPY));
	}
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	verify(p, s);
	for (int k = 0; k < QUEUES; k++) {
		const struct queue *q = &s->queues[k];
		for (int i = 0; i < q->n; i++)
			message_check(p, q, i, msgrcv(q->id, &buffer, BIG, 0, IPC_NOWAIT));
		expect(p, msgrcv(q->id, &buffer, BIG, 0, IPC_NOWAIT) < 0 && errno == ENOMSG,
		       "queue %d holds too much", q->id);
	}
	int status = -1;
	buffer.type = TYPE_WAITED;
	if (s->waiter) {
		expect(p, msgsnd(s->queues[1].id, &buffer, 3, IPC_NOWAIT) == 0, "msgsnd fails");
		expect_same(p, "the waiter", waitpid(s->waiter, &status, 0), s->waiter);
		expect_same(p, "its status", status, 3 << 8);
	}
}

static void spoil(void *state)
{
	struct state *s = state;
	must(msgrcv(s->queues[0].id, &buffer, BIG, 0, IPC_NOWAIT));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s = {.queues = {
					 {.key = 0x1234, .mode = 0644, .n = 8, .limit = 5000},
					 {.key = IPC_PRIVATE, .mode = 0600, .n = 0, .limit = 16384},
					 {.key = 0x1235, .mode = 0666, .uid = 65534, .n = 3, .limit = 100},
				 }};
	struct program p;
	program_start(&p, argc, argv);
	must(unshare(CLONE_NEWIPC));
	for (int i = 0; i < QUEUES; i++)
		queue_make(&s.queues[i]);
	if (program_told(argc, argv, "waiting")) {
		s.waiter = must(fork());
		if (!s.waiter) {
			struct program q = program_role(&p, "waiter");
			program_note_volatile(&q);
			_exit((int)msgrcv(s.queues[1].id, &buffer, BIG, TYPE_WAITED, 0));
		}
		sleep_ms(20);
	}
	return program_serve(&p, &ops, &s);
}
