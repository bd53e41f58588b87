/* SPDX-License-Identifier: Apache-2.0 */
/* ferry stop */
#include "cli/jobs.h"

static int stop_one(const struct options *options, struct jobs_record *j, const struct log_sink *log unused,
		    struct ferry_error *err)
{
	return jobs_stop(options, j, err);
}

int cli_stop(struct cli *c, struct ferry_error *err)
{
	static const struct cli_jobs what = {.one = stop_one};
	return cli_jobs_each(c, &what, err);
}
