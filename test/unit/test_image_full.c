/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that becomes full, or that fails, at any point: the calls that change the disk are replaced by ones that
 * have a budget. This program's own definitions come before the C library's.
 */
#include "image/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "image/pages.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/inventory.pb-c.h"
#include "image_tools.h"

enum { UNLIMITED = -1 };

static long budget_bytes = UNLIMITED; /* for write(2) */
static long budget_calls = UNLIMITED; /* for everything that changes the disk */
static bool failed_once;

/* Whether this call is the one that fails. */
static bool call_fails(void)
{
	if (budget_calls == UNLIMITED || budget_calls-- > 0)
		return false;
	budget_calls = UNLIMITED;
	failed_once = true;
	errno = ENOSPC;
	return true;
}

ssize_t write(int fd, const void *bytes, size_t n)
{
	if (call_fails())
		return -1;
	if (budget_bytes == UNLIMITED)
		return syscall(SYS_write, fd, bytes, n);
	if (!budget_bytes) {
		failed_once = true;
		errno = ENOSPC;
		return -1;
	}
	ssize_t done = syscall(SYS_write, fd, bytes, MIN(n, (size_t)budget_bytes));
	budget_bytes -= done > 0 ? done : 0;
	return done;
}

int fsync(int fd)
{
	return call_fails() ? -1 : (int)syscall(SYS_fsync, fd);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
	return call_fails() ? -1 : (int)syscall(SYS_renameat, from_fd, from, to_fd, to);
}

int mkdirat(int fd, const char *path, mode_t mode)
{
	return call_fails() ? -1 : (int)syscall(SYS_mkdirat, fd, path, mode);
}

int openat(int fd, const char *path, int flags, ...)
{
	va_list args;
	va_start(args, flags);
	mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
	va_end(args);
	if (flags & O_CREAT && call_fails())
		return -1;
	return (int)syscall(SYS_openat, fd, path, flags, mode);
}

static int fill(struct image_dir *dir, struct ferry_error *err)
{
	uint8_t page[IMAGE_PAGE_BYTES * 3];
	struct iovec iov = {page, sizeof(page)};
	struct image_pages_writer *pages = NULL;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	inventory.img_version = 2;
	memset(page, 7, sizeof(page));
	int r = image_put_one(dir, IMAGE_INVENTORY, 0, &inventory.base, err);
	if (r == 0)
		r = image_pages_create(dir, IMAGE_PAGEMAP, 1, &pages, err);
	if (r == 0)
		r = image_pages_add(pages, 0x1000, 3, 0, &iov, 1, err);
	int closed = image_pages_close(pages, err);
	CoreEntry core = CORE_ENTRY__INIT;
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	if (r == 0 && closed == 0)
		return image_put_one(dir, IMAGE_CORE, 1, &core.base, err);
	return r < 0 ? r : closed;
}

/* Make an image under the present budget; 0, or the error after nothing was left behind. */
static int make_image(const char *path, struct ferry_error *err)
{
	const struct image_dir_create options = {.read_back = IMAGE_READ_BACK_ALL};
	struct image_dir *dir = NULL;
	failed_once = false;
	int r = image_dir_create(AT_FDCWD, path, &options, &dir, err);
	if (r == 0)
		r = fill(dir, err);
	if (r == 0)
		r = image_dir_finish(dir, err);
	budget_bytes = budget_calls = UNLIMITED;
	image_dir_free(dir);
	return r;
}

static void expect_nothing_left(const char *path, int r, const struct ferry_error *err)
{
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(err->id, FERRY_ERROR_NO_SPACE);
	if (access(path, F_OK) == 0)
		fail_msg("%zu names left after: %s", count_names(path), err->message);
}

static void full_at_every_byte(void **state)
{
	char path[256];
	scratch_path(*state, "a", path);
	long bytes;
	for (bytes = 0;; bytes++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		/* Within the pages every byte is like the next. */
		if (bytes > 200 && bytes < 12200)
			bytes = 12200;
		budget_bytes = bytes;
		int r = make_image(path, &err);
		if (r == 0)
			break;
		expect_nothing_left(path, r, &err);
	}
	assert_false(failed_once);
	assert_true(bytes > 3 * IMAGE_PAGE_BYTES + 200);
	assert_int_equal(count_names(path), 5);
}

static void every_call_fails_once(void **state)
{
	char path[256];
	scratch_path(*state, "a", path);
	long calls;
	for (calls = 0;; calls++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		budget_calls = calls;
		int r = make_image(path, &err);
		if (!failed_once) {
			assert_int_equal(r, 0);
			break;
		}
		expect_nothing_left(path, r, &err);
	}
	/* mkdir, marker; 5 files opened, written and synced; the manifest's seal; 3 syncs of directories; rename */
	assert_int_equal(calls, 2 + 5 * 3 + 1 + 3 + 1);
	assert_int_equal(count_names(path), 5);
}

/* In a directory that was there before, it stays. */
static void a_directory_of_others_stays(void **state)
{
	char path[256];
	scratch_path(*state, "a", path);
	assert_int_equal(mkdir(path, 0700), 0);
	for (long bytes = 0; bytes < 400; bytes += 7) {
		struct ferry_error err = FERRY_ERROR_INIT;
		budget_bytes = bytes;
		assert_int_equal(make_image(path, &err), -ENOSPC);
		assert_int_equal(count_names(path), 0);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_remove)
	const struct CMUnitTest tests[] = {
		TEST(full_at_every_byte),
		TEST(every_call_fails_once),
		TEST(a_directory_of_others_stays),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
