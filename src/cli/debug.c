/* SPDX-License-Identifier: Apache-2.0 */
/* ferry debug: what tests ask ferry about itself. */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/fault.h"
#include "cli/cli.h"

int cli_debug(struct cli *c, struct ferry_error *err)
{
	if (c->argc != 1 || strcmp(c->argv[0], "faults") != 0)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "ferry debug knows one word: faults");
	for (int id = 0; id < FAULT_COUNT; id++) {
		const struct fault_info *info = fault_info((enum fault_id)id);
		printf("%s\t%s\t%s\n", info->word, info->stage, info->text);
	}
	return 0;
}
