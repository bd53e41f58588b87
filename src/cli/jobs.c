/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs about existing jobs share: which jobs are meant, and telling how it went with each. */
#include "cli/jobs.h"

#include <errno.h>
#include <json-c/json.h>

#include "base/error.h"

/* One job failed of several: say so, and go on. */
static void jobs_tell(struct cli *c, struct json_object *array, const struct jobs_record *j, bool removed,
		      const struct ferry_error *e)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "name", json_object_new_string(j->name));
	json_object_object_add(o, "state",
			       json_object_new_string(removed && !e ? "removed" : jobs_state_word(j->state)));
	json_object_object_add(o, "pid", json_object_new_int(j->pid));
	json_object_object_add(o, "error", e ? json_object_new_string(ferry_error_word(e->id)) : NULL);
	json_object_object_add(o, "message", e ? json_object_new_string(e->message) : NULL);
	json_object_array_add(array, o);
	if (e) {
		fprintf(stderr, "ferry: job '%s': %s [%s]\n", j->name, e->message, ferry_error_word(e->id));
		if (*error_next_step(e))
			fprintf(stderr, "ferry: hint: %s\n", error_next_step(e));
	} else if (!c->options.json && !removed) {
		printf("job '%s' is %s\n", j->name, jobs_state_word(j->state));
	}
}

int cli_jobs_each(struct cli *c, const struct cli_jobs *what, struct ferry_error *err)
{
	struct jobs_list list;
	bool all = c->options.all && what->all;
	if (all ? c->argc != 0 : c->argc != 1)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "%s",
				 what->all ? "the name of a job, or --all, is needed"
					   : "the name of a job is needed");
	int r = jobs_read(&c->options, all ? NULL : c->argv[0], true, &list, err);
	if (r < 0)
		return r;
	if (!all)
		r = what->one(&c->options, list.v, &c->log, err);
	struct json_object *array = json_object_new_array();
	int status = 0;
	for (size_t i = 0; i < list.n && r >= 0; i++) {
		struct ferry_error e = FERRY_ERROR_INIT;
		if (all && list.v[i].state != what->state)
			continue;
		int one = all ? what->one(&c->options, &list.v[i], &c->log, &e) : 0;
		jobs_tell(c, array, &list.v[i], what->removes, one < 0 ? &e : NULL);
		if (one < 0)
			status = MAX(status, ferry_error_exit_code(e.id));
	}
	if (c->options.json && r >= 0)
		cli_print_json(array);
	else
		json_object_put(array);
	jobs_release(&list);
	return r < 0 ? r : status;
}
