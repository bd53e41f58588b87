/* SPDX-License-Identifier: Apache-2.0 */
/* ferry ps: what jobs there are. */
#include <json-c/json.h>
#include <time.h>

#include "cli/cli.h"
#include "jobs/jobs.h"

static struct json_object *ps_json(const struct jobs_record *j)
{
	struct json_object *o = json_object_new_object();
	char image[JOBS_PATH_BYTES + 32];
	snprintf(image, sizeof(image), "%s/image-%u", j->path, j->image);
	json_object_object_add(o, "name", json_object_new_string(j->name));
	json_object_object_add(o, "state", json_object_new_string(jobs_state_word(j->state)));
	json_object_object_add(o, "pid", json_object_new_int(j->pid));
	json_object_object_add(o, "created_s", json_object_new_int64(j->created_s));
	json_object_object_add(o, "since_s", json_object_new_int64(j->since_s));
	json_object_object_add(o, "image", j->image ? json_object_new_string(image) : NULL);
	json_object_object_add(o, "status", j->status < 0 ? NULL : json_object_new_int(j->status));
	json_object_object_add(o, "user_ns", json_object_new_boolean(j->user_ns));
	json_object_object_add(o, "tty", json_object_new_boolean(j->tty));
	json_object_object_add(o, "command", json_object_new_string(j->command));
	return o;
}

static void ps_line(const struct jobs_record *j)
{
	char since[32] = "-", pid[16] = "-", image[16] = "-";
	struct tm tm;
	time_t t = (time_t)j->since_s;
	if (localtime_r(&t, &tm))
		strftime(since, sizeof(since), "%F %T", &tm);
	if (j->pid)
		snprintf(pid, sizeof(pid), "%d", j->pid);
	if (j->image)
		snprintf(image, sizeof(image), "%u", j->image);
	printf("%-16s %7s %-8s %-19s %5s %s\n", j->name, pid, jobs_state_word(j->state), since, image,
	       j->command);
}

int cli_ps(struct cli *c, struct ferry_error *err)
{
	struct jobs_list list;
	if (c->options.containers)
		return cli_ps_containers(c, err);
	int r = jobs_read(&c->options, NULL, false, &list, err);
	if (r < 0)
		return r;
	struct json_object *array = json_object_new_array();
	if (!c->options.json)
		printf("%-16s %7s %-8s %-19s %5s %s\n", "NAME", "PID", "STATE", "SINCE", "IMAGE", "COMMAND");
	for (size_t i = 0; i < list.n; i++) {
		if (c->options.json)
			json_object_array_add(array, ps_json(&list.v[i]));
		else
			ps_line(&list.v[i]);
	}
	if (c->options.json)
		cli_print_json(array);
	else
		json_object_put(array);
	jobs_release(&list);
	return 0;
}
