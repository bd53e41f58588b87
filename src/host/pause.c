/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns thawing and freezing groups that were frozen by somebody else.
 *
 * Kernel interface: v1 freezer.state, freezer.self_freezing, freezer.parent_freezing; v2 cgroup.freeze, cgroup.events (5.2). A task that
 * stands in a ptrace stop counts as frozen in both.
 * Does not handle: others in such a group, who are not of the tree and run while it is thawed.
 */
#include "host/pause.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "host/cgroup.h"
#include "host/warden.h"
#include "proc/read.h"
#include "proc/task.h"

enum { PAUSE_FILE_MAX = 4096, PAUSE_DEPTH = 64, PAUSE_WAIT_NS = 2000000000, PAUSE_TICK_NS = 100000 };

/* How one of the two interfaces is spoken to. */
struct pause_words {
	const char *file, *freeze, *thaw;
	const char *own, *own_is_frozen;     /* what says that the group itself was told to */
	const char *above, *above_is_frozen; /* and what, if not, that one above was */
	const char *all, *all_are_frozen;
};

static const struct pause_words pause_words[] = {
	{"freezer.state", "FROZEN", "THAWED", "freezer.self_freezing", "1", "freezer.parent_freezing", "1",
	 "freezer.state", "FROZEN"},
	{"cgroup.freeze", "1", "0", "cgroup.freeze", "1", "cgroup.events", "frozen 1", "cgroup.events",
	 "frozen 1"},
};

struct pause_group {
	int dir;
	int entry; /* in the undo log */
};

struct pause {
	const struct pause_words *words;
	const struct fault *fault;
	const struct log_sink *log;
	VEC(struct pause_group) groups; /* that are frozen, those above first */
	bool lifted;
};

static bool pause_says(int dir, const char *file, const char *word)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	return fd_read_path(dir, file, PAUSE_FILE_MAX, &text, &n) >= 0 && strstr(text, word);
}

static int pause_write(int dir, const char *file, const char *text)
{
	_cleanup_close_ int fd = fd_open(dir, file, O_WRONLY, 0);
	return fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
}

static int pause_add(struct pause *p, int dir, struct ferry_error *err)
{
	int own = fd_open(dir, ".", O_RDONLY | O_DIRECTORY, 0);
	struct pause_group *g = own < 0 ? NULL : vec_push(&p->groups);
	if (!g && own >= 0)
		close(own);
	if (!g)
		return own < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -own, "opening a frozen cgroup")
			       : error_memory(err);
	*g = (struct pause_group){.dir = own, .entry = -1};
	return 0;
}

/* Takes dir over. */
static int pause_look(struct pause *p, int dir, int depth, struct ferry_error *err)
{
	_cleanup_closedir_ DIR *d = fdopendir(dir);
	if (!d) {
		int code = errno;
		close(dir);
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "reading a cgroup");
	}
	int r = pause_says(dir, p->words->own, p->words->own_is_frozen) ? pause_add(p, dir, err) : 0;
	for (struct dirent *entry; r >= 0 && (entry = readdir(d));) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		int child = depth < PAUSE_DEPTH ? fd_open(dirfd(d), entry->d_name, O_RDONLY | O_DIRECTORY, 0)
						: -ELOOP;
		if (child >= 0)
			r = pause_look(p, child, depth + 1, err);
	}
	return r;
}

int pause_open(const char *path, const struct fault *fault, const struct log_sink *log, struct pause **ret,
	       struct ferry_error *err)
{
	int dir = fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	if (dir < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -dir, "--freeze-cgroup '%s'", path);
	const struct pause_words *words = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(pause_words) && !words; i++)
		if (faccessat(dir, pause_words[i].file, F_OK, 0) == 0)
			words = &pause_words[i];
	struct pause *p = words ? calloc(1, sizeof(*p)) : NULL;
	if (!p) {
		close(dir);
		return words ? error_memory(err)
			     : error_set(err, FERRY_ERROR_USAGE, EINVAL,
					 "--freeze-cgroup '%s' is no group that can be frozen", path);
	}
	p->words = words;
	p->fault = fault;
	p->log = log;
	if (!pause_says(dir, words->own, words->own_is_frozen) &&
	    pause_says(dir, words->above, words->above_is_frozen)) {
		close(dir);
		pause_close(p);
		error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY, "a cgroup above '%s' is frozen", path);
		error_hint(err, "thaw it, or name it with --freeze-cgroup");
		return -EBUSY;
	}
	int r = pause_look(p, dir, 0, err);
	if (r < 0) {
		pause_close(p);
		return r;
	}
	*ret = p;
	return 0;
}

