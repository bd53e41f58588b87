/* SPDX-License-Identifier: Apache-2.0 */
#include "image/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "image/coverage.h"
#include "image/dedup.h"
#include "image/dir.h"
#include "image/pages.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/inventory.pb-c.h"
#include "image_tools.h"

enum { PAGE = IMAGE_PAGE_BYTES, MOST_RUNS = 4, MOST_MAPS = 3, MOST_DIRS = 4 };
#define P IMAGE_PE_PARENT
#define S IMAGE_PE_PRESENT

/* One pagemap; its pages are full of the letter of the directory plus the pagemap's number, but for their own number. */
struct map {
	uint64_t id;
	uint32_t pages_of;
	struct image_run runs[MOST_RUNS]; /* vaddr in pages */
};

/* Directories "a", "b", ...: each builds on the one behind it. */
struct model {
	struct map maps[MOST_DIRS][MOST_MAPS];
};

static void write_map(struct image_dir *dir, const struct map *map, char letter)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_pages_writer *w = NULL;
	uint8_t page[PAGE];
	memset(page, letter + (int)map->id, sizeof(page));
	assert_int_equal(image_pages_create(dir, IMAGE_PAGEMAP, map->id, &w, &err), 0);
	for (size_t i = 0; i < MOST_RUNS && map->runs[i].nr_pages; i++) {
		const struct image_run *run = &map->runs[i];
		uint64_t at = run->vaddr * PAGE;
		if (!(run->flags & S))
			assert_int_equal(image_pages_add_reference(w, at, run->nr_pages, run->flags, &err),
					 0);
		for (uint64_t n = 0; run->flags & S && n < run->nr_pages; n++) {
			page[1] = (uint8_t)(run->vaddr + n);
			assert_int_equal(image_pages_add(w, at + n * PAGE, 1, 0,
							 &(struct iovec){page, sizeof(page)}, 1, &err),
					 0);
		}
	}
	assert_int_equal(image_pages_close(w, &err), 0);
	FerryMmEntry mm = FERRY_MM_ENTRY__INIT;
	mm.has_pages_of = map->pages_of != 0;
	mm.pages_of = map->pages_of;
	assert_int_equal(image_put_one(dir, IMAGE_FERRY_MM, map->id, &mm.base, &err), 0);
}

/* The oldest first, since a link has to lead somewhere when it is made. Returns the image, open. */
static struct image_dir *make_chain(void **state, const struct model *m, size_t n_dirs)
{
	static const struct image_dir_open check_all = {.check_pages = true};
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct image_dir_create options = {.no_sync = true, .overwrite = true};
	struct image_dir *dir = NULL;
	char path[256];
	for (size_t i = n_dirs; i-- > 0;) {
		char letter = (char)('a' + i), parent[] = "../b";
		parent[3] = (char)(letter + 1);
		scratch_path(*state, (char[]){letter, '\0'}, path);
		_cleanup_image_dir_ struct image_dir *writing = NULL;
		assert_int_equal(image_dir_create(AT_FDCWD, path, &options, &writing, &err), 0);
		if (i + 1 < n_dirs)
			assert_int_equal(image_dir_link_parent(writing, parent, &err), 0);
		for (size_t k = 0; k < MOST_MAPS && m->maps[i][k].id; k++)
			write_map(writing, &m->maps[i][k], letter);
		InventoryEntry inventory = INVENTORY_ENTRY__INIT;
		inventory.img_version = 2;
		assert_int_equal(image_put_one(writing, IMAGE_INVENTORY, 0, &inventory.base, &err), 0);
		assert_int_equal(image_dir_finish(writing, &err), 0);
	}
	assert_int_equal(image_dir_open(AT_FDCWD, path, &check_all, &dir, &err), 0);
	return dir;
}

/* All pages of a memory as text: the page's number, what it is full of, "3a 4b"... */
static int describe(struct image_dir *dir, uint64_t id, char *text, struct ferry_error *err)
{
	_cleanup_image_memory_ struct image_memory *m = NULL;
	struct image_piece piece;
	int r = image_memory_open(dir, IMAGE_PAGEMAP, id, &m, err);
	*text = '\0';
	while (r >= 0 && (r = image_memory_next(m, &piece, err)) > 0)
		for (uint64_t i = 0; i < piece.nr_pages && r >= 0; i++) {
			char page[PAGE];
			r = image_memory_read(&piece, i, 1, page, err);
			assert_int_equal((uint8_t)page[1], piece.vaddr / PAGE + i);
			for (size_t k = 2; k < PAGE; k++)
				assert_int_equal(page[k], page[0]);
			text += sprintf(text, "%s%d%c", i || piece.vaddr / PAGE != 1 ? " " : "",
					(int)(piece.vaddr / PAGE + i), page[0] - (int)piece.source->id);
		}
	return r;
}

