/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the warden process and its log.
 *
 * Kernel interface: ptrace(2) PTRACE_O_TRACEEXIT; a tracee that dies by SIGKILL stops at PTRACE_EVENT_EXIT
 * since Linux 5.0 (kernel/signal.c), and a tracer's tracees are released only in exit_notify(), after that stop.
 * Does not handle: a second SIGKILL to a worker that the warden holds already, or a warden that dies together
 * with the worker.
 */
#include "host/warden.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "inject/defuse.h"

enum {
	WARDEN_ENTRIES = 40000,
	WARDEN_STAND_TRIES = 20000,
	WARDEN_STAND_NS = 100000,
	WARDEN_GROUP_TRIES = 3000,
	WARDEN_GROUP_NS = 1000000,
};

struct warden_entry {
	uint32_t op; /* enum warden_op; 0 = struck out; written last */
	int32_t next_free;
	int64_t object;
	uint64_t value;
	char data[WARDEN_DATA_BYTES];
};

struct warden_log {
	uint32_t n;
	uint32_t committed;
	uint32_t over; /* the worker ends in peace */
	struct warden_entry entries[WARDEN_ENTRIES];
};

struct warden {
	struct warden_log *log;
	const struct warden_actions *actions;
	int pipe; /* the worker's end; the warden sees it close */
	pid_t pid;
	bool watches;   /* it said so */
	int free_entry; /* head of the list of struck out entries, -1 none */
};

/* A socket of the worker, as seen by whoever carries out an entry. */
static int warden_object_fd(int worker_pidfd, int64_t object)
{
	if (worker_pidfd < 0)
		return fd_dup((int)object, 3);
	int fd = (int)syscall(SYS_pidfd_getfd, worker_pidfd, (int)object, 0);
	return fd < 0 ? -errno : fd;
}

static void warden_on_socket(const struct warden *w, const struct warden_entry *e, int worker_pidfd)
{
	_cleanup_close_ int fd = warden_object_fd(worker_pidfd, e->object);
	if (fd < 0)
		return;
	int value = (int)e->value;
	if (e->op == WARDEN_TCP_RESUME && w->actions->tcp_resume)
		w->actions->tcp_resume(fd, e->data);
	else if (e->op == WARDEN_PEEK_OFF &&
		 setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof(value)) < 0)
		return;
}

static void warden_put_back(const struct warden_entry *e, int worker_pidfd,
			    int (*put_back)(int worker_pidfd, int memory))
{
	_cleanup_close_ int memory = warden_object_fd(worker_pidfd, e->object);
	if (memory >= 0 && put_back)
		put_back(worker_pidfd, memory);
}

static void warden_put(const struct warden *w, const struct warden_entry *e, int worker_pidfd)
{
	_cleanup_close_ int dir = warden_object_fd(worker_pidfd, e->object);
	if (dir >= 0 && w->actions->group_put)
		w->actions->group_put(dir, e->data, e->data + strlen(e->data) + 1);
}

/* Tasks that were killed for it leave it when they run for the last time. */
static void warden_remove_group(const struct warden_entry *e, int worker_pidfd)
{
	const struct timespec pause = {.tv_nsec = WARDEN_GROUP_NS};
	_cleanup_close_ int dir = warden_object_fd(worker_pidfd, e->object);
	for (int i = 0; dir >= 0 && i < WARDEN_GROUP_TRIES; i++) {
		if (unlinkat(dir, e->data, AT_REMOVEDIR) == 0 || errno != EBUSY)
			break;
		nanosleep(&pause, NULL);
	}
}

