/* SPDX-License-Identifier: Apache-2.0 */
/* What one engine does: a table of these is all that the room has of it. */
#pragma once

#include <json-c/json.h>

#include "container/command.h"
#include "container/container.h"

struct container_record;

struct container_engine {
	const char *word; /* "podman": in ENGINE:NAME, and in the image */
	const char *program;

	/* All its containers, appended. */
	int (*list)(const struct container_engine *e, container_list *ret, struct ferry_error *err);
	/* folder: an empty directory for the image; NULL: where the engine keeps them. */
	int (*dump)(const struct container *c, const struct options *options, const char *folder,
		    struct ferry_error *err);
	/* c: NULL when the engine does not have it; then the folder has all there is. */
	int (*restore)(const struct container_engine *e, const struct container *c,
		       const struct container_record *record, const struct options *options,
		       const char *folder, struct ferry_error *err);
};

/* What an images directory says of the container that it is of. */
struct container_record {
	char *engine, *id, *name, *bundle; /* owned; bundle NULL: none */
};

extern const struct container_engine container_podman, container_docker, container_runc, container_crun;

/* In the list, with copies of the texts. */
must_check int container_add(container_list *list, const struct container *c, struct ferry_error *err);

/* A text of a JSON object by the names of its fields, "State.Status"; "" when there is none. */
const char *container_text(struct json_object *o, const char *path);
int64_t container_number(struct json_object *o, const char *path);

/* What a program prints as JSON; the caller puts it. */
must_check int container_ask(struct command *c, const char *what, struct json_object **ret,
			     struct ferry_error *err);
