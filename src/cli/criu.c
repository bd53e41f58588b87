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
#include "compat/criu_exec.h"
#include "compat/criu_job.h"
#include "compat/criu_options.h"
#include "compat/criu_rpc.h"
#include "compat/criu_server.h"
#include "kernel/features.h"

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
	if (o->exec_cmd && o->n_words < 2)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--exec-cmd: no command stands behind --");
	int r = o->exec_cmd ? criu_become_parent(o, err) : 0;
	if (r > 0)
		return criu_exec(o->words + 1, r, err);
	if (r >= 0)
		r = criu_job_run(CRIU_RESTORE, o, log, NULL, &report, err);
	return r;
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

/* Each that is missing is named, but for those that ferry makes no use of. */
static bool criu_lacks_features(void)
{
	static const char *const unused_by_us[] = {"apparmor_stacking", "has_ipt_legacy", "breakpoints"};
	const char *word;
	struct kern_caps caps;
	bool lacks = false;
	kern_caps_init(&caps);
	for (size_t i = 0; (word = kern_feature_word(i)); i++) {
		bool matters = true;
		for (size_t k = 0; k < ARRAY_SIZE(unused_by_us); k++)
			matters &= strcmp(word, unused_by_us[k]) != 0;
		if (!matters || kern_feature(&caps, word) > 0)
			continue;
		fprintf(stderr, "Warn  (ferry): the kernel lacks %s\n", word);
		lacks = true;
	}
	if (lacks)
		printf("Looks good but some kernel features are missing\n"
		       "which, depending on your process tree, may cause\n"
		       "dump or restore failure.\n");
	return lacks;
}

static int criu_check(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	if (o->job.feature)
		return criu_lend(cli_check, o, log, err);
	if (geteuid())
		return error_set(err, FERRY_ERROR_PERMISSION, EPERM,
				 "not root, who alone can dump any process");
	if (o->all_features && criu_lacks_features())
		return 1;
	printf("Looks good.\n");
	return 0;
}

static int criu_dedup(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	return criu_lend(cli_dedup, o, log, err);
}

static int criu_cpuinfo(struct criu_options *o, const struct criu_log *log, struct ferry_error *err)
{
	struct cli c = {.options = o->job, .log = log->sink, .argc = o->n_words - 1, .argv = o->words + 1};
	return cli_cpuinfo(&c, err);
}

/* Served over a socket that whoever started us left open: its number is the next word. */
static int criu_swrk(struct criu_options *o, const struct criu_log *log unused, struct ferry_error *err)
{
	char *end = NULL;
	long fd = o->n_words > 1 ? strtol(o->words[1], &end, 10) : -1;
	if (fd < 0 || fd > INT_MAX || *end)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "swrk wants the number of a descriptor");
	return criu_rpc_serve((int)fd, false, err);
}

static const struct criu_verb criu_verbs[] = {
	{"dump", "-t PID -D DIR", criu_dump, true},
	{"pre-dump", "-t PID -D DIR", criu_pre_dump, true},
	{"restore", "-D DIR", criu_restore, true},
	{"check", "", criu_check, false},
	{"dedup", "-D DIR", criu_dedup, true},
	{"cpuinfo", "dump|check -D DIR", criu_cpuinfo, true},
	{"page-server", "-D DIR", criu_page_server_run, true},
	{"lazy-pages", "-D DIR", criu_lazy_pages_run, true},
	{"swrk", "FD", criu_swrk, false},
	{"service", "[-W DIR]", criu_service_run, false},
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
