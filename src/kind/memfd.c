/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns memory files (memfd): name, size, contents, seals, owner and mode of each file, and the descriptions that refer to
 * it. A file is known by its inode, so that descriptors and mappings of several tasks come back as one. Contents are a
 * shared memory object like any other (mem/); the file is made when the first description of it is asked for, and every
 * description comes from opening /proc/self/fd/N.
 *
 * F_SEAL_FUTURE_WRITE forbids writable mappings that the tasks may have made before: it, and F_SEAL_SEAL which forbids
 * adding it, are set when every mapping exists. All other seals are set at once.
 *
 * Shared anonymous memory of huge pages has a record here, too, named "/anon_hugepage", as other images name theirs; so
 * does some shared anonymous memory in images that ferry did not write ("/dev/zero"). It comes back as what it was.
 *
 * Kernel interface: memfd_create(2) (3.17), fcntl(2) F_GET_SEALS, F_ADD_SEALS, F_SEAL_FUTURE_WRITE (5.1), F_SEAL_EXEC
 * (6.3), /proc/PID/map_files.
 */
#include "kind/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/memfd.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/hugetlb.h"
#include "kind/kinds.h"
#include "kind/peers.h"
#include "kind/window.h"
#include "mem/mem.h"
#include "model/record.h"
#include "model/records.h"
#include "model/vma-status.h"
#include "proc/read.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { MEMFD_MODE_BITS = 07777, MEMFD_LATE_SEALS = F_SEAL_SEAL | F_SEAL_FUTURE_WRITE };

/* What images call shared anonymous memory. */
static const char memfd_anonymous[] = "/dev/zero", memfd_anonymous_huge[] = "/anon_hugepage";

static const char memfd_prefix[] = "/memfd:", memfd_suffix[] = " (deleted)";

/* A file of the frozen tree. */
struct memfd_found {
	struct memfd_found *next;
	uint64_t dev, ino;
	MemfdInodeEntry *entry;
	bool dumped;
};

/* A file of the image. */
struct memfd_plan {
	struct memfd_plan *next;
	MemfdInodeEntry *entry;
	int fd; /* -1 = not made yet; a source of the plan, which closes it */
};

static bool memfd_owns(const struct fd_view *view)
{
	return S_ISREG(view->stat.st_mode) && !view->stat.st_nlink &&
	       !strncmp(view->link, memfd_prefix, strlen(memfd_prefix));
}

/* ------------------------------------------------------------------ collect and dump */

static int memfd_check(const struct fd_view *view, const struct kind_options *options,
		       struct ferry_error *err)
{
	struct fd_view copied = *view;
	char who[64];
	fd_view_name(view, who, sizeof(who));
	if (view->info->flags & O_PATH)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: '%s' was opened with O_PATH",
				 who, view->link);
	int r = fd_view_copy(&copied, err);
	if (r < 0)
		return r;
	if (!options->criu_compat)
		r = peers_refuse(view, PEER_MEMORY, err);
	if (view->copy < 0)
		close(copied.copy);
	return r;
}

static char *memfd_name(struct arena *a, const char *link)
{
	size_t prefix = strlen(memfd_prefix);
	char *name = arena_string(a, strncmp(link, memfd_prefix, prefix) ? link : link + prefix);
	size_t n = name ? strlen(name) : 0, suffix = strlen(memfd_suffix);
	if (n >= suffix && !strcmp(name + n - suffix, memfd_suffix))
		name[n - suffix] = '\0';
	return name;
}

/* The contents become a shared memory object; path: where they can be read while the tree is frozen. */
static int memfd_add_contents(struct collect *c, const struct memfd_found *found, const char *path,
			      struct ferry_error *err)
{
	struct snap_shmem *shmem = vec_push(&c->snap->shmems);
	if (!shmem)
		return error_memory(err);
	*shmem = (struct snap_shmem){
		.inode = found->ino,
		.dev = found->dev,
		.shmid = found->entry->shmid,
		.bytes = found->entry->size,
		.path = arena_string(&c->snap->arena, path),
	};
	return shmem->path ? 0 : error_memory(err);
}

