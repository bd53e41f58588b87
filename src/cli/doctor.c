/* SPDX-License-Identifier: Apache-2.0 */
/* ferry doctor: what works here and what to do about the rest. */
#include <stdio.h>
#include <string.h>

#include <json-c/json.h>

#include "cli/cli.h"
#include "doctor/doctor.h"

static const char *const doctor_words[] = {
	[DOCTOR_NOTE] = "note", [DOCTOR_WARN] = "warning", [DOCTOR_FAIL] = "failure"};

static void doctor_add(struct json_object *o, const char *key, const char *text)
{
	json_object_object_add(o, key, *text ? json_object_new_string(text) : NULL);
}

static void doctor_json(const struct doctor *d, bool healthy)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array(),
			   *test = json_object_new_object();
	vec_foreach(e, &d->engines) {
		struct json_object *one = json_object_new_object();
		doctor_add(one, "name", e->name);
		doctor_add(one, "path", e->path);
		doctor_add(one, "runtime", e->runtime_path);
		doctor_add(one, "criu", e->criu);
		doctor_add(one, "criu_version", e->criu_version);
		json_object_object_add(one, "criu_is_ferry", json_object_new_boolean(e->is_ferry));
		doctor_add(one, "libcriu", e->library);
		json_object_array_add(list, one);
	}
	json_object_object_add(o, "engines", list);
	list = json_object_new_array();
	vec_foreach(f, &d->findings) {
		struct json_object *one = json_object_new_object();
		doctor_add(one, "level", doctor_words[f->level]);
		doctor_add(one, "about", f->about);
		doctor_add(one, "text", f->text);
		doctor_add(one, "fix", f->fix);
		json_object_array_add(list, one);
	}
	json_object_object_add(o, "findings", list);
	json_object_object_add(test, "moved", json_object_new_boolean(d->moved));
	json_object_object_add(test, "dump_ns", json_object_new_int64((int64_t)d->dump_ns));
	json_object_object_add(test, "restore_ns", json_object_new_int64((int64_t)d->restore_ns));
	json_object_object_add(o, "self_test", test);
	json_object_object_add(o, "healthy", json_object_new_boolean(healthy));
	cli_print_json(o);
}

static void doctor_text(const struct doctor *d)
{
	vec_foreach(e, &d->engines) {
		printf("%-10s %s\n", e->name, e->path);
		if (*e->runtime_path && strcmp(e->runtime_path, e->path) != 0)
			printf("           starts %s\n", e->runtime_path);
		if (*e->library)
			printf("           loads %s\n", e->library);
		if (*e->criu)
			printf("           starts %s (%s%s)\n", e->criu,
			       e->is_ferry ? "ferry, as CRIU " : "CRIU ", e->criu_version);
	}
	if (!d->engines.n)
		printf("no container engine is in PATH\n");
	vec_foreach(f, &d->findings) {
		printf("%s: %s: %s\n", doctor_words[f->level], f->about, f->text);
		if (*f->fix)
			printf("  fix: %s\n", f->fix);
	}
	if (d->moved)
		printf("self-test: a process went (%.1f ms) and came back (%.1f ms)\n",
		       (double)d->dump_ns / 1e6, (double)d->restore_ns / 1e6);
}

int cli_doctor(struct cli *c, struct ferry_error *err unused)
{
	struct doctor d = {0};
	doctor_look_at_engines(&d);
	doctor_look_at_machine(&d);
	doctor_move(&d, &c->log);
	bool healthy = true;
	vec_foreach(f, &d.findings)
		healthy &= f->level != DOCTOR_FAIL;
	if (c->options.json)
		doctor_json(&d, healthy);
	else
		doctor_text(&d);
	doctor_release(&d);
	return healthy ? 0 : 1;
}
