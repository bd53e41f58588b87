/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns filling large memory from outside: a task makes its mappings and waits, the coordinator copies pages into them, several threads
 * side by side, straight from the pages file into pages that nobody had to clear before. What becomes huge pages, and little
 * memory, the task reads by itself (memory.c).
 *
 * Kernel interface: userfaultfd(2) (4.3), UFFD_USER_MODE_ONLY (5.11): UFFDIO_REGISTER for missing pages, UFFDIO_COPY. The descriptor is
 * made in the task, while that still is a fork of ours: it is of the memory that the task will have.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/lanes.h"
#include "base/progress.h"
#include "image/pages.h"
#include "kernel/uapi.h"
#include "model/kind.h"
#include "restore/restore.h"

enum { POUR_PIECE_PAGES = (1 << 20) / (int)IMAGE_PAGE_BYTES };

/* A pages file as the coordinator has it mapped. */
struct pour_source {
	int fd;
	char *at;
	uint64_t bytes;
};

struct pour_job {
	int uffd;
	struct progress *progress;
	VEC(struct pour_source) sources;
	VEC(struct plan_run) pieces;
};

bool pour_possible(void)
{
	_cleanup_close_ int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	return fd >= 0;
}

/* In the task. */
static int pour_make(void *arguments unused, int *fds, size_t *n_fds)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	fds[0] = fd;
	*n_fds = 1;
	return 0;
}

/* *ret_uffd is the caller's. */
static int pour_make_in(struct restore *r, const struct plan_task *t, int *ret_uffd, struct ferry_error *err)
{
	struct opener_call call = {.run = pour_make};
	int ret = files_call(r->opener, t, &call, err);
	if (ret < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret,
				   "making a userfaultfd for the memory of pid %d", t->pid);
	*ret_uffd = call.fds[0];
	return 0;
}

int pour_prepare(struct restore *r, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		struct plan_task *t = &r->plan->tasks[i];
		int fd = -1;
		if (!t->pour.runs.n && (r->lazy_daemon < 0 || t->vm_owner))
			continue;
		if (r->lazy_daemon >= 0 && !t->pour.lazy)
			return error_set(
				err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				"pid %d needs all of its memory before it runs: leave --lazy-pages out",
				t->pid);
		int ret = t->pour.lazy ? lazy_make_in(r, t, &fd, err) : pour_make_in(r, t, &fd, err);
		if (ret < 0)
			return ret;
		t->pour.uffd = plan_keep_source(r->plan, fd);
		if (t->pour.uffd < 0)
			return error_memory(err);
	}
	return lazy_start(r, err);
}

/* ------------------------------------------------------------------- the pages */

static const struct pour_source *pour_source(const struct pour_job *j, int fd)
{
	vec_foreach(source, &j->sources) {
		if (source->fd == fd)
			return source;
	}
	return NULL;
}

