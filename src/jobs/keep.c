/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what happens to jobs that exist: save, restore, stop, remove, and their logs. An image is whole and on the disk before
 * the job is ended, and the older one goes only after that; a restore marks its image before anything runs. So of a job that is
 * saved again and again there is always the running copy or one image that can be restored, never both.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "engine/job.h"
#include "jobs/internal.h"
#include "kernel/syscalls.h"

enum { KEEP_BLOCK = 1 << 16, KEEP_DEPTH = 64, KEEP_FOLLOW_MS = 200 };

static int keep_wrong_state(const struct jobs_record *j, const char *what, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "job '%s' is %s: it cannot be %s", j->name,
			 jobs_state_word(j->state), what);
}

/* Remove a folder of the job with all that is in it. */
static int keep_remove_folder(int at, const char *name, unsigned depth)
{
	int fd = depth ? fd_open(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0) : -ELOOP;
	_cleanup_closedir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	if (!dir)
		return fd < 0 ? fd : -ENOMEM;
	/* First of all it is no image any more. */
	unlinkat(fd, "inventory.img", 0);
	while ((entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
		    unlinkat(fd, entry->d_name, 0) == 0)
			continue;
		int r = errno == EISDIR || errno == EPERM ? keep_remove_folder(fd, entry->d_name, depth - 1)
							  : -errno;
		if (r < 0)
			return r;
	}
	return unlinkat(at, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

static void keep_remove_images(const struct jobs_record *j, unsigned but, const struct log_sink *log)
{
	int fd = fd_open(j->dir, ".", O_RDONLY | O_DIRECTORY, 0);
	_cleanup_closedir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		unsigned n = jobs_image_number(entry->d_name);
		int r = n && n != but ? keep_remove_folder(j->dir, entry->d_name, KEEP_DEPTH) : 0;
		if (r < 0)
			log_write(log, LOG_WARN, "save", NULL, 0, "removing %s of job '%s': %s, ignoring",
				  entry->d_name, j->name, strerror(-r));
	}
}

static int keep_options(const struct options *from, const struct jobs_record *j, unsigned image,
			struct options *ret, struct ferry_error *err)
{
	options_init(ret);
	ret->timeout = from->timeout;
	ret->tcp_established = from->tcp_established;
	ret->user_ns = j->user_ns;
	free(ret->files);
	free(ret->clock);
	ret->files = strdup(from->files);
	ret->clock = strdup(from->clock);
	ret->again = from->again;
	ret->no_live = from->no_live;
	ret->freeze_budget = from->freeze_budget;
	ret->throttle = from->throttle;
	ret->no_verify_pages = from->no_verify_pages;
	ret->restore_detached = true;
	ret->overwrite = true; /* what is there is no image */
	if (asprintf(&ret->images_dir, "%s/image-%u", j->path, image) < 0)
		ret->images_dir = NULL;
	if (ret->images_dir && ret->files && ret->clock)
		return 0;
	options_release(ret);
	return error_memory(err);
}

static int keep_job(struct options *o, struct jobs_record *j, job_function function,
		    const struct log_sink *log, struct ferry_error *err)
{
	struct engine_report report;
	int r = job_run(o, function, log, &report, err);
	options_release(o);
	jobs_look(j);
	return r;
}

int jobs_save(const struct options *options, struct jobs_record *j, const struct log_sink *log,
	      struct ferry_error *err)
{
	struct options o;
	unsigned image = j->highest_image + 1;
	if (j->state != JOBS_RUNNING)
		return keep_wrong_state(j, "saved", err);
	int r = keep_options(options, j, image, &o, err);
	if (r < 0)
		return r;
	o.tree = j->pid;
	r = keep_job(&o, j, engine_dump, log, err);
	/* Whatever was said: what counts is what is there. */
	if (j->state != JOBS_SAVED || j->image != image)
		return r < 0 ? r
			     : error_set(err, FERRY_ERROR_INTERNAL, EIO, "job '%s' has no image", j->name);
	error_clear(err);
	keep_remove_images(j, image, log);
	j->since_s = time(NULL);
	return jobs_write(j, err);
}

int jobs_restore(const struct options *options, struct jobs_record *j, const struct log_sink *log,
		 struct ferry_error *err)
{
	struct options o;
	bool lost = j->state == JOBS_LOST && j->image;
	if (lost && !options->again) {
		error_set(err, FERRY_ERROR_IMAGE_SPENT, EEXIST,
			  "job '%s' is lost, and its newest image was restored before", j->name);
		error_hint(
			err,
			"ferry restore --again --files=as-found %s runs it on from there, with its files as they are now: what it did since, it does again",
			j->name);
		return -EEXIST;
	}
	if (!lost && j->state != JOBS_SAVED)
		return keep_wrong_state(j, "restored", err);
	int r = keep_options(options, j, j->image, &o, err);
	if (r < 0)
		return r;
	r = keep_job(&o, j, engine_restore, log, err);
	if (r < 0 && j->state != JOBS_RUNNING) {
		error_hint(err, "the job stays as it is; ferry rm --force %s gives it up", j->name);
		return r;
	}
	error_clear(err);
	j->since_s = time(NULL);
	return jobs_write(j, err);
}

/* Whoever is killed leaves no status of its own. */
static int keep_note_killed(const struct jobs_record *j)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d\n", 128 + SIGKILL);
	return fd_replace_file(j->dir, JOBS_STATUS_NAME, 0600, text, (size_t)n);
}

