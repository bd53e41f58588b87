/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An epoll instance over one of each: both sides of a terminal, a named pipe, a pidfd, a signalfd, a timerfd, a datagram socket, and
 * a chain of three epoll instances, the last shared with a child; waking, exclusive and edge-triggered entries.
 * Proof: the entries as fdinfo lists them, nothing is ready; at the end each becomes ready in turn and reports its own
 * data, through the whole chain.
 */
#include "pty.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

enum what { SLAVE, MASTER, FIFO, PIDFD, SIGNALFD, TIMERFD, SOCKET, EVENT, WHATS };

struct state {
	int epoll[3]; /* each watches the one before */
	int fd[WHATS], other[WHATS];
	pid_t child, victim;
};

static const unsigned wanted[WHATS] = {
	[SLAVE] = EPOLLIN,
	[MASTER] = EPOLLIN | EPOLLET,
	[FIFO] = EPOLLIN | EPOLLRDHUP,
	[PIDFD] = EPOLLIN,
	[SIGNALFD] = EPOLLIN | EPOLLET,
	[TIMERFD] = EPOLLIN | EPOLLWAKEUP,
	[SOCKET] = EPOLLIN | EPOLLPRI,
	[EVENT] = EPOLLIN | EPOLLEXCLUSIVE,
};

static int entries(int epoll)
{
	char path[64], line[256];
	int n = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", epoll);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		int fd;
		unsigned events;
		unsigned long long data;
		if (sscanf(line, "tfd: %d events: %x data: %llx", &fd, &events, &data) == 3 && data < WHATS)
			/* Not every kernel has EPOLLWAKEUP. */
			n += ((events ^ wanted[data]) & ~(unsigned)(EPOLLERR | EPOLLHUP | EPOLLWAKEUP)) == 0;
	}
	if (f)
		fclose(f);
	return n;
}

static bool chain_is_ready(const struct state *s)
{
	return pty_ready(s->epoll[2], POLLIN) & POLLIN;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "entries", entries(s->epoll[0]), WHATS);
	expect(p, !chain_is_ready(s), "something is ready");
}

static void verify_child(struct program *p, void *state)
{
	const struct state *s = state;

	expect(p, !chain_is_ready(s), "something is ready");
}

/* One thing becomes ready, and nothing else. */
static void expect_event(struct program *p, const struct state *s, enum what what)
{
	struct epoll_event got[WHATS];

	expect(p, chain_is_ready(s), "%d is not ready through the chain", what);
	int n = epoll_wait(s->epoll[0], got, WHATS, 1000);
	expect_same(p, "events", n, 1);
	if (n > 0)
		expect_same(p, "which", got[0].data.u64, what);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	const struct itimerspec soon = {.it_value.tv_nsec = 1000000};
	struct epoll_event got[WHATS];
	char bytes[128];

	verify(p, state);
	must(write(s->other[SLAVE], "x", 1));
	expect_event(p, s, SLAVE);
	must(read(s->fd[SLAVE], bytes, sizeof(bytes)));
	must(write(s->other[MASTER], "x", 1));
	expect_event(p, s, MASTER);
	expect_same(p, "no second edge", epoll_wait(s->epoll[0], got, WHATS, 0), 0);
	must(write(s->other[FIFO], "x", 1));
	expect_event(p, s, FIFO);
	must(read(s->fd[FIFO], bytes, sizeof(bytes)));
	must(kill(getpid(), SIGUSR2));
	expect_event(p, s, SIGNALFD);
	must(read(s->fd[SIGNALFD], bytes, sizeof(bytes)));
	must(timerfd_settime(s->fd[TIMERFD], 0, &soon, NULL));
	expect_event(p, s, TIMERFD);
	must(read(s->fd[TIMERFD], bytes, 8));
	must(write(s->other[SOCKET], "x", 1));
	expect_event(p, s, SOCKET);
	must(read(s->fd[SOCKET], bytes, 1));
	must(write(s->fd[EVENT], &(uint64_t){1}, 8));
	expect_event(p, s, EVENT);
	must(read(s->fd[EVENT], bytes, 8));
	must(kill(s->victim, SIGKILL));
	expect_event(p, s, PIDFD);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(epoll_ctl(s->epoll[0], EPOLL_CTL_DEL, s->fd[FIFO], NULL));
}

static void make(struct state *s, const char *folder)
{
	struct pty t = pty_pair(O_NONBLOCK);
	char path[256];
	sigset_t mask;
	int ends[2];

	pty_raw(t.slave);
	s->fd[SLAVE] = s->other[MASTER] = t.slave;
	s->fd[MASTER] = s->other[SLAVE] = t.master;
	snprintf(path, sizeof(path), "%s/pipe", folder);
	must(mkfifo(path, 0600));
	s->fd[FIFO] = s->other[FIFO] = must(open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC));
	s->fd[PIDFD] = (int)must(syscall(SYS_pidfd_open, s->victim, 0));
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	must(sigprocmask(SIG_BLOCK, &mask, NULL));
	s->fd[SIGNALFD] = must(signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
	s->fd[TIMERFD] = must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	s->fd[SOCKET] = ends[0];
	s->other[SOCKET] = ends[1];
	s->fd[EVENT] = must(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	for (int i = 0; i < 3; i++)
		s->epoll[i] = must(epoll_create1(EPOLL_CLOEXEC));
	for (int i = 0; i < WHATS; i++)
		must(epoll_ctl(s->epoll[0], EPOLL_CTL_ADD, s->fd[i],
			       &(struct epoll_event){.events = wanted[i], .data.u64 = (uint64_t)i}));
	for (int i = 1; i < 3; i++)
		must(epoll_ctl(s->epoll[i], EPOLL_CTL_ADD, s->epoll[i - 1],
			       &(struct epoll_event){.events = EPOLLIN, .data.u64 = WHATS + (uint64_t)i}));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify_child};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	s.victim = must(fork());
	if (!s.victim) {
		struct program q = program_role(&p, "victim");
		program_note_volatile(&q);
		for (;;)
			pause();
	}
	make(&s, p.folder);
	s.child = must(fork());
	if (!s.child) {
		struct program q = program_role(&p, "child");
		return program_serve(&q, &child_ops, &s);
	}
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
