/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_trip.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "collect/collect.h"
#include "model/record.h"
#include "proc/read.h"

enum { TRIP_HIGH = 600, TRIP_WAIT_MS = 5000, TRIP_FDS = 128 };

struct trip_shared {
	unsigned ready;
	int (*verify[TRIP_TASKS])(void);
	int result[TRIP_TASKS];
	bool settled[TRIP_TASKS];
	struct ferry_error err;
};

static struct trip_shared *shared_now;

static void wait_ms(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void trip_ready(void)
{
	__atomic_add_fetch(&shared_now->ready, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
}

void trip_place(int fd, int number)
{
	int flags = fcntl(fd, F_GETFD);
	if (fd < 0 || flags < 0 || dup3(fd, number, flags & FD_CLOEXEC ? O_CLOEXEC : 0) < 0) {
		perror("trip_place");
		_exit(1);
	}
	close(fd);
}

static void trip_find_children(struct trip *t)
{
	for (size_t i = 0; i < t->n; i++) {
		struct proc_pid_list children = {0};
		int dir = proc_open(t->pids[i], &t->err);
		assert_true(dir >= 0);
		assert_int_equal(proc_read_children(dir, &children, &t->err), 0);
		close(dir);
		vec_foreach(pid, &children.v) {
			assert_true(t->n < TRIP_TASKS);
			t->pids[t->n++] = *pid;
		}
		proc_pid_list_release(&children);
	}
}

void trip_start(struct trip *t, void (*setup)(void), unsigned processes)
{
	*t = (struct trip){.err = FERRY_ERROR_INIT, .n = 1};
	t->shared = mmap(NULL, sizeof(*t->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(t->shared, MAP_FAILED);
	shared_now = t->shared;
	strcpy(t->folder, "/tmp/ferry-trip-XXXXXX");
	assert_non_null(mkdtemp(t->folder));
	/* Orphans of the tree come to us. */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	t->root = t->pids[0] = fork();
	if (!t->root) {
		fd_close_others(0, NULL, 0);
		setup();
		trip_ready();
	}
	for (int i = 0; i < TRIP_WAIT_MS && __atomic_load_n(&t->shared->ready, __ATOMIC_SEQ_CST) < processes;
	     i++)
		wait_ms();
	assert_int_equal(t->shared->ready, processes);
	trip_find_children(t);
	assert_int_equal(t->n, processes);
	for (size_t i = 0; i < t->n; i++)
		assert_int_equal(kill(t->pids[i], SIGSTOP), 0);
}

/* ------------------------------------------------------------------------------ save */

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int trip_collect(struct trip *t)
{
	struct collect c = {.snap = &t->snap, .options = &t->options, .peers = t->peers};
	int r = 0;
	t->snap.monotonic_ns = clock_ns(CLOCK_MONOTONIC);
	t->snap.boottime_ns = clock_ns(CLOCK_BOOTTIME);
	t->snap.realtime_ns = clock_ns(CLOCK_REALTIME);
	t->snap.uptime_us = t->snap.boottime_ns / 1000;
	usleep(t->pause_ms * 1000);
	for (size_t i = 0; i < t->n; i++)
		assert_non_null(vec_push(&t->snap.tasks));
	for (size_t i = 0; i < t->n && r >= 0; i++) {
		struct snap_task *task = &t->snap.tasks.v[i];
		struct snap_thread *thread = vec_push(&task->threads);
		thread->core = record_new(&t->snap.arena, CoreEntry, core_entry);
		thread->core->tc = record_new(&t->snap.arena, TaskCoreEntry, task_core_entry);
		thread->core->tc->comm = arena_string(&t->snap.arena, "trip");
		task->pid = task->look = t->pids[i];
		int dir = proc_open(task->pid, &t->err);
		struct proc_fds fds = {0};
		r = dir < 0 ? dir : proc_read_fds(dir, &fds, &t->err);
		if (r >= 0)
			r = collect_fds(&c, task, dir, &fds, &t->err);
		proc_fds_release(&fds);
		close(dir);
	}
	if (r >= 0)
		r = collect_fds_discover(&c, &t->err);
	collect_fds_release(&c);
	return r;
}

static int trip_write(struct trip *t, struct image_dir *dir)
{
	struct image_writer *writers[IMAGE_KIND_COUNT] = {NULL};
	struct dump d = {.snap = &t->snap, .dir = dir, .options = &t->options, .writers = writers};
	struct image_writer *w = NULL;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	int r = image_create(dir, IMAGE_FILES, 0, &w, &t->err);
	for (size_t i = 0; i < t->snap.files.n && r >= 0; i++) {
		struct snap_file *file = &t->snap.files.v[i];
		r = file->kind->dump ? file->kind->dump(&d, file, &t->err) : 0;
		if (t->tamper)
			t->tamper(file->entry);
		if (r >= 0)
			r = image_put(w, &file->entry->base, &t->err);
	}
	if (r >= 0)
		r = image_close(w, &t->err);
	for (size_t i = 0; i < IMAGE_KIND_COUNT && r >= 0; i++)
		r = image_close(writers[i], &t->err);
	inventory.img_version = 2;
	if (r >= 0)
		r = image_put_one(dir, IMAGE_INVENTORY, 0, &inventory.base, &t->err);
	return r < 0 ? r : image_dir_finish(dir, &t->err);
}

int trip_save(struct trip *t)
{
	const struct image_dir_create create = {.no_sync = true};
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	int r = trip_collect(t);
	if (r >= 0)
		r = image_dir_create(AT_FDCWD, t->folder, &create, &dir, &t->err);
	return r < 0 ? r : trip_write(t, dir);
}

/* ------------------------------------------------------------------------------ load */

static int trip_read_files(struct trip *t, struct image_dir *dir)
{
	struct image_reader *in = NULL;
	int r = image_open(dir, IMAGE_FILES, 0, &in, &t->err);
	while (r >= 0) {
		FileEntry *entry = NULL;
		r = image_get(in, &file_entry__descriptor, &entry, &t->err);
		if (r <= 0)
			break;
		FileEntry **slot =
			vec_push(&t->entries); /* NOLINT(bugprone-sizeof-expression): pointers are meant */
		if (!slot)
			return -ENOMEM;
		*slot = entry;
	}
	image_reader_free(in);
	t->plan.n_files = t->entries.n;
	t->plan.files = arena_array(&t->plan.arena, struct plan_file, t->entries.n + 1);
	for (size_t i = 0; i < t->entries.n; i++)
		t->plan.files[i] = (struct plan_file){
			.entry = t->entries.v[i],
			.kind = kind_of_type(t->entries.v[i]->type),
			.fd = -1,
		};
	return r;
}

static void trip_plan_tasks(struct trip *t)
{
	t->plan.tasks = arena_array(&t->plan.arena, struct plan_task, t->n);
	t->plan.n_tasks = t->n;
	for (size_t i = 0; i < t->n; i++) {
		struct plan_task *task = &t->plan.tasks[i];
		task->mm = arena_array(&t->plan.arena, MmEntry, 1);
		task->pid = t->pids[i];
		task->first_temp = TRIP_TEMPS_FROM;
		task->index = i;
		vec_foreach(fd, &t->snap.tasks.v[i].fds) {
			struct plan_file *file = plan_file(&t->plan, t->snap.files.v[fd->file].entry->id);
			assert_non_null(file);
			struct plan_fd *slot = vec_push(&task->fds);
			if (!slot)
				abort();
			*slot = (struct plan_fd){.fd = fd->fd, .cloexec = fd->cloexec, .file = file};
			if (!file->owner)
				file->owner = task;
		}
	}
}

int trip_load(struct trip *t)
{
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	t->plan.kind_data = t->plan_data;
	int r = image_dir_open(AT_FDCWD, t->folder, &(struct image_dir_open){0}, &dir, &t->err);
	if (r >= 0)
		r = trip_read_files(t, dir);
	if (r < 0)
		return r;
	trip_plan_tasks(t);
	if (t->continue_clocks) {
		ferry_clocks_entry__init(&t->clocks);
		t->clocks.monotonic_ns = t->snap.monotonic_ns;
		t->clocks.boottime_ns = t->snap.boottime_ns;
		t->clocks.realtime_ns = t->snap.realtime_ns;
		t->plan.clocks = &t->clocks;
		t->plan.clocks_continue = true;
	}
	struct reader reader = {.plan = &t->plan, .dir = dir, .options = &t->options};
	for (size_t i = 0; i < KIND_COUNT && r >= 0; i++)
		r = kind_table[i]->read ? kind_table[i]->read(&reader, &t->err) : 0;
	return r;
}

/* --------------------------------------------------------------------------- restore */

static int trip_open_files(struct trip *t)
{
	struct opener o = {.plan = &t->plan, .options = &t->options};
	for (size_t i = 0; i < t->plan.n_files; i++) {
		struct plan_file *file = &t->plan.files[i];
		int fd = -1, r = file->fd >= 0 ? 0 : file->kind->restore(&o, file, &fd, &t->err);
		if (r < 0)
			return r;
		if (file->fd < 0)
			file->fd = fd;
	}
	for (size_t i = 0; i < KIND_COUNT; i++) {
		int r = kind_table[i]->opened ? kind_table[i]->opened(&o, &t->err) : 0;
		if (r < 0)
			return r;
	}
	/* Out of the way of the numbers that tasks want. */
	for (size_t i = 0; i < t->plan.n_files; i++) {
		int high = fcntl(t->plan.files[i].fd, F_DUPFD_CLOEXEC, TRIP_HIGH);
		assert_true(high >= 0);
		close(t->plan.files[i].fd);
		t->plan.files[i].fd = high;
	}
	return 0;
}

static int trip_settle(struct trip *t, struct plan_task *task)
{
	struct settle s = {.plan = &t->plan, .task = task};
	vec_foreach(fd, &task->fds)
		if (dup3(fd->file->fd, fd->fd, fd->cloexec ? O_CLOEXEC : 0) < 0)
			return -errno;
	vec_foreach(temp, &task->temps)
		if (dup3(temp->file->fd, temp->number, O_CLOEXEC) < 0)
			return -errno;
	vec_foreach(fd, &task->fds) {
		int r = fd->file->kind->settle ? fd->file->kind->settle(&s, fd->file, fd->fd, &t->shared->err)
					       : 0;
		if (r < 0)
			return r;
	}
	vec_foreach(temp, &task->temps)
		close(temp->number);
	return 0;
}

static void trip_serve(struct trip *t, size_t index)
{
	struct trip_shared *s = t->shared;
	int keep[TRIP_FDS * TRIP_TASKS];
	size_t n = 0;
	for (size_t i = 0; i < t->plan.n_files; i++)
		keep[n++] = t->plan.files[i].fd;
	fd_close_others(0, keep, n);
	s->result[index] = trip_settle(t, &t->plan.tasks[index]);
	fd_close_others(TRIP_HIGH, NULL, 0);
	__atomic_store_n(&s->settled[index], true, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&s->verify[index], __ATOMIC_SEQ_CST))
		wait_ms();
	s->result[index] = s->verify[index]();
	_exit(0);
}

int trip_restore(struct trip *t)
{
	t->shared->err = (struct ferry_error)FERRY_ERROR_INIT;
	int r = trip_open_files(t);
	for (size_t i = 0; i < t->n && r >= 0; i++) {
		t->restored[i] = fork();
		assert_true(t->restored[i] >= 0);
		if (!t->restored[i])
			trip_serve(t, i);
		for (int ms = 0;
		     ms < TRIP_WAIT_MS && !__atomic_load_n(&t->shared->settled[i], __ATOMIC_SEQ_CST); ms++)
			wait_ms();
		assert_true(t->shared->settled[i]);
		r = t->shared->result[i];
		if (r < 0)
			t->err = t->shared->err;
	}
	/* Our copies of the ends of pipes would count. */
	for (size_t i = 0; i < t->plan.n_files; i++) {
		if (t->plan.files[i].fd >= 0)
			close(t->plan.files[i].fd);
		t->plan.files[i].fd = -1;
	}
	return r;
}

int trip_ask(struct trip *t, size_t i, int (*verify)(void))
{
	__atomic_store_n(&t->shared->verify[i], verify, __ATOMIC_SEQ_CST);
	int status = -1;
	assert_int_equal(waitpid(t->restored[i], &status, 0), t->restored[i]);
	t->restored[i] = 0;
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	return t->shared->result[i];
}

static void trip_must(struct trip *t, int r)
{
	if (r < 0)
		fail_msg("%s (%s)", t->err.message, strerror(-r));
}

void trip_whole(struct trip *t)
{
	struct trip_picture *before = trip_look(t->pids, t->n);
	trip_must(t, trip_save(t));
	trip_must(t, trip_load(t));
	trip_must(t, trip_restore(t));
	trip_compare(before, t->restored, t->n);
}

static void trip_kill(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
}

void trip_end(struct trip *t)
{
	for (size_t i = 0; i < t->n; i++) {
		trip_kill(t->pids[i]);
		trip_kill(t->restored[i]);
	}
	plan_release(&t->plan);
	snapshot_release(&t->snap);
	vec_foreach(entry, &t->entries)
		image_message_free(*entry);
	vec_release(&t->entries);
	peers_free(t->peers);
	munmap(t->shared, sizeof(*t->shared));
	DIR *dir = opendir(t->folder);
	for (struct dirent *e; dir && (e = readdir(dir));)
		unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(t->folder);
}

/* -------------------------------------------------------------------------- pictures */

struct trip_picture {
	size_t n;
	struct {
		size_t task;
		int fd;
		char link[64];
		char info[TRIP_TEXT];
	} v[TRIP_FDS];
};

static int line_order(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void trip_fdinfo(pid_t pid, int fd, char ret_text[TRIP_TEXT])
{
	static const char *const skip[] = {"ino:", "mnt_id:", "eventfd-id:", "it_value:"};
	char path[64], text[TRIP_TEXT] = "", *lines[64];
	size_t n = 0, end = 0;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	int in = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(in >= 0);
	assert_true(read(in, text, sizeof(text) - 1) > 0);
	close(in);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		bool wanted = n < ARRAY_SIZE(lines);
		for (size_t i = 0; i < ARRAY_SIZE(skip); i++)
			wanted = wanted && strncmp(line, skip[i], strlen(skip[i])) != 0;
		char *pos = strstr(line, " pos:");
		if (pos && !strncmp(line, "tfd:", 4))
			*pos = '\0';
		if (wanted)
			lines[n++] = line;
	}
	qsort(lines, n, sizeof(*lines), line_order);
	for (size_t i = 0; i < n; i++)
		end += (size_t)snprintf(ret_text + end, TRIP_TEXT - end, "%s\n", lines[i]);
}

static void trip_look_at(struct trip_picture *p, size_t task, pid_t pid, int dir, int fd)
{
	char name[16];
	assert_true(p->n < TRIP_FDS);
	snprintf(name, sizeof(name), "%d", fd);
	ssize_t n = readlinkat(dir, name, p->v[p->n].link, sizeof(p->v[p->n].link) - 1);
	assert_true(n > 0);
	p->v[p->n].link[n] = '\0';
	/* "pipe:[7]" */
	p->v[p->n].link[strcspn(p->v[p->n].link, ":")] = '\0';
	p->v[p->n].task = task;
	p->v[p->n].fd = fd;
	trip_fdinfo(pid, fd, p->v[p->n].info);
	p->n++;
}

struct trip_picture *trip_look(const pid_t *pids, size_t n)
{
	struct trip_picture *p = calloc(1, sizeof(*p));
	for (size_t i = 0; i < n; i++) {
		char path[64];
		snprintf(path, sizeof(path), "/proc/%d/fd", pids[i]);
		DIR *dir = opendir(path);
		assert_non_null(dir);
		for (struct dirent *e; (e = readdir(dir));)
			if (e->d_name[0] != '.')
				trip_look_at(p, i, pids[i], dirfd(dir), (pid_t)strtol(e->d_name, NULL, 10));
		closedir(dir);
	}
	return p;
}

void trip_compare(struct trip_picture *before, const pid_t *pids, size_t n)
{
	struct trip_picture *after = trip_look(pids, n);
	for (size_t i = 0; i < MIN(before->n, after->n); i++) {
		if (before->v[i].task != after->v[i].task || before->v[i].fd != after->v[i].fd ||
		    strcmp(before->v[i].link, after->v[i].link) != 0 ||
		    strcmp(before->v[i].info, after->v[i].info) != 0)
			fail_msg("task %zu fd %d (%s) was\n%s\nand is fd %d (%s)\n%s", before->v[i].task,
				 before->v[i].fd, before->v[i].link, before->v[i].info, after->v[i].fd,
				 after->v[i].link, after->v[i].info);
	}
	assert_int_equal(after->n, before->n);
	free(before);
	free(after);
}
