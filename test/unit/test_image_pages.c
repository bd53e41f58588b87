/* SPDX-License-Identifier: Apache-2.0 */
#include "image/pages.h"

#include <errno.h>
#include <fcntl.h>

#include "base/cleanup.h"
#include "image/coverage.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/pagemap.pb-c.h"
#include "image_tools.h"

enum { PAGE = IMAGE_PAGE_BYTES };

static struct image_dir *begin_with(void **state, struct image_dir_create options)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dir *dir = NULL;
	options.no_sync = true;
	scratch_path(*state, "a", path);
	assert_int_equal(image_dir_create(AT_FDCWD, path, &options, &dir, &err), 0);
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	inventory.img_version = 2;
	assert_int_equal(image_put_one(dir, IMAGE_INVENTORY, 0, &inventory.base, &err), 0);
	return dir;
}

static struct image_dir *begin(void **state)
{
	return begin_with(state, (struct image_dir_create){0});
}

static struct image_dir *finish(void **state, struct image_dir *writing)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dir *dir = NULL;
	const struct image_dir_open options = {.check_pages = true};
	scratch_path(*state, "a", path);
	if (image_dir_finish(writing, &err) < 0)
		fail_msg("%s", err.message);
	image_dir_free(writing);
	assert_int_equal(image_dir_open(AT_FDCWD, path, &options, &dir, &err), 0);
	return dir;
}

static void fill_pages(uint8_t *bytes, size_t n, uint8_t first)
{
	for (size_t i = 0; i < n; i++)
		memset(bytes + i * PAGE, first + (int)i, PAGE);
}

static void runs_come_back(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dir *writing = begin(state);
	struct image_pages_writer *w = NULL, *shared = NULL;
	static uint8_t bytes[8 * PAGE];
	fill_pages(bytes, 8, 1);
	assert_int_equal(image_pages_create(writing, IMAGE_PAGEMAP, 4, &w, &err), 0);
	assert_int_equal(image_pages_create(writing, IMAGE_SHMEM_PAGEMAP, 77, &shared, &err), 0);
	/* Two calls that touch and agree make one run; the third differs in its flags. */
	struct iovec two[] = {{bytes, PAGE}, {bytes + PAGE, PAGE}}, one = {bytes + 2 * PAGE, PAGE};
	assert_int_equal(image_pages_add(w, 0x10000, 2, 0, two, 2, &err), 0);
	assert_int_equal(image_pages_add(w, 0x12000, 1, 0, &one, 1, &err), 0);
	assert_int_equal(image_pages_add(w, 0x13000, 1, IMAGE_PE_LAZY, &one, 1, &err), 0);
	assert_int_equal(image_pages_add_reference(w, 0x14000, 100, IMAGE_PE_PARENT, &err), 0);
	/* The last page of the address space that a process can have. */
	assert_int_equal(image_pages_add(w, 0x7ffffffff000, 1, 0, &one, 1, &err), 0);
	assert_int_equal(image_pages_written(w), 5);
	assert_int_equal(image_pages_add(shared, 0, 8, 0, &(struct iovec){bytes, sizeof(bytes)}, 1, &err), 0);
	assert_int_equal(image_pages_close(shared, &err), 0);
	assert_int_equal(image_pages_close(w, &err), 0);

	_cleanup_image_dir_ struct image_dir *dir = finish(state, writing);
	_cleanup_pages_reader_ struct image_pages_reader *r = NULL;
	_cleanup_free_ struct image_run *runs = NULL;
	size_t n;
	assert_int_equal(image_pages_open(dir, IMAGE_PAGEMAP, 4, &r, &err), 0);
	assert_int_equal(image_pages_id(r), 1);
	assert_int_equal(image_pages_read_all(r, &runs, &n, &err), 0);
	static const struct image_run want[] = {
		{0x10000, 3, IMAGE_PE_PRESENT, 0},
		{0x13000, 1, IMAGE_PE_PRESENT | IMAGE_PE_LAZY, 3 * PAGE},
		{0x14000, 100, IMAGE_PE_PARENT, 4 * PAGE},
		{0x7ffffffff000, 1, IMAGE_PE_PRESENT, 4 * PAGE},
	};
	assert_int_equal(n, ARRAY_SIZE(want));
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(runs[i].vaddr, want[i].vaddr);
		assert_int_equal(runs[i].nr_pages, want[i].nr_pages);
		assert_int_equal(runs[i].flags, want[i].flags);
		assert_int_equal(runs[i].offset, want[i].offset);
	}
	uint8_t back[2 * PAGE];
	assert_int_equal(image_pages_read(r, &runs[0], 1, 2, back, &err), 0);
	assert_memory_equal(back, bytes + PAGE, sizeof(back));
	assert_int_equal(image_pages_read(r, &runs[0], 2, 2, back, &err), -EINVAL);
	assert_int_equal(image_pages_read(r, &runs[2], 0, 1, back, &err), -EINVAL);

	_cleanup_pages_reader_ struct image_pages_reader *s = NULL;
	struct image_run run;
	error_clear(&err);
	assert_int_equal(image_pages_open(dir, IMAGE_SHMEM_PAGEMAP, 77, &s, &err), 0);
	assert_int_equal(image_pages_id(s), 2);
	assert_int_equal(image_pages_next(s, &run, &err), 1);
	assert_int_equal(run.nr_pages, 8);
	assert_int_equal(image_pages_next(s, &run, &err), 0);
}

