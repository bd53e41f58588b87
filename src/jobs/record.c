/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the state directory of jobs: folders, records, locks, and finding out what a job is doing.
 *
 * Kernel interface: flock(2), /proc/PID/exe.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "jobs/internal.h"
#include "proc/read.h"

enum { RECORD_MAX = 1 << 20 };

const char *jobs_state_word(enum jobs_state state)
{
	static const char *const words[] = {
		[JOBS_RUNNING] = "running",
		[JOBS_SAVED] = "saved",
		[JOBS_ENDED] = "ended",
		[JOBS_LOST] = "lost",
	};
	return words[state];
}

int jobs_dir(const struct options *options, char ret_path[JOBS_PATH_BYTES], struct ferry_error *err)
{
	const char *home = getenv("HOME"), *state = getenv("XDG_STATE_HOME");
	int n;
	if (options->state_dir)
		n = snprintf(ret_path, JOBS_PATH_BYTES, "%s", options->state_dir);
	else if (!geteuid())
		n = snprintf(ret_path, JOBS_PATH_BYTES, "/var/lib/ferry/jobs");
	else if (state && state[0] == '/')
		n = snprintf(ret_path, JOBS_PATH_BYTES, "%s/ferry/jobs", state);
	else if (home && home[0] == '/')
		n = snprintf(ret_path, JOBS_PATH_BYTES, "%s/.local/state/ferry/jobs", home);
	else
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "no state directory: HOME is not set");
	if (n >= JOBS_PATH_BYTES / 2 || ret_path[0] != '/')
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "the state directory has to be an absolute path of less than %d bytes",
				 JOBS_PATH_BYTES / 2);
	return 0;
}

bool jobs_name_good(const char *name)
{
	static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	return name[0] && name[0] != '.' && name[0] != '-' && strlen(name) < JOBS_NAME_BYTES &&
	       !name[strspn(name, good)];
}

/* ------------------------------------------------------------------- record */

int jobs_write(const struct jobs_record *j, struct ferry_error *err)
{
	struct json_object *o = json_object_new_object();
	json_object_object_add(o, "name", json_object_new_string(j->name));
	json_object_object_add(o, "command", json_object_new_string(j->command));
	json_object_object_add(o, "user_ns", json_object_new_boolean(j->user_ns));
	json_object_object_add(o, "tty", json_object_new_boolean(j->tty));
	json_object_object_add(o, "created_s", json_object_new_int64(j->created_s));
	json_object_object_add(o, "since_s", json_object_new_int64(j->since_s));
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY);
	int r = fd_replace_file(j->dir, JOBS_RECORD_NAME, 0600, text, strlen(text));
	json_object_put(o);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "writing the record of job '%s'", j->name)
		     : 0;
}

static const char *record_text(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_string(value) : NULL;
}

static int64_t record_number(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_int64(value) : 0;
}

/* -ENOENT: no record yet: somebody is starting it, or died while doing so. */
static int record_read(struct jobs_record *j)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	int r = fd_read_path(j->dir, JOBS_RECORD_NAME, RECORD_MAX, &text, &n);
	if (r < 0)
		return r;
	struct json_object *o = json_tokener_parse(text);
	const char *command = o ? record_text(o, "command") : NULL;
	j->command = command ? strdup(command) : NULL;
	j->user_ns = o && record_number(o, "user_ns");
	j->tty = o && record_number(o, "tty");
	j->created_s = o ? record_number(o, "created_s") : 0;
	j->since_s = o ? record_number(o, "since_s") : 0;
	json_object_put(o);
	return !o || !command ? -EBADMSG : j->command ? 0 : -ENOMEM;
}

/* --------------------------------------------------------------------- look */

static bool record_executes(pid_t pid, const struct stat *init)
{
	char path[32];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	return stat(path, &st) == 0 && st.st_ino == init->st_ino && st.st_dev == init->st_dev;
}

static pid_t record_find_process(const struct jobs_record *j)
{
	struct proc_pid_list pids = {0};
	struct stat init;
	pid_t found = 0;
	if (fstatat(j->dir, JOBS_INIT_NAME, &init, 0) < 0 || proc_read_pids(&pids, NULL) < 0)
		return 0;
	vec_foreach(pid, &pids.v) {
		if (!found && record_executes(*pid, &init))
			found = *pid;
	}
	proc_pid_list_release(&pids);
	return found;
}

/* The number of an image's folder; 0: it is something else. */
unsigned jobs_image_number(const char *name)
{
	static const char prefix[] = "image-";
	char *end;
	if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
		return 0;
	unsigned long n = strtoul(name + sizeof(prefix) - 1, &end, 10);
	return *end || n > 1u << 30 ? 0 : (unsigned)n;
}

