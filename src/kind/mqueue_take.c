/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns looking at the messages of a POSIX message queue. The kernel shows them to nobody who does not take them, so all are
 * taken and sent back at once, while everybody who has the queue stands still. Messages come in the order of their
 * priorities, the older first, and sent in this order they are as they were.
 *
 * What is taken goes straight into memory that outlives the one who takes it. There each message is followed by room for the
 * next, so a message is either in the queue or in that memory at any instant, but its length is told by the result of the call
 * alone: who finds one without takes it from what the queue has become shorter by. How many were sent back the queue tells
 * itself, for it was empty before.
 *
 * Kernel interface: mq_timedreceive(2), mq_timedsend(2), mq_overview(7): QSIZE of the queue's file; memfd_create(2) (3.17).
 *
 * Does not handle: times of the queue, which change as if somebody had read it; the event that an epoll set with EPOLLET gets for each
 * message that is sent.
 */
#include "kind/mqueue_take.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mqueue.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "host/warden.h"
#include "kernel/syscalls.h"
#include "proc/lex.h"

enum { TAKE_BYTES_MAX = 256 << 20, TAKE_ALIGN = 8, TAKE_MAGIC = 0x19800202 /* of the mqueue file system */ };

struct take_message {
	uint32_t known; /* its bytes, plus one; 0: not taken yet, or nobody came to write it down */
	uint32_t priority;
	uint8_t data[];
};

/* In the memory file. */
struct take_memory {
	int32_t queue; /* descriptor in the worker */
	uint32_t n;    /* messages that were in it */
	uint64_t bytes;
	uint64_t room; /* of this memory */
	uint32_t message_room;
	uint32_t emptied; /* 1: nothing is in the queue but what was sent back */
	uint8_t messages[];
};

/* A number behind its name, of a text that pads with blanks. */
static bool take_number(const char *text, const char *name, uint64_t *ret)
{
	const char *at = strstr(text, name);
	struct lex l = at ? lex_new(at, strlen(at)) : lex_new("", 0);
	return lex_str(&l, name) && lex_u64(&l, ret);
}

int mqueue_look(int queue, struct mqueue_look *ret)
{
	char path[64], text[160] = "";
	struct statfs fs;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", queue);
	_cleanup_close_ int again = fd_open(AT_FDCWD, path, O_RDONLY, 0);
	if (again < 0)
		return again;
	if (fstatfs(queue, &fs) < 0 || fs.f_type != TAKE_MAGIC)
		return -EINVAL;
	if (syscall(SYS_mq_getsetattr, queue, NULL, &ret->attr) < 0 ||
	    read(again, text, sizeof(text) - 1) < 0)
		return -errno;
	bool good = take_number(text, "QSIZE:", &ret->bytes) &&
		    take_number(text, "NOTIFY_PID:", &ret->notify_pid);
	return good ? 0 : -EBADMSG;
}

static uint64_t take_step(uint32_t bytes)
{
	return align_up(sizeof(struct take_message) + bytes, TAKE_ALIGN);
}

/* A message by its number; those before it have lengths. NULL: the memory makes no sense. */
static struct take_message *take_message(struct take_memory *m, uint32_t index)
{
	uint64_t at = sizeof(*m);
	for (uint32_t i = 0;; i++) {
		struct take_message *message = (struct take_message *)((uint8_t *)m + at);
		if (at + sizeof(*message) > m->room)
			return NULL;
		if (i == index)
			return message;
		if (!message->known || message->known - 1 > m->message_room)
			return NULL;
		at += take_step(message->known - 1);
	}
}

/* How many messages have their length, and how long they are together. */
static uint32_t take_known(struct take_memory *m, uint64_t *ret_bytes)
{
	struct take_message *message;
	uint32_t n = 0;
	*ret_bytes = 0;
	while (n < m->n && (message = take_message(m, n)) && message->known) {
		*ret_bytes += message->known - 1;
		n++;
	}
	return n;
}

/* One message that was taken may lack its length. */
static int take_recover(struct take_memory *m)
{
	struct mqueue_look queue;
	uint64_t known_bytes;
	int r = mqueue_look(m->queue, &queue);
	uint32_t known = take_known(m, &known_bytes);
	if (r < 0)
		return r;
	uint32_t left = (uint32_t)queue.attr.mq_curmsgs;
	if (known + left == m->n)
		return 0;
	struct take_message *last = take_message(m, known);
	if (!last || known + 1 + left != m->n || known_bytes + queue.bytes > m->bytes)
		return -EBADMSG;
	last->known = (uint32_t)(m->bytes - queue.bytes - known_bytes) + 1;
	return 0;
}

