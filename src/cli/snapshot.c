/* SPDX-License-Identifier: Apache-2.0 */
/* ferry snapshot */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/fault.h"
#include "cli/cli.h"
#include "jobs/jobs.h"
#include "series/series.h"

static void snapshot_json_time(struct json_object *o, int64_t time_s)
{
	char text[32] = "";
	struct tm tm;
	time_t t = (time_t)time_s;
	if (gmtime_r(&t, &tm))
		strftime(text, sizeof(text), "%FT%TZ", &tm);
	json_object_object_add(o, "time", json_object_new_string(text));
}

static void snapshot_json_number(struct json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_int64((int64_t)value));
}

static void snapshot_json_stored(struct json_object *o, const struct series_event *e, const char *path)
{
	char dir[4096 + SERIES_NAME_BYTES];
	snprintf(dir, sizeof(dir), "%s/%s", path, e->name);
	snapshot_json_number(o, "number", e->number);
	json_object_object_add(o, "dir", json_object_new_string(dir));
	json_object_object_add(o, "full", json_object_new_boolean(e->full));
	snapshot_json_number(o, "bytes", e->bytes);
	snapshot_json_number(o, "pages", e->pages);
	snapshot_json_number(o, "stop_ns", e->stop_ns);
	snapshot_json_number(o, "total_ns", e->total_ns);
	snapshot_json_number(o, "skipped", e->skipped);
}

static void snapshot_json_error(struct json_object *o, const struct ferry_error *e)
{
	json_object_object_add(o, "error", e ? json_object_new_string(ferry_error_word(e->id)) : NULL);
	json_object_object_add(o, "message", e ? json_object_new_string(e->message) : NULL);
}

static void snapshot_json_retained(struct json_object *o, const struct series_event *e)
{
	snapshot_json_number(o, "removed", e->retained->removed);
	snapshot_json_number(o, "retired", e->retained->retired);
	snapshot_json_number(o, "merged", e->retained->merged);
	snapshot_json_number(o, "copied_bytes", e->retained->copied_bytes);
	json_object_object_add(o, "into",
			       *e->retained->into ? json_object_new_string(e->retained->into) : NULL);
	json_object_object_add(o, "waits", json_object_new_boolean(e->retained->waits));
	snapshot_json_error(o, e->error);
}

static void snapshot_json(const struct series_event *e, const char *path)
{
	static const char *const words[] = {[SERIES_STORED] = "stored",
					    [SERIES_FAILED] = "failed",
					    [SERIES_RETAINED] = "retained",
					    [SERIES_ENDED] = "ended"};
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "event", json_object_new_string(words[e->type]));
	snapshot_json_time(o, e->time_s);
	if (e->type == SERIES_STORED)
		snapshot_json_stored(o, e, path);
	else if (e->type == SERIES_FAILED)
		snapshot_json_error(o, e->error);
	else if (e->type == SERIES_RETAINED)
		snapshot_json_retained(o, e);
	else
		json_object_object_add(o, "reason", json_object_new_string(e->reason));
	if (e->type == SERIES_ENDED)
		snapshot_json_number(o, "count", e->count);
	cli_print_json(o);
}

struct snapshot_told {
	const struct cli *cli;
	const char *path;
	pid_t pid;
	struct cli_progress progress;
};

static void snapshot_say_error(const char *what, const struct ferry_error *e)
{
	fprintf(stderr, "ferry: %s: %s [%s]\n", what, e->message, ferry_error_word(e->id));
	if (*error_next_step(e))
		fprintf(stderr, "ferry: hint: %s\n", error_next_step(e));
}

static void snapshot_say_end(const struct snapshot_told *told, const struct series_event *e)
{
	const char *many = e->count == 1 ? "" : "s";
	if (!strcmp(e->reason, "tree"))
		printf("pid %d has ended after %u snapshot%s\n", told->pid, e->count, many);
	else if (!strcmp(e->reason, "signal"))
		printf("ended by a signal after %u snapshot%s; pid %d runs on\n", e->count, many, told->pid);
}

static void snapshot_say(const struct snapshot_told *told, const struct series_event *e)
{
	if (e->type == SERIES_STORED)
		printf("%s/%s: %.1f MiB%s, stood still for %.1f ms\n", told->path, e->name,
		       (double)e->bytes / (1 << 20), e->full ? " (full)" : "", (double)e->stop_ns / 1e6);
	else if (e->type == SERIES_FAILED)
		snapshot_say_error("no snapshot this time", e->error);
	else if (e->type == SERIES_ENDED)
		snapshot_say_end(told, e);
	else if (e->error)
		snapshot_say_error("old snapshots stay for now", e->error);
}

static void snapshot_event(void *context, const struct series_event *e)
{
	struct snapshot_told *told = context;
	cli_progress_again(&told->progress);
	if (told->cli->options.json)
		snapshot_json(e, told->path);
	else
		snapshot_say(told, e);
	/* Whoever reads this waits for it. */
	fflush(stdout);
}

/* ---- list ---- */

