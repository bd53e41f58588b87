/* SPDX-License-Identifier: Apache-2.0 */
/* ferry page-server: one dump, then it ends. */
#include <inttypes.h>

#include <json-c/json.h>

#include "base/error.h"
#include "cli/cli.h"
#include "engine/servers.h"

static int page_server_ready(void *context unused, const char *where, struct ferry_error *err unused)
{
	fprintf(stderr, "ferry: listening on %s\n", where);
	return 0;
}

int cli_page_server(struct cli *c, struct ferry_error *err)
{
	const struct engine_ready ready = {.tell = page_server_ready};
	struct pageserver_stats stats;
	int r = engine_page_server(&c->options, &c->log, &ready, &stats, err);
	if (r < 0)
		return r;
	if (c->options.json) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "memories", json_object_new_int64((int64_t)stats.memories));
		json_object_object_add(o, "pages", json_object_new_int64((int64_t)stats.pages));
		cli_print_json(o);
		return 0;
	}
	printf("%" PRIu64 " pages of %" PRIu64 " memories came\n", stats.pages, stats.memories);
	return 0;
}
