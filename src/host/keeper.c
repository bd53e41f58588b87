/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the keeper process and how it is asked.
 *
 * Kernel interface: unix sockets of packets, SO_PEERCRED, SCM_RIGHTS, pidfd_open(2), inotify(7). Only its own user, and root, get an answer.
 * The socket is reached through /proc/self/fd, since the path of a directory may be longer than a socket's name.
 */
#include "host/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "kernel/syscalls.h"

enum { KEEPER_MAGIC = 0x6b657031, KEEPER_ANSWER_S = 5, KEEPER_BACKLOG = 4 };

enum keeper_word { KEEPER_HOLD = 1, KEEPER_GO, KEEPER_IMAGE, KEEPER_TASK, KEEPER_END, KEEPER_DONE };

struct keeper_message {
	uint32_t magic;
	uint32_t word;
	int32_t result;
	uint32_t n; /* KEEPER_IMAGE: tasks that follow */
	uint64_t id_hi, id_lo;
	struct keeper_record record;
};

struct keeper {
	int control;
	pid_t pid; /* of the process between us and the keeper */
};

struct keeper_client {
	int socket;
	uint32_t left;
};

/* ------------------------------------------------------------------ the process */

struct kept {
	struct keeper_record record;
	int fd, pidfd; /* pidfd -1: the task has ended */
};

struct keeping {
	int control, listener, dir;
	int place,
		watch; /* its socket in the directory, and what tells of changes to that; -1: nobody tells */
	uint64_t id_hi, id_lo;
	VEC(struct kept) tasks;
};

static int keeper_answer(int socket, enum keeper_word word, int result)
{
	struct keeper_message m = {.magic = KEEPER_MAGIC, .word = word, .result = result};
	return fd_send(socket, &m, sizeof(m), NULL, 0);
}

static int keeper_receive(int socket, struct keeper_message *m, int *ret_fd)
{
	int fd = -1;
	size_t n_fds = 0;
	ssize_t n = fd_recv(socket, m, sizeof(*m), &fd, 1, &n_fds);
	_cleanup_close_ int taken = n >= 0 && n_fds ? fd : -1;
	if (n != (ssize_t)sizeof(*m) || m->magic != KEEPER_MAGIC)
		return n < 0 ? (int)n : n ? -EBADMSG : -EPIPE;
	if (ret_fd)
		*ret_fd = taken >= 0 ? take_fd(taken) : -1;
	return 0;
}

static int keeper_take(struct keeping *k, const struct keeper_message *m, int fd)
{
	_cleanup_close_ int taken = fd;
	struct kept *t = vec_push(&k->tasks);
	if (!t)
		return -ENOMEM;
	*t = (struct kept){m->record, -1, sys_pidfd_open(m->record.pid, 0)};
	/* Who has ended meanwhile needs no keeper; the others do. */
	if (t->pidfd < 0)
		return t->pidfd == -ESRCH ? 0 : t->pidfd;
	t->fd = take_fd(taken);
	return 0;
}

static int keeper_address(int dir, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	int n = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/" KEEPER_SOCKET_NAME, dir);
	return n < (int)sizeof(ret->sun_path) ? 0 : -ENAMETOOLONG;
}

