/* SPDX-License-Identifier: Apache-2.0 */
/* The journal: what is written is there, a swap compares, a lock excludes, damage is noticed. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/macros.h"
#include "store/journal.h"

static char folder[64];

static int open_folder(void **state)
{
	struct journal *j;
	char path[96];
	snprintf(folder, sizeof(folder), "/tmp/test-journal-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/a/b/journal", folder);
	assert_int_equal(journal_open(path, false, NULL, &j, NULL), -ENOENT);
	assert_int_equal(journal_open(path, true, NULL, &j, NULL), 0);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	*state = j;
	return 0;
}

static int close_folder(void **state)
{
	char command[128];
	journal_close(*state);
	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command);
}

static struct journal_record sample(const char *id)
{
	struct journal_record r = {
		.side = JOURNAL_SOURCE,
		.state = JOURNAL_OPEN,
		.epoch = 3,
		.pid = 4711,
		.start_ticks = 99,
		.n_addresses = 2,
	};
	snprintf(r.id, sizeof(r.id), "%s", id);
	snprintf(r.comm, sizeof(r.comm), "a \"name\"");
	snprintf(r.peer, sizeof(r.peer), "unix:/run/x");
	snprintf(r.token, sizeof(r.token), "abc");
	snprintf(r.addresses[0], sizeof(r.addresses[0]), "192.0.2.7/24@eth0");
	snprintf(r.addresses[1], sizeof(r.addresses[1]), "2001:db8::7/64@eth1");
	return r;
}

static void written(void **state)
{
	struct journal_record r = sample("one"), got;
	assert_int_equal(journal_create(*state, &r, NULL), 0);
	assert_int_equal(journal_create(*state, &r, NULL), -EEXIST);
	assert_int_equal(journal_read(*state, JOURNAL_SOURCE, "one", &got, NULL), 0);
	assert_int_equal(got.state, JOURNAL_OPEN);
	assert_int_equal(got.epoch, 3);
	assert_int_equal(got.pid, 4711);
	assert_int_equal(got.start_ticks, 99);
	assert_string_equal(got.comm, r.comm);
	assert_string_equal(got.peer, r.peer);
	assert_string_equal(got.token, r.token);
	assert_int_equal(got.n_addresses, 2);
	assert_string_equal(got.addresses[1], "2001:db8::7/64@eth1");
	assert_int_equal(got.sequence, 1);
	assert_true(journal_is_this_boot(&got));
	got.boot_id[0] ^= 1;
	assert_false(journal_is_this_boot(&got));
	assert_int_equal(journal_read(*state, JOURNAL_TARGET, "one", &got, NULL), -ENOENT);
}

static void swapped(void **state)
{
	struct journal_record r = sample("one"), stale, got;
	assert_int_equal(journal_create(*state, &r, NULL), 0);
	stale = r;
	assert_int_equal(journal_swap(*state, &r, JOURNAL_HELD, NULL), 0);
	assert_int_equal(r.state, JOURNAL_HELD);
	snprintf(r.reason, sizeof(r.reason), "why");
	assert_int_equal(journal_swap(*state, &r, JOURNAL_COMMITTED, NULL), 0);
	/* Who looked before sees what it is now, and changes nothing. */
	assert_int_equal(journal_swap(*state, &stale, JOURNAL_ABORTED, NULL), -ESTALE);
	assert_int_equal(stale.state, JOURNAL_COMMITTED);
	assert_int_equal(journal_read(*state, JOURNAL_SOURCE, "one", &got, NULL), 0);
	assert_int_equal(got.state, JOURNAL_COMMITTED);
	assert_string_equal(got.reason, "why");
	struct journal_record other = got;
	other.epoch = 4;
	assert_int_equal(journal_swap(*state, &other, JOURNAL_REVERTED, NULL), -ESTALE);
	r.settled = r.confirmed = true;
	assert_int_equal(journal_swap(*state, &r, JOURNAL_COMMITTED, NULL), 0);
	assert_int_equal(journal_read(*state, JOURNAL_SOURCE, "one", &got, NULL), 0);
	assert_true(got.settled && got.confirmed);
}

static void locked(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int first = journal_lock(*state, JOURNAL_SOURCE, "one", NULL);
	assert_true(first >= 0);
	assert_int_equal(journal_lock(*state, JOURNAL_SOURCE, "one", &err), -EBUSY);
	int other = journal_lock(*state, JOURNAL_TARGET, "one", NULL);
	assert_true(other >= 0);
	close(first);
	int second = journal_lock(*state, JOURNAL_SOURCE, "one", NULL);
	assert_true(second >= 0);
	close(second);
	close(other);
}

