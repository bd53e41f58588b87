/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ferry is when it is started under the name criu: CRIU's verbs, paths, log and exit statuses. Relative paths begin in the work
 * directory, which is the images directory unless --work-dir names another; the log is there, too, and its last line tells why
 * something failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cli.h"
#include "cli/version.h"
#include "compat/criu_options.h"
#include "compat/criu_stats.h"
#include "engine/chain.h"
#include "engine/job.h"

#define CRIU_VERSION "4.2"

/* Where --page-server listens, and who is asked at --address. */
enum { CRIU_ENDPOINT_BYTES = 300 };

struct criu_verb {
	const char *word;
	int (*run)(struct cli *c, struct ferry_error *err); /* a verb of ferry's own, */
	job_function job;                                   /* or a job with statistics */
	int (*write_stats)(int dir_fd, const struct engine_report *report, struct ferry_error *err);
	void (*show_stats)(FILE *out, const struct engine_report *report);
	bool needs_images, needs_tree;
};

static int criu_check(struct cli *c, struct ferry_error *err)
{
	if (c->options.feature)
		return cli_check(c, err);
	struct engine e;
	int r = engine_init(&e, &c->options, &c->log, err);
	if (r < 0)
		return r;
	engine_release(&e);
	if (geteuid())
		return error_set(err, FERRY_ERROR_PERMISSION, EPERM,
				 "not root, who alone can dump any process");
	printf("Looks good.\n");
	return 0;
}

static const struct criu_verb criu_verbs[] = {
	{.word = "dump",
	 .job = engine_dump,
	 .write_stats = criu_stats_dump,
	 .show_stats = criu_stats_show_dump,
	 .needs_images = true,
	 .needs_tree = true},
	{.word = "pre-dump",
	 .job = engine_pre_dump,
	 .write_stats = criu_stats_dump,
	 .show_stats = criu_stats_show_dump,
	 .needs_images = true,
	 .needs_tree = true},
	{.word = "restore",
	 .job = engine_restore,
	 .write_stats = criu_stats_restore,
	 .show_stats = criu_stats_show_restore,
	 .needs_images = true},
	{.word = "check", .run = criu_check},
	{.word = "dedup", .run = cli_dedup, .needs_images = true},
	{.word = "page-server", .run = cli_page_server, .needs_images = true},
	{.word = "lazy-pages", .run = cli_lazy_pages, .needs_images = true},
};

static void criu_help(FILE *out)
{
	fprintf(out, "Usage:\n");
	for (size_t i = 0; i < ARRAY_SIZE(criu_verbs); i++)
		fprintf(out, "  criu %s%s [OPTION...]\n", criu_verbs[i].word,
			criu_verbs[i].needs_tree     ? " -t PID -D DIR"
			: criu_verbs[i].needs_images ? " -D DIR"
						     : "");
	fprintf(out,
		"  criu --version\n\nThis is ferry %s; criu(8) of CRIU " CRIU_VERSION
		" explains the options, ferry(1) ferry's own names.\n",
		FERRY_VERSION);
}

static void criu_write_log(void *context, const struct log_line *line)
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

/* The cause comes last, on a line of its own: tools show the end of the log. */
static void criu_show_error(const struct cli *c, const struct ferry_error *err)
{
	FILE *out = c->log.context ? c->log.context : stderr;
	if (err->hint[0])
		fprintf(out, "Warn  (ferry): hint: %s\n", err->hint);
	fprintf(out, "Error (ferry%s%s): %s [%s]\n", *err->stage ? "/" : "", err->stage, err->message,
		ferry_error_word(err->id));
}

static int criu_open_log(const struct criu_options *o, struct cli *c, struct ferry_error *err)
{
	static const enum log_level levels[] = {LOG_ERROR_LEVEL, LOG_ERROR_LEVEL, LOG_WARN, LOG_INFO,
						LOG_DEBUG};
	c->log = (struct log_sink){.write = criu_write_log, .context = stderr, .level = levels[o->log_level]};
	if (!o->job.log_file)
		return 0;
	c->log_file = fopen(o->job.log_file, "we");
	if (!c->log_file)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "--log-file '%s'", o->job.log_file);
	c->log.context = c->log_file;
	return 0;
}

/* Make the images directory's path one that any directory understands, and go to the work directory. */
static int criu_enter(struct criu_options *o, struct ferry_error *err)
{
	char *images = realpath(o->job.images_dir ? o->job.images_dir : ".", NULL);
	if (!images)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "images directory '%s'",
				   o->job.images_dir ? o->job.images_dir : ".");
	free(o->job.images_dir);
	o->job.images_dir = images;
	const char *work = o->work_dir ? o->work_dir : images;
	if (chdir(work) < 0)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "work directory '%s'", work);
	return 0;
}