static int memfd_describe(struct collect *c, struct memfd_found *found, const char *link, int fd,
			  const struct stat *st, struct ferry_error *err)
{
	MemfdInodeEntry *entry = record_new(&c->snap->arena, MemfdInodeEntry, memfd_inode_entry);
	struct statfs fs;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "reading the seals of '%s'", link);
	if (!entry)
		return error_memory(err);
	entry->name = memfd_name(&c->snap->arena, link);
	entry->uid = st->st_uid;
	entry->gid = st->st_gid;
	entry->size = (uint64_t)st->st_size;
	entry->seals = (uint32_t)seals;
	entry->inode_id = ++c->snap->next_object_id;
	entry->shmid = snapshot_shmid(c->snap, (uint64_t)st->st_ino);
	if (!entry->shmid)
		return error_memory(err);
	record_set(entry, mode, st->st_mode);
	if (fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
		record_set(entry, hugetlb_flag,
			   MFD_HUGETLB |
				   hugetlb_size_flags((unsigned)__builtin_ctzl((unsigned long)fs.f_bsize)));
	found->entry = entry;
	return entry->name ? 0 : error_memory(err);
}

/* The file's record, made when it is seen first. fd: a description that can be asked (not O_PATH). */
static int memfd_find(struct collect *c, const char *link, int fd, const char *path, struct memfd_found **ret,
		      struct ferry_error *err)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at '%s'", link);
	for (*ret = c->kind_data[KIND_memfd]; *ret; *ret = (*ret)->next)
		if ((*ret)->ino == st.st_ino && (*ret)->dev == st.st_dev)
			return 0;
	struct memfd_found *found = arena_new(&c->snap->arena, struct memfd_found);
	if (!found)
		return error_memory(err);
	found->ino = st.st_ino;
	found->dev = st.st_dev;
	int r = memfd_describe(c, found, link, fd, &st, err);
	if (r >= 0)
		r = memfd_add_contents(c, found, path, err);
	if (r < 0)
		return r;
	found->next = c->kind_data[KIND_memfd];
	c->kind_data[KIND_memfd] = *ret = found;
	return 0;
}

static MemfdFileEntry *memfd_record(struct collect *c, struct snap_file *file, struct memfd_found *found)
{
	MemfdFileEntry *memfd = record_new(&c->snap->arena, MemfdFileEntry, memfd_file_entry);
	if (!memfd)
		return NULL;
	memfd->id = file->entry->id;
	memfd->inode_id = (uint32_t)found->entry->inode_id;
	memfd->fown = fdcommon_no_owner(&c->snap->arena);
	file->entry->memfd = memfd;
	file->data = found;
	return memfd->fown ? memfd : NULL;
}