static void warden_wake(uint64_t address)
{
	uint32_t *word = (uint32_t *)address;
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

/*
 * A thread whose seccomp filters are suspended must not be let go in the middle of what they forbid. Traced by a worker that
 * stands at its end, it runs on to its next stop.
 */
static void warden_stand(pid_t tid, uint64_t pads)
{
	char path[64], state;
	for (int i = 0; i < WARDEN_STAND_TRIES; i++) {
		snprintf(path, sizeof(path), "/proc/%d/stat", tid);
		FILE *f = fopen(path, "re");
		bool known = f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
		if (f)
			fclose(f);
		if (!known || state == 't' || state == 'Z' || state == 'X')
			break;
		const struct timespec pause = {.tv_nsec = WARDEN_STAND_NS};
		nanosleep(&pause, NULL);
	}
	inject_defuse(tid, pads);
}

static void warden_net_unlock(const struct warden *w, const struct warden_entry *e, int worker_pidfd)
{
	_cleanup_close_ int netns = e->object < 0 ? -1 : warden_object_fd(worker_pidfd, e->object);
	if (w->actions->net_unlock && (e->object < 0 || netns >= 0))
		w->actions->net_unlock(netns, e->data);
}

static void warden_unlink(const struct warden_entry *e)
{
	struct stat st;
	if (e->value && (lstat(e->data, &st) < 0 || st.st_ino != e->value))
		return;
	unlinkat(AT_FDCWD, e->data, e->object ? AT_REMOVEDIR : 0);
}

static bool warden_counts(const struct warden *w, const struct warden_entry *e)
{
	bool depends = e->op == WARDEN_TCP_RESUME || e->op == WARDEN_NET_UNLOCK;
	if (!depends || e->value == WARDEN_ALWAYS)
		return true;
	return (e->value == WARDEN_ONCE_COMMITTED) == (w->log->committed != 0);
}

static void warden_carry_out(const struct warden *w, const struct warden_entry *e, int worker_pidfd)
{
	switch ((enum warden_op)e->op) {
	case WARDEN_TCP_RESUME:
	case WARDEN_PEEK_OFF: warden_on_socket(w, e, worker_pidfd); break;
	case WARDEN_KILL:
		if (!w->log->committed && __atomic_load_n((uint32_t *)e->value, __ATOMIC_SEQ_CST))
			kill((pid_t)__atomic_load_n((uint32_t *)e->value, __ATOMIC_SEQ_CST), SIGKILL);
		break;
	case WARDEN_QUEUE:
		if (!w->log->committed)
			syscall(SYS_mq_unlink, e->data);
		break;
	case WARDEN_TERMINAL: warden_put_back(e, worker_pidfd, w->actions->terminal_put_back); break;
	case WARDEN_MESSAGES: warden_put_back(e, worker_pidfd, w->actions->messages_put_back); break;
	case WARDEN_END:
		if (w->log->committed)
			kill((pid_t)e->object, SIGKILL);
		break;
	case WARDEN_WAKE:
		if (w->log->committed)
			warden_wake(e->value);
		break;
	case WARDEN_NET_UNLOCK: warden_net_unlock(w, e, worker_pidfd); break;
	case WARDEN_STAND: warden_stand((pid_t)e->object, e->value); break;
	case WARDEN_PUT:
		if (e->value == WARDEN_ALWAYS_PUT || !w->log->committed)
			warden_put(w, e, worker_pidfd);
		break;
	case WARDEN_GROUP:
		if (!w->log->committed)
			warden_remove_group(e, worker_pidfd);
		break;
	case WARDEN_UNLINK:
		if (!w->log->committed)
			warden_unlink(e);
		break;
	case WARDEN_SHM_REMOVE:
		if (!w->log->committed)
			shmctl((int)e->object, IPC_RMID, NULL);
		break;
	case WARDEN_REMOVE:
		if (w->log->committed)
			unlink(e->data);
		break;
	case WARDEN_ADDRESS_ADD:
		if (w->actions->address_add)
			w->actions->address_add(e->data);
		break;
	}
}

/* Latest change first; a change that was made on top of another is taken back before it. */
static void warden_replay(struct warden *w, int worker_pidfd)
{
	for (uint32_t i = __atomic_load_n(&w->log->n, __ATOMIC_SEQ_CST); i-- > 0;) {
		struct warden_entry *e = &w->log->entries[i];
		if (!__atomic_load_n(&e->op, __ATOMIC_SEQ_CST))
			continue;
		if (warden_counts(w, e))
			warden_carry_out(w, e, worker_pidfd);
		__atomic_store_n(&e->op, 0, __ATOMIC_SEQ_CST);
	}
}

/* The worker is dead: do what it would have done. */
static void warden_act(struct warden *w, int worker_pidfd)
{
	const struct warden_deputy *deputy = &w->actions->deputy;
	bool held = worker_pidfd >= 0;
	bool undo = !deputy->may_undo || deputy->may_undo(deputy->context, held);
	if (undo)
		warden_replay(w, worker_pidfd);
	if (deputy->finish)
		deputy->finish(deputy->context, held, undo, w->log->committed);
}

static void warden_watch_pipe(struct warden *w, int pipe_fd)
{
	char byte;
	while (read(pipe_fd, &byte, 1) < 0 && errno == EINTR)
		continue;
	if (!w->log->over)
		warden_act(w, -1);
}

/* The worker's life as its tracer sees it: signals pass through, the end is held until the log is replayed. */
static void warden_watch_worker(struct warden *w, pid_t worker, int worker_pidfd)
{
	int status;
	for (;;) {
		pid_t who = waitpid(worker, &status, __WALL);
		if (who < 0 && errno == EINTR)
			continue;
		if (who < 0 || WIFEXITED(status) || WIFSIGNALED(status))
			return;
		if (status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXIT << 8))) {
			if (!w->log->over)
				warden_act(w, worker_pidfd);
			ptrace(PTRACE_DETACH, worker, 0, 0);
			return;
		}
		int signal_number = WSTOPSIG(status);
		if (status >> 16 == PTRACE_EVENT_STOP) {
			/* SIGSTOP to a worker is a group stop: stay stopped but listen. */
			ptrace(signal_number == SIGTRAP ? PTRACE_CONT : PTRACE_LISTEN, worker, 0, 0);
			continue;
		}
		ptrace(PTRACE_CONT, worker, 0, signal_number);
	}
}

