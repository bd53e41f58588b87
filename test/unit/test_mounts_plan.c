/* SPDX-License-Identifier: Apache-2.0 */
/* Where mounts come from, and the order in which they are made. Nothing is mounted. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "kind/mounts_plan.h"

enum { ROOT_DEV = 1, PROC_DEV, TMP_DEV, OTHER_DEV };

static const struct mounts_facts container = {.own_root = true, .own_pidns = true, .detached = true};
static const struct mounts_facts job = {.detached = true};

static struct mounts_one one(uint32_t id, uint32_t parent, Fstype type, uint32_t dev, const char *root,
			     const char *point)
{
	return (struct mounts_one){.id = id,
				   .parent_id = parent,
				   .type = type,
				   .dev = dev,
				   .root = root,
				   .point = point,
				   .source = "none",
				   .options = ""};
}

static const struct mounts_one root_mount = {.id = 1,
					     .parent_id = 100,
					     .dev = ROOT_DEV,
					     .root = "/srv/root",
					     .point = "/",
					     .source = "disk",
					     .options = ""};

struct fixture {
	struct arena arena;
	struct mounts_list list;
	struct mounts_plan plan;
	struct mounts_trouble trouble;
	struct ferry_error err;
};

/* Plan these mounts, with the root before them. */
static int plan(struct fixture *f, const struct mounts_one *mounts, size_t n,
		const struct mounts_facts *facts)
{
	*f = (struct fixture){.err = FERRY_ERROR_INIT};
	f->list.v = arena_array(&f->arena, struct mounts_one, n + 1);
	f->list.v[0] = root_mount;
	f->list.v[0].known = !facts->own_root;
	memcpy(f->list.v + 1, mounts, n * sizeof(*mounts));
	f->list.n = n + 1;
	int r = mounts_order(&f->arena, &f->list, &f->err);
	if (r >= 0)
		r = mounts_sources(&f->list, facts, &f->trouble, &f->err);
	return r < 0 ? r : mounts_plan(&f->arena, &f->list, facts, &f->plan, &f->err);
}

static size_t index_of(const struct fixture *f, uint32_t id)
{
	for (size_t i = 0; i < f->list.n; i++)
		if (f->list.v[i].id == id)
			return i;
	fail_msg("no mount %u", id);
	return 0;
}

static const struct mounts_one *mount_of(const struct fixture *f, uint32_t id)
{
	return &f->list.v[index_of(f, id)];
}

/* When a step comes. */
static size_t when(const struct fixture *f, enum mounts_do what, uint32_t id)
{
	for (size_t i = 0; i < f->plan.n; i++)
		if (f->plan.v[i].what == what && f->list.v[f->plan.v[i].mount].id == id)
			return i;
	fail_msg("no step for mount %u", id);
	return 0;
}

static void end(struct fixture *f)
{
	arena_release(&f->arena);
}

static void test_sources(void **state unused)
{
	const struct mounts_one mounts[] = {
		one(2, 1, FSTYPE__PROC, PROC_DEV, "/", "/proc"),
		one(3, 2, FSTYPE__PROC, PROC_DEV, "/sys", "/proc/sys"),
		one(4, 1, FSTYPE__TMPFS, TMP_DEV, "/", "/tmp"),
		one(5, 1, FSTYPE__TMPFS, TMP_DEV, "/", "/again"),
		one(6, 1, FSTYPE__UNSUPPORTED, ROOT_DEV, "/srv/root/etc", "/part"),
	};
	struct fixture f;
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &container), 0);
	assert_int_equal(mount_of(&f, 1)->from, MOUNTS_ROOT);
	assert_int_equal(mount_of(&f, 2)->from, MOUNTS_NEW);
	assert_int_equal(mount_of(&f, 3)->from, MOUNTS_BIND);
	assert_int_equal(mount_of(&f, 3)->of, index_of(&f, 2));
	assert_string_equal(mount_of(&f, 3)->below, "sys");
	assert_string_equal(mount_of(&f, 3)->place, "sys");
	assert_int_equal(mount_of(&f, 4)->from, MOUNTS_NEW);
	assert_int_equal(mount_of(&f, 5)->from, MOUNTS_BIND);
	assert_string_equal(mount_of(&f, 5)->below, "");
	assert_int_equal(mount_of(&f, 6)->of, index_of(&f, 1));
	assert_string_equal(mount_of(&f, 6)->below, "etc");
	end(&f);
}