/* What a round before has, and what this one has of it. */
static void references_cover(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_image_coverage_ struct image_coverage *coverage = image_coverage_new();
	struct image_dir *writing = begin_with(state, (struct image_dir_create){.coverage = coverage});
	struct image_pages_writer *w = NULL;
	static uint8_t bytes[3 * PAGE];
	uint64_t offset = 1;
	fill_pages(bytes, 3, 1);
	assert_int_equal(image_pages_create(writing, IMAGE_PAGEMAP, 4, &w, &err), 0);
	struct image_run runs[] = {
		{.vaddr = 0x10000, .nr_pages = 3, .flags = IMAGE_PE_PARENT},
		{.vaddr = 0x13000, .nr_pages = 2},
		{.vaddr = 0x15000, .nr_pages = 9, .flags = IMAGE_PE_PARENT},
		{.vaddr = 0x40000, .nr_pages = 1, .flags = IMAGE_PE_LAZY},
	};
	struct iovec iov[] = {{NULL, 0}, {bytes, 2 * PAGE}, {NULL, 0}, {bytes + 2 * PAGE, PAGE}};
	assert_int_equal(image_pages_reserve(w, runs, iov, 4, &offset, &err), 0);
	assert_int_equal(offset, 0);
	assert_int_equal(image_pages_store(w, offset, iov, 4, &err), 0);
	assert_int_equal(image_pages_written(w), 3);
	/* A reference has no bytes. */
	struct image_run wrong = {.vaddr = 0x50000, .nr_pages = 1, .flags = IMAGE_PE_PARENT};
	assert_int_equal(image_pages_reserve(w, &wrong, &iov[3], 1, &offset, &err), -EINVAL);
	assert_int_equal(image_pages_close(w, NULL), 0);

	_cleanup_image_dir_ struct image_dir *dir = finish(state, writing);
	_cleanup_pages_reader_ struct image_pages_reader *r = NULL;
	_cleanup_free_ struct image_run *read = NULL;
	size_t n;
	error_clear(&err);
	assert_int_equal(image_pages_open(dir, IMAGE_PAGEMAP, 4, &r, &err), 0);
	assert_int_equal(image_pages_read_all(r, &read, &n, &err), 0);
	assert_int_equal(n, 4);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(read[i].vaddr, runs[i].vaddr);
		assert_int_equal(read[i].nr_pages, runs[i].nr_pages);
		assert_int_equal(read[i].flags, runs[i].flags | (iov[i].iov_len ? IMAGE_PE_PRESENT : 0));
	}
	assert_int_equal(read[3].offset, 2 * PAGE);
	const struct image_covered *covered = image_coverage_find(coverage, IMAGE_PAGEMAP, 4);
	assert_non_null(covered);
	assert_int_equal(covered->n, 2);
	assert_int_equal(covered->v[0].start, 0x10000);
	assert_int_equal(covered->v[0].end, 0x1e000);
	assert_int_equal(covered->v[1].start, 0x40000);
	assert_int_equal(covered->v[1].end, 0x41000);
	assert_null(image_coverage_find(coverage, IMAGE_SHMEM_PAGEMAP, 4));
	assert_null(image_coverage_find(coverage, IMAGE_PAGEMAP, 5));
	assert_null(image_coverage_find(NULL, IMAGE_PAGEMAP, 4));
}

