/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the inner consistency of an image: what one file says of another. Damage within a file is found by the
 * readers. Not checked: whether this machine could restore the image.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/memory.h"
#include "image/objects.h"
#include "image/pages.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/fs.pb-c.h"
#include "image/proto/memfd.pb-c.h"
#include "image/proto/mm.pb-c.h"
#include "image/proto/pipe-data.pb-c.h"
#include "image/proto/pstree.pb-c.h"
#include "image/proto/seccomp.pb-c.h"
#include "image/proto/sk-packet.pb-c.h"
#include "image/show.h"

enum {
	STATE_ALIVE = 1,
	STATE_STOPPED = 6,
	VMA_FILE = 1 << 6 | 1 << 7,
	VMA_ANON_SHARED = 1 << 8,
	VMA_SYSVIPC = 1 << 10,
	VMA_AIORING = 1 << 13,
	VMA_MEMFD = 1 << 14,
	VMA_GUARD = 1 << 16,
	PROTO_TCP = 6,
	TCP_STATE_CLOSE = 7,
	TCP_STATE_LISTEN = 10,
};

struct verify {
	struct image_dir *dir;
	FILE *out;
	struct ferry_error *err;
	size_t findings;
	struct image_messages files, tree;
	struct image_dir_file *list;
	size_t n_list;
	bool *page_file_used; /* for each of list */
	VEC(uint32_t) vm_ids; /* of the tasks so far */
};

/* Something that is wrong but does not keep us from looking further. */
static void finding(struct verify *v, const char *fmt, ...) printf_like(2, 3);
static void finding(struct verify *v, const char *fmt, ...)
{
	char text[400];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	v->findings++;
	fprintf(v->out, "%s\n", text);
	error_set(v->err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s", text);
}

/* A reader's error becomes a finding; only lack of memory and failing disks end the work. */
static int absorb(struct verify *v, int r, struct ferry_error *err)
{
	if (r >= 0)
		return 0;
	if (err->id != FERRY_ERROR_IMAGE_BAD && err->id != FERRY_ERROR_IMAGE_MISSING) {
		error_set(v->err, err->id, err->code, "%s", err->message);
		return r;
	}
	finding(v, "%s", err->message);
	return 0;
}

static int read_all(struct verify *v, enum image_kind kind, uint64_t id, struct image_messages *m)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	return absorb(v, image_messages_read(v->dir, kind, id, m, &err), &err);
}

