/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the worker process of a job and what travels between it and the caller: log lines, then one reply, over a socketpair
 * of packets.
 */
#include "engine/job.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/pause.h"
#include "host/warden.h"
#include "kernel/syscalls.h"

enum { JOB_WARDEN_MS = 2000 };

enum job_message_type { JOB_LOG, JOB_DECIDED, JOB_STAGE, JOB_REPLY };

struct job_message {
	enum job_message_type type;
	int result;
	union {
		struct {
			enum log_level level;
			uint64_t time_ns;
			pid_t pid;
			char stage[16], kind[24], text[1024];
		} log;
		struct {
			enum engine_stage stage;
			pid_t pid;
			struct ferry_error error; /* of the answer, which is .result */
		} at;
		struct {
			struct engine_report report;
			struct ferry_error error;
			pid_t warden;
		} reply;
	};
};

static void job_forward_log(void *context, const struct log_line *line)
{
	struct job_message m = {.type = JOB_LOG};
	m.log.level = line->level;
	m.log.time_ns = line->time_ns;
	m.log.pid = line->pid;
	snprintf(m.log.stage, sizeof(m.log.stage), "%s", line->stage);
	snprintf(m.log.kind, sizeof(m.log.kind), "%s", line->kind);
	snprintf(m.log.text, sizeof(m.log.text), "%s", line->text);
	if (fd_send(*(int *)context, &m, sizeof(m), NULL, 0) < 0)
		return; /* the caller is gone; the job goes on */
}

static void job_decided(void *context)
{
	struct job_message m = {.type = JOB_DECIDED};
	if (fd_send(*(int *)context, &m, sizeof(m), NULL, 0) < 0)
		return; /* the caller is gone; the job goes on */
}

static int job_at_stage(void *context, enum engine_stage stage, pid_t pid, int fd, struct ferry_error *err)
{
	int channel = *(int *)context;
	struct job_message m = {.type = JOB_STAGE, .at = {.stage = stage, .pid = pid}};
	int r = fd_send(channel, &m, sizeof(m), &fd, fd >= 0);
	if (r >= 0 && fd_recv(channel, &m, sizeof(m), NULL, 0, NULL) != (ssize_t)sizeof(m))
		r = -EPIPE;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_INTERRUPTED, -r, "who started the job is gone");
	if (m.result < 0 && err)
		*err = m.at.error;
	return m.result;
}

/* What was not done, and for lack of what. */
static int job_do(struct engine *e, job_function function, struct ferry_error *err)
{
	struct ferry_error frozen = FERRY_ERROR_INIT;
	int r = function(e, err);
	if (r < 0 && err->id == FERRY_ERROR_TIMEOUT && e->options->tree && !pause_is_on(e->pause) &&
	    pause_refuse((pid_t)e->options->tree, &frozen) < 0) {
		error_clear(err);
		error_pass(err, &frozen);
	}
	return r;
}

static __attribute__((noreturn)) void job_worker(int channel, const struct options *options,
						 job_function function, enum log_level level,
						 const struct job_watch *watch)
{
	struct log_sink sink = {.write = job_forward_log, .context = &channel, .level = level};
	struct ferry_error err = FERRY_ERROR_INIT;
	struct engine e;
	prctl(PR_SET_NAME, "ferry-worker");
	if (watch && watch->own_fd && *watch->own_fd >= 0)
		close(*watch->own_fd);
	int r = engine_init(&e, options, &sink, &err);
	e.progress = watch ? watch->progress : NULL;
	e.stage = watch && watch->stage ? job_at_stage : NULL;
	e.stage_context = &channel;
	e.decided = job_decided;
	e.decided_context = &channel;
	if (r >= 0)
		r = job_do(&e, function, &err);
	struct job_message m = {.type = JOB_REPLY, .result = r};
	m.reply.report = e.report;
	m.reply.error = err;
	m.reply.warden = warden_pid(e.warden);
	engine_release(&e);
	_exit(fd_send(channel, &m, sizeof(m), NULL, 0) < 0 ? 1 : 0);
}

static void job_take_log(const struct log_sink *log, const struct job_message *m)
{
	if (!log || !log->write || m->log.level > log->level)
		return;
	struct log_line line = {
		.level = m->log.level,
		.time_ns = m->log.time_ns,
		.stage = m->log.stage,
		.kind = m->log.kind,
		.pid = m->log.pid,
		.text = m->log.text,
	};
	log->write(log->context, &line);
}

/* The worker is dead, and its warden has put everything back; or has brought it to its end. */
static int job_was_killed(bool decided, int status, struct ferry_error *err)
{
	int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	if (!decided) {
		error_set(err, FERRY_ERROR_INTERRUPTED, EINTR,
			  "the worker process of the job was killed (signal %d)", signal);
		error_hint(err, "the target was put back as it was; try again");
		return -EINTR;
	}
	error_set(err, FERRY_ERROR_OUTCOME_UNKNOWN, EINTR,
		  "the worker process of the job was killed at its very end (signal %d)", signal);
	error_hint(
		err,
		"nothing was put back any more: a restored tree runs, a dumped tree is ended and its image is whole");
	return -EINTR;
}

/* A message, and the descriptor that may come with it, which the caller closes; -1 = none. */
static bool job_hear(int channel, struct job_message *m, int *ret_fd)
{
	size_t n_fds = 0;
	*ret_fd = -1;
	return fd_recv(channel, m, sizeof(*m), ret_fd, 1, &n_fds) == (ssize_t)sizeof(*m);
}