static void coverage_of_many(void **state)
{
	(void)state;
	_cleanup_image_coverage_ struct image_coverage *c = image_coverage_new();
	for (uint64_t round = 0; round < 3; round++)
		for (uint64_t id = 1; id <= 500; id++)
			assert_int_equal(image_coverage_add(c, id % 2 ? IMAGE_PAGEMAP : IMAGE_SHMEM_PAGEMAP,
							    id, (round * 4 + id) * PAGE,
							    (round * 4 + id + 2) * PAGE),
					 0);
	assert_int_equal(image_coverage_add(c, IMAGE_PAGEMAP, 1, PAGE, 2 * PAGE), -EINVAL);
	for (uint64_t id = 1; id <= 500; id++) {
		const struct image_covered *found =
			image_coverage_find(c, id % 2 ? IMAGE_PAGEMAP : IMAGE_SHMEM_PAGEMAP, id);
		assert_non_null(found);
		assert_int_equal(found->id, id);
		assert_int_equal(found->n, 3);
		assert_int_equal(found->v[2].start, (8 + id) * PAGE);
		assert_null(image_coverage_find(c, id % 2 ? IMAGE_SHMEM_PAGEMAP : IMAGE_PAGEMAP, id));
	}
}

/* Where pages go that are not stored here. */
struct elsewhere {
	uint64_t memories, pages, references, ends;
};

static int elsewhere_begin(void *context, const struct image_dir *dir unused, enum image_kind kind unused,
			   uint64_t id unused, struct ferry_error *err unused)
{
	((struct elsewhere *)context)->memories++;
	return 0;
}

static int elsewhere_run(void *context, const struct image_run *run, const void *bytes,
			 struct ferry_error *err unused)
{
	struct elsewhere *e = context;
	assert_int_equal(bytes != NULL, (run->flags & IMAGE_PE_PRESENT) != 0);
	*(bytes ? &e->pages : &e->references) += run->nr_pages;
	return 0;
}

static int elsewhere_end(void *context, struct ferry_error *err unused)
{
	((struct elsewhere *)context)->ends++;
	return 0;
}

static void assert_same_coverage(const struct image_coverage *a, const struct image_coverage *b)
{
	const struct image_covered *covered = NULL;
	size_t n = 0;
	while ((covered = image_coverage_next(a, covered))) {
		const struct image_covered *found = image_coverage_find(b, covered->kind, covered->id);
		assert_non_null(found);
		assert_int_equal(found->n, covered->n);
		assert_memory_equal(found->v, covered->v, found->n * sizeof(*found->v));
		n++;
	}
	while ((covered = image_coverage_next(b, covered)))
		assert_true(n-- > 0);
	assert_int_equal(n, 0);
}

