/* SPDX-License-Identifier: Apache-2.0 */
/* ferry logs */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/jobs.h"

/* Where the log is, for who reads it by other means. */
static int logs_tell(const struct jobs_record *j, struct ferry_error *err)
{
	char path[JOBS_PATH_BYTES + 8];
	struct stat st;
	snprintf(path, sizeof(path), "%s/log", j->path);
	if (stat(path, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at '%s'", path);
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "name", json_object_new_string(j->name));
	json_object_object_add(o, "state", json_object_new_string(jobs_state_word(j->state)));
	json_object_object_add(o, "path", json_object_new_string(path));
	json_object_object_add(o, "bytes", json_object_new_int64(st.st_size));
	cli_print_json(o);
	return 0;
}

int cli_logs(struct cli *c, struct ferry_error *err)
{
	struct jobs_list list;
	if (c->argc != 1)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "the name of a job is needed");
	int r = jobs_read(&c->options, c->argv[0], false, &list, err);
	if (r < 0)
		return r;
	r = c->options.json ? logs_tell(list.v, err) : jobs_log(&c->options, list.v, STDOUT_FILENO, err);
	jobs_release(&list);
	return r;
}