static int take_all(struct take_memory *m, const struct fault *fault)
{
	uint64_t bytes;
	for (uint32_t i = take_known(m, &bytes); i < m->n; i++) {
		struct take_message *message = take_message(m, i);
		if (!message)
			return -EBADMSG;
		fault_effect(fault, "collect", "take-message");
		long n = syscall(SYS_mq_timedreceive, m->queue, message->data, (size_t)m->message_room,
				 &message->priority, NULL);
		if (n < 0)
			return -errno;
		__atomic_store_n(&message->known, (uint32_t)n + 1, __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&m->emptied, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static int send_all(struct take_memory *m, const struct fault *fault)
{
	struct mqueue_look queue;
	int r = mqueue_look(m->queue, &queue);
	for (uint32_t sent = r < 0 ? m->n : (uint32_t)queue.attr.mq_curmsgs; sent < m->n; sent++) {
		const struct take_message *message = take_message(m, sent);
		if (!message || !message->known || message->known - 1 > m->message_room)
			return -EBADMSG;
		fault_effect(fault, "collect", "send-message");
		if (syscall(SYS_mq_timedsend, m->queue, message->data, (size_t)message->known - 1,
			    message->priority, NULL) < 0)
			return -errno;
	}
	return r;
}

/* From the first message that is not known to be taken. */
static int take_and_send(struct take_memory *m, const struct fault *fault)
{
	int r = m->emptied ? 0 : take_all(m, fault);
	if (r >= 0)
		return send_all(m, fault);
	/* It holds less than it said. */
	uint64_t bytes;
	m->n = take_known(m, &bytes);
	int back = send_all(m, fault);
	return back < 0 ? back : r;
}

static int take_copy(struct arena *a, struct take_memory *m, struct mqueue_message **ret)
{
	struct mqueue_message *messages = arena_array(a, struct mqueue_message, m->n + 1);
	if (!messages)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->n; i++) {
		const struct take_message *from = take_message(m, i);
		if (!from)
			return -EBADMSG;
		uint32_t bytes = from->known - 1;
		messages[i] =
			(struct mqueue_message){from->priority, bytes, arena_copy(a, from->data, bytes + 1)};
		if (!messages[i].data)
			return -ENOMEM;
	}
	*ret = messages;
	return 0;
}

/* All of it is there before: a page that is missing could not be had any more by one who is being killed. */
static struct take_memory *take_map(int memory, uint64_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, 0);
	return at == MAP_FAILED ? NULL : at;
}

int mqueue_take_all(const struct mqueue_taken *t, struct mqueue_message **ret_messages,
		    struct ferry_error *err)
{
	uint64_t room = align_up(sizeof(struct take_memory) + t->bytes +
					 (uint64_t)t->n * (sizeof(struct take_message) + TAKE_ALIGN) +
					 take_step(t->message_room),
				 4096);
	if (room > TAKE_BYTES_MAX)
		return error_set(err, FERRY_ERROR_LIMIT, E2BIG, "a message queue holds %llu bytes",
				 (unsigned long long)t->bytes);
	_cleanup_close_ int memory = memfd_create("ferry-queue", MFD_CLOEXEC);
	struct take_memory *m =
		memory < 0 || ftruncate(memory, (off_t)room) < 0 ? NULL : take_map(memory, room);
	if (!m)
		return error_errno(err, FERRY_ERROR_NO_MEMORY, errno, "%llu bytes for messages of a queue",
				   (unsigned long long)room);
	*m = (struct take_memory){.queue = t->queue,
				  .n = t->n,
				  .bytes = t->bytes,
				  .room = room,
				  .message_room = t->message_room};
	int entry = warden_arm(t->warden, WARDEN_MESSAGES, memory, 0, NULL, 0);
	int r = entry;
	if (r >= 0)
		r = take_and_send(m, t->fault);
	if (r >= 0)
		r = take_copy(t->arena, m, ret_messages);
	if (entry >= 0)
		warden_disarm(t->warden, entry);
	munmap(m, room);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "taking the messages of a queue") : 0;
}

int mqueue_put_back(int worker_pidfd, int memory)
{
	struct stat st;
	struct take_memory *m = fstat(memory, &st) < 0 || (size_t)st.st_size < sizeof(*m)
					? NULL
					: take_map(memory, (uint64_t)st.st_size);
	if (!m)
		return -ENOMEM;
	_cleanup_close_ int queue = sys_pidfd_getfd(worker_pidfd, m->queue);
	m->queue = queue;
	int r = queue < 0 ? queue : m->emptied ? 0 : take_recover(m);
	return r < 0 ? r : take_and_send(m, NULL);
}
