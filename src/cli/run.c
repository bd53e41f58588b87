/* SPDX-License-Identifier: Apache-2.0 */
/* ferry run */
#include <errno.h>
#include <json-c/json.h>

#include "base/error.h"
#include "cli/cli.h"
#include "jobs/jobs.h"

int cli_run_job(struct cli *c, struct ferry_error *err)
{
	struct jobs_list list;
	if (!c->argc)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "a command is missing: ferry run -- COMMAND");
	int r = jobs_run(&c->options, c->argv, &list, err);
	if (r < 0)
		return r;
	if (c->options.json) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "name", json_object_new_string(list.v[0].name));
		json_object_object_add(o, "pid", json_object_new_int(list.v[0].pid));
		cli_print_json(o);
	} else {
		printf("job '%s' runs as pid %d\n", list.v[0].name, list.v[0].pid);
	}
	jobs_release(&list);
	return 0;
}