static bool has(const struct verify *v, enum image_kind kind, uint64_t id)
{
	struct image_dir_file key = {kind, id, 0};
	for (size_t low = 0, high = v->n_list; low < high;) {
		size_t mid = (low + high) / 2;
		const struct image_dir_file *f = &v->list[mid];
		if (f->kind == key.kind && f->id == key.id)
			return true;
		if (f->kind < key.kind || (f->kind == key.kind && f->id < key.id))
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

static void need_file(struct verify *v, enum image_kind kind, uint64_t id, const char *why)
{
	if (has(v, kind, id))
		return;
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	finding(v, "%s is missing (%s)", name, why);
}

static void need_id(struct verify *v, uint32_t id, const char *what, enum image_kind kind, uint64_t whose)
{
	if (image_files_find(&v->files, id))
		return;
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, whose, name);
	finding(v, "%s: %s names file id %u, which is not in files.img", name, what, id);
}

/* ---- every file alone ---- */

static int verify_file(struct verify *v, const struct image_dir_file *file)
{
	const struct image_file_info *info = image_file_info(file->kind);
	_cleanup_messages_ struct image_messages m = {0};
	char name[IMAGE_NAME_MAX];
	image_file_name(file->kind, file->id, name);
	if (info->status == IMAGE_STATUS_PLUGIN) {
		finding(v, "%s was written by a plugin that ferry does not have", name);
		return 0;
	}
	if (info->layout == IMAGE_LAYOUT_RAW)
		return 0;
	size_t before = v->findings;
	int r = read_all(v, file->kind, file->id, &m);
	if (r < 0 || v->findings != before)
		return r;
	size_t chunks = info->payload == IMAGE_PAYLOAD_GHOST ? SIZE_MAX : 1;
	if (info->layout == IMAGE_LAYOUT_ONE && (!m.list.n || m.list.n > chunks))
		finding(v, "%s has %zu entries instead of one", name, m.list.n);
	if (info->layout == IMAGE_LAYOUT_PAGEMAP && !m.list.n)
		finding(v, "%s has no head", name);
	if (info->layout == IMAGE_LAYOUT_SEALED && m.list.n != 2)
		finding(v, "%s has %zu entries instead of two", name, m.list.n);
	return 0;
}

/* ---- memory ---- */

static void mark_page_file(struct verify *v, uint32_t pages_id, const char *by)
{
	for (size_t i = 0; i < v->n_list; i++) {
		if (v->list[i].kind != IMAGE_PAGES || v->list[i].id != pages_id)
			continue;
		if (v->page_file_used[i])
			finding(v, "pages-%u.img is named by %s and by another pagemap", pages_id, by);
		v->page_file_used[i] = true;
	}
}

static void run_in_mappings(struct verify *v, const struct image_run *run, const MmEntry *mm, uint64_t pid)
{
	uint64_t at = run->vaddr, end = run->vaddr + run->nr_pages * IMAGE_PAGE_BYTES;
	/* Mappings ascend, and runs may go over several that touch. */
	for (size_t i = 0; i < mm->n_vmas && at < end; i++)
		if (at >= mm->vmas[i]->start && at < mm->vmas[i]->end)
			at = mm->vmas[i]->end;
	if (at < end)
		finding(v, "pagemap-%" PRIu64 ".img: page 0x%" PRIx64 " lies in no mapping", pid, at);
}

/* What a pagemap refers to has to be there. */
static int verify_references(struct verify *v, enum image_kind kind, uint64_t id)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_image_memory_ struct image_memory *m = NULL;
	struct image_piece piece;
	int r = image_memory_open(v->dir, kind, id, &m, &err);
	while (r >= 0 && (r = image_memory_next(m, &piece, &err)) > 0)
		continue;
	return absorb(v, r, &err);
}

static int verify_pagemap(struct verify *v, enum image_kind kind, uint64_t id, const MmEntry *mm)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_pages_reader_ struct image_pages_reader *reader = NULL;
	char name[IMAGE_NAME_MAX];
	image_file_name(kind, id, name);
	int r = image_pages_open(v->dir, kind, id, &reader, &err);
	if (r < 0)
		return absorb(v, r, &err);
	mark_page_file(v, image_pages_id(reader), name);
	struct image_run run;
	bool parent = false;
	while ((r = image_pages_next(reader, &run, &err)) > 0) {
		parent |= run.flags & IMAGE_PE_PARENT;
		if (mm)
			run_in_mappings(v, &run, mm, id);
	}
	if (r < 0)
		return absorb(v, r, &err);
	return parent ? verify_references(v, kind, id) : 0;
}

static void verify_vma(struct verify *v, const VmaEntry *vma, uint32_t pid)
{
	if (vma->start % IMAGE_PAGE_BYTES || vma->end % IMAGE_PAGE_BYTES || vma->start >= vma->end)
		finding(v, "mm-%u.img: mapping 0x%" PRIx64 "-0x%" PRIx64 " cannot be", pid, vma->start,
			vma->end);
	if (vma->status & (VMA_FILE | VMA_MEMFD) && !(vma->status & (VMA_SYSVIPC | VMA_AIORING)) &&
	    !image_files_find(&v->files, (uint32_t)vma->shmid))
		finding(v,
			"mm-%u.img: mapping 0x%" PRIx64 " names file id %" PRIu64
			", which is not in files.img",
			pid, vma->start, vma->shmid);
	if (vma->status & VMA_ANON_SHARED && !(vma->status & (VMA_SYSVIPC | VMA_MEMFD)))
		need_file(v, IMAGE_SHMEM_PAGEMAP, vma->shmid, "a shared mapping needs it");
}

