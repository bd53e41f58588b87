/* SPDX-License-Identifier: Apache-2.0 */
/* ferry dump, ferry pre-dump */
#include <json-c/json.h>

#include "cli/cli.h"
#include "engine/chain.h"
#include "engine/job.h"

static struct json_object *dump_rounds(const struct engine_report *report)
{
	struct json_object *list = json_object_new_array();
	for (uint32_t i = 0; i < report->n_rounds; i++) {
		const struct engine_round *round = &report->rounds[i];
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "pages", json_object_new_int64((int64_t)round->pages));
		json_object_object_add(o, "bytes", json_object_new_int64((int64_t)round->bytes));
		json_object_object_add(o, "ns", json_object_new_int64((int64_t)round->ns));
		json_object_array_add(list, o);
	}
	return list;
}

static int dump_with(struct cli *c, job_function function, struct ferry_error *err)
{
	struct engine_report report;
	struct cli_progress progress;
	cli_progress_start(&progress, c);
	int r = job_run_watched(&c->options, function, &progress.sink, &progress.watch, &report, err);
	cli_progress_end(&progress);
	if (r < 0)
		return r;
	if (!c->options.json)
		return 0;
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "pid", json_object_new_int(report.pid));
	json_object_object_add(o, "tasks", json_object_new_int((int)report.tasks));
	json_object_object_add(o, "threads", json_object_new_int((int)report.threads));
	json_object_object_add(o, "freeze_ns", json_object_new_int64((int64_t)report.freeze_ns));
	json_object_object_add(o, "stopped_ns", json_object_new_int64((int64_t)report.stopped_ns));
	json_object_object_add(o, "total_ns", json_object_new_int64((int64_t)report.total_ns));
	json_object_object_add(o, "pages_scanned", json_object_new_int64((int64_t)report.pages_scanned));
	json_object_object_add(o, "pages_written", json_object_new_int64((int64_t)report.pages_written));
	json_object_object_add(o, "bytes", json_object_new_int64((int64_t)report.bytes));
	if (report.n_rounds) {
		json_object_object_add(o, "throttled_ns",
				       json_object_new_int64((int64_t)report.throttled_ns));
		json_object_object_add(o, "predicted_ns",
				       json_object_new_int64((int64_t)report.predicted_ns));
		json_object_object_add(o, "rounds", dump_rounds(&report));
	}
	cli_print_json(o);
	return 0;
}

int cli_dump(struct cli *c, struct ferry_error *err)
{
	if (c->options.container)
		return cli_dump_container(c, err);
	return dump_with(c, engine_dump, err);
}

int cli_pre_dump(struct cli *c, struct ferry_error *err)
{
	return dump_with(c, engine_pre_dump, err);
}
