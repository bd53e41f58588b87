/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns taking snapshots one after the other. Each is a job of its own, in a worker of its own: a dump that builds on the one before, while a
 * keeper holds what tracks the tree in between (engine/chain.c). So whatever happens to one snapshot, the next finds out by itself what
 * there is to build on, and is a full one if that is nothing.
 *
 * Never two at a time: what a snapshot takes longer than the interval is left out. Signals wait until the one that is being taken is whole.
 *
 * Kernel interface: pidfd_open(2), signalfd(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "engine/job.h"
#include "host/keeper.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "series/internal.h"

enum series_wake { WAKE_TIME, WAKE_TREE, WAKE_SIGNAL };

struct taking {
	const struct series_run *run;
	struct series series;
	struct fault fault;
	struct ferry_error *err;
	uint64_t every_ns; /* 0: once */
	int pidfd, signals;
	bool tracked; /* the newest snapshot may have a keeper */
	unsigned count, skipped;
	char path[SERIES_NAME_BYTES + 4096]; /* of the one that is being taken */
	char before[SERIES_NAME_BYTES + 3];
};

/* "10s", "5m", "1h", "500ms"; without a unit seconds. */
static int taking_parse(const char *text, uint64_t *ret_ns, struct ferry_error *err)
{
	static const struct {
		const char *word;
		uint64_t ns;
	} units[] = {{"", 1000000000},   {"s", 1000000000},    {"ms", 1000000},
		     {"m", 60000000000}, {"min", 60000000000}, {"h", 3600000000000}};
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (!errno && text[0] >= '0' && text[0] <= '9' && n && !strcmp(end, units[i].word) &&
		    !__builtin_mul_overflow((uint64_t)n, units[i].ns, ret_ns) && *ret_ns < INT64_MAX / 4)
			return 0;
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--every wants a time as 10s, 5m or 1h, not '%s'",
			 text);
}

/* ------------------------------------------------------------------- telling */

static void taking_tell(const struct taking *t, struct series_event *event)
{
	event->time_s = time(NULL);
	t->run->event(t->run->context, event);
}

static void taking_tell_stored(struct taking *t, const char *name, const struct engine_report *report)
{
	struct series_event event = {
		.type = SERIES_STORED,
		.number = (unsigned)strtoul(name, NULL, 10),
		.name = name,
		.bytes = series_bytes(&t->series, name),
		.stop_ns = report->freeze_ns,
		.total_ns = report->total_ns,
		.pages = report->pages_written,
		.full = series_is_full(&t->series, name),
		.skipped = t->skipped,
	};
	taking_tell(t, &event);
	t->skipped = 0;
}

static void taking_tell_end(struct taking *t, const char *reason)
{
	struct series_event event = {.type = SERIES_ENDED, .reason = reason, .count = t->count};
	taking_tell(t, &event);
}

/* --------------------------------------------------------------- one snapshot */

/* Until something happens, or until_ns. */
static enum series_wake taking_wait(const struct taking *t, uint64_t until_ns)
{
	for (;;) {
		struct pollfd p[] = {{.fd = t->signals, .events = POLLIN},
				     {.fd = t->pidfd, .events = POLLIN}};
		uint64_t now = time_now_ns(), left = until_ns > now ? until_ns - now : 0;
		struct timespec ts = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
		int n = ppoll(p, ARRAY_SIZE(p), &ts, NULL);
		if (n > 0)
			return p[0].revents ? WAKE_SIGNAL : WAKE_TREE;
		if (!n)
			return WAKE_TIME;
	}
}