static const struct model three = {{
	{{1, 0, {{1, 2, S, 0}, {3, 4, P, 0}, {9, 1, P, 0}}}},
	{{1, 0, {{2, 2, S, 0}, {4, 3, P, 0}, {9, 3, S, 0}}}},
	{{1, 0, {{1, 9, S, 0}}}},
}};

static void references_lead_to_the_youngest(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	char text[256];
	_cleanup_image_dir_ struct image_dir *dir = make_chain(state, &three, 3);
	assert_int_equal(describe(dir, 1, text, &err), 0);
	assert_string_equal(text, "1a 2a 3b 4c 5c 6c 9b");
	assert_int_equal(image_dir_n_parents(dir), 2);
	/* What the next round may refer to, and what is in a part of it. */
	_cleanup_image_coverage_ struct image_coverage *coverage = NULL;
	assert_int_equal(image_coverage_read(dir, &coverage, &err), 0);
	const struct image_covered *covered = image_coverage_find(coverage, IMAGE_PAGEMAP, 1);
	assert_non_null(covered);
	assert_int_equal(covered->n, 2);
	assert_int_equal(covered->v[0].start, PAGE);
	assert_int_equal(covered->v[0].end, 7 * PAGE);
	assert_int_equal(covered->v[1].start, 9 * PAGE);
	char some[4 * PAGE];
	uint64_t pages = 0;
	assert_int_equal(image_memory_get(dir, IMAGE_PAGEMAP, 1, 6 * PAGE, 10 * PAGE, some, &pages, &err), 0);
	assert_int_equal(pages, 2);
	assert_int_equal(some[0], 'c' + 1);
	assert_int_equal(some[3 * PAGE], 'b' + 1);
}

/* A family within a round, whose head has pages in the round before; and of one that is a family there. */
static void families_and_rounds_are_one(void **state)
{
	static const struct model both = {{
		{{1, 0, {{1, 2, S, 0}, {3, 2, P, 0}}},
		 {2, 1, {{1, 4, P, 0}, {5, 1, S, 0}}},
		 {3, 2, {{1, 1, P, 0}, {4, 2, P, 0}}}},
		{{1, 4, {{3, 2, P, 0}}}, {4, 0, {{3, 3, S, 0}}}},
	}};
	struct ferry_error err = FERRY_ERROR_INIT;
	char text[256];
	_cleanup_image_dir_ struct image_dir *dir = make_chain(state, &both, 2);
	assert_int_equal(describe(dir, 1, text, &err), 0);
	assert_string_equal(text, "1a 2a 3b 4b");
	assert_int_equal(describe(dir, 2, text, &err), 0);
	assert_string_equal(text, "1a 2a 3b 4b 5a");
	assert_int_equal(describe(dir, 3, text, &err), 0);
	assert_string_equal(text, "1a 4b 5a");
}

