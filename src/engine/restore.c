/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns a restore from the image to running tasks: read, plan, compare with the machine, build, and open the barrier
 * only when everything stands at it. A failure before that removes everything that was created.
 *
 * Kernel interface: time_namespaces(7) (5.6).
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/progress.h"
#include "engine/restore.h"
#include "host/cpu.h"
#include "host/netlock.h"
#include "host/warden.h"
#include "image/dedup.h"
#include "image/dir.h"
#include "kind/kinds.h"
#include "proc/read.h"
#include "restore/mates.h"
#include "restore/namespaces.h"
#include "restore/pager.h"
#include "restore/putback.h"
#include "restore/read.h"
#include "restore/restore.h"
#include "stream/pageclient.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

struct restore_job {
	struct engine *e;
	struct image_dir *dir;
	struct plan plan;
	struct reader reader;
	struct opener opener;
	struct restore restore;
	struct putback putback;
	bool marked;       /* we made the mark of a restored image */
	pid_t verifier;    /* compares the checksums of pages meanwhile; 0 = none */
	int verifier_pipe; /* what it found */
};

static bool restore_is_lazy(const struct options *o)
{
	return o->lazy || o->lazy_pages;
}

/* Less is compared at once. */
enum { RESTORE_VERIFY_ASIDE_BYTES = 8 << 20 };

static __attribute__((noreturn)) void restore_verifier(struct restore_job *j, int pipe, pid_t parent)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = getppid() == parent ? image_dir_check_pages(j->dir, &err) : -ESRCH;
	if (r < 0)
		r = fd_write_all(pipe, &err, sizeof(err));
	_exit(r < 0 || error_is_set(&err) ? 1 : 0);
}

/*
 * Pages are compared with their checksums while the tasks are being built from them: nothing runs before the barrier, and by
 * then the answer is there. A process and not a thread, because tasks are forks of ours; one with a single thread,
 * because every thread takes a number that a task may want.
 */
static int restore_verify_aside(struct restore_job *j, struct ferry_error *err)
{
	int ends[2];
	if (image_dir_pages_bytes(j->dir) < RESTORE_VERIFY_ASIDE_BYTES)
		return image_dir_check_pages(j->dir, err);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	pid_t self = getpid(), pid = fork();
	int code = errno;
	if (!pid)
		restore_verifier(j, ends[1], self);
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "starting the process that compares pages");
	}
	j->verifier = pid;
	j->verifier_pipe = ends[0];
	return 0;
}

/* Wait for the answer. */
static int restore_verified(struct restore_job *j, struct ferry_error *err)
{
	struct ferry_error told = FERRY_ERROR_INIT;
	int status = 0;
	if (!j->verifier)
		return 0;
	bool said = fd_read_all(j->verifier_pipe, &told, sizeof(told)) >= 0;
	while (waitpid(j->verifier, &status, __WALL) < 0 && errno == EINTR)
		continue;
	close(j->verifier_pipe);
	j->verifier = 0;
	if (said && err)
		*err = told;
	if (said)
		return -told.code;
	return status ? error_set(err, FERRY_ERROR_INTERRUPTED, EINTR,
				  "the process that compares pages with their checksums was killed")
		      : 0;
}

static void restore_end_verifier(struct restore_job *j)
{
	if (!j->verifier)
		return;
	kill(j->verifier, SIGKILL);
	while (waitpid(j->verifier, NULL, __WALL) < 0 && errno == EINTR)
		continue;
	close(j->verifier_pipe);
	j->verifier = 0;
}

/* A task of the image may want the very number that the kernel gave to our helper. */
static int restore_free_numbers(struct restore_job *j, struct ferry_error *err)
{
	for (size_t i = 0; i < j->plan.n_tasks && j->verifier; i++)
		vec_foreach(th, &j->plan.tasks[i].threads)
			if (th->tid == j->verifier)
				return restore_verified(j, err);
	return 0;
}

