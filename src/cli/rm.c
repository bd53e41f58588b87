/* SPDX-License-Identifier: Apache-2.0 */
/* ferry rm */
#include "cli/jobs.h"

static int rm_one(const struct options *options, struct jobs_record *j, const struct log_sink *log unused,
		  struct ferry_error *err)
{
	return jobs_remove(options, j, err);
}

int cli_rm(struct cli *c, struct ferry_error *err)
{
	static const struct cli_jobs what = {.one = rm_one, .removes = true};
	return cli_jobs_each(c, &what, err);
}
