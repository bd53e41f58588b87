/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "unit.h"

struct folder {
	char path[128];
	int fd;
};

static int folder_make(void **state)
{
	struct folder *f = calloc(1, sizeof(*f));

	unit_temporary(f->path, sizeof(f->path), "ferry-fd");
	if (!mkdtemp(f->path))
		return -1;
	f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	return f->fd < 0 ? -1 : 0;
}

static int folder_remove(void **state)
{
	struct folder *f = *state;
	int r = rmdir(f->path);

	close(f->fd);
	free(f);
	return r;
}

static void replace_leaves_whole_file_only(void **state)
{
	struct folder *f = *state;
	_cleanup_free_ char *bytes = NULL;
	struct stat st;
	size_t n = 0;

	assert_int_equal(fd_replace_file(f->fd, "a", 0600, "old", 3), 0);
	assert_int_equal(fd_replace_file(f->fd, "a", 0600, "newer", 5), 0);
	assert_int_equal(fd_read_path(f->fd, "a", 100, &bytes, &n), 0);
	assert_int_equal(n, 5);
	assert_string_equal(bytes, "newer");
	assert_int_equal(fstatat(f->fd, "a", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(unlinkat(f->fd, "a", 0), 0);
	/* folder_remove() fails if a temporary name stayed. */
}

static void reading_stops_at_the_limit(void **state)
{
	struct folder *f = *state;
	char big[10000] = {0}, *bytes = NULL;
	size_t n = 77;

	assert_int_equal(fd_replace_file(f->fd, "a", 0600, big, sizeof(big)), 0);
	assert_int_equal(fd_read_path(f->fd, "a", sizeof(big) - 1, &bytes, &n), -EFBIG);
	assert_null(bytes);
	assert_int_equal(n, 77);
	assert_int_equal(fd_read_path(f->fd, "a", sizeof(big), &bytes, &n), 0);
	assert_int_equal(n, sizeof(big));
	free(bytes);
	assert_int_equal(unlinkat(f->fd, "a", 0), 0);
	assert_int_equal(fd_read_path(f->fd, "a", 10, &bytes, &n), -ENOENT);
}

static void early_end_is_no_data(void **state)
{
	struct folder *f = *state;
	char bytes[8];

	assert_int_equal(fd_replace_file(f->fd, "a", 0600, "1234", 4), 0);
	_cleanup_close_ int fd = fd_open(f->fd, "a", O_RDWR, 0);
	assert_true(fd >= 0);
	assert_int_equal(fd_pread_all(fd, bytes, 4, 0), 0);
	assert_int_equal(fd_pread_all(fd, bytes, 5, 0), -ENODATA);
	assert_int_equal(fd_read_all(fd, bytes, 8), -ENODATA);
	assert_int_equal(fd_pwrite_all(fd, "xy", 2, 3), 0);
	assert_int_equal(fd_pread_all(fd, bytes, 5, 0), 0);
	assert_memory_equal(bytes, "123xy", 5);
	assert_int_equal(unlinkat(f->fd, "a", 0), 0);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static void descriptors_travel_and_close_on_exec(void **state)
{
	(void)state;
	int pair[2], got[2] = {-1, -1};
	char text[4];
	size_t n = 0;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(fd_send(pair[0], "abc", 4, (int[]){pair[0], pair[1]}, 2), 0);
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, 2, &n), 4);
	assert_int_equal(n, 2);
	assert_string_equal(text, "abc");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fcntl(got[i], F_GETFD), FD_CLOEXEC);
		close(got[i]);
	}
	/* More than the caller has room for: an error, and none of them stays open. */
	int before = dup(0);
	close(before);
	assert_int_equal(fd_send(pair[0], "abc", 4, (int[]){pair[0], pair[1]}, 2), 0);
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, 1, &n), -EMSGSIZE);
	int after = dup(0);
	close(after);
	assert_int_equal(before, after);
	assert_int_equal(fd_send(pair[0], "abc", 4, got, 254), -E2BIG);
	close(pair[0]);
	close(pair[1]);
}

static void copies_close_on_exec(void **state)
{
	(void)state;
	_cleanup_close_ int copy = fd_dup(0, 300);

	assert_true(copy >= 300);
	assert_int_equal(fcntl(copy, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fd_dup(-1, 300), -EBADF);
}

static void close_others_keeps_the_kept(void **state)
{
	(void)state;
	for (int fd = 400; fd < 406; fd++)
		assert_int_equal(dup2(0, fd), fd);
	fd_close_others(400, (const int[]){3, 401, 404}, 3);
	for (int fd = 400; fd < 406; fd++)
		assert_int_equal(is_open(fd), fd == 401 || fd == 404);
	fd_close_others(400, NULL, 0);
	assert_false(is_open(401));
	assert_true(is_open(0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(replace_leaves_whole_file_only, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(reading_stops_at_the_limit, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(early_end_is_no_data, folder_make, folder_remove),
		cmocka_unit_test(descriptors_travel_and_close_on_exec),
		cmocka_unit_test(copies_close_on_exec),
		cmocka_unit_test(close_others_keeps_the_kept),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