/* Under the name criu a processor is compared only when that is asked for. */
static int restore_check_cpu(const struct restore_job *j, struct ferry_error *err)
{
	const struct options *o = j->e->options;
	bool asked = o->cpu_cap || o->criu_compat, told = image_dir_has(j->dir, IMAGE_CPUINFO, 0);
	return cpu_check(j->dir, asked ? j->e->cpu_caps : told ? CPU_USUAL : 0, err);
}

static int restore_open(struct restore_job *j, const struct restore_from *from, struct ferry_error *err)
{
	struct engine *e = j->e;
	const struct options *o = e->options;
	const char *images_dir = from->images_dir;
	struct image_dir_open open = {
		.seen = from->seen,
		.n_seen = from->n_seen,
		.keep = true,
		.fault = &e->fault,
		.log = e->log,
	};
	int r = image_dir_open(AT_FDCWD, images_dir, &open, &j->dir, err);
	if (r >= 0)
		r = image_dir_check_whole(j->dir, err);
	if (r >= 0)
		r = image_dir_open_chain(j->dir, err);
	if (r < 0)
		return r;
	if (image_dir_has(j->dir, IMAGE_FERRY_CLOCKS, 0) && !image_dir_has_manifest(j->dir))
		return error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT,
				 "'%s' was written by ferry and has lost its ferry-manifest.img", images_dir);
	if (!image_dir_has(j->dir, IMAGE_PSTREE, 0)) {
		error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT,
			  "'%s' holds no processes (no pstree.img): it is a round before a dump", images_dir);
		error_hint(err, "restore the image that builds on it");
		return -ENOENT;
	}
	r = restore_check_cpu(j, err);
	if (r < 0)
		return r;
	r = image_dir_is_spent(j->dir);
	if (r > 0 && !o->again) {
		error_set(err, FERRY_ERROR_IMAGE_SPENT, EEXIST, "'%s' was restored before", images_dir);
		error_hint(
			err,
			"restoring it again runs the same work twice: use --again if that is what you want");
		return -EEXIST;
	}
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "looking for '%s' in '%s'", IMAGE_SPENT_NAME,
				   images_dir);
	/* Who compares all pages reads all of them. */
	return o->no_verify_pages || restore_is_lazy(o) ? 0 : restore_verify_aside(j, err);
}

/*
 * The namespaces of the tree are made and entered before its files are compared, since they may hold some. They end with us
 * unless tasks stay in them.
 */
static int restore_namespaces(struct restore_job *j, struct ferry_error *err)
{
	struct engine *e = j->e;
	struct restore *r = &j->restore;
	r->new_pidns = e->options->new_pidns || plan_own_ns(&j->plan, PROC_NS_PID);
	r->own_init = r->new_pidns && j->plan.tasks[0].pid != 1;
	/* The warden stays in ours, and comes up while the rest is planned. It has to see what is shared with the tasks. */
	bool early = r->new_pidns || j->plan.namespaces.n;
	for (size_t i = 0; i < KIND_COUNT; i++)
		early |= kind_table[i]->prepare && j->plan.kind_data[i];
	int ret = e->warden ? 0 : region_reserve(r, err);
	if (ret >= 0)
		ret = early ? engine_warden(e, err) : engine_start_warden(e, err);
	r->warden = j->opener.warden = e->warden;
	for (size_t i = 0; i < KIND_COUNT && ret >= 0; i++)
		if (kind_table[i]->prepare && j->plan.kind_data[i])
			ret = kind_table[i]->prepare(&j->opener, err);
	if (ret >= 0 && j->plan.namespaces.n)
		ret = engine_keep_start(e, err);
	if (ret >= 0)
		ret = engine_keep_net(e, err);
	return ret < 0 ? ret : namespaces_make(r, err);
}

