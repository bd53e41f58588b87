/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings of control groups as records, in folders that look like groups: v2's too, whose controllers few machines have beside those of
 * v1. And the words of --cgroup-props.
 */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "kind/cgroup_groups.h"
#include "kind/cgroup_props.h"

static char folder[256];
static int dir = -1;

static void put(const char *file, const char *text)
{
	int fd = fd_open(dir, file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

static void holds(const char *file, const char *text)
{
	char *now;
	size_t n;
	assert_int_equal(fd_read_path(dir, file, 4096, &now, &n), 0);
	assert_string_equal(now, text);
	free(now);
}

static int begin(void **state)
{
	(void)state;
	unit_temporary(folder, sizeof(folder), "group");
	assert_non_null(mkdtemp(folder));
	dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir < 0;
}

static int end(void **state)
{
	(void)state;
	close(dir);
	return 0;
}

static CgroupDirEntry *read_group(struct arena *a, const char *hierarchy, const char *props)
{
	struct cgroup_reading r = {.arena = a};
	CgroupDirEntry *record = NULL;
	assert_int_equal(cgroup_names_of(a, hierarchy, props, &r.names, NULL), 0);
	assert_int_equal(cgroup_read_group(&r, dir, "group", &record, NULL), 0);
	return record;
}

static const char *value(const CgroupDirEntry *record, const char *name)
{
	for (size_t i = 0; i < record->n_properties; i++)
		if (!strcmp(record->properties[i]->name, name))
			return record->properties[i]->value;
	return NULL;
}

static void second_version(void **state)
{
	struct arena a = {0};
	(void)state;
	put("memory.max", "1048576\n");
	put("cpu.max", "max 100000\n");
	put("io.max", "8:0 rbps=1000 wbps=max\n8:16 rbps=max wbps=7\n");
	put("cgroup.subtree_control", "cpu memory\n");
	put("cgroup.type", "domain\n");
	put("cgroup.freeze", "1\n");
	put("memory.current", "77\n");
	CgroupDirEntry *record = read_group(&a, "", NULL);
	assert_string_equal(value(record, "memory.max"), "1048576");
	assert_null(value(record, "memory.current"));
	assert_true(cgroup_was_frozen(record));
	/* What is the same is not written: the file of a group would take it, and this one would lose its end. */
	assert_int_equal(cgroup_write_group(dir, record, CGROUP_LATE, NULL, NULL), 0);
	holds("memory.max", "1048576\n");
	put("memory.max", "max\n");
	put("cgroup.subtree_control", "pids\n");
	assert_int_equal(cgroup_write_group(dir, record, CGROUP_LATE, NULL, NULL), 0);
	holds("memory.max", "1048576");
	holds("cgroup.subtree_control", "pids\n");
	assert_int_equal(cgroup_write_group(dir, record, CGROUP_EARLY, NULL, NULL), 0);
	holds("cgroup.subtree_control", "-pids +cpu +memory ");
	/* It stands or runs by other means. */
	put("cgroup.freeze", "0\n");
	assert_int_equal(cgroup_write_group(dir, record, CGROUP_LATE, NULL, NULL), 0);
	holds("cgroup.freeze", "0\n");
	arena_release(&a);
}

struct noted {
	char text[256];
};

static int note(void *context, int group, const char *file, const char *was, struct ferry_error *err)
{
	struct noted *n = context;
	(void)group;
	(void)err;
	strcat(n->text, file);
	strcat(n->text, "=");
	strcat(n->text, was);
	strcat(n->text, ";");
	return 0;
}

static void first_version(void **state)
{
	struct arena a = {0};
	struct noted noted = {0};
	const struct cgroup_undo undo = {note, &noted};
	(void)state;
	put("memory.limit_in_bytes", "4096\n");
	put("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\n");
	put("tasks", "1\n2\n");
	CgroupDirEntry *record = read_group(&a, "cpu,memory", NULL);
	assert_string_equal(value(record, "memory.oom_control"), "1");
	assert_string_equal(value(record, "tasks"), "");
	put("memory.limit_in_bytes", "8192\n");
	assert_int_equal(cgroup_write_group(dir, record, CGROUP_LATE, &undo, NULL), 0);
	assert_string_equal(noted.text, "memory.limit_in_bytes=8192;");
	holds("tasks", "1\n2\n");
	arena_release(&a);
}

/* No record makes us write into a command. */
static void commands(void **state)
{
	CgroupPropEntry kill = CGROUP_PROP_ENTRY__INIT, *properties[] = {&kill};
	CgroupDirEntry record = CGROUP_DIR_ENTRY__INIT;
	static const char *const names[] = {"cgroup.kill", "memory.reclaim", "release_agent", "cgroup.procs"};
	(void)state;
	record.dir_name = (char *)"group";
	record.properties = properties;
	record.n_properties = 1;
	kill.value = (char *)"1";
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		put(names[i], "0\n");
		kill.name = (char *)names[i];
		assert_int_equal(cgroup_write_group(dir, &record, CGROUP_EARLY, NULL, NULL), 0);
		assert_int_equal(cgroup_write_group(dir, &record, CGROUP_LATE, NULL, NULL), 0);
		holds(names[i], "0\n");
	}
}

static void chosen(void **state)
{
	struct arena a = {0};
	(void)state;
	put("memory.limit_in_bytes", "4096\n");
	put("memory.swappiness", "60\n");
	put("memory.usage_in_bytes", "9\n");
	const char *append =
		"\"memory\":\n  - \"strategy\": \"append\"\n  - \"properties\": [\"memory.usage_in_bytes\"]\n";
	CgroupDirEntry *record = read_group(&a, "memory", append);
	assert_string_equal(value(record, "memory.usage_in_bytes"), "9");
	assert_string_equal(value(record, "memory.limit_in_bytes"), "4096");
	record = read_group(
		&a, "memory",
		"memory: - strategy: replace - properties: [ memory.usage_in_bytes , memory.swappiness ]\n"
		"cpu: - strategy: append - properties: [cpu.shares]");
	assert_string_equal(value(record, "memory.usage_in_bytes"), "9");
	assert_string_equal(value(record, "memory.swappiness"), "60");
	assert_null(value(record, "memory.limit_in_bytes"));
	arena_release(&a);
}

static void misspelt(void **state)
{
	static const char *const texts[] = {
		"memory",
		"memory:",
		"memory: -",
		"memory: - strategy",
		"memory: - strategy: other",
		"memory: - properties: ",
		"memory: - properties: [",
		"memory: - properties: []",
		"memory: - properties: [a",
		"memory: - properties: [a,]",
		"memory: - properties: [\"a",
		"memory: - properties: [a/b]",
		"memory: - properties: [../b]",
		"memory: - properties: [.]",
		": - strategy: append",
		"\"memory",
		"[",
		"memory: strategy: append",
	};
	const struct cgroup_props_take nothing = {0};
	(void)state;
	assert_int_equal(cgroup_props_parse("", &nothing, NULL), 0);
	assert_int_equal(cgroup_props_parse(" \n\t", &nothing, NULL), 0);
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		assert_int_equal(cgroup_props_parse(texts[i], &nothing, &err), -EINVAL);
		assert_int_equal(err.id, FERRY_ERROR_USAGE);
	}
	/* A word that is longer than any. */
	char long_word[4096];
	memset(long_word, 'a', sizeof(long_word));
	long_word[sizeof(long_word) - 1] = '\0';
	assert_int_equal(cgroup_props_parse(long_word, &nothing, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(second_version, begin, end),
		cmocka_unit_test_setup_teardown(first_version, begin, end),
		cmocka_unit_test_setup_teardown(commands, begin, end),
		cmocka_unit_test_setup_teardown(chosen, begin, end),
		cmocka_unit_test(misspelt),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
