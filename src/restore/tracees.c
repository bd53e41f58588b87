/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the moment at which tracers of the tree attach to their tracees. A tracer does so in its own script, by the blob
 * (blob/tracer.c), while the tracee waits at the barrier: all its threads sleep in the exit gadget, so that none is in the
 * middle of something. Of a tracee that runs nothing more is done; one that stands in a stop gets its own registers there
 * and takes no part in the barrier.
 *
 * Kernel interface: /proc/PID/task/TID/syscall.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "proc/lex.h"
#include "restore/restore.h"

enum { TRACEES_POLL_NS = 100000, TRACEES_LOOK_POLLS = 200 };

int tracees_check(const struct plan *plan, struct ferry_error *err)
{
	for (size_t i = 0; i < plan->n_tasks; i++) {
		const struct plan_task *t = &plan->tasks[i];
		if (!t->traced)
			continue;
		if (t->guarded || t->stop_signal || plan_first(t))
			return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
					 "pid %d is traced, and %s", t->pid,
					 t->guarded       ? "has seccomp filters"
					 : t->stop_signal ? "is to be stopped"
							  : "has a leader that ended");
	}
	return 0;
}

/* It sleeps in a futex call of the gadget. */
static bool tracees_sleeps(const struct restore *r, const struct plan_task *t, size_t index)
{
	char path[64], text[256];
	uint64_t nr, pc;
	snprintf(path, sizeof(path), "%d/task/%d/syscall", tasks_tid(r, t, 0), tasks_tid(r, t, index));
	_cleanup_close_ int fd = fd_open(r->proc, path, O_RDONLY, 0);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return false;
	text[n] = '\0';
	/* Number, six arguments, stack pointer, program counter. */
	struct lex l = lex_new(text, (size_t)n);
	return lex_u64(&l, &nr) && lex_skip_words(&l, 7) && lex_str(&l, "0x") && lex_hex(&l, &pc) &&
	       nr == SYS_futex && pc - t->gadget < ferry_gadget_bytes;
}

static bool tracees_is_built(const struct restore *r, const struct plan_task *t)
{
	if (__atomic_load_n(&region_task(r, t)->state, __ATOMIC_SEQ_CST) != BLOB_STATE_READY)
		return false;
	for (size_t i = 0; i < t->threads.n; i++)
		if (!tracees_sleeps(r, t, i))
			return false;
	return true;
}

/* One look at all of them; how many are not built yet. */
static int tracees_round(struct restore *r)
{
	int left = 0;
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		const struct plan_task *t = &r->plan->tasks[i];
		uint32_t *built = &r->shared->members[t->member].built;
		if (!t->traced || __atomic_load_n(built, __ATOMIC_SEQ_CST))
			continue;
		if (!tracees_is_built(r, t)) {
			left++;
			continue;
		}
		__atomic_store_n(built, 1, __ATOMIC_SEQ_CST);
		futex_wake(built);
	}
	return left;
}

int tracees_build(struct restore *r, struct ferry_error *err)
{
	for (int polls = 1; tracees_round(r); polls++) {
		int ret = tasks_watch(r, polls % TRACEES_LOOK_POLLS == 0, err);
		if (ret < 0)
			return ret;
		const struct timespec pause = {.tv_nsec = TRACEES_POLL_NS};
		nanosleep(&pause, NULL);
	}
	return 0;
}
