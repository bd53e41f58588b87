/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pidfds of processes that ended and were reaped: two of one that left with a status, one of one that was killed. Proof: they
 * say so, those of one process are of one inode, and the kernel still tells how it ended.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/uapi.h"

enum { LEFT = 20, AGAIN, KILLED, OUTSIDE, STATUS = 7 };

struct state {
	bool tells; /* the kernel keeps how a process ended */
};

static void place(pid_t pid, unsigned flags, int number)
{
	int fd = (int)must(syscall(SYS_pidfd_open, pid, flags));

	must(dup3(fd, number, O_CLOEXEC));
	close(fd);
}

static int how(int fd)
{
	struct kern_pidfd_info info = {.mask = PIDFD_INFO_EXIT};

	if (ioctl(fd, KERN_PIDFD_GET_INFO, &info) < 0 || !(info.mask & PIDFD_INFO_EXIT))
		return -1;
	return info.exit_code;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct stat a, b, c;

	for (int fd = LEFT; fd <= KILLED; fd++) {
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		expect_same(p, "signal", syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), -1);
		expect_same(p, "error", errno, ESRCH);
		expect(p, poll(&poll_fd, 1, 0) == 1 && poll_fd.revents & POLLIN, "not over");
		expect_same(p, "Pid", fdinfo_number(fd, "Pid: -%llu"), 1);
	}
	must(fstat(LEFT, &a));
	must(fstat(AGAIN, &b));
	must(fstat(KILLED, &c));
	expect(p, a.st_ino == b.st_ino && a.st_ino != c.st_ino, "inodes %lu %lu %lu", a.st_ino, b.st_ino,
	       c.st_ino);
	expect_same(p, "flags", fcntl(AGAIN, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	if (!p->more || !s->tells)
		return;
	expect_same(p, "how one ended", how(LEFT), STATUS << 8);
	expect_same(p, "how one ended, asked again", how(AGAIN), STATUS << 8);
	expect_same(p, "how the other ended", how(KILLED), SIGTERM);
}

static void spoil(void *state)
{
	(void)state;
	must(dup3(KILLED, AGAIN, O_CLOEXEC));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	pid_t left = must(fork());
	if (!left)
		_exit(STATUS);
	place(left, 0, LEFT);
	place(left, O_NONBLOCK, AGAIN);
	must(waitpid(left, NULL, 0));
	pid_t killed = must(fork());
	if (!killed) {
		for (;;)
			pause();
	}
	place(killed, 0, KILLED);
	must(kill(killed, SIGTERM));
	must(waitpid(killed, NULL, 0));
	/* What cannot be dumped, for the tests that ask for a refusal. */
	if (program_told(argc, argv, "outside"))
		place(getppid(), 0, OUTSIDE);
	s.tells = how(LEFT) >= 0;
	return program_serve(&p, &ops, &s);
}