/* The pager outlives who keeps the log. */
static int restore_open_log(struct restore_job *j, struct ferry_error *err)
{
	const char *path = j->e->options->log_file;
	if (!path)
		return 0;
	int fd = fd_open(AT_FDCWD, path, O_WRONLY | O_APPEND, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening --log-file '%s'", path);
	j->restore.pager_log = fd;
	return 0;
}

/* Memory comes from where the tree was dumped, and still stands. */
static int restore_connect(struct restore_job *j, struct ferry_error *err)
{
	const struct options *o = j->e->options;
	struct pageclient client;
	if (!o->lazy)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "--page-server is for --lazy; with --lazy-pages 'ferry lazy-pages' has it");
	const struct pageclient_how how = {
		.tls = j->e->tls, .insecure = o->insecure, .timeout_ms = (int)o->timeout * 1000};
	int r = pageclient_open(&client, o->page_server, &how, err);
	if (r < 0)
		return r;
	j->restore.page_server = client.fd;
	j->restore.page_server_settles = image_dir_has_manifest(j->dir);
	return 0;
}

/* Who brings the memory waits in the directory of the image, or in another one. */
static int restore_find_lazy_pages(struct restore_job *j, struct ferry_error *err)
{
	const char *path = j->e->options->socket_dir;
	int at = path ? engine_at(j->e, &path) : -1;
	_cleanup_close_ int dir = path ? fd_open(at, path, O_DIRECTORY | O_RDONLY, 0) : -1;
	if (path && dir < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -dir, "directory '%s'", path);
	return lazy_connect(&j->restore, path ? dir : image_dir_fd(j->dir), err);
}

static int restore_plan(struct restore_job *j, struct ferry_error *err)
{
	struct engine *e = j->e;
	struct restore *r = &j->restore;
	j->reader = (struct reader){.plan = &j->plan,
				    .dir = j->dir,
				    .caps = &e->caps,
				    .options = &e->kinds,
				    .fault = &e->fault,
				    .log = e->log};
	j->opener = (struct opener){.plan = &j->plan,
				    .dir = j->dir,
				    .options = &e->kinds,
				    .fault = &e->fault,
				    .log = e->log,
				    .netlocks = engine_netlocks(e)};
	*r = (struct restore){
		.plan = &j->plan,
		.reader = &j->reader,
		.opener = &j->opener,
		.fault = &e->fault,
		.log = e->log,
		.sibling = e->options->restore_sibling,
		.lazy = restore_is_lazy(e->options),
		.lazy_daemon = -1,
		.progress = e->progress,
		.pager_log = -1,
		.page_server = -1,
	};
	bool as_found = !strcmp(e->options->files, "as-found");
	int ret = plan_read(&j->reader, err);
	if (ret >= 0 && restore_is_lazy(e->options))
		ret = restore_open_log(j, err);
	if (ret >= 0 && e->options->page_server)
		ret = restore_connect(j, err);
	if (ret >= 0 && e->options->lazy_pages)
		ret = restore_find_lazy_pages(j, err);
	if (e->options->leave_stopped)
		stop_all(&j->plan);
	if (ret >= 0)
		ret = restore_free_numbers(j, err);
	if (ret >= 0)
		ret = restore_namespaces(j, err);
	if (ret >= 0 && !strcmp(e->options->files, "put-back"))
		ret = putback_files(&j->putback, &j->plan, j->dir, &e->fault, err);
	if (ret >= 0)
		ret = plan_check(&j->reader, as_found, r->new_pidns, err);
	if (ret >= 0)
		ret = vdso_find(&r->vdso, err);
	if (ret >= 0)
		ret = vdso_write_slack(&r->vdso, ferry_gadget, ferry_gadget_bytes, &r->gadget_offset, err);
	if (ret >= 0)
		ret = inherit_plan(r, err);
	if (ret >= 0)
		ret = layout_plan(r, err);
	for (size_t i = 0; i < j->plan.n_tasks && ret >= 0; i++)
		ret = memory_plan(r, &j->plan.tasks[i], err);
	if (ret >= 0)
		ret = inherit_sources(r, err);
	if (ret >= 0)
		ret = plan_scripts(&j->reader, err);
	if (ret >= 0)
		ret = mates_plan(&j->plan, err);
	if (ret >= 0)
		ret = guard_check(&j->plan, &e->caps, err);
	if (ret >= 0)
		ret = tracees_check(&j->plan, err);
	if (ret >= 0)
		ret = region_build(r, err);
	/* What is read from here on is read while there are tasks, which would have the memory of all of it. */
	image_dir_forget(j->dir);
	error_context(err, "plan", NULL, 0);
	return ret;
}

