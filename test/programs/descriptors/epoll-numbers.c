/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An epoll set whose entries outlived the numbers that they were added with: closed with a duplicate left,
 * given to something else, open in the child only. And entries that are spent, edge-triggered, exclusive.
 * Proof: the entries as fdinfo lists them, what is ready; at the end events arrive through each, and the old
 * numbers remove the entries.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { EPOLL = 50, MOST = 16 };

enum data { REUSED_OLD = 1, REUSED_NEW, CLOSED, CHILD, SPENT, EDGE, EXCLUSIVE };

static const struct entry {
	enum data data;
	int fd; /* the number that it was added with */
	unsigned events;
} entries[] = {
	{REUSED_OLD, 20, EPOLLIN},
	{REUSED_NEW, 20, EPOLLIN},
	{CLOSED, 21, EPOLLIN},
	{CHILD, 22, EPOLLIN},
	{SPENT, 24, EPOLLONESHOT},
	{EDGE, 25, EPOLLIN | EPOLLET},
	{EXCLUSIVE, 26, EPOLLIN | EPOLLEXCLUSIVE},
};

static void event_make(int number, uint64_t count)
{
	int fd = must(eventfd((unsigned)count, EFD_NONBLOCK | EFD_CLOEXEC));

	must(dup3(fd, number, O_CLOEXEC));
	close(fd);
}

static void watch(enum data data, unsigned events)
{
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		if (entries[i].data == data)
			must(epoll_ctl(EPOLL, EPOLL_CTL_ADD, entries[i].fd,
				       &(struct epoll_event){.events = events, .data.u64 = data}));
}

/* A bit for each entry that is ready. */
static unsigned ready(void)
{
	struct epoll_event got[MOST];
	int n = epoll_wait(EPOLL, got, MOST, 0);
	unsigned bits = 0;

	for (int i = 0; i < n; i++)
		bits |= 1U << got[i].data.u64;
	return bits;
}

static void verify_entry(struct program *p, const struct entry *e)
{
	char path[64], line[256];
	bool found = false;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", EPOLL);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		int fd;
		unsigned events;
		unsigned long long data;
		if (sscanf(line, "tfd: %d events: %x data: %llx", &fd, &events, &data) != 3 ||
		    data != (unsigned)e->data)
			continue;
		found = true;
		expect_same(p, "number", fd, e->fd);
		expect_same(p, "events", events,
			    e->events == EPOLLONESHOT ? e->events : e->events | EPOLLERR | EPOLLHUP);
	}
	if (f)
		fclose(f);
	expect(p, found, "entry %d is not there", (int)e->data);
}

static void verify(struct program *p, void *state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		verify_entry(p, &entries[i]);
	expect_same(p, "closed number", fcntl(21, F_GETFD), -1);
	expect_same(p, "number of the child", fcntl(22, F_GETFD), -1);
	expect_same(p, "close-on-exec of the reused number", fcntl(20, F_GETFD), FD_CLOEXEC);
	expect_same(p, "what is ready", ready(), 1U << REUSED_NEW | 1U << CHILD);
}

static void finish(struct program *p, void *state)
{
	const uint64_t one = 1;
	unsigned bits = 1U << REUSED_NEW | 1U << CHILD;

	verify(p, state);
	expect_same(p, "writing", write(30, &one, sizeof(one)), sizeof(one));
	expect_same(p, "the old entry of a reused number", ready(), bits |= 1U << REUSED_OLD);
	expect_same(p, "writing", write(31, &one, sizeof(one)), sizeof(one));
	expect_same(p, "the entry of a closed number", ready(), bits |= 1U << CLOSED);
	expect_same(p, "writing", write(25, &one, sizeof(one)), sizeof(one));
	expect_same(p, "an edge", ready(), bits | 1U << EDGE);
	expect_same(p, "no edge", ready(), bits);
	expect_same(p, "writing", write(26, &one, sizeof(one)), sizeof(one));
	expect_same(p, "the exclusive entry", ready(), bits |= 1U << EXCLUSIVE);
	/* An entry can be removed only while its number names its description. */
	expect_same(p, "removing", epoll_ctl(EPOLL, EPOLL_CTL_DEL, 20, NULL), 0);
	expect_same(p, "without the new entry", ready(), bits &= ~(1U << REUSED_NEW));
	expect_same(p, "number 20 again", dup2(30, 20), 20);
	expect_same(p, "removing", epoll_ctl(EPOLL, EPOLL_CTL_DEL, 20, NULL), 0);
	expect_same(p, "without the old entry", ready(), bits & ~(1U << REUSED_OLD));
}

static void spoil(void *state)
{
	(void)state;
	must(epoll_ctl(EPOLL, EPOLL_CTL_DEL, 25, NULL));
}

static void nothing(struct program *p, void *state)
{
	(void)state;
	expect_same(p, "the descriptor of the child", fcntl(22, F_GETFD), FD_CLOEXEC);
}

static void make(void)
{
	int epoll = must(epoll_create1(EPOLL_CLOEXEC));

	must(dup3(epoll, EPOLL, O_CLOEXEC));
	close(epoll);
	event_make(24, 1);
	watch(SPENT, EPOLLIN | EPOLLONESHOT);
	if (ready() != 1U << SPENT)
		program_die("one-shot");
	event_make(20, 0);
	watch(REUSED_OLD, EPOLLIN);
	must(dup3(20, 30, O_CLOEXEC));
	event_make(20, 5);
	watch(REUSED_NEW, EPOLLIN);
	event_make(21, 0);
	watch(CLOSED, EPOLLIN);
	must(dup3(21, 31, O_CLOEXEC));
	close(21);
	event_make(22, 9);
	watch(CHILD, EPOLLIN);
	event_make(25, 0);
	watch(EDGE, EPOLLIN | EPOLLET);
	event_make(26, 0);
	watch(EXCLUSIVE, EPOLLIN | EPOLLEXCLUSIVE);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = nothing};
	struct program p;

	program_start(&p, argc, argv);
	make();
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		for (int fd = 20; fd <= EPOLL; fd++)
			if (fd != 22)
				close(fd);
		return program_serve(&q, &child_ops, NULL);
	}
	close(22);
	program_await(&p, "child");
	return program_serve(&p, &ops, NULL);
}
