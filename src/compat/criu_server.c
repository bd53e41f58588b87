/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns how CRIU's servers begin: --status-fd is told when whoever comes is served, --daemon lets the command return then, --pidfile
 * says who goes on.
 */
#include "compat/criu_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "compat/criu_service.h"
#include "engine/servers.h"

int criu_tell_ready(struct criu_options *o, struct ferry_error *err)
{
	const char ready = 0;
	int fd = (int)o->status_fd;
	if (fd < 0)
		return 0;
	o->status_fd = -1;
	int r = fd_write_all(fd, &ready, sizeof(ready));
	close(fd);
	return r < 0 ? error_errno(err, FERRY_ERROR_USAGE, -r, "--status-fd %d", fd) : 0;
}

int criu_leave_streams(struct ferry_error *err)
{
	int nowhere = fd_open(AT_FDCWD, "/dev/null", O_RDWR, 0);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO && nowhere >= 0; fd++)
		if (dup2(nowhere, fd) < 0)
			nowhere = -errno;
	if (nowhere < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -nowhere, "/dev/null");
	if (nowhere > STDERR_FILENO)
		close(nowhere);
	return 0;
}

static int server_write_pid(const struct criu_options *o, pid_t pid, struct ferry_error *err)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", pid);
	int r = o->job.pidfile ? fd_replace_file(AT_FDCWD, o->job.pidfile, 0644, text, (size_t)n) : 0;
	return r < 0 ? error_errno(err, FERRY_ERROR_USAGE, -r, "--pidfile '%s'", o->job.pidfile) : 0;
}

/* The rest of the command's life is that of a process that has nothing of the terminal's. */
static int server_detach(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "starting a process");
	if (pid) {
		int r = server_write_pid(o, pid, err);
		if (r >= 0)
			r = criu_tell_ready(o, err);
		if (r < 0)
			criu_log_error(log, err);
		_exit(r < 0);
	}
	setsid();
	int r = criu_leave_streams(err);
	/* The other one tells. */
	if (o->status_fd >= 0)
		close((int)o->status_fd);
	o->status_fd = -1;
	return r;
}

struct server {
	struct criu_options *o;
	const struct criu_log *log;
};

static int server_ready(void *context, const char *where, struct ferry_error *err)
{
	const struct server *s = context;
	log_write(&s->log->sink, LOG_INFO, "server", NULL, 0, "ready at %s", where);
	/* --daemon, which has the letter of --restore-detached */
	if (s->o->job.restore_detached)
		return server_detach(s->o, s->log, err);
	int r = server_write_pid(s->o, getpid(), err);
	return r < 0 ? r : criu_tell_ready(s->o, err);
}

int criu_page_server_run(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	struct server s = {.o = o, .log = log};
	const struct engine_ready ready = {.tell = server_ready, .context = &s};
	struct pageserver_stats stats;
	int r = criu_place(o, "0.0.0.0", &o->job.listen, err);
	if (r >= 0)
		r = engine_page_server(&o->job, &log->sink, &ready, &stats, err);
	return r;
}

int criu_lazy_pages_run(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	struct server s = {.o = o, .log = log};
	const struct engine_ready ready = {.tell = server_ready, .context = &s};
	int r = o->page_server ? criu_place(o, "127.0.0.1", &o->job.page_server, err) : 0;
	return r < 0 ? r : engine_lazy_pages(&o->job, &log->sink, &ready, err);
}

int criu_service_run(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	struct server s = {.o = o, .log = log};
	const struct engine_ready ready = {.tell = server_ready, .context = &s};
	return criu_service_serve(o->address ? o->address : "criu_service.socket", &log->sink, &ready, err);
}