/* Have it told when nobody can find it any more. Where files cannot be watched it lives as long as the tasks. */
static void keeper_watch(struct keeping *k)
{
	char path[sizeof("/proc/self/fd/") + 3 * sizeof(int)];
	k->place = openat(k->dir, KEEPER_SOCKET_NAME, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	k->watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", k->place);
	if (k->place >= 0 && k->watch >= 0 && inotify_add_watch(k->watch, path, IN_ATTRIB) >= 0)
		return;
	cleanup_close_p(&k->watch);
	k->watch = -1;
}

/* One that a keeper left who is no more is replaced. */
static int keeper_listen(struct keeping *k)
{
	struct sockaddr_un address;
	int r = keeper_address(k->dir, &address);
	k->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (r < 0 || k->listener < 0)
		return r < 0 ? r : -errno;
	unlinkat(k->dir, KEEPER_SOCKET_NAME, 0);
	mode_t before = umask(0177);
	if (bind(k->listener, (struct sockaddr *)&address, sizeof(address)) < 0)
		r = -errno;
	umask(before);
	if (r >= 0 && listen(k->listener, KEEPER_BACKLOG) < 0)
		r = -errno;
	if (r >= 0)
		keeper_watch(k);
	return r;
}

/* Until it is let go. Returns when it may go its way. */
static void keeper_wait(struct keeping *k)
{
	for (;;) {
		struct keeper_message m;
		int fd = -1, r = keeper_receive(k->control, &m, &fd);
		if (r < 0)
			_exit(0); /* whoever made us gave it up */
		if (m.word == KEEPER_HOLD) {
			r = keeper_take(k, &m, fd);
		} else {
			k->dir = fd;
			k->id_hi = m.id_hi;
			k->id_lo = m.id_lo;
			r = keeper_listen(k);
		}
		if (keeper_answer(k->control, KEEPER_DONE, r) < 0 || r < 0)
			_exit(1);
		if (m.word == KEEPER_GO)
			return;
	}
}

static __attribute__((noreturn)) void keeper_leave(const struct keeping *k)
{
	unlinkat(k->dir, KEEPER_SOCKET_NAME, 0);
	_exit(0);
}

static bool keeper_trusts(int socket)
{
	struct ucred who;
	socklen_t n = sizeof(who);
	return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &n) == 0 &&
	       (who.uid == 0 || who.uid == geteuid());
}

static int keeper_tell(const struct keeping *k, int socket)
{
	struct keeper_message m = {
		.magic = KEEPER_MAGIC, .word = KEEPER_IMAGE, .id_hi = k->id_hi, .id_lo = k->id_lo};
	vec_foreach(t, &k->tasks)
		m.n += t->pidfd >= 0;
	int r = fd_send(socket, &m, sizeof(m), NULL, 0);
	vec_foreach(t, &k->tasks) {
		m = (struct keeper_message){.magic = KEEPER_MAGIC, .word = KEEPER_TASK, .record = t->record};
		if (r >= 0 && t->pidfd >= 0)
			r = fd_send(socket, &m, sizeof(m), &t->fd, t->fd >= 0);
	}
	return r;
}

static void keeper_serve(struct keeping *k)
{
	const struct timeval patience = {.tv_sec = KEEPER_ANSWER_S};
	_cleanup_close_ int socket = accept4(k->listener, NULL, NULL, SOCK_CLOEXEC);
	struct keeper_message m;
	if (socket < 0 || !keeper_trusts(socket))
		return;
	setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (keeper_tell(k, socket) < 0)
		return;
	/* Who asks may take as long as his dump does; he closes the connection when he is done, or dead. */
	if (keeper_receive(socket, &m, NULL) < 0 || m.word != KEEPER_END)
		return;
	unlinkat(k->dir, KEEPER_SOCKET_NAME, 0);
	/* Ending takes a moment, and who asks is about to protect the same memory. */
	vec_foreach(t, &k->tasks)
		close(t->fd);
	if (keeper_answer(socket, KEEPER_DONE, 0) < 0)
		_exit(1);
	_exit(0);
}

/* Returns how many tasks live. */
static size_t keeper_look(struct keeping *k, const struct pollfd *polled)
{
	size_t alive = 0;
	for (size_t i = 0; i < k->tasks.n; i++) {
		struct kept *t = &k->tasks.v[i];
		if (polled[i].revents) {
			close(t->pidfd);
			close(t->fd);
			t->pidfd = t->fd = -1;
		}
		alive += t->pidfd >= 0;
	}
	return alive;
}

