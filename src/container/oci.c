/* SPDX-License-Identifier: Apache-2.0 */
/* Owns runc and crun: containers that somebody started by a runtime alone, from a bundle. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "container/internal.h"

enum { PATH_BYTES = 4096 };

static enum container_state oci_state(const char *word)
{
	return !strcmp(word, "running")  ? CONTAINER_RUNNING
	       : !strcmp(word, "paused") ? CONTAINER_PAUSED
					 : CONTAINER_STOPPED;
}

static int oci_list(const struct container_engine *e, container_list *ret, struct ferry_error *err)
{
	_cleanup_command_ struct command command = {0};
	struct json_object *list = NULL;
	const char *const words[] = {e->program, "list", "--format", "json"};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		command_add(&command, words[i]);
	int r = container_ask(&command, "listing containers", &list, err);
	size_t n = r >= 0 && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
	for (size_t i = 0; i < n && r >= 0; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const struct container c = {
			.engine = e,
			.id = (char *)container_text(o, "id"),
			.name = (char *)container_text(o, "id"),
			.bundle = (char *)container_text(o, "bundle"),
			.state = oci_state(container_text(o, "status")),
			.pid = (pid_t)container_number(o, "pid"),
		};
		r = container_add(ret, &c, err);
	}
	json_object_put(list);
	return r;
}

static void oci_places(struct command *command, const char *folder)
{
	command_add(command, "--image-path");
	command_add(command, folder);
	command_add(command, "--work-path");
	command_add(command, folder);
	command_add(command, "--file-locks");
}

static int oci_dump(const struct container *c, const struct options *options, const char *folder,
		    struct ferry_error *err)
{
	_cleanup_command_ struct command command = {0};
	_cleanup_result_ struct command_result result = {0};
	char log[PATH_BYTES];
	if (!folder) {
		error_set(err, FERRY_ERROR_USAGE, EINVAL, "%s keeps no images", c->engine->word);
		error_hint(err, "name a directory: --images-dir DIR");
		return -EINVAL;
	}
	snprintf(log, sizeof(log), "%s/dump.log", folder);
	command.log = log;
	command_add(&command, c->engine->program);
	command_add(&command, "checkpoint");
	oci_places(&command, folder);
	command_add(&command, options->tcp_established ? "--tcp-established" : NULL);
	command_add(&command, options->leave_running ? "--leave-running" : NULL);
	command_add(&command, c->id);
	return command_run_well(&command, "the checkpoint", &result, err);
}

static int oci_restore(const struct container_engine *e, const struct container *c,
		       const struct container_record *record, const struct options *options,
		       const char *folder, struct ferry_error *err)
{
	_cleanup_command_ struct command command = {.starts = true};
	_cleanup_result_ struct command_result result = {0};
	char log[PATH_BYTES];
	if (!folder || !record->bundle) {
		error_set(err, FERRY_ERROR_USAGE, EINVAL, "%s keeps no images", e->word);
		error_hint(err, "name the directory of one: --images-dir DIR");
		return -EINVAL;
	}
	if (c)
		return error_set(err, FERRY_ERROR_ORIGINAL_RUNS, EEXIST,
				 "%s has a container '%s', which is %s", e->word, c->id,
				 container_state_word(c->state));
	snprintf(log, sizeof(log), "%s/restore.log", folder);
	command.log = log;
	command_add(&command, e->program);
	command_add(&command, "restore");
	command_add(&command, "--detach");
	command_add(&command, "--bundle");
	command_add(&command, record->bundle);
	oci_places(&command, folder);
	command_add(&command, options->tcp_established ? "--tcp-established" : NULL);
	command_add(&command, record->id);
	return command_run_well(&command, "the restore", &result, err);
}

const struct container_engine container_runc = {
	.word = "runc", .program = "runc", .list = oci_list, .dump = oci_dump, .restore = oci_restore};

const struct container_engine container_crun = {
	.word = "crun", .program = "crun", .list = oci_list, .dump = oci_dump, .restore = oci_restore};
