/* SPDX-License-Identifier: Apache-2.0 */
/* What ferry is when it is started under the name criu: CRIU's verbs and exit statuses. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cli.h"
#include "cli/version.h"
#include "compat/criu_job.h"
#include "compat/criu_options.h"
#include "compat/criu_rpc.h"

struct criu_verb {
	const char *word, *usage;
	int (*run)(struct criu_options *o, const struct criu_log *log, struct ferry_error *err);
	bool needs_images;
};

static int criu_dump(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	struct engine_report report;
	return criu_job_run(CRIU_DUMP, o, log, NULL, &report, err);
}

static int criu_pre_dump(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	struct engine_report report;
	return criu_job_run(CRIU_PRE_DUMP, o, log, NULL, &report, err);
}

static int criu_restore(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	struct engine_report report;
	return criu_job_run(CRIU_RESTORE, o, log, NULL, &report, err);
}

/* A verb of ferry's own, with these options. */
static int criu_lend(int (*run)(struct cli *c, struct ferry_error *err), struct criu_options *o,
		     const struct criu_log *log, struct ferry_error *err)
{
	struct cli c = {.options = o->job, .log = log->sink};
	int r = run(&c, err);
	o->job = c.options;
	return r;
}

static int criu_check(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	if (o->job.feature)
		return criu_lend(cli_check, o, log, err);
	if (geteuid())
		return error_set(err, FERRY_ERROR_PERMISSION, EPERM,
				 "not root, who alone can dump any process");
	printf("Looks good.\n");
	return 0;
}

static int criu_dedup(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	return criu_lend(cli_dedup, o, log, err);
}

static int criu_page_server(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	int r = criu_place(o, "0.0.0.0", &o->job.listen, err);
	return r < 0 ? r : criu_lend(cli_page_server, o, log, err);
}

static int criu_lazy_pages(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	int r = o->page_server ? criu_place(o, "127.0.0.1", &o->job.page_server, err) : 0;
	return r < 0 ? r : criu_lend(cli_lazy_pages, o, log, err);
}

/* Served over a socket that whoever started us left open: its number is the next word. */
static int criu_swrk(struct criu_options *o, const struct criu_log *log unused, struct ferry_error *err)
{
	char *end = NULL;
	long fd = o->n_words > 1 ? strtol(o->words[1], &end, 10) : -1;
	if (fd < 0 || fd > INT_MAX || *end)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "swrk wants the number of a descriptor");
	return criu_rpc_serve((int)fd, err);
}

static const struct criu_verb criu_verbs[] = {
	{"dump", "-t PID -D DIR", criu_dump, true},      {"pre-dump", "-t PID -D DIR", criu_pre_dump, true},
	{"restore", "-D DIR", criu_restore, true},       {"check", "", criu_check, false},
	{"dedup", "-D DIR", criu_dedup, true},           {"page-server", "-D DIR", criu_page_server, true},
	{"lazy-pages", "-D DIR", criu_lazy_pages, true}, {"swrk", "FD", criu_swrk, false},
};

static void criu_help(FILE *out)
{
	fprintf(out, "Usage:\n");
	for (size_t i = 0; i < ARRAY_SIZE(criu_verbs); i++)
		fprintf(out, "  criu %s %s%s[OPTION...]\n", criu_verbs[i].word, criu_verbs[i].usage,
			*criu_verbs[i].usage ? " " : "");
	fprintf(out,
		"  criu --version\n\nThis is ferry %s under another name, see ferry-criu(7); its options are those of CRIU " CRIU_VERSION
		".\n",
		FERRY_VERSION);
}

/* check writes its log where it is. */
static int criu_run(const struct criu_verb *verb, struct criu_options *o, struct criu_log *log,
		    struct ferry_error *err)
{
	int r = verb->needs_images || o->work_dir || o->job.images_dir ? criu_enter(o, err) : 0;
	if (r >= 0)
		r = criu_log_open(o, log, err);
	return r < 0 ? r : verb->run(o, log, err);
}

int cli_criu(int argc, char **argv)
{
	struct criu_options o;
	struct criu_log log = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct criu_verb *verb = NULL;
	int r = criu_options_read(argc, argv, &o, &err);
	for (size_t i = 0; r >= 0 && o.n_words && i < ARRAY_SIZE(criu_verbs); i++)
		if (!strcmp(o.words[0], criu_verbs[i].word))
			verb = &criu_verbs[i];
	if (r >= 0 && o.version)
		printf("Version: " CRIU_VERSION "\nferry: %s\n", FERRY_VERSION);
	else if (r >= 0 && (o.help || !o.n_words))
		criu_help(stdout);
	else if (r >= 0 && !verb)
		r = error_set(&err, FERRY_ERROR_USAGE, EINVAL, "unknown command: %s", o.words[0]);
	else if (r >= 0)
		r = criu_run(verb, &o, &log, &err);
	if (r < 0)
		criu_log_error(&log, &err);
	bool is_asked = o.version || o.help || o.n_words;
	criu_log_close(&log);
	criu_options_release(&o);
	return r || !is_asked ? 1 : 0;
}
