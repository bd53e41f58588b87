/* SPDX-License-Identifier: Apache-2.0 */
/* One verb of the command line each; a verb parses its options, runs a job, prints its result. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <ferry/error.h>

#include "base/log.h"
#include "engine/options.h"

struct cli {
	struct options options;
	struct log_sink log;
	FILE *log_file;
	int argc; /* what follows the options */
	char **argv;
};

struct cli_verb {
	const char *word;
	unsigned verb;                                      /* V_x */
	const char *usage;                                  /* what follows "ferry VERB" */
	const char *text;                                   /* one line */
	int (*run)(struct cli *c, struct ferry_error *err); /* exit status, or -errno with *err filled */
};

int cli_dump(struct cli *c, struct ferry_error *err);
int cli_restore(struct cli *c, struct ferry_error *err);
int cli_check(struct cli *c, struct ferry_error *err);
int cli_migrate(struct cli *c, struct ferry_error *err);
int cli_receive(struct cli *c, struct ferry_error *err);
int cli_run_job(struct cli *c, struct ferry_error *err);
int cli_ps(struct cli *c, struct ferry_error *err);
int cli_attach(struct cli *c, struct ferry_error *err);
int cli_logs(struct cli *c, struct ferry_error *err);
int cli_save(struct cli *c, struct ferry_error *err);
int cli_stop(struct cli *c, struct ferry_error *err);
int cli_rm(struct cli *c, struct ferry_error *err);
int cli_migrations(struct cli *c, struct ferry_error *err);

/* A sink that also shows on a terminal how far a job is, once it takes longer than a second. */
struct cli_progress {
	const struct log_sink *inner;
	bool shows; /* standard error is a terminal and nobody reads JSON */
	bool shown;
	uint64_t start_ns;
	struct log_sink sink;
};

void cli_progress_start(struct cli_progress *p, const struct cli *c);
void cli_progress_end(struct cli_progress *p);
int cli_show(struct cli *c, struct ferry_error *err);
int cli_image(struct cli *c, struct ferry_error *err);
int cli_debug(struct cli *c, struct ferry_error *err);

/* Print a JSON object on one line and free it. */
struct json_object;
void cli_print_json(struct json_object *object);