static void warden_main(struct warden *w, pid_t worker, int pipe_fd)
{
	setsid();
	prctl(PR_SET_NAME, "ferry-warden");
	_cleanup_close_ int worker_pidfd = (int)syscall(SYS_pidfd_open, worker, 0);
	int keep[] = {MIN(pipe_fd, worker_pidfd), MAX(pipe_fd, worker_pidfd)};
	fd_close_others(0, keep, 2);
	bool traces = worker_pidfd >= 0 && !ptrace(PTRACE_SEIZE, worker, 0, PTRACE_O_TRACEEXIT);
	char ready = traces ? 't' : 'p';
	if (write(pipe_fd, &ready, 1) != 1)
		return;
	if (traces)
		warden_watch_worker(w, worker, worker_pidfd);
	else
		warden_watch_pipe(w, pipe_fd);
}

static void warden_free(struct warden *w)
{
	if (!w)
		return;
	if (w->log)
		munmap(w->log, sizeof(*w->log));
	if (w->pipe >= 0)
		close(w->pipe);
	free(w);
}

int warden_start(const struct warden_actions *actions, const struct fault *fault, struct warden **ret_warden,
		 struct ferry_error *err)
{
	struct warden *w = calloc(1, sizeof(*w));
	if (!w)
		return error_memory(err);
	w->pipe = -1;
	w->actions = actions;
	w->free_entry = -1;
	w->log = mmap(NULL, sizeof(*w->log), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w->log == MAP_FAILED) {
		w->log = NULL;
		warden_free(w);
		return error_memory(err);
	}
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		int code = errno;
		warden_free(w);
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "creating the warden's socket");
	}
	pid_t worker = getpid();
	fault_effect(fault, "start", "warden");
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0); /* Yama: the tracer is a child */
	w->pid = fork();
	if (!w->pid) {
		close(ends[0]);
		warden_main(w, worker, ends[1]);
		_exit(0);
	}
	int code = errno;
	close(ends[1]);
	w->pipe = ends[0];
	if (w->pid < 0) {
		warden_free(w);
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "starting the warden");
	}
	*ret_warden = w;
	return 0;
}

int warden_await(struct warden *w, struct ferry_error *err)
{
	char ready;
	if (!w->watches && fd_read_all(w->pipe, &ready, 1) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, EPIPE, "starting the warden");
	w->watches = true;
	return 0;
}

int warden_arm(struct warden *w, enum warden_op op, int64_t object, uint64_t value, const void *data,
	       size_t n)
{
	if (!w)
		return 0;
	if (n > WARDEN_DATA_BYTES)
		return -ENAMETOOLONG;
	int i = w->free_entry;
	if (i >= 0)
		w->free_entry = w->log->entries[i].next_free;
	else if (w->log->n < WARDEN_ENTRIES)
		i = (int)w->log->n;
	else
		return -ENOSPC;
	struct warden_entry *e = &w->log->entries[i];
	e->object = object;
	e->value = value;
	memset(e->data, 0, sizeof(e->data));
	if (n)
		memcpy(e->data, data, n);
	__atomic_store_n(&e->op, op, __ATOMIC_SEQ_CST);
	if ((uint32_t)i == w->log->n)
		__atomic_store_n(&w->log->n, w->log->n + 1, __ATOMIC_SEQ_CST);
	return i;
}

void warden_disarm(struct warden *w, int entry)
{
	if (!w || entry < 0)
		return;
	struct warden_entry *e = &w->log->entries[entry];
	__atomic_store_n(&e->op, 0, __ATOMIC_SEQ_CST);
	e->next_free = w->free_entry;
	w->free_entry = entry;
}

void warden_commit(struct warden *w)
{
	if (w)
		__atomic_store_n(&w->log->committed, 1, __ATOMIC_SEQ_CST);
}

pid_t warden_pid(const struct warden *w)
{
	return w ? w->pid : 0;
}

/*
 * It would end with the worker, by the end of file or the exit event, but then each would wait for the other; killed, it goes
 * while the worker goes.
 */
static void warden_end(struct warden *w)
{
	if (__atomic_exchange_n(&w->log->over, 1, __ATOMIC_SEQ_CST))
		return;
	kill(w->pid, SIGKILL);
}

void warden_dismiss(struct warden *w)
{
	if (w && !w->actions->deputy.finish)
		warden_end(w);
}

void warden_stop(struct warden *w)
{
	if (!w)
		return;
	warden_end(w);
	warden_free(w);
}
