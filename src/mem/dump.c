/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns storing memory of frozen tasks. Private memory is read by process_vm_readv(2); what the task itself may not read, or has in
 * common with others, through /proc/PID/mem: process_vm_readv(2) pins pages, which gives the task a copy of its own of each that was
 * to be copied on write only (since Linux 5.19). Shared anonymous memory is read through /proc/PID/map_files, hole by hole, so that
 * reading allocates nothing.
 *
 * Pages of zeroes take no space in anonymous memory; what an ancestor has stored is not stored again. A block is read, hashed and
 * written while it is in the cache; several threads do that with blocks of their own, because a copy is bound by the processor and
 * not by the memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/lanes.h"
#include "base/vec.h"
#include "image/dir.h"
#include "image/pages.h"
#include "kernel/syscalls.h"
#include "mem/mem.h"
#include "model/record.h"
#include "model/vma-status.h"

enum {
	MEM_BLOCK_BYTES = 256 << 10,
	MEM_BLOCK_PAGES = MEM_BLOCK_BYTES / (int)IMAGE_PAGE_BYTES,
	MEM_ALONE_BYTES = 4 << 20, /* less is not worth a second thread */
};

/* A run of pages to store, at most a block. */
struct mem_piece {
	uint64_t address, bytes;
	uint32_t flags;
	bool sparse; /* zeroes mean absent */
};

/* Pieces that are read, and stored, together. */
struct mem_block {
	size_t first, n;
	uint64_t bytes;
	bool common;    /* of mappings that others have pages of, too */
	bool elsewhere; /* one piece, whose pages are in the pages file of another task */
};

/* What a thread works with. */
struct mem_lane {
	char *buffer; /* MEM_BLOCK_BYTES */
	struct image_run runs[MEM_BLOCK_PAGES];
	struct iovec iov[MEM_BLOCK_PAGES];
	size_t n;
	struct ferry_error err;
};

struct mem_lanes {
	struct mem_lane lane[LANES_MAX];
};

/* One address space, or one shared object, on its way into the image. */
struct mem_store {
	struct mem_dump *d;
	struct image_pages_writer *writer;
	int mem; /* /proc/PID/mem, or the shared object */
	bool is_file;
	const struct snap_window *windows; /* of a shared object that cannot be opened; NULL */
	pid_t pid;                         /* of an address space */
	uint64_t limit;                    /* of a shared object: its size; a last page goes on with zeroes */
	const char *what;                  /* what is read, for messages */
	uint64_t slack_from, slack_to;     /* addresses whose bytes are ours, stored as zeroes */
	VEC(struct mem_piece) pieces;
	VEC(struct mem_block) blocks;
	uint64_t bytes;
	struct mem_known *known; /* of an address space */
	bool is_head;            /* nothing is elsewhere: known grows with what is stored */
	size_t known_at;
	/* Of the mapping being looked at. */
	mem_runs huge;
	uint32_t flags;
	bool sparse, common;
};

static int mem_add_piece(struct mem_store *s, uint64_t address, uint64_t bytes)
{
	struct mem_block *block = s->blocks.n ? &s->blocks.v[s->blocks.n - 1] : NULL;
	if (!block || block->elsewhere || block->common != s->common ||
	    block->bytes + bytes > MEM_BLOCK_BYTES)
		block = vec_push(&s->blocks);
	struct mem_piece *piece = block ? vec_push(&s->pieces) : NULL;
	if (!piece)
		return -ENOMEM;
	*piece = (struct mem_piece){address, bytes, s->flags, s->sparse};
	if (!block->n++)
		block->first = s->pieces.n - 1;
	block->common = s->common;
	block->bytes += bytes;
	s->bytes += bytes;
	return 0;
}

static int mem_add_elsewhere(struct mem_store *s, uint64_t address, uint64_t bytes)
{
	struct mem_block *block = vec_push(&s->blocks);
	struct mem_piece *piece = block ? vec_push(&s->pieces) : NULL;
	if (!piece)
		return -ENOMEM;
	*piece = (struct mem_piece){.address = address, .bytes = bytes, .flags = IMAGE_PE_PARENT};
	*block = (struct mem_block){.first = s->pieces.n - 1, .n = 1, .elsewhere = true};
	return 0;
}

