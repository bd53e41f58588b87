/* SPDX-License-Identifier: Apache-2.0 */
#include "image/coverage.h"
#include "image/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "image/pages.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/pstree.pb-c.h"
#include "image/proto/stats.pb-c.h"
#include "image_tools.h"

/* Tests run with thousands of images: the disk is left alone unless a test is about it. */
static const struct image_dir_create quick = {.no_sync = true};
static const struct image_dir_open plain = {.fault = NULL};

static struct image_dir *create(const char *path, const struct image_dir_create *options)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dir *dir = NULL;
	if (image_dir_create(AT_FDCWD, path, options, &dir, &err) < 0)
		fail_msg("%s", err.message);
	return dir;
}

static int fill(struct image_dir *dir, uint32_t number, struct ferry_error *err)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	inventory.img_version = 2;
	PstreeEntry task = PSTREE_ENTRY__INIT;
	task.pid = number;
	int r = image_put_one(dir, IMAGE_INVENTORY, 0, &inventory.base, err);
	if (r == 0)
		r = image_put_one(dir, IMAGE_PSTREE, 0, &task.base, err);
	struct image_pages_writer *pages;
	if (r == 0)
		r = image_pages_create(dir, IMAGE_PAGEMAP, number, &pages, err);
	if (r < 0)
		return r;
	uint8_t page[IMAGE_PAGE_BYTES];
	memset(page, (int)number, sizeof(page));
	struct iovec iov = {page, sizeof(page)};
	r = image_pages_add(pages, 0x1000, 1, 0, &iov, 1, err);
	int closed = image_pages_close(pages, err);
	return r < 0 ? r : closed;
}

static void make_image(const char *path, uint32_t number, const struct image_dir_create *options)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_image_dir_ struct image_dir *dir = create(path, options);
	int r = fill(dir, number, &err);
	if (r == 0)
		r = image_dir_finish(dir, &err);
	if (r < 0)
		fail_msg("%s", err.message);
}

static int try_open(const char *path, const struct image_dir_open *options, struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	error_clear(err);
	return image_dir_open(AT_FDCWD, path, options, &dir, err);
}

static mode_t mode_of(const char *dir, const char *name)
{
	char path[512];
	struct stat st;
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static void whole_image(void **state)
{
	char path[256];
	scratch_path(*state, "a", path);
	const struct image_dir_create careful = {.read_back = IMAGE_READ_BACK_ALL, .read_back_cold = true};
	make_image(path, 4, &careful);
	assert_int_equal(count_names(path), 5); /* inventory, pstree, pagemap, pages, manifest; no marker */
	assert_int_equal(mode_of(path, "."), 0700);
	assert_int_equal(mode_of(path, "inventory.img"), 0600);
	assert_int_equal(mode_of(path, "pages-1.img"), 0600);

	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	const struct image_dir_open all = {.check_pages = true};
	assert_int_equal(image_dir_open(AT_FDCWD, path, &all, &dir, &err), 0);
	assert_true(image_dir_has_manifest(dir));
	assert_true(image_dir_has(dir, IMAGE_PAGEMAP, 4));
	assert_false(image_dir_has(dir, IMAGE_PAGEMAP, 5));
	_cleanup_message_ PstreeEntry *task = NULL;
	assert_int_equal(image_get_one(dir, IMAGE_PSTREE, 0, &task, &err), 0);
	assert_int_equal(task->pid, 4);
	char text[37];
	uint64_t hi, lo;
	image_dir_id_text(dir, text);
	image_dir_id(dir, &hi, &lo);
	assert_int_equal(strlen(text), 36);
	assert_true(hi || lo);
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n;
	assert_int_equal(image_dir_list(dir, &files, &n, &err), 0);
	assert_int_equal(n, 5);
	assert_int_equal(files[0].kind, IMAGE_INVENTORY);
}

static void not_an_image_until_finished(void **state)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	{
		_cleanup_image_dir_ struct image_dir *dir = create(path, &quick);
		assert_int_equal(fill(dir, 4, &err), 0);
		assert_int_equal(try_open(path, &plain, &err), -ENOENT);
		assert_int_equal(err.id, FERRY_ERROR_IMAGE_MISSING);
		assert_non_null(strstr(err.hint, "did not end"));
	}
	/* Freed without an end: nothing is left, not even the directory. */
	assert_int_equal(access(path, F_OK), -1);
}

