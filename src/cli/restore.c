/* SPDX-License-Identifier: Apache-2.0 */
/* ferry restore */
#include <json-c/json.h>
#include <sys/wait.h>

#include "cli/cli.h"
#include "cli/jobs.h"
#include "engine/job.h"

int cli_restore(struct cli *c, struct ferry_error *err)
{
	static const struct cli_jobs jobs = {.one = jobs_restore, .all = true, .state = JOBS_SAVED};
	struct engine_report report;
	if (c->options.container)
		return cli_restore_container(c, err);
	if (!c->options.images_dir && (c->argc || c->options.all))
		return cli_jobs_each(c, &jobs, err);
	struct cli_progress progress;
	cli_progress_start(&progress, c);
	int r = job_run_watched(&c->options, engine_restore, &progress.sink, &progress.watch, &report, err);
	cli_progress_end(&progress);
	if (r < 0)
		return r;
	if (c->options.json) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "pid", json_object_new_int(report.pid));
		json_object_object_add(o, "tasks", json_object_new_int((int)report.tasks));
		json_object_object_add(o, "threads", json_object_new_int((int)report.threads));
		json_object_object_add(o, "total_ns", json_object_new_int64((int64_t)report.total_ns));
		if (c->options.lazy)
			json_object_object_add(o, "lazy_bytes",
					       json_object_new_int64((int64_t)report.lazy_bytes));
		cli_print_json(o);
	}
	if (c->options.restore_detached || c->options.restore_sibling)
		return 0;
	return WIFEXITED(report.exit_status) ? WEXITSTATUS(report.exit_status)
					     : 128 + WTERMSIG(report.exit_status);
}
