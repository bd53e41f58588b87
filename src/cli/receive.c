/* SPDX-License-Identifier: Apache-2.0 */
/* ferry receive */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cli.h"
#include "engine/job.h"
#include "migrate/migrate.h"

/* The first process of a PID namespace takes everybody with it when it ends: stay, and be their init. */
static void receive_stay(void)
{
	while (getpid() == 1 && (wait(NULL) > 0 || errno == EINTR))
		continue;
}

static void receive_show(const struct engine_report *r)
{
	const struct engine_migration *m = &r->migration;
	if (r->pid)
		printf("pid %d came from %s and runs (%u tasks); migration %s\n", r->pid, m->source, r->tasks,
		       m->id);
	else if (!strcmp(m->outcome, "running"))
		printf("told the source that the work runs here; migration %s\n", m->id);
	else
		printf("told the source that the work does not run here; migration %s\n", m->id);
}

int cli_receive(struct cli *c, struct ferry_error *err)
{
	struct engine_report report;
	struct cli_progress progress;
	cli_progress_start(&progress, c);
	int r = job_run(&c->options, migrate_receive, &progress.sink, &report, err);
	cli_progress_end(&progress);
	if (r < 0 && err->code == EINTR && !report.total_ns) {
		error_clear(err);
		error_set(err, FERRY_ERROR_INTERRUPTED, EINTR, "the process that received was killed");
		error_hint(err, "'ferry migrations' says what became of a migration that had begun");
	}
	if (r < 0)
		return r;
	if (c->options.json) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "id", json_object_new_string(report.migration.id));
		json_object_object_add(o, "outcome", json_object_new_string(report.migration.outcome));
		json_object_object_add(o, "source", json_object_new_string(report.migration.source));
		json_object_object_add(o, "pid", json_object_new_int(report.pid));
		json_object_object_add(o, "tasks", json_object_new_int((int)report.tasks));
		json_object_object_add(o, "threads", json_object_new_int((int)report.threads));
		cli_print_json(o);
	} else {
		receive_show(&report);
	}
	fflush(stdout);
	receive_stay();
	return 0;
}
