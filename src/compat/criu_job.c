/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what surrounds a job under the name criu. Relative paths begin in the work directory, which is the images directory unless another is
 * named; the log is there, too.
 */
#include "compat/criu_job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "compat/criu_hooks.h"
#include "compat/criu_server.h"
#include "compat/criu_stats.h"
#include "engine/chain.h"
#include "engine/job.h"

struct criu_job_info {
	job_function run;
	int (*write_stats)(int dir_fd, const struct engine_report *report, struct ferry_error *err);
	void (*show_stats)(FILE *out, const struct engine_report *report);
};

static const struct criu_job_info criu_jobs[] = {
	[CRIU_DUMP] = {engine_dump, criu_stats_dump, criu_stats_show_dump},
	[CRIU_PRE_DUMP] = {engine_pre_dump, criu_stats_dump, criu_stats_show_dump},
	[CRIU_RESTORE] = {engine_restore, criu_stats_restore, criu_stats_show_restore},
};

static void criu_log_write(void *context, const struct log_line *line)
{
	static const char *const words[] = {[LOG_ERROR_LEVEL] = "Error ", [LOG_WARN] = "Warn  "};
	const char *word = line->level < ARRAY_SIZE(words) && words[line->level] ? words[line->level] : "";
	FILE *out = context;
	fprintf(out, "(%02llu.%06llu) %s(%s%s%s): ", (unsigned long long)(line->time_ns / 1000000000u % 100),
		(unsigned long long)(line->time_ns / 1000 % 1000000u), word, line->stage,
		*line->kind ? "/" : "", line->kind);
	if (line->pid)
		fprintf(out, "pid %d: ", line->pid);
	fprintf(out, "%s\n", line->text);
	fflush(out);
}

int criu_log_open(const struct criu_options *o, struct criu_log *ret, struct ferry_error *err)
{
	static const enum log_level levels[] = {LOG_ERROR_LEVEL, LOG_ERROR_LEVEL, LOG_WARN, LOG_INFO,
						LOG_DEBUG};
	*ret = (struct criu_log){
		.sink = {.write = criu_log_write, .context = stderr, .level = levels[o->log_level]}};
	if (!o->job.log_file)
		return 0;
	ret->file = fopen(o->job.log_file, "we");
	if (!ret->file)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "--log-file '%s'", o->job.log_file);
	ret->sink.context = ret->file;
	return 0;
}

void criu_log_close(struct criu_log *log)
{
	if (log->file)
		fclose(log->file);
	*log = (struct criu_log){0};
}

void criu_log_error(const struct criu_log *log, const struct ferry_error *err)
{
	FILE *out = log->file ? log->file : stderr;
	if (*error_next_step(err))
		fprintf(out, "Warn  (ferry): hint: %s\n", error_next_step(err));
	fprintf(out, "Error (ferry%s%s): %s [%s]\n", *err->stage ? "/" : "", err->stage, err->message,
		ferry_error_word(err->id));
	fflush(out);
}

/*
 * A path that any directory understands. What another process has open may be reachable by no path: then it stays named by that
 * process's descriptor.
 */
static char *criu_resolve(const char *path)
{
	struct stat by_path, found;
	char *real = realpath(path, NULL);
	if (real && stat(path, &by_path) == 0 && stat(real, &found) == 0 && by_path.st_dev == found.st_dev &&
	    by_path.st_ino == found.st_ino)
		return real;
	free(real);
	return *path == '/' && stat(path, &by_path) == 0 ? strdup(path) : NULL;
}

int criu_enter(struct criu_options *o, struct ferry_error *err)
{
	const char *named = o->job.images_dir ? o->job.images_dir : ".";
	char *images = criu_resolve(named);
	if (!images)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "images directory '%s'", named);
	free(o->job.images_dir);
	o->job.images_dir = images;
	const char *work = o->work_dir ? o->work_dir : images;
	if (chdir(work) < 0)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "work directory '%s'", work);
	free(o->job.socket_dir);
	o->job.socket_dir = getcwd(NULL, 0);
	return o->job.socket_dir ? 0 : error_errno(err, FERRY_ERROR_SYSTEM, errno, "the work directory");
}

int criu_place(struct criu_options *o, const char *host, char **place, struct ferry_error *err)
{
	char *text = NULL;
	if (o->address)
		host = o->address;
	if (o->port < 0 || o->port > UINT16_MAX)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "invalid argument for --port: %lld",
				 (long long)o->port);
	int n = o->ps_socket >= 0
			? asprintf(&text, "fd:%d", (int)o->ps_socket)
			: asprintf(&text, strchr(host, ':') ? "[%s]:%d" : "%s:%d", host, (int)o->port);
	if (n < 0)
		return error_memory(err);
	free(*place);
	*place = text;
	o->job.insecure = true;
	return 0;
}

