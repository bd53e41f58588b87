/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns storing memory of frozen tasks. Private memory is read by process_vm_readv(2); what the task itself may not read, or has in
 * common with others, through /proc/PID/mem: process_vm_readv(2) pins pages, which gives the task a copy of its own of each that was
 * to be copied on write only (since Linux 5.19). Shared anonymous memory is read through /proc/PID/map_files, hole by hole, so that
 * reading allocates nothing.
 *
 * What a tree that runs on wrote since the last round is only read while it stands, and stored when it runs: storing takes twice as long.
 *
 * Pages of zeroes take no space in anonymous memory; what an ancestor, or the round before, has stored is not stored again. A block is read, hashed and
 * written while it is in the cache; several threads do that with blocks of their own, because a copy is bound by the processor and
 * not by the memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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
#include "base/progress.h"
#include "base/vec.h"
#include "image/coverage.h"
#include "image/dir.h"
#include "image/pages.h"
#include "kernel/syscalls.h"
#include "mem/idle.h"
#include "mem/mem.h"
#include "mem/older.h"
#include "model/record.h"
#include "model/vma-status.h"

enum {
	MEM_BLOCK_BYTES = 256 << 10,
	MEM_BLOCK_PAGES = MEM_BLOCK_BYTES / (int)IMAGE_PAGE_BYTES,
	MEM_LANE_BYTES = 2 * MEM_BLOCK_BYTES,
	MEM_ALONE_BYTES = 4 << 20, /* less is not worth a second thread */
	MEM_ROOM_BYTES = 64 << 20, /* kept until the tree runs */
	MEM_ROOM_READY = 8 << 20,  /* of these, what is there before the tree stands */
	MEM_LATE_TASKS = 64,
	MEM_TASKS_EACH = 16,  /* small ones that a thread stores in one go */
	MEM_TASKS_LEAST = 32, /* fewer are not worth a second thread */
};

/* A run of pages to store, at most a block. */
struct mem_piece {
	uint64_t address, bytes;
	uint32_t flags;
	bool elsewhere; /* the bytes are not read */
	bool sparse;    /* zeroes mean absent */
};

/* Pieces that are read, and stored, together. */
struct mem_block {
	size_t first, n;
	uint64_t bytes; /* to read */
	size_t n_runs;  /* that may come of it, at most MEM_BLOCK_PAGES */
	bool common;    /* of mappings that others have pages of, too */
	uint64_t kept;  /* where its bytes are among those that were kept */
};

/* What a thread works with. */
struct mem_lane {
	char *buffer; /* MEM_BLOCK_BYTES */
	char *older;  /* as many, of the round before */
	struct image_run runs[MEM_BLOCK_PAGES];
	struct iovec iov[MEM_BLOCK_PAGES];
	size_t n;
	uint64_t n_unread;
	struct ferry_error err;
};

struct mem_lanes {
	struct mem_lane lane[LANES_MAX];
	pthread_mutex_t lock; /* of the snapshot's arena */
};

/* One address space, or one shared object, on its way into the image. */
struct mem_store {
	struct mem_dump *d;
	unsigned lane;                /* the first that it may use */
	bool beside;                  /* and the only one: others are stored at the same time */
	const struct snap_task *task; /* whose address space it is */
	struct image_pages_writer *writer;
	int mem; /* /proc/PID/mem, or the shared object */
	bool is_file;
	const struct snap_window *windows; /* of a shared object that cannot be opened; NULL */
	pid_t pid;                         /* of an address space */
	uint64_t limit;                    /* of a shared object: its size; a last page goes on with zeroes */
	int pagemap;                       /* of an address space */
	const char *what;                  /* what is read, for messages */
	uint64_t slack_from, slack_to;     /* addresses whose bytes are ours, stored as zeroes */
	VEC(struct mem_piece) pieces;
	VEC(struct mem_block) blocks;
	uint64_t bytes;
	struct mem_known *known; /* of an address space; NULL: nothing is in another's, nor will be */
	bool is_head;            /* nothing is elsewhere: known grows with what is stored */
	size_t known_at;
	const struct image_covered *past; /* what the round before has; NULL: nothing */
	size_t past_at;
	struct mem_older *older; /* what it had there; NULL: nothing is compared */
	mem_runs left;           /* of an address space: what is only named */
	const char *kept; /* its bytes, which were read before; NULL: they are read when they are stored */
	/* Of the mapping being looked at. */
	mem_runs huge;
	bool leave;
	uint64_t looked, end; /* how far what changed in it is known, and its end */
	uint32_t flags;
	bool sparse, common, ask_common;
};