static bool pause_is_held(const struct proc_cgroup *g)
{
	bool freezes = !*g->controllers || !strcmp(g->controllers, "freezer");
	_cleanup_close_ int top = freezes && !strstr(g->path, "/..") ? cgroup_mount(g->controllers) : -1;
	const char *below = g->path + strspn(g->path, "/");
	_cleanup_close_ int dir =
		top < 0 ? top : fd_open(top, *below ? below : ".", O_RDONLY | O_DIRECTORY, 0);
	return dir >= 0 && cgroup_is_frozen(dir);
}

int pause_refuse(pid_t pid, struct ferry_error *err)
{
	_cleanup_proc_cgroups_ struct proc_cgroups groups = {0};
	_cleanup_close_ int proc = proc_open_look(pid, NULL);
	if (proc < 0 || proc_read_cgroups(proc, &groups, NULL) < 0)
		return 0;
	vec_foreach(g, &groups.v) {
		if (!pause_is_held(g))
			continue;
		error_set(err, FERRY_ERROR_BUSY_TASK, EBUSY,
			  "pid %d stands still in the frozen cgroup '%s'%s", pid, g->path,
			  *g->controllers ? " of the freezer" : "");
		error_hint(err, "thaw it, or name the group's directory with --freeze-cgroup");
		return -EBUSY;
	}
	return 0;
}

void pause_close(struct pause *p)
{
	if (!p)
		return;
	vec_foreach(g, &p->groups)
		close(g->dir);
	vec_release(&p->groups);
	free(p);
}

bool pause_is_on(const struct pause *p)
{
	return p && p->groups.n;
}

bool pause_has(const struct pause *p, int dir)
{
	struct stat own, other;
	bool found = false;
	for (size_t i = 0; p && i < p->groups.n && !found; i++)
		found = fstat(dir, &own) == 0 && fstat(p->groups.v[i].dir, &other) == 0 &&
			own.st_dev == other.st_dev && own.st_ino == other.st_ino;
	return found;
}

static int pause_arm(struct pause *p, struct pause_group *g, struct warden *w, struct ferry_error *err)
{
	char data[64];
	size_t n = strlen(p->words->file) + 1, more = strlen(p->words->freeze) + 1;
	memcpy(data, p->words->file, n);
	memcpy(data + n, p->words->freeze, more);
	g->entry = warden_arm(w, WARDEN_PUT, g->dir, WARDEN_ALWAYS_PUT, data, n + more);
	return g->entry < 0 ? error_errno(err, FERRY_ERROR_LIMIT, -g->entry,
					  "entering a frozen cgroup into the undo log")
			    : 0;
}

int pause_lift(struct pause *p, struct warden *w, struct ferry_error *err)
{
	int r = 0;
	if (!pause_is_on(p) || p->lifted)
		return 0;
	p->lifted = true;
	for (size_t i = 0; i < p->groups.n && r >= 0; i++) {
		struct pause_group *g = &p->groups.v[i];
		r = pause_arm(p, g, w, err);
		if (r < 0)
			break;
		fault_effect(p->fault, "freeze", "thaw-group");
		r = pause_write(g->dir, p->words->file, p->words->thaw);
		if (r < 0)
			error_errno(err, FERRY_ERROR_SYSTEM, -r, "thawing a cgroup to stop who is in it");
	}
	if (r < 0)
		pause_put_back(p, w);
	return r;
}

static bool pause_await(const struct pause *p, const struct pause_group *g)
{
	const struct timespec tick = {.tv_nsec = PAUSE_TICK_NS};
	uint64_t until = time_now_ns() + PAUSE_WAIT_NS;
	while (!pause_says(g->dir, p->words->all, p->words->all_are_frozen)) {
		if (time_now_ns() > until)
			return false;
		nanosleep(&tick, NULL);
	}
	return true;
}

void pause_put_back(struct pause *p, struct warden *w)
{
	if (!p || !p->lifted)
		return;
	for (size_t i = p->groups.n; i-- > 0;) {
		struct pause_group *g = &p->groups.v[i];
		if (g->entry < 0)
			continue;
		fault_effect(p->fault, "freeze", "freeze-group");
		int r = pause_write(g->dir, p->words->file, p->words->freeze);
		if (r < 0)
			log_write(p->log, LOG_ERROR_LEVEL, "freeze", NULL, 0,
				  "freezing a cgroup again failed: %s", strerror(-r));
	}
	for (size_t i = 0; i < p->groups.n; i++) {
		struct pause_group *g = &p->groups.v[i];
		if (g->entry >= 0 && !pause_await(p, g))
			log_write(p->log, LOG_WARN, "freeze", NULL, 0,
				  "a cgroup that was frozen before is not yet again, ignoring");
		if (g->entry >= 0)
			warden_disarm(w, g->entry);
		g->entry = -1;
	}
	p->lifted = false;
}
