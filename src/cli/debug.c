/* SPDX-License-Identifier: Apache-2.0 */
/* ferry debug: what tests ask ferry about itself. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/strbuf.h"
#include "cli/cli.h"
#include "migrate/report.h"

static int debug_faults(struct cli *c, struct ferry_error *err)
{
	(void)c;
	(void)err;
	for (int id = 0; id < FAULT_COUNT; id++) {
		const struct fault_info *info = fault_info((enum fault_id)id);
		printf("%s\t%s\t%s\n", info->word, info->stage, info->text);
	}
	return 0;
}

/* The page of a migration's report, drawn from its JSON. */
static int debug_report(struct cli *c, struct ferry_error *err)
{
	_cleanup_strbuf_ struct strbuf page = {0};
	struct json_object *report = json_object_from_file(c->argv[1]);
	int r = report ? report_html(report, &page) : -EBADMSG;
	json_object_put(report);
	if (r < 0)
		return error_set(err, FERRY_ERROR_USAGE, -r, "'%s' is no report of a migration", c->argv[1]);
	fwrite(page.s, 1, page.n, stdout);
	return 0;
}

int cli_debug(struct cli *c, struct ferry_error *err)
{
	static const struct {
		const char *word;
		int arguments;
		int (*run)(struct cli *c, struct ferry_error *err);
	} words[] = {{"faults", 0, debug_faults}, {"report", 1, debug_report}};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (c->argc == 1 + words[i].arguments && !strcmp(c->argv[0], words[i].word))
			return words[i].run(c, err);
	return error_set(err, FERRY_ERROR_USAGE, EINVAL, "ferry debug knows: faults; report FILE");
}