/* What went elsewhere is known here, also more spans than one record has. */
static void what_is_elsewhere(void **state)
{
	enum { SPANS = (1 << 16) + 3 };
	struct ferry_error err = FERRY_ERROR_INIT;
	struct elsewhere e = {0};
	const struct image_pages_remote remote = {
		.begin = elsewhere_begin, .run = elsewhere_run, .end = elsewhere_end, .context = &e};
	struct image_dir *writing = begin_with(state, (struct image_dir_create){.remote = &remote});
	_cleanup_image_coverage_ struct image_coverage *wanted = image_coverage_new();
	struct image_pages_writer *w = NULL;
	static uint8_t bytes[2 * PAGE];
	uint64_t offset = 0;
	fill_pages(bytes, 2, 1);
	assert_int_equal(image_pages_create(writing, IMAGE_PAGEMAP, 4, &w, &err), 0);
	struct image_run runs[] = {{.vaddr = PAGE, .nr_pages = 2},
				   {.vaddr = 9 * PAGE, .nr_pages = 1, .flags = IMAGE_PE_LAZY}};
	struct iovec iov[] = {{bytes, 2 * PAGE}, {NULL, 0}};
	assert_int_equal(image_pages_reserve(w, runs, iov, 2, &offset, &err), 0);
	assert_int_equal(image_coverage_add(wanted, IMAGE_PAGEMAP, 4, PAGE, 3 * PAGE), 0);
	for (uint64_t i = 0, at = 16 * PAGE; i < SPANS; i++, at += (2 + i % 5) * PAGE) {
		uint64_t n = 1 + i % 3 / 2 * (i % 5 > 1);
		assert_int_equal(image_pages_add_reference(w, at, n, IMAGE_PE_PARENT, &err), 0);
		assert_int_equal(image_coverage_add(wanted, IMAGE_PAGEMAP, 4, at, at + n * PAGE), 0);
	}
	assert_int_equal(image_pages_add_reference(w, PAGE, 1, IMAGE_PE_PARENT, &err), -EINVAL);
	assert_int_equal(image_pages_close(w, NULL), 0);
	error_clear(&err);
	assert_int_equal(image_pages_create(writing, IMAGE_SHMEM_PAGEMAP, 4, &w, &err), 0);
	assert_int_equal(image_pages_add_reference(w, 0, 7, IMAGE_PE_PARENT, &err), 0);
	assert_int_equal(image_coverage_add(wanted, IMAGE_SHMEM_PAGEMAP, 4, 0, 7 * PAGE), 0);
	assert_int_equal(image_pages_close(w, &err), 0);
	assert_int_equal(e.ends, 0);
	_cleanup_image_dir_ struct image_dir *dir = finish(state, writing);
	assert_int_equal(e.memories, 2);
	assert_int_equal(e.pages, 2);
	assert_true(e.references > SPANS);
	assert_int_equal(e.ends, 1);
	assert_true(image_dir_pages_are_elsewhere(dir));
	_cleanup_image_coverage_ struct image_coverage *read = NULL;
	assert_int_equal(image_coverage_read(dir, &read, &err), 0);
	assert_same_coverage(wanted, read);
}

static void ranges_that_are_covered(void **state)
{
	(void)state;
	static const struct {
		uint64_t start, end; /* pages */
		bool has;
	} cases[] = {{0, 1, false}, {0, 3, false}, {1, 3, true}, {2, 3, true},   {2, 4, false},
		     {3, 5, false}, {5, 6, true},  {5, 9, true}, {8, 10, false}, {9, 10, false}};
	_cleanup_image_coverage_ struct image_coverage *c = image_coverage_new();
	assert_int_equal(image_coverage_add(c, IMAGE_PAGEMAP, 1, PAGE, 3 * PAGE), 0);
	assert_int_equal(image_coverage_add(c, IMAGE_PAGEMAP, 1, 5 * PAGE, 9 * PAGE), 0);
	const struct image_covered *covered = image_coverage_find(c, IMAGE_PAGEMAP, 1);
	size_t at = 0;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(image_covered_has(covered, &at, cases[i].start * PAGE, cases[i].end * PAGE),
				 cases[i].has);
		assert_false(
			image_covered_has(NULL, &(size_t){0}, cases[i].start * PAGE, cases[i].end * PAGE));
	}
}

/* As a dump of anonymous memory does it. */
static int add_sparse(struct image_pages_writer *w, uint64_t nr_pages, const void *bytes,
		      struct ferry_error *err)
{
	struct image_run runs[4];
	struct iovec iov[4];
	uint64_t offset = 0;
	size_t n = image_pages_split(&(struct image_run){.nr_pages = nr_pages}, true, bytes, runs, iov);
	int r = n ? image_pages_reserve(w, runs, iov, n, &offset, err) : 0;
	return r < 0 || !n ? r : image_pages_store(w, offset, iov, n, err);
}

static void zero_pages_take_no_space(void **state)
{
	static const struct {
		const char *pages; /* '.' = a page of zeros */
		const char *runs;
	} cases[] = {
		{"xxxx", "0+4"}, {"....", ""},    {".x.x", "1+1 3+1"}, {"x..x", "0+1 3+1"},
		{"..xx", "2+2"}, {"xx..", "0+2"}, {"x", "0+1"},        {".", ""},
	};
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dir *writing = begin(state);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct image_pages_writer *w = NULL;
		uint8_t bytes[4 * PAGE] = {0};
		size_t n = strlen(cases[i].pages);
		for (size_t k = 0; k < n; k++)
			if (cases[i].pages[k] ==
			    'x') /* one byte that is not zero, at another place each time */
				bytes[k * PAGE + (k * 1365 + i * 511) % PAGE] = 1;
		assert_int_equal(image_pages_create(writing, IMAGE_PAGEMAP, i, &w, &err), 0);
		assert_int_equal(add_sparse(w, n, bytes, &err), 0);
		assert_int_equal(image_pages_close(w, &err), 0);
	}
	_cleanup_image_dir_ struct image_dir *dir = finish(state, writing);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_pages_reader_ struct image_pages_reader *r = NULL;
		char text[64] = "";
		struct image_run run;
		int more;
		assert_int_equal(image_pages_open(dir, IMAGE_PAGEMAP, i, &r, &err), 0);
		while ((more = image_pages_next(r, &run, &err)) > 0)
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%d+%d",
				 *text ? " " : "", (int)(run.vaddr / PAGE), (int)run.nr_pages);
		assert_int_equal(more, 0);
		assert_string_equal(text, cases[i].runs);
	}
}

