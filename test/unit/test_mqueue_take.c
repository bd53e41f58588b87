/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of a queue that somebody was taking out and sending back: whoever goes on from there, at any instant, finds all of
 * them and leaves them in their order. What lies in the memory is made by hand here, as one who was killed leaves it.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "unit.h"

#include "../../src/kind/mqueue_take.c" /* NOLINT(bugprone-suspicious-include) */

enum { N = 4, ROOM = 16, BYTES = 8192 };

static const struct {
	const char *text;
	unsigned priority;
} messages[N] = {{"urgent", 9}, {"", 5}, {"older", 5}, {"younger of them", 1}};

struct queue {
	int fd, memory;
	struct take_memory *m;
};

static void queue_send(const struct queue *q, int i)
{
	assert_int_equal(syscall(SYS_mq_timedsend, q->fd, messages[i].text, strlen(messages[i].text),
				 messages[i].priority, NULL),
			 0);
}

static void queue_open(struct queue *q)
{
	struct mq_attr attr = {.mq_maxmsg = N, .mq_msgsize = ROOM};
	q->fd = (int)syscall(SYS_mq_open, "ferry-test-take",
			     O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK | O_CLOEXEC, 0600, &attr);
	if (q->fd < 0 && errno == ENOSYS)
		skip();
	assert_true(q->fd >= 0);
	assert_int_equal(syscall(SYS_mq_unlink, "ferry-test-take"), 0);
	for (int i = 0; i < N; i++)
		queue_send(q, i);
	struct mqueue_look look;
	assert_int_equal(mqueue_look(q->fd, &look), 0);
	assert_int_equal(look.attr.mq_curmsgs, N);
	q->memory = memfd_create("take", MFD_CLOEXEC);
	assert_int_equal(ftruncate(q->memory, BYTES), 0);
	q->m = take_map(q->memory, BYTES);
	assert_non_null(q->m);
	*q->m = (struct take_memory){
		.queue = q->fd, .n = N, .bytes = look.bytes, .room = BYTES, .message_room = ROOM};
}

static void queue_take_some(const struct queue *q, uint32_t taken, bool told)
{
	for (uint32_t i = 0; i < taken; i++) {
		struct take_message *message = take_message(q->m, i);
		assert_non_null(message);
		long n = syscall(SYS_mq_timedreceive, q->fd, message->data, (size_t)ROOM, &message->priority,
				 NULL);
		assert_true(n >= 0);
		if (told || i + 1 < taken)
			message->known = (uint32_t)n + 1;
	}
}

static void queue_check(struct queue *q)
{
	char got[ROOM];
	unsigned priority;
	for (int i = 0; i < N; i++) {
		long n = syscall(SYS_mq_timedreceive, q->fd, got, sizeof(got), &priority, NULL);
		assert_int_equal(n, strlen(messages[i].text));
		assert_memory_equal(got, messages[i].text, (size_t)n);
		assert_int_equal(priority, messages[i].priority);
	}
	assert_true(syscall(SYS_mq_timedreceive, q->fd, got, sizeof(got), &priority, NULL) < 0);
	munmap(q->m, BYTES);
	close(q->memory);
	close(q->fd);
}

static int put_back(const struct queue *q)
{
	_cleanup_close_ int self = sys_pidfd_open(getpid(), 0);
	return mqueue_put_back(self, q->memory);
}

static void while_taking(void **state unused)
{
	for (uint32_t taken = 0; taken <= N; taken++)
		for (int told = 0; told < 2; told++) {
			struct queue q;
			queue_open(&q);
			queue_take_some(&q, taken, told);
			assert_int_equal(put_back(&q), 0);
			queue_check(&q);
		}
}

static void while_sending(void **state unused)
{
	for (int sent = 0; sent <= N; sent++) {
		struct queue q;
		queue_open(&q);
		queue_take_some(&q, N, true);
		q.m->emptied = 1;
		for (int i = 0; i < sent; i++)
			queue_send(&q, i);
		assert_int_equal(put_back(&q), 0);
		queue_check(&q);
	}
}

static void all_at_once(void **state unused)
{
	struct queue q;
	struct arena a = {0};
	struct mqueue_message *found = NULL;
	queue_open(&q);
	const struct mqueue_taken taken = {
		.queue = q.fd, .n = N, .bytes = q.m->bytes, .message_room = ROOM, .arena = &a};
	assert_int_equal(mqueue_take_all(&taken, &found, NULL), 0);
	for (int i = 0; i < N; i++) {
		assert_int_equal(found[i].bytes, strlen(messages[i].text));
		assert_memory_equal(found[i].data, messages[i].text, found[i].bytes);
		assert_int_equal(found[i].priority, messages[i].priority);
	}
	arena_release(&a);
	queue_check(&q);
}

/* It says more than is there: what is there stays. */
static void fewer_than_told(void **state unused)
{
	struct queue q;
	struct arena a = {0};
	struct mqueue_message *found = NULL;
	queue_open(&q);
	const struct mqueue_taken taken = {
		.queue = q.fd, .n = N + 1, .bytes = q.m->bytes + 1, .message_room = ROOM, .arena = &a};
	assert_true(mqueue_take_all(&taken, &found, NULL) < 0);
	arena_release(&a);
	queue_check(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(while_taking),
		cmocka_unit_test(while_sending),
		cmocka_unit_test(all_at_once),
		cmocka_unit_test(fewer_than_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