/* --address and --port, as ferry's own verbs want them. CRIU's page server is plain by its nature, wherever it listens. */
static int criu_place(const struct criu_verb *verb, struct criu_options *o, struct ferry_error *err)
{
	bool serves = verb->run == cli_page_server;
	char **place = serves || (verb->job == engine_dump && o->job.lazy_pages) ? &o->job.listen
										 : &o->job.page_server;
	if (!serves && !o->page_server && !o->job.lazy_pages)
		return 0;
	if (verb->job == engine_restore)
		return 0;
	const char *host = o->address ? o->address : serves ? "0.0.0.0" : "127.0.0.1";
	const char *form = strchr(host, ':') ? "[%s]:%d" : "%s:%d";
	if (o->port < 0 || o->port > UINT16_MAX)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "invalid argument for --port: %lld",
				 (long long)o->port);
	char *text = NULL;
	if (asprintf(&text, form, host, (int)o->port) < 0)
		return error_memory(err);
	free(*place);
	*place = text;
	o->job.insecure = true;
	return 0;
}

/* A restore takes files as they are by now, beyond what the image says of their size. */
static int criu_take_files(struct options *o, struct ferry_error *err)
{
	char *as_found = strdup("as-found");
	if (!as_found)
		return error_memory(err);
	free(o->files);
	o->files = as_found;
	return 0;
}

/* The job, and its statistics: without them it is done nevertheless. */
static int criu_run_job(const struct criu_verb *verb, const struct criu_options *o, const struct cli *c,
			struct ferry_error *err)
{
	struct engine_report report;
	struct ferry_error unwritten = FERRY_ERROR_INIT;
	int r = job_run(&o->job, verb->job, &c->log, &report, err);
	if (r < 0)
		return r;
	if (verb->write_stats(AT_FDCWD, &report, &unwritten) < 0)
		log_write(&c->log, LOG_WARN, "stats", NULL, 0, "%s", unwritten.message);
	if (o->display_stats)
		verb->show_stats(stdout, &report);
	return 0;
}

static int criu_run(const struct criu_verb *verb, struct criu_options *o, struct cli *c,
		    struct ferry_error *err)
{
	int r = criu_enter(o, err);
	if (r >= 0)
		r = criu_open_log(o, c, err);
	if (r >= 0 && verb->needs_tree && !o->job.tree)
		r = error_set(err, FERRY_ERROR_USAGE, EINVAL, "pid not specified");
	if (r >= 0 && o->network_lock && strcmp(o->network_lock, "nftables") &&
	    strcmp(o->network_lock, "iptables") && strcmp(o->network_lock, "skip"))
		r = error_set(err, FERRY_ERROR_USAGE, EINVAL, "invalid argument for --network-lock: %s",
			      o->network_lock);
	if (r >= 0)
		r = criu_place(verb, o, err);
	if (r < 0)
		return r;
	if (verb->job == engine_restore)
		r = criu_take_files(&o->job, err);
	if (r >= 0 && verb->job)
		return criu_run_job(verb, o, c, err);
	if (r < 0)
		return r;
	/* The job's own copy: what cli_ functions read. */
	c->options = o->job;
	r = verb->run(c, err);
	o->job = c->options;
	return r;
}

int cli_criu(int argc, char **argv)
{
	struct criu_options o;
	struct cli c = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct criu_verb *verb = NULL;
	int r = criu_options_read(argc, argv, &o, &err);
	if (r >= 0 && o.version) {
		printf("Version: " CRIU_VERSION "\nferry: %s\n", FERRY_VERSION);
		criu_options_release(&o);
		return 0;
	}
	for (size_t i = 0; r >= 0 && o.n_words && i < ARRAY_SIZE(criu_verbs); i++)
		if (!strcmp(o.words[0], criu_verbs[i].word))
			verb = &criu_verbs[i];
	bool shows_help = r >= 0 && (o.help || !o.n_words);
	if (shows_help)
		criu_help(stdout);
	else if (r >= 0 && !verb)
		r = error_set(&err, FERRY_ERROR_USAGE, EINVAL, "unknown command: %s", o.words[0]);
	else if (r >= 0)
		r = criu_run(verb, &o, &c, &err);
	if (r < 0)
		criu_show_error(&c, &err);
	if (c.log_file)
		fclose(c.log_file);
	bool failed = r != 0 || (shows_help && !o.help);
	criu_options_release(&o);
	return failed ? 1 : 0;
}
