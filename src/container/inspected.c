/* SPDX-License-Identifier: Apache-2.0 */
/* Owns podman and Docker, whose answers to `inspect` are alike. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "container/internal.h"

#define CHECKPOINT_NAME "ferry"
#define EXPORT_NAME "container.tar"

enum { PATH_BYTES = 4096 };

/* ------------------------------------------------------------------------ lists */

static enum container_state inspected_state(struct json_object *o)
{
	const char *word = container_text(o, "State.Status");
	if (!strcmp(word, "running"))
		return CONTAINER_RUNNING;
	if (!strcmp(word, "paused"))
		return CONTAINER_PAUSED;
	struct json_object *state = json_object_object_get(o, "State"), *saved = NULL;
	json_object_object_get_ex(state, "Checkpointed", &saved);
	return json_object_get_boolean(saved) ? CONTAINER_SAVED : CONTAINER_STOPPED;
}

static int inspected_take(const struct container_engine *e, struct json_object *list, container_list *ret,
			  struct ferry_error *err)
{
	static const char *const images[] = {"ImageName", "Config.Image"};
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i);
		const char *name = container_text(o, "Name"), *image = "";
		for (size_t k = 0; k < ARRAY_SIZE(images) && !*image; k++)
			image = container_text(o, images[k]);
		const struct container c = {
			.engine = e,
			.id = (char *)container_text(o, "Id"),
			.name = (char *)name + (*name == '/'),
			.image = (char *)image,
			.state = inspected_state(o),
			.pid = (pid_t)container_number(o, "State.Pid"),
		};
		int r = container_add(ret, &c, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int inspected_list(const struct container_engine *e, container_list *ret, struct ferry_error *err)
{
	_cleanup_command_ struct command ids = {0}, inspect = {0};
	_cleanup_result_ struct command_result result = {0};
	const char *const words[] = {e->program, "ps", "--all", "--quiet", "--no-trunc"};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		command_add(&ids, words[i]);
	int r = command_run_well(&ids, "listing containers", &result, err);
	if (r < 0 || !result.out.n)
		return r;
	command_add(&inspect, e->program);
	command_add(&inspect, "container");
	command_add(&inspect, "inspect");
	char *save = NULL;
	for (char *id = strtok_r(result.out.s, "\n", &save); id; id = strtok_r(NULL, "\n", &save))
		command_add(&inspect, id);
	struct json_object *list = NULL;
	r = container_ask(&inspect, "looking at containers", &list, err);
	if (r >= 0 && json_object_is_type(list, json_type_array))
		r = inspected_take(e, list, ret, err);
	json_object_put(list);
	return r;
}

/* ------------------------------------------------------------------------- podman */

static int podman_dump(const struct container *c, const struct options *options, const char *folder,
		       struct ferry_error *err)
{
	_cleanup_command_ struct command command = {0};
	_cleanup_result_ struct command_result result = {0};
	char path[PATH_BYTES];
	command_add(&command, c->engine->program);
	command_add(&command, "container");
	command_add(&command, "checkpoint");
	command_add(&command, "--file-locks");
	command_add(&command, options->tcp_established ? "--tcp-established" : NULL);
	command_add(&command, options->leave_running ? "--leave-running" : NULL);
	if (folder) {
		snprintf(path, sizeof(path), "%s/" EXPORT_NAME, folder);
		command_add(&command, "--compress=none");
		command_add(&command, "--export");
		command_add(&command, path);
	}
	command_add(&command, c->id);
	return command_run_well(&command, "the checkpoint", &result, err);
}

/* What the image is of, podman has as an ended container, which stands in the way of the one that it makes from the image. */
static int podman_forget(const struct container *c, struct ferry_error *err)
{
	_cleanup_command_ struct command command = {0};
	_cleanup_result_ struct command_result result = {0};
	if (c->state != CONTAINER_SAVED) {
		error_set(err, FERRY_ERROR_ORIGINAL_RUNS, EEXIST,
			  "podman has container '%s', which has run since the image was written, and is %s",
			  c->name, container_state_word(c->state));
		error_hint(err, "podman rm %.12s removes it, with the files it wrote", c->id);
		return -EEXIST;
	}
	command_add(&command, c->engine->program);
	command_add(&command, "rm");
	command_add(&command, c->id);
	return command_run_well(&command, "removing the ended container", &result, err);
}

static int podman_restore(const struct container_engine *e, const struct container *c,
			  const struct container_record *record unused, const struct options *options,
			  const char *folder, struct ferry_error *err)
{
	_cleanup_command_ struct command command = {0};
	_cleanup_result_ struct command_result result = {0};
	char path[PATH_BYTES];
	int r = folder && c ? podman_forget(c, err) : 0;
	if (r < 0)
		return r;
	command_add(&command, e->program);
	command_add(&command, "container");
	command_add(&command, "restore");
	command_add(&command, "--file-locks");
	command_add(&command, options->tcp_established ? "--tcp-established" : NULL);
	if (folder) {
		snprintf(path, sizeof(path), "%s/" EXPORT_NAME, folder);
		command_add(&command, "--import");
		command_add(&command, path);
	} else {
		command_add(&command, c->id);
	}
	return command_run_well(&command, "the restore", &result, err);
}

const struct container_engine container_podman = {
	.word = "podman",
	.program = "podman",
	.list = inspected_list,
	.dump = podman_dump,
	.restore = podman_restore,
};

/* ------------------------------------------------------------------------- Docker */

static int docker_refuse_tcp(const struct options *options, struct ferry_error *err)
{
	if (!options->tcp_established)
		return 0;
	error_set(err, FERRY_ERROR_USAGE, ENOTSUP, "Docker has no option for TCP connections");
	error_hint(err,
		   "write the line 'tcp-established' into /etc/criu/runc.conf, and leave the option away");
	return -ENOTSUP;
}

/* An older checkpoint of that name makes way. */
static int docker_remove(const struct container *c, struct ferry_error *err)
{
	_cleanup_command_ struct command command = {0};
	_cleanup_result_ struct command_result result = {0};
	const char *const words[] = {c->engine->program, "checkpoint", "rm", c->id, CHECKPOINT_NAME};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		command_add(&command, words[i]);
	return command_run(&command, &result, err);
}

static int docker_dump(const struct container *c, const struct options *options, const char *folder,
		       struct ferry_error *err)
{
	_cleanup_command_ struct command command = {0};
	_cleanup_result_ struct command_result result = {0};
	int r = docker_refuse_tcp(options, err);
	if (r >= 0 && !folder)
		r = docker_remove(c, err);
	if (r < 0)
		return r;
	command_add(&command, c->engine->program);
	command_add(&command, "checkpoint");
	command_add(&command, "create");
	command_add(&command, options->leave_running ? "--leave-running" : NULL);
	command_add(&command, folder ? "--checkpoint-dir" : NULL);
	command_add(&command, folder);
	command_add(&command, c->id);
	command_add(&command, CHECKPOINT_NAME);
	return command_run_well(&command, "the checkpoint", &result, err);
}

/* Docker starts from checkpoints that lie in its own folders alone. */
static int docker_bring(const struct container *c, const char *folder, struct ferry_error *err)
{
	_cleanup_command_ struct command info = {0}, copy = {0};
	_cleanup_result_ struct command_result root = {0}, result = {0};
	char from[PATH_BYTES], to[PATH_BYTES];
	struct stat st;
	int r = docker_remove(c, err);
	command_add(&info, c->engine->program);
	command_add(&info, "info");
	command_add(&info, "--format");
	command_add(&info, "{{.DockerRootDir}}");
	if (r >= 0)
		r = command_run_well(&info, "asking for its folder", &root, err);
	if (r < 0)
		return r;
	root.out.s[strcspn(root.out.s, "\n")] = '\0';
	snprintf(from, sizeof(from), "%s/" CHECKPOINT_NAME, folder);
	snprintf(to, sizeof(to), "%s/containers/%s/checkpoints/" CHECKPOINT_NAME, root.out.s, c->id);
	if (stat(from, &st) < 0)
		return error_errno(err, FERRY_ERROR_IMAGE_MISSING, errno, "Docker's checkpoint '%s'", from);
	const char *const words[] = {"cp", "--recursive", "--no-target-directory", "--reflink=auto", from,
				     to};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		command_add(&copy, words[i]);
	return command_run_well(&copy, "copying the checkpoint", &result, err);
}

static int docker_restore(const struct container_engine *e, const struct container *c,
			  const struct container_record *record, const struct options *options,
			  const char *folder, struct ferry_error *err)
{
	_cleanup_command_ struct command command = {0};
	_cleanup_result_ struct command_result result = {0};
	int r = docker_refuse_tcp(options, err);
	if (r >= 0 && !c) {
		error_set(err, FERRY_ERROR_NO_SUCH_CONTAINER, ENOENT, "Docker has no container '%s' any more",
			  record->name);
		error_hint(err, "create it as it was (docker create), and copy '%s' into its folder", folder);
		return -ENOENT;
	}
	if (r >= 0 && folder)
		r = docker_bring(c, folder, err);
	if (r < 0)
		return r;
	const char *const words[] = {e->program, "start", "--checkpoint", CHECKPOINT_NAME, c->id};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		command_add(&command, words[i]);
	return command_run_well(&command, "the restore", &result, err);
}

const struct container_engine container_docker = {
	.word = "docker",
	.program = "docker",
	.list = inspected_list,
	.dump = docker_dump,
	.restore = docker_restore,
};