/* The namespaces are there, and nothing in them is used yet. */
static int restore_at_namespaces(struct restore_job *j, struct ferry_error *err)
{
	static const enum engine_stage stages[] = {ENGINE_SETUP_NAMESPACES, ENGINE_POST_SETUP_NAMESPACES};
	bool own = false;
	int r = 0;
	for (int type = 0; type < PROC_NS_COUNT; type++)
		own |= type != PROC_NS_TIME && plan_own_ns(&j->plan, (enum proc_ns)type);
	for (size_t i = 0; i < ARRAY_SIZE(stages) && own && r >= 0; i++)
		r = engine_at_stage(j->e, stages[i], j->restore.root_pid, err);
	return r;
}

static int restore_give_terminal(struct opener *o, int fd, struct ferry_error *err)
{
	struct restore_job *j = o->give_context;
	return engine_give_terminal(j->e, fd, err);
}

static int restore_build(struct restore_job *j, struct ferry_error *err)
{
	struct restore *r = &j->restore;
	progress_begin(j->e->progress, PROGRESS_FILL, image_dir_pages_bytes(j->dir));
	int ret = engine_warden(j->e, err);
	r->warden = j->opener.warden = j->e->warden;
	j->opener.in_task = files_call;
	j->opener.in_task_context = r;
	j->opener.pid_of = files_pid_of;
	j->opener.give_terminal = restore_give_terminal;
	j->opener.give_context = j;
	if (ret >= 0)
		ret = clocks_make(r, !strcmp(j->e->options->clock, "host"), err);
	if (ret >= 0)
		ret = files_open(r, FILES_FIRST, err);
	uint64_t start = time_now_ns();
	if (ret >= 0)
		ret = tasks_create(r, err);
	engine_phase(j->e, "fork", start);
	if (ret >= 0)
		ret = restore_at_namespaces(j, err);
	if (ret >= 0)
		ret = files_open(r, FILES_LATE, err);
	if (ret >= 0)
		ret = namespaces_finish(r, err);
	if (ret >= 0)
		ret = files_open(r, FILES_LAST, err);
	if (ret >= 0)
		ret = namespaces_own_view(r, err);
	if (ret >= 0)
		ret = files_opened(r, err);
	if (ret >= 0)
		ret = pour_prepare(r, err);
	if (ret >= 0)
		ret = files_send(r, err);
	if (ret >= 0)
		ret = stop_tasks(r, err);
	if (ret >= 0)
		ret = tracees_build(r, err);
	if (ret >= 0)
		ret = tasks_wait_ready(r, err);
	error_context(err, "restore", NULL, 0);
	return ret;
}

/* The mark is on the disk before anything runs, and gone again when nothing did. */
static int restore_mark_spent(struct restore_job *j, struct ferry_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd/%d/%s", getpid(), image_dir_fd(j->dir), IMAGE_SPENT_NAME);
	int r = image_dir_is_spent(j->dir);
	if (r > 0)
		return 0; /* --again */
	r = warden_arm(j->e->warden, WARDEN_UNLINK, 0, 0, path, strlen(path) + 1);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_LIMIT, -r,
				   "entering the mark of a restored image into the undo log");
	fault_effect(&j->e->fault, "restore", "mark-spent");
	r = image_dir_mark_spent(j->dir, err);
	j->marked = r >= 0;
	return r;
}

static int restore_write_pidfile(struct restore_job *j, struct ferry_error *err)
{
	const char *path = j->e->options->pidfile;
	if (!path)
		return 0;
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", j->restore.root_pid);
	const char *name = path;
	int at = engine_at(j->e, &name);
	_cleanup_close_ int fd = fd_open(at, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	int r = fd < 0 ? fd : fd_write_all(fd, text, (size_t)n);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "writing --pidfile '%s'", path) : 0;
}