/* Whether it can still be asked: its socket was not removed, with the image or for another one. */
static bool keeper_is_findable(const struct keeping *k)
{
	struct inotify_event events[16];
	struct stat st;
	while (read(k->watch, events, sizeof(events)) > 0)
		continue;
	return fstat(k->place, &st) < 0 || st.st_nlink > 0;
}

static __attribute__((noreturn)) void keeper_keep(struct keeping *k)
{
	struct pollfd *polled = calloc(k->tasks.n + 2, sizeof(*polled));
	size_t alive = 0, n = k->tasks.n;
	bool findable = true;
	vec_foreach(t, &k->tasks)
		alive += t->pidfd >= 0;
	while (polled && alive && findable) {
		for (size_t i = 0; i < n; i++)
			polled[i] = (struct pollfd){.fd = k->tasks.v[i].pidfd, .events = POLLIN};
		polled[n] = (struct pollfd){.fd = k->listener, .events = POLLIN};
		polled[n + 1] = (struct pollfd){.fd = k->watch, .events = POLLIN};
		if (poll(polled, n + 2, -1) < 0)
			continue;
		alive = keeper_look(k, polled);
		if (polled[n].revents)
			keeper_serve(k);
		findable = !polled[n + 1].revents || keeper_is_findable(k);
	}
	if (!findable)
		_exit(0); /* what has that name now is another's */
	keeper_leave(k);
}

/* Nothing of who made us is kept but the control socket. */
static void keeper_detach(int *control)
{
	enum { KEPT_FD = 3 };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup2(*control, KEPT_FD) < 0)
		_exit(1);
	for (int i = 0; i < KEPT_FD; i++)
		if (dup2(null, i) < 0)
			_exit(1);
	*control = KEPT_FD;
	if (fcntl(KEPT_FD, F_SETFD, FD_CLOEXEC) < 0 || sys_close_range(KEPT_FD + 1, ~0u, 0) < 0)
		_exit(1);
	if (chdir("/") < 0)
		_exit(1);
	prctl(PR_SET_NAME, "ferry-keeper");
	prctl(PR_SET_PDEATHSIG, 0);
	for (int i = 1; i < NSIG; i++)
		signal(i, i == SIGPIPE || i == SIGHUP ? SIG_IGN : SIG_DFL);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static __attribute__((noreturn)) void keeper_run(int control)
{
	struct keeping k = {.control = control, .listener = -1, .dir = -1, .place = -1, .watch = -1};
	keeper_detach(&k.control);
	keeper_wait(&k);
	close(k.control);
	keeper_keep(&k);
}

/* ---------------------------------------------------------------- who makes one */

int keeper_start(struct keeper **ret, struct ferry_error *err)
{
	int pair[2], status;
	struct keeper *k = calloc(1, sizeof(*k));
	if (!k)
		return error_memory(err);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		free(k);
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a channel to the keeper");
	}
	k->control = pair[0];
	k->pid = fork();
	if (!k->pid) {
		/* Twice, so that nobody has to wait for the keeper. */
		setsid();
		pid_t pid = fork();
		if (!pid)
			keeper_run(pair[1]);
		_exit(pid < 0);
	}
	int code = errno;
	close(pair[1]);
	if (k->pid > 0)
		while (waitpid(k->pid, &status, 0) < 0 && errno == EINTR)
			continue;
	if (k->pid > 0 && !status) {
		*ret = k;
		return 0;
	}
	keeper_cancel(k);
	return error_errno(err, FERRY_ERROR_SYSTEM, code, "starting the keeper");
}

static int keeper_ask(struct keeper *k, const struct keeper_message *m, int fd, struct ferry_error *err)
{
	struct keeper_message answer = {0};
	int r = fd_send(k->control, m, sizeof(*m), &fd, fd >= 0);
	if (r >= 0)
		r = keeper_receive(k->control, &answer, NULL);
	if (r >= 0)
		r = answer.result;
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "handing what tracks memory to the keeper")
		     : 0;
}

