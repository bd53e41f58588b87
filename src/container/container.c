/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what is the same for every engine: the table of them, finding a container by its name, and the record in an images directory
 * that says whose image it is. The record is written last, so a directory without one is no image of a container.
 */
#include "container/container.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "container/internal.h"

#define RECORD_NAME "container.json"

enum { RECORD_VERSION = 1, RECORD_BYTES_MAX = 1 << 16 };

static const struct container_engine *const engines[] = {&container_podman, &container_docker,
							 &container_runc, &container_crun};

static const char *const state_words[] = {[CONTAINER_RUNNING] = "running",
					  [CONTAINER_PAUSED] = "paused",
					  [CONTAINER_SAVED] = "saved",
					  [CONTAINER_STOPPED] = "stopped"};

const char *container_state_word(enum container_state state)
{
	return state_words[state];
}

const char *container_engine_word(const struct container_engine *engine)
{
	return engine->word;
}

/* ------------------------------------------------------------------------ lists */

static void container_release(struct container *c)
{
	free(c->id);
	free(c->name);
	free(c->image);
	free(c->bundle);
}

void container_list_release(container_list *list)
{
	vec_foreach(c, list)
		container_release(c);
	vec_release(list);
}

int container_add(container_list *list, const struct container *c, struct ferry_error *err)
{
	struct container *slot = vec_push(list);
	if (!slot)
		return error_memory(err);
	*slot = *c;
	slot->id = strdup(c->id);
	slot->name = strdup(c->name);
	slot->image = c->image ? strdup(c->image) : NULL;
	slot->bundle = c->bundle ? strdup(c->bundle) : NULL;
	return slot->id && slot->name && !slot->image == !c->image && !slot->bundle == !c->bundle
		       ? 0
		       : error_memory(err);
}

/* The runtime below an engine lists that engine's containers as well: those are the engine's. */
static void container_drop_twice(container_list *list)
{
	size_t n = 0;
	for (size_t i = 0; i < list->n; i++) {
		bool twice = false;
		for (size_t k = 0; k < n; k++)
			twice |= !strcmp(list->v[k].id, list->v[i].id);
		if (twice)
			container_release(&list->v[i]);
		else
			list->v[n++] = list->v[i];
	}
	list->n = n;
}

int container_list_all(const struct log_sink *log, container_list *ret, struct ferry_error *err)
{
	*ret = (container_list){0};
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct ferry_error why = FERRY_ERROR_INIT;
		if (!command_exists(engines[i]->program))
			continue;
		int r = engines[i]->list(engines[i], ret, &why);
		if (r == -ENOMEM) {
			container_list_release(ret);
			return error_memory(err);
		}
		if (r < 0)
			log_write(log, LOG_INFO, "containers", engines[i]->word, 0, "%s", why.message);
	}
	container_drop_twice(ret);
	return 0;
}

/* Whether it is called so: its whole name or id, or the beginning of its id. */
static bool container_is_called(const struct container *c, const char *name)
{
	return !strcmp(c->name, name) || (*name && !strncmp(c->id, name, strlen(name)));
}

int container_find(const container_list *list, const char *name, const struct container **ret,
		   struct ferry_error *err)
{
	const char *colon = strchr(name, ':');
	const struct container *found = NULL;
	size_t n = colon ? (size_t)(colon - name) : 0;
	vec_foreach(c, list) {
		bool asked = !colon || (strlen(c->engine->word) == n && !strncmp(c->engine->word, name, n));
		if (!asked || !container_is_called(c, colon ? colon + 1 : name))
			continue;
		if (found) {
			error_set(err, FERRY_ERROR_USAGE, EINVAL, "'%s' is a container of %s and of %s", name,
				  found->engine->word, c->engine->word);
			error_hint(err, "name one by ENGINE:ID, %s:%.12s for instance", found->engine->word,
				   found->id);
			return -EINVAL;
		}
		found = c;
	}
	if (!found) {
		error_set(err, FERRY_ERROR_NO_SUCH_CONTAINER, ENOENT, "no engine has a container '%s'", name);
		error_hint(
			err,
			"ferry ps --containers -v lists those there are, and says which engines do not answer");
		return -ENOENT;
	}
	*ret = found;
	return 0;
}

