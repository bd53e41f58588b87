/* SPDX-License-Identifier: Apache-2.0 */
/* ferry migrations: what the journal holds, and what to do about it. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/strbuf.h"
#include "cli/cli.h"
#include "store/journal.h"

static const char *const migrations_advice[] = {
#define JOURNAL_STATE(name, word, side, advice) [JOURNAL_##name] = advice,
#include "store/states.def"
#undef JOURNAL_STATE
};

static bool migrations_driven(struct journal *j, const struct journal_record *r)
{
	int lock = journal_lock(j, r->side, r->id, NULL);
	if (lock >= 0)
		close(lock);
	return lock == -EBUSY;
}

/* What the operator has to know, with the id filled in. */
static void migrations_say(const struct journal_record *r, bool driven, struct strbuf *b)
{
	if (driven) {
		strbuf_adds(b, "under way");
		return;
	}
	if (r->settled) {
		const bool here = r->state != JOURNAL_COMMITTED && r->state != JOURNAL_TARGET_REVERTED;
		strbuf_adds(b, here ? "done: the work went on here" : "done: the work is not here");
		return;
	}
	for (const char *at = migrations_advice[r->state]; *at; at++) {
		if (!strcmp(at, "ID")) {
			strbuf_adds(b, r->id);
			return;
		}
		strbuf_add(b, at, 1);
	}
}

static struct json_object *migrations_json(const struct journal_record *r, bool driven, const char *advice)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "id", json_object_new_string(r->id));
	json_object_object_add(o, "side",
			       json_object_new_string(r->side == JOURNAL_SOURCE ? "source" : "target"));
	json_object_object_add(o, "state", json_object_new_string(journal_state_word(r->state)));
	json_object_object_add(o, "epoch", json_object_new_int64(r->epoch));
	json_object_object_add(o, "settled", json_object_new_boolean(r->settled));
	json_object_object_add(o, "driven", json_object_new_boolean(driven));
	json_object_object_add(o, "this_boot", json_object_new_boolean(journal_is_this_boot(r)));
	json_object_object_add(o, "pid", json_object_new_int(r->pid));
	json_object_object_add(o, "comm", json_object_new_string(r->comm));
	json_object_object_add(o, "peer", json_object_new_string(r->peer));
	json_object_object_add(o, "changed_s", json_object_new_int64(r->changed_s));
	json_object_object_add(o, "reason", json_object_new_string(r->reason));
	json_object_object_add(o, "advice", json_object_new_string(advice));
	return o;
}

static void migrations_line(const struct journal_record *r, const char *advice)
{
	char when[32] = "";
	struct tm tm;
	time_t t = (time_t)r->changed_s;
	if (localtime_r(&t, &tm))
		strftime(when, sizeof(when), "%F %T", &tm);
	printf("%-18s %-6s %-10s %s  pid %d (%s)\n    %s\n", r->id,
	       r->side == JOURNAL_SOURCE ? "source" : "target", journal_state_word(r->state), when, r->pid,
	       r->comm, advice);
	if (r->reason[0])
		printf("    %s\n", r->reason);
}

static void migrations_show(struct journal *j, const struct journal_record *list, size_t n, bool json)
{
	struct json_object *array = json_object_new_array();
	for (size_t i = 0; i < n; i++) {
		_cleanup_strbuf_ struct strbuf advice = {0};
		bool driven = migrations_driven(j, &list[i]);
		migrations_say(&list[i], driven, &advice);
		if (json)
			json_object_array_add(array, migrations_json(&list[i], driven, strbuf_str(&advice)));
		else
			migrations_line(&list[i], strbuf_str(&advice));
	}
	if (json)
		cli_print_json(array);
	else
		json_object_put(array);
	if (!json && !n)
		printf("no migrations in %s\n", journal_path(j));
}

int cli_migrations(struct cli *c, struct ferry_error *err)
{
	struct journal *j;
	struct journal_record *list;
	size_t n, bad;
	int r = journal_open(c->options.journal, true, NULL, &j, err);
	if (r < 0)
		return r;
	r = journal_list(j, &list, &n, &bad, err);
	if (r >= 0) {
		migrations_show(j, list, n, c->options.json);
		free(list);
		if (bad)
			fprintf(stderr, "ferry: %zu files of the journal cannot be read\n", bad);
	}
	journal_close(j);
	return r < 0 ? r : 0;
}
