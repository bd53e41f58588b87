/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the contexts of Linux AIO. A context is a ring of events that the kernel maps into the task ("/[aio]"); its
 * address is its id. A new ring begins at position 0 and the kernel keeps where it writes next to itself, so
 * requests that end at once (reads of /dev/null) bring it to where it was; those that stand for events nobody has
 * taken are left in the ring, because the kernel counts them, and get their contents from the image. Moving the
 * ring with mremap(2) moves the context.
 *
 * Requests in flight end by themselves while the tree is frozen. The kernel does not tell how many there are: the
 * dump waits until no ring moved for a while and, where files are open with O_DIRECT, no block device of theirs had
 * anything to do.
 *
 * Kernel interface: io_setup(2), io_submit(2), io_getevents(2), the ring of fs/aio.c (magic 0xa10a10a1), mremap(2)
 * of it (3.19); /sys/block/NAME/inflight (2.6.33).
 * Does not handle: requests that only an event ends (IOCB_CMD_POLL): no file of /proc and no call tells that a
 * context has requests in flight (fs/aio.c, looked at in 6.18), so they are not seen and never end after a restore;
 * a ring that a child inherited and that is no context of its own, which is refused.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/memory.h"
#include "image/pages.h"
#include "kernel/syscalls.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/vma-status.h"
#include "proc/lex.h"
#include "proc/read.h"

enum {
	AIO_MAGIC = 0xa10a10a1,
	AIO_BATCH = 64,      /* requests in one call */
	AIO_STILL_LOOKS = 5, /* so often in a row nothing moved */
	AIO_LOOK_NS = 2000000,
	AIO_RING_BYTES_MAX = 1 << 26,
};

/* The first words of a ring; io_event follow. */
struct aio_ring {
	uint32_t id; /* in the kernel's table: the new ring's own stays */
	uint32_t nr, head, tail;
	uint32_t magic, compat_features, incompat_features, header_length;
};

/* A ring that check has seen, to find another mapping of it. */
struct aio_seen {
	struct aio_seen *next;
	uint64_t ino, dev;
	pid_t pid;
};

static bool aio_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_AIO;
}

static int aio_refuse_inherited(pid_t pid, uint64_t start, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP,
		  "pid %d maps at %llx an AIO ring that is no context of its own: it inherited the mapping",
		  pid, (unsigned long long)start);
	error_hint(err, "a child can unmap it: the context stays with the process that made it");
	return -ENOTSUP;
}

static int aio_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	const struct proc_vma *vma = view->vma;
	struct aio_seen *seen = view->kind_data[KIND_aio];
	for (; seen; seen = seen->next)
		if (seen->ino == vma->ino && seen->dev == vma->dev)
			return aio_refuse_inherited(MAX(seen->pid, view->pid), vma->start, err);
	seen = arena_new(view->arena, struct aio_seen);
	if (!seen)
		return error_memory(err);
	*seen = (struct aio_seen){view->kind_data[KIND_aio], vma->ino, vma->dev, view->pid};
	view->kind_data[KIND_aio] = seen;
	return 0;
}

static int aio_read_ring(pid_t pid, uint64_t at, struct aio_ring *ret)
{
	struct iovec ours = {ret, sizeof(*ret)}, theirs = {(void *)(uintptr_t)at, sizeof(*ret)};
	ssize_t n = sys_process_vm_readv(pid, &ours, 1, &theirs, 1);
	return n == (ssize_t)sizeof(*ret) ? 0 : n < 0 ? (int)n : -EFAULT;
}

/* Events that a ring of so many bytes has room for. */
static uint32_t aio_entries(uint64_t bytes)
{
	return (uint32_t)((bytes - sizeof(struct aio_ring)) / sizeof(struct io_event));
}

static bool aio_ring_good(const struct aio_ring *ring, uint64_t bytes)
{
	return ring->magic == AIO_MAGIC && ring->header_length == sizeof(*ring) &&
	       ring->nr == aio_entries(bytes) && ring->head < ring->nr && ring->tail < ring->nr;
}

