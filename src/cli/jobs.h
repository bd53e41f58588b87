/* SPDX-License-Identifier: Apache-2.0 */
/* Verbs about existing jobs. */
#pragma once

#include "cli/cli.h"
#include "jobs/jobs.h"

struct cli_jobs {
	int (*one)(const struct options *options, struct jobs_record *j, const struct log_sink *log,
		   struct ferry_error *err);
	bool all; /* takes --all: those that are in this state, one after the other, oldest first */
	enum jobs_state state;
	bool removes; /* nothing is left of it then, and nothing is said */
};

/* Exit status, or -errno with *err filled. With --all the worst status of those that failed. */
int cli_jobs_each(struct cli *c, const struct cli_jobs *what, struct ferry_error *err);
