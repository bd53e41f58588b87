/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the fuzz harness of every parser of src/proc: the first byte of the input selects the parser, the rest is
 * its text. Beside crashes it looks for broken promises: order of mappings, strings that end, the same result
 * from one piece and from many. Also built into a unit test, which throws mutations of real files at it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "kernel/uapi.h"
#include "proc/read.h"
#include "proc/uring.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { PIECES_MAX = 64 };

static void promise(bool kept, const char *what)
{
	if (kept)
		return;
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

/* A failure tells itself and has the errno value that it returns; a success tells nothing. */
static void promise_error(int r, const struct ferry_error *err)
{
	promise(r <= 0, "result is 0 or negative");
	promise(r ? err->id != FERRY_ERROR_NONE && err->code == -r : err->id == FERRY_ERROR_NONE,
		"error set if and only if it failed");
	promise(memchr(err->message, 0, sizeof(err->message)), "message ends");
}

static int fuzz_status(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_status st;
	int r = proc_status_parse(text, n, &st, err);
	if (r)
		return r;
	promise(memchr(st.name, '\0', sizeof(st.name)), "name ends");
	promise(!st.n_groups == !st.groups, "groups are there");
	promise(st.ns_pid.n <= PROC_PID_DEPTH && st.n_cpu_words <= PROC_CPU_WORDS, "counts within arrays");
	proc_status_release(&st);
	return 0;
}

static int fuzz_stat(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_stat st;
	int r = proc_stat_parse(text, n, &st, err);
	if (!r)
		promise(memchr(st.comm, '\0', sizeof(st.comm)) && st.n_fields >= 44 && st.n_fields <= 52,
			"stat");
	return r;
}

static void promise_maps(const struct proc_maps *maps)
{
	uint64_t last = 0;
	vec_foreach(vma, &maps->vmas) {
		promise(vma->start >= last && vma->start < vma->end, "mappings are disjoint and ascend");
		last = vma->end;
		promise(strlen(proc_vma_name(maps, vma)) < maps->names.n + 1, "name lies in the pool");
		promise(proc_maps_find(maps, vma->start) == vma && proc_maps_find(maps, vma->end - 1) == vma,
			"a mapping is found by its ends");
		promise(*proc_vma_kind_word(vma->kind), "kind has a word");
	}
}

static bool same_maps(const struct proc_maps *a, const struct proc_maps *b)
{
	if (a->vmas.n != b->vmas.n || a->names.n != b->names.n)
		return false;
	if (a->names.n && memcmp(a->names.text, b->names.text, a->names.n) != 0)
		return false;
	return !a->vmas.n || memcmp(a->vmas.v, b->vmas.v, a->vmas.n * sizeof(*a->vmas.v)) == 0;
}

static int feed_pieces(const char *text, size_t n, size_t piece, struct proc_maps *maps,
		       struct ferry_error *err)
{
	struct proc_maps_parser parser;
	proc_maps_begin(&parser, maps);
	int r = 0;
	for (size_t at = 0; at < n && !r; at += piece)
		r = proc_maps_feed(&parser, text + at, MIN(piece, n - at), err);
	if (!r)
		r = proc_maps_end(&parser, err);
	proc_maps_parser_release(&parser);
	return r;
}

static int fuzz_maps(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_maps whole = {0}, pieces = {0};
	struct ferry_error other = FERRY_ERROR_INIT;
	int r = proc_maps_parse(text, n, &whole, err);
	int s = feed_pieces(text, n, 1 + n % PIECES_MAX, &pieces, &other);
	promise(r == s, "pieces give the result of the whole");
	promise(r || same_maps(&whole, &pieces), "pieces give the mappings of the whole");
	promise_maps(&whole);
	proc_maps_release(&whole);
	proc_maps_release(&pieces);
	return r;
}

/* The input is a row of answers, each followed by its name. */
static int fuzz_query(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_maps maps = {0};
	int r = 0;
	while (n >= sizeof(struct procmap_query) && !r) {
		struct procmap_query query;
		memcpy(&query, text, sizeof(query));
		text += sizeof(query);
		n -= sizeof(query);
		/* this much the kernel promises */
		query.vma_name_size %= 32;
		query.vma_name_size = query.vma_name_size > n ? 0 : query.vma_name_size;
		r = proc_maps_add_query(&maps, &query, text, err);
		text += query.vma_name_size;
		n -= query.vma_name_size;
	}
	promise_maps(&maps);
	proc_maps_release(&maps);
	return r;
}

static int fuzz_fdinfo(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_fdinfo info = {0};
	int r = proc_fdinfo_parse(text, n, &info, err);
	promise(info.kind != PROC_FDINFO_TUN || memchr(info.tun.name, '\0', sizeof(info.tun.name)),
		"tun name ends");
	promise(info.kind != PROC_FDINFO_PIDFD || info.pidfd.ns_pid.n <= PROC_PID_DEPTH,
		"pids within the array");
	vec_foreach(watch, &info.inotify)
		promise(watch->handle.n <= PROC_HANDLE_BYTES, "handle within its array");
	proc_fdinfo_release(&info);
	_cleanup_proc_uring_ struct proc_uring uring;
	struct ferry_error uring_err = FERRY_ERROR_INIT;
	int uring_r = proc_uring_parse(text, n, &uring, &uring_err);
	promise_error(uring_r, &uring_err);
	if (!uring_r)
		vec_foreach(file, &uring.files)
			promise(*proc_names_get(&uring.names, file->name) || file->name == 0,
				"a name is there");
	return r;
}

static int fuzz_locks(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_locks locks = {0};
	int r = proc_locks_parse(text, n, &locks, err);
	proc_locks_release(&locks);
	return r;
}

static int fuzz_mounts(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_mounts mounts = {0};
	int r = proc_mounts_parse(text, n, &mounts, err);
	if (!r)
		vec_foreach(m, &mounts.v) {
			promise(strlen(m->root) + strlen(m->point) + strlen(m->source) <= n, "strings end");
			proc_mount_has_option(m->super_options, "ro");
			promise(proc_mounts_find(&mounts, m->id), "a mount is found");
		}
	proc_mounts_release(&mounts);
	return r;
}

static int fuzz_auxv(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_auxv auxv;
	uint64_t value;
	int r = proc_auxv_parse(text, n, 8, &auxv, err);
	if (!r && auxv.n)
		promise(proc_auxv_get(&auxv, auxv.v[auxv.n - 1].type, &value), "an entry is found");
	return r;
}

static int fuzz_auxv32(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_auxv auxv;
	int four = proc_auxv_parse(text, n, 4, &auxv, NULL), r = proc_auxv_parse(text, n, 0, &auxv, err);
	promise(r || auxv.word_bytes == 8 || !four, "the size that was found fits");
	return r;
}

static int fuzz_limits(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_limits limits;
	return proc_limits_parse(text, n, &limits, err);
}

static int fuzz_cgroups(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_cgroups cgroups = {0};
	int r = proc_cgroups_parse(text, n, &cgroups, err);
	if (!r)
		vec_foreach(c, &cgroups.v)
			promise(*c->path == '/' && strlen(c->controllers) + strlen(c->path) <= n,
				"strings end");
	proc_cgroups_release(&cgroups);
	return r;
}

static int fuzz_children(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_pid_list list = {0};
	int r = proc_children_parse(text, n, &list, err);
	proc_pid_list_release(&list);
	return r;
}

static int fuzz_timers(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_timers timers = {0};
	int r = proc_timers_parse(text, n, &timers, err);
	proc_timers_release(&timers);
	return r;
}

static int fuzz_timens(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_timens_offsets offsets;
	return proc_timens_offsets_parse(text, n, &offsets, err);
}

static int fuzz_id_map(const char *text, size_t n, struct ferry_error *err)
{
	struct proc_id_map map = {0};
	int r = proc_id_map_parse(text, n, &map, err);
	proc_id_map_release(&map);
	return r;
}

static int fuzz_setgroups(const char *text, size_t n, struct ferry_error *err)
{
	bool allowed;
	return proc_setgroups_parse(text, n, &allowed, err);
}

static int fuzz_decimal(const char *text, size_t n, struct ferry_error *err)
{
	uint64_t value;
	return proc_u64_parse(text, n, 10, "number", &value, err);
}

static int fuzz_hexadecimal(const char *text, size_t n, struct ferry_error *err)
{
	uint64_t value;
	return proc_u64_parse(text, n, 16, "number", &value, err);
}

static int fuzz_signed(const char *text, size_t n, struct ferry_error *err)
{
	int64_t value;
	return proc_i64_parse(text, n, "number", &value, err);
}

static int fuzz_link(const char *text, size_t n, unused struct ferry_error *err)
{
	uint64_t number;
	char *link = malloc(n + 1);
	if (link) {
		memcpy(link, text, n);
		link[n] = '\0';
	}
	if (link && !proc_link_number(link, "pipe", &number)) {
		char again[64];
		snprintf(again, sizeof(again), "pipe:[%llu]", (unsigned long long)number);
		promise(strlen(link) >= strlen(again) || link[6] == '0', "a link's number prints back");
	}
	free(link);
	return 0;
}

/* Lines are strings; each must come back, and the same string must have the same number. */
static int fuzz_names(const char *text, size_t n, unused struct ferry_error *err)
{
	struct proc_names names = {0};
	const char *end = text + n;
	while (text < end) {
		const char *nl = memchr(text, '\n', (size_t)(end - text));
		size_t length = (size_t)((nl ? nl : end) - text);
		uint32_t id, again;
		int r = proc_names_add(&names, text, length, &id);
		promise(r == (length && memchr(text, '\0', length) ? -EBADMSG : 0), "only a NUL is refused");
		if (!r) {
			const char *back = proc_names_get(&names, id);
			promise(strlen(back) == length && !memcmp(back, text, length), "a string comes back");
			promise(!proc_names_add(&names, text, length, &again) && again == id, "one number");
		}
		text += length + 1;
	}
	proc_names_release(&names);
	return 0;
}

typedef int fuzz_case(const char *text, size_t n, struct ferry_error *err);

/* Append only: the corpus and fuzz/make_corpus_proc.sh name them by number. */
static fuzz_case *const fuzz_cases[] = {
	fuzz_status, fuzz_stat,      fuzz_maps,    fuzz_query,       fuzz_fdinfo,   fuzz_locks,  fuzz_mounts,
	fuzz_auxv,   fuzz_auxv32,    fuzz_limits,  fuzz_cgroups,     fuzz_children, fuzz_timers, fuzz_timens,
	fuzz_id_map, fuzz_setgroups, fuzz_decimal, fuzz_hexadecimal, fuzz_signed,   fuzz_link,   fuzz_names,
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	if (!n || bytes[0] >= ARRAY_SIZE(fuzz_cases))
		return 0;
	int r = fuzz_cases[bytes[0]]((const char *)bytes + 1, n - 1, &err);
	promise_error(r, &err);
	return 0;
}