static int aio_collect_vma(struct collect *c, struct snap_task *t, const struct vma_view *view,
			   struct snap_vma *vma, struct ferry_error *err)
{
	VmaEntry *entry = vma->entry;
	uint64_t bytes = entry->end - entry->start;
	struct aio_ring ring;
	int r = aio_read_ring(t->look, entry->start, &ring);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading the AIO ring of pid %d at %llx",
				   t->pid, (unsigned long long)entry->start);
	if (view->vma->offset || bytes > AIO_RING_BYTES_MAX || !aio_ring_good(&ring, bytes))
		return error_set(
			err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP,
			"pid %d: what it maps at %llx is not a whole AIO ring, or its head was overwritten",
			t->pid, (unsigned long long)entry->start);
	AioRingEntry *aio = record_new(&c->snap->arena, AioRingEntry, aio_ring_entry);
	AioRingEntry **all = arena_array(&c->snap->arena, AioRingEntry *, t->mm->n_aios + 1);
	if (!aio || !all)
		return error_memory(err);
	aio->id = entry->start;
	aio->ring_len = (uint32_t)bytes;
	aio->nr_req = ring.nr / 2 - 1; /* what makes a ring of this size */
	if (t->mm->n_aios)
		memcpy(all, t->mm->aios, t->mm->n_aios * sizeof(*all));
	all[t->mm->n_aios++] = aio;
	t->mm->aios = all;
	entry->status = VMA_STATUS_AIO_RING;
	entry->flags |= MAP_SHARED;
	record_set(entry, fdflags, O_RDWR);
	vma->dump_pages = true;
	return 0;
}

/* A context answers under its address; a mapping that a child inherited does not. */
static void aio_ask_task(const struct snap_task *t, int proc_dir unused, struct script *s)
{
	for (size_t i = 0; i < t->mm->n_aios; i++)
		script_call(s, "asking an AIO context", SYS_io_getevents, t->mm->aios[i]->id, 0, 0, 0, 0)
			->check = BLOB_CHECK_NONE;
}

static int aio_collect_task(struct collect *c unused, struct snap_task *t, int proc_dir unused,
			    const struct answers *a, struct ferry_error *err)
{
	for (size_t i = 0; i < t->mm->n_aios; i++)
		if (a->calls[i].ret != 0)
			return aio_refuse_inherited(t->pid, t->mm->aios[i]->id, err);
	return 0;
}

/* -------------------------------------------------------------------------- requests in flight */

struct aio_still {
	uint32_t tails; /* sum over all rings */
	uint64_t disks; /* requests that block devices work on */
};

/* Requests in flight of the block device that /sys/dev/block or /sys/block shows there; -1: there is none. */
static int64_t aio_inflight(const char *path)
{
	uint64_t reads, writes;
	char line[64];
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	if (!f || !fgets(line, sizeof(line), f))
		return -1;
	struct lex l = lex_new(line, strlen(line));
	lex_blanks(&l);
	if (!lex_u64(&l, &reads) || !lex_skip_words(&l, 0) || !lex_u64(&l, &writes))
		return -1;
	return (int64_t)(reads + writes);
}

static uint64_t aio_inflight_anywhere(void)
{
	char path[320];
	uint64_t sum = 0;
	DIR *dir = opendir("/sys/block");
	for (struct dirent *d; dir && (d = readdir(dir));) {
		snprintf(path, sizeof(path), "/sys/block/%s/inflight", d->d_name);
		int64_t n = d->d_name[0] == '.' ? -1 : aio_inflight(path);
		sum += n > 0 ? (uint64_t)n : 0;
	}
	if (dir)
		closedir(dir);
	return sum;
}

/* Only what is open with O_DIRECT has requests that outlive io_submit(2) for long. */
static uint64_t aio_disks(const struct snapshot *s)
{
	uint64_t sum = 0;
	vec_foreach(file, &s->files) {
		char path[64];
		if (!file->entry->reg || !(file->entry->reg->flags & O_DIRECT))
			continue;
		bool block = S_ISBLK(file->mode);
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/inflight", major(file->dev),
			 minor(file->dev));
		int64_t n = block ? -1 : aio_inflight(path);
		if (n < 0)
			return aio_inflight_anywhere();
		sum += (uint64_t)n;
	}
	return sum;
}

static int aio_look(const struct snapshot *s, struct aio_still *ret, struct ferry_error *err)
{
	*ret = (struct aio_still){.disks = aio_disks(s)};
	vec_foreach(t, &s->tasks) {
		for (size_t i = 0; t->mm && i < t->mm->n_aios; i++) {
			struct aio_ring ring;
			int r = aio_read_ring(t->look, t->mm->aios[i]->id, &ring);
			if (r < 0)
				return error_errno(err, FERRY_ERROR_SYSTEM, -r,
						   "reading the AIO ring of pid %d", t->pid);
			ret->tails += ring.tail;
		}
	}
	return 0;
}

static bool aio_any(const struct snapshot *s)
{
	vec_foreach(t, &s->tasks) {
		if (t->mm && t->mm->n_aios)
			return true;
	}
	return false;
}

