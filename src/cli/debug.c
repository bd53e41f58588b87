/* SPDX-License-Identifier: Apache-2.0 */
/* ferry debug: what tests ask ferry about itself. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/strbuf.h"
#include "cli/cli.h"
#include "kernel/caps.h"
#include "migrate/report.h"
#include "proc/mapper.h"
#include "proc/read.h"

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

/* How mappings are read, and what comes of it. */
static int debug_mappings(struct cli *c, struct ferry_error *err)
{
	struct kern_caps caps;
	struct proc_mapper *mapper = NULL;
	_cleanup_proc_maps_ struct proc_maps maps = {0};
	pid_t pid = (pid_t)strtol(c->argv[1], NULL, 10);
	_cleanup_close_ int dir = proc_open(pid, err);
	kern_caps_init(&caps);
	int made = strcmp(c->argv[2], "iterator") ? 0 : proc_mapper_new(&caps, AT_FDCWD, &mapper);
	int r = dir < 0 ? dir : proc_mapper_read(mapper, dir, pid, &maps, err);
	if (r >= 0)
		printf("%s\n", made < 0                              ? strerror(-made)
			       : mapper && proc_mapper_count(mapper) ? "iterator"
								     : "smaps");
	vec_foreach(vma, &maps.vmas)
		printf("%llx-%llx %llx %d %d %d %llx %llx:%llu %s%s\n", (unsigned long long)vma->start,
		       (unsigned long long)vma->end, (unsigned long long)vma->vm_flags, vma->page_shift,
		       vma->prot, vma->shared, (unsigned long long)vma->offset, (unsigned long long)vma->dev,
		       (unsigned long long)vma->ino, proc_vma_name(&maps, vma),
		       vma->deleted ? " deleted" : "");
	proc_mapper_free(mapper);
	return r;
}

int cli_debug(struct cli *c, struct ferry_error *err)
{
	static const struct {
		const char *word;
		int arguments;
		int (*run)(struct cli *c, struct ferry_error *err);
	} words[] = {
		{"faults", 0, debug_faults}, {"report", 1, debug_report}, {"mappings", 2, debug_mappings}};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (c->argc == 1 + words[i].arguments && !strcmp(c->argv[0], words[i].word))
			return words[i].run(c, err);
	return error_set(err, FERRY_ERROR_USAGE, EINVAL,
			 "ferry debug knows: faults; report FILE; mappings PID iterator|smaps");
}