/* A folder whose name only begins like the root's is no part of it. */
static void test_not_below(void **state unused)
{
	const struct mounts_one mounts[] = {one(2, 1, FSTYPE__UNSUPPORTED, ROOT_DEV, "/srv/root2", "/part")};
	struct fixture f;
	assert_int_equal(plan(&f, mounts, 1, &container), -ENOTSUP);
	assert_int_equal(f.trouble.mount->id, 2);
	end(&f);
}

static void test_external(void **state unused)
{
	struct mounts_one mounts[] = {one(2, 1, FSTYPE__UNSUPPORTED, OTHER_DEV, "/data", "/data"),
				      one(3, 1, FSTYPE__UNSUPPORTED, OTHER_DEV, "/data/sub", "/sub")};
	struct fixture f;
	assert_int_equal(plan(&f, mounts, 2, &container), -ENOTSUP);
	end(&f);
	mounts[0].key = "data";
	assert_int_equal(plan(&f, mounts, 2, &container), 0);
	assert_int_equal(mount_of(&f, 2)->from, MOUNTS_EXTERNAL);
	assert_int_equal(mount_of(&f, 3)->from, MOUNTS_BIND);
	assert_string_equal(mount_of(&f, 3)->below, "sub");
	end(&f);
}

static void test_job(void **state unused)
{
	struct mounts_one mounts[] = {one(2, 1, FSTYPE__UNSUPPORTED, OTHER_DEV, "/", "/home"),
				      one(3, 1, FSTYPE__UNSUPPORTED, OTHER_DEV, "/user", "/mnt")};
	struct fixture f;
	mounts[0].known = true;
	assert_int_equal(plan(&f, mounts, 2, &job), 0);
	assert_int_equal(mount_of(&f, 1)->from, MOUNTS_HERE);
	assert_int_equal(mount_of(&f, 2)->from, MOUNTS_HERE);
	assert_int_equal(mount_of(&f, 3)->from, MOUNTS_BIND);
	end(&f);
}

/* What another will hide is placed before it, although that came first. */
static void test_hidden(void **state unused)
{
	const struct mounts_one mounts[] = {
		one(2, 1, FSTYPE__TMPFS, TMP_DEV, "/", "/a"),
		one(3, 1, FSTYPE__TMPFS, OTHER_DEV, "/", "/a/b/c"),
		one(4, 1, FSTYPE__TMPFS, OTHER_DEV + 1, "/", "/a/b"),
		one(5, 2, FSTYPE__TMPFS, OTHER_DEV + 2, "/", "/a"),
		one(6, 1, FSTYPE__TMPFS, OTHER_DEV + 3, "/", "/ab"),
	};
	struct fixture f;
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &container), 0);
	assert_true(when(&f, MOUNTS_PLACE, 3) < when(&f, MOUNTS_PLACE, 4));
	assert_true(when(&f, MOUNTS_PLACE, 4) < when(&f, MOUNTS_PLACE, 2));
	assert_true(when(&f, MOUNTS_PLACE, 2) < when(&f, MOUNTS_PLACE, 5));
	end(&f);
}

/* Only the tree's processes can mount proc; what hangs on it, or shows a part of it, waits with it. */
static void test_late(void **state unused)
{
	const struct mounts_one mounts[] = {
		one(2, 1, FSTYPE__PROC, PROC_DEV, "/", "/proc"),
		one(3, 2, FSTYPE__PROC, PROC_DEV, "/sys", "/proc/sys"),
		one(4, 2, FSTYPE__TMPFS, TMP_DEV, "/", "/proc/acpi"),
		one(5, 1, FSTYPE__TMPFS, OTHER_DEV, "/", "/tmp"),
		one(6, 5, FSTYPE__PROC, PROC_DEV, "/bus", "/tmp/bus"),
	};
	struct mounts_facts facts = container;
	struct fixture f;
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &facts), 0);
	assert_true(when(&f, MOUNTS_MAKE, 2) >= f.plan.n_early);
	assert_true(when(&f, MOUNTS_PLACE, 3) >= f.plan.n_early);
	assert_true(when(&f, MOUNTS_MAKE, 4) < f.plan.n_early);
	assert_true(when(&f, MOUNTS_PLACE, 4) >= f.plan.n_early);
	assert_true(when(&f, MOUNTS_PLACE, 5) < f.plan.n_early);
	assert_true(when(&f, MOUNTS_MAKE, 6) >= f.plan.n_early);
	end(&f);
	facts.own_pidns = false;
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &facts), 0);
	assert_int_equal(f.plan.n_early, f.plan.n);
	end(&f);
}