static int aio_collect_end(struct collect *c, struct ferry_error *err)
{
	const struct timespec pause = {.tv_nsec = AIO_LOOK_NS};
	struct aio_still before, now;
	uint64_t deadline = time_now_ns() + (uint64_t)c->options->timeout_ms * 1000000;
	if (!aio_any(c->snap))
		return 0;
	int r = aio_look(c->snap, &before, err);
	for (int still = 0; r >= 0 && still < AIO_STILL_LOOKS;) {
		if (time_now_ns() > deadline) {
			error_set(err, FERRY_ERROR_TIMEOUT, ETIMEDOUT,
				  "requests of Linux AIO may be in flight: a ring still moves, or a disk "
				  "is never idle");
			error_hint(err, "try again at a quieter moment, or with a larger --timeout");
			return -ETIMEDOUT;
		}
		nanosleep(&pause, NULL);
		r = aio_look(c->snap, &now, err);
		still = now.tails == before.tails && !now.disks ? still + 1 : 0;
		before = now;
	}
	return r;
}

/* -------------------------------------------------------------------------- restore */

static bool aio_owns_record(const VmaEntry *entry)
{
	return entry->status & VMA_STATUS_AIO_RING;
}

static const AioRingEntry *aio_entry(const struct plan_task *t, const VmaEntry *vma)
{
	for (size_t i = 0; i < t->mm->n_aios; i++)
		if (t->mm->aios[i]->id == vma->start)
			return t->mm->aios[i];
	return NULL;
}

static int aio_read_pages(struct reader *r, const struct plan_task *t, const VmaEntry *vma, char *to,
			  struct ferry_error *err)
{
	uint64_t pages;
	return image_memory_get(r->dir, IMAGE_PAGEMAP, (uint64_t)t->pid, vma->start, vma->end, to, &pages,
				err);
}

/* Requests that make a ring of so many bytes, the fewest: they count against fs.aio-max-nr. */
static uint32_t aio_requests(uint64_t bytes)
{
	uint64_t before = bytes - IMAGE_PAGE_BYTES;
	return before ? (uint32_t)(before / sizeof(struct io_event) / 2) - 1 : 1;
}

/* The kernel makes rings larger on machines with more processors. */
static int aio_try(uint32_t requests, uint64_t bytes, struct ferry_error *err)
{
	aio_context_t ctx = 0;
	if (syscall(SYS_io_setup, requests, &ctx) < 0) {
		int r = error_errno(err, FERRY_ERROR_LIMIT, errno, "making an AIO context for %u requests",
				    requests);
		error_hint(err, "raise fs.aio-max-nr (sysctl)");
		return r;
	}
	uint32_t nr = ((const struct aio_ring *)(uintptr_t)ctx)->nr;
	syscall(SYS_io_destroy, ctx);
	if (nr != aio_entries(bytes))
		return error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP,
				 "this machine makes AIO rings of %u events, the image has one of %u", nr,
				 aio_entries(bytes));
	return 0;
}

/* Places in the script's data. */
struct aio_script {
	struct script *s;
	uint64_t ctx, pointers, events;
};

/* n requests that end at once; take: with their events. */
static void aio_replay(const struct aio_script *a, uint32_t n, bool take)
{
	while (n) {
		uint32_t batch = MIN(n, (uint32_t)AIO_BATCH);
		struct blob_call *call = script_call(a->s, "bringing an AIO ring to its position",
						     SYS_io_submit, a->ctx, batch, a->pointers);
		call->data_mask = 1 << 0 | 1 << 2;
		call->load_mask = 1 << 0;
		call->check = BLOB_CHECK_EQUAL;
		call->expect = batch;
		n -= batch;
		if (!take)
			continue;
		call = script_call(a->s, "taking events of an AIO ring", SYS_io_getevents, a->ctx, batch,
				   batch, a->events, 0);
		call->data_mask = 1 << 0 | 1 << 3;
		call->load_mask = 1 << 0;
		call->check = BLOB_CHECK_EQUAL;
		call->expect = batch;
	}
}

/* The ring, anywhere but at its place, which has to be free when it is moved there. */
static void aio_make(const struct aio_script *a, const VmaEntry *vma, uint32_t requests, int null)
{
	struct script *s = a->s;
	struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)null};
	struct blob_call *call =
		script_call(s, "keeping the place of an AIO ring", SYS_mmap, vma->start,
			    vma->end - vma->start, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, (uint64_t)-1, 0);
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)vma->start;
	script_detail(s, vma->start);
	uint64_t at = script_put(s, &cb, sizeof(cb));
	for (unsigned i = 0; i < AIO_BATCH; i++)
		script_call(s, "naming a request", BLOB_OP_STORE, a->pointers + i * sizeof(uint64_t), at)
			->data_mask = 1 << 0 | 1 << 1;
	script_call(s, "making an AIO context", SYS_io_setup, requests, a->ctx)->data_mask = 1 << 1;
	script_detail(s, vma->start);
}