/* Whether a keeper listens there, as far as a look tells. */
static bool taking_has_keeper(const struct taking *t, const struct series_item *item)
{
	char path[SERIES_NAME_BYTES + sizeof(KEEPER_SOCKET_NAME)];
	snprintf(path, sizeof(path), "%s/" KEEPER_SOCKET_NAME, item->name);
	return faccessat(t->series.dir, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void taking_options(struct taking *t, const char *name, struct options *ret)
{
	const struct series_item *newest = series_newest(&t->series);
	*ret = *t->run->options;
	snprintf(t->path, sizeof(t->path), "%s/%s", t->run->path, name);
	ret->tree = t->run->pid;
	ret->images_dir = t->path;
	ret->prev_images_dir = NULL;
	if (newest && (t->tracked || taking_has_keeper(t, newest))) {
		snprintf(t->before, sizeof(t->before), "../%s", newest->name);
		ret->prev_images_dir = t->before;
	}
	ret->leave_running = true;
	ret->track_mem = t->every_ns || t->run->options->track_mem;
	ret->overwrite = false;
}

/* A snapshot of another process, which got the PID meanwhile, is none. */
static int taking_check(struct taking *t, struct ferry_error *err)
{
	struct pollfd p = {.fd = t->pidfd, .events = POLLIN};
	return poll(&p, 1, 0) == 1
		       ? error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "pid %d has ended", t->run->pid)
		       : 0;
}

/* What a snapshot left that did not become one is removed. */
static void taking_remove(struct taking *t, const char *name)
{
	struct ferry_error why = FERRY_ERROR_INIT;
	if (faccessat(t->series.dir, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	if (series_remove(&t->series, name, NULL, &why) < 0)
		log_write(t->run->log, LOG_WARN, "snapshot", NULL, 0, "%s, ignoring", why.message);
}

static int taking_one(struct taking *t, struct ferry_error *err)
{
	char name[SERIES_NAME_BYTES];
	struct engine_report report;
	struct options options;
	int r = series_look(&t->series, err);
	if (r < 0)
		return r;
	series_next_name(&t->series, name);
	taking_options(t, name, &options);
	r = job_run_watched(&options, engine_dump, t->run->log, t->run->watch, &report, err);
	if (r >= 0)
		r = taking_check(t, err);
	t->tracked = r >= 0 && options.track_mem;
	if (r < 0) {
		taking_remove(t, name);
		return r;
	}
	t->count++;
	taking_tell_stored(t, name, &report);
	return series_look(&t->series, err);
}

static void taking_retain(struct taking *t)
{
	struct ferry_error why = FERRY_ERROR_INIT;
	struct series_retained done = {0};
	int64_t keep = t->run->options->keep;
	if (!keep)
		return;
	int r = series_retain(&t->series, (unsigned)MIN(keep, INT32_MAX), &t->fault, t->run->log, &done,
			      &why);
	struct series_event event = {
		.type = SERIES_RETAINED, .retained = &done, .error = r < 0 ? &why : NULL};
	if (r < 0 || done.removed || done.retired || done.merged || done.waits)
		taking_tell(t, &event);
}

/* ---------------------------------------------------------------- all of them */

/* What tracks the tree ends with us, unless somebody else is to go on from here. */
static void taking_untrack(struct taking *t)
{
	const struct image_dir_open options = {.no_checksums = true};
	const struct series_item *newest = series_newest(&t->series);
	_cleanup_image_dir_ struct image_dir *image = NULL;
	struct keeper_client *keeper = NULL;
	uint64_t hi, lo;
	if (!newest || t->run->options->track_mem ||
	    image_dir_open(t->series.dir, newest->name, &options, &image, NULL) < 0)
		return;
	image_dir_id(image, &hi, &lo);
	if (keeper_find(image_dir_fd(image), hi, lo, &keeper, NULL) < 0 || !keeper)
		return;
	if (keeper_end(keeper, NULL) < 0)
		log_write(t->run->log, LOG_WARN, "snapshot", NULL, 0,
			  "the keeper does not end: memory stays tracked, ignoring");
	keeper_client_free(keeper);
}

/* The next time, at least one interval after the last. */
static uint64_t taking_next(struct taking *t, uint64_t due_ns)
{
	uint64_t now = time_now_ns();
	due_ns += t->every_ns;
	while (due_ns < now) {
		due_ns += t->every_ns;
		t->skipped++;
	}
	return due_ns;
}

static int taking_all(struct taking *t)
{
	static const char *const reasons[] = {[WAKE_TREE] = "tree", [WAKE_SIGNAL] = "signal"};
	uint64_t due = time_now_ns();
	for (;;) {
		struct ferry_error why = FERRY_ERROR_INIT;
		enum series_wake wake = taking_wait(t, due);
		if (wake != WAKE_TIME) {
			taking_tell_end(t, reasons[wake]);
			return 0;
		}
		int r = taking_one(t, &why);
		if (r < 0 && (why.id == FERRY_ERROR_USAGE || !t->every_ns)) {
			*t->err = why;
			return r;
		}
		/* That it ended is told at once, and is no failure. */
		if (r < 0 && taking_wait(t, 0) != WAKE_TREE) {
			struct series_event event = {.type = SERIES_FAILED, .error = &why};
			taking_tell(t, &event);
		}
		if (r >= 0)
			taking_retain(t);
		if (!t->every_ns) {
			taking_tell_end(t, "done");
			return 0;
		}
		due = taking_next(t, due);
	}
}

static int taking_begin(struct taking *t)
{
	const struct series_run *run = t->run;
	int r = run->options->every ? taking_parse(run->options->every, &t->every_ns, t->err) : 0;
	if (r < 0)
		return r;
	r = fault_init(&t->fault);
	if (r < 0)
		return error_errno(t->err, FERRY_ERROR_USAGE, -r, "reading FERRY_FAULT and its kin");
	t->pidfd = sys_pidfd_open(run->pid, 0);
	if (t->pidfd < 0)
		return error_errno(t->err, FERRY_ERROR_NO_SUCH_TASK, -t->pidfd, "pid %d", run->pid);
	r = series_open(run->path, true, &t->series, t->err);
	if (r < 0)
		return r;
	sigset_t mask;
	sigemptyset(&mask);
	for (size_t i = 0; i < 3; i++)
		sigaddset(&mask, (const int[]){SIGTERM, SIGINT, SIGHUP}[i]);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	t->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	return t->signals < 0 ? error_errno(t->err, FERRY_ERROR_SYSTEM, errno, "creating a signalfd") : 0;
}

int series_run(const struct series_run *run, struct ferry_error *err)
{
	_cleanup_free_ struct taking *t = calloc(1, sizeof(*t));
	if (!t)
		return error_memory(err);
	t->run = run;
	t->err = err;
	t->series.dir = t->pidfd = t->signals = -1;
	int r = taking_begin(t);
	if (r >= 0)
		r = taking_all(t);
	if (t->series.dir >= 0) {
		if (t->every_ns && t->signals >= 0)
			taking_untrack(t);
		series_close(&t->series);
	}
	if (t->signals >= 0)
		close(t->signals);
	if (t->pidfd >= 0)
		close(t->pidfd);
	fault_release(&t->fault);
	return r;
}
