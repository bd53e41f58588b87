/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the files of the journal: ID.source.json and ID.target.json, and the lock ID.source.lock or ID.target.lock beside
 * each. A record is written under another name, synced, renamed over the old one, and the directory is synced.
 *
 * Kernel interface: rename(2), fsync(2), flock(2).
 */
#include "store/journal.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"

enum { JOURNAL_FORMAT = 1, JOURNAL_FILE_MAX = 64 << 10, JOURNAL_NAME_BYTES = 80 };

struct journal {
	int dir;
	char *path;
	const struct fault *fault;
};

static const char *const journal_sides[] = {[JOURNAL_SOURCE] = "source", [JOURNAL_TARGET] = "target"};

static const struct journal_state_info {
	const char *word;
	enum journal_side side;
} journal_states[JOURNAL_STATE_COUNT] = {
#define JOURNAL_STATE(name, word, side, advice) [JOURNAL_##name] = {word, JOURNAL_##side},
#include "store/states.def"
#undef JOURNAL_STATE
};

const char *journal_state_word(enum journal_state state)
{
	return (unsigned)state < JOURNAL_STATE_COUNT ? journal_states[state].word : "unknown";
}

const char *journal_path(const struct journal *j)
{
	return j->path;
}

bool journal_id_valid(const char *id)
{
	size_t n = strlen(id);
	if (!n || n > JOURNAL_ID_MAX || id[0] == '-')
		return false;
	for (const char *c = id; *c; c++)
		if (!isascii((unsigned char)*c) || (!isalnum((unsigned char)*c) && *c != '-'))
			return false;
	return true;
}

/* Every folder on the way; only the last one is closed to others. */
static int journal_make(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return -errno;
		*slash = '/';
	}
	return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

int journal_open(const char *path, bool make, const struct fault *fault, struct journal **ret,
		 struct ferry_error *err)
{
	int r = make ? journal_make(path) : 0;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "making the journal '%s'", path);
	struct journal *j = calloc(1, sizeof(*j));
	if (!j)
		return error_memory(err);
	j->fault = fault;
	j->path = strdup(path);
	j->dir = j->path ? fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0) : -ENOMEM;
	if (j->dir < 0) {
		r = j->dir;
		journal_close(j);
		return error_errno(err, r == -ENOENT ? FERRY_ERROR_NO_SUCH_MIGRATION : FERRY_ERROR_SYSTEM, -r,
				   "opening the journal '%s'", path);
	}
	*ret = j;
	return 0;
}

void journal_close(struct journal *j)
{
	if (!j)
		return;
	if (j->dir >= 0)
		close(j->dir);
	free(j->path);
	free(j);
}

static int journal_name(enum journal_side side, const char *id, const char *suffix,
			char ret[static JOURNAL_NAME_BYTES], struct ferry_error *err)
{
	if (!journal_id_valid(id)) {
		error_set(err, FERRY_ERROR_USAGE, EINVAL, "'%.60s' is no id of a migration", id);
		error_hint(err, "'ferry migrations' lists them");
		return -EINVAL;
	}
	snprintf(ret, JOURNAL_NAME_BYTES, "%s.%s.%s", id, journal_sides[side], suffix);
	return 0;
}