/* A part is taken before anything is placed over it, also where the whole has to be in its place first. */
static void test_parts(void **state unused)
{
	const struct mounts_one mounts[] = {
		one(2, 1, FSTYPE__TMPFS, TMP_DEV, "/", "/dev"),
		one(3, 2, FSTYPE__TMPFS, OTHER_DEV, "/", "/dev/shm"),
		one(4, 1, FSTYPE__TMPFS, TMP_DEV, "/shm", "/under"),
	};
	struct mounts_facts facts = container;
	struct fixture f;
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &facts), 0);
	assert_true(when(&f, MOUNTS_MAKE, 4) < when(&f, MOUNTS_PLACE, 3));
	end(&f);
	facts.detached = false;
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &facts), 0);
	assert_true(when(&f, MOUNTS_PLACE, 2) < when(&f, MOUNTS_MAKE, 4));
	assert_true(when(&f, MOUNTS_MAKE, 4) < when(&f, MOUNTS_PLACE, 3));
	end(&f);
}

static void refused(const struct mounts_one *mounts, size_t n)
{
	struct fixture f;
	assert_int_equal(plan(&f, mounts, n, &container), -EBADMSG);
	assert_true(error_is_set(&f.err));
	end(&f);
}

static void test_hostile(void **state unused)
{
	const struct mounts_one circle[] = {one(2, 3, FSTYPE__TMPFS, 2, "/", "/a"),
					    one(3, 2, FSTYPE__TMPFS, 3, "/", "/a/b")};
	const struct mounts_one up[] = {one(2, 1, FSTYPE__TMPFS, 2, "/", "/a/../../etc")};
	const struct mounts_one dot[] = {one(2, 1, FSTYPE__TMPFS, 2, "/", "/a/./b")};
	const struct mounts_one empty[] = {one(2, 1, FSTYPE__TMPFS, 2, "/", "/a//b")};
	const struct mounts_one relative[] = {one(2, 1, FSTYPE__TMPFS, 2, "/", "etc")};
	const struct mounts_one aside[] = {one(2, 1, FSTYPE__TMPFS, 2, "/", "/a"),
					   one(3, 2, FSTYPE__TMPFS, 3, "/", "/etc")};
	const struct mounts_one twice[] = {one(2, 1, FSTYPE__TMPFS, 2, "/", "/a"),
					   one(2, 1, FSTYPE__TMPFS, 3, "/", "/b")};
	const struct mounts_one same[] = {one(2, 1, FSTYPE__TMPFS, 2, "/", "/a"),
					  one(3, 1, FSTYPE__TMPFS, 3, "/", "/a")};
	const struct mounts_one roots[] = {one(2, 77, FSTYPE__TMPFS, 2, "/", "/a")};
	refused(circle, 2);
	refused(up, 1);
	refused(dot, 1);
	refused(empty, 1);
	refused(relative, 1);
	refused(aside, 2);
	refused(twice, 2);
	refused(same, 2);
	refused(roots, 1);
}

/* Parts of what is not plain are nowhere. */
static void test_odd_roots(void **state unused)
{
	const struct mounts_one up[] = {one(2, 1, FSTYPE__UNSUPPORTED, ROOT_DEV, "/srv/root/../x", "/a")};
	const struct mounts_one gone[] = {
		one(2, 1, FSTYPE__UNSUPPORTED, ROOT_DEV, "/srv/root/x//deleted", "/a")};
	const struct mounts_one cgroup[] = {one(2, 1, FSTYPE__CGROUP2, OTHER_DEV, "/../up", "/a")};
	struct fixture f;
	assert_int_equal(plan(&f, up, 1, &container), -ENOTSUP);
	end(&f);
	assert_int_equal(plan(&f, gone, 1, &container), -ENOTSUP);
	end(&f);
	assert_int_equal(plan(&f, cgroup, 1, &container), -ENOTSUP);
	end(&f);
}