/* All but the ring's number in the kernel's table, which is the new one's. */
static void aio_place(const struct aio_script *a, const VmaEntry *vma, const char *ring)
{
	struct script *s = a->s;
	uint64_t bytes = vma->end - vma->start, contents = script_put(s, ring, bytes);
	struct blob_call *call = script_call(s, "placing an AIO ring", SYS_mremap, a->ctx, bytes, bytes,
					     MREMAP_MAYMOVE | MREMAP_FIXED, vma->start);
	call->data_mask = 1 << 0;
	call->load_mask = 1 << 0;
	call->check = BLOB_CHECK_EQUAL;
	call->expect = (int64_t)vma->start;
	script_detail(s, vma->start);
	uint64_t id = sizeof(((struct aio_ring *)NULL)->id);
	script_call(s, "filling an AIO ring", BLOB_OP_COPY, vma->start + id, contents + id, bytes - id)
		->data_mask = 1 << 1;
	if (vma->prot != (PROT_READ | PROT_WRITE))
		script_call(s, "protecting an AIO ring", SYS_mprotect, vma->start, bytes, vma->prot);
}

/* /dev/null, as the task numbers it. */
static int aio_null(struct plan *p, struct plan_task *t, struct ferry_error *err)
{
	int *source = p->kind_data[KIND_aio];
	if (!source) {
		int fd = plan_keep_source(p, fd_open(AT_FDCWD, "/dev/null", O_RDONLY, 0));
		if (fd < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening /dev/null");
		p->kind_data[KIND_aio] = source = arena_copy(&p->arena, &fd, sizeof(fd));
	}
	int number = source ? plan_temp_source(t, *source) : -ENOMEM;
	return number < 0 ? error_memory(err) : number;
}

static int aio_plan(struct plan *p, struct plan_task *t, const VmaEntry *vma, const char *contents,
		    struct ferry_error *err)
{
	struct script *s = &t->memory;
	struct aio_ring ring;
	memcpy(&ring, contents, sizeof(ring));
	uint64_t bytes = vma->end - vma->start;
	const AioRingEntry *entry = aio_entry(t, vma);
	if (!entry || entry->ring_len != bytes || !aio_ring_good(&ring, bytes))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pid %d: the AIO ring at %llx makes no sense", t->pid,
				 (unsigned long long)vma->start);
	uint32_t requests = aio_requests(bytes);
	int ret = aio_try(requests, bytes, err);
	int null = ret < 0 ? ret : aio_null(p, t, err);
	if (null < 0)
		return null;
	struct aio_script a = {
		.s = s,
		.ctx = script_put(s, NULL, sizeof(uint64_t)),
		.pointers = script_put(s, NULL, AIO_BATCH * sizeof(uint64_t)),
		.events = script_put(s, NULL, AIO_BATCH * sizeof(struct io_event)),
	};
	aio_make(&a, vma, requests, null);
	aio_replay(&a, ring.head, true);
	aio_replay(&a, (ring.tail + ring.nr - ring.head) % ring.nr, false);
	aio_place(&a, vma, contents);
	return 0;
}

static int aio_map(struct reader *r, struct plan_task *t, const VmaEntry *vma, struct vma_map *m,
		   struct ferry_error *err)
{
	uint64_t bytes = vma->end - vma->start;
	if (bytes < IMAGE_PAGE_BYTES || bytes > AIO_RING_BYTES_MAX)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "pid %d: an AIO ring of %llu bytes makes no sense", t->pid,
				 (unsigned long long)bytes);
	_cleanup_free_ char *contents = calloc(1, bytes);
	if (!contents)
		return error_memory(err);
	int ret = aio_read_pages(r, t, vma, contents, err);
	m->made = true;
	return ret < 0 ? ret : aio_plan(r->plan, t, vma, contents, err);
}

const struct kind_ops kind_aio = {
	.name = "aio",
	.what = "contexts of Linux AIO, with events not taken",
	.fd_type = -1,
	.image_file = -1,
	.owns_vma = aio_owns_vma,
	.check_vma = aio_check_vma,
	.collect_vma = aio_collect_vma,
	.ask_task = aio_ask_task,
	.collect_task = aio_collect_task,
	.collect_end = aio_collect_end,
	.owns_record = aio_owns_record,
	.map = aio_map,
};
