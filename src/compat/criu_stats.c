/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what CRIU's statistics say of a job of ferry's. A live dump stands still several times: frozen_time is all of it, freezing_time
 * what it took until the tree stood for the last time. Pages of shared memory are among the others.
 */
#include "compat/criu_stats.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "image/file.h"
#include "image/proto/stats.pb-c.h"

static uint32_t stats_us(uint64_t ns)
{
	return (uint32_t)MIN(ns / 1000, UINT32_MAX);
}

/* All phases of that name. */
static uint32_t stats_phase(const struct engine_report *report, const char *name)
{
	uint64_t ns = 0;
	for (uint32_t i = 0; i < report->n_phases; i++)
		if (!strcmp(report->phases[i].name, name))
			ns += report->phases[i].end_ns - report->phases[i].start_ns;
	return stats_us(ns);
}

static void stats_of_dump(const struct engine_report *report, DumpStatsEntry *ret)
{
	dump_stats_entry__init(ret);
	ret->freezing_time = stats_phase(report, "freeze");
	ret->frozen_time = stats_us(report->freeze_ns + report->stopped_ns);
	ret->memdump_time = stats_phase(report, "dump");
	/* Memory is written while it is read. */
	ret->memwrite_time = ret->memdump_time + stats_phase(report, "sync");
	ret->pages_scanned = report->pages_scanned;
	ret->pages_written = report->pages_written;
}

static void stats_of_restore(const struct engine_report *report, RestoreStatsEntry *ret)
{
	restore_stats_entry__init(ret);
	ret->forking_time = stats_phase(report, "fork");
	ret->restore_time = stats_us(report->total_ns);
	ret->has_pages_restored = true;
	ret->pages_restored = report->pages_restored;
}

static int stats_write(int dir_fd, const char *name, const StatsEntry *stats, struct ferry_error *err)
{
	struct image_writer *w;
	int fd = fd_open(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "creating '%s'", name);
	int r = image_create_fd(fd, name, IMAGE_STATS, &w, err);
	if (r < 0)
		return r;
	r = image_put(w, &stats->base, err);
	int closed = image_close(w, err);
	return r < 0 ? r : closed;
}

int criu_stats_dump(int dir_fd, const struct engine_report *report, struct ferry_error *err)
{
	DumpStatsEntry dump;
	StatsEntry stats = STATS_ENTRY__INIT;
	stats_of_dump(report, &dump);
	stats.dump = &dump;
	return stats_write(dir_fd, "stats-dump", &stats, err);
}

int criu_stats_restore(int dir_fd, const struct engine_report *report, struct ferry_error *err)
{
	RestoreStatsEntry restore;
	StatsEntry stats = STATS_ENTRY__INIT;
	stats_of_restore(report, &restore);
	stats.restore = &restore;
	return stats_write(dir_fd, "stats-restore", &stats, err);
}

static void stats_us_line(FILE *out, const char *what, uint32_t us)
{
	fprintf(out, "%s: %" PRIu32 " us\n", what, us);
}

static void stats_count_line(FILE *out, const char *what, uint64_t n)
{
	fprintf(out, "%s: %" PRIu64 " (0x%" PRIx64 ")\n", what, n, n);
}

void criu_stats_show_dump(FILE *out, const struct engine_report *report)
{
	DumpStatsEntry s;
	stats_of_dump(report, &s);
	fprintf(out, "Displaying dump stats:\n");
	stats_us_line(out, "Freezing time", s.freezing_time);
	stats_us_line(out, "Frozen time", s.frozen_time);
	stats_us_line(out, "Memory dump time", s.memdump_time);
	stats_us_line(out, "Memory write time", s.memwrite_time);
	stats_us_line(out, "IRMAP resolve time", 0);
	stats_count_line(out, "Memory pages scanned", s.pages_scanned);
	stats_count_line(out, "Memory pages skipped from parent", s.pages_skipped_parent);
	stats_count_line(out, "Memory pages written", s.pages_written);
	stats_count_line(out, "Lazy memory pages", s.pages_lazy);
}

void criu_stats_show_restore(FILE *out, const struct engine_report *report)
{
	RestoreStatsEntry s;
	stats_of_restore(report, &s);
	fprintf(out, "Displaying restore stats:\n");
	stats_count_line(out, "Pages compared", s.pages_compared);
	stats_count_line(out, "Pages skipped COW", s.pages_skipped_cow);
	stats_count_line(out, "Pages restored", s.pages_restored);
	stats_us_line(out, "Restore time", s.restore_time);
	stats_us_line(out, "Forking time", s.forking_time);
}