/* What the namespace that this one began as a copy of shows openly is taken from there, be it of a kind that can be made or not. */
static void test_base(void **state unused)
{
	struct mounts_one base_mounts[] = {
		root_mount,
		one(2, 1, FSTYPE__TMPFS, TMP_DEV, "/", "/storage"),
		one(3, 2, FSTYPE__UNSUPPORTED, OTHER_DEV, "/inner", "/storage/root"),
		one(4, 1, FSTYPE__SYSFS, PROC_DEV, "/", "/sys"),
		one(5, 4, FSTYPE__TMPFS, OTHER_DEV + 1, "/", "/sys"),
	};
	struct mounts_list base = {.v = base_mounts, .n = ARRAY_SIZE(base_mounts)};
	struct mounts_one mounts[] = {
		one(13, 11, FSTYPE__TMPFS, TMP_DEV, "/shm", "/shm"),
		one(14, 11, FSTYPE__PROC, OTHER_DEV + 2, "/", "/proc"),
		one(15, 14, FSTYPE__PROC, OTHER_DEV + 2, "/bus", "/proc/bus"),
		one(16, 11, FSTYPE__UNSUPPORTED, ROOT_DEV, "/srv/root/etc/hosts", "/hosts"),
		one(17, 11, FSTYPE__SYSFS, PROC_DEV, "/", "/sys"),
		one(18, 11, FSTYPE__MQUEUE, OTHER_DEV + 3, "/", "/mqueue"),
	};
	struct mounts_facts facts = {.own_root = true,
				     .own_pidns = true,
				     .own_ipcns = true,
				     .own_netns = true,
				     .detached = true,
				     .base = &base};
	struct fixture f = {.err = FERRY_ERROR_INIT};
	assert_int_equal(mounts_find_parents(&base, &f.err), 0);
	f.list.v = arena_array(&f.arena, struct mounts_one, ARRAY_SIZE(mounts) + 1);
	f.list.v[0] = one(11, 100, FSTYPE__UNSUPPORTED, OTHER_DEV, "/inner/rootfs", "/");
	memcpy(f.list.v + 1, mounts, sizeof(mounts));
	f.list.n = ARRAY_SIZE(mounts) + 1;
	assert_int_equal(mounts_sources(&f.list, &facts, &f.trouble, &f.err), 0);
	assert_int_equal(mounts_plan(&f.arena, &f.list, &facts, &f.plan, &f.err), 0);
	assert_int_equal(mount_of(&f, 11)->from, MOUNTS_BASE);
	assert_int_equal(mount_of(&f, 11)->of, 2);
	assert_string_equal(mount_of(&f, 11)->below, "rootfs");
	assert_int_equal(mount_of(&f, 13)->from, MOUNTS_BASE);
	assert_int_equal(mount_of(&f, 13)->of, 1);
	assert_string_equal(mount_of(&f, 13)->below, "shm");
	assert_int_equal(mount_of(&f, 14)->from, MOUNTS_NEW);
	assert_int_equal(mount_of(&f, 15)->from, MOUNTS_BIND);
	assert_int_equal(mount_of(&f, 16)->from, MOUNTS_BASE);
	assert_string_equal(mount_of(&f, 16)->below, "etc/hosts");
	/* Where another hides it, it is made. */
	assert_int_equal(mount_of(&f, 17)->from, MOUNTS_NEW);
	for (uint32_t id = 14; id <= 18; id++)
		if (mount_of(&f, id)->from == MOUNTS_NEW)
			assert_true(when(&f, MOUNTS_MAKE, id) >= f.plan.n_early);
	assert_true(when(&f, MOUNTS_PLACE, 11) < f.plan.n_outside);
	assert_true(when(&f, MOUNTS_PLACE, 13) < f.plan.n_outside);
	/* A part that is no part of anything there. */
	f.list.v[0].root = "/elsewhere";
	assert_int_equal(mounts_sources(&f.list, &facts, &f.trouble, &f.err), -ENOTSUP);
	assert_ptr_equal(f.trouble.mount, &f.list.v[0]);
	end(&f);
}

