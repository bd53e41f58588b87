/* SPDX-License-Identifier: Apache-2.0 */
/* ferry cpuinfo: the processor of this machine as a file, and whether this machine can take the place of another. */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "cli/cli.h"
#include "host/cpu.h"

/* Without the option: what is usual. */
static int cpuinfo_check(const char *dir, const char *asked, struct ferry_error *err)
{
	unsigned caps;
	int r = cpu_caps_parse(asked ?: "", &caps, err);
	return r < 0 ? r : cpu_check_alone(dir, caps, err);
}

int cli_cpuinfo(struct cli *c, struct ferry_error *err)
{
	const struct options *o = &c->options;
	const char *dir = o->images_dir ?: ".", *verb = c->argc ? c->argv[0] : "";
	if (!strcmp(verb, "dump"))
		return cpu_dump_alone(dir, err);
	if (!strcmp(verb, "check"))
		return cpuinfo_check(dir, o->cpu_cap, err);
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "cpuinfo wants one of the words dump and check");
}
