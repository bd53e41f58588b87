/* SPDX-License-Identifier: Apache-2.0 */
/* ferry dump */
#include <json-c/json.h>

#include "cli/cli.h"
#include "engine/job.h"

int cli_dump(struct cli *c, struct ferry_error *err)
{
	struct engine_report report;
	int r = job_run(&c->options, engine_dump, &c->log, &report, err);
	if (r < 0)
		return r;
	if (!c->options.json)
		return 0;
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "pid", json_object_new_int(report.pid));
	json_object_object_add(o, "tasks", json_object_new_int((int)report.tasks));
	json_object_object_add(o, "threads", json_object_new_int((int)report.threads));
	json_object_object_add(o, "freeze_ns", json_object_new_int64((int64_t)report.freeze_ns));
	json_object_object_add(o, "total_ns", json_object_new_int64((int64_t)report.total_ns));
	json_object_object_add(o, "pages_scanned", json_object_new_int64((int64_t)report.pages_scanned));
	json_object_object_add(o, "pages_written", json_object_new_int64((int64_t)report.pages_written));
	json_object_object_add(o, "bytes", json_object_new_int64((int64_t)report.bytes));
	cli_print_json(o);
	return 0;
}