/* An overlay is made when its folders are to be seen where its options say, below the root that they mean. */
static void test_overlay(void **state unused)
{
	struct mounts_one mounts[] = {
		one(2, 1, FSTYPE__OVERLAYFS, OTHER_DEV, "/", "/merged"),
		one(3, 1, FSTYPE__OVERLAYFS, OTHER_DEV + 1, "/", "/again"),
		one(4, 1, FSTYPE__TMPFS, TMP_DEV, "/", "/layers"),
		one(5, 2, FSTYPE__TMPFS, PROC_DEV, "/", "/merged/tmp"),
		one(6, 1, FSTYPE__OVERLAYFS, OTHER_DEV, "/part", "/part"),
	};
	struct fixture f;
	mounts[0].options = "lowerdir=/:/layers/low,upperdir=/layers/up,workdir=/layers/work";
	mounts[1].options = "lowerdir=/merged/a:/layers/low";
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &container), 0);
	assert_int_equal(mount_of(&f, 2)->from, MOUNTS_NEW);
	assert_int_equal(mount_of(&f, 6)->from, MOUNTS_BIND);
	assert_true(when(&f, MOUNTS_MAKE, 2) >= f.plan.n_outside);
	assert_true(when(&f, MOUNTS_PLACE, 3) < f.plan.n_early);
	assert_true(when(&f, MOUNTS_PLACE, 4) < when(&f, MOUNTS_MAKE, 2));
	assert_true(when(&f, MOUNTS_PLACE, 2) < when(&f, MOUNTS_MAKE, 3));
	end(&f);
	/* One that is to be made of itself. */
	mounts[0].options = "lowerdir=/merged/a";
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &container), -ENOTSUP);
	end(&f);
	/* Of the base's folders, before the root is another. */
	struct mounts_list base = {.v = (struct mounts_one[]){root_mount}, .n = 1};
	struct mounts_facts facts = {.own_root = true, .detached = true, .base = &base};
	assert_int_equal(mounts_find_parents(&base, &f.err), 0);
	mounts[0].options = "lowerdir=/:/layers/low";
	assert_int_equal(plan(&f, mounts, 1, &facts), 0);
	assert_true(when(&f, MOUNTS_MAKE, 2) < f.plan.n_outside);
	end(&f);
}

static void test_at(void **state unused)
{
	const struct mounts_one mounts[] = {
		one(2, 1, FSTYPE__TMPFS, TMP_DEV, "/", "/a/b"),
		one(3, 1, FSTYPE__TMPFS, OTHER_DEV, "/", "/a"),
		one(4, 3, FSTYPE__TMPFS, OTHER_DEV + 1, "/", "/a"),
		one(5, 1, FSTYPE__TMPFS, OTHER_DEV + 2, "/", "/c"),
		one(6, 5, FSTYPE__TMPFS, OTHER_DEV + 3, "/", "/c/d"),
	};
	static const struct {
		const char *path;
		uint32_t id;
	} expected[] = {{"/", 1}, {"/x", 1}, {"/a", 4}, {"/a/b/x", 4}, {"/ab", 1}, {"/c", 5}, {"/c/d/e", 6}};
	struct fixture f;
	assert_int_equal(plan(&f, mounts, ARRAY_SIZE(mounts), &container), 0);
	for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
		assert_ptr_equal(mounts_at(&f.list, expected[i].path), mount_of(&f, expected[i].id));
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sources),   cmocka_unit_test(test_not_below),
		cmocka_unit_test(test_external),  cmocka_unit_test(test_job),
		cmocka_unit_test(test_hidden),    cmocka_unit_test(test_late),
		cmocka_unit_test(test_parts),     cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_odd_roots), cmocka_unit_test(test_base),
		cmocka_unit_test(test_overlay),   cmocka_unit_test(test_at),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