/* The start of the next range that is elsewhere, or one that address is in; calls come in ascending order. */
static bool mem_is_elsewhere(struct mem_store *s, uint64_t address, uint64_t end, uint64_t *ret_end)
{
	const struct mem_known *known = s->is_head ? NULL : s->known;
	*ret_end = end;
	while (known && s->known_at < known->ranges.n && known->ranges.v[s->known_at + 1] <= address)
		s->known_at += 2;
	if (!known || s->known_at == known->ranges.n)
		return false;
	bool is = known->ranges.v[s->known_at] <= address;
	*ret_end = MIN(end, known->ranges.v[s->known_at + is]);
	return is;
}

static int mem_found(void *context, const struct mem_range *range)
{
	struct mem_store *s = context;
	int r = range->huge ? mem_runs_add(&s->huge, range->start, range->end) : 0;
	for (uint64_t at = range->start, end; at < range->end && r >= 0; at = end) {
		if (mem_is_elsewhere(s, at, range->end, &end)) {
			r = mem_add_elsewhere(s, at, end - at);
			continue;
		}
		end = MIN(end, at + MEM_BLOCK_BYTES);
		r = mem_add_piece(s, at, end - at);
	}
	return r;
}

/* What of a piece goes into the image. */
static void mem_split(struct mem_lane *lane, const struct mem_piece *piece, const char *bytes)
{
	const struct image_run run = {
		.vaddr = piece->address, .nr_pages = piece->bytes / IMAGE_PAGE_BYTES, .flags = piece->flags};
	lane->n += image_pages_split(&run, piece->sparse, bytes, lane->runs + lane->n, lane->iov + lane->n);
}

/* Many runs in one call, with one copy. What the task itself may not read ends it early. Returns the bytes that are there. */
static uint64_t mem_read_many(const struct mem_store *s, const struct mem_block *block, char *to)
{
	struct iovec ours = {to, block->bytes}, theirs[MEM_BLOCK_PAGES];
	if (s->is_file || block->common)
		return 0;
	for (size_t i = 0; i < block->n; i++) {
		const struct mem_piece *piece = &s->pieces.v[block->first + i];
		theirs[i] = (struct iovec){(void *)(uintptr_t)piece->address, piece->bytes};
	}
	ssize_t n = sys_process_vm_readv(s->pid, &ours, 1, theirs, block->n);
	return n < 0 ? 0 : (uint64_t)n;
}

/* The window that goes furthest behind an offset; NULL: none has it. */
static const struct snap_window *mem_window(const struct snap_window *windows, uint64_t offset)
{
	const struct snap_window *best = NULL;
	for (const struct snap_window *w = windows; w; w = w->next)
		if (w->offset <= offset && offset < w->offset + w->bytes &&
		    (!best || w->offset + w->bytes > best->offset + best->bytes))
			best = w;
	return best;
}

static int mem_read_window(const struct mem_store *s, const struct mem_piece *piece, char *to)
{
	const struct snap_window *w = mem_window(s->windows, piece->address);
	_cleanup_close_ int mem = fd_openf(O_RDONLY, "/proc/%d/mem", w->pid);
	return mem < 0 ? mem : fd_pread_all(mem, to, piece->bytes, w->address + (piece->address - w->offset));
}

/* Through /proc/PID/mem, which reads everything by way of a page of the kernel's; or a shared object, as a file. */
static int mem_read_piece(const struct mem_store *s, const struct mem_piece *piece, char *to)
{
	uint64_t there = s->is_file ? MIN(piece->bytes, s->limit - piece->address) : piece->bytes;
	memset(to + there, 0, piece->bytes - there);
	if (s->windows)
		return mem_read_window(s, piece, to);
	return fd_pread_all(s->mem, to, there, piece->address);
}

static int mem_read(struct mem_store *s, struct mem_lane *lane, const struct mem_block *block)
{
	char *to = lane->buffer;
	uint64_t there = mem_read_many(s, block, to);
	lane->n = 0;
	for (size_t i = block->first; i < block->first + block->n; i++) {
		const struct mem_piece *piece = &s->pieces.v[i];
		uint64_t at = piece->address;
		if (fault_hit(s->d->fault, FAULT_PAGES_READ))
			return error_set(&lane->err, FERRY_ERROR_FAULT, EIO, "reading '%s': fault injected",
					 s->what);
		bool read = (uint64_t)(to - lane->buffer) + piece->bytes <= there;
		int r = read ? 0 : mem_read_piece(s, piece, to);
		if (r < 0)
			return error_errno(&lane->err, FERRY_ERROR_SYSTEM, -r, "reading '%s' at %llx",
					   s->what, (unsigned long long)at);
		if (s->slack_from >= at && s->slack_to <= at + piece->bytes)
			memset(to + (s->slack_from - at), 0, s->slack_to - s->slack_from);
		mem_split(lane, piece, to);
		to += piece->bytes;
	}
	return 0;
}

