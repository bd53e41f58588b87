/* SPDX-License-Identifier: Apache-2.0 */
/* ferry check: what the machine offers; with --tree, what hinders a dump of that tree. */
#include <json-c/json.h>

#include "cli/cli.h"
#include "collect/collect.h"
#include "engine/engine.h"

enum { CHECK_EXIT_OBSTACLES = 3 };

static void check_print(const struct ferry_error *e)
{
	printf("%s: %s\n", ferry_error_word(e->id), e->message);
	if (e->hint[0])
		printf("  hint: %s\n", e->hint);
}

static struct json_object *check_json(const struct ferry_error *e)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "id", json_object_new_string(ferry_error_word(e->id)));
	json_object_object_add(o, "pid", json_object_new_int(e->pid));
	json_object_object_add(o, "kind", json_object_new_string(e->kind));
	json_object_object_add(o, "message", json_object_new_string(e->message));
	json_object_object_add(o, "hint", json_object_new_string(e->hint));
	return o;
}

static int check_show_tree(struct cli *c, const struct obstacles *obstacles)
{
	if (c->options.json) {
		struct json_object *o = json_object_new_object(), *list = json_object_new_array();
		vec_foreach(e, &obstacles->v)
			json_object_array_add(list, check_json(e));
		json_object_object_add(o, "obstacles", list);
		cli_print_json(o);
	} else {
		vec_foreach(e, &obstacles->v)
			check_print(e);
		if (!obstacles->v.n)
			printf("pid %d can be dumped\n", (int)c->options.tree);
	}
	return obstacles->v.n ? CHECK_EXIT_OBSTACLES : 0;
}

static int check_show_machine(struct cli *c, struct engine *e)
{
	static const char *const words[] = {"unknown", "absent", "denied", "present"};
	struct json_object *o = json_object_new_object();
	kern_caps_probe_all(&e->caps);
	for (int i = 0; i < KERN_CAP_COUNT; i++) {
		const struct kern_cap_info *info = kern_cap_info((enum kern_cap_id)i);
		const char *state = words[e->caps.state[i]];
		json_object_object_add(o, info->word, json_object_new_string(state));
		if (!c->options.json)
			printf("%-22s %-8s %s (Linux %s)\n", info->word, state, info->text, info->version);
	}
	if (c->options.json)
		cli_print_json(o);
	else
		json_object_put(o);
	return 0;
}

int cli_check(struct cli *c, struct ferry_error *err)
{
	struct engine e;
	int r = engine_init(&e, &c->options, &c->log, err);
	if (r < 0)
		return r;
	if (c->options.tree) {
		struct obstacles obstacles = {0};
		r = engine_check(&e, &obstacles, err);
		if (r >= 0)
			r = check_show_tree(c, &obstacles);
		vec_release(&obstacles.v);
	} else {
		r = check_show_machine(c, &e);
	}
	engine_release(&e);
	return r;
}