/* The tasks have their pages, and nobody else is to get them. */
static void restore_auto_dedup(struct restore_job *j)
{
	struct engine *e = j->e;
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_dedup done;
	if (!e->options->auto_dedup)
		return;
	if (image_dedup_all(j->dir, &e->fault, &done, &err) < 0)
		log_write(e->log, LOG_WARN, "restore", NULL, 0, "%s, ignoring", err.message);
}

/* Who is told when there is no way back. */
static void restore_tell(struct restore_job *j, enum engine_stage stage)
{
	struct ferry_error refusal = FERRY_ERROR_INIT;
	if (engine_at_stage(j->e, stage, j->restore.root_pid, &refusal) < 0)
		log_write(j->e->log, LOG_WARN, "restore", NULL, 0, "%s, ignoring", refusal.message);
}

static int restore_run(struct restore_job *j, struct ferry_error *err)
{
	struct engine *e = j->e;
	progress_begin(e->progress, PROGRESS_VERIFY, 0);
	int r = restore_verified(j, err);
	for (size_t i = 0; i < KIND_COUNT && r >= 0; i++)
		if (kind_table[i]->ready)
			r = kind_table[i]->ready(&j->opener, err);
	if (r >= 0)
		r = restore_write_pidfile(j, err);
	if (r >= 0)
		r = engine_at_stage(e, ENGINE_POST_RESTORE, j->restore.root_pid, err);
	if (r >= 0)
		r = restore_mark_spent(j, err);
	if (r >= 0 && plan_own_ns(&j->plan, PROC_NS_NET))
		r = engine_at_stage(e, ENGINE_NETWORK_UNLOCK, j->restore.root_pid, err);
	if (r >= 0 && fault_hit(&e->fault, FAULT_COMMIT))
		r = error_set(err, FERRY_ERROR_FAULT, EIO, "opening the barrier: fault injected");
	if (r < 0) {
		if (j->marked && image_dir_unmark_spent(j->dir, NULL) < 0)
			log_write(e->log, LOG_WARN, "restore", NULL, 0,
				  "the image stays marked as restored, use --again");
		return r;
	}
	restore_tell(j, ENGINE_PRE_RESUME);
	engine_decided(e);
	tasks_commit(&j->restore);
	putback_keep(&j->putback);
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->before_run)
			kind_table[i]->before_run(&j->opener);
	tasks_go(&j->restore);
	warden_dismiss(e->warden);
	restore_tell(j, ENGINE_POST_RESUME);
	lazy_tell_run(&j->restore);
	progress_begin(e->progress, PROGRESS_OVER, 0);
	tasks_wait_left(&j->restore);
	for (size_t i = 0; i < KIND_COUNT; i++)
		if (kind_table[i]->left)
			kind_table[i]->left(&j->opener);
	restore_auto_dedup(j);
	e->report.pages_restored = image_dir_pages_bytes(j->dir) / IMAGE_PAGE_BYTES;
	e->report.lazy_bytes = pager_left(j->restore.pager);
	e->report.pid = j->restore.root_pid;
	e->report.first_pid = j->restore.first_pid;
	e->report.tasks = (uint32_t)j->plan.n_tasks;
	for (size_t i = 0; i < j->plan.n_tasks; i++)
		e->report.threads += (uint32_t)j->plan.tasks[i].threads.n;
	e->report.total_ns = time_now_ns() - e->start_ns;
	return 0;
}

static void restore_free(struct restore_job *j)
{
	restore_end_verifier(j);
	pager_free(j->restore.pager);
	if (j->restore.lazy && j->restore.pager_log >= 0)
		close(j->restore.pager_log);
	if (j->restore.lazy && j->restore.lazy_daemon >= 0)
		close(j->restore.lazy_daemon);
	if (j->restore.lazy && j->restore.page_server >= 0)
		close(j->restore.page_server);
	region_release(&j->restore);
	/* Its memory goes with us: to free it would copy pages that the tasks were forked with, one by one. */
	plan_close(&j->plan);
	/* Connections that were rebuilt in vain are closed by now, silently, and what is blocked cannot answer for them. */
	netlocks_free(j->opener.netlocks);
	putback_release(&j->putback);
	image_dir_free(j->dir);
	free(j);
}

