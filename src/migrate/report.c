/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the report's JSON and its picture: an SVG timeline, one bar a phase, with the time in which the work stood still. */
#include "migrate/report.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum {
	PICTURE_WIDTH = 860,
	PICTURE_LEFT = 110,
	PICTURE_RIGHT = 90,
	PICTURE_ROW = 26,
	PICTURE_TOP = 34,
	PICTURE_TICKS = 8, /* at most */
};

/* While these last nothing of the work runs anywhere. */
static const char *const report_still[] = {"freeze",  "collect", "dump",  "transfer",
					   "prepare", "hold",    "commit"};

static struct json_object *report_phases(const struct engine_report *r)
{
	struct json_object *list = json_object_new_array();
	for (uint32_t i = 0; i < r->n_phases; i++) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "name", json_object_new_string(r->phases[i].name));
		json_object_object_add(o, "start_ns", json_object_new_int64((int64_t)r->phases[i].start_ns));
		json_object_object_add(o, "end_ns", json_object_new_int64((int64_t)r->phases[i].end_ns));
		json_object_array_add(list, o);
	}
	return list;
}

static struct json_object *report_rounds(const struct engine_migration *m)
{
	struct json_object *list = json_object_new_array();
	for (uint32_t i = 0; i < m->n_rounds; i++) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "pages", json_object_new_int64((int64_t)m->rounds[i].pages));
		json_object_object_add(o, "bytes", json_object_new_int64((int64_t)m->rounds[i].bytes));
		json_object_object_add(o, "ns", json_object_new_int64((int64_t)m->rounds[i].ns));
		json_object_array_add(list, o);
	}
	return list;
}

struct json_object *report_json(const struct engine_report *r)
{
	const struct engine_migration *m = &r->migration;
	struct json_object *o = json_object_new_object();
	if (!o)
		return NULL;
	json_object_object_add(o, "id", json_object_new_string(m->id));
	json_object_object_add(o, "outcome", json_object_new_string(m->outcome));
	json_object_object_add(o, "phases", report_phases(r));
	json_object_object_add(o, "freeze_ns", json_object_new_int64((int64_t)r->freeze_ns));
	json_object_object_add(o, "client_gap_ns", NULL);
	json_object_object_add(o, "transfer_ns", json_object_new_int64((int64_t)m->transfer_ns));
	json_object_object_add(o, "total_ns", json_object_new_int64((int64_t)r->total_ns));
	json_object_object_add(o, "rounds", report_rounds(m));
	json_object_object_add(o, "bytes", json_object_new_int64((int64_t)m->bytes));
	json_object_object_add(o, "source", json_object_new_string(m->source));
	json_object_object_add(o, "target", json_object_new_string(m->target));
	return o;
}

/* -------------------------------------------------------------------- HTML */

struct picture {
	struct json_object *phases;
	size_t n;
	int64_t start_ns, end_ns;
	int64_t still_ns, runs_ns; /* between the two it stands still; equal = it never did */
};

static int64_t member_number(struct json_object *o, const char *name)
{
	struct json_object *value;
	return json_object_object_get_ex(o, name, &value) ? json_object_get_int64(value) : 0;
}

static const char *member_text(struct json_object *o, const char *name)
{
	struct json_object *value;
	const char *text = json_object_object_get_ex(o, name, &value) ? json_object_get_string(value) : NULL;
	return text ? text : "";
}

static void html_text(struct strbuf *b, const char *text)
{
	for (const char *c = text; *c; c++) {
		switch (*c) {
		case '<': strbuf_adds(b, "&lt;"); break;
		case '>': strbuf_adds(b, "&gt;"); break;
		case '&': strbuf_adds(b, "&amp;"); break;
		case '"': strbuf_adds(b, "&quot;"); break;
		default: strbuf_add(b, c, 1);
		}
	}
}

static void html_row(struct strbuf *b, const char *name, const char *value)
{
	strbuf_addf(b, "<tr><th>%s</th><td>", name);
	html_text(b, value);
	strbuf_adds(b, "</td></tr>\n");
}

static void html_row_ms(struct strbuf *b, const char *name, struct json_object *report, const char *member)
{
	struct json_object *value;
	char text[48] = "not probed";
	if (json_object_object_get_ex(report, member, &value) && value)
		snprintf(text, sizeof(text), "%.1f ms", (double)json_object_get_int64(value) / 1e6);
	html_row(b, name, text);
}

static double picture_x(const struct picture *p, int64_t ns)
{
	int64_t all = p->end_ns > p->start_ns ? p->end_ns - p->start_ns : 1;
	return PICTURE_LEFT +
	       (double)(ns - p->start_ns) * (PICTURE_WIDTH - PICTURE_LEFT - PICTURE_RIGHT) / (double)all;
}

static bool picture_is_still(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(report_still); i++)
		if (!strcmp(report_still[i], name))
			return true;
	return false;
}

/* A round distance of ticks: 1, 2 or 5 and zeros. */
static int64_t picture_step(const struct picture *p)
{
	static const int64_t steps[] = {1, 2, 5};
	for (int64_t unit = 1000000;; unit *= 10)
		for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
			if ((p->end_ns - p->start_ns) / (unit * steps[i]) < PICTURE_TICKS ||
			    unit > INT64_MAX / 100)
				return unit * steps[i];
}

static void picture_axis(struct strbuf *b, const struct picture *p, int height)
{
	int64_t step = picture_step(p);
	strbuf_addf(b, "<rect class=\"band\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n",
		    picture_x(p, p->still_ns), PICTURE_TOP - 6,
		    picture_x(p, p->runs_ns) - picture_x(p, p->still_ns), height - PICTURE_TOP + 6);
	for (int64_t ns = p->start_ns; ns <= p->end_ns; ns += step) {
		double x = picture_x(p, ns);
		strbuf_addf(b, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", x, x,
			    PICTURE_TOP - 6, height);
		strbuf_addf(b, "<text class=\"tick\" x=\"%.1f\" y=\"%d\">%.0f ms</text>\n", x,
			    PICTURE_TOP - 12, (double)(ns - p->start_ns) / 1e6);
	}
}