static int memfd_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			 struct ferry_error *err)
{
	struct memfd_found *found;
	char path[64];
	int r = memfd_check(view, c->options, err);
	if (r >= 0)
		r = fd_view_copy(view, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", view->look, view->fd);
	r = memfd_find(c, view->link, view->copy, path, &found, err);
	if (r < 0)
		return r;
	MemfdFileEntry *memfd = memfd_record(c, file, found);
	if (!memfd)
		return error_memory(err);
	memfd->flags = fdcommon_flags(view);
	memfd->pos = view->info->pos;
	return fdcommon_owner(c, view, &memfd->fown, err);
}

/* One description for all mappings of a file. */
static struct snap_file *memfd_mapped_file(struct collect *c, const struct memfd_found *found)
{
	vec_foreach(file, &c->snap->files) {
		if (file->kind == &kind_memfd && file->fd < 0 && file->data == found)
			return file;
	}
	return NULL;
}

/* That description, made when it is missing; its index in the snapshot's files. */
static int memfd_described(struct collect *c, struct memfd_found *found, pid_t pid, uint32_t *ret_index,
			   struct ferry_error *err)
{
	struct snap_file *file = memfd_mapped_file(c, found);
	if (!file) {
		FileEntry *entry = record_new(&c->snap->arena, FileEntry, file_entry);
		file = entry ? vec_push(&c->snap->files) : NULL;
		if (!file)
			return error_memory(err);
		*file = (struct snap_file){
			.entry = entry, .kind = &kind_memfd, .copy = -1, .pid = pid, .fd = -1};
		entry->type = FD_TYPES__MEMFD;
		entry->id = ++c->snap->next_file_id;
		if (!memfd_record(c, file, found))
			return error_memory(err);
	}
	*ret_index = (uint32_t)(file - c->snap->files.v);
	return 0;
}

bool memfd_is_link(const char *path)
{
	return !strncmp(path, memfd_prefix, strlen(memfd_prefix));
}

int memfd_collect_exe(struct collect *c, const struct snap_task *t, const char *path, uint32_t *ret_id,
		      struct ferry_error *err)
{
	struct memfd_found *found;
	char source[32];
	uint32_t index;
	snprintf(source, sizeof(source), "/proc/%d/exe", t->look);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, source, O_RDONLY, 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening '%s', the executable of pid %d",
				   path, t->pid);
	int r = memfd_find(c, path, fd, source, &found, err);
	if (r >= 0)
		r = memfd_described(c, found, t->pid, &index, err);
	if (r >= 0)
		*ret_id = c->snap->files.v[index].entry->id;
	return r;
}

static bool memfd_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_MEMFD ||
	       (view->vma->kind == PROC_VMA_HUGETLB_ANON && view->vma->shared);
}

static int memfd_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	int r = peers_refuse_mapping(view, err);
	return r < 0 ? r : fdcommon_check_map_files(view, err);
}

static int memfd_collect_vma(struct collect *c, struct snap_task *t, const struct vma_view *view,
			     struct snap_vma *vma, struct ferry_error *err)
{
	struct memfd_found *found;
	char path[96];
	snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", t->look,
		 (unsigned long long)view->vma->start, (unsigned long long)view->vma->end);
	/* An ordinary user may not follow that link. */
	bool reached = window_wanted(view) && fdcommon_reach_mapped(view, path);
	_cleanup_close_ int fd = reached ? fd_open(AT_FDCWD, path, O_RDONLY, 0)
					 : proc_open_vma_file(view->proc_dir, view->vma, O_RDONLY, err);
	if (fd < 0)
		return reached ? error_errno(err, FERRY_ERROR_SYSTEM, -fd, "opening '%s'", path) : fd;
	int r = memfd_find(c, view->name, fd, path, &found, err);
	if (r < 0)
		return r;
	r = memfd_described(c, found, t->pid, &vma->file, err);
	if (r < 0)
		return r;
	vma->entry->status |= VMA_STATUS_MEMFD;
	if (found->entry->hugetlb_flag)
		vma->entry->flags |= MAP_HUGETLB | hugetlb_size_of(found->entry->hugetlb_flag);
	fdcommon_mapped(c, view, vma);
	return 0;
}

static int memfd_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	struct memfd_found *found = file->data;
	struct image_writer *w;
	if (found->dumped)
		return 0;
	found->dumped = true;
	int r = fdcommon_writer(d, IMAGE_MEMFD_INODE, &w, err);
	return r < 0 ? r : image_put(w, &found->entry->base, err);
}

/* -------------------------------------------------------------------------- restore */

static struct memfd_plan *memfd_plan(const struct plan *p, uint64_t inode_id)
{
	struct memfd_plan *m = p->kind_data[KIND_memfd];
	while (m && m->entry->inode_id != inode_id)
		m = m->next;
	return m;
}

