/* SPDX-License-Identifier: Apache-2.0 */
/* ferry check: what the machine offers; with --tree, what hinders a dump of that tree. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "base/error.h"
#include "cli/cli.h"
#include "collect/collect.h"
#include "engine/engine.h"
#include "kernel/features.h"

enum { CHECK_EXIT_OBSTACLES = 3 };

static void check_print(const struct ferry_error *e)
{
	printf("%s: %s\n", ferry_error_word(e->id), e->message);
	if (*error_next_step(e))
		printf("  hint: %s\n", error_next_step(e));
}

static struct json_object *check_json(const struct ferry_error *e)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "id", json_object_new_string(ferry_error_word(e->id)));
	json_object_object_add(o, "pid", json_object_new_int(e->pid));
	json_object_object_add(o, "kind", json_object_new_string(e->kind));
	json_object_object_add(o, "message", json_object_new_string(e->message));
	json_object_object_add(o, "hint", json_object_new_string(error_next_step(e)));
	return o;
}

/* What a restore of any tree takes, and an ordinary user has in a user namespace only. */
static void check_add_rights(const struct cli *c, struct engine *e, struct obstacles *obstacles)
{
	static const struct {
		enum kern_cap_id cap;
		bool tcp; /* only with --tcp-established */
		const char *what;
	} rights[] = {
		{KERN_CAP_CLONE3_SET_TID, false, "giving restored processes their numbers"},
		{KERN_CAP_TCP_REPAIR, true, "taking established TCP connections along"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rights); i++) {
		if (!kern_denied(&e->caps, rights[i].cap) || (rights[i].tcp && !c->options.tcp_established))
			continue;
		struct ferry_error *slot = vec_push(&obstacles->v);
		if (!slot)
			return;
		*slot = (struct ferry_error)FERRY_ERROR_INIT;
		error_set(slot, FERRY_ERROR_PERMISSION, EPERM, "%s needs root, or a user namespace",
			  rights[i].what);
		error_hint(slot, "start the program with ferry run, which makes one; or let root dump it");
		error_context(slot, "check", NULL, (pid_t)c->options.tree);
	}
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
	bool denied = false;
	for (int i = 0; i < KERN_CAP_COUNT; i++)
		denied |= e->caps.state[i] == KERN_DENIED;
	if (denied && !c->options.json)
		printf("\ndenied: needs root%s\n",
		       c->options.user_ns ? ""
					  : "; ferry check --user-ns shows what ferry run can do without");
	if (c->options.json)
		cli_print_json(o);
	else
		json_object_put(o);
	return 0;
}

/* By CRIU's names. */
static int check_feature(const struct cli *c, struct engine *e, struct ferry_error *err)
{
	int has = kern_feature(&e->caps, c->options.feature);
	if (has >= 0) {
		printf("%s is %ssupported\n", c->options.feature, has ? "" : "not ");
		return has ? 0 : 1;
	}
	error_set(err, FERRY_ERROR_USAGE, EINVAL, "there is no feature '%s'", c->options.feature);
	error_hint(err, "ferry check lists what this machine offers, by ferry's own names");
	return -EINVAL;
}

int cli_check(struct cli *c, struct ferry_error *err)
{
	struct engine e;
	int r = engine_init(&e, &c->options, &c->log, err);
	if (r < 0)
		return r;
	if (c->options.feature) {
		r = check_feature(c, &e, err);
	} else if (c->options.tree) {
		struct obstacles obstacles = {0};
		r = engine_check(&e, &obstacles, err);
		if (r >= 0)
			check_add_rights(c, &e, &obstacles);
		if (r >= 0)
			r = check_show_tree(c, &obstacles);
		obstacles_release(&obstacles);
	} else {
		r = check_show_machine(c, &e);
	}
	engine_release(&e);
	return r;
}
