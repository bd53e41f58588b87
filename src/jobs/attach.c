/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns being attached to a job: what it writes is read from its log as that grows; what is typed is written to the master side
 * of its terminal, through a copy of its init's descriptor that lasts for one write. So any number of terminals can be
 * attached, and none of them is in the way of a save: the job never has a peer outside.
 *
 * Kernel interface: pidfd_getfd(2) (5.6), inotify(7), signalfd(2), termios(3), ioctl_tty(2) TIOCSWINSZ.
 * Does not handle: input for a job without a terminal; it has none.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "jobs/internal.h"
#include "kernel/syscalls.h"

enum {
	ATTACH_BLOCK = 1 << 16,
	ATTACH_TYPED =
		256, /* so much is written at once; a terminal always has room for it, or for nothing */
	ATTACH_KEYS = 8,
	ATTACH_RETRY_MS = 20,
	ATTACH_END_MS = 1000, /* what it takes to see what became of a job after its end */
};

struct attach {
	struct jobs_record *job;
	int pidfd, log, watch, signals;
	char *block; /* ATTACH_BLOCK */
	char keys[ATTACH_KEYS];
	size_t n_keys, matched;
	char typed[ATTACH_TYPED]; /* read and not handed on yet */
	size_t n_typed;
	bool input;   /* there is more to read */
	bool detach;  /* all that was typed before the keys goes to the job first */
	bool resized; /* the job does not know our size yet */
};

/* "ctrl-p,ctrl-q", "x" */
static int attach_parse_keys(struct attach *a, const char *text, struct ferry_error *err)
{
	for (const char *at = text; *at;) {
		size_t n = strcspn(at, ",");
		bool control = n == 6 && !strncmp(at, "ctrl-", 5) && at[5] >= '@' && at[5] <= '~';
		if (a->n_keys == ATTACH_KEYS || (n != 1 && !control))
			return error_set(err, FERRY_ERROR_USAGE, EINVAL,
					 "--detach-keys '%s': at most %d keys with commas between them, "
					 "each one character or 'ctrl-' and one",
					 text, ATTACH_KEYS);
		a->keys[a->n_keys++] = control ? (char)(at[5] & 0x1f) : *at;
		at += n + (at[n] == ',');
	}
	return 0;
}

/* ------------------------------------------------------------------- terminal */

/* As it is typed, so the job gets it. */
static bool attach_make_raw(struct termios *ret_before)
{
	struct termios raw;
	if (tcgetattr(STDIN_FILENO, ret_before) < 0)
		return false;
	raw = *ret_before;
	cfmakeraw(&raw);
	return tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
}

/*
 * The master side of the job's terminal, for as long as *ret_lock is held: a save has to find it held by nobody outside.
 * -EAGAIN: a save or restore has the job now.
 */
static int attach_borrow(const struct attach *a, int *ret_lock)
{
	_cleanup_close_ int lock = fd_open(a->job->dir, "lock", O_RDWR, 0);
	int number;
	if (lock < 0)
		return lock;
	if (flock(lock, LOCK_SH | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EAGAIN : -errno;
	int fd = sys_pidfd_getfd(a->pidfd, JOBS_TTY_FD);
	if (fd >= 0 && ioctl(fd, TIOCGPTN, &number) < 0) {
		close(fd);
		fd = -ENOTTY;
	}
	if (fd >= 0)
		*ret_lock = take_fd(lock);
	return fd;
}

/* A program that draws its screen draws it anew when the size changes, so it does, if only for a moment. */
static void attach_resize(struct attach *a, int master)
{
	struct winsize size, now;
	a->resized = false;
	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_col || ioctl(master, TIOCGWINSZ, &now) < 0)
		return;
	if (now.ws_row == size.ws_row && now.ws_col == size.ws_col) {
		now.ws_col++;
		ioctl(master, TIOCSWINSZ, &now);
	}
	ioctl(master, TIOCSWINSZ, &size);
}

/* Hand on what was typed, or as much as there is room for. */
static int attach_hand_on(struct attach *a, struct ferry_error *err)
{
	_cleanup_close_ int lock = -1;
	if (!a->n_typed && !a->resized)
		return 0;
	_cleanup_close_ int master = attach_borrow(a, &lock);
	if (master == -EAGAIN || master == -ESRCH || master == -EBADF)
		return 0; /* later, or never */
	if (master < 0)
		return error_errno(err, FERRY_ERROR_PERMISSION, -master, "the terminal of job '%s'",
				   a->job->name);
	if (a->resized)
		attach_resize(a, master);
	struct pollfd room = {.fd = master, .events = POLLOUT};
	if (!a->n_typed || poll(&room, 1, 0) <= 0 || !(room.revents & POLLOUT))
		return 0;
	ssize_t n = write(master, a->typed, a->n_typed);
	if (n > 0) {
		a->n_typed -= (size_t)n;
		memmove(a->typed, a->typed + n, a->n_typed);
	}
	return 0;
}

/* Keys that may be the beginning of those that detach wait until that is known. */
static void attach_take_key(struct attach *a, char key)
{
	if (a->n_keys && key == a->keys[a->matched]) {
		a->detach = ++a->matched == a->n_keys;
		return;
	}
	for (size_t i = 0; i < a->matched; i++)
		a->typed[a->n_typed++] = a->keys[i];
	a->matched = a->n_keys && key == a->keys[0];
	if (!a->matched)
		a->typed[a->n_typed++] = key;
}

static void attach_read_input(struct attach *a)
{
	char block[ATTACH_TYPED - ATTACH_KEYS];
	if (a->n_typed)
		return;
	ssize_t n = read(STDIN_FILENO, block, sizeof(block));
	if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
		a->input = false;
	for (ssize_t i = 0; i < n && !a->detach; i++)
		attach_take_key(a, block[i]);
}

/* ------------------------------------------------------------------------ log */

static int attach_copy_log(const struct attach *a, struct ferry_error *err)
{
	for (;;) {
		ssize_t n = read(a->log, a->block, ATTACH_BLOCK);
		if (n < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the log of job '%s'",
					   a->job->name);
		int r = n ? fd_write_all(STDOUT_FILENO, a->block, (size_t)n) : 0;
		if (r < 0 || !n)
			return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "writing") : 0;
	}
}