/* What the family of a head can refer to. */
static int mem_note_known(struct mem_store *s, const struct image_run *runs, size_t n)
{
	int r = 0;
	for (size_t i = 0; s->is_head && i < n && r >= 0; i++)
		r = mem_runs_add(&s->known->ranges, runs[i].vaddr,
				 runs[i].vaddr + runs[i].nr_pages * IMAGE_PAGE_BYTES);
	return r;
}

static int mem_refer(struct mem_store *s, struct lanes *l, uint64_t index, struct ferry_error *err)
{
	const struct mem_piece *piece = &s->pieces.v[s->blocks.v[index].first];
	int r = lanes_turn(l, index);
	if (r >= 0)
		r = image_pages_add_reference(s->writer, piece->address, piece->bytes / IMAGE_PAGE_BYTES,
					      piece->flags, err);
	if (r >= 0)
		lanes_next(l, index);
	return r;
}

/* Read side by side, enter into the pagemap one after the other, write side by side. */
static int mem_store_block(void *context, struct lanes *l, unsigned number, uint64_t index)
{
	struct mem_store *s = context;
	struct mem_lane *lane = &s->d->lanes->lane[number];
	const struct mem_block *block = &s->blocks.v[index];
	uint64_t offset = 0;
	if (block->elsewhere)
		return mem_refer(s, l, index, &lane->err);
	int r = mem_read(s, lane, block);
	if (r >= 0)
		r = lanes_turn(l, index);
	if (r >= 0 && lane->n)
		r = image_pages_reserve(s->writer, lane->runs, lane->iov, lane->n, &offset, &lane->err);
	if (r >= 0 && mem_note_known(s, lane->runs, lane->n) < 0)
		r = error_memory(&lane->err);
	if (r < 0)
		return r;
	s->d->bytes += block->bytes;
	if (s->d->progress)
		s->d->progress(s->d->context, s->d->bytes);
	lanes_next(l, index);
	return lane->n ? image_pages_store(s->writer, offset, lane->iov, lane->n, &lane->err) : 0;
}

static int mem_make_lanes(struct mem_dump *d)
{
	if (d->lanes)
		return 0;
	struct mem_lanes *lanes = calloc(1, sizeof(*lanes));
	char *buffers = lanes ? mmap(NULL, (size_t)LANES_MAX * MEM_BLOCK_BYTES, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
			      : MAP_FAILED;
	if (buffers == MAP_FAILED) {
		free(lanes);
		return -ENOMEM;
	}
	for (size_t i = 0; i < LANES_MAX; i++)
		lanes->lane[i].buffer = buffers + i * MEM_BLOCK_BYTES;
	d->lanes = lanes;
	return 0;
}

void mem_dump_end(struct mem_dump *d)
{
	if (d->lanes)
		munmap(d->lanes->lane[0].buffer, (size_t)LANES_MAX * MEM_BLOCK_BYTES);
	free(d->lanes);
	d->lanes = NULL;
	for (size_t i = 0; d->known && i < d->snap->tasks.n; i++)
		vec_release(&d->known[i].ranges);
	free(d->known);
	d->known = NULL;
}

/* Everything that was found into the image. */
static int mem_store_all(struct mem_store *s, struct ferry_error *err)
{
	int r = mem_make_lanes(s->d);
	if (r < 0)
		return error_memory(err);
	for (size_t i = 0; i < LANES_MAX; i++)
		s->d->lanes->lane[i].err = (struct ferry_error)FERRY_ERROR_INIT;
	r = lanes_run(s->bytes < MEM_ALONE_BYTES ? 1 : lanes_wanted(), s->blocks.n, mem_store_block, s);
	for (size_t i = 0; i < LANES_MAX && r < 0; i++) {
		const struct ferry_error *told = &s->d->lanes->lane[i].err;
		if (!error_is_set(told) || !err || error_is_set(err))
			continue;
		uint32_t size = err->size;
		*err = *told;
		err->size = size;
	}
	return r;
}

/* Close, and let go of what was found. */
static int mem_store_end(struct mem_store *s, int r, struct ferry_error *err)
{
	int closed = image_pages_close(s->writer, r < 0 ? NULL : err);
	vec_release(&s->pieces);
	vec_release(&s->blocks);
	vec_release(&s->huge);
	return r < 0 ? r : closed;
}

static int mem_find_vma(struct mem_store *s, int pagemap, const struct snap_vma *snap,
			struct ferry_error *err)
{
	const VmaEntry *vma = snap->entry;
	bool anonymous = vma->status & VMA_STATUS_ANON_PRIVATE;
	bool whole = vma->status & (VMA_STATUS_VDSO | VMA_STATUS_AIO_RING);
	unsigned flags = (anonymous ? MEM_FIND_ANONYMOUS : 0) | (snap->guards ? MEM_FIND_NO_GUARDS : 0);
	s->sparse = anonymous && !whole;
	s->common = snap->common;
	s->flags = s->sparse && !(vma->flags & MAP_LOCKED) ? IMAGE_PE_LAZY : 0;
	s->d->stats.pages_scanned += (vma->end - vma->start) / IMAGE_PAGE_BYTES;
	/* Pages of the kernel's own, of the vdso or an AIO ring, are no pages of the task's: they are named as a whole. */
	int r;
	if (whole)
		r = mem_found(s, &(struct mem_range){.start = vma->start, .end = vma->end});
	else
		r = mem_find(pagemap, s->d->caps, vma->start, vma->end, flags, mem_found, s);
	if (r == -ENOMEM)
		return error_memory(err);
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "finding the pages of pid %d at %llx", s->pid,
				   (unsigned long long)vma->start)
		     : 0;
}