static void picture_draw(struct strbuf *b, const struct picture *p)
{
	int height = PICTURE_TOP + (int)p->n * PICTURE_ROW + 8;
	strbuf_addf(b, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"timeline of the migration\">\n",
		    PICTURE_WIDTH, height);
	picture_axis(b, p, height);
	for (size_t i = 0; i < p->n; i++) {
		struct json_object *phase = json_object_array_get_idx(p->phases, i);
		const char *name = member_text(phase, "name");
		int64_t start = member_number(phase, "start_ns"), end = member_number(phase, "end_ns");
		double x = picture_x(p, start), width = picture_x(p, end) - x;
		int y = PICTURE_TOP + (int)i * PICTURE_ROW;
		strbuf_addf(b, "<text class=\"name\" x=\"%d\" y=\"%d\">", PICTURE_LEFT - 10, y + 15);
		html_text(b, name);
		strbuf_addf(
			b,
			"</text>\n<rect class=\"%s\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>\n",
			picture_is_still(name) ? "still" : "live", x, y + 3, MAX(width, 1.0),
			PICTURE_ROW - 10);
		strbuf_addf(b, "<text class=\"time\" x=\"%.1f\" y=\"%d\">%.1f ms</text>\n",
			    x + MAX(width, 1.0) + 6, y + 15, (double)(end - start) / 1e6);
	}
	strbuf_adds(b, "</svg>\n<p class=\"key\"><span class=\"still\"></span> the work stands still "
		       "<span class=\"live\"></span> it runs</p>\n");
}

static const char html_style[] =
	"<style>\n"
	":root{color-scheme:light dark;--ink:#1c2430;--paper:#fff;--grid:#d9dee5;--live:#3a7d5c;--still:#c2611f;--soft:#5b6675}\n"
	"@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--paper:#14181f;--grid:#333b47;--live:#5fb38a;--still:#e8915a;--soft:#98a3b3}}\n"
	"body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:920px;margin:2em auto;padding:0 1em}\n"
	"h1{font-size:1.3em}svg{width:100%;height:auto}table{border-collapse:collapse}th{text-align:left;font-weight:normal;"
	"color:var(--soft);padding:.15em 1.5em .15em 0}td{font-variant-numeric:tabular-nums}\n"
	".band{fill:var(--still);opacity:.1}.grid{stroke:var(--grid)}text{fill:var(--ink);font-size:12px}.tick{fill:var(--soft);text-anchor:middle}.name{text-anchor:end}"
	".time{fill:var(--soft)}rect.still{fill:var(--still)}rect.live{fill:var(--live)}\n"
	".key span{display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 1em;border-radius:2px;vertical-align:-.1em}"
	"span.still{background:var(--still)}span.live{background:var(--live)}\n"
	"</style>\n";

static int picture_init(struct picture *p, struct json_object *report)
{
	if (!json_object_object_get_ex(report, "phases", &p->phases) ||
	    !json_object_is_type(p->phases, json_type_array))
		return -EBADMSG;
	p->n = json_object_array_length(p->phases);
	for (size_t i = 0; i < p->n; i++) {
		struct json_object *phase = json_object_array_get_idx(p->phases, i);
		int64_t start = member_number(phase, "start_ns"), end = member_number(phase, "end_ns");
		if (start < 0 || end < start || end > INT64_MAX / 2)
			return -EBADMSG;
		p->start_ns = !i || start < p->start_ns ? start : p->start_ns;
		p->end_ns = !i || end > p->end_ns ? end : p->end_ns;
		if (!picture_is_still(member_text(phase, "name")))
			continue;
		p->still_ns = !p->runs_ns || start < p->still_ns ? start : p->still_ns;
		p->runs_ns = MAX(p->runs_ns, end);
	}
	if (!p->runs_ns)
		p->still_ns = p->runs_ns = p->start_ns;
	return 0;
}

int report_html(struct json_object *report, struct strbuf *ret)
{
	struct picture p = {0};
	char bytes[48];
	int r = picture_init(&p, report);
	if (r < 0)
		return r;
	strbuf_adds(ret, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
			 "<meta name=\"viewport\" content=\"width=device-width\">\n<title>Migration ");
	html_text(ret, member_text(report, "id"));
	strbuf_adds(ret, "</title>\n");
	strbuf_adds(ret, html_style);
	strbuf_adds(ret, "</head>\n<body>\n<h1>Migration ");
	html_text(ret, member_text(report, "id"));
	strbuf_adds(ret, ": ");
	html_text(ret, member_text(report, "outcome"));
	strbuf_adds(ret, "</h1>\n");
	picture_draw(ret, &p);
	strbuf_adds(ret, "<table>\n");
	html_row(ret, "from", member_text(report, "source"));
	html_row(ret, "to", member_text(report, "target"));
	html_row_ms(ret, "the work stood still for", report, "freeze_ns");
	html_row_ms(ret, "longest gap that a client saw", report, "client_gap_ns");
	html_row_ms(ret, "data crossed the network for", report, "transfer_ns");
	html_row_ms(ret, "all in all", report, "total_ns");
	snprintf(bytes, sizeof(bytes), "%.1f MiB", (double)member_number(report, "bytes") / (1 << 20));
	html_row(ret, "over the network", bytes);
	strbuf_adds(ret, "</table>\n</body>\n</html>\n");
	return ret->failed ? -ENOMEM : 0;
}