static int attach_open(struct attach *a, struct ferry_error *err)
{
	const struct jobs_record *j = a->job;
	char path[JOBS_PATH_BYTES + 16];
	snprintf(path, sizeof(path), "%s/%s", j->path, JOBS_LOG_NAME);
	a->block = malloc(ATTACH_BLOCK);
	a->log = fd_open(j->dir, JOBS_LOG_NAME, O_RDONLY, 0);
	a->pidfd = sys_pidfd_open(j->pid, 0);
	a->watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (!a->block)
		return error_memory(err);
	if (a->log < 0 || a->watch < 0 || inotify_add_watch(a->watch, path, IN_MODIFY) < 0 ||
	    lseek(a->log, 0, SEEK_END) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, a->log < 0 ? -a->log : errno,
				   "opening the log of job '%s'", j->name);
	sigset_t mask;
	sigemptyset(&mask);
	for (size_t i = 0; i < 4; i++)
		sigaddset(&mask, (const int[]){SIGWINCH, SIGTERM, SIGINT, SIGHUP}[i]);
	if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "blocking signals");
	a->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	return a->signals < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a signalfd") : 0;
}

static void attach_close(struct attach *a)
{
	const int fds[] = {a->pidfd, a->log, a->watch, a->signals};
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(a->block);
}

/* ----------------------------------------------------------------------- loop */

static void attach_take_signal(struct attach *a)
{
	struct signalfd_siginfo info;
	while (read(a->signals, &info, sizeof(info)) == sizeof(info)) {
		a->resized |= info.ssi_signo == SIGWINCH;
		a->detach |= info.ssi_signo != SIGWINCH;
	}
}

/* 1: the job has ended. */
static int attach_loop(struct attach *a, struct ferry_error *err)
{
	char events[4096];
	for (;;) {
		bool tty = a->job->tty, waits = tty && (a->n_typed || a->resized);
		struct pollfd p[] = {
			{.fd = a->pidfd, .events = POLLIN},
			{.fd = a->watch, .events = POLLIN},
			{.fd = a->signals, .events = POLLIN},
			{.fd = a->input && !a->n_typed ? STDIN_FILENO : -1, .events = POLLIN},
		};
		if (poll(p, ARRAY_SIZE(p), waits ? ATTACH_RETRY_MS : -1) < 0 && errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting");
		while (p[1].revents && read(a->watch, events, sizeof(events)) > 0)
			continue;
		attach_take_signal(a);
		if (p[3].revents)
			attach_read_input(a);
		if (!tty)
			a->n_typed = 0;
		int r = attach_copy_log(a, err);
		if (r >= 0 && tty)
			r = attach_hand_on(a, err);
		if (r < 0)
			return r;
		if (p[0].revents || (a->detach && !a->n_typed))
			return p[0].revents != 0;
	}
}

/* A process that is gone was killed after its image was written, or wrote its status before. */
static void attach_look(struct jobs_record *j)
{
	for (int left = ATTACH_END_MS; left > 0; left -= ATTACH_RETRY_MS) {
		jobs_look(j);
		if (j->state == JOBS_SAVED || (j->state == JOBS_ENDED && j->status >= 0))
			return;
		poll(NULL, 0, ATTACH_RETRY_MS);
	}
}

static int attach_refuse(const struct jobs_record *j, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_USAGE, EINVAL, "job '%s' is %s", j->name, jobs_state_word(j->state));
	if (j->state == JOBS_SAVED)
		error_hint(err, "run it on first: ferry restore %s", j->name);
	else
		error_hint(err, "see ferry logs %s", j->name);
	return -EINVAL;
}

int jobs_attach(const struct options *options, struct jobs_record *j, struct ferry_error *err)
{
	struct attach a = {.job = j, .pidfd = -1, .log = -1, .watch = -1, .signals = -1, .input = true};
	struct termios before;
	if (j->state != JOBS_RUNNING)
		return attach_refuse(j, err);
	int r = attach_parse_keys(&a, options->detach_keys, err);
	if (r >= 0)
		r = attach_open(&a, err);
	if (r >= 0 && a.pidfd < 0) {
		r = 1; /* it ended a moment ago */
	} else if (r >= 0) {
		bool raw = j->tty && attach_make_raw(&before);
		a.resized = raw;
		r = attach_loop(&a, err);
		if (raw)
			tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
		if (raw && r >= 0)
			fputs("\r\n", stderr);
	}
	attach_close(&a);
	if (r > 0)
		attach_look(j);
	return MIN(r, 0);
}
