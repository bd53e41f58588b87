/* SPDX-License-Identifier: Apache-2.0 */
/* ferry save */
#include "cli/jobs.h"

int cli_save(struct cli *c, struct ferry_error *err)
{
	static const struct cli_jobs what = {.one = jobs_save, .all = true, .state = JOBS_RUNNING};
	return cli_jobs_each(c, &what, err);
}