int restore_prepare(struct engine *e, const struct restore_from *from, struct restore_job **ret_job,
		    struct ferry_error *err)
{
	struct restore_job *j = calloc(1, sizeof(*j));
	if (!j)
		return error_memory(err);
	j->e = e;
	heap_keep_whole();
	int r = restore_open(j, from, err);
	if (r >= 0)
		r = restore_plan(j, err);
	if (r >= 0)
		r = engine_at_stage(e, ENGINE_PRE_RESTORE, 0, err);
	if (r >= 0)
		r = restore_build(j, err);
	if (r < 0) {
		restore_abandon(j);
		return r;
	}
	*ret_job = j;
	return 0;
}

void restore_abandon(struct restore_job *j)
{
	if (!j)
		return;
	tasks_kill(&j->restore);
	for (size_t i = 0; i < KIND_COUNT && j->opener.plan && j->plan.kind_data; i++)
		if (kind_table[i]->abandon)
			kind_table[i]->abandon(&j->opener);
	if (putback_undo(&j->putback) < 0)
		log_write(
			j->e->log, LOG_ERROR_LEVEL, "restore", NULL, 0,
			"files that were put back stay so: what was there before is beside them, in NAME" PUTBACK_SUFFIX);
	restore_free(j);
}

int restore_commit(struct restore_job *j, struct ferry_error *err)
{
	int r = restore_run(j, err);
	if (r < 0)
		restore_abandon(j);
	else
		restore_free(j);
	return r;
}

/* Our terminal, if we are in its foreground; -1. */
static int restore_terminal(const struct engine *e)
{
	for (int fd = 0; fd <= 2 && e->options->shell_job; fd++)
		if (tcgetpgrp(fd) == getpgrp())
			return fd;
	return -1;
}

/*
 * The tree was put in the foreground, and was stopped there (^Z): we stop as well, with the command line in our group, so
 * that the shell that started us gets its terminal back. When it lets us go on, the tree does.
 */
static void restore_suspend(int terminal)
{
	pid_t group = tcgetpgrp(terminal);
	if (group <= 0 || group == getpgrp())
		return;
	tcsetpgrp(terminal, getpgrp());
	kill(0, SIGSTOP);
	if (tcgetpgrp(terminal) == getpgrp())
		tcsetpgrp(terminal, group);
	kill(-group, SIGCONT);
}

/* Until the tree's first process ends. */
static void restore_wait(struct engine *e, int terminal)
{
	int *status = &e->report.exit_status;
	for (;;) {
		pid_t pid = waitpid(e->report.first_pid, status, terminal < 0 ? 0 : WUNTRACED);
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0 || !WIFSTOPPED(*status))
			break;
		restore_suspend(terminal);
	}
	if (terminal >= 0)
		tcsetpgrp(terminal, getpgrp());
}

int engine_restore(struct engine *e, struct ferry_error *err)
{
	struct restore_job *j;
	if (!e->options->images_dir)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	if (!strcmp(e->options->files, "capture"))
		return error_set(
			err, FERRY_ERROR_USAGE, EINVAL,
			"--files=capture is for a dump; a restore puts back what it took with --files=put-back");
	if (restore_is_lazy(e->options) && e->options->auto_dedup)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "--lazy needs the pages that --auto-dedup takes away");
	if (restore_is_lazy(e->options) && lazy_check(err) < 0)
		return -ENOTSUP;
	struct restore_from from = {.images_dir = e->options->images_dir};
	int terminal = restore_terminal(e);
	int r = restore_prepare(e, &from, &j, err);
	if (r >= 0)
		r = restore_commit(j, err);
	bool waits = r >= 0 && !e->options->restore_detached && !e->options->restore_sibling;
	/* Our copies of the tasks' descriptors are gone by now, so their peers see what they would see without us. */
	if (waits)
		restore_wait(e, terminal);
	return r;
}
