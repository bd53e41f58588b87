/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns storing memory of frozen tasks. Private memory is read with process_vm_readv(2) (3.2), many runs in one call, and
 * through /proc/PID/mem where the task itself may not read; shared anonymous memory through /proc/PID/map_files, hole by
 * hole, so that reading allocates nothing. Pages of zeroes take no space in anonymous memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/pages.h"
#include "kernel/syscalls.h"
#include "mem/mem.h"
#include "model/vma-status.h"

enum { MEM_PIECES = MEM_BUFFER_BYTES / IMAGE_PAGE_BYTES };

struct mem_block {
	struct mem_dump *d;
	struct image_pages_writer *writer;
	pid_t pid; /* of the task, 0 for a shared object */
	int mem;
	bool sparse; /* zeroes mean absent */
	uint32_t flags;
	const char *what;              /* for messages */
	uint64_t bytes;                /* how much there is to read; what a last page lacks is zero */
	uint64_t slack_from, slack_to; /* addresses whose bytes are ours, stored as zeroes */
	struct ferry_error *err;

	/* found and not read yet: they fill the buffer one after the other */
	struct image_piece pieces[MEM_PIECES];
	size_t n_pieces;
	uint64_t waiting; /* bytes */
};

/* Much in one call, with one copy. What a task may not read itself ends it early. Returns the bytes that are there. */
static uint64_t mem_read_many(const struct mem_block *b)
{
	struct iovec local = {b->d->buffer, b->waiting}, remote[MEM_PIECES];
	if (!b->pid)
		return 0;
	for (size_t i = 0; i < b->n_pieces; i++)
		remote[i] = (struct iovec){(void *)(uintptr_t)b->pieces[i].vaddr,
					   b->pieces[i].nr_pages * IMAGE_PAGE_BYTES};
	ssize_t n = sys_process_vm_readv(b->pid, &local, 1, remote, b->n_pieces);
	return n < 0 ? 0 : (uint64_t)n;
}

static int mem_read_piece(struct mem_block *b, const struct image_piece *piece, char *to)
{
	uint64_t at = piece->vaddr, n = piece->nr_pages * IMAGE_PAGE_BYTES, there = MIN(n, b->bytes - at);
	int r = fd_pread_all(b->mem, to, there, at);
	if (r < 0)
		return error_errno(b->err, FERRY_ERROR_SYSTEM, -r, "reading '%s' at %llx", b->what,
				   (unsigned long long)at);
	memset(to + there, 0, n - there);
	return 0;
}

static int mem_read(struct mem_block *b)
{
	if (fault_hit(b->d->fault, FAULT_PAGES_READ))
		return error_set(b->err, FERRY_ERROR_FAULT, EIO, "reading '%s': fault injected", b->what);
	uint64_t there = mem_read_many(b), at = 0;
	for (size_t i = 0; i < b->n_pieces; i++) {
		const struct image_piece *piece = &b->pieces[i];
		char *to = (char *)b->d->buffer + at;
		at += piece->nr_pages * IMAGE_PAGE_BYTES;
		int r = at > there ? mem_read_piece(b, piece, to) : 0;
		if (r < 0)
			return r;
		if (b->slack_from >= piece->vaddr &&
		    b->slack_to <= piece->vaddr + piece->nr_pages * IMAGE_PAGE_BYTES)
			memset(to + (b->slack_from - piece->vaddr), 0, b->slack_to - b->slack_from);
	}
	return 0;
}

/* Read and store what was found. */
static int mem_flush(struct mem_block *b)
{
	if (!b->n_pieces)
		return 0;
	int r = mem_read(b);
	if (r >= 0)
		r = image_pages_add_pieces(b->writer, b->pieces, b->n_pieces, b->flags, b->sparse,
					   b->d->buffer, b->err);
	b->d->bytes += b->waiting;
	b->n_pieces = 0;
	b->waiting = 0;
	if (r >= 0 && b->d->progress)
		b->d->progress(b->d->context, b->d->bytes);
	return r;
}