static void abort_keeps_what_others_have(void **state)
{
	char path[256], log[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	snprintf(log, sizeof(log), "%s/dump.log", path);
	assert_int_equal(mkdir(path, 0755), 0);
	spill(log, "x", 1);
	struct image_dir *dir = create(path, &quick);
	assert_int_equal(fill(dir, 4, &err), 0);
	struct image_writer *open_one = NULL;
	assert_int_equal(image_create(dir, IMAGE_CORE, 4, &open_one, &err), 0);
	/* A link that leads nowhere is removed like one that leads to an image. */
	assert_int_equal(image_dir_link_parent(dir, "../b", &err), -ENOENT);
	image_dir_abort(dir);
	assert_int_equal(count_names(path), 1);
	assert_int_equal(image_dir_finish(dir, &err), -EINVAL);
	image_dir_free(dir);
	assert_int_equal(access(log, F_OK), 0);
}

static void an_open_file_is_no_whole_image(void **state)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	_cleanup_image_dir_ struct image_dir *dir = create(path, &quick);
	struct image_writer *w = NULL;
	assert_int_equal(fill(dir, 4, &err), 0);
	assert_int_equal(image_create(dir, IMAGE_CORE, 4, &w, &err), 0);
	assert_int_equal(image_create(dir, IMAGE_PSTREE, 0, &w, &err), -EEXIST);
	error_clear(&err);
	assert_int_equal(image_dir_finish(dir, &err), -EBUSY);
	assert_int_equal(access(path, F_OK), -1);
}

static void no_inventory_no_image(void **state)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	_cleanup_image_dir_ struct image_dir *dir = create(path, &quick);
	assert_int_equal(image_dir_finish(dir, &err), -EINVAL);
	assert_int_equal(access(path, F_OK), -1);
}

static void an_image_is_not_overwritten_unasked(void **state)
{
	char path[256], extra[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dir *dir = NULL;
	scratch_path(*state, "a", path);
	make_image(path, 4, &quick);
	assert_int_equal(image_dir_create(AT_FDCWD, path, &quick, &dir, &err), -EEXIST);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_EXISTS);
	assert_int_equal(try_open(path, &plain, &err), 0);
	assert_int_equal(count_names(path), 5);

	/* With leave: what belonged to the old image and not to the new one is gone; a stranger's file is not. */
	snprintf(extra, sizeof(extra), "%s/notes.txt", path);
	spill(extra, "x", 1);
	snprintf(extra, sizeof(extra), "%s/" IMAGE_SPENT_NAME, path);
	spill(extra, "", 0);
	const struct image_dir_create again = {.no_sync = true, .overwrite = true};
	make_image(path, 5, &again);
	assert_int_equal(try_open(path, &plain, &err), 0);
	snprintf(extra, sizeof(extra), "%s/pagemap-4.img", path);
	assert_int_equal(access(extra, F_OK), -1);
	assert_int_equal(count_names(path), 6);
}

static void what_a_killed_writer_left_is_cleaned(void **state)
{
	char path[256], extra[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(extra, sizeof(extra), "%s/core-77.img", path);
	spill(extra, "x", 1);
	pid_t pid = fork();
	if (!pid) {
		struct image_dir *dir = create(path, &quick);
		if (fill(dir, 9, &err) == 0)
			raise(SIGKILL);
		_exit(1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	snprintf(extra, sizeof(extra), "%s/pagemap-9.img", path);
	assert_int_equal(access(extra, F_OK), 0);
	assert_int_equal(try_open(path, &plain, &err), -ENOENT);
	make_image(path, 4, &quick);
	assert_int_equal(try_open(path, &plain, &err), 0);
	assert_int_equal(count_names(path), 5);
}

static void two_writers_exclude_each_other(void **state)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	_cleanup_image_dir_ struct image_dir *first = create(path, &quick), *second = NULL;
	assert_int_equal(image_dir_create(AT_FDCWD, path, &quick, &second, &err), -EEXIST);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_EXISTS);
	assert_non_null(strstr(err.message, "another process is writing"));
	error_clear(&err);
	assert_int_equal(fill(first, 4, &err), 0);
	assert_int_equal(image_dir_finish(first, &err), 0);
	assert_int_equal(try_open(path, &plain, &err), 0);
}

/* A process that the writer had forked (and that will end soon) is no second writer. */
static void a_lingering_child_is_waited_for(void **state)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	int ends[2];
	char ready;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid_t writer = fork();
	if (!writer) {
		struct image_dir *dir = create(path, &quick);
		if (fill(dir, 9, &err) < 0)
			_exit(1);
		if (!fork()) {
			usleep(300000);
			_exit(0);
		}
		if (write(ends[1], "x", 1) == 1)
			raise(SIGKILL);
		_exit(1);
	}
	assert_int_equal(read(ends[0], &ready, 1), 1);
	int status;
	assert_int_equal(waitpid(writer, &status, 0), writer);
	assert_true(WIFSIGNALED(status));
	close(ends[0]);
	close(ends[1]);
	make_image(path, 4, &quick);
	assert_int_equal(try_open(path, &plain, &err), 0);
	assert_int_equal(count_names(path), 5);
}

