/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Containers as their engines know them. An engine owns its containers' life: ferry asks it to store and to bring one back, and is
 * itself the program called criu that the engine starts for it. So what the engine says of a container stays true.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/vec.h"
#include "engine/options.h"

enum container_state {
	CONTAINER_RUNNING,
	CONTAINER_PAUSED,
	CONTAINER_SAVED, /* stored by its engine, and not running */
	CONTAINER_STOPPED,
};

struct container_engine;

struct container {
	const struct container_engine *engine;
	char *id, *name; /* owned; an OCI runtime's container has the id for a name */
	char *image;     /* NULL: the engine knows no images */
	char *bundle;    /* of an OCI runtime: folder of config.json; NULL */
	enum container_state state;
	pid_t pid; /* of its first process, as ferry sees it; 0 */
};

typedef VEC(struct container) container_list;

struct container_report {
	uint64_t total_ns;
	char *path; /* what was written or read; owned; NULL: the engine keeps it */
};

const char *container_state_word(enum container_state state);
const char *container_engine_word(const struct container_engine *engine);

/* All containers of all engines that are installed; engines that do not answer are named in the log. */
must_check int container_list_all(const struct log_sink *log, container_list *ret, struct ferry_error *err);
void container_list_release(container_list *list);

/* NAME, id, the beginning of one, or ENGINE:NAME. NO_SUCH_CONTAINER; USAGE when several have it. */
must_check int container_find(const container_list *list, const char *name, const struct container **ret,
			      struct ferry_error *err);

/*
 * Store a running container: in the directory of --images-dir, or without one where its engine keeps such. It ends, unless
 * --leave-running. After a failure it runs on.
 */
must_check int container_dump(const struct options *options, const struct container *c,
			      struct container_report *ret, struct ferry_error *err);

/* Run what was stored; name: of the container, which the engine need not have any more when there is --images-dir. */
must_check int container_restore(const struct options *options, const char *name, const container_list *list,
				 struct container_report *ret, struct ferry_error *err);
void container_report_release(struct container_report *report);