static int verify_mm(struct verify *v, uint32_t pid)
{
	_cleanup_messages_ struct image_messages m = {0};
	int r = read_all(v, IMAGE_MM, pid, &m);
	if (r < 0 || !m.list.n)
		return r;
	const MmEntry *mm = (const MmEntry *)m.list.v[0];
	need_id(v, mm->exe_file_id, "the program", IMAGE_MM, pid);
	for (size_t i = 0; i < mm->n_vmas; i++) {
		verify_vma(v, mm->vmas[i], pid);
		/* Guard pages lie in mappings, and stand behind them. */
		if (i && !(mm->vmas[i]->status & VMA_GUARD) && mm->vmas[i]->start < mm->vmas[i - 1]->end)
			finding(v,
				"mm-%u.img: mapping 0x%" PRIx64 " overlaps the one before or is out of order",
				pid, mm->vmas[i]->start);
	}
	return has(v, IMAGE_PAGEMAP, pid) ? verify_pagemap(v, IMAGE_PAGEMAP, pid, mm) : 0;
}

static int verify_shared(struct verify *v)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < v->n_list; i++)
		if (v->list[i].kind == IMAGE_SHMEM_PAGEMAP)
			r = verify_pagemap(v, IMAGE_SHMEM_PAGEMAP, v->list[i].id, NULL);
	return r;
}

static int verify_leftover_pages(struct verify *v)
{
	for (size_t i = 0; i < v->n_list; i++)
		if (v->list[i].kind == IMAGE_PAGES && !v->page_file_used[i])
			finding(v, "pages-%" PRIu64 ".img is named by no pagemap", v->list[i].id);
	return 0;
}

/* ---- tasks ---- */

static int verify_fdinfo(struct verify *v, uint32_t files_id)
{
	_cleanup_messages_ struct image_messages m = {0};
	int r = read_all(v, IMAGE_FDINFO, files_id, &m);
	vec_foreach(message, &m.list) {
		const FdinfoEntry *fd = (const FdinfoEntry *)*message;
		const FileEntry *file = image_files_find(&v->files, fd->id);
		if (!file)
			finding(v, "fdinfo-%u.img: descriptor %u names file id %u, which is not in files.img",
				files_id, fd->fd, fd->id);
		else if (file->type != fd->type && fd->type < FD_TYPES__CTL_TTY)
			finding(v,
				"fdinfo-%u.img: descriptor %u and files.img give file id %u different types",
				files_id, fd->fd, fd->id);
	}
	return r;
}

/* Whether no task before has this memory. */
static bool verify_is_owner(struct verify *v, uint32_t vm_id)
{
	vec_foreach(known, &v->vm_ids) {
		if (*known == vm_id)
			return false;
	}
	uint32_t *slot = vec_push(&v->vm_ids);
	if (slot)
		*slot = vm_id;
	return true;
}

static int verify_task_files(struct verify *v, uint32_t pid, const CoreEntry *core)
{
	_cleanup_messages_ struct image_messages ids = {0}, fs = {0};
	need_file(v, IMAGE_MM, pid, "the task has an address space");
	need_file(v, IMAGE_FS, pid, "the task has a working directory");
	int r = read_all(v, IMAGE_IDS, pid, &ids);
	if (r == 0)
		r = read_all(v, IMAGE_FS, pid, &fs);
	if (r < 0)
		return r;
	const TaskKobjIdsEntry *kobj = ids.list.n ? (const TaskKobjIdsEntry *)ids.list.v[0] : core->ids;
	if (!kobj || verify_is_owner(v, kobj->vm_id))
		need_file(v, IMAGE_PAGEMAP, pid, "the task has an address space");
	if (!kobj)
		need_file(v, IMAGE_IDS, pid, "the task shares objects by id");
	else
		need_file(v, IMAGE_FDINFO, kobj->files_id, "the task has descriptors");
	if (fs.list.n) {
		need_id(v, ((const FsEntry *)fs.list.v[0])->cwd_id, "the working directory", IMAGE_FS, pid);
		need_id(v, ((const FsEntry *)fs.list.v[0])->root_id, "the root directory", IMAGE_FS, pid);
	}
	return verify_mm(v, pid);
}

