/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An epoll set that watches a pipe, a socket pair, an eventfd, a timerfd, another epoll set, one of them one-shot and
 * spent. Proof: the entries as fdinfo lists them, and which of the level-triggered ones are ready; at the end the
 * one-shot entry is armed again and fires.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MOST = 16, READY_PIPE = 1, READY_EVENT = 3, READY_NESTED = 5, ONE_SHOT = 6 };

struct entry {
	int fd;
	unsigned events;
	uint64_t data;
};

struct state {
	int epoll, inner;
	int pipe[2], one_shot[2], pair[2];
	struct entry entries[MOST];
	int n;
};

static void watch(struct state *s, int fd, unsigned events, uint64_t data)
{
	struct epoll_event event = {.events = events, .data.u64 = data};

	must(epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event));
	s->entries[s->n++] = (struct entry){fd, events, data};
}

/* The entry of a descriptor in /proc/self/fdinfo/EPOLL. */
static bool entry_find(int epoll, int fd, struct entry *ret)
{
	char path[64], line[256];
	bool found = false;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", epoll);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		int tfd;
		unsigned events;
		unsigned long long data;
		if (sscanf(line, "tfd: %d events: %x data: %llx", &tfd, &events, &data) == 3 && tfd == fd) {
			*ret = (struct entry){fd, events, data};
			found = true;
		}
	}
	if (f)
		fclose(f);
	return found;
}

static void verify_entries(struct program *p, const struct state *s)
{
	for (int i = 0; i < s->n; i++) {
		struct entry now = {0};
		expect(p, entry_find(s->epoll, s->entries[i].fd, &now), "fd %d is not watched",
		       s->entries[i].fd);
		/* The kernel adds EPOLLERR and EPOLLHUP to what is asked, unless a one-shot entry is spent. */
		expect_same(p, "events", now.events & ~(EPOLLERR | EPOLLHUP),
			    s->entries[i].events & ~(EPOLLERR | EPOLLHUP));
		expect_same(p, "data", now.data, s->entries[i].data);
	}
}

/* A bit for each data value that is ready. */
static unsigned ready(const struct state *s)
{
	struct epoll_event events[MOST];
	int n = epoll_wait(s->epoll, events, MOST, 0);
	unsigned bits = 0;

	for (int i = 0; i < n; i++)
		bits |= 1U << (events[i].data.u64 & 31);
	return bits;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	verify_entries(p, s);
	expect_same(p, "what is ready", ready(s), 1U << READY_PIPE | 1U << READY_EVENT | 1U << READY_NESTED);
}

static void finish(struct program *p, void *state)
{
	struct state *s = state;
	struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = ONE_SHOT};

	verify(p, state);
	expect_same(p, "arming again", epoll_ctl(s->epoll, EPOLL_CTL_MOD, s->one_shot[0], &event), 0);
	expect(p, ready(s) & 1U << ONE_SHOT, "the one-shot entry does not fire");
	expect(p, !(ready(s) & 1U << ONE_SHOT), "the one-shot entry fires twice");
	expect_same(p, "sending", send(s->pair[1], "x", 1, 0), 1);
	expect(p, ready(s) & 1U << 2, "a new event on the socket is not seen");
}

static void spoil(void *state)
{
	struct state *s = state;

	epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->pair[0], NULL);
}

static void make(struct state *s)
{
	s->epoll = must(epoll_create1(EPOLL_CLOEXEC));
	must(fcntl(s->epoll, F_SETFL, O_RDWR | O_NONBLOCK));
	s->inner = must(epoll_create1(EPOLL_CLOEXEC));
	must(pipe2(s->pipe, O_CLOEXEC));
	must(pipe2(s->one_shot, O_CLOEXEC));
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->pair));
	int event = must(eventfd(5, EFD_CLOEXEC | EFD_NONBLOCK));
	int timer = must(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	must(write(s->pipe[1], "data", 4));
	must(write(s->one_shot[1], "data", 4));
	must(epoll_ctl(s->inner, EPOLL_CTL_ADD, event,
		       &(struct epoll_event){.events = EPOLLIN, .data.u64 = 9}));

	watch(s, s->pipe[0], EPOLLIN, 0xabcdef0000000000 | READY_PIPE);
	watch(s, s->pair[0], EPOLLIN | EPOLLRDHUP, 2);
	watch(s, event, EPOLLIN, READY_EVENT);
	watch(s, timer, EPOLLIN, 4);
	watch(s, s->inner, EPOLLIN, READY_NESTED);
	watch(s, s->one_shot[0], EPOLLIN | EPOLLONESHOT, ONE_SHOT);
	if (!(ready(s) & 1U << ONE_SHOT))
		program_die("one-shot");
	s->entries[s->n - 1].events = EPOLLONESHOT;
	watch(s, s->pair[1], EPOLLIN | EPOLLET, 7);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s = {.n = 0};

	program_start(&p, argc, argv);
	make(&s);
	return program_serve(&p, &ops, &s);
}
