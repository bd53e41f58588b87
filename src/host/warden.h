/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The warden: a tiny process in a session of its own that puts things right when the worker of a job is killed.
 *
 * It traces the worker (PTRACE_SEIZE with PTRACE_O_TRACEEXIT), so a worker that gets SIGKILL stops at
 * PTRACE_EVENT_EXIT with all its descriptors still open and with every target that the worker traces still stopped. The
 * warden replays the log there and lets the worker go only then: no target ever runs with one of our changes in place.
 * Where tracing is impossible (a debugger holds the worker) the warden acts at the end of file on a pipe.
 *
 * The worker must have all signals blocked: each signal delivered to a traced process would stop it.
 *
 * Every change to the outside is entered before it is made (warden_arm) and struck out when it was taken back or became
 * right (warden_disarm). The log lies in memory that both share.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/macros.h"

enum warden_op {
	WARDEN_TCP_RESUME =
		1, /* object: socket in the worker: leave repair mode; value: when; data: what resuming needs */
	WARDEN_PEEK_OFF, /* object: socket in the worker; value: SO_PEEK_OFF as it was */
	WARDEN_KILL, /* value: address of a word in shared memory that holds the PID of a task that must not run once
				   it exists, 0 before; killed unless the job was committed */
	WARDEN_WAKE, /* value: address of a futex word in shared memory: set to 1 and woken once committed */
	WARDEN_NET_UNLOCK, /* object: network namespace in the worker, -1 = the warden's own; value: when; data: id of a lock */
	WARDEN_PUT, /* object: directory in the worker; data: name of a file of a cgroup, and behind it the text that
			      it had: written again unless the job was committed; value: 1 = also then */
	WARDEN_GROUP, /* object: directory in the worker; data: path of a cgroup below it to remove unless the job was committed,
			 as soon as those who were in it are gone */
	WARDEN_UNLINK, /* data: path of a file to remove unless the job was committed; object: 1 = an empty directory;
				   value: only if the path has this inode number, 0 = any */
	WARDEN_REMOVE,      /* data: path of a file to remove once the job was committed */
	WARDEN_ADDRESS_ADD, /* data: "ADDRESS/PREFIX DEVICE" that was taken away and comes back */
	WARDEN_SHM_REMOVE, /* object: id of a System V segment that is removed unless the job was committed */
	WARDEN_STAND, /* object: TID of a thread under seccomp, value: its landing pads: it finds home without a call
			 that is forbidden when nobody suspends its filters any more */
	WARDEN_QUEUE,    /* data: name of a message queue to remove unless the job was committed */
	WARDEN_TERMINAL, /* object: memory file in the worker that says what was taken out of a terminal */
	WARDEN_MESSAGES, /* object: memory file in the worker that says what was taken out of a message queue */
	WARDEN_END,      /* object: PID of a stopped task that is killed once the job was committed */
};

/* Value of WARDEN_TCP_RESUME and WARDEN_NET_UNLOCK: when the entry counts. */
enum warden_when { WARDEN_ALWAYS, WARDEN_ONCE_COMMITTED, WARDEN_UNLESS_COMMITTED };

/* Value of WARDEN_PUT: also once committed. */
enum { WARDEN_ALWAYS_PUT = 1 };

struct warden;

/*
 * Who acts for a dead worker beside the log; all NULL when nobody does. Runs in the warden, with the worker's memory as it
 * was when the warden started. worker_is_held: the worker still holds its descriptors and locks.
 */
struct warden_deputy {
	bool (*may_undo)(void *context,
			 bool worker_is_held); /* before the log: false leaves everything as it is */
	void (*finish)(void *context, bool worker_is_held, bool undone, bool committed); /* after it */
	void *context;
};

/* How a kind of entry is undone by rooms that the warden's room may not include. */
struct warden_actions {
	int (*tcp_resume)(int socket, const void *data);
	int (*net_unlock)(int netns, const char *id);
	int (*address_add)(const char *text);
	int (*terminal_put_back)(int worker_pidfd, int memory);
	int (*messages_put_back)(int worker_pidfd, int memory);
	int (*group_put)(int dir, const char *file, const char *text);
	struct warden_deputy deputy;
};

/*
 * Start the warden of the calling process, which has all signals blocked. It is not there yet: before the first entry, and before
 * the caller traces anything, warden_await() has to be called.
 */
must_check int warden_start(const struct warden_actions *actions, const struct fault *fault,
			    struct warden **ret_warden, struct ferry_error *err);

/* Wait until it watches; once. */
must_check int warden_await(struct warden *w, struct ferry_error *err);

/* Bytes that an entry can carry beside its numbers; strings include their NUL. */
enum { WARDEN_DATA_BYTES = 344 };

/*
 * Enter a change. Returns the entry's number, or -ENOSPC when the log is full, -ENAMETOOLONG when n is too large: then
 * the change must not be made. warden may be NULL: nothing is logged, 0 is returned.
 */
must_check int warden_arm(struct warden *w, enum warden_op op, int64_t object, uint64_t value,
			  const void *data, size_t n);
void warden_disarm(struct warden *w, int entry);

/* From now on what the job made stays: WARDEN_KILL entries are void, WARDEN_WAKE is carried out. */
void warden_commit(struct warden *w);

/* PID of the warden process, for tests that pick victims. */
pid_t warden_pid(const struct warden *w);

/*
 * Nothing is armed any more: the warden goes, while the worker does what is left; unless it has a deputy, whose part is not over. The
 * worker's end waits for that of its tracer.
 */
void warden_dismiss(struct warden *w);

/* The same, with a deputy or without; frees w. */
void warden_stop(struct warden *w);
