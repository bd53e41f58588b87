/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns holding processes with the cgroup freezer.
 *
 * Kernel interface: v1 freezer.state; v2 cgroup.freeze, cgroup.events (5.2), cgroup.kill (5.14). A task that stands in a ptrace stop counts as frozen in
 * both and goes on standing when its tracer goes. In v1 a killed task dies only once thawed, before it returns
 * to its own code.
 *
 * Not handled: groups of threads (cgroup.type "threaded"), groups above the root of our cgroup namespace.
 */
#include "host/freezer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/vec.h"
#include "host/cgroup.h"
#include "kernel/syscalls.h"
#include "proc/read.h"

enum { FREEZER_NAME_BYTES = 64, FREEZER_POLL_NS = 200000, FREEZER_ROUNDS = 1000, FREEZER_FILE_MAX = 4 << 20 };

/* How one of the two interfaces is spoken to. */
struct freezer_words {
	const char *file, *freeze, *thaw;
	const char *state_file, *frozen; /* what the state file holds once everything stands */
};

static const struct freezer_words freezer_words[] = {
	[FREEZER_V1] = {"freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN"},
	[FREEZER_V2] = {"cgroup.freeze", "1", "0", "cgroup.events", "frozen 1"},
};

struct freezer_group {
	int parent; /* directory of the group the processes were in */
	int dir;
	char *path; /* of the parent, below the hierarchy's root */
	bool made;  /* by this freezer: removed when holding fails */
};

struct freezer {
	const struct freezer_words *words;
	enum freezer_kind kind;
	int root;
	const struct fault *fault;
	char name[FREEZER_NAME_BYTES];
	VEC(struct freezer_group) groups;
};

static void freezer_pause(void)
{
	struct timespec t = {.tv_nsec = FREEZER_POLL_NS};
	nanosleep(&t, NULL);
}

static bool freezer_has_word(const char *list, const char *word)
{
	size_t n = strlen(word);
	for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',')
		if (!strncmp(at, word, n) && (at[n] == ',' || !at[n]))
			return true;
	return false;
}

/* Which hierarchy to take: that of v1 exists only for this purpose, so groups in it disturb nobody. */
static const struct proc_cgroup *freezer_choose(const struct proc_cgroups *list, enum freezer_kind wanted,
						enum freezer_kind *ret_kind)
{
	vec_foreach(c, &list->v) {
		if (wanted != FREEZER_V2 && c->hierarchy && freezer_has_word(c->controllers, "freezer")) {
			*ret_kind = FREEZER_V1;
			return c;
		}
	}
	vec_foreach(c, &list->v) {
		if (wanted != FREEZER_V1 && !c->hierarchy) {
			*ret_kind = FREEZER_V2;
			return c;
		}
	}
	return NULL;
}

static int freezer_read_cgroups(pid_t pid, struct proc_cgroups *ret, struct ferry_error *err)
{
	_cleanup_close_ int proc = proc_open_look(pid, err);
	return proc < 0 ? proc : proc_read_cgroups(proc, ret, err);
}

static int freezer_missing(struct ferry_error *err, int code, const char *what)
{
	error_errno(err, FERRY_ERROR_KERNEL_FEATURE, code, "holding processes with the cgroup freezer: %s",
		    what);
	error_hint(
		err,
		"a migration needs cgroup v2, or the freezer controller of cgroup v1, and CAP_SYS_ADMIN to reach it");
	return -code;
}

int freezer_open(enum freezer_kind kind, const char *name, const struct fault *fault, struct freezer **ret,
		 struct ferry_error *err)
{
	struct proc_cgroups list;
	int r = freezer_read_cgroups(getpid(), &list, err);
	if (r < 0)
		return r;
	const struct proc_cgroup *c = freezer_choose(&list, kind, &kind);
	int root = c ? cgroup_mount(c->hierarchy ? c->controllers : "") : -ENODEV;
	proc_cgroups_release(&list);
	if (root < 0)
		return freezer_missing(err, -root, c ? "reaching the hierarchy" : "this kernel has none");
	struct freezer *f = calloc(1, sizeof(*f));
	if (!f) {
		close(root);
		return error_memory(err);
	}
	f->words = &freezer_words[kind];
	f->kind = kind;
	f->root = root;
	f->fault = fault;
	snprintf(f->name, sizeof(f->name), "%s", name);
	*ret = f;
	return 0;
}