static int memfd_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
		      struct ferry_error *err)
{
	MemfdInodeEntry *entry = record;
	struct memfd_plan *m = arena_new(&r->plan->arena, struct memfd_plan);
	if (!m)
		return error_memory(err);
	if (memfd_plan(r->plan, entry->inode_id))
		return image_bad(in, err, "memfd inode %llu appears twice",
				 (unsigned long long)entry->inode_id);
	if (entry->hugetlb_flag && hugetlb_check(entry->hugetlb_flag, entry->size, entry->name, err) < 0)
		return -ENOMEM;
	*m = (struct memfd_plan){.entry = entry, .fd = -1, .next = r->plan->kind_data[KIND_memfd]};
	r->plan->kind_data[KIND_memfd] = m;
	return 0;
}

static int memfd_load(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_MEMFD_INODE, 0, &memfd_inode_entry__descriptor, memfd_take, NULL, err);
}

static bool memfd_owns_record(const VmaEntry *entry)
{
	return entry->status & VMA_STATUS_MEMFD;
}

static bool memfd_is_anonymous(const MemfdInodeEntry *entry)
{
	return !strcmp(entry->name, memfd_anonymous) || !strcmp(entry->name, memfd_anonymous_huge);
}

static int memfd_fill(struct opener *o, const MemfdInodeEntry *entry, void *at, struct ferry_error *err)
{
	if (at == MAP_FAILED)
		return error_errno(err, FERRY_ERROR_NO_MEMORY, errno, "mapping %llu bytes of memfd '%s'",
				   (unsigned long long)entry->size, entry->name);
	return mem_fill_shmem(o->dir, entry->shmid, entry->size, at, err);
}

/* The file behind shared anonymous memory can be opened where it is mapped. Descriptor of the plan, or -errno. */
static int memfd_make_anonymous(struct opener *o, const MemfdInodeEntry *entry, struct ferry_error *err)
{
	uint32_t huge = entry->hugetlb_flag ? MAP_HUGETLB | hugetlb_size_of(entry->hugetlb_flag) : 0;
	void *at = mmap(NULL, entry->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | (int)huge, -1,
			0);
	int r = memfd_fill(o, entry, at, err);
	if (r >= 0) {
		r = plan_keep_source(o->plan, fd_openf(O_RDWR, "/proc/self/map_files/%lx-%lx",
						       (unsigned long)at, (unsigned long)at + entry->size));
		if (r < 0)
			error_errno(err, FERRY_ERROR_PERMISSION, -r,
				    "opening shared memory in /proc/self/map_files");
	}
	if (at != MAP_FAILED)
		munmap(at, entry->size);
	return r;
}

static int memfd_set_contents(struct opener *o, const MemfdInodeEntry *entry, int fd, struct ferry_error *err)
{
	if (!entry->size)
		return 0;
	if (entry->size > INT64_MAX || ftruncate(fd, (off_t)entry->size) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "making memfd '%s' %llu bytes large",
				   entry->name, (unsigned long long)entry->size);
	void *at = mmap(NULL, entry->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int r = memfd_fill(o, entry, at, err);
	if (at != MAP_FAILED)
		munmap(at, entry->size);
	return r;
}

/* Descriptor of the plan, or -errno. */
static int memfd_make_file(struct opener *o, const MemfdInodeEntry *entry, struct ferry_error *err)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	if (entry->hugetlb_flag)
		flags |= MFD_HUGETLB | hugetlb_size_of(entry->hugetlb_flag);
	int fd = plan_keep_source(o->plan, memfd_create(entry->name, flags));
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, fd == -ENOMEM ? ENOMEM : errno,
				   "creating memfd '%s'", entry->name);
	int r = memfd_set_contents(o, entry, fd, err);
	return r < 0 ? r : fd;
}

static int memfd_open_again(const struct memfd_plan *m, int flags)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", m->fd);
	return fd_open(AT_FDCWD, path, flags, 0);
}