static void pages_from_a_pipe(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dir *writing = begin(state);
	struct image_pages_writer *w = NULL;
	int ends[2];
	uint8_t bytes[3 * PAGE], back[3 * PAGE];
	fill_pages(bytes, 3, 9);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(write(ends[1], bytes, sizeof(bytes)), sizeof(bytes));
	close(ends[1]);
	assert_int_equal(image_pages_create(writing, IMAGE_PAGEMAP, 1, &w, &err), 0);
	assert_int_equal(image_pages_add_from(w, 0x1000, 3, 0, ends[0], &err), 0);
	assert_int_equal(image_pages_add_from(w, 0x9000, 1, 0, ends[0], NULL), -ENODATA);
	close(ends[0]);
	assert_int_equal(image_pages_close(w, &err), 0);
	/* The writer believed the caller; the reader does not. */
	_cleanup_image_dir_ struct image_dir *dir = finish(state, writing);
	_cleanup_pages_reader_ struct image_pages_reader *r = NULL;
	struct image_run run;
	assert_int_equal(image_pages_open(dir, IMAGE_PAGEMAP, 1, &r, &err), 0);
	assert_int_equal(image_pages_next(r, &run, &err), 1);
	assert_int_equal(image_pages_read(r, &run, 0, 3, back, &err), 0);
	assert_memory_equal(back, bytes, sizeof(back));
	assert_int_equal(image_pages_next(r, &run, &err), -EBADMSG);
}

static void callers_mistakes_are_refused(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_image_dir_ struct image_dir *dir = begin(state);
	struct image_pages_writer *w = NULL;
	uint8_t page[PAGE] = {1};
	struct iovec iov = {page, PAGE};
	assert_int_equal(image_pages_create(dir, IMAGE_PAGEMAP, 1, &w, &err), 0);
	assert_int_equal(image_pages_add(w, 0x2000, 1, 0, &iov, 1, NULL), 0);
	assert_int_equal(image_pages_add(w, 0x2000, 1, 0, &iov, 1, NULL), -EINVAL); /* again */
	assert_int_equal(image_pages_add(w, 0x1000, 1, 0, &iov, 1, NULL), -EINVAL); /* backwards */
	assert_int_equal(image_pages_add(w, 0x3001, 1, 0, &iov, 1, NULL), -EINVAL); /* not aligned */
	assert_int_equal(image_pages_add(w, 0x4000, 2, 0, &iov, 1, NULL), -EINVAL); /* too few bytes */
	assert_int_equal(image_pages_add_reference(w, 0x5000, 0, IMAGE_PE_PARENT, NULL), -EINVAL);
	assert_int_equal(image_pages_add_reference(w, 0x5000, UINT64_MAX / 8, IMAGE_PE_PARENT, NULL),
			 -EINVAL);
	assert_int_equal(image_pages_add_reference(w, 0x5000, 1, IMAGE_PE_PRESENT, NULL), -EINVAL);
	assert_int_equal(image_pages_close(w, &err), 0);
}

/* Pagemaps as a stranger may have written them. */
struct entry {
	uint64_t vaddr, nr_pages;
	int flags; /* -1 = none */
	int in_parent;
	bool compat;
};

