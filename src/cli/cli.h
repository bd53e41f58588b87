/* SPDX-License-Identifier: Apache-2.0 */
/* One verb of the command line each; a verb parses its options, runs a job, prints its result. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <ferry/error.h>

#include "base/log.h"
#include "base/progress.h"
#include "engine/job.h"
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
int cli_pre_dump(struct cli *c, struct ferry_error *err);
int cli_restore(struct cli *c, struct ferry_error *err);
int cli_check(struct cli *c, struct ferry_error *err);
int cli_migrate(struct cli *c, struct ferry_error *err);
int cli_receive(struct cli *c, struct ferry_error *err);
int cli_run_job(struct cli *c, struct ferry_error *err);
int cli_ps(struct cli *c, struct ferry_error *err);
int cli_attach(struct cli *c, struct ferry_error *err);
int cli_logs(struct cli *c, struct ferry_error *err);
int cli_save(struct cli *c, struct ferry_error *err);
int cli_snapshot(struct cli *c, struct ferry_error *err);
int cli_stop(struct cli *c, struct ferry_error *err);
int cli_rm(struct cli *c, struct ferry_error *err);
int cli_migrations(struct cli *c, struct ferry_error *err);

/* What shows how far a job is, once it takes longer than a second. */
struct cli_progress {
	const struct log_sink *inner;
	bool shows;  /* standard error is a terminal and nobody reads JSON */
	bool prints; /* --json --events */
	bool shown;
	uint64_t start_ns, printed_ns;
	struct log_sink sink;   /* for the job: lines of progress are shown, others go on to inner */
	struct job_watch watch; /* for the job; .progress NULL: nobody looks */
	struct progress last;   /* what was seen */
	uint64_t step_ns, step_done;
	double rate; /* bytes a second, in this step */
	pid_t aside;
};

void cli_progress_start(struct cli_progress *p, const struct cli *c);

/* The next of several pieces of work begins. */
void cli_progress_again(struct cli_progress *p);
void cli_progress_end(struct cli_progress *p);

/* For work of this very process: another one looks, until it is joined. */
void cli_progress_aside(struct cli_progress *p);
void cli_progress_join(struct cli_progress *p);

/* The same verbs for containers, which their engines store and bring back. */
int cli_dump_container(struct cli *c, struct ferry_error *err);
int cli_restore_container(struct cli *c, struct ferry_error *err);
int cli_ps_containers(struct cli *c, struct ferry_error *err);

int cli_show(struct cli *c, struct ferry_error *err);
int cli_image(struct cli *c, struct ferry_error *err);
int cli_cpuinfo(struct cli *c, struct ferry_error *err);
int cli_dedup(struct cli *c, struct ferry_error *err);
int cli_page_server(struct cli *c, struct ferry_error *err);
int cli_lazy_pages(struct cli *c, struct ferry_error *err);
int cli_doctor(struct cli *c, struct ferry_error *err);
int cli_debug(struct cli *c, struct ferry_error *err);

/* The whole program, under the name criu; its exit status. */
int cli_criu(int argc, char **argv);

/* Print a JSON object on one line and free it. */
struct json_object;
void cli_print_json(struct json_object *object);