static void a_link_is_not_followed(void **state)
{
	char path[256], victim[256], link[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	scratch_path(*state, "victim", victim);
	spill(victim, "precious", 8);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(link, sizeof(link), "%s/pstree.img", path);
	assert_int_equal(symlink(victim, link), 0);
	make_image(path, 4, &quick);
	size_t n;
	_cleanup_free_ uint8_t *bytes = slurp(victim, &n);
	assert_int_equal(n, 8);
	assert_memory_equal(bytes, "precious", 8);
	assert_int_equal(try_open(path, &plain, &err), 0);
	/* Nor when reading. */
	assert_int_equal(unlink(link), 0);
	assert_int_equal(symlink(victim, link), 0);
	assert_true(try_open(path, &plain, &err) < 0);
}

/* ---- damage ---- */

static void every_single_bit_counts(void **state)
{
	static const char *const names[] = {"inventory.img", "pstree.img", "pagemap-4.img",
					    "ferry-manifest.img", "pages-1.img"};
	const struct image_dir_open all = {.check_pages = true};
	struct ferry_error err = FERRY_ERROR_INIT;
	char dir[256];
	scratch_path(*state, "a", dir);
	make_image(dir, 4, &quick);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char path[512];
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		size_t n;
		_cleanup_free_ uint8_t *bytes = slurp(path, &n);
		_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
		size_t step = n > 1000 ? 97 : 1; /* the page is 32768 bits of the same */
		for (size_t bit = 0; bit < n * 8; bit += step) {
			uint8_t byte = bytes[bit / 8] ^ (uint8_t)(1u << bit % 8);
			assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
			int r = try_open(dir, &all, &err);
			if (r == 0)
				fail_msg("bit %zu of %s was flipped and nobody saw it", bit, names[i]);
			assert_true(err.id == FERRY_ERROR_IMAGE_BAD || err.id == FERRY_ERROR_IMAGE_MISSING ||
				    err.id == FERRY_ERROR_IMAGE_UNSUPPORTED);
			assert_int_equal(pwrite(fd, bytes + bit / 8, 1, (off_t)(bit / 8)), 1);
		}
		assert_int_equal(try_open(dir, &all, &err), 0);
	}
}