/* 1: it has ended. */
static int keep_wait(int pidfd, int64_t timeout_s)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	return poll(&p, 1, (int)MIN(timeout_s, 1 << 20) * 1000) > 0;
}

int jobs_stop(const struct options *options, struct jobs_record *j, struct ferry_error *err)
{
	if (j->state != JOBS_RUNNING)
		return keep_wrong_state(j, "stopped", err);
	_cleanup_close_ int pidfd = sys_pidfd_open(j->pid, 0);
	jobs_look(j);
	if (pidfd < 0 || j->state != JOBS_RUNNING)
		return 0; /* it has ended meanwhile */
	int r = sys_pidfd_send_signal(pidfd, SIGTERM, NULL, 0);
	if (r >= 0 && !keep_wait(pidfd, options->timeout))
		r = sys_pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	if (r < 0 && r != -ESRCH)
		return error_errno(err, FERRY_ERROR_PERMISSION, -r, "ending job '%s'", j->name);
	if (!keep_wait(pidfd, options->timeout))
		return error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT, "job '%s' does not end after SIGKILL",
				 j->name);
	jobs_look(j);
	if (j->state == JOBS_LOST && keep_note_killed(j) >= 0)
		jobs_look(j);
	return 0;
}

int jobs_remove(const struct options *options, struct jobs_record *j, struct ferry_error *err)
{
	static const char *const files[] = {JOBS_RECORD_NAME, JOBS_LOG_NAME, JOBS_STATUS_NAME, JOBS_INIT_NAME,
					    "lock"};
	if (j->state == JOBS_RUNNING) {
		keep_wrong_state(j, "removed", err);
		error_hint(err, "end it first: ferry stop %s", j->name);
		return -EINVAL;
	}
	if ((j->state == JOBS_SAVED || (j->state == JOBS_LOST && j->image)) && !options->force) {
		keep_wrong_state(j, "removed", err);
		error_hint(err, "its work would be lost; --force does it all the same");
		return -EINVAL;
	}
	keep_remove_images(j, 0, NULL);
	int r = keep_remove_folder(j->dir, JOBS_SNAPSHOTS_NAME, KEEP_DEPTH);
	if (r < 0 && r != -ENOENT)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "removing the snapshots of job '%s'",
				   j->name);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (unlinkat(j->dir, files[i], 0) < 0 && errno != ENOENT)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "removing '%s/%s'", j->path,
					   files[i]);
	return rmdir(j->path) < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "removing '%s'", j->path) : 0;
}

int jobs_log(const struct options *options, struct jobs_record *j, int to, struct ferry_error *err)
{
	_cleanup_close_ int fd = fd_open(j->dir, JOBS_LOG_NAME, O_RDONLY, 0);
	_cleanup_free_ char *block = malloc(KEEP_BLOCK);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening the log of job '%s'", j->name);
	if (!block)
		return error_memory(err);
	for (bool last = !options->follow;;) {
		ssize_t n = read(fd, block, KEEP_BLOCK);
		if (n < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the log of job '%s'",
					   j->name);
		int r = n ? fd_write_all(to, block, (size_t)n) : 0;
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r, "writing");
		if (n)
			continue;
		if (last)
			return 0;
		/* What it wrote last is read once more after its end. */
		jobs_look(j);
		last = j->state != JOBS_RUNNING;
		if (!last)
			poll(NULL, 0, KEEP_FOLLOW_MS);
	}
}