static void references_that_lead_nowhere(void **state)
{
	static const struct {
		const char *what;
		struct model model;
		size_t n_dirs;
		int code;
	} cases[] = {
		{"refers to pages of a parent image, but there is none",
		 {{{{1, 0, {{1, 1, P, 0}}}}}},
		 1,
		 -EBADMSG},
		{"pagemap that is not there",
		 {{{{1, 0, {{1, 1, P, 0}}}}, {{2, 0, {{1, 1, S, 0}}}}}},
		 2,
		 -EBADMSG},
		{"pagemap that is not there", {{{{1, 9, {{1, 1, P, 0}}}}}}, 1, -EBADMSG},
		{"the page at 0x3000 is said to be in",
		 {{{{1, 0, {{1, 3, P, 0}}}}, {{1, 0, {{1, 2, S, 0}, {4, 1, S, 0}}}}}},
		 2,
		 -EBADMSG},
		{"the page at 0x1000 is said to be in",
		 {{{{1, 0, {{1, 3, P, 0}}}}, {{1, 0, {{2, 3, S, 0}}}}}},
		 2,
		 -EBADMSG},
		{"the page at 0x1000 is said to be in",
		 {{{{1, 0, {{1, 3, P, 0}}}}, {{1, 0, {{0}}}}}},
		 2,
		 -EBADMSG},
		{"of a task that refers to it", {{{{1, 1, {{1, 1, P, 0}}}}}}, 1, -EBADMSG},
		{"of a task that refers to it",
		 {{{{1, 2, {{1, 1, P, 0}}}, {2, 3, {{1, 1, P, 0}}}, {3, 1, {{1, 1, P, 0}}}}}},
		 1,
		 -EBADMSG},
		{"is to come from a page server",
		 {{{{1, 0, {{1, 1, P, 0}}}}, {{1, 0, {{1, 1, IMAGE_PE_LAZY, 0}}}}}},
		 2,
		 -ENOTSUP},
	};
	char text[256];
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		_cleanup_image_dir_ struct image_dir *dir =
			make_chain(state, &cases[i].model, cases[i].n_dirs);
		assert_int_equal(describe(dir, 1, text, &err), cases[i].code);
		if (!strstr(err.message, cases[i].what))
			fail_msg("case %zu: '%s' lacks '%s'", i, err.message, cases[i].what);
		/* Who wants to build on it is told, too. */
		_cleanup_image_coverage_ struct image_coverage *coverage = NULL;
		error_clear(&err);
		assert_true(image_coverage_read(dir, &coverage, &err) < 0);
		assert_null(coverage);
	}
}

/* Pages of a head that were stored again may still be those of a child. */
static void dedup_spares_what_is_needed(void **state)
{
	static const struct model family = {{
		{{1, 0, {{1, 6, S, 0}}}, {2, 0, {{2, 2, P, 0}, {4, 1, S, 0}}}},
		{{1, 0, {{1, 8, S, 0}}}, {2, 1, {{2, 3, P, 0}}}},
		{{1, 0, {{2, 3, S, 0}}}, {3, 0, {{1, 1, S, 0}}}},
	}};
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dedup done = {0};
	char text[256], path[256];
	_cleanup_image_dir_ struct image_dir *dir = make_chain(state, &family, 3);
	if (image_dedup(dir, NULL, &done, &err) < 0)
		fail_msg("%s", err.message);
	assert_int_equal(done.images, 2);
	/* Of the middle one pages 1, 4, 5, 6; of the oldest all three of its first memory. */
	assert_int_equal(done.bytes, (4 + 3) * PAGE);
	assert_int_equal(describe(dir, 1, text, &err), 0);
	assert_string_equal(text, "1a 2a 3a 4a 5a 6a");
	assert_int_equal(describe(dir, 2, text, &err), 0);
	/* The first page has another number than 1, so a space comes first. */
	assert_string_equal(text, " 2b 3b 4a");
	/* Again: nothing is left to take. */
	assert_int_equal(image_dedup(dir, NULL, &done, &err), 0);
	assert_int_equal(done.bytes, 0);
	/* The middle one is not whole any more, and the image is as long as it leads through it. */
	_cleanup_image_dir_ struct image_dir *middle = NULL;
	static const struct image_dir_open check_all = {.check_pages = true};
	scratch_path(*state, "b", path);
	assert_int_equal(image_dir_open(AT_FDCWD, path, &check_all, &middle, &err), 0);
	assert_int_equal(image_dir_check_whole(middle, &err), -EBADMSG);
	assert_int_equal(image_dir_check_whole(dir, &err), 0);
	error_clear(&err);
	assert_int_equal(image_dedup(middle, NULL, &done, &err), -EBADMSG);
	/* For good. */
	assert_int_equal(image_dedup_all(dir, NULL, &done, &err), 0);
	assert_int_equal(done.images, 3);
	assert_int_equal(image_dir_check_whole(dir, &err), -EBADMSG);
}