static void write_pagemap(struct image_dir *dir, uint64_t id, const struct entry *entries, size_t n,
			  size_t pages_bytes)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_writer *w = NULL;
	assert_int_equal(image_create(dir, IMAGE_PAGEMAP, id, &w, &err), 0);
	PagemapHead head = PAGEMAP_HEAD__INIT;
	head.pages_id = (uint32_t)id;
	assert_int_equal(image_put(w, &head.base, &err), 0);
	for (size_t i = 0; i < n; i++) {
		PagemapEntry e = PAGEMAP_ENTRY__INIT;
		e.vaddr = entries[i].vaddr;
		e.compat_nr_pages = entries[i].compat ? (uint32_t)entries[i].nr_pages : 0;
		e.has_nr_pages = !entries[i].compat;
		e.nr_pages = entries[i].nr_pages;
		e.has_flags = entries[i].flags >= 0;
		e.flags = (uint32_t)entries[i].flags;
		e.has_in_parent = entries[i].in_parent;
		e.in_parent = entries[i].in_parent;
		assert_int_equal(image_put(w, &e.base, &err), 0);
	}
	assert_int_equal(image_close(w, &err), 0);
	assert_int_equal(image_create(dir, IMAGE_PAGES, id, &w, &err), 0);
	for (size_t i = 0; i < pages_bytes; i++)
		assert_int_equal(image_put_raw(w, "x", 1, &err), 0);
	assert_int_equal(image_close(w, &err), 0);
}

static void strange_pagemaps(void **state)
{
	static const struct {
		const char *what; /* in the error; NULL = fine */
		size_t pages_bytes;
		struct entry entries[2];
	} cases[] = {
		{NULL, 2 * PAGE, {{0x1000, 1, 4, 0, false}, {0x2000, 1, 4, 0, false}}},
		{NULL,
		 2 * PAGE,
		 {{0x1000, 1, -1, 0, true}, {0x2000, 1, -1, 0, true}}}, /* before flags were */
		{NULL, PAGE, {{0x1000, 1, -1, 0, true}, {0x2000, 9, -1, 1, true}}},
		{NULL, 0, {{0x1000, 1, 2, 0, false}, {0x2000, 1, 1, 0, false}}},
		{"not aligned", 2 * PAGE, {{0x1001, 1, 4, 0, false}, {0x3000, 1, 4, 0, false}}},
		{"overlaps", 3 * PAGE, {{0x1000, 2, 4, 0, false}, {0x2000, 1, 4, 0, false}}},
		{"precedes", 2 * PAGE, {{0x3000, 1, 4, 0, false}, {0x1000, 1, 4, 0, false}}},
		{"cannot be", 2 * PAGE, {{0x1000, 0, 4, 0, false}, {0x2000, 1, 4, 0, false}}},
		{"cannot be", 2 * PAGE, {{0x1000, UINT64_MAX, 4, 0, false}, {0x2000, 1, 4, 0, false}}},
		{"cannot be", 2 * PAGE, {{UINT64_MAX - 4095, 1, 4, 0, false}, {0x2000, 1, 4, 0, false}}},
		{"truncated", 2 * PAGE - 1, {{0x1000, 1, 4, 0, false}, {0x2000, 1, 4, 0, false}}},
		{"lists 8192", 2 * PAGE + 1, {{0x1000, 1, 4, 0, false}, {0x2000, 1, 4, 0, false}}},
		{"both here", 2 * PAGE, {{0x1000, 1, 5, 0, false}, {0x2000, 1, 4, 0, false}}},
	};
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dir *writing = begin(state);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		write_pagemap(writing, i, cases[i].entries, 2, cases[i].pages_bytes);
	_cleanup_image_dir_ struct image_dir *dir = finish(state, writing);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_pages_reader_ struct image_pages_reader *r = NULL;
		_cleanup_free_ struct image_run *runs = NULL;
		size_t n = 0;
		error_clear(&err);
		assert_int_equal(image_pages_open(dir, IMAGE_PAGEMAP, i, &r, &err), 0);
		int ret = image_pages_read_all(r, &runs, &n, &err);
		if (!cases[i].what) {
			assert_int_equal(ret, 0);
			assert_int_equal(n, 2);
			continue;
		}
		assert_int_equal(ret, -EBADMSG);
		if (!strstr(err.message, cases[i].what))
			fail_msg("case %zu: '%s' lacks '%s'", i, err.message, cases[i].what);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
	const struct CMUnitTest tests[] = {
		TEST(runs_come_back),          TEST(zero_pages_take_no_space),
		TEST(pages_from_a_pipe),       TEST(callers_mistakes_are_refused),
		TEST(strange_pagemaps),        TEST(references_cover),
		TEST(coverage_of_many),        TEST(what_is_elsewhere),
		TEST(ranges_that_are_covered),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
