/* SPDX-License-Identifier: Apache-2.0 */
/* ferry dump --container, ferry restore --container, ferry ps --containers */
#include <errno.h>
#include <json-c/json.h>

#include "base/error.h"
#include "cli/cli.h"
#include "container/container.h"

static int containers_check(const struct cli *c, struct ferry_error *err)
{
	if (c->options.tree)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--container and --tree exclude each other");
	return 0;
}

static void containers_report(const struct cli *c, const char *name, struct container_report *report)
{
	struct json_object *o = c->options.json ? json_object_new_object() : NULL;
	if (o) {
		json_object_object_add(o, "container", json_object_new_string(name));
		json_object_object_add(o, "images_dir",
				       report->path ? json_object_new_string(report->path) : NULL);
		json_object_object_add(o, "total_ns", json_object_new_int64((int64_t)report->total_ns));
		cli_print_json(o);
	}
	container_report_release(report);
}

int cli_dump_container(struct cli *c, struct ferry_error *err)
{
	struct container_report report = {0};
	const struct container *found = NULL;
	container_list list = {0};
	int r = containers_check(c, err);
	if (r >= 0)
		r = container_list_all(&c->log, &list, err);
	if (r >= 0)
		r = container_find(&list, c->options.container, &found, err);
	if (r >= 0)
		r = container_dump(&c->options, found, &report, err);
	if (r >= 0)
		containers_report(c, found->name, &report);
	container_list_release(&list);
	return r;
}

int cli_restore_container(struct cli *c, struct ferry_error *err)
{
	struct container_report report = {0};
	container_list list = {0};
	int r = containers_check(c, err);
	if (r >= 0)
		r = container_list_all(&c->log, &list, err);
	if (r >= 0)
		r = container_restore(&c->options, c->options.container, &list, &report, err);
	if (r >= 0)
		containers_report(c, c->options.container, &report);
	container_list_release(&list);
	return r;
}

static struct json_object *containers_json(const struct container *c)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "engine", json_object_new_string(container_engine_word(c->engine)));
	json_object_object_add(o, "id", json_object_new_string(c->id));
	json_object_object_add(o, "name", json_object_new_string(c->name));
	json_object_object_add(o, "image", c->image ? json_object_new_string(c->image) : NULL);
	json_object_object_add(o, "bundle", c->bundle ? json_object_new_string(c->bundle) : NULL);
	json_object_object_add(o, "state", json_object_new_string(container_state_word(c->state)));
	json_object_object_add(o, "pid", json_object_new_int(c->pid));
	return o;
}

static void containers_line(const struct container *c)
{
	char pid[16] = "-";
	if (c->pid)
		snprintf(pid, sizeof(pid), "%d", c->pid);
	printf("%-8s %-12.12s %-20s %7s %-8s %s\n", container_engine_word(c->engine), c->id, c->name, pid,
	       container_state_word(c->state), c->image ?: c->bundle ?: "");
}

int cli_ps_containers(struct cli *c, struct ferry_error *err)
{
	container_list list;
	int r = container_list_all(&c->log, &list, err);
	if (r < 0)
		return r;
	struct json_object *array = json_object_new_array();
	if (!c->options.json)
		printf("%-8s %-12s %-20s %7s %-8s %s\n", "ENGINE", "ID", "NAME", "PID", "STATE", "IMAGE");
	vec_foreach(one, &list) {
		if (c->options.json)
			json_object_array_add(array, containers_json(one));
		else
			containers_line(one);
	}
	if (c->options.json)
		cli_print_json(array);
	else
		json_object_put(array);
	container_list_release(&list);
	return 0;
}