static int pour_map_source(struct pour_job *j, int fd)
{
	struct stat st;
	if (pour_source(j, fd))
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	char *at = mmap(NULL, (size_t)MAX(st.st_size, 1), PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	struct pour_source *source = vec_push(&j->sources);
	if (!source) {
		munmap(at, (size_t)MAX(st.st_size, 1));
		return -ENOMEM;
	}
	*source = (struct pour_source){fd, at, (uint64_t)MAX(st.st_size, 1)};
	return 0;
}

static int pour_cut(struct pour_job *j, const struct plan_run *run)
{
	int r = pour_map_source(j, run->source);
	for (uint64_t done = 0; done < run->nr_pages && r >= 0;) {
		uint64_t n = MIN(run->nr_pages - done, (uint64_t)POUR_PIECE_PAGES);
		struct plan_run *piece = vec_push(&j->pieces);
		if (!piece)
			return -ENOMEM;
		*piece = (struct plan_run){.vaddr = run->vaddr + done * IMAGE_PAGE_BYTES,
					   .nr_pages = n,
					   .offset = run->offset + done * IMAGE_PAGE_BYTES,
					   .source = run->source};
		done += n;
	}
	return r;
}

/* The kernel stops early for a signal, and when mappings of the task change. */
static int pour_copy(const struct pour_job *j, uint64_t to, const char *from, uint64_t bytes)
{
	while (bytes) {
		struct uffdio_copy copy = {.dst = to, .src = (uintptr_t)from, .len = bytes};
		int r = ioctl(j->uffd, UFFDIO_COPY, &copy) < 0 ? -errno : 0;
		if (r < 0 && r != -EAGAIN)
			return r;
		uint64_t done = copy.copy > 0 ? (uint64_t)copy.copy : 0;
		to += done;
		from += done;
		bytes -= done;
		progress_add(j->progress, done);
	}
	return 0;
}

static int pour_piece(void *context, struct lanes *l unused, unsigned lane unused, uint64_t number)
{
	const struct pour_job *j = context;
	const struct plan_run *piece = &j->pieces.v[number];
	const struct pour_source *source = pour_source(j, piece->source);
	uint64_t bytes = piece->nr_pages * IMAGE_PAGE_BYTES;
	if (!source || piece->offset > source->bytes || bytes > source->bytes - piece->offset)
		return -ENODATA;
	return pour_copy(j, piece->vaddr, source->at + piece->offset, bytes);
}

static int pour_register(const struct plan_task *t)
{
	vec_foreach(range, &t->pour.ranges) {
		struct uffdio_register r = {.range = {.start = range->start,
						      .len = range->end - range->start},
					    .mode = UFFDIO_REGISTER_MODE_MISSING};
		if (ioctl(t->pour.uffd, UFFDIO_REGISTER, &r) < 0)
			return -errno;
	}
	return 0;
}

static int pour_unregister(const struct plan_task *t)
{
	vec_foreach(range, &t->pour.ranges) {
		struct uffdio_range r = {.start = range->start, .len = range->end - range->start};
		if (ioctl(t->pour.uffd, UFFDIO_UNREGISTER, &r) < 0)
			return -errno;
	}
	return 0;
}

static int pour_task(struct restore *r, const struct plan_task *t, struct ferry_error *err)
{
	struct pour_job j = {.uffd = t->pour.uffd, .progress = r->progress};
	fault_effect(r->fault, "restore", "pour");
	if (fault_hit(r->fault, FAULT_MEMORY_FILL))
		return error_set(err, FERRY_ERROR_FAULT, EIO, "filling the memory of pid %d: fault injected",
				 t->pid);
	int ret = pour_register(t);
	for (size_t i = 0; i < t->pour.runs.n && ret >= 0 && !t->pour.lazy; i++)
		ret = pour_cut(&j, &t->pour.runs.v[i]);
	if (ret >= 0 && !t->pour.lazy)
		ret = lanes_run(lanes_wanted(), j.pieces.n, pour_piece, &j);
	/* What is lazy is filled by the pager, as long as it takes. */
	if (ret >= 0 && !t->pour.lazy)
		ret = pour_unregister(t);
	vec_foreach(source, &j.sources)
		munmap(source->at, source->bytes);
	vec_release(&j.sources);
	vec_release(&j.pieces);
	return ret < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -ret, "filling the memory of pid %d",
				     t->pid)
		       : 0;
}

int pour_tend(struct restore *r, struct ferry_error *err)
{
	for (size_t i = 0; i < r->plan->n_tasks; i++) {
		struct plan_task *t = &r->plan->tasks[i];
		struct restore_member *m = &r->shared->members[t->member];
		if (!t->pour.runs.n || t->pour.done || !__atomic_load_n(&m->mapped, __ATOMIC_SEQ_CST))
			continue;
		int ret = pour_task(r, t, err);
		if (ret < 0)
			return ret;
		t->pour.done = true;
		__atomic_store_n(&m->poured, 1, __ATOMIC_SEQ_CST);
		futex_wake(&m->poured);
	}
	return 0;
}