static void freezer_group_release(struct freezer_group *g)
{
	if (g->parent >= 0)
		close(g->parent);
	if (g->dir >= 0)
		close(g->dir);
	free(g->path);
}

void freezer_close(struct freezer *f)
{
	if (!f)
		return;
	vec_foreach(g, &f->groups)
		freezer_group_release(g);
	vec_release(&f->groups);
	close(f->root);
	free(f);
}

/* The path of the group that a process is in, in our hierarchy. The caller frees *ret_path. */
static int freezer_path_of(struct freezer *f, pid_t pid, char **ret_path, struct ferry_error *err)
{
	struct proc_cgroups list;
	enum freezer_kind kind;
	int r = freezer_read_cgroups(pid, &list, err);
	if (r < 0)
		return r;
	const struct proc_cgroup *c = freezer_choose(&list, f->kind, &kind);
	char *path = c ? strdup(c->path) : NULL;
	proc_cgroups_release(&list);
	if (!path)
		return c ? error_memory(err) : freezer_missing(err, ENOENT, "a process is in no group");
	if (!strncmp(path, "/..", 3)) {
		error_set(err, FERRY_ERROR_KERNEL_FEATURE, EXDEV,
			  "pid %d is in cgroup '%s', outside this cgroup namespace", pid, path);
		error_hint(err, "run ferry in the cgroup namespace of the host");
		free(path);
		return -EXDEV;
	}
	*ret_path = path;
	return 0;
}

static struct freezer_group *freezer_known(struct freezer *f, const char *path)
{
	vec_foreach(g, &f->groups) {
		if (!strcmp(g->path, path))
			return g;
	}
	return NULL;
}

/* A group of ours below the parent directory; takes parent and path over. */
static int freezer_add(struct freezer *f, int parent, char *path, bool make, struct ferry_error *err)
{
	struct freezer_group *g = vec_push(&f->groups);
	if (!g) {
		close(parent);
		free(path);
		return error_memory(err);
	}
	*g = (struct freezer_group){.parent = parent, .dir = -1, .path = path};
	if (make)
		fault_effect(f->fault, "hold", "make-group");
	if (make && mkdirat(parent, f->name, 0755) < 0 && errno != EEXIST)
		return freezer_missing(err, errno, "making a group");
	g->made = make;
	g->dir = fd_open(parent, f->name, O_RDONLY | O_DIRECTORY, 0);
	if (g->dir < 0)
		return freezer_missing(err, -g->dir, "opening our group");
	if (faccessat(g->dir, f->words->file, W_OK, 0) < 0)
		return freezer_missing(err, errno, f->words->file);
	return 0;
}

static int freezer_group_of(struct freezer *f, pid_t pid, int *ret_index, struct ferry_error *err)
{
	char *path = NULL;
	int r = freezer_path_of(f, pid, &path, err);
	if (r < 0)
		return r;
	struct freezer_group *g = freezer_known(f, path);
	if (g) {
		free(path);
		*ret_index = (int)(g - f->groups.v);
		return 0;
	}
	int parent = fd_open(f->root, path[1] ? path + 1 : ".", O_RDONLY | O_DIRECTORY, 0);
	if (parent < 0) {
		error_errno(err, FERRY_ERROR_SYSTEM, -parent, "opening cgroup '%s' of pid %d", path, pid);
		free(path);
		return parent;
	}
	r = freezer_add(f, parent, path, true, err);
	*ret_index = (int)f->groups.n - 1;
	return r;
}

static int freezer_write(int dir, const char *file, const char *text)
{
	_cleanup_close_ int fd = fd_open(dir, file, O_WRONLY, 0);
	return fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
}

static int freezer_move(int dir, pid_t pid)
{
	return cgroup_move(dir, "cgroup.procs", pid);
}

static int freezer_group_frozen(struct freezer *f, const struct freezer_group *g)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	int r = fd_read_path(g->dir, f->words->state_file, FREEZER_FILE_MAX, &text, &n);
	return r < 0 ? r : strstr(text, f->words->frozen) != NULL;
}