int keeper_hold(struct keeper *k, const struct keeper_record *record, int fd, struct ferry_error *err)
{
	struct keeper_message m = {.magic = KEEPER_MAGIC, .word = KEEPER_HOLD, .record = *record};
	return keeper_ask(k, &m, fd, err);
}

int keeper_go(struct keeper *k, int dir_fd, uint64_t id_hi, uint64_t id_lo, struct ferry_error *err)
{
	struct keeper_message m = {.magic = KEEPER_MAGIC, .word = KEEPER_GO, .id_hi = id_hi, .id_lo = id_lo};
	int r = keeper_ask(k, &m, dir_fd, err);
	keeper_cancel(k);
	return r;
}

void keeper_cancel(struct keeper *k)
{
	if (k)
		close(k->control);
	free(k);
}

/* ----------------------------------------------------------------- who asks one */

static int keeper_connect(int dir_fd)
{
	const struct timeval patience = {.tv_sec = KEEPER_ANSWER_S};
	struct sockaddr_un address;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int r = fd < 0 ? -errno : keeper_address(dir_fd, &address);
	if (r < 0)
		return r;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return keeper_trusts(fd) ? take_fd(fd) : -EPERM;
}

int keeper_find(int dir_fd, uint64_t id_hi, uint64_t id_lo, struct keeper_client **ret,
		struct ferry_error *err)
{
	struct keeper_message m;
	*ret = NULL;
	_cleanup_close_ int fd = keeper_connect(dir_fd);
	/* Whoever is not there, or does not answer, keeps nothing. */
	if (fd < 0 || keeper_receive(fd, &m, NULL) < 0 || m.word != KEEPER_IMAGE || m.id_hi != id_hi ||
	    m.id_lo != id_lo)
		return 0;
	struct keeper_client *c = calloc(1, sizeof(*c));
	if (!c)
		return error_memory(err);
	*c = (struct keeper_client){.socket = take_fd(fd), .left = m.n};
	*ret = c;
	return 0;
}

int keeper_next(struct keeper_client *c, struct keeper_record *ret_record, int *ret_fd,
		struct ferry_error *err)
{
	struct keeper_message m;
	int fd = -1;
	if (!c->left)
		return 0;
	int r = keeper_receive(c->socket, &m, &fd);
	if (r < 0 || m.word != KEEPER_TASK) {
		if (r >= 0 && fd >= 0)
			close(fd);
		return error_errno(err, FERRY_ERROR_SYSTEM, r < 0 ? -r : EBADMSG, "asking the keeper");
	}
	c->left--;
	*ret_record = m.record;
	*ret_fd = fd;
	return 1;
}

int keeper_end(struct keeper_client *c, struct ferry_error *err)
{
	struct keeper_message m;
	int r = keeper_answer(c->socket, KEEPER_END, 0);
	if (r >= 0)
		r = keeper_receive(c->socket, &m, NULL);
	/* Not there any more is as good. */
	return r >= 0 || r == -EPIPE || r == -ECONNRESET
		       ? 0
		       : error_errno(err, FERRY_ERROR_SYSTEM, -r, "ending the keeper");
}

void keeper_dismiss(int dir_fd)
{
	struct keeper_message m;
	_cleanup_close_ int fd = keeper_connect(dir_fd);
	uint32_t tasks = 0;
	if (fd < 0 || keeper_receive(fd, &m, NULL) < 0 || m.word != KEEPER_IMAGE)
		return;
	for (tasks = m.n; tasks && keeper_receive(fd, &m, NULL) >= 0; tasks--)
		continue;
	struct keeper_client c = {.socket = fd};
	if (!tasks && keeper_end(&c, NULL) < 0)
		return; /* it is told about by whoever finds its marks */
}

void keeper_client_free(struct keeper_client *c)
{
	if (c)
		close(c->socket);
	free(c);
}