static int mem_found(void *context, const struct mem_range *range)
{
	struct mem_block *b = context;
	for (uint64_t at = range->start; at < range->end;) {
		uint64_t n = MIN(range->end - at, MEM_BUFFER_BYTES - b->waiting);
		b->pieces[b->n_pieces++] = (struct image_piece){at, n / IMAGE_PAGE_BYTES};
		b->waiting += n;
		at += n;
		int r = b->waiting == MEM_BUFFER_BYTES ? mem_flush(b) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int mem_dump_vma(struct mem_block *b, int pagemap, const struct snap_task *t, const VmaEntry *vma)
{
	bool anonymous = vma->status & VMA_STATUS_ANON_PRIVATE;
	bool vdso = vma->status & VMA_STATUS_VDSO;
	b->sparse = anonymous && !vdso;
	b->flags = b->sparse && !(vma->flags & MAP_LOCKED) ? IMAGE_PE_LAZY : 0;
	b->d->stats.pages_scanned += (vma->end - vma->start) / IMAGE_PAGE_BYTES;
	/* The kernel's own pages of the vdso are no page of the task's, so they are named as a whole. */
	int r;
	if (vdso)
		r = mem_found(b, &(struct mem_range){vma->start, vma->end});
	else
		r = mem_find(pagemap, b->d->caps, vma->start, vma->end, anonymous, mem_found, b);
	if (r >= 0)
		r = mem_flush(b);
	if (r < 0 && b->err && b->err->id == FERRY_ERROR_NONE)
		return error_errno(b->err, FERRY_ERROR_SYSTEM, -r, "finding the pages of pid %d at %llx",
				   t->pid, (unsigned long long)vma->start);
	return r;
}

static int mem_buffer(struct mem_dump *d, struct ferry_error *err)
{
	if (d->buffer)
		return 0;
	void *buffer = mmap(NULL, MEM_BUFFER_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (buffer == MAP_FAILED)
		return error_memory(err);
	d->buffer = buffer;
	return 0;
}

int mem_dump_task(struct mem_dump *d, const struct snap_task *t, struct ferry_error *err)
{
	int r = mem_buffer(d, err);
	if (r < 0)
		return r;
	_cleanup_close_ int mem = fd_openf(O_RDONLY, "/proc/%d/mem", t->pid);
	_cleanup_close_ int pagemap = fd_openf(O_RDONLY, "/proc/%d/pagemap", t->pid);
	if (mem < 0 || pagemap < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, mem < 0 ? -mem : -pagemap,
				   "opening the memory of pid %d", t->pid);
	char what[32];
	snprintf(what, sizeof(what), "/proc/%d/mem", t->pid);
	struct mem_block b = {
		.d = d, .mem = mem, .pid = t->pid, .what = what, .bytes = UINT64_MAX, .err = err};
	if (t->vdso_slack) {
		b.slack_from = t->vdso_start + t->vdso_slack;
		b.slack_to = t->vdso_start + t->vdso_bytes;
	}
	r = image_pages_create(d->dir, IMAGE_PAGEMAP, (uint64_t)t->pid, &b.writer, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < t->vmas.n && r >= 0; i++)
		if (t->vmas.v[i].dump_pages)
			r = mem_dump_vma(&b, pagemap, t, t->vmas.v[i].entry);
	d->stats.pages_written += image_pages_written(b.writer);
	int closed = image_pages_close(b.writer, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

int mem_dump_shmem(struct mem_dump *d, const struct snap_shmem *shmem, struct ferry_error *err)
{
	int r = mem_buffer(d, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = fd_open(AT_FDCWD, shmem->path, O_RDONLY, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening shared memory at '%s'",
				   shmem->path);
	struct mem_block b = {
		.d = d, .mem = fd, .what = shmem->path, .bytes = shmem->bytes, .sparse = true, .err = err};
	r = image_pages_create(d->dir, IMAGE_SHMEM_PAGEMAP, shmem->shmid, &b.writer, err);
	if (r < 0)
		return r;
	d->stats.shmem_scanned += shmem->bytes / IMAGE_PAGE_BYTES;
	for (off_t at = 0; r >= 0;) {
		off_t data = lseek(fd, at, SEEK_DATA);
		if (data < 0 || (uint64_t)data >= shmem->bytes)
			break;
		off_t hole = lseek(fd, data, SEEK_HOLE);
		uint64_t end = align_up(MIN((uint64_t)hole, shmem->bytes), IMAGE_PAGE_BYTES);
		r = mem_found(&b, &(struct mem_range){align_down((uint64_t)data, IMAGE_PAGE_BYTES), end});
		at = hole;
	}
	if (r >= 0)
		r = mem_flush(&b);
	d->stats.shmem_written += image_pages_written(b.writer);
	int closed = image_pages_close(b.writer, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}