/* The processes of one group, appended. */
static int freezer_read_procs(const struct freezer_group *g, struct proc_pid_list *list)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	int r = fd_read_path(g->dir, "cgroup.procs", FREEZER_FILE_MAX, &text, &n);
	if (r < 0)
		return r;
	for (char *at = text, *end; *at; at = *end ? end + 1 : end) {
		long pid = strtol(at, &end, 10);
		pid_t *slot = end == at ? NULL : vec_push(&list->v);
		if (!slot)
			return end == at ? -EBADMSG : -ENOMEM;
		*slot = (pid_t)pid;
	}
	return 0;
}

int freezer_members(struct freezer *f, pid_t **ret_pids, size_t *ret_n, struct ferry_error *err)
{
	struct proc_pid_list list = {0};
	int r = 0;
	for (size_t i = 0; i < f->groups.n && r >= 0; i++)
		r = freezer_read_procs(&f->groups.v[i], &list);
	if (r < 0) {
		proc_pid_list_release(&list);
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading which processes are held");
	}
	*ret_pids = list.v.v;
	*ret_n = list.v.n;
	return 0;
}

/* Empty a group by moving everything to its parent, then remove it. New children appear only while others still run. */
static int freezer_dissolve(struct freezer *f, struct freezer_group *g)
{
	for (int round = 0; round < FREEZER_ROUNDS; round++) {
		struct proc_pid_list list = {0};
		int r = freezer_read_procs(g, &list);
		vec_foreach(pid, &list.v) {
			int moved = r < 0 ? 0 : freezer_move(g->parent, *pid);
			if (moved < 0 && moved != -ESRCH)
				r = moved;
		}
		bool empty = !list.v.n;
		proc_pid_list_release(&list);
		if (r < 0)
			return r;
		if (empty && (unlinkat(g->parent, f->name, AT_REMOVEDIR) == 0 || errno == ENOENT))
			return 0;
		if (empty)
			freezer_pause();
	}
	return -EBUSY;
}

static void freezer_forget(struct freezer *f)
{
	vec_foreach(g, &f->groups)
		freezer_group_release(g);
	f->groups.n = 0;
}

int freezer_thaw(struct freezer *f, struct ferry_error *err)
{
	int ret = 0;
	vec_foreach(g, &f->groups) {
		if (g->dir < 0)
			continue;
		fault_effect(f->fault, "hold", "thaw");
		int r = freezer_write(g->dir, f->words->file, f->words->thaw);
		if (r >= 0)
			r = freezer_dissolve(f, g);
		if (r < 0 && !ret)
			ret = error_errno(err, FERRY_ERROR_SYSTEM, -r,
					  "putting processes back into cgroup '%s'", g->path);
	}
	freezer_forget(f);
	return ret;
}

int freezer_try(struct freezer *f, pid_t pid, struct ferry_error *err)
{
	int index;
	int r = freezer_group_of(f, pid, &index, err);
	vec_foreach(g, &f->groups) {
		int removed = g->made ? freezer_dissolve(f, g) : 0;
		if (removed < 0 && r >= 0)
			r = error_errno(err, FERRY_ERROR_SYSTEM, -removed, "removing a cgroup below '%s'",
					g->path);
	}
	freezer_forget(f);
	return r;
}

static int freezer_wait_frozen(struct freezer *f, int timeout_ms, struct ferry_error *err)
{
	uint64_t end = time_now_ns() + (uint64_t)timeout_ms * 1000000;
	for (;;) {
		int r = freezer_is_frozen(f, err);
		if (r)
			return r < 0 ? r : 0;
		if (time_now_ns() > end)
			return error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT,
					 "the cgroup freezer did not hold the tree within %d ms", timeout_ms);
		freezer_pause();
	}
}

static int freezer_hold_all(struct freezer *f, const pid_t *pids, size_t n, int timeout_ms,
			    struct ferry_error *err)
{
	for (size_t i = 0; i < n; i++) {
		int index;
		int r = freezer_group_of(f, pids[i], &index, err);
		if (r < 0)
			return r;
		fault_effect(f->fault, "hold", "move");
		r = freezer_move(f->groups.v[index].dir, pids[i]);
		if (r == -EOPNOTSUPP)
			return freezer_missing(err, EOPNOTSUPP, "a group of threads");
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r, "moving pid %d into a cgroup",
					   pids[i]);
	}
	vec_foreach(g, &f->groups) {
		fault_effect(f->fault, "hold", "freeze");
		int r = freezer_write(g->dir, f->words->file, f->words->freeze);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r, "freezing a group below cgroup '%s'",
					   g->path);
	}
	return freezer_wait_frozen(f, timeout_ms, err);
}

