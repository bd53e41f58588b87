/* SPDX-License-Identifier: Apache-2.0 */
/* ferry lazy-pages: one restore, then it ends. */
#include <stdio.h>

#include "cli/cli.h"
#include "engine/servers.h"

static int lazy_pages_ready(void *context unused, const char *where, struct ferry_error *err unused)
{
	fprintf(stderr, "ferry: waiting at %s\n", where);
	return 0;
}

int cli_lazy_pages(struct cli *c, struct ferry_error *err)
{
	const struct engine_ready ready = {.tell = lazy_pages_ready};
	return engine_lazy_pages(&c->options, &c->log, &ready, err);
}