static int criu_check_lock(const struct criu_options *o, struct ferry_error *err)
{
	static const char *const ways[] = {"nftables", "iptables", "skip"};
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		if (!strcmp(o->job.network_lock, ways[i]))
			return 0;
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "invalid argument for --network-lock: %s",
			 o->job.network_lock);
}

static int criu_set(char **place, const char *word, struct ferry_error *err)
{
	char *copy = strdup(word);
	if (!copy)
		return error_memory(err);
	free(*place);
	*place = copy;
	return 0;
}

/* A restore takes files as they are by now, beyond what the image says of their size; and clocks, where it may not make others. */
static int criu_take_as_found(struct criu_options *o, struct ferry_error *err)
{
	int r = criu_set(&o->job.files, "as-found", err);
	return r < 0 || !o->unprivileged ? r : criu_set(&o->job.clock, "host", err);
}

static int criu_check_validation(const struct criu_options *o, struct ferry_error *err)
{
	const char *asked = o->job.file_validation;
	return !asked || !strcmp(asked, "filesize") || !strcmp(asked, "buildid")
		       ? 0
		       : error_set(err, FERRY_ERROR_USAGE, EINVAL,
				   "invalid argument for --file-validation: %s", asked);
}

static int criu_prepare(enum criu_job job, struct criu_options *o, struct ferry_error *err)
{
	if (job != CRIU_RESTORE && !o->job.tree)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "pid not specified");
	int r = criu_check_lock(o, err);
	if (r >= 0)
		r = criu_check_validation(o, err);
	if (r >= 0 && job == CRIU_RESTORE)
		return criu_take_as_found(o, err);
	if (r >= 0 && (o->page_server || o->job.lazy_pages))
		r = criu_place(o, "127.0.0.1", o->job.lazy_pages ? &o->job.listen : &o->job.page_server, err);
	return r;
}

struct criu_stages {
	struct criu_options *o;
	const struct criu_told *told;
	struct criu_hooks hooks;
};

static int criu_at_stage(void *context, enum engine_stage stage, pid_t pid, int fd, struct ferry_error *err)
{
	const struct criu_stages *s = context;
	if (stage == ENGINE_ORPHAN_PTS_MASTER && !s->told)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "nobody is there who takes the tree's terminal");
	int r = s->told ? s->told->stage(s->told->context, stage, pid, fd, err) : 0;
	if (r >= 0)
		r = criu_hooks_run(&s->hooks, stage, pid, err);
	return r < 0 || stage != ENGINE_READY ? r : criu_tell_ready(s->o, err);
}

int criu_job_run(enum criu_job job, struct criu_options *o, const struct criu_log *log,
		 const struct criu_told *told, struct engine_report *ret_report, struct ferry_error *err)
{
	const struct criu_job_info *info = &criu_jobs[job];
	struct ferry_error unwritten = FERRY_ERROR_INIT;
	*ret_report = (struct engine_report){0};
	int r = criu_prepare(job, o, err);
	_cleanup_close_ int images =
		r < 0 ? r : fd_open(AT_FDCWD, o->job.images_dir, O_DIRECTORY | O_RDONLY, 0);
	if (r < 0)
		return r;
	if (images < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -images, "images directory '%s'",
				   o->job.images_dir);
	/* The job may leave ferry in another place. */
	_cleanup_close_ int work = fd_open(AT_FDCWD, ".", O_DIRECTORY | O_RDONLY, 0);
	if (work < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -work, "the work directory");
	struct criu_stages stages = {.o = o,
				     .told = told,
				     .hooks = {.scripts = &o->action_scripts,
					       .images = images,
					       .output = log->file ? fileno(log->file) : STDERR_FILENO}};
	bool at_stages = told || o->action_scripts.v.n || o->status_fd >= 0;
	const int status_fd = (int)o->status_fd;
	const struct job_watch watch = {
		.stage = at_stages ? criu_at_stage : NULL, .context = &stages, .own_fd = &status_fd};
	r = job_run_watched(&o->job, info->run, &log->sink, &watch, ret_report, err);
	if (r < 0)
		return r;
	/* Without its statistics a job is done nevertheless. */
	if (info->write_stats(work, ret_report, &unwritten) < 0)
		log_write(&log->sink, LOG_WARN, "stats", NULL, 0, "%s", unwritten.message);
	if (o->display_stats)
		info->show_stats(stdout, ret_report);
	return 0;
}