int freezer_hold(struct freezer *f, const pid_t *pids, size_t n, int timeout_ms, struct ferry_error *err)
{
	int r = freezer_hold_all(f, pids, n, timeout_ms, err);
	if (r < 0 && freezer_thaw(f, NULL) < 0)
		error_hint(err, "processes may be left in a cgroup named '%s'", f->name);
	return r;
}

int freezer_is_frozen(struct freezer *f, struct ferry_error *err)
{
	vec_foreach(g, &f->groups) {
		int r = freezer_group_frozen(f, g);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r,
					   "reading whether cgroup '%s' is frozen", g->path);
		if (!r)
			return 0;
	}
	return 1;
}

/* Takes dir over. Looks into every group of the hierarchy. */
static int freezer_search(struct freezer *f, int dir, const char *path, struct ferry_error *err)
{
	_cleanup_closedir_ DIR *d = fdopendir(dir);
	if (!d) {
		int code = errno;
		close(dir);
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "reading cgroup '%s'", path);
	}
	int r = 0;
	for (struct dirent *entry; r >= 0 && (entry = readdir(d));) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		if (!strcmp(entry->d_name, f->name)) {
			int parent = fd_dup(dirfd(d), 3);
			char *copy = strdup(*path ? path : "/");
			r = parent < 0 || !copy ? error_memory(err)
						: freezer_add(f, parent, copy, false, err);
			continue;
		}
		_cleanup_free_ char *below = NULL;
		if (asprintf(&below, "%s/%s", path, entry->d_name) < 0) {
			below = NULL;
			return error_memory(err);
		}
		int child = fd_open(dirfd(d), entry->d_name, O_RDONLY | O_DIRECTORY, 0);
		if (child >= 0)
			r = freezer_search(f, child, below, err);
	}
	return r;
}

int freezer_find(struct freezer *f, struct ferry_error *err)
{
	freezer_forget(f);
	int dir = fd_open(f->root, ".", O_RDONLY | O_DIRECTORY, 0);
	if (dir < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -dir, "opening the root of the cgroup hierarchy");
	int r = freezer_search(f, dir, "", err);
	return r < 0 ? r : (int)f->groups.n;
}

static int freezer_kill_group(struct freezer *f, struct freezer_group *g, int timeout_ms)
{
	struct proc_pid_list list = {0};
	uint64_t end = time_now_ns() + (uint64_t)timeout_ms * 1000000;
	int r = freezer_read_procs(g, &list);
	vec_foreach(pid, &list.v) {
		fault_effect(f->fault, "hold", "kill");
		if (r >= 0 && (*pid <= 0 || (kill(*pid, SIGKILL) < 0 && errno != ESRCH)))
			r = *pid <= 0 ? -ESRCH : -errno;
	}
	proc_pid_list_release(&list);
	if (r < 0)
		return r;
	fault_effect(f->fault, "hold", "release-killed");
	r = freezer_write(g->dir, f->words->file, f->words->thaw);
	while (r >= 0) {
		r = freezer_read_procs(g, &list);
		bool empty = !list.v.n;
		proc_pid_list_release(&list);
		if (r >= 0 && empty && (unlinkat(g->parent, f->name, AT_REMOVEDIR) == 0 || errno == ENOENT))
			return 0;
		if (time_now_ns() > end)
			return -ETIMEDOUT;
		freezer_pause();
	}
	return r;
}

int freezer_kill(struct freezer *f, int timeout_ms, struct ferry_error *err)
{
	int ret = 0;
	vec_foreach(g, &f->groups) {
		int r = freezer_kill_group(f, g, timeout_ms);
		if (r < 0 && !ret)
			ret = error_errno(err, r == -ETIMEDOUT ? FERRY_ERROR_TIMEOUT : FERRY_ERROR_SYSTEM, -r,
					  "killing what is held below cgroup '%s'", g->path);
	}
	freezer_forget(f);
	return ret;
}