/* ----------------------------------------------------------------- JSON of programs */

static struct json_object *container_field(struct json_object *o, const char *path)
{
	char word[64];
	while (o && *path) {
		size_t n = strcspn(path, ".");
		if (n >= sizeof(word) || !json_object_is_type(o, json_type_object))
			return NULL;
		memcpy(word, path, n);
		word[n] = '\0';
		o = json_object_object_get(o, word);
		path += n + (path[n] == '.');
	}
	return o;
}

const char *container_text(struct json_object *o, const char *path)
{
	struct json_object *field = container_field(o, path);
	const char *text =
		json_object_is_type(field, json_type_string) ? json_object_get_string(field) : NULL;
	return text ?: "";
}

int64_t container_number(struct json_object *o, const char *path)
{
	return json_object_get_int64(container_field(o, path));
}

int container_ask(struct command *c, const char *what, struct json_object **ret, struct ferry_error *err)
{
	_cleanup_result_ struct command_result result = {0};
	int r = command_run_well(c, what, &result, err);
	if (r < 0)
		return r;
	*ret = json_tokener_parse(strbuf_str(&result.out));
	return *ret || !strcmp(strbuf_str(&result.out), "null\n")
		       ? 0
		       : error_set(err, FERRY_ERROR_CONTAINER_ENGINE, EBADMSG,
				   "what %s prints at %s is no JSON", c->words.v[0], what);
}

/* ---------------------------------------------------------------------- records */

static void record_release(struct container_record *r)
{
	free(r->engine);
	free(r->id);
	free(r->name);
	free(r->bundle);
}

static int record_write(const struct container *c, const char *folder, struct ferry_error *err)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "version", json_object_new_int(RECORD_VERSION));
	json_object_object_add(o, "engine", json_object_new_string(c->engine->word));
	json_object_object_add(o, "id", json_object_new_string(c->id));
	json_object_object_add(o, "name", json_object_new_string(c->name));
	if (c->bundle)
		json_object_object_add(o, "bundle", json_object_new_string(c->bundle));
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY);
	_cleanup_close_ int dir = fd_open(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY, 0);
	int r = dir;
	if (r >= 0)
		r = text ? fd_replace_file(dir, RECORD_NAME, 0600, text, strlen(text)) : -ENOMEM;
	json_object_put(o);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "writing '%s/" RECORD_NAME "'", folder) : 0;
}

static int record_read(const char *folder, struct container_record *ret, struct ferry_error *err)
{
	char *bytes;
	size_t n;
	_cleanup_close_ int dir = fd_open(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY, 0);
	int r = dir < 0 ? dir : fd_read_path(dir, RECORD_NAME, RECORD_BYTES_MAX, &bytes, &n);
	if (r < 0) {
		error_errno(err, FERRY_ERROR_IMAGE_MISSING, -r, "reading '%s/" RECORD_NAME "'", folder);
		error_hint(err, "ferry dump --container writes one when an image is whole");
		return r;
	}
	_cleanup_free_ char *owned = bytes;
	struct json_object *o = json_tokener_parse(owned);
	*ret = (struct container_record){
		.engine = strdup(container_text(o, "engine")),
		.id = strdup(container_text(o, "id")),
		.name = strdup(container_text(o, "name")),
		.bundle = *container_text(o, "bundle") ? strdup(container_text(o, "bundle")) : NULL,
	};
	bool good = o && container_number(o, "version") == RECORD_VERSION && *container_text(o, "engine") &&
		    *container_text(o, "id");
	json_object_put(o);
	return good ? 0
		    : error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				"'%s/" RECORD_NAME "' is no record of a container", folder);
}

/* ------------------------------------------------------------------ dump and restore */

static uint64_t container_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void container_report_release(struct container_report *report)
{
	free(report->path);
}