static void pages_are_checked_when_asked(void **state)
{
	char dir[256], path[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct image_dir_open all = {.check_pages = true}, none = {.no_checksums = true};
	scratch_path(*state, "a", dir);
	make_image(dir, 4, &quick);
	snprintf(path, sizeof(path), "%s/pages-1.img", dir);
	size_t n;
	_cleanup_free_ uint8_t *bytes = slurp(path, &n);
	bytes[1234] ^= 1;
	spill(path, bytes, n);
	assert_int_equal(try_open(dir, &plain, &err), 0);
	assert_int_equal(try_open(dir, &all, &err), -EBADMSG);
	assert_non_null(strstr(err.message, "pages-1.img"));
	snprintf(path, sizeof(path), "%s/pstree.img", dir);
	_cleanup_free_ uint8_t *tree = slurp(path, &n);
	tree[n - 1] ^= 1;
	spill(path, tree, n);
	assert_int_equal(try_open(dir, &none, &err), 0);
	assert_int_equal(try_open(dir, &plain, &err), -EBADMSG);
}

/* Files that were looked at on their way are not read again; what was seen counts. */
static void what_was_seen_is_compared(void **state)
{
	char dir[256], path[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", dir);
	make_image(dir, 4, &quick);
	snprintf(path, sizeof(path), "%s/pages-1.img", dir);
	size_t n;
	_cleanup_free_ uint8_t *bytes = slurp(path, &n);
	_cleanup_image_hash_ struct image_hash *hash = image_hash_new();
	assert_non_null(hash);
	struct image_seen seen = {.name = "pages-1.img", .size = n};
	image_hash_add(hash, "before", 6);
	image_hash_end(hash);
	image_hash_add(hash, bytes, 100);
	image_hash_add(hash, bytes + 100, n - 100);
	seen.checksum = image_hash_end(hash);
	const struct image_dir_open options = {.check_pages = true, .seen = &seen, .n_seen = 1};
	assert_int_equal(try_open(dir, &options, &err), 0);
	seen.size--;
	assert_int_equal(try_open(dir, &options, &err), -EBADMSG);
	seen.size++;
	seen.checksum.bytes[15] ^= 1;
	assert_int_equal(try_open(dir, &options, &err), -EBADMSG);
	assert_non_null(strstr(err.message, "pages-1.img"));
	/* It is read as ever when another file was seen, and its size counts in any case. */
	bytes[1234] ^= 1;
	spill(path, bytes, n);
	snprintf(seen.name, sizeof(seen.name), "pages-2.img");
	assert_int_equal(try_open(dir, &options, &err), -EBADMSG);
	snprintf(seen.name, sizeof(seen.name), "pages-1.img");
	seen.checksum.bytes[15] ^= 1;
	assert_int_equal(truncate(path, (off_t)n - 1), 0);
	assert_int_equal(try_open(dir, &options, &err), -EBADMSG);
}

struct taken {
	char name[64];
	uint8_t bytes[2 * IMAGE_PAGE_BYTES];
	size_t n;
	int files, fails_at;
};

static int take_begin(void *context, const char *name, struct ferry_error *err)
{
	struct taken *t = context;
	(void)err;
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->files++;
	return 0;
}

static int take_write(void *context, const void *bytes, size_t n, struct ferry_error *err)
{
	struct taken *t = context;
	if (t->fails_at == t->files)
		return error_set(err, FERRY_ERROR_PEER_GONE, EPIPE, "nobody is there");
	assert_true(t->n + n <= sizeof(t->bytes));
	memcpy(t->bytes + t->n, bytes, n);
	t->n += n;
	return 0;
}

/* Pages go to the sink, and together with what it took the directory is a whole image. */
static void pages_go_to_the_sink(void **state)
{
	char path[256], file[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	struct taken taken = {0};
	const struct image_sink sink = {take_begin, take_write, &taken};
	const struct image_dir_create options = {.read_back = IMAGE_READ_BACK_ALL, .pages = &sink};
	const struct image_dir_open all = {.check_pages = true};
	scratch_path(*state, "a", path);
	make_image(path, 4, &options);
	assert_string_equal(taken.name, "pages-1.img");
	assert_int_equal(taken.n, IMAGE_PAGE_BYTES);
	assert_int_equal(taken.bytes[1234], 4);
	assert_int_equal(count_names(path), 4);
	assert_int_equal(try_open(path, &all, &err), -ENOENT);
	snprintf(file, sizeof(file), "%s/pages-1.img", path);
	spill(file, taken.bytes, taken.n);
	assert_int_equal(try_open(path, &all, &err), 0);

	/* Its failure is the image's, and nothing stays. */
	scratch_path(*state, "b", path);
	taken = (struct taken){.fails_at = 1};
	_cleanup_image_dir_ struct image_dir *dir = create(path, &options);
	assert_int_equal(fill(dir, 4, &err), -EPIPE);
	assert_int_equal(err.id, FERRY_ERROR_PEER_GONE);
	image_dir_abort(dir);
	assert_int_equal(access(path, F_OK), -1);
}

static void truncated_at_every_byte(void **state)
{
	static const char *const names[] = {"inventory.img", "pstree.img", "pagemap-4.img",
					    "ferry-manifest.img"};
	struct ferry_error err = FERRY_ERROR_INIT;
	char dir[256];
	scratch_path(*state, "a", dir);
	make_image(dir, 4, &quick);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char path[512];
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		size_t n;
		_cleanup_free_ uint8_t *bytes = slurp(path, &n);
		for (size_t cut = 0; cut < n; cut++) {
			spill(path, bytes, cut);
			assert_int_equal(try_open(dir, &plain, &err), -EBADMSG);
			assert_non_null(strstr(err.message, names[i]));
		}
		spill(path, bytes, n);
	}
	assert_int_equal(try_open(dir, &plain, &err), 0);
}

static void missing_and_foreign_files(void **state)
{
	char dir[256], other[256], path[512], from[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", dir);
	scratch_path(*state, "b", other);
	make_image(dir, 4, &quick);
	make_image(other, 5, &quick);

	snprintf(path, sizeof(path), "%s/pstree.img", dir);
	snprintf(from, sizeof(from), "%s/pstree.img", other);
	size_t n, m;
	_cleanup_free_ uint8_t *own = slurp(path, &n), *foreign = slurp(from, &m);
	assert_int_equal(n, m);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(try_open(dir, &plain, &err), -ENOENT);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_MISSING);
	assert_non_null(strstr(err.message, "pstree.img"));
	spill(path, foreign, m);
	assert_int_equal(try_open(dir, &plain, &err), -EBADMSG);
	assert_non_null(strstr(err.message, "'pstree.img'"));
	assert_non_null(strstr(err.message, "another dump"));
	spill(path, own, n);

	snprintf(path, sizeof(path), "%s/tty-info.img", dir);
	spill(path, own, n);
	assert_int_equal(try_open(dir, &plain, &err), -EBADMSG);
	assert_non_null(strstr(err.message, "'tty-info.img'"));
	assert_int_equal(unlink(path), 0);

	/* What a restore or a user puts there is no business of ours. */
	snprintf(path, sizeof(path), "%s/stats-restore", dir);
	spill(path, "", 0);
	snprintf(path, sizeof(path), "%s/restore.log", dir);
	spill(path, "", 0);
	assert_int_equal(try_open(dir, &plain, &err), 0);

	/* The whole inventory of another dump. */
	snprintf(path, sizeof(path), "%s/ferry-manifest.img", dir);
	snprintf(from, sizeof(from), "%s/ferry-manifest.img", other);
	_cleanup_free_ uint8_t *manifest = slurp(from, &m);
	spill(path, manifest, m);
	assert_true(try_open(dir, &plain, &err) < 0);
}

static void other_versions_are_refused(void **state)
{
	char dir[256], path[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct image_dir_create no_manifest = {.no_sync = true, .no_manifest = true};
	scratch_path(*state, "a", dir);
	make_image(dir, 4, &no_manifest);
	snprintf(path, sizeof(path), "%s/inventory.img", dir);
	size_t n;
	_cleanup_free_ uint8_t *bytes = slurp(path, &n);
	assert_int_equal(n, 10);
	assert_int_equal(try_open(dir, &plain, &err), 0);
	for (uint8_t version = 0; version < 100; version++) {
		bytes[9] = version;
		spill(path, bytes, n);
		int r = try_open(dir, &plain, &err);
		assert_int_equal(r, version == 2 ? 0 : -EOPNOTSUPP);
		if (r < 0)
			assert_int_equal(err.id, FERRY_ERROR_IMAGE_UNSUPPORTED);
	}
}

static void no_directory_no_image(void **state)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "nothing", path);
	assert_int_equal(try_open(path, &plain, &err), -ENOENT);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_MISSING);
	spill(path, "", 0);
	assert_int_equal(try_open(path, &plain, &err), -ENOTDIR);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_MISSING);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(try_open(path, &plain, &err), -ENOENT);
	assert_non_null(strstr(err.message, "holds no image"));
}