/* Until it says something. */
static void job_look(int channel, const struct job_watch *watch)
{
	struct pollfd p = {.fd = channel, .events = POLLIN};
	while (watch && watch->progress && poll(&p, 1, watch->every_ms) == 0)
		watch->look(watch->context, watch->progress);
}

/* Somebody may do something now; the worker waits for the answer. */
static void job_answer(int channel, const struct job_watch *watch, struct job_message *m, int fd)
{
	struct ferry_error why = FERRY_ERROR_INIT;
	m->result =
		watch && watch->stage ? watch->stage(watch->context, m->at.stage, m->at.pid, fd, &why) : 0;
	m->at.error = why;
	if (fd_send(channel, m, sizeof(*m), NULL, 0) < 0)
		return; /* it was killed: that shows next */
}

/* Returns whether it came to an end, whose result is `*ret_result`; else it was killed. */
static bool job_listen(int channel, const struct log_sink *log, const struct job_watch *watch,
		       bool *ret_decided, struct engine_report *ret_report, int *ret_warden, int *ret_result,
		       struct ferry_error *err)
{
	for (*ret_decided = false;;) {
		struct job_message m;
		job_look(channel, watch);
		_cleanup_close_ int fd = -1;
		if (!job_hear(channel, &m, &fd))
			return false;
		*ret_decided |= m.type == JOB_DECIDED;
		if (m.type == JOB_DECIDED)
			continue;
		if (m.type == JOB_STAGE) {
			job_answer(channel, watch, &m, fd);
			continue;
		}
		if (m.type == JOB_LOG) {
			job_take_log(log, &m);
			continue;
		}
		*ret_report = m.reply.report;
		*ret_warden = m.reply.warden ? sys_pidfd_open(m.reply.warden, 0) : -1;
		if (m.result < 0 && err)
			*err = m.reply.error;
		*ret_result = m.result;
		return true;
	}
}

int job_run(const struct options *options, job_function function, const struct log_sink *log,
	    struct engine_report *ret_report, struct ferry_error *err)
{
	return job_run_watched(options, function, log, NULL, ret_report, err);
}

/* The warden ends when it has seen the worker end, or the job: nothing of it is left when we return. */
static void job_await_warden(int warden, const struct log_sink *log)
{
	struct pollfd gone = {.fd = warden, .events = POLLIN};
	if (warden >= 0 && poll(&gone, 1, JOB_WARDEN_MS) <= 0)
		log_write(log, LOG_WARN, "end", NULL, 0, "the warden process does not end, ignoring");
	if (warden >= 0)
		close(warden);
}

/* A process that stays where the caller was, and does what is to be done at stages: the job goes elsewhere. Returns its PID, or -errno. */
static pid_t job_start_watcher(int channel[2], const struct job_watch *watch)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
		return -errno;
	fflush(NULL);
	pid_t pid = fork();
	if (!pid) {
		struct job_message m;
		prctl(PR_SET_NAME, "ferry-watcher");
		close(channel[1]);
		for (int fd; job_hear(channel[0], &m, &fd);) {
			job_answer(channel[0], watch, &m, fd);
			if (fd >= 0)
				close(fd);
		}
		_exit(0);
	}
	int code = errno;
	close(channel[0]);
	if (pid < 0)
		close(channel[1]);
	return pid < 0 ? -code : pid;
}

/*
 * Without a worker: only a child of somebody's can make him further ones (CLONE_PARENT). The caller has to end soon, for its namespaces, folders
 * and signal mask may be others afterwards.
 */
static int job_run_here(const struct options *options, job_function function, const struct log_sink *log,
			const struct job_watch *watch, struct engine_report *ret_report,
			struct ferry_error *err)
{
	struct engine e;
	int channel[2] = {-1, -1};
	bool watched = watch && watch->stage;
	pid_t watcher = watched ? job_start_watcher(channel, watch) : 0;
	if (watcher < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -watcher, "starting who watches the stages");
	int r = engine_init(&e, options, log, err);
	e.progress = watch ? watch->progress : NULL;
	e.stage = watched ? job_at_stage : NULL;
	e.stage_context = &channel[1];
	if (r >= 0)
		r = job_do(&e, function, err);
	int warden = warden_pid(e.warden) ? sys_pidfd_open(warden_pid(e.warden), 0) : -1;
	*ret_report = e.report;
	engine_release(&e);
	job_await_warden(warden, log);
	if (watched)
		close(channel[1]);
	while (watched && waitpid(watcher, NULL, 0) < 0 && errno == EINTR)
		continue;
	return r;
}

int job_run_watched(const struct options *options, job_function function, const struct log_sink *log,
		    const struct job_watch *watch, struct engine_report *ret_report, struct ferry_error *err)
{
	int channel[2];
	*ret_report = (struct engine_report){0};
	if (options->restore_sibling)
		return job_run_here(options, function, log, watch, ret_report, err);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a channel to the worker");
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0) {
		int code = errno;
		close(channel[0]);
		close(channel[1]);
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "starting the worker");
	}
	if (!pid) {
		close(channel[0]);
		job_worker(channel[1], options, function, log ? log->level : LOG_ERROR_LEVEL, watch);
	}
	close(channel[1]);
	bool decided;
	int warden = -1, r = 0, status = 0;
	bool told = job_listen(channel[0], log, watch, &decided, ret_report, &warden, &r, err);
	close(channel[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	job_await_warden(warden, log);
	return told ? r : job_was_killed(decided, status, err);
}
