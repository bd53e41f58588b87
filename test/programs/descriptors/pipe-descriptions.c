/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pipe with many descriptions: two of the reading end, three of the writing end, one that reads and
 * writes, with flags of their own, a further descriptor, an owner that is signalled; the pipe belongs to
 * another user. Proof: flags, owner, rights, that all are the same pipe; at the end bytes go in through each
 * and come out in order, and the signal names the number of the descriptor.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 20000, UID = 4711, GID = 4712, MODE = 0640, READER = 10, SIGNALLED = 14 };

static const struct end {
	int fd;
	int from; /* opened again from this one; 0 = pipe2 made it */
	int flags;
	bool duplicate; /* dup2 of from: no description of its own */
} ends[] = {
	{READER, 0, O_RDONLY, false},
	{11, 0, O_WRONLY | O_NONBLOCK, false},
	/* Lower numbers than those of the first descriptions. */
	{9, 11, O_WRONLY, false},
	{12, 11, O_WRONLY | O_NONBLOCK, false},
	{13, READER, O_RDWR | O_NONBLOCK, false},
	{SIGNALLED, READER, O_RDONLY | O_NONBLOCK | O_ASYNC, false},
	{15, READER, O_RDONLY, true},
};

static unsigned char buffer[BYTES + ARRAY_SIZE(ends)];

static void open_end(const struct end *e)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", e->from);
	int fd = must(open(path, (e->flags & ~O_ASYNC) | O_CLOEXEC));
	must(dup3(fd, e->fd, O_CLOEXEC));
	close(fd);
}

static void make(void)
{
	int first[2];

	must(pipe2(first, O_CLOEXEC));
	must(dup3(first[0], READER, O_CLOEXEC));
	must(dup3(first[1], 11, O_CLOEXEC));
	close(first[0]);
	close(first[1]);
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		if (ends[i].duplicate)
			must(dup2(ends[i].from, ends[i].fd));
		else if (ends[i].from)
			open_end(&ends[i]);
	must(fcntl(11, F_SETFL, O_NONBLOCK));
	must(fcntl(SIGNALLED, F_SETOWN, getpid()));
	must(fcntl(SIGNALLED, F_SETSIG, SIGRTMIN + 1));
	pattern_fill(buffer, BYTES, 1);
	must(write(11, buffer, BYTES));
	/* From here on only what verify() does not cause is signalled. */
	must(fcntl(SIGNALLED, F_SETFL, O_NONBLOCK | O_ASYNC));
}

static void verify_end(struct program *p, const struct end *e, const struct stat *want)
{
	struct stat st;

	expect(p, !fstat(e->fd, &st) && st.st_ino == want->st_ino && st.st_dev == want->st_dev,
	       "fd %d is of another pipe", e->fd);
	expect_same(p, "flags", fcntl(e->fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_ASYNC), e->flags);
	expect_same(p, "close-on-exec", fcntl(e->fd, F_GETFD), e->duplicate ? 0 : FD_CLOEXEC);
}

static void verify(struct program *p, void *state)
{
	struct f_owner_ex owner = {0};
	struct stat st = {0};
	int there = -1;

	(void)state;
	fstat(READER, &st);
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		verify_end(p, &ends[i], &st);
	if (p->more) {
		expect_same(p, "user of the pipe", st.st_uid, UID);
		expect_same(p, "group of the pipe", st.st_gid, GID);
		expect_same(p, "mode of the pipe", st.st_mode & 07777, MODE);
	}
	fcntl(SIGNALLED, F_GETOWN_EX, &owner);
	expect_same(p, "owner", owner.pid, getpid());
	expect_same(p, "signal", fcntl(SIGNALLED, F_GETSIG), SIGRTMIN + 1);
	ioctl(READER, FIONREAD, &there);
	expect_same(p, "bytes in the pipe", there, BYTES);
}

/* A byte through each description that can write; all of it comes out through those that read. */
static void finish(struct program *p, void *state)
{
	size_t writers = 0, got = 0;
	siginfo_t info = {0};
	sigset_t set;

	verify(p, state);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	while (sigtimedwait(&set, NULL, &(const struct timespec){0}) > 0)
		continue;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		if ((ends[i].flags & O_ACCMODE) != O_RDONLY) {
			expect_same(p, "writing", write(ends[i].fd, &(const char){(char)i}, 1), 1);
			buffer[writers++] = (unsigned char)i;
		}
	if (p->more) {
		expect_same(p, "the signal", sigtimedwait(&set, &info, &(const struct timespec){.tv_sec = 2}),
			    SIGRTMIN + 1);
		expect_same(p, "its descriptor", info.si_fd, SIGNALLED);
	}
	static unsigned char back[sizeof(buffer)];
	static const int readers[] = {READER, 13, SIGNALLED, 15};
	for (size_t i = 0; got < BYTES + writers && i < 1000; i++) {
		ssize_t n = read(readers[i % ARRAY_SIZE(readers)], back + got, got ? 1000 : 5000);
		got += n > 0 ? (size_t)n : 0;
	}
	expect_same(p, "bytes", got, BYTES + writers);
	expect(p, pattern_differs(back, BYTES, 1) < 0, "the data differ");
	expect(p, !memcmp(back + BYTES, buffer, writers), "what was written differs");
	expect(p, read(SIGNALLED, back, 1) < 0 && errno == EAGAIN, "the pipe is not empty");
}

static void spoil(void *state)
{
	(void)state;
	must(fcntl(12, F_SETFL, 0));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	sigset_t set;

	program_start(&p, argc, argv);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	make();
	if (p.more) {
		must(fchown(READER, UID, GID));
		must(fchmod(READER, MODE));
	}
	return program_serve(&p, &ops, NULL);
}