/* ---- the rest ---- */

static void faults_leave_nothing(void **state)
{
	static const enum fault_id faults[] = {FAULT_IMAGE_WRITE, FAULT_IMAGE_SYNC, FAULT_READ_BACK};
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		char path[256];
		struct ferry_error err = FERRY_ERROR_INIT;
		const struct fault fault = {.wanted = (int)faults[i], .log_fd = -1};
		const struct image_dir_create options = {.read_back = IMAGE_READ_BACK_ALL, .fault = &fault};
		scratch_path(*state, "a", path);
		_cleanup_image_dir_ struct image_dir *dir = create(path, &options);
		int r = fill(dir, 4, &err);
		if (r == 0)
			r = image_dir_finish(dir, &err);
		assert_true(r < 0);
		assert_int_equal(err.id, FERRY_ERROR_FAULT);
		image_dir_abort(dir);
		assert_int_equal(access(path, F_OK), -1);
	}
}

/* A round that is late is whole for the next one, which takes what it wrote for granted, and read back with what it belongs to. */
static void late_rounds_are_read_back(void **state)
{
	for (int damaged = 0; damaged < 2; damaged++) {
		char path[256], file[512];
		struct ferry_error err = FERRY_ERROR_INIT;
		const struct image_dir_create options = {.read_back = IMAGE_READ_BACK_ALL};
		_cleanup_image_coverage_ struct image_coverage *written = image_coverage_new(), *read = NULL;
		struct image_dir *round = NULL;
		scratch_path(*state, damaged ? "damaged" : "whole", path);
		_cleanup_image_dir_ struct image_dir *dir = create(path, &options);
		assert_int_equal(image_dir_create_round(dir, 1, NULL, written, true, &round, &err), 0);
		assert_int_equal(fill(round, 4, &err), 0);
		assert_int_equal(image_dir_finish(round, &err), 0);
		snprintf(file, sizeof(file), "%s/ferry-round-1", path);
		assert_int_equal(try_open(file, &plain, &err), 0);
		assert_int_equal(image_coverage_read(round, &read, &err), 0);
		const struct image_covered *a = image_coverage_find(written, IMAGE_PAGEMAP, 4);
		const struct image_covered *b = image_coverage_find(read, IMAGE_PAGEMAP, 4);
		assert_true(a && b && a->n == b->n && !memcmp(a->v, b->v, a->n * sizeof(*a->v)));
		image_dir_add_round(dir, round);
		assert_true(image_dir_unsynced_bytes(dir) > image_dir_bytes(dir));
		snprintf(file, sizeof(file), "%s/ferry-round-1/pstree.img", path);
		if (damaged)
			spill(file, "page", 4);
		assert_int_equal(fill(dir, 4, &err), 0);
		assert_int_equal(image_dir_finish(dir, &err) < 0, damaged);
		assert_int_equal(err.id, damaged ? FERRY_ERROR_IMAGE_BAD : FERRY_ERROR_NONE);
		assert_int_equal(access(path, F_OK), damaged ? -1 : 0);
	}
}