static void names(void **state)
{
	static const char *const bad[] = {"",    "a/b", "..", "-x",
					  "a.b", "a b", "ä",  "01234567890123456789012345678901234567890"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct journal_record r;
		assert_false(journal_id_valid(bad[i]));
		assert_int_equal(journal_read(*state, JOURNAL_SOURCE, bad[i], &r, NULL), -EINVAL);
		assert_int_equal(journal_lock(*state, JOURNAL_SOURCE, bad[i], NULL), -EINVAL);
	}
	assert_true(journal_id_valid("0123456789abcdef-0123456789-ABCDEFGHIJKL"));
}

/* The file's bytes, and the file with other bytes. */
static size_t file_text(const char *name, char *ret, size_t max)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/a/b/journal/%s", folder, name);
	FILE *f = fopen(path, "re");
	assert_non_null(f);
	size_t n = fread(ret, 1, max - 1, f);
	ret[n] = '\0';
	fclose(f);
	return n;
}

static void file_write(const char *name, const char *text, size_t n)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/a/b/journal/%s", folder, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(fd_write_all(fd, text, n), 0);
	close(fd);
}

static void damaged(void **state)
{
	struct journal_record r = sample("one"), got;
	char text[4096];
	assert_int_equal(journal_create(*state, &r, NULL), 0);
	size_t n = file_text("one.source.json", text, sizeof(text));
	for (size_t cut = 0; cut < n - 1; cut += 7) {
		struct ferry_error err = FERRY_ERROR_INIT;
		file_write("one.source.json", text, cut);
		assert_int_equal(journal_read(*state, JOURNAL_SOURCE, "one", &got, &err), -EBADMSG);
		assert_int_equal(err.id, FERRY_ERROR_IMAGE_BAD);
		assert_true(journal_swap(*state, &r, JOURNAL_HELD, NULL) < 0);
	}
	/* A record under another name is not believed. */
	file_write("two.source.json", text, n);
	assert_int_equal(journal_read(*state, JOURNAL_SOURCE, "two", &got, NULL), -EBADMSG);
	file_write("one.target.json", text, n);
	assert_int_equal(journal_read(*state, JOURNAL_TARGET, "one", &got, NULL), -EBADMSG);
	/* A state of the other side is none. */
	char other[8192];
	const size_t at = (size_t)(strstr(text, "\"open\"") - text);
	int length = snprintf(other, sizeof(other), "%.*s\"running\"%s", (int)at, text, text + at + 6);
	assert_int_equal(journal_parse(text, &got), 0);
	assert_int_equal(journal_parse(other, &got), -EBADMSG);
	file_write("one.source.json", other, (size_t)length);
	assert_int_equal(journal_read(*state, JOURNAL_SOURCE, "one", &got, NULL), -EBADMSG);
}

static void listed(void **state)
{
	struct journal_record b = sample("b"), a = sample("a"), *list;
	size_t n, bad;
	assert_int_equal(journal_list(*state, &list, &n, &bad, NULL), 0);
	assert_int_equal(n + bad, 0);
	assert_int_equal(journal_create(*state, &b, NULL), 0);
	a.side = JOURNAL_TARGET;
	a.state = JOURNAL_RUNNING;
	assert_int_equal(journal_create(*state, &a, NULL), 0);
	file_write("c.source.json", "{}", 2);
	file_write("readme", "hello", 5);
	int lock = journal_lock(*state, JOURNAL_SOURCE, "b", NULL);
	assert_int_equal(journal_list(*state, &list, &n, &bad, NULL), 0);
	assert_int_equal(n, 2);
	assert_int_equal(bad, 1);
	assert_string_equal(list[0].id, "a");
	assert_int_equal(list[0].state, JOURNAL_RUNNING);
	assert_string_equal(list[1].id, "b");
	free(list);
	close(lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(written, open_folder, close_folder),
		cmocka_unit_test_setup_teardown(swapped, open_folder, close_folder),
		cmocka_unit_test_setup_teardown(locked, open_folder, close_folder),
		cmocka_unit_test_setup_teardown(names, open_folder, close_folder),
		cmocka_unit_test_setup_teardown(damaged, open_folder, close_folder),
		cmocka_unit_test_setup_teardown(listed, open_folder, close_folder),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