static int memfd_stop_writing(const struct memfd_plan *m, struct ferry_error *err)
{
	_cleanup_close_ int fd = memfd_open_again(m, O_RDONLY);
	if (fd < 0 || dup3(fd, m->fd, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, fd < 0 ? -fd : errno,
				   "opening memfd '%s' for reading", m->entry->name);
	return 0;
}

static int memfd_make(struct opener *o, struct memfd_plan *m, struct ferry_error *err)
{
	const MemfdInodeEntry *entry = m->entry;
	bool anonymous = memfd_is_anonymous(entry);
	int fd = anonymous ? memfd_make_anonymous(o, entry, err) : memfd_make_file(o, entry, err);
	if (fd < 0)
		return fd;
	int seals = (int)entry->seals & ~(entry->seals & F_SEAL_FUTURE_WRITE ? MEMFD_LATE_SEALS : 0);
	if (anonymous)
		seals = 0;
	if (fchown(fd, entry->uid, entry->gid) < 0 ||
	    (entry->has_mode && fchmod(fd, entry->mode & MEMFD_MODE_BITS) < 0) ||
	    (seals && fcntl(fd, F_ADD_SEALS, seals) < 0))
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
				   "setting owner, mode and seals of memfd '%s'", entry->name);
	m->fd = fd;
	/* What is open for writing cannot be an executable. Whoever writes gets a description of his own. */
	return anonymous ? 0 : memfd_stop_writing(m, err);
}

static int memfd_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const MemfdFileEntry *memfd = file->entry->memfd;
	if (!memfd)
		return fdcommon_no_record(file, err);
	struct memfd_plan *m = memfd_plan(o->plan, memfd->inode_id);
	if (!m)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "file id %u names memfd inode %u, which is not in memfd.img",
				 file->entry->id, memfd->inode_id);
	int r = m->fd < 0 ? memfd_make(o, m, err) : 0;
	if (r < 0)
		return r;
	_cleanup_close_ int fd =
		memfd_open_again(m, (int)memfd->flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_NOFOLLOW));
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening memfd '%s' again",
				   m->entry->name);
	if (memfd->pos && lseek(fd, (off_t)memfd->pos, SEEK_SET) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "seeking in memfd '%s' to %llu",
				   m->entry->name, (unsigned long long)memfd->pos);
	*ret_fd = take_fd(fd);
	return 0;
}

static int memfd_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err)
{
	const MemfdFileEntry *memfd = file->entry->memfd;
	return fdcommon_settle_once(s, file) ? fdcommon_settle(memfd->fown, memfd->flags, fd, err) : 0;
}

static int memfd_ready(struct opener *o, struct ferry_error *err)
{
	for (const struct memfd_plan *m = o->plan->kind_data[KIND_memfd]; m; m = m->next) {
		if (m->fd < 0 || !(m->entry->seals & F_SEAL_FUTURE_WRITE))
			continue;
		_cleanup_close_ int fd = memfd_open_again(m, O_RDWR);
		if (fd < 0 || fcntl(fd, F_ADD_SEALS, (int)m->entry->seals & MEMFD_LATE_SEALS) < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, fd < 0 ? -fd : errno,
					   "sealing memfd '%s'", m->entry->name);
	}
	return 0;
}

const struct kind_ops kind_memfd = {
	.name = "memfd",
	.what = "memory files with contents and seals, mapped and open",
	.fd_type = FD_TYPES__MEMFD,
	.image_file = IMAGE_MEMFD_INODE,
	.owns = memfd_owns,
	.check = memfd_check,
	.collect = memfd_collect,
	.dump = memfd_dump,
	.read = memfd_load,
	.restore = memfd_restore,
	.settle = memfd_settle,
	.ready = memfd_ready,
	.owns_vma = memfd_owns_vma,
	.check_vma = memfd_check_vma,
	.collect_vma = memfd_collect_vma,
	.owns_record = memfd_owns_record,
	.map = fdcommon_map,
};