static void read_fault(void **state)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct fault fault = {.wanted = FAULT_IMAGE_READ, .log_fd = -1};
	const struct image_dir_open options = {.fault = &fault};
	scratch_path(*state, "a", path);
	make_image(path, 4, &quick);
	assert_true(try_open(path, &options, &err) < 0);
	assert_int_equal(err.id, FERRY_ERROR_FAULT);
}

static void adopted_files_are_listed(void **state)
{
	char path[256], file[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	_cleanup_image_dir_ struct image_dir *dir = create(path, &quick);
	assert_int_equal(fill(dir, 4, &err), 0);
	snprintf(file, sizeof(file), "%s/pages-9.img", path);
	spill(file, "page", 4);
	assert_int_equal(image_dir_adopt(dir, "pages-9.img", &err), 0);
	StatsEntry stats = STATS_ENTRY__INIT;
	assert_int_equal(image_put_one(dir, IMAGE_STATS, IMAGE_STATS_DUMP, &stats.base, &err), 0);
	assert_int_equal(image_dir_finish(dir, &err), 0);
	assert_int_equal(try_open(path, &plain, &err), 0);
	spill(file, "pageX", 5);
	assert_int_equal(try_open(path, &plain, &err), -EBADMSG);
	spill(file, "page", 4);
	/* Statistics may be written again by anybody. */
	snprintf(file, sizeof(file), "%s/stats-dump", path);
	spill(file, "", 0);
	assert_int_equal(try_open(path, &plain, &err), 0);
}

static void restores_once(void **state)
{
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	make_image(path, 4, &quick);
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	assert_int_equal(image_dir_open(AT_FDCWD, path, &plain, &dir, &err), 0);
	assert_int_equal(image_dir_is_spent(dir), 0);
	assert_int_equal(image_dir_mark_spent(dir, &err), 0);
	assert_int_equal(image_dir_is_spent(dir), 1);
	assert_int_equal(image_dir_mark_spent(dir, &err), -EEXIST);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_SPENT);
	error_clear(&err);
	assert_int_equal(image_dir_unmark_spent(dir, &err), 0);
	assert_int_equal(image_dir_is_spent(dir), 0);
	assert_int_equal(image_dir_mark_spent(dir, &err), 0);
}