static int verify_threads(struct verify *v, const PstreeEntry *task, size_t n_filters)
{
	for (size_t i = 0; i < task->n_threads; i++) {
		_cleanup_messages_ struct image_messages m = {0};
		need_file(v, IMAGE_CORE, task->threads[i], "a thread in pstree.img");
		int r = read_all(v, IMAGE_CORE, task->threads[i], &m);
		if (r < 0)
			return r;
		const ThreadCoreEntry *core = m.list.n ? ((const CoreEntry *)m.list.v[0])->thread_core : NULL;
		if (core && core->has_seccomp_filter && core->seccomp_filter >= n_filters)
			finding(v, "core-%u.img names seccomp filter %u; seccomp.img has %zu",
				task->threads[i], core->seccomp_filter, n_filters);
	}
	return 0;
}

static bool pid_in_tree(const struct verify *v, uint32_t pid)
{
	for (size_t i = 0; i < v->tree.list.n; i++)
		if (((const PstreeEntry *)v->tree.list.v[i])->pid == pid)
			return true;
	return false;
}

static int verify_task(struct verify *v, const PstreeEntry *task, size_t n_filters)
{
	_cleanup_messages_ struct image_messages m = {0};
	if (task->ppid && !pid_in_tree(v, task->ppid))
		finding(v, "pstree.img: the parent %u of task %u is not in the tree", task->ppid, task->pid);
	need_file(v, IMAGE_CORE, task->pid, "a task in pstree.img");
	int r = read_all(v, IMAGE_CORE, task->pid, &m);
	if (r < 0 || !m.list.n)
		return r;
	const CoreEntry *core = (const CoreEntry *)m.list.v[0];
	if (!core->tc) {
		finding(v, "core-%u.img is of a task but has no task part", task->pid);
		return 0;
	}
	/* Of a zombie only the leader's record is left; CRIU writes arbitrary thread ids for it. */
	if (core->tc->task_state != STATE_ALIVE && core->tc->task_state != STATE_STOPPED)
		return 0;
	if (!task->n_threads || task->threads[0] != task->pid)
		finding(v, "pstree.img: the first thread of task %u is not the task itself", task->pid);
	r = verify_threads(v, task, n_filters);
	if (r < 0)
		return r;
	return verify_task_files(v, task->pid, core);
}

static int verify_tree(struct verify *v)
{
	_cleanup_messages_ struct image_messages seccomp = {0};
	int r = read_all(v, IMAGE_SECCOMP, 0, &seccomp);
	if (r < 0)
		return r;
	size_t n_filters = seccomp.list.n ? ((const SeccompEntry *)seccomp.list.v[0])->n_seccomp_filters : 0;
	if (!v->tree.list.n)
		finding(v, "pstree.img lists no task");
	vec_foreach(task, &v->tree.list) {
		r = verify_task(v, (const PstreeEntry *)*task, n_filters);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; r == 0 && i < v->n_list; i++)
		if (v->list[i].kind == IMAGE_FDINFO)
			r = verify_fdinfo(v, (uint32_t)v->list[i].id);
	return r;
}

/* ---- what descriptions refer to ---- */

static int verify_memfds(struct verify *v)
{
	_cleanup_messages_ struct image_messages inodes = {0};
	int r = read_all(v, IMAGE_MEMFD_INODE, 0, &inodes);
	if (r < 0)
		return r;
	vec_foreach(message, &v->files.list) {
		const FileEntry *file = (const FileEntry *)*message;
		bool found = !file->memfd;
		for (size_t i = 0; i < inodes.list.n && !found; i++)
			found = ((const MemfdInodeEntry *)inodes.list.v[i])->inode_id ==
				file->memfd->inode_id;
		if (!found)
			finding(v, "file id %u names memfd inode %u, which is not in memfd.img", file->id,
				file->memfd->inode_id);
	}
	return 0;
}

