/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pidfds of the process itself, of its child, of its sibling, in the child of its parent; non-blocking; a duplicate shared with
 * the child; watched by an epoll instance. Proof: whom each refers to, flags; at the end signals arrive by them, and an
 * end is seen in them.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SELF = 20, CHILD, OTHER, THREAD, EPOLL, PARENT };

static volatile sig_atomic_t caught;

static void note(int number)
{
	caught = number;
}

struct state {
	pid_t main, child, other;
};

static void place(pid_t pid, unsigned flags, int number)
{
	int fd = (int)must(syscall(SYS_pidfd_open, pid, flags));

	must(dup3(fd, number, O_CLOEXEC));
	close(fd);
}

static bool ended(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "itself", fdinfo_number(SELF, "Pid: %llu"), s->main);
	expect_same(p, "the child", fdinfo_number(CHILD, "Pid: %llu"), s->child);
	expect_same(p, "the other", fdinfo_number(OTHER, "Pid: %llu"), s->other);
	expect_same(p, "flags of the child's", fcntl(CHILD, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	expect_same(p, "flags of its own", fcntl(SELF, F_GETFL) & O_NONBLOCK, 0);
	expect(p, !ended(CHILD) && !ended(OTHER), "somebody ended");
	if (p->more) {
		expect_same(p, "of a thread", fdinfo_number(THREAD, "Pid: %llu"), s->main);
		expect_same(p, "flags of the thread's", fcntl(THREAD, F_GETFL) & O_EXCL, O_EXCL);
	}
}

static void verify_child(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "the parent", fdinfo_number(PARENT, "Pid: %llu"), s->main);
	expect_same(p, "the parent by a shared one", fdinfo_number(SELF, "Pid: %llu"), s->main);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	struct epoll_event got = {0};
	siginfo_t info = {0};

	verify(p, state);
	expect_same(p, "signal to itself", syscall(SYS_pidfd_send_signal, SELF, SIGUSR1, NULL, 0), 0);
	expect_same(p, "caught", caught, SIGUSR1);
	expect_same(p, "what is ready", epoll_wait(EPOLL, &got, 1, 0), 0);
	expect_same(p, "signal to the other", syscall(SYS_pidfd_send_signal, OTHER, SIGKILL, NULL, 0), 0);
	expect_same(p, "what is ready after it", epoll_wait(EPOLL, &got, 1, 2000), 1);
	expect_same(p, "which", got.data.fd, OTHER);
	expect_same(p, "waiting by the pidfd", waitid(P_PIDFD, OTHER, &info, WEXITED), 0);
	expect_same(p, "who", info.si_pid, s->other);
	/* The child's does not block. */
	expect(p, waitid(P_PIDFD, CHILD, &info, WEXITED) < 0 && errno == EAGAIN,
	       "waiting blocks or succeeds");
}

static void spoil(void *state)
{
	const struct state *s = state;

	place(s->main, 0, CHILD);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify_child};
	struct program p;
	struct state s = {.main = getpid()};

	program_start(&p, argc, argv);
	signal(SIGUSR1, note);
	place(s.main, 0, SELF);
	s.child = must(fork());
	if (!s.child) {
		struct program q = program_role(&p, "child");
		place(s.main, 0, PARENT);
		return program_serve(&q, &child_ops, &s);
	}
	s.other = must(fork());
	if (!s.other) {
		struct program q = program_role(&p, "other");
		program_note_volatile(&q);
		for (;;)
			pause();
	}
	place(s.child, O_NONBLOCK, CHILD);
	place(s.other, 0, OTHER);
	if (p.more)
		place(s.main, O_EXCL, THREAD);
	int epoll = must(epoll_create1(EPOLL_CLOEXEC));
	must(dup3(epoll, EPOLL, O_CLOEXEC));
	close(epoll);
	must(epoll_ctl(EPOLL, EPOLL_CTL_ADD, OTHER,
		       &(struct epoll_event){.events = EPOLLIN, .data.fd = OTHER}));
	program_await(&p, "child");
	return program_serve(&p, &ops, &s);
}