/* The directory by its whole path: engines work in others. */
static int container_folder(const struct options *options, bool make, char **ret, struct ferry_error *err)
{
	const char *name = options->images_dir;
	*ret = NULL;
	if (!name)
		return 0;
	if (make && mkdir(name, 0700) < 0 && errno != EEXIST)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "creating '%s'", name);
	*ret = realpath(name, NULL);
	if (!*ret)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "images directory '%s'", name);
	return 0;
}

int container_dump(const struct options *options, const struct container *c, struct container_report *ret,
		   struct ferry_error *err)
{
	_cleanup_free_ char *folder = NULL;
	uint64_t began = container_now_ns();
	*ret = (struct container_report){0};
	if (c->state != CONTAINER_RUNNING)
		return error_set(err, FERRY_ERROR_NO_SUCH_TASK, ESRCH, "container '%s' of %s is %s", c->name,
				 c->engine->word, container_state_word(c->state));
	int r = container_folder(options, true, &folder, err);
	if (r >= 0 && folder) {
		_cleanup_close_ int dir = fd_open(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY, 0);
		if (dir >= 0 && faccessat(dir, RECORD_NAME, F_OK, 0) == 0) {
			error_set(err, FERRY_ERROR_IMAGE_EXISTS, EEXIST,
				  "'%s' has an image of a container already", folder);
			error_hint(err, "take another directory");
			return -EEXIST;
		}
	}
	if (r >= 0)
		r = c->engine->dump(c, options, folder, err);
	if (r >= 0 && folder)
		r = record_write(c, folder, err);
	if (r < 0)
		return r;
	ret->path = folder ? strdup(folder) : NULL;
	ret->total_ns = container_now_ns() - began;
	return 0;
}

static const struct container_engine *container_engine_named(const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++)
		if (!strcmp(engines[i]->word, word))
			return engines[i];
	return NULL;
}

static int container_restore_from(const struct options *options, const char *folder, const char *name,
				  const container_list *list, struct ferry_error *err)
{
	struct container_record record = {0};
	const struct container *c = NULL;
	int r = record_read(folder, &record, err);
	const struct container_engine *e = r < 0 ? NULL : container_engine_named(record.engine);
	if (r >= 0 && (!e || !command_exists(e->program)))
		r = error_set(err, FERRY_ERROR_CONTAINER_ENGINE, ENOENT,
			      "the image is of a container of %s, which is not installed", record.engine);
	if (r >= 0 && strcmp(name, record.name) && strncmp(name, record.id, strlen(name)))
		r = error_set(err, FERRY_ERROR_NO_SUCH_CONTAINER, ENOENT,
			      "the image is of the container '%s', not of '%s'", record.name, name);
	for (size_t i = 0; r >= 0 && i < list->n; i++)
		if (list->v[i].engine == e && !strcmp(list->v[i].id, record.id))
			c = &list->v[i];
	if (r >= 0 && c && c->state == CONTAINER_RUNNING)
		r = error_set(err, FERRY_ERROR_ORIGINAL_RUNS, EEXIST, "container '%s' of %s runs", c->name,
			      e->word);
	if (r >= 0)
		r = e->restore(e, c, &record, options, folder, err);
	record_release(&record);
	return r;
}

int container_restore(const struct options *options, const char *name, const container_list *list,
		      struct container_report *ret, struct ferry_error *err)
{
	_cleanup_free_ char *folder = NULL;
	const struct container *c = NULL;
	uint64_t began = container_now_ns();
	*ret = (struct container_report){0};
	int r = container_folder(options, false, &folder, err);
	if (r >= 0 && folder)
		r = container_restore_from(options, folder, name, list, err);
	else if (r >= 0)
		r = container_find(list, name, &c, err);
	if (r >= 0 && c)
		r = c->engine->restore(c->engine, c, NULL, options, NULL, err);
	if (r < 0)
		return r;
	ret->path = folder ? strdup(folder) : NULL;
	ret->total_ns = container_now_ns() - began;
	return 0;
}
