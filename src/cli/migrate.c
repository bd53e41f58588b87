/* SPDX-License-Identifier: Apache-2.0 */
/* ferry migrate: start a migration, or settle one; the report. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "cli/cli.h"
#include "engine/job.h"
#include "migrate/migrate.h"
#include "migrate/report.h"
#include "store/journal.h"

enum { MIGRATE_EXIT_OTHER_WAY = 1 }; /* settled, but not the way that was asked for */

static int migrate_open_report(const char *base, const char *suffix, struct ferry_error *err)
{
	_cleanup_free_ char *path = NULL;
	if (asprintf(&path, "%s%s", base, suffix) < 0) {
		path = NULL;
		return error_memory(err);
	}
	int fd = fd_open(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	return fd < 0 ? error_errno(err, FERRY_ERROR_USAGE, -fd, "--report '%s'", path) : fd;
}

/* Both files are made before anything happens: a report that cannot be written is no surprise at the end. */
struct migrate_files {
	int json, html;
};

static int migrate_open_files(const char *base, struct migrate_files *f, struct ferry_error *err)
{
	*f = (struct migrate_files){-1, -1};
	if (!base)
		return 0;
	_cleanup_free_ char *stem = strdup(base);
	if (!stem)
		return error_memory(err);
	size_t n = strlen(stem);
	if (n > 5 && !strcmp(stem + n - 5, ".json"))
		stem[n - 5] = '\0';
	f->json = migrate_open_report(stem, ".json", err);
	f->html = f->json < 0 ? f->json : migrate_open_report(stem, ".html", err);
	return MIN(f->html, 0);
}

static void migrate_close_files(struct migrate_files *f)
{
	if (f->json >= 0)
		close(f->json);
	if (f->html >= 0)
		close(f->html);
}

static int migrate_write_files(const struct migrate_files *f, struct json_object *report)
{
	_cleanup_strbuf_ struct strbuf html = {0};
	if (f->json < 0)
		return 0;
	const char *text =
		json_object_to_json_string_ext(report, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
	int r = fd_write_all(f->json, text, strlen(text));
	if (r >= 0)
		r = fd_write_all(f->json, "\n", 1);
	if (r >= 0)
		r = report_html(report, &html);
	return r < 0 ? r : fd_write_all(f->html, html.s, html.n);
}

static void migrate_show_moved(const struct cli *c, const struct engine_report *r)
{
	const struct engine_migration *m = &r->migration;
	printf("pid %lld moved from %s to %s in %.0f ms and stood still for %.0f ms of it\n",
	       (long long)c->options.tree, m->source, m->target, (double)r->total_ns / 1e6,
	       (double)r->freeze_ns / 1e6);
	for (uint32_t i = 0; i < r->n_phases; i++)
		printf("  %-9s %9.1f ms\n", r->phases[i].name,
		       (double)(r->phases[i].end_ns - r->phases[i].start_ns) / 1e6);
	printf("%.1f MiB over the network in %.0f ms; migration %s\n", (double)m->bytes / (1 << 20),
	       (double)m->transfer_ns / 1e6, m->id);
}

static void migrate_show(const struct cli *c, const struct engine_report *r)
{
	const struct engine_migration *m = &r->migration;
	if (!strcmp(m->outcome, "committed") && r->freeze_ns)
		migrate_show_moved(c, r);
	else if (!strcmp(m->outcome, "committed"))
		printf("migration %s is complete: the work runs on the other side, the copy here is gone\n",
		       m->id);
	else
		printf("migration %s is settled: %s\n", m->id,
		       !strcmp(m->outcome, "aborted")   ? "the work runs here"
		       : !strcmp(m->outcome, "running") ? "the work runs here"
							: "the work did not come here");
}

static int migrate_tell(struct cli *c, const struct engine_report *report, const struct migrate_files *files)
{
	struct json_object *o = report_json(report);
	if (migrate_write_files(files, o) < 0)
		fprintf(stderr, "ferry: the report could not be written\n");
	if (c->options.json)
		cli_print_json(o);
	else
		json_object_put(o);
	if (!c->options.json)
		migrate_show(c, report);
	return 0;
}

static int migrate_run(struct cli *c, job_function function, struct engine_report *report,
		       struct ferry_error *err)
{
	struct cli_progress progress;
	cli_progress_start(&progress, c);
	int r = job_run(&c->options, function, &progress.sink, report, err);
	cli_progress_end(&progress);
	return r;
}

static int migrate_settle_verb(struct cli *c, const struct migrate_files *files, struct ferry_error *err)
{
	struct engine_report report;
	int r = migrate_run(c, migrate_settle, &report, err);
	if (r < 0)
		return r;
	migrate_tell(c, &report, files);
	bool moved = !strcmp(report.migration.outcome, "committed") ||
		     !strcmp(report.migration.outcome, "running");
	return moved == (c->options.resume != NULL) ? 0 : MIGRATE_EXIT_OTHER_WAY;
}

/*
 * The worker was killed. Its warden has put right what it could; if the work had been let go already, only the target knows who runs
 * it: ask, as --resume does.
 */
static int migrate_after_death(struct cli *c, const struct migrate_files *files, struct ferry_error *err)
{
	struct journal *j;
	struct journal_record record;
	struct ferry_error ignored = FERRY_ERROR_INIT;
	if (journal_open(c->options.journal, false, NULL, &j, &ignored) < 0)
		return -EINTR;
	int r = journal_read(j, JOURNAL_SOURCE, c->options.id, &record, &ignored);
	journal_close(j);
	if (r < 0 || record.settled)
		return -EINTR;
	free(c->options.resume);
	c->options.resume = strdup(c->options.id);
	if (!c->options.resume)
		return error_memory(err);
	error_clear(err);
	return migrate_settle_verb(c, files, err);
}

static int migrate_verb(struct cli *c, const struct migrate_files *files, struct ferry_error *err)
{
	struct engine_report report;
	if (!c->options.id) {
		char id[MIGRATE_ID_BYTES];
		migrate_new_id(id);
		c->options.id = strdup(id);
		if (!c->options.id)
			return error_memory(err);
	}
	int r = migrate_run(c, migrate_source, &report, err);
	/* Without a reply there is no report. */
	bool died = r < 0 && err->code == EINTR && !report.migration.id[0];
	if (died)
		return migrate_after_death(c, files, err);
	struct json_object *o = r < 0 ? report_json(&report) : NULL;
	if (o && migrate_write_files(files, o) < 0)
		fprintf(stderr, "ferry: the report could not be written\n");
	json_object_put(o);
	return r < 0 ? r : migrate_tell(c, &report, files);
}

int cli_migrate(struct cli *c, struct ferry_error *err)
{
	const struct options *o = &c->options;
	struct migrate_files files;
	if (!!o->resume + !!o->abort + (o->tree > 0) != 1)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "one of --tree PID, --resume ID and --abort ID is needed");
	if (o->peer_is_fenced && !o->abort)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--peer-is-fenced goes with --abort ID");
	int r = migrate_open_files(o->report, &files, err);
	if (r >= 0)
		r = o->tree > 0 ? migrate_verb(c, &files, err) : migrate_settle_verb(c, &files, err);
	migrate_close_files(&files);
	return r;
}