static bool record_has(const struct jobs_record *j, unsigned image, const char *file)
{
	char path[64];
	snprintf(path, sizeof(path), "image-%u/%s", image, file);
	return faccessat(j->dir, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void record_find_image(struct jobs_record *j, unsigned *ret_highest)
{
	int fd = fd_open(j->dir, ".", O_RDONLY | O_DIRECTORY, 0);
	_cleanup_closedir_ DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	j->image = *ret_highest = 0;
	while (dir && (entry = readdir(dir))) {
		unsigned n = jobs_image_number(entry->d_name);
		*ret_highest = MAX(*ret_highest, n);
		/* The inventory is what makes it an image. */
		if (n > j->image && record_has(j, n, "inventory.img"))
			j->image = n;
	}
}

static int record_status(const struct jobs_record *j)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	return fd_read_path(j->dir, JOBS_STATUS_NAME, 64, &text, &n) < 0 ? -1 : (int)strtol(text, NULL, 10);
}

void jobs_look(struct jobs_record *j)
{
	j->pid = record_find_process(j);
	record_find_image(j, &j->highest_image);
	j->status = -1;
	if (j->pid) {
		j->state = JOBS_RUNNING;
	} else if (j->image && !record_has(j, j->image, IMAGE_SPENT_NAME)) {
		j->state = JOBS_SAVED;
	} else {
		j->status = record_status(j);
		j->state = j->status < 0 ? JOBS_LOST : JOBS_ENDED;
	}
}

/* --------------------------------------------------------------------- list */

int jobs_lock(struct jobs_record *j, struct ferry_error *err)
{
	j->lock = fd_open(j->dir, "lock", O_RDWR | O_CREAT, 0600);
	if (j->lock < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -j->lock, "opening the lock of job '%s'",
				   j->name);
	while (flock(j->lock, LOCK_EX) < 0)
		if (errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "locking job '%s'", j->name);
	return 0;
}

static void record_release(struct jobs_record *j)
{
	free(j->command);
	if (j->lock >= 0)
		close(j->lock);
	if (j->dir >= 0)
		close(j->dir);
}

void jobs_release(struct jobs_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		record_release(&list->v[i]);
	free(list->v);
	*list = (struct jobs_list){0};
}

struct jobs_record *jobs_add(struct jobs_list *list)
{
	struct jobs_record *bigger = reallocarray(list->v, list->n + 1, sizeof(*list->v));
	if (!bigger)
		return NULL;
	list->v = bigger;
	bigger[list->n] = (struct jobs_record){.dir = -1, .lock = -1};
	return &bigger[list->n++];
}

static int record_open(struct jobs_list *list, int dir, const char *path, const char *name, bool lock,
		       struct ferry_error *err)
{
	struct jobs_record *j = jobs_add(list);
	if (!j)
		return error_memory(err);
	snprintf(j->name, sizeof(j->name), "%s", name);
	j->dir = fd_open(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	int r = j->dir < 0 ? j->dir : 0;
	if ((size_t)snprintf(j->path, sizeof(j->path), "%s/%s", path, name) >= sizeof(j->path))
		r = -ENAMETOOLONG;
	if (r >= 0)
		r = lock ? jobs_lock(j, err) : 0;
	if (r >= 0)
		r = record_read(j);
	if (r >= 0) {
		jobs_look(j);
		return 0;
	}
	record_release(j);
	list->n--;
	return r;
}

static int record_compare(const void *a, const void *b)
{
	const struct jobs_record *x = a, *y = b;
	return x->created_s != y->created_s ? (x->created_s < y->created_s ? -1 : 1)
					    : strcmp(x->name, y->name);
}

static int record_all(int fd, const char *path, bool lock, struct jobs_list *list, struct ferry_error *err)
{
	_cleanup_closedir_ DIR *dir = fdopendir(fd);
	struct dirent *entry;
	if (!dir) {
		close(fd);
		return error_memory(err);
	}
	while ((entry = readdir(dir))) {
		/* A folder without a record is of a job that is just being made, or was never made. */
		int r = jobs_name_good(entry->d_name) ? record_open(list, fd, path, entry->d_name, lock, NULL)
						      : 0;
		if (r == -ENOMEM)
			return error_memory(err);
	}
	if (list->n)
		qsort(list->v, list->n, sizeof(*list->v), record_compare);
	return 0;
}

int jobs_read(const struct options *options, const char *name, bool lock, struct jobs_list *ret,
	      struct ferry_error *err)
{
	char path[JOBS_PATH_BYTES];
	struct jobs_list list = {0};
	int r = jobs_dir(options, path, err);
	if (r < 0)
		return r;
	int fd = fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0 && fd != -ENOENT)
		return error_errno(err, FERRY_ERROR_PERMISSION, -fd, "opening '%s'", path);
	if (!name) {
		r = fd < 0 ? 0 : record_all(fd, path, lock, &list, err);
	} else {
		r = fd >= 0 && jobs_name_good(name) ? record_open(&list, fd, path, name, lock, err) : -ENOENT;
		if (r < 0)
			r = error_errno(err, FERRY_ERROR_NO_SUCH_JOB, -r, "job '%s'", name);
		if (fd >= 0)
			close(fd);
	}
	if (r < 0)
		jobs_release(&list);
	else
		*ret = list;
	return r;
}
