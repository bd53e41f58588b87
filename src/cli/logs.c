/* SPDX-License-Identifier: Apache-2.0 */
/* ferry logs */
#include <errno.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/jobs.h"

int cli_logs(struct cli *c, struct ferry_error *err)
{
	struct jobs_list list;
	if (c->argc != 1)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "the name of a job is needed");
	int r = jobs_read(&c->options, c->argv[0], false, &list, err);
	if (r < 0)
		return r;
	r = jobs_log(&c->options, list.v, STDOUT_FILENO, err);
	jobs_release(&list);
	return r;
}