/* Transparent huge pages are noted, so that they come back as such; those of hugetlbfs are no others. */
static int mem_note_huge(struct mem_store *s, struct snap_vma *vma)
{
	if (!s->huge.n || vma->entry->flags & MAP_HUGETLB || !(vma->entry->status & VMA_STATUS_ANON_PRIVATE))
		return 0;
	FerryVmaEntry *extra = snapshot_vma_extra(s->d->snap, vma);
	uint64_t *ranges = arena_copy(&s->d->snap->arena, s->huge.v, s->huge.n * sizeof(*s->huge.v));
	if (!extra || !ranges)
		return -ENOMEM;
	extra->huge = ranges;
	extra->n_huge = s->huge.n;
	return 0;
}

/* Whether a task refers to an ancestor's pages, or others may refer to its own. */
static int mem_know(struct mem_store *s, struct snap_task *t, struct ferry_error *err)
{
	struct mem_dump *d = s->d;
	const struct snap_task *first = d->snap->tasks.v;
	if (!d->known)
		d->known = calloc(d->snap->tasks.n, sizeof(*d->known));
	if (!d->known)
		return error_memory(err);
	s->known = &d->known[t - first];
	if (t->parent && mem_find_known(t, &d->known[t->parent->memory - first], s->known) < 0)
		return error_memory(err);
	s->is_head = !s->known->head;
	if (!s->is_head)
		record_set(t->mm_extra, pages_of, (uint32_t)s->known->head->inner_pid);
	return 0;
}

/* For those who know of parent images, but nothing of families. */
static int mem_link_family(const struct mem_store *s, const struct snap_task *t, struct ferry_error *err)
{
	if (s->is_head)
		return 0;
	return image_dir_link_family(s->d->dir, (uint64_t)t->inner_pid, (uint64_t)s->known->head->inner_pid,
				     s->known->pages_id, err);
}