int journal_lock(struct journal *j, enum journal_side side, const char *id, struct ferry_error *err)
{
	char name[JOURNAL_NAME_BYTES];
	int r = journal_name(side, id, "lock", name, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = fd_open(j->dir, name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening '%s/%s'", j->path, name);
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return take_fd(fd);
	if (errno != EWOULDBLOCK)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "locking '%s/%s'", j->path, name);
	error_set(err, FERRY_ERROR_USAGE, EBUSY, "migration '%s' is being driven by another ferry", id);
	error_hint(err, "wait until it ends");
	return -EBUSY;
}

/* -------------------------------------------------------------------- JSON */

static int record_write_json(const struct journal_record *r, struct json_object *o)
{
	struct json_object *addresses = json_object_new_array();
	if (!addresses)
		return -ENOMEM;
	for (size_t i = 0; i < r->n_addresses; i++)
		json_object_array_add(addresses, json_object_new_string(r->addresses[i]));
	const struct {
		const char *name;
		struct json_object *value;
	} members[] = {
		{"format", json_object_new_int(JOURNAL_FORMAT)},
		{"id", json_object_new_string(r->id)},
		{"side", json_object_new_string(journal_sides[r->side])},
		{"epoch", json_object_new_int64(r->epoch)},
		{"state", json_object_new_string(journal_state_word(r->state))},
		{"confirmed", json_object_new_boolean(r->confirmed)},
		{"settled", json_object_new_boolean(r->settled)},
		{"sequence", json_object_new_int64((int64_t)r->sequence)},
		{"changed_s", json_object_new_int64(r->changed_s)},
		{"pid", json_object_new_int(r->pid)},
		{"start_ticks", json_object_new_int64((int64_t)r->start_ticks)},
		{"comm", json_object_new_string(r->comm)},
		{"boot_id", json_object_new_string(r->boot_id)},
		{"peer", json_object_new_string(r->peer)},
		{"token", json_object_new_string(r->token)},
		{"reason", json_object_new_string(r->reason)},
		{"addresses", addresses},
	};
	int ret = 0;
	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		if (!members[i].value || json_object_object_add(o, members[i].name, members[i].value) < 0)
			ret = -ENOMEM;
	return ret;
}

static int record_string(struct json_object *o, const char *name, char *ret, size_t n)
{
	struct json_object *value;
	if (!json_object_object_get_ex(o, name, &value) || !json_object_is_type(value, json_type_string) ||
	    (size_t)json_object_get_string_len(value) >= n)
		return -EBADMSG;
	snprintf(ret, n, "%s", json_object_get_string(value));
	return 0;
}

static int record_number(struct json_object *o, const char *name, int64_t min, int64_t max, int64_t *ret)
{
	struct json_object *value;
	if (!json_object_object_get_ex(o, name, &value) || !json_object_is_type(value, json_type_int) ||
	    json_object_get_int64(value) < min || json_object_get_int64(value) > max)
		return -EBADMSG;
	*ret = json_object_get_int64(value);
	return 0;
}

static int record_bool(struct json_object *o, const char *name, bool *ret)
{
	struct json_object *value;
	if (!json_object_object_get_ex(o, name, &value) || !json_object_is_type(value, json_type_boolean))
		return -EBADMSG;
	*ret = json_object_get_boolean(value);
	return 0;
}

static int record_side(struct json_object *o, enum journal_side *ret)
{
	char word[24];
	if (record_string(o, "side", word, sizeof(word)) < 0)
		return -EBADMSG;
	for (size_t i = 0; i < ARRAY_SIZE(journal_sides); i++) {
		if (!strcmp(word, journal_sides[i])) {
			*ret = (enum journal_side)i;
			return 0;
		}
	}
	return -EBADMSG;
}

static int record_state(struct json_object *o, enum journal_side side, enum journal_state *ret)
{
	char word[24];
	if (record_string(o, "state", word, sizeof(word)) < 0)
		return -EBADMSG;
	for (size_t i = 0; i < JOURNAL_STATE_COUNT; i++) {
		if (journal_states[i].side == side && !strcmp(word, journal_states[i].word)) {
			*ret = (enum journal_state)i;
			return 0;
		}
	}
	return -EBADMSG;
}

static int record_read_addresses(struct json_object *o, struct journal_record *r)
{
	struct json_object *list;
	if (!json_object_object_get_ex(o, "addresses", &list) ||
	    !json_object_is_type(list, json_type_array) || json_object_array_length(list) > JOURNAL_ADDRESSES)
		return -EBADMSG;
	r->n_addresses = json_object_array_length(list);
	for (size_t i = 0; i < r->n_addresses; i++) {
		struct json_object *text = json_object_array_get_idx(list, i);
		if (!json_object_is_type(text, json_type_string) ||
		    json_object_get_string_len(text) >= JOURNAL_ADDRESS_BYTES)
			return -EBADMSG;
		snprintf(r->addresses[i], JOURNAL_ADDRESS_BYTES, "%s", json_object_get_string(text));
	}
	return 0;
}

static int record_read_json(struct json_object *o, struct journal_record *r)
{
	int64_t format, epoch, sequence, changed, pid, start;
	if (!json_object_is_type(o, json_type_object) ||
	    record_number(o, "format", JOURNAL_FORMAT, JOURNAL_FORMAT, &format) < 0 ||
	    record_string(o, "id", r->id, sizeof(r->id)) < 0 || !journal_id_valid(r->id) ||
	    record_side(o, &r->side) < 0 || record_state(o, r->side, &r->state) < 0 ||
	    record_number(o, "epoch", 0, UINT32_MAX, &epoch) < 0 ||
	    record_number(o, "sequence", 0, INT64_MAX, &sequence) < 0 ||
	    record_number(o, "changed_s", INT64_MIN, INT64_MAX, &changed) < 0 ||
	    record_number(o, "pid", 0, INT32_MAX, &pid) < 0 ||
	    record_number(o, "start_ticks", 0, INT64_MAX, &start) < 0 ||
	    record_string(o, "comm", r->comm, sizeof(r->comm)) < 0 ||
	    record_string(o, "boot_id", r->boot_id, sizeof(r->boot_id)) < 0 ||
	    record_string(o, "peer", r->peer, sizeof(r->peer)) < 0 ||
	    record_string(o, "token", r->token, sizeof(r->token)) < 0 ||
	    record_string(o, "reason", r->reason, sizeof(r->reason)) < 0 ||
	    record_bool(o, "confirmed", &r->confirmed) < 0 || record_bool(o, "settled", &r->settled) < 0 ||
	    record_read_addresses(o, r) < 0)
		return -EBADMSG;
	r->epoch = (uint32_t)epoch;
	r->sequence = (uint64_t)sequence;
	r->changed_s = changed;
	r->pid = (pid_t)pid;
	r->start_ticks = (uint64_t)start;
	return 0;
}

/* ------------------------------------------------------------------- files */

int journal_parse(const char *text, struct journal_record *ret)
{
	struct json_object *o = json_tokener_parse(text);
	struct journal_record record = {0};
	int r = o ? record_read_json(o, &record) : -EBADMSG;
	json_object_put(o);
	if (r >= 0)
		*ret = record;
	return r;
}

static int journal_read_name(struct journal *j, const char *name, struct journal_record *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	int r = fd_read_path(j->dir, name, JOURNAL_FILE_MAX, &text, &n);
	return r < 0 ? r : journal_parse(text, ret);
}

int journal_read(struct journal *j, enum journal_side side, const char *id, struct journal_record *ret,
		 struct ferry_error *err)
{
	char name[JOURNAL_NAME_BYTES];
	struct journal_record record;
	int r = journal_name(side, id, "json", name, err);
	if (r < 0)
		return r;
	r = journal_read_name(j, name, &record);
	if (r >= 0 && (strcmp(record.id, id) != 0 || record.side != side))
		r = -EBADMSG;
	if (r >= 0) {
		*ret = record;
		return 0;
	}
	if (r == -EBADMSG)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "'%s/%s' is damaged", j->path, name);
	if (r != -ENOENT)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading '%s/%s'", j->path, name);
	error_set(err, FERRY_ERROR_NO_SUCH_MIGRATION, ENOENT,
		  "journal '%s' has no migration '%s' with this machine as its %s", j->path, id,
		  journal_sides[side]);
	error_hint(err, "'ferry migrations' lists them; --journal chooses another journal");
	return -ENOENT;
}

