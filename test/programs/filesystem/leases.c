/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases: one for reading, one for writing, with the signal that tells of a break. Proof: what F_GETLEASE says; at the end somebody
 * opens one of the files, the signal comes, and the other gets on when the lease is given back.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct state {
	int reads, writes;
};

static volatile sig_atomic_t told_fd;

static void on_break(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	told_fd = info->si_fd;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "the lease for reading", fcntl(s->reads, F_GETLEASE), F_RDLCK);
	expect_same(p, "the lease for writing", fcntl(s->writes, F_GETLEASE), F_WRLCK);
	expect_same(p, "the signal", fcntl(s->writes, F_GETSIG), SIGRTMIN + 3);
	expect_same(p, "the owner", fcntl(s->writes, F_GETOWN), getpid());
	expect_same(p, "told of a break", told_fd, 0);
}

/* With the word "breaking": somebody waits. */
static void verify_breaking(struct program *p, void *state)
{
	const struct state *s = state;

	expect_same(p, "told of a break", told_fd, s->reads);
	expect_same(p, "what is left of the lease", fcntl(s->reads, F_GETLEASE), F_UNLCK);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	int status = -1;

	verify(p, state);
	expect(p, open("writes", O_RDONLY | O_NONBLOCK | O_CLOEXEC) < 0 && errno == EWOULDBLOCK,
	       "the file with the lease can be opened at once");
	pid_t child = must(fork());
	if (!child)
		_exit(open("writes", O_RDONLY | O_CLOEXEC) < 0);
	for (int i = 0; i < 2000 && !told_fd; i++)
		sleep_ms(2);
	expect_same(p, "told of a break", told_fd, s->writes);
	must(fcntl(s->writes, F_SETLEASE, F_UNLCK));
	must(waitpid(child, &status, 0));
	expect_same(p, "who opened it", status, 0);
	expect_same(p, "opening the other for writing", open("reads", O_WRONLY | O_NONBLOCK | O_CLOEXEC), -1);
}

static void spoil(void *state)
{
	must(fcntl(((struct state *)state)->reads, F_SETLEASE, F_UNLCK));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .finish = finish, .spoil = spoil};
	static const struct program_ops breaking_ops = {.verify = verify_breaking};
	struct sigaction action = {.sa_sigaction = on_break, .sa_flags = SA_SIGINFO};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	must(sigaction(SIGRTMIN + 3, &action, NULL));
	s.reads = must(open("reads", O_CREAT | O_RDONLY | O_CLOEXEC, 0600));
	s.writes = must(open("writes", O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	must(fcntl(s.reads, F_SETSIG, SIGRTMIN + 3));
	must(fcntl(s.writes, F_SETSIG, SIGRTMIN + 3));
	must(fcntl(s.reads, F_SETLEASE, F_RDLCK));
	must(fcntl(s.writes, F_SETLEASE, F_WRLCK));
	if (program_told(argc, argv, "breaking")) {
		pid_t child = must(fork());
		if (!child)
			_exit(open("reads", O_WRONLY | O_CLOEXEC) < 0);
		while (!told_fd)
			sleep_ms(1);
		return program_serve(&p, &breaking_ops, &s);
	}
	return program_serve(&p, &ops, &s);
}
