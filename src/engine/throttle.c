/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns slowing down a tree: a process of its own stops it for a moment and lets it go for a moment, as long as it is asked to. A process,
 * since whoever traces a task is the only one who can let it go, and the worker is busy with storing. The hold is the one of a dump, so
 * the tree runs when that process dies, whatever it dies of.
 */
#include "engine/throttle.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/hurry.h"
#include "base/log.h"
#include "engine/engine.h"
#include "freeze/freeze.h"

enum { THROTTLE_FAILURES = 20 }; /* one after the other: it cannot be stopped */

struct throttle {
	pid_t pid;
	int control; /* closing it ends the process, which tells how long the tree stood still */
};

/* What that process works with. */
struct throttling {
	const struct engine *engine;
	int control;
	uint64_t stop_ns, run_ns, stood_ns;
	unsigned failures;
};

/* Whether it is to go on after so long. */
static bool throttling_wait(const struct throttling *t, uint64_t ns)
{
	struct pollfd p = {.fd = t->control, .events = POLLIN};
	struct timespec ts = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
	return ppoll(&p, 1, &ts, NULL) == 0;
}

/* A tree that cannot be stopped just now, since a task is being made or ends, is stopped the next time. */
static bool throttling_stop(struct throttling *t)
{
	const struct engine *e = t->engine;
	const struct freeze_options options = {.timeout_ms = (int)e->options->timeout * 1000,
					       .fault = &e->fault};
	struct ferry_error ignored = FERRY_ERROR_INIT;
	struct frozen frozen;
	if (freeze_tree((pid_t)e->options->tree, &options, &frozen, &ignored) < 0)
		return ++t->failures < THROTTLE_FAILURES;
	t->failures = 0;
	uint64_t since = frozen.since_ns, stood = time_now_ns() - since;
	bool more = stood >= t->stop_ns || throttling_wait(t, t->stop_ns - stood);
	freeze_release(&frozen);
	t->stood_ns += time_now_ns() - since;
	return more;
}

static __attribute__((noreturn)) void throttling_run(struct throttling *t, pid_t parent)
{
	prctl(PR_SET_NAME, "ferry-throttle");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Who waits for a busy processor lets the tree run for longer than he means to. */
	(void)hurry_begin();
	while (getppid() == parent && throttling_stop(t) && throttling_wait(t, t->run_ns))
		continue;
	_exit(send(t->control, &t->stood_ns, sizeof(t->stood_ns), MSG_NOSIGNAL) < 0);
}

int throttle_begin(struct engine *e, unsigned percent, uint64_t stop_ns, struct ferry_error *err)
{
	int pair[2];
	pid_t parent = getpid();
	struct throttle *t = calloc(1, sizeof(*t));
	if (!t)
		return error_memory(err);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		free(t);
		return error_errno(err, FERRY_ERROR_SYSTEM, errno,
				   "creating a channel to what slows down the tree");
	}
	fault_effect(&e->fault, "live", "start-throttle");
	t->pid = fork();
	int code = errno;
	if (!t->pid) {
		close(pair[0]);
		throttling_run(&(struct throttling){.engine = e,
						    .control = pair[1],
						    .stop_ns = stop_ns,
						    .run_ns = stop_ns * (100 - percent) / percent},
			       parent);
	}
	t->control = pair[0];
	close(pair[1]);
	if (t->pid > 0) {
		e->throttle = t;
		return 0;
	}
	close(t->control);
	free(t);
	return error_errno(err, FERRY_ERROR_SYSTEM, code, "starting what slows down the tree");
}

void throttle_end(struct engine *e)
{
	struct throttle *t = take_ptr(e->throttle);
	uint64_t stood;
	if (!t)
		return;
	shutdown(t->control, SHUT_WR);
	if (recv(t->control, &stood, sizeof(stood), 0) == sizeof(stood))
		e->report.throttled_ns += stood;
	while (waitpid(t->pid, NULL, 0) < 0 && errno == EINTR)
		continue;
	close(t->control);
	free(t);
}