int mem_dump_task(struct mem_dump *d, struct snap_task *t, struct ferry_error *err)
{
	if (t->memory != t)
		return 0;
	_cleanup_close_ int mem = fd_openf(O_RDONLY, "/proc/%d/mem", t->look);
	_cleanup_close_ int pagemap = fd_openf(O_RDONLY, "/proc/%d/pagemap", t->look);
	if (mem < 0 || pagemap < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, mem < 0 ? -mem : -pagemap,
				   "opening the memory of pid %d", t->pid);
	char what[32];
	snprintf(what, sizeof(what), "/proc/%d/mem", t->look);
	struct mem_store s = {.d = d, .mem = mem, .pid = t->look, .what = what};
	if (t->vdso_slack) {
		s.slack_from = t->vdso_start + t->vdso_slack;
		s.slack_to = t->vdso_start + t->vdso_bytes;
	}
	int r = mem_know(&s, t, err);
	if (r >= 0)
		r = image_pages_create(d->dir, IMAGE_PAGEMAP, (uint64_t)t->inner_pid, &s.writer, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < t->vmas.n && r >= 0; i++) {
		if (!t->vmas.v[i].dump_pages)
			continue;
		s.huge.n = 0;
		r = mem_find_vma(&s, pagemap, &t->vmas.v[i], err);
		if (r >= 0 && mem_note_huge(&s, &t->vmas.v[i]) < 0)
			r = error_memory(err);
	}
	if (r >= 0)
		r = mem_store_all(&s, err);
	if (r >= 0)
		r = mem_link_family(&s, t, err);
	if (s.is_head) {
		s.known->head = t;
		s.known->pages_id = image_pages_written_id(s.writer);
	}
	d->stats.pages_written += image_pages_written(s.writer);
	return mem_store_end(&s, r, err);
}

/* The parts of a shared object that exist, as a file shows them. */
static int mem_find_file(struct mem_store *s)
{
	int r = 0;
	for (off_t at = 0; r >= 0;) {
		off_t data = lseek(s->mem, at, SEEK_DATA);
		if (data < 0 || (uint64_t)data >= s->limit)
			break;
		off_t hole = lseek(s->mem, data, SEEK_HOLE);
		uint64_t end = align_up(MIN((uint64_t)hole, s->limit), IMAGE_PAGE_BYTES);
		r = mem_found(s, &(struct mem_range){.start = align_down((uint64_t)data, IMAGE_PAGE_BYTES),
						     .end = end});
		at = hole;
	}
	return r;
}

/* The same through windows, one behind the other; each is left where it ends, so that no piece lies in two. */
static int mem_find_windows(struct mem_store *s)
{
	int r = 0;
	for (uint64_t at = 0, end; at < s->limit && r >= 0; at = end) {
		const struct snap_window *w = mem_window(s->windows, at);
		if (!w)
			return -ENXIO;
		end = MIN(s->limit, w->offset + w->bytes);
		for (uint64_t from = at, to; from < end && r >= 0; from = to) {
			const uint8_t *there = w->there;
			size_t first = (from - w->offset) / IMAGE_PAGE_BYTES;
			for (to = from + IMAGE_PAGE_BYTES;
			     to < end && there &&
			     (there[(to - w->offset) / IMAGE_PAGE_BYTES] & 1) == (there[first] & 1);)
				to += IMAGE_PAGE_BYTES;
			if (!there)
				to = end;
			if (!there || there[first] & 1)
				r = mem_found(s, &(struct mem_range){.start = from, .end = to});
		}
	}
	return r;
}

int mem_dump_shmem(struct mem_dump *d, const struct snap_shmem *shmem, struct ferry_error *err)
{
	const char *what = shmem->path ? shmem->path : "shared memory of a task";
	_cleanup_close_ int fd = shmem->path ? fd_open(AT_FDCWD, shmem->path, O_RDONLY, 0) : -1;
	if (shmem->path && fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening shared memory at '%s'",
				   shmem->path);
	struct mem_store s = {.d = d,
			      .mem = fd,
			      .is_file = true,
			      .windows = shmem->path ? NULL : shmem->windows,
			      .limit = shmem->path ? shmem->bytes : align_up(shmem->bytes, IMAGE_PAGE_BYTES),
			      .what = what,
			      .sparse = true};
	int r = image_pages_create(d->dir, IMAGE_SHMEM_PAGEMAP, shmem->shmid, &s.writer, err);
	if (r < 0)
		return r;
	d->stats.shmem_scanned += shmem->bytes / IMAGE_PAGE_BYTES;
	r = shmem->path ? mem_find_file(&s) : mem_find_windows(&s);
	if (r < 0)
		error_errno(err, r == -ENOMEM ? FERRY_ERROR_NO_MEMORY : FERRY_ERROR_SYSTEM, -r,
			    "finding the pages of %s", what);
	if (r >= 0)
		r = mem_store_all(&s, err);
	d->stats.shmem_written += image_pages_written(s.writer);
	return mem_store_end(&s, r, err);
}