static int journal_boot_id(char ret[static 40])
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	int r = fd_read_path(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, &n);
	if (r < 0)
		return r;
	snprintf(ret, 40, "%.*s", (int)strcspn(text, "\n"), text);
	return 0;
}

bool journal_is_this_boot(const struct journal_record *r)
{
	char id[40];
	return journal_boot_id(id) >= 0 && !strcmp(id, r->boot_id);
}

/* Write a record and read it back; only a record that was read back is known to be there. */
static int journal_write(struct journal *j, struct journal_record *r, struct ferry_error *err)
{
	char name[JOURNAL_NAME_BYTES];
	int ret = journal_name(r->side, r->id, "json", name, err);
	if (ret < 0)
		return ret;
	if (!r->boot_id[0] && journal_boot_id(r->boot_id) < 0)
		snprintf(r->boot_id, sizeof(r->boot_id), "unknown");
	r->changed_s = time(NULL);
	r->sequence++;
	struct json_object *o = json_object_new_object();
	const char *text = o && record_write_json(r, o) >= 0
				   ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
									       JSON_C_TO_STRING_NOSLASHESCAPE)
				   : NULL;
	fault_effect(j->fault, "journal", journal_state_word(r->state));
	ret = text ? 0 : -ENOMEM;
	if (ret >= 0 && fault_hit(j->fault, FAULT_JOURNAL_WRITE))
		ret = -EIO;
	if (ret >= 0)
		ret = fd_replace_file(j->dir, name, 0600, text, strlen(text));
	json_object_put(o);
	struct journal_record back;
	if (ret >= 0)
		ret = journal_read_name(j, name, &back);
	if (ret >= 0 && (back.state != r->state || back.sequence != r->sequence || back.epoch != r->epoch))
		ret = -EIO;
	fault_effect(j->fault, "journal-done", journal_state_word(r->state));
	return ret < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -ret, "writing '%s/%s'", j->path, name) : 0;
}

