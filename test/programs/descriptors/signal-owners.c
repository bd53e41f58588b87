/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is signalled: owners of a pipe, a socket, both sides of a terminal and a named pipe, by process, by process group and by
 * thread (F_SETOWN_EX), with signals of their own (F_SETSIG), O_ASYNC on and off. Proof: owner, signal and flag of
 * each; at the end what becomes ready raises its signal, with its number, and what is not asynchronous none.
 */
#include "pty.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>

enum { READ, WRITE, SIGNAL = 34 + 2 };

enum what { PIPE, SOCKET, SLAVE, MASTER, FIFO, SILENT, WHATS };

static struct owned {
	const char *name;
	int fd, other; /* other: writing there makes fd ready */
	int type, signal;
	bool async;
	pid_t owner;
} owned[WHATS] = {
	[PIPE] = {.name = "pipe", .type = F_OWNER_PID, .signal = SIGNAL, .async = true},
	[SOCKET] = {.name = "socket", .type = F_OWNER_PGRP, .signal = SIGNAL + 1, .async = true},
	[SLAVE] = {.name = "terminal side", .type = F_OWNER_PID, .signal = SIGNAL + 2, .async = true},
	[MASTER] = {.name = "master", .type = F_OWNER_PGRP, .signal = SIGNAL + 3, .async = true},
	[FIFO] = {.name = "named pipe", .type = F_OWNER_TID, .signal = SIGNAL + 4, .async = true},
	[SILENT] = {.name = "silent pipe", .type = F_OWNER_PID, .signal = SIGNAL + 5, .async = false},
};

static void verify(struct program *p, void *state)
{
	(void)state;
	for (int i = 0; i < WHATS; i++) {
		const struct owned *o = &owned[i];
		struct f_owner_ex owner = {-1, -1};
		expect(p,
		       !fcntl(o->fd, F_GETOWN_EX, &owner) && (int)owner.type == o->type &&
			       owner.pid == o->owner,
		       "%s: owner %d of type %d", o->name, owner.pid, owner.type);
		expect(p, fcntl(o->fd, F_GETSIG) == o->signal, "%s: signal %d", o->name,
		       fcntl(o->fd, F_GETSIG));
		expect(p, !(fcntl(o->fd, F_GETFL) & O_ASYNC) == !o->async, "%s: flags %x", o->name,
		       fcntl(o->fd, F_GETFL));
	}
}

static void finish(struct program *p, void *state)
{
	const struct timespec patience = {.tv_sec = 1}, none = {0};
	sigset_t all;
	siginfo_t info;

	verify(p, state);
	sigemptyset(&all);
	for (int i = 0; i < WHATS; i++)
		sigaddset(&all, owned[i].signal);
	while (sigtimedwait(&all, &info, &none) > 0)
		continue;
	for (int i = 0; i < WHATS; i++) {
		const struct owned *o = &owned[i];
		must(write(o->other, "x\n", 2));
		int got = sigtimedwait(&all, &info, o->async ? &patience : &none);
		expect(p, got == (o->async ? o->signal : -1), "%s: signal %d", o->name, got);
		if (got > 0)
			expect(p, info.si_fd == o->fd, "%s: signal for fd %d", o->name, info.si_fd);
		while (sigtimedwait(&all, &info, &none) > 0)
			continue;
	}
}

static void spoil(void *state)
{
	(void)state;
	must(fcntl(owned[SOCKET].fd, F_SETSIG, SIGUSR1));
}

static void own(struct owned *o, int fd, int other)
{
	struct f_owner_ex owner = {.type = o->type, .pid = getpid()};

	o->fd = fd;
	o->other = other;
	o->owner = owner.pid;
	must(fcntl(fd, F_SETOWN_EX, &owner));
	must(fcntl(fd, F_SETSIG, o->signal));
	if (o->async)
		must(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
}

static void make(const struct program *p)
{
	int ends[2];
	char path[256];
	sigset_t all;

	sigemptyset(&all);
	for (int i = 0; i < WHATS; i++)
		sigaddset(&all, owned[i].signal);
	must(sigprocmask(SIG_BLOCK, &all, NULL));
	must(pipe2(ends, O_CLOEXEC));
	own(&owned[PIPE], ends[READ], ends[WRITE]);
	must(pipe2(ends, O_CLOEXEC));
	own(&owned[SILENT], ends[READ], ends[WRITE]);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	own(&owned[SOCKET], ends[READ], ends[WRITE]);
	struct pty t = pty_pair(0), u = pty_pair(0);
	pty_raw(u.slave);
	own(&owned[SLAVE], t.slave, t.master);
	own(&owned[MASTER], u.master, u.slave);
	snprintf(path, sizeof(path), "%s/pipe", p->folder);
	must(mkfifo(path, 0600));
	int fd = must(open(path, O_RDWR | O_CLOEXEC));
	own(&owned[FIFO], must(open(path, O_RDONLY | O_CLOEXEC)), fd);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	make(&p);
	return program_serve(&p, &ops, NULL);
}