static void snapshot_list_one(const struct cli *c, const struct series *s, const struct series_item *item)
{
	char dir[4096 + SERIES_NAME_BYTES];
	uint64_t bytes = series_bytes(s, item->name);
	bool full = series_is_full(s, item->name);
	snprintf(dir, sizeof(dir), "%s/%s", s->path, item->name);
	if (!c->options.json) {
		printf("%6u %12" PRIu64 " %-4s %-8s %s\n", item->number, bytes, full ? "full" : "",
		       item->restored ? "restored" : "", dir);
		return;
	}
	struct json_object *o = json_object_new_object();
	snapshot_json_number(o, "number", item->number);
	json_object_object_add(o, "dir", json_object_new_string(dir));
	json_object_object_add(o, "full", json_object_new_boolean(full));
	snapshot_json_number(o, "bytes", bytes);
	json_object_object_add(o, "restored", json_object_new_boolean(item->restored));
	cli_print_json(o);
}

static int snapshot_list(struct cli *c, const char *path, struct ferry_error *err)
{
	struct series s;
	int r = series_open(path, false, &s, err);
	if (r < 0)
		return r;
	if (!c->options.json)
		printf("%6s %12s %-4s %-8s %s\n", "NUMBER", "BYTES", "", "", "DIRECTORY");
	vec_foreach(item, &s.items)
		if (item->state == SERIES_WHOLE)
			snapshot_list_one(c, &s, item);
	series_close(&s);
	return 0;
}

/* ---- prune ---- */

static int snapshot_prune(struct cli *c, const char *path, struct ferry_error *err)
{
	struct series_retained done = {0};
	struct fault fault;
	struct series s;
	if (!c->options.keep)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--keep COUNT is missing");
	int r = fault_init(&fault);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -r, "reading FERRY_FAULT and its kin");
	r = series_open(path, true, &s, err);
	if (r >= 0) {
		r = series_retain(&s, (unsigned)MIN(c->options.keep, INT32_MAX), &fault, &c->log, &done, err);
		series_close(&s);
	}
	fault_release(&fault);
	if (r < 0)
		return r;
	struct series_event event = {.type = SERIES_RETAINED, .retained = &done, .time_s = time(NULL)};
	if (c->options.json)
		snapshot_json(&event, path);
	else if (done.waits)
		fprintf(stderr, "ferry: a snapshot is being read: old ones stay for now\n");
	return 0;
}

/* ---- which tree ---- */

static int snapshot_pid(const char *word, pid_t *ret, struct ferry_error *err)
{
	char *end;
	errno = 0;
	long n = strtol(word, &end, 10);
	if (errno || *end || n <= 0 || n > INT32_MAX)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "'%s' is no PID", word);
	*ret = (pid_t)n;
	return 0;
}

/* Where the snapshots of a job go unless one says so. */
static int snapshot_of_job(struct cli *c, const char *name, char ret_path[JOBS_PATH_BYTES + 16], pid_t *ret,
			   struct ferry_error *err)
{
	struct jobs_list list;
	int r = jobs_read(&c->options, name, false, &list, err);
	if (r < 0)
		return r;
	if (list.v->state != JOBS_RUNNING)
		r = error_set(err, FERRY_ERROR_USAGE, EINVAL, "job '%s' is %s: it does not run", name,
			      jobs_state_word(list.v->state));
	c->options.user_ns |= list.v->user_ns;
	*ret = list.v->pid;
	snprintf(ret_path, JOBS_PATH_BYTES + 16, "%s/" JOBS_SNAPSHOTS_NAME, list.v->path);
	jobs_release(&list);
	return r;
}

int cli_snapshot(struct cli *c, struct ferry_error *err)
{
	char of_job[JOBS_PATH_BYTES + 16] = "";
	pid_t pid = 0;
	if (c->argc == 2 && !strcmp(c->argv[0], "list"))
		return snapshot_list(c, c->argv[1], err);
	if (c->argc == 2 && !strcmp(c->argv[0], "prune"))
		return snapshot_prune(c, c->argv[1], err);
	if (c->argc != 1) {
		error_set(err, FERRY_ERROR_USAGE, EINVAL,
			  "the PID of a tree, or the name of a job, is needed");
		error_hint(err, "ferry snapshot PID -D DIR, ferry snapshot JOB, ferry snapshot list DIR");
		return -EINVAL;
	}
	const char *word = c->argv[0];
	int r = word[strspn(word, "0123456789")] ? snapshot_of_job(c, word, of_job, &pid, err)
						 : snapshot_pid(word, &pid, err);
	if (r < 0)
		return r;
	const char *path = c->options.images_dir ? c->options.images_dir : of_job;
	if (!*path)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	struct snapshot_told told = {.cli = c, .path = path, .pid = pid};
	cli_progress_start(&told.progress, c);
	const struct series_run run = {.options = &c->options,
				       .pid = pid,
				       .path = path,
				       .log = &told.progress.sink,
				       .watch = &told.progress.watch,
				       .event = snapshot_event,
				       .context = &told};
	r = series_run(&run, err);
	cli_progress_end(&told.progress);
	return r;
}
