/* SPDX-License-Identifier: Apache-2.0 */
/* ferry attach */
#include <errno.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/jobs.h"

int cli_attach(struct cli *c, struct ferry_error *err)
{
	struct jobs_list list;
	if (c->argc != 1)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "the name of a job is needed");
	int r = jobs_read(&c->options, c->argv[0], false, &list, err);
	if (r < 0)
		return r;
	const struct jobs_record *j = &list.v[0];
	r = jobs_attach(&c->options, list.v, err);
	if (r >= 0) {
		fprintf(stderr, "ferry: job '%s' %s\n", j->name,
			j->state == JOBS_RUNNING ? "runs on"
			: j->state == JOBS_SAVED ? "was saved"
			: j->state == JOBS_LOST  ? "is lost"
						 : "has ended");
		r = j->state == JOBS_ENDED && j->status > 0 ? j->status : 0;
	}
	jobs_release(&list);
	return r;
}