int journal_create(struct journal *j, struct journal_record *r, struct ferry_error *err)
{
	char name[JOURNAL_NAME_BYTES];
	int ret = journal_name(r->side, r->id, "json", name, err);
	if (ret < 0)
		return ret;
	if (faccessat(j->dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return error_set(err, FERRY_ERROR_USAGE, EEXIST, "there was a migration '%s' before", r->id);
	struct journal_record fresh = *r;
	ret = journal_write(j, &fresh, err);
	if (ret >= 0)
		*r = fresh;
	return ret;
}

int journal_swap(struct journal *j, struct journal_record *r, enum journal_state state,
		 struct ferry_error *err)
{
	struct journal_record now;
	int ret = journal_read(j, r->side, r->id, &now, err);
	if (ret < 0)
		return ret;
	if (now.epoch != r->epoch || now.state != r->state) {
		error_set(err, FERRY_ERROR_OUTCOME_UNKNOWN, ESTALE,
			  "migration '%s' is '%s', not '%s' as expected", r->id,
			  journal_state_word(now.state), journal_state_word(r->state));
		*r = now;
		return -ESTALE;
	}
	struct journal_record next = *r;
	next.state = state;
	next.sequence = now.sequence;
	ret = journal_write(j, &next, err);
	if (ret >= 0)
		*r = next;
	return ret;
}

static int journal_compare(const void *a, const void *b)
{
	const struct journal_record *x = a, *y = b;
	int r = strcmp(x->id, y->id);
	return r ? r : (int)x->side - (int)y->side;
}

int journal_list(struct journal *j, struct journal_record **ret, size_t *ret_n, size_t *ret_bad,
		 struct ferry_error *err)
{
	VEC(struct journal_record) list = {0};
	size_t bad = 0;
	int fd = fd_open(j->dir, ".", O_RDONLY | O_DIRECTORY, 0);
	_cleanup_closedir_ DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return error_errno(err, FERRY_ERROR_SYSTEM, fd < 0 ? -fd : errno, "reading the journal '%s'",
				   j->path);
	for (struct dirent *entry; (entry = readdir(d));) {
		size_t n = strlen(entry->d_name);
		struct journal_record record, *slot;
		if (entry->d_name[0] == '.' || n < 5 || strcmp(entry->d_name + n - 5, ".json") != 0)
			continue;
		if (journal_read_name(j, entry->d_name, &record) < 0) {
			bad++;
			continue;
		}
		slot = vec_push(&list);
		if (!slot) {
			vec_release(&list);
			return error_memory(err);
		}
		*slot = record;
	}
	if (list.n)
		qsort(list.v, list.n, sizeof(*list.v), journal_compare);
	*ret = list.v;
	*ret_n = list.n;
	*ret_bad = bad;
	return 0;
}