static int verify_queues(struct verify *v)
{
	_cleanup_messages_ struct image_messages packets = {0}, pipes = {0};
	int r = read_all(v, IMAGE_SK_QUEUES, 0, &packets);
	if (r == 0)
		r = read_all(v, IMAGE_PIPES_DATA, 0, &pipes);
	vec_foreach(message, &packets.list)
		need_id(v, ((const SkPacketEntry *)*message)->id_for, "a packet", IMAGE_SK_QUEUES, 0);
	vec_foreach(message, &pipes.list) {
		uint32_t pipe_id = ((const PipeDataEntry *)*message)->pipe_id;
		bool found = false;
		for (size_t i = 0; i < v->files.list.n && !found; i++) {
			const FileEntry *file = (const FileEntry *)v->files.list.v[i];
			found = file->pipe && file->pipe->pipe_id == pipe_id;
		}
		if (!found)
			finding(v, "pipes-data.img has data of pipe %u, which is not in files.img", pipe_id);
	}
	return r;
}

static int verify_files(struct verify *v)
{
	for (size_t i = 0; i < v->files.list.n; i++) {
		const FileEntry *file = (const FileEntry *)v->files.list.v[i];
		if (i && file->id == ((const FileEntry *)v->files.list.v[i - 1])->id)
			finding(v, "files.img has id %u twice", file->id);
		if (file->isk && file->isk->proto == PROTO_TCP && file->isk->state != TCP_STATE_CLOSE &&
		    file->isk->state != TCP_STATE_LISTEN)
			need_file(v, IMAGE_TCP_STREAM, file->isk->ino, "a connection in files.img");
	}
	int r = verify_memfds(v);
	return r < 0 ? r : verify_queues(v);
}

/* What a pre-dump leaves: memory of tasks that run on, and nothing else of them. */
static bool is_round(const struct verify *v)
{
	bool memory = false;
	for (size_t i = 0; i < v->n_list; i++) {
		enum image_kind kind = v->list[i].kind;
		if (kind == IMAGE_PSTREE || kind == IMAGE_CORE || kind == IMAGE_FILES || kind == IMAGE_MM)
			return false;
		memory |= kind == IMAGE_PAGEMAP || kind == IMAGE_SHMEM_PAGEMAP;
	}
	return memory;
}

static int verify_round(struct verify *v)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < v->n_list; i++)
		if (v->list[i].kind == IMAGE_PAGEMAP || v->list[i].kind == IMAGE_SHMEM_PAGEMAP)
			r = verify_pagemap(v, v->list[i].kind, v->list[i].id, NULL);
	return r;
}

static int verify_all(struct verify *v)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int r = image_dir_list(v->dir, &v->list, &v->n_list, v->err);
	if (r == 0)
		r = absorb(v, image_dir_check_whole(v->dir, &err), &err);
	if (r < 0)
		return r;
	v->page_file_used = calloc(v->n_list + 1, sizeof(*v->page_file_used));
	if (!v->page_file_used)
		return error_memory(v->err);
	for (size_t i = 0; i < v->n_list && r == 0; i++)
		r = verify_file(v, &v->list[i]);
	/* With files that cannot be read, what they say of each other means nothing. */
	if (r < 0 || v->findings)
		return r;
	if (is_round(v)) {
		r = verify_round(v);
		return r < 0 ? r : verify_leftover_pages(v);
	}
	r = read_all(v, IMAGE_FILES, 0, &v->files);
	if (r == 0)
		r = read_all(v, IMAGE_PSTREE, 0, &v->tree);
	image_files_sort(&v->files);
	if (r == 0)
		r = verify_tree(v);
	if (r == 0)
		r = verify_shared(v);
	if (r == 0)
		r = verify_leftover_pages(v);
	return r < 0 ? r : verify_files(v);
}

int image_verify(struct image_dir *dir, FILE *out, struct ferry_error *err)
{
	struct ferry_error own = FERRY_ERROR_INIT;
	struct verify v = {.dir = dir, .out = out, .err = err ? err : &own};
	int r = verify_all(&v);
	if (r == 0 && !v.findings && v.list && is_round(&v))
		fprintf(out, "%zu files, a round before a dump: no contradiction\n", v.n_list);
	else if (r == 0 && !v.findings)
		fprintf(out, "%zu files, %zu tasks, %zu file descriptions: no contradiction\n", v.n_list,
			v.tree.list.n, v.files.list.n);
	image_messages_release(&v.files);
	image_messages_release(&v.tree);
	free(v.list);
	vec_release(&v.vm_ids);
	free(v.page_file_used);
	return r < 0 ? r : v.findings ? -EBADMSG : 0;
}
