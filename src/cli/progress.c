/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns showing how far a job is: on a terminal one line that is written again and again, from a second on, and taken away in the end; with
 * --json --events an object a line. A migration tells by log lines with the stage "progress", everything else by counters.
 */
#include <json-c/json.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macros.h"
#include "cli/cli.h"

enum { PROGRESS_AFTER_NS = 1000000000, PROGRESS_EVERY_MS = 200, PROGRESS_TEXT = 160, PROGRESS_MIB = 1 << 20 };

static void progress_hide(struct cli_progress *p)
{
	if (p->shown)
		fprintf(stderr, "\r\033[K");
	p->shown = false;
}

static void progress_show(struct cli_progress *p, const char *text)
{
	fprintf(stderr, "\rferry: %s\033[K", text);
	p->shown = true;
}

/* ---- counters ---- */

/* Since the step began, as far as was seen. */
static void progress_measure(struct cli_progress *p, const struct progress *seen, uint64_t now)
{
	if (seen->step != p->last.step || seen->round != p->last.round || seen->done < p->last.done) {
		p->step_ns = now;
		p->step_done = seen->done;
	}
	p->last = *seen;
	uint64_t ns = now - p->step_ns, bytes = seen->done - p->step_done;
	p->rate = ns ? (double)bytes / (double)ns * 1e9 : 0;
}

static double progress_left_s(const struct cli_progress *p)
{
	const struct progress *l = &p->last;
	return p->rate < 1 || l->total <= l->done ? 0 : (double)(l->total - l->done) / p->rate;
}

static void progress_text(const struct cli_progress *p, char text[PROGRESS_TEXT])
{
	const struct progress *l = &p->last;
	int n = snprintf(text, PROGRESS_TEXT, "%s", progress_word((enum progress_step)l->step));
	if (l->step == PROGRESS_ROUND)
		n += snprintf(text + n, PROGRESS_TEXT - (size_t)n, " %u", l->round);
	if (!l->done)
		return;
	n += snprintf(text + n, PROGRESS_TEXT - (size_t)n, ": %llu",
		      (unsigned long long)(l->done / PROGRESS_MIB));
	if (l->total >= l->done)
		n += snprintf(text + n, PROGRESS_TEXT - (size_t)n, " of %llu",
			      (unsigned long long)(l->total / PROGRESS_MIB));
	n += snprintf(text + n, PROGRESS_TEXT - (size_t)n, " MiB, %.0f MiB/s", p->rate / PROGRESS_MIB);
	if (progress_left_s(p) > 0)
		snprintf(text + n, PROGRESS_TEXT - (size_t)n, ", %.0f s left", progress_left_s(p) + 0.5);
}

static void progress_print(const struct cli_progress *p, uint64_t now)
{
	const struct progress *l = &p->last;
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "event", json_object_new_string("progress"));
	json_object_object_add(o, "step", json_object_new_string(progress_word((enum progress_step)l->step)));
	json_object_object_add(o, "round", json_object_new_int((int)l->round));
	json_object_object_add(o, "bytes", json_object_new_int64((int64_t)l->done));
	json_object_object_add(o, "total_bytes", l->total ? json_object_new_int64((int64_t)l->total) : NULL);
	json_object_object_add(o, "bytes_per_s", json_object_new_int64((int64_t)p->rate));
	json_object_object_add(o, "left_s", json_object_new_double(progress_left_s(p)));
	json_object_object_add(o, "total_ns", json_object_new_int64((int64_t)(now - p->start_ns)));
	cli_print_json(o);
	fflush(stdout);
}

static void progress_look(void *context, const struct progress *shared)
{
	struct cli_progress *p = context;
	uint64_t now = time_now_ns();
	const struct progress seen = {
		.step = __atomic_load_n(&shared->step, __ATOMIC_RELAXED),
		.round = __atomic_load_n(&shared->round, __ATOMIC_RELAXED),
		.total = __atomic_load_n(&shared->total, __ATOMIC_RELAXED),
		.done = __atomic_load_n(&shared->done, __ATOMIC_RELAXED),
	};
	progress_measure(p, &seen, now);
	if (seen.step == PROGRESS_OVER)
		progress_hide(p);
	if (seen.step == PROGRESS_OVER || now - p->start_ns < PROGRESS_AFTER_NS)
		return;
	if (p->shows) {
		char text[PROGRESS_TEXT];
		progress_text(p, text);
		progress_show(p, text);
	}
	if (p->prints && now - p->printed_ns >= PROGRESS_AFTER_NS) {
		p->printed_ns = now;
		progress_print(p, now);
	}
}

/* ---- log lines ---- */

static void progress_write(void *context, const struct log_line *line)
{
	struct cli_progress *p = context;
	if (!strcmp(line->stage, "progress")) {
		bool lasting = *line->kind != 0; /* worth a line of its own, whoever reads it */
		if (lasting)
			fprintf(stderr, "ferry: %s\n", line->text);
		else if (p->shows && line->time_ns - p->start_ns > PROGRESS_AFTER_NS)
			progress_show(p, line->text);
	}
	if (line->level > p->inner->level)
		return;
	progress_hide(p);
	p->inner->write(p->inner->context, line);
}

/* ---- beginning and end ---- */

void cli_progress_start(struct cli_progress *p, const struct cli *c)
{
	*p = (struct cli_progress){.inner = &c->log,
				   .shows = !c->options.json && isatty(STDERR_FILENO),
				   .prints = c->options.json && c->options.events,
				   .start_ns = time_now_ns()};
	p->sink = (struct log_sink){
		.write = progress_write, .context = p, .level = MAX(c->log.level, LOG_PROGRESS)};
	if (p->shows || p->prints)
		p->watch = (struct job_watch){.look = progress_look,
					      .context = p,
					      .every_ms = PROGRESS_EVERY_MS,
					      .progress = progress_new()};
}

void cli_progress_again(struct cli_progress *p)
{
	progress_hide(p);
	p->start_ns = time_now_ns();
}

void cli_progress_end(struct cli_progress *p)
{
	progress_hide(p);
	progress_free(p->watch.progress);
	p->watch = (struct job_watch){0};
}

/* ---- work of our own process ---- */

void cli_progress_aside(struct cli_progress *p)
{
	pid_t parent = getpid();
	if (!p->watch.progress)
		return;
	fflush(NULL);
	p->aside = fork();
	if (p->aside)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent) {
		usleep(PROGRESS_EVERY_MS * 1000);
		progress_look(p, p->watch.progress);
	}
	_exit(0);
}

void cli_progress_join(struct cli_progress *p)
{
	if (p->aside <= 0)
		return;
	kill(p->aside, SIGKILL);
	while (waitpid(p->aside, NULL, 0) < 0)
		continue;
	/* Whether it had shown anything only it knows. */
	p->shown = p->shows && time_now_ns() - p->start_ns > PROGRESS_AFTER_NS;
	p->aside = 0;
}