static int mem_add_piece(struct mem_store *s, const struct mem_piece *add)
{
	struct mem_block *block = s->blocks.n ? &s->blocks.v[s->blocks.n - 1] : NULL;
	bool here = !add->elsewhere;
	uint64_t bytes = here ? add->bytes : 0;
	size_t n_runs = here ? add->bytes / IMAGE_PAGE_BYTES : 1;
	if (!block || block->common != s->common || block->bytes + bytes > MEM_BLOCK_BYTES ||
	    block->n_runs + n_runs > MEM_BLOCK_PAGES)
		block = vec_push(&s->blocks);
	struct mem_piece *piece = block ? vec_push(&s->pieces) : NULL;
	if (!piece)
		return -ENOMEM;
	*piece = *add;
	if (!block->n++)
		block->first = s->pieces.n - 1;
	block->common = s->common;
	block->bytes += bytes;
	block->n_runs += n_runs;
	s->bytes += bytes;
	return 0;
}

static int mem_add_elsewhere(struct mem_store *s, uint64_t start, uint64_t end)
{
	return mem_add_piece(s, &(struct mem_piece){start, end - start, IMAGE_PE_PARENT, true, false});
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

/* Only named. */
static int mem_leave(struct mem_store *s, uint64_t start, uint64_t end)
{
	int r = mem_runs_add(&s->left, start, end);
	return r < 0 ? r
		     : mem_add_piece(s, &(struct mem_piece){start, end - start, IMAGE_PE_LAZY, true, false});
}

static int mem_found(void *context, const struct mem_range *range)
{
	struct mem_store *s = context;
	int r = range->huge ? mem_runs_add(&s->huge, range->start, range->end) : 0;
	if (s->leave)
		return r < 0 ? r : mem_leave(s, range->start, range->end);
	for (uint64_t at = range->start, end; at < range->end && r >= 0; at = end) {
		if (mem_is_elsewhere(s, at, range->end, &end)) {
			r = mem_add_elsewhere(s, at, end);
			continue;
		}
		end = MIN(end, at + MEM_BLOCK_BYTES);
		if (s->ask_common)
			s->common = mem_is_common(s->pagemap, at, end);
		r = mem_add_piece(s, &(struct mem_piece){at, end - at, s->flags, false, s->sparse});
	}
	return r;
}

/* Pages that did not change: those that the round before has are there, the others are nowhere. Calls come in ascending order. */
static int mem_unchanged(struct mem_store *s, uint64_t start, uint64_t end)
{
	const struct image_covered *past = s->past;
	int r = 0;
	if (start >= end)
		return 0;
	while (past && s->past_at < past->n && past->v[s->past_at].end <= start)
		s->past_at++;
	for (size_t i = s->past_at; past && i < past->n && past->v[i].start < end && r >= 0; i++)
		r = mem_add_elsewhere(s, MAX(past->v[i].start, start), MIN(past->v[i].end, end));
	return r;
}

static int mem_changed(void *context, const struct mem_range *range)
{
	struct mem_store *s = context;
	if (range->start < s->looked || range->end <= range->start || range->end > s->end)
		return -EINVAL;
	int r = mem_unchanged(s, s->looked, range->same ? range->end : range->start);
	s->looked = range->end;
	if (r >= 0 && range->same && range->huge)
		r = mem_runs_add(&s->huge, range->start, range->end);
	return r < 0 || range->gone || range->same ? r : mem_found(s, range);
}

/* A run without bytes. */
static void mem_refer(struct mem_lane *lane, const struct mem_piece *piece)
{
	lane->iov[lane->n] = (struct iovec){0};
	lane->runs[lane->n++] = (struct image_run){
		.vaddr = piece->address, .nr_pages = piece->bytes / IMAGE_PAGE_BYTES, .flags = piece->flags};
}

static void mem_split_plain(struct mem_lane *lane, const struct mem_piece *piece, const char *bytes)
{
	const struct image_run run = {
		.vaddr = piece->address, .nr_pages = piece->bytes / IMAGE_PAGE_BYTES, .flags = piece->flags};
	lane->n += image_pages_split(&run, piece->sparse, bytes, lane->runs + lane->n, lane->iov + lane->n);
}

/* What of a piece goes into the image: pages that are as they were in the round before need not. */
static int mem_split(const struct mem_store *s, struct mem_lane *lane, const struct mem_piece *piece,
		     const char *bytes)
{
	bool same[MEM_BLOCK_PAGES];
	size_t n = piece->bytes / IMAGE_PAGE_BYTES;
	if (!s->older) {
		mem_split_plain(lane, piece, bytes);
		return 0;
	}
	int r = mem_older_compare(s->older, piece->address, n, bytes, lane->older, same, &lane->err);
	for (size_t i = 0, end; i < n && r >= 0; i = end) {
		for (end = i + 1; end < n && same[end] == same[i];)
			end++;
		struct mem_piece part = *piece;
		part.address += i * IMAGE_PAGE_BYTES;
		part.bytes = (end - i) * IMAGE_PAGE_BYTES;
		part.flags = same[i] ? IMAGE_PE_PARENT : piece->flags;
		if (same[i])
			mem_refer(lane, &part);
		else
			mem_split_plain(lane, &part, bytes + i * IMAGE_PAGE_BYTES);
	}
	return r;
}

/* Many runs in one call, with one copy. What the task itself may not read ends it early. Returns the bytes that are there. */
static uint64_t mem_read_many(const struct mem_store *s, const struct mem_block *block, char *to)
{
	struct iovec ours = {to, block->bytes}, theirs[MEM_BLOCK_PAGES];
	if (s->is_file || block->common || !block->bytes)
		return 0;
	for (size_t i = 0; i < block->n; i++) {
		const struct mem_piece *piece = &s->pieces.v[block->first + i];
		bool here = !piece->elsewhere;
		theirs[i] = (struct iovec){(void *)(uintptr_t)piece->address, here ? piece->bytes : 0};
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

/* Page by page; what is gone is left out. */
static void mem_read_rest(const struct mem_store *s, struct mem_lane *lane, const struct mem_piece *piece,
			  char *to)
{
	for (uint64_t at = 0; at < piece->bytes; at += IMAGE_PAGE_BYTES) {
		struct mem_piece page = *piece;
		page.address += at;
		page.bytes = IMAGE_PAGE_BYTES;
		if (mem_read_piece(s, &page, to + at) >= 0)
			mem_split_plain(lane, &page, to + at);
		else
			lane->n_unread++;
	}
}

/* there: its bytes are at to already. No message. */
static int mem_fetch_piece(const struct mem_store *s, const struct mem_piece *piece, bool there, char *to)
{
	uint64_t at = piece->address;
	int r = there ? 0 : mem_read_piece(s, piece, to);
	if (r >= 0 && s->slack_from >= at && s->slack_to <= at + piece->bytes)
		memset(to + (s->slack_from - at), 0, s->slack_to - s->slack_from);
	return r;
}

static int mem_unread(const struct mem_store *s, struct mem_lane *lane, const struct mem_piece *piece, int r)
{
	return error_errno(&lane->err, FERRY_ERROR_SYSTEM, -r, "reading '%s' at %llx", s->what,
			   (unsigned long long)piece->address);
}

static int mem_read_fault(const struct mem_store *s, struct mem_lane *lane)
{
	return fault_hit(s->d->fault, FAULT_PAGES_READ) ? error_set(&lane->err, FERRY_ERROR_FAULT, EIO,
								    "reading '%s': fault injected", s->what)
							: 0;
}

static int mem_read(struct mem_store *s, struct mem_lane *lane, const struct mem_block *block)
{
	char *to = lane->buffer;
	uint64_t there = mem_read_many(s, block, to);
	int r = 0;
	lane->n = 0;
	for (size_t i = block->first; i < block->first + block->n && r >= 0; i++) {
		const struct mem_piece *piece = &s->pieces.v[i];
		if (piece->elsewhere) {
			mem_refer(lane, piece);
			continue;
		}
		r = mem_read_fault(s, lane);
		if (r < 0)
			return r;
		r = mem_fetch_piece(s, piece, (uint64_t)(to - lane->buffer) + piece->bytes <= there, to);
		if (r < 0 && !s->d->running)
			return mem_unread(s, lane, piece, r);
		if (r < 0)
			mem_read_rest(s, lane, piece, to);
		r = r < 0 ? 0 : mem_split(s, lane, piece, to);
		to += piece->bytes;
	}
	return r;
}

/* Only read, into what is kept. */
static int mem_keep_block(void *context, struct lanes *l unused, unsigned number, uint64_t index)
{
	struct mem_store *s = context;
	struct mem_lane *lane = &s->d->lanes->lane[s->lane + number];
	const struct mem_block *block = &s->blocks.v[index];
	char *begin = s->d->room + block->kept, *to = begin;
	uint64_t there = mem_read_many(s, block, to);
	int r = mem_read_fault(s, lane);
	for (size_t i = block->first; i < block->first + block->n && r >= 0; i++) {
		const struct mem_piece *piece = &s->pieces.v[i];
		if (piece->elsewhere)
			continue;
		r = mem_fetch_piece(s, piece, (uint64_t)(to - begin) + piece->bytes <= there, to);
		if (r < 0)
			return mem_unread(s, lane, piece, r);
		to += piece->bytes;
	}
	return r;
}

/* The same as mem_read() with what was kept. */
static int mem_split_kept(const struct mem_store *s, struct mem_lane *lane, const struct mem_block *block)
{
	const char *from = s->kept + block->kept;
	int r = 0;
	lane->n = 0;
	for (size_t i = block->first; i < block->first + block->n && r >= 0; i++) {
		const struct mem_piece *piece = &s->pieces.v[i];
		if (piece->elsewhere) {
			mem_refer(lane, piece);
			continue;
		}
		r = mem_split(s, lane, piece, from);
		from += piece->bytes;
	}
	return r;
}

/* What the family of a head can refer to. */
static int mem_note_known(struct mem_store *s, const struct image_run *runs, size_t n)
{
	int r = 0;
	for (size_t i = 0; s->known && s->is_head && i < n && r >= 0; i++)
		r = mem_runs_add(&s->known->ranges, runs[i].vaddr,
				 runs[i].vaddr + runs[i].nr_pages * IMAGE_PAGE_BYTES);
	return r;
}

/* Read side by side, enter into the pagemap one after the other, write side by side. */
static int mem_store_block(void *context, struct lanes *l, unsigned number, uint64_t index)
{
	struct mem_store *s = context;
	struct mem_lane *lane = &s->d->lanes->lane[s->lane + number];
	const struct mem_block *block = &s->blocks.v[index];
	uint64_t offset = 0;
	int r = s->kept ? mem_split_kept(s, lane, block) : mem_read(s, lane, block);
	if (r >= 0)
		r = lanes_turn(l, index);
	if (r >= 0 && lane->n)
		r = image_pages_reserve(s->writer, lane->runs, lane->iov, lane->n, &offset, &lane->err);
	if (r >= 0 && mem_note_known(s, lane->runs, lane->n) < 0)
		r = error_memory(&lane->err);
	if (r < 0)
		return r;
	progress_add(s->d->progress, block->bytes);
	lanes_next(l, index);
	return lane->n ? image_pages_store(s->writer, offset, lane->iov, lane->n, &lane->err) : 0;
}

static int mem_make_lanes(struct mem_dump *d)
{
	if (d->lanes)
		return 0;
	struct mem_lanes *lanes = calloc(1, sizeof(*lanes));
	char *buffers = lanes ? mmap(NULL, (size_t)LANES_MAX * MEM_LANE_BYTES, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
			      : MAP_FAILED;
	if (buffers == MAP_FAILED) {
		free(lanes);
		return -ENOMEM;
	}
	for (size_t i = 0; i < LANES_MAX; i++) {
		lanes->lane[i].buffer = buffers + i * MEM_LANE_BYTES;
		lanes->lane[i].older = lanes->lane[i].buffer + MEM_BLOCK_BYTES;
	}
	pthread_mutex_init(&lanes->lock, NULL);
	d->lanes = lanes;
	return 0;
}

static void mem_count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Whether the tree runs, for lanes_run_beside(). */
static bool mem_left_to_us(void *running)
{
	return mem_idle(running);
}

/* Everything that was found, block by block. */
static int mem_run(struct mem_store *s, lanes_piece *piece, struct ferry_error *err)
{
	int r = mem_make_lanes(s->d);
	if (r < 0)
		return error_memory(err);
	unsigned n = s->beside || s->bytes < MEM_ALONE_BYTES ? 1 : lanes_wanted();
	struct mem_lane *lanes = s->d->lanes->lane + s->lane;
	for (unsigned i = 0; i < n; i++)
		lanes[i].err = (struct ferry_error)FERRY_ERROR_INIT;
	if (n > 1 && s->d->running)
		r = lanes_run_beside(s->blocks.n, piece, s, mem_left_to_us, s->d->running);
	else
		r = lanes_run(n, s->blocks.n, piece, s);
	for (unsigned i = 0; i < n; i++) {
		mem_count(&s->d->stats.pages_unread, lanes[i].n_unread);
		lanes[i].n_unread = 0;
		if (r < 0)
			error_pass(err, &lanes[i].err);
	}
	return r;
}

static int mem_store_all(struct mem_store *s, struct ferry_error *err)
{
	return mem_run(s, mem_store_block, err);
}

/* Close, and let go of what was found. */
static int mem_store_end(struct mem_store *s, int r, struct ferry_error *err)
{
	int closed = image_pages_close(s->writer, r < 0 ? NULL : err);
	vec_release(&s->pieces);
	vec_release(&s->blocks);
	vec_release(&s->huge);
	vec_release(&s->left);
	mem_older_free(s->older);
	return r < 0 ? r : closed;
}

/* What was read while the tasks stood, and is stored later. */
struct mem_late {
	struct mem_late *next;
	struct mem_store s;
	char what[32];
};

void mem_dump_end(struct mem_dump *d)
{
	if (d->lanes) {
		munmap(d->lanes->lane[0].buffer, (size_t)LANES_MAX * MEM_LANE_BYTES);
		pthread_mutex_destroy(&d->lanes->lock);
	}
	free(d->lanes);
	d->lanes = NULL;
	while (d->late) {
		struct mem_late *late = d->late;
		d->late = late->next;
		(void)mem_store_end(&late->s, -ECANCELED, NULL);
		free(late);
	}
	if (d->room)
		munmap(d->room, MEM_ROOM_BYTES);
	d->room = NULL;
	vec_foreach(left, &d->left)
		vec_release(&left->ranges);
	vec_release(&d->left);
	for (size_t i = 0; d->known && i < d->snap->tasks.n; i++)
		vec_release(&d->known[i].ranges);
	free(d->known);
	d->known = NULL;
}

/* 1: everything of the mapping that goes into the image was found. 0: nothing of it, since nobody knows what changed. */
static int mem_find_changed(struct mem_store *s, const struct snap_vma *vma)
{
	const struct mem_past *past = s->d->past;
	s->looked = vma->entry->start;
	s->end = vma->entry->end;
	int r = past && past->changed ? past->changed(past->context, s->task, vma, mem_changed, s) : 0;
	if (r <= 0)
		return r;
	r = mem_unchanged(s, s->looked, s->end);
	return r < 0 ? r : 1;
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
	s->ask_common = snap->ask_common;
	s->flags = s->sparse && !(vma->flags & MAP_LOCKED) && !s->d->leaves ? IMAGE_PE_LAZY : 0;
	s->leave = s->d->leaves && s->task->may_come_late && mem_may_come_late(vma) && !whole;
	mem_count(&s->d->stats.pages_scanned, (vma->end - vma->start) / IMAGE_PAGE_BYTES);
	/* Pages of the kernel's own, of the vdso or an AIO ring, are no pages of the task's: they are named as a whole. */
	int r = whole ? mem_found(s, &(struct mem_range){.start = vma->start, .end = vma->end})
		      : mem_find_changed(s, snap);
	if (!whole && !r)
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
	pthread_mutex_lock(&s->d->lanes->lock);
	FerryVmaEntry *extra = snapshot_vma_extra(s->d->snap, vma);
	uint64_t *ranges = arena_copy(&s->d->snap->arena, s->huge.v, s->huge.n * sizeof(*s->huge.v));
	pthread_mutex_unlock(&s->d->lanes->lock);
	if (!extra || !ranges)
		return -ENOMEM;
	extra->huge = ranges;
	extra->n_huge = s->huge.n;
	return 0;
}

/* What a task that runs has in common with others may be over at any instant. */
static int mem_make_known(struct mem_dump *d)
{
	if (!d->known && !d->running && !d->leaves)
		d->known = calloc(d->snap->tasks.n, sizeof(*d->known));
	return d->known || d->running || d->leaves ? 0 : -ENOMEM;
}

/* Whether a task refers to an ancestor's pages, or others may refer to its own. */
static int mem_know(struct mem_store *s, struct snap_task *t, struct ferry_error *err)
{
	struct mem_dump *d = s->d;
	const struct snap_task *first = d->snap->tasks.v;
	s->past =
		d->past ? image_coverage_find(d->past->covered, IMAGE_PAGEMAP, (uint64_t)t->inner_pid) : NULL;
	if (mem_make_known(d) < 0)
		return error_memory(err);
	if (!d->known)
		return 0;
	s->known = &d->known[t - first];
	/* References of one pagemap lead to one other: of the round before, or of an ancestor. */
	if (!s->past && t->parent && mem_find_known(t, &d->known[t->parent->memory - first], s->known) < 0)
		return error_memory(err);
	s->is_head = !s->known->head;
	if (!s->is_head)
		record_set(t->mm_extra, pages_of, (uint32_t)s->known->head->inner_pid);
	return 0;
}

int mem_dump_ready(struct mem_dump *d)
{
	void *room = mmap(NULL, MEM_ROOM_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return -ENOMEM;
	d->room = room;
	(void)madvise(room, MEM_ROOM_BYTES, MADV_HUGEPAGE);
	memset(room, 0, MEM_ROOM_READY);
	return mem_make_lanes(d);
}

static bool mem_has_heirs(const struct mem_store *s)
{
	vec_foreach(t, &s->d->snap->tasks)
		if (t->parent && t->parent->memory == s->task && t->mm_extra->n_inherited)
			return true;
	return false;
}

/*
 * Whether a task's pages are kept for now. Not those that others may refer to: which these are is known when they are stored. Nor those of
 * who has nothing in an earlier round, which are many. Each keeps two descriptors.
 */
static bool mem_may_keep(const struct mem_store *s)
{
	const struct mem_dump *d = s->d;
	return d->room && s->past && s->bytes <= MEM_ROOM_BYTES - d->room_used &&
	       d->n_late < MEM_LATE_TASKS && !mem_has_heirs(s);
}

static int mem_keep(struct mem_store *s, struct ferry_error *err)
{
	struct mem_dump *d = s->d;
	struct mem_late *late = calloc(1, sizeof(*late));
	if (!late)
		return error_memory(err);
	vec_foreach(block, &s->blocks) {
		block->kept = d->room_used;
		d->room_used += block->bytes;
	}
	int r = mem_run(s, mem_keep_block, err);
	if (r < 0) {
		free(late);
		return r;
	}
	late->s = *s;
	snprintf(late->what, sizeof(late->what), "%s", s->what);
	late->s.what = late->what;
	late->s.kept = d->room;
	late->s.mem = late->s.pagemap = -1;
	late->next = d->late;
	d->late = late;
	d->n_late++;
	return 0;
}

int mem_dump_late(struct mem_dump *d, struct ferry_error *err)
{
	int r = 0;
	for (struct mem_late *late = d->late; late && r >= 0; late = d->late) {
		d->late = late->next;
		r = mem_store_all(&late->s, err);
		d->stats.pages_written += image_pages_written(late->s.writer);
		r = mem_store_end(&late->s, r, err);
		free(late);
	}
	return r;
}

static int mem_note_left(struct mem_dump *d, const struct snap_task *t, mem_runs *ranges)
{
	struct mem_left *left = vec_push(&d->left);
	if (!left)
		return -ENOMEM;
	*left = (struct mem_left){.id = (uint64_t)t->inner_pid, .pid = t->look, .ranges = *ranges};
	*ranges = (mem_runs){0};
	return 0;
}

bool mem_may_come_late(const VmaEntry *vma)
{
	return vma->status & VMA_STATUS_ANON_PRIVATE &&
	       !(vma->flags & (MAP_HUGETLB | MAP_DROPPABLE | MAP_LOCKED)) &&
	       !(vma->madv >> MADV_WIPEONFORK & 1);
}

static int mem_dump_one(struct mem_dump *d, struct snap_task *t, unsigned lane, bool beside,
			struct ferry_error *err)
{
	if (t->memory != t)
		return 0;
	if (mem_make_lanes(d) < 0)
		return error_memory(err);
	_cleanup_close_ int mem = fd_openf(O_RDONLY, "/proc/%d/mem", t->look);
	_cleanup_close_ int pagemap = fd_openf(O_RDONLY, "/proc/%d/pagemap", t->look);
	if (mem < 0 || pagemap < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, mem < 0 ? -mem : -pagemap,
				   "opening the memory of pid %d", t->pid);
	char what[32];
	snprintf(what, sizeof(what), "/proc/%d/mem", t->look);
	struct mem_store s = {.d = d,
			      .lane = lane,
			      .beside = beside,
			      .task = t,
			      .mem = mem,
			      .pagemap = pagemap,
			      .pid = t->look,
			      .what = what};
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
	if (s.known && s.is_head)
		s.known->head = t;
	if (r >= 0 && mem_may_keep(&s)) {
		r = mem_keep(&s, err);
		return r < 0 ? mem_store_end(&s, r, err) : 0;
	}
	if (r >= 0)
		r = mem_store_all(&s, err);
	mem_count(&d->stats.pages_written, image_pages_written(s.writer));
	if (r >= 0 && s.left.n && mem_note_left(d, t, &s.left) < 0)
		r = error_memory(err);
	return mem_store_end(&s, r, err);
}

int mem_dump_task(struct mem_dump *d, struct snap_task *t, struct ferry_error *err)
{
	return mem_dump_one(d, t, 0, false, err);
}

/* Tasks that are stored side by side. */
struct mem_batch {
	struct mem_dump *d;
	size_t first, n;
	struct ferry_error errs[LANES_MAX];
};

static int mem_dump_some(void *context, struct lanes *l unused, unsigned lane, uint64_t number)
{
	struct mem_batch *b = context;
	size_t at = (size_t)number * MEM_TASKS_EACH, end = MIN(at + MEM_TASKS_EACH, b->n);
	int r = 0;
	for (; at < end && r >= 0; at++)
		r = mem_dump_one(b->d, &b->d->snap->tasks.v[b->first + at], lane, true, &b->errs[lane]);
	return r;
}

/* One that would be stored by one thread, and refers to nobody from first on. */
static bool mem_is_for_batch(const struct mem_dump *d, const struct snap_task *t, size_t first)
{
	const struct proc_status *st = &t->threads.v[0].status;
	const struct snap_task *maker = t->parent ? t->parent->memory : NULL;
	return t->look == t->pid && st->vm_rss_bytes + st->vm_swap_bytes < MEM_ALONE_BYTES &&
	       (!maker || (size_t)(maker - d->snap->tasks.v) < first);
}

/* How many from first on may be stored side by side. Trackers, and who takes pages one after the other, know of one task at a time. */
static size_t mem_batch_size(const struct mem_dump *d, size_t first)
{
	size_t n = 0;
	if (d->past || d->leaves || d->running || !image_dir_takes_several(d->dir))
		return 0;
	while (first + n < d->snap->tasks.n && mem_is_for_batch(d, &d->snap->tasks.v[first + n], first))
		n++;
	return n < MEM_TASKS_LEAST ? 0 : n;
}

static int mem_dump_batch(struct mem_dump *d, size_t first, size_t n, struct ferry_error *err)
{
	struct mem_batch b = {.d = d, .first = first, .n = n};
	for (size_t i = 0; i < LANES_MAX; i++)
		b.errs[i] = (struct ferry_error)FERRY_ERROR_INIT;
	if (mem_make_lanes(d) < 0 || mem_make_known(d) < 0)
		return error_memory(err);
	int r = lanes_run(lanes_wanted(), (n + MEM_TASKS_EACH - 1) / MEM_TASKS_EACH, mem_dump_some, &b);
	for (size_t i = 0; i < LANES_MAX && r < 0; i++)
		error_pass(err, &b.errs[i]);
	return r;
}

int mem_dump_tasks(struct mem_dump *d, struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0, n; i < d->snap->tasks.n && r >= 0; i += n ? n : 1) {
		n = mem_batch_size(d, i);
		r = n ? mem_dump_batch(d, i, n, err) : mem_dump_task(d, &d->snap->tasks.v[i], err);
	}
	return r;
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

/* Whether a page is there, as far as a window tells: all are when it does not. */
static bool mem_shows(const struct snap_window *w, uint64_t offset)
{
	return !w->there || w->there[(offset - w->offset) / IMAGE_PAGE_BYTES] & 1;
}

/* What a window shows of a part of it. */
static int mem_find_window(struct mem_store *s, const struct snap_window *w, uint64_t from, uint64_t end)
{
	int r = 0;
	for (uint64_t to = from; from < end && r >= 0; from = to) {
		bool there = mem_shows(w, from);
		do {
			to += IMAGE_PAGE_BYTES;
		} while (to < end && mem_shows(w, to) == there);
		if (there)
			r = mem_found(s, &(struct mem_range){.start = from, .end = to});
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
		r = mem_find_window(s, w, at, end);
	}
	return r;
}

static int mem_find_changed_shmem(struct mem_store *s, const struct snap_shmem *shmem)
{
	const struct mem_past *past = s->d->past;
	s->end = align_up(s->limit, IMAGE_PAGE_BYTES);
	s->past = past ? image_coverage_find(past->covered, IMAGE_SHMEM_PAGEMAP, shmem->shmid) : NULL;
	int r = past && past->changed_shmem ? past->changed_shmem(past->context, shmem, mem_changed, s) : 0;
	if (r <= 0)
		return r;
	r = mem_unchanged(s, s->looked, s->end);
	return r < 0 ? r : 1;
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
	int found = mem_find_changed_shmem(&s, shmem);
	if (!found && d->past && d->past->image)
		r = mem_older_open(d->past->image, IMAGE_SHMEM_PAGEMAP, shmem->shmid, &s.older, err);
	if (!found)
		found = shmem->path ? mem_find_file(&s) : mem_find_windows(&s);
	if (found < 0 && r >= 0)
		r = error_errno(err, found == -ENOMEM ? FERRY_ERROR_NO_MEMORY : FERRY_ERROR_SYSTEM, -found,
				"finding the pages of %s", what);
	if (r >= 0)
		r = mem_store_all(&s, err);
	d->stats.shmem_written += image_pages_written(s.writer);
	return mem_store_end(&s, r, err);
}