static void a_round_that_was_replaced(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	char a[256], b[256], text[256];
	scratch_path(*state, "a", a);
	scratch_path(*state, "b", b);
	image_dir_free(make_chain(state, &three, 3));
	/* The same again, but for the ids. */
	static const struct image_dir_open plain = {0};
	static const struct image_dir_create options = {.no_sync = true, .overwrite = true};
	_cleanup_image_dir_ struct image_dir *writing = NULL, *dir = NULL;
	assert_int_equal(image_dir_create(AT_FDCWD, b, &options, &writing, &err), 0);
	write_map(writing, &three.maps[1][0], 'b');
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	inventory.img_version = 2;
	assert_int_equal(image_put_one(writing, IMAGE_INVENTORY, 0, &inventory.base, &err), 0);
	assert_int_equal(image_dir_finish(writing, &err), 0);
	assert_int_equal(image_dir_open(AT_FDCWD, a, &plain, &dir, &err), 0);
	assert_int_equal(describe(dir, 1, text, &err), -EBADMSG);
	assert_non_null(strstr(err.message, "is not the image that"));
	error_clear(&err);
	assert_int_equal(image_dir_open_chain(dir, &err), -EBADMSG);
}

static void links_that_lead_astray(void **state)
{
	static const struct {
		const char *target, *what;
		int code;
	} cases[] = {
		{"../nowhere", "cannot open the image", -ENOENT},
		{"../a", "leads back to an image that builds on it", -ELOOP},
		{".", "leads back to an image that builds on it", -ELOOP},
		{"parent", "cannot open the image", -ELOOP},
		{"inventory.img", "cannot open the image", -ENOTDIR},
		{"/dev/null", "cannot open the image", -ENOTDIR},
		{"ferry-family", "but there is none", -EBADMSG},
	};
	static const struct model one = {{{{1, 0, {{1, 1, P, 0}}}}}};
	static const struct image_dir_open plain = {0};
	char path[256], link[512], text[256];
	image_dir_free(make_chain(state, &one, 1));
	scratch_path(*state, "a", path);
	snprintf(link, sizeof(link), "%s/parent", path);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		_cleanup_image_dir_ struct image_dir *dir = NULL;
		assert_int_equal(symlink(cases[i].target, link), 0);
		assert_int_equal(image_dir_open(AT_FDCWD, path, &plain, &dir, &err), 0);
		assert_int_equal(describe(dir, 1, text, &err), cases[i].code);
		if (!strstr(err.message, cases[i].what))
			fail_msg("case %zu: '%s' lacks '%s'", i, err.message, cases[i].what);
		assert_int_equal(unlink(link), 0);
	}
}

static void a_long_chain(void **state)
{
	enum { LENGTH = 101 };
	static const struct model oldest = {{{{1, 0, {{1, 3, S, 0}}}}}};
	static const struct image_dir_create options = {.no_sync = true};
	static const struct image_dir_open plain = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	char path[256], name[16], target[24] = "../a", text[256];
	image_dir_free(make_chain(state, &oldest, 1));
	for (int i = 0; i < LENGTH; i++) {
		_cleanup_image_dir_ struct image_dir *writing = NULL;
		snprintf(name, sizeof(name), "r%d", i);
		scratch_path(*state, name, path);
		assert_int_equal(image_dir_create(AT_FDCWD, path, &options, &writing, &err), 0);
		assert_int_equal(image_dir_link_parent(writing, target, &err), 0);
		struct map map = {1, 0, {{1, 2, P, 0}, {3, 1, i % 100 ? P : S, 0}}};
		write_map(writing, &map, 'b');
		InventoryEntry inventory = INVENTORY_ENTRY__INIT;
		inventory.img_version = 2;
		assert_int_equal(image_put_one(writing, IMAGE_INVENTORY, 0, &inventory.base, &err), 0);
		assert_int_equal(image_dir_finish(writing, &err), 0);
		snprintf(target, sizeof(target), "../%s", name);
	}
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	assert_int_equal(image_dir_open(AT_FDCWD, path, &plain, &dir, &err), 0);
	assert_int_equal(describe(dir, 1, text, &err), 0);
	assert_string_equal(text, "1a 2a 3b");
	assert_int_equal(image_dir_n_parents(dir), LENGTH);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
	const struct CMUnitTest tests[] = {
		TEST(references_lead_to_the_youngest),
		TEST(families_and_rounds_are_one),
		TEST(references_that_lead_nowhere),
		TEST(a_round_that_was_replaced),
		TEST(dedup_spares_what_is_needed),
		TEST(links_that_lead_astray),
		TEST(a_long_chain),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