static void flip_last_byte(const char *dir, const char *name)
{
	char path[512];
	size_t n;
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	_cleanup_free_ uint8_t *bytes = slurp(path, &n);
	bytes[n - 1] ^= 1;
	spill(path, bytes, n);
}

/* What was compared is what is read, whatever becomes of the file. */
static void small_files_are_kept(void **state)
{
	char path[256], name[512];
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct image_dir_open keep = {.keep = true};
	scratch_path(*state, "a", path);
	make_image(path, 4, &quick);
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	assert_int_equal(image_dir_open(AT_FDCWD, path, &keep, &dir, &err), 0);
	snprintf(name, sizeof(name), "%s/pstree.img", path);
	assert_int_equal(unlink(name), 0);
	PstreeEntry *task = NULL;
	assert_int_equal(image_get_one(dir, IMAGE_PSTREE, 0, &task, &err), 0);
	assert_int_equal(task->pid, 4);
	image_message_free(task);
	assert_true(image_dir_has(dir, IMAGE_PSTREE, 0));
	image_dir_forget(dir);
	assert_false(image_dir_has(dir, IMAGE_PSTREE, 0));
	assert_int_equal(image_get_one(dir, IMAGE_PSTREE, 0, &task, &err), -ENOENT);
	assert_int_equal(try_open(path, &keep, &err), -ENOENT);
}

static void many_files(void **state)
{
	enum { N = 3000 };
	const struct image_dir_open keep = {.keep = true};
	char path[256];
	struct ferry_error err = FERRY_ERROR_INIT;
	scratch_path(*state, "a", path);
	_cleanup_image_dir_ struct image_dir *dir = create(path, &quick), *back = NULL;
	assert_int_equal(fill(dir, N + 1, &err), 0);
	for (uint32_t i = 0; i < N; i++) {
		FdinfoEntry fd = FDINFO_ENTRY__INIT;
		fd.id = i;
		assert_int_equal(image_put_one(dir, IMAGE_FDINFO, i, &fd.base, &err), 0);
	}
	assert_int_equal(image_dir_finish(dir, &err), 0);
	assert_int_equal(image_dir_open(AT_FDCWD, path, &plain, &back, &err), 0);
	for (uint32_t i = 0; i < N; i++) {
		_cleanup_message_ FdinfoEntry *fd = NULL;
		_cleanup_reader_ struct image_reader *r = NULL;
		assert_int_equal(image_open(back, IMAGE_FDINFO, i, &r, &err), 0);
		assert_int_equal(image_need(r, &fdinfo_entry__descriptor, &fd, &err), 0);
		assert_int_equal(fd->id, i);
	}
	/* Of several that are damaged it is always the first that is named, whoever finds which one when. */
	flip_last_byte(path, "fdinfo-1670.img");
	flip_last_byte(path, "fdinfo-1650.img");
	for (int i = 0; i < 20; i++) {
		assert_int_equal(try_open(path, i % 2 ? &keep : &plain, &err), -EBADMSG);
		assert_non_null(strstr(err.message, "'fdinfo-1650.img'"));
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
	const struct CMUnitTest tests[] = {
		TEST(whole_image),
		TEST(not_an_image_until_finished),
		TEST(abort_keeps_what_others_have),
		TEST(an_open_file_is_no_whole_image),
		TEST(no_inventory_no_image),
		TEST(an_image_is_not_overwritten_unasked),
		TEST(what_a_killed_writer_left_is_cleaned),
		TEST(two_writers_exclude_each_other),
		TEST(a_lingering_child_is_waited_for),
		TEST(a_link_is_not_followed),
		TEST(every_single_bit_counts),
		TEST(pages_are_checked_when_asked),
		TEST(what_was_seen_is_compared),
		TEST(pages_go_to_the_sink),
		TEST(truncated_at_every_byte),
		TEST(missing_and_foreign_files),
		TEST(other_versions_are_refused),
		TEST(no_directory_no_image),
		TEST(faults_leave_nothing),
		TEST(late_rounds_are_read_back),
		TEST(read_fault),
		TEST(adopted_files_are_listed),
		TEST(restores_once),
		TEST(small_files_are_kept),
		TEST(many_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
