/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns regular files, directories, symbolic links and device nodes. A description is brought back with its flags, position and
 * owner. Contents stay in the file system, so size and times of files that are written to are recorded and
 * compared before a restore (guard); those of files that have no name any more go into the image (ghost.c).
 *
 * Kernel interface: /proc/PID/fd, /proc/PID/fdinfo, stat(2), open(2), lseek(2), fcntl(2) F_SETOWN_EX.
 * Does not handle: files on mounts that were unmounted lazily, or that other mounts hide wholly in a root that is ferry's, too; deleted files that
 * somebody outside of the tree uses and either side writes to. They are refused by name.
 */
#include "kind/regfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "kernel/syscalls.h"
#include "kind/buildid.h"
#include "kind/fdcommon.h"
#include "kind/ghost.h"
#include "kind/ghost_list.h"
#include "kind/kinds.h"
#include "kind/mounts_restore.h"
#include "kind/ns_mounts.h"
#include "kind/peers.h"
#include "kind/procfile.h"
#include "kind/reach.h"
#include "kind/tty.h"
#include "model/record.h"
#include "model/vma-status.h"
#include "proc/read.h"

enum { REGFILE_STAT_BLOCK = 512 };

/* Room for the texts of a struct file_object. */
struct regfile_names {
	char who[64];
	char source[PATH_MAX];
	char link[PATH_MAX];
};

/* Flags that belong to open(2) once, not to a description. */
enum { REGFILE_FLAGS_DROP = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC };

/* Character devices whose descriptors hold nothing: what they make has descriptors of its own. */
static bool regfile_device_is_stateless(dev_t rdev, uint32_t flags)
{
	static const struct {
		unsigned major, minor;
		bool written; /* only where it cannot be read: a reader has a place in it */
	} devices[] = {
		{1, 3, false},    /* null */
		{1, 5, false},    /* zero */
		{1, 7, false},    /* full */
		{1, 8, false},    /* random */
		{1, 9, false},    /* urandom */
		{1, 11, true},    /* kmsg */
		{10, 232, false}, /* kvm */
		{10, 235, false}, /* autofs */
		{10, 237, false}, /* loop-control */
	};
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		if (major(rdev) == devices[i].major && minor(rdev) == devices[i].minor)
			return !devices[i].written || (flags & O_ACCMODE) == O_WRONLY;
	return false;
}

static bool regfile_owns(const struct fd_view *view)
{
	if (view->link[0] != '/')
		return false;
	/* The path of a terminal leads nowhere until the terminal is made again. */
	if (view->info->flags & O_PATH)
		return !S_ISCHR(view->stat.st_mode) || !tty_is_slave(view->stat.st_rdev);
	return S_ISREG(view->stat.st_mode) || S_ISDIR(view->stat.st_mode) || S_ISBLK(view->stat.st_mode) ||
	       (S_ISCHR(view->stat.st_mode) &&
		regfile_device_is_stateless(view->stat.st_rdev, view->info->flags));
}

/* What is known of a file that its path does not lead to. */
struct regfile_found {
	struct ghost *ghost;         /* it has no name */
	const FerryFileEntry *reach; /* or another way to it */
	pid_t ended;                 /* or it shows a process that has ended */
	const char *executed;        /* a path in /proc that leads to it, when it is mapped to be executed */
};

static int regfile_check_ghost(const struct file_object *o, const struct kind_options *options,
			       struct ferry_error *err)
{
	uint64_t bytes = MIN((uint64_t)o->st.st_size, (uint64_t)o->st.st_blocks * REGFILE_STAT_BLOCK);
	if (!S_ISREG(o->st.st_mode) || !options->ghost_limit || bytes <= options->ghost_limit)
		return 0;
	error_set(err, FERRY_ERROR_DELETED_FILE, EFBIG,
		  "%s: '%s' was deleted and has %llu bytes, more than --ghost-limit", o->who, o->link,
		  (unsigned long long)bytes);
	error_hint(err, "raise --ghost-limit, or let the program close the file");
	return -EFBIG;
}

/* Where a file was found: name has room for PATH_MAX. */
struct regfile_place {
	enum reach_way way;
	char *name;
};

/* A file system in memory that nobody outside of the tree has mounted comes back out of the image. */
static bool regfile_is_remade(const struct file_object *o, const struct kind_options *options)
{
	struct statfs fs;
	if (!options->outside_mounts || statfs(o->source, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return false;
	vec_foreach(m, &options->outside_mounts->v)
		if (m->dev == o->st.st_dev)
			return false;
	return true;
}

static int regfile_reach(const struct file_object *object, const char *name,
			 const struct kind_options *options, struct arena *a, FerryFileEntry **ret_entry,
			 struct ferry_error *err)
{
	struct file_object o = *object;
	o.remade = regfile_is_remade(object, options);
	return reach_find(&o, name, a, ret_entry, err);
}

static int regfile_check_place(const struct file_object *o, const struct regfile_place *p, struct arena *a,
			       const struct kind_options *options, struct ferry_error *err)
{
	FerryFileEntry *entry;
	pid_t pid = reach_pid(o);
	if (p->way != REACH_PATH && pid && reach_is_elsewhere(pid, options)) {
		error_set(
			err, FERRY_ERROR_DELETED_FILE, ENOTSUP,
			"%s: '%s' does not lead to the file in the mount namespace of pid %d, which is not the "
			"root's",
			o->who, o->link, pid);
		error_hint(err, "let the program close the file");
		return -ENOTSUP;
	}
	switch (p->way) {
	case REACH_PATH: return 0;
	case REACH_GHOST: return regfile_check_ghost(o, options, err);
	case REACH_OTHER: return regfile_reach(o, p->name, options, a, &entry, err);
	}
	return 0;
}

/* As reach_way(), and what only other mounts hide. */
static enum reach_way regfile_way(const struct file_object *o, const struct kind_options *options,
				  char ret_name[PATH_MAX])
{
	enum reach_way way = reach_way(o, ret_name);
	pid_t pid = reach_pid(o);
	bool hidden = way == REACH_OTHER && !strcmp(ret_name, o->link) && pid &&
		      !reach_is_elsewhere(pid, options) &&
		      mounts_hide(pid, o->source, o->link, &o->st, options);
	return hidden ? REACH_PATH : way;
}

/* Whether, and how, a file can be found again. */
static int regfile_check_object(const struct file_object *o, struct arena *a,
				const struct kind_options *options, struct ferry_error *err)
{
	char name[PATH_MAX];
	const struct regfile_place place = {regfile_way(o, options, name), name};
	return regfile_check_place(o, &place, a, options, err);
}

/* A deleted file that somebody outside has, too, would be two files after the restore. That only matters when it changes. */
static int regfile_check_shared(const struct fd_view *view, struct ferry_error *err)
{
	struct peer peer;
	int r = peers_outside(view->peers, PEER_DELETED, view->stat.st_ino, &peer, err);
	if (r <= 0)
		return r;
	_cleanup_proc_fdinfo_ struct proc_fdinfo info = {0};
	_cleanup_close_ int dir = proc_open(peer.pid, NULL);
	bool gone = dir < 0 || proc_read_fdinfo(dir, peer.fd, &info, NULL) < 0;
	bool read_only =
		(view->info->flags & O_ACCMODE) == O_RDONLY && (gone || (info.flags & O_ACCMODE) == O_RDONLY);
	return read_only ? 0 : peers_refuse(view, PEER_DELETED, err);
}

static void regfile_object(const struct fd_view *view, struct regfile_names *ret_names,
			   struct file_object *ret_object)
{
	fd_view_name(view, ret_names->who, sizeof(ret_names->who));
	snprintf(ret_names->source, sizeof(ret_names->source), "/proc/%d/fd/%d", view->look, view->fd);
	*ret_object = (struct file_object){
		.who = ret_names->who, .link = view->link, .source = ret_names->source, .st = view->stat};
}

/*
 * F_NOTIFY cannot be seen, but it gives the folder an owner, which nothing else is good for. The kernel neither shows what it
 * waits for nor which of its signals are due.
 */
static int regfile_check_notify(const struct fd_view *view, struct ferry_error *err)
{
	struct fd_view copied = *view;
	struct f_owner_ex owner = {.pid = 0};
	char who[64];
	if (view->info->flags & O_PATH || fd_view_copy(&copied, NULL) < 0)
		return 0;
	bool owned = fcntl(copied.copy, F_GETOWN_EX, &owner) == 0 && owner.pid;
	if (view->copy < 0)
		close(copied.copy);
	if (!owned)
		return 0;
	fd_view_name(view, who, sizeof(who));
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
		  "%s: the folder '%s' notifies pid %d (F_NOTIFY), which the kernel does not show", who,
		  view->link, owner.pid);
	error_hint(err, "inotify does the same and can be dumped");
	return -ENOTSUP;
}

static int regfile_check(const struct fd_view *view, const struct kind_options *options,
			 struct ferry_error *err)
{
	struct regfile_names names;
	struct file_object object;
	char name[PATH_MAX];
	struct regfile_place place = {.name = name};
	regfile_object(view, &names, &object);
	if (procfile_pid(view->link))
		return procfile_check(view, NULL, err);
	int r = procfile_check_kernel(view, err);
	if (r >= 0 && S_ISDIR(view->stat.st_mode))
		r = regfile_check_notify(view, err);
	if (r < 0)
		return r;
	place.way = regfile_way(&object, options, name);
	if (place.way != REACH_GHOST || reach_is_elsewhere(view->look, options))
		return regfile_check_place(&object, &place, view->arena, options, err);
	r = regfile_check_ghost(&object, options, err);
	return r < 0 || options->criu_compat ? r : regfile_check_shared(view, err);
}

static void regfile_guard_as(FerryFileGuardEntry *guard, const struct stat *st)
{
	guard->size = (uint64_t)st->st_size;
	guard->mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
	guard->ctime_ns = st->st_ctim.tv_sec * 1000000000ll + st->st_ctim.tv_nsec;
}

/* What must not change until the restore: a file somebody can write to through this description. */
static int regfile_guard(struct collect *c, const char *path, const struct stat *st, struct ferry_error *err)
{
	struct stat seen;
	/* In a mount namespace of the tree's that is not the root's: a restore would look in vain. */
	if (lstat(path, &seen) < 0 || seen.st_ino != st->st_ino || seen.st_dev != st->st_dev)
		return 0;
	vec_foreach(known, &c->snap->guards) {
		if ((*known)->ino == st->st_ino && (*known)->dev == st->st_dev)
			return 0;
	}
	FerryFileGuardEntry *guard = record_new(&c->snap->arena, FerryFileGuardEntry, ferry_file_guard_entry);
	FerryFileGuardEntry **slot = guard ? vec_push(&c->snap->guards) : NULL;
	if (!slot)
		return error_memory(err);
	guard->path = arena_string(&c->snap->arena, path);
	regfile_guard_as(guard, st);
	guard->dev = st->st_dev;
	guard->ino = st->st_ino;
	*slot = guard;
	return guard->path ? 0 : error_memory(err);
}

static RegFileEntry *regfile_record(struct arena *a, const char *path, const struct stat *st, uint32_t flags,
				    uint64_t pos)
{
	RegFileEntry *reg = record_new(a, RegFileEntry, reg_file_entry);
	if (!reg)
		return NULL;
	reg->fown = fdcommon_no_owner(a);
	reg->name = arena_string(a, path);
	reg->flags = flags & ~(uint32_t)REGFILE_FLAGS_DROP;
	reg->pos = pos;
	record_set(reg, mode, st->st_mode);
	if (S_ISREG(st->st_mode))
		record_set(reg, size, (uint64_t)st->st_size);
	return reg->fown && reg->name ? reg : NULL;
}

/* Which mount it is on; where the tree has the mounts of ferry, its path says so. */
static int32_t regfile_mount_of(const struct collect *c, const struct file_object *o)
{
	struct kern_statx st;
	bool own = false;
	vec_foreach(ns, &c->snap->namespaces)
		own |= ns->type == PROC_NS_MNT;
	bool found =
		own && sys_statx(AT_FDCWD, o->source, 0, STATX_MNT_ID, &st) >= 0 && st.mask & STATX_MNT_ID;
	return found ? (int32_t)st.mnt_id : -1;
}

static void regfile_record_mount(const struct collect *c, const struct file_object *o, RegFileEntry *reg)
{
	int32_t id = regfile_mount_of(c, o);
	if (id >= 0)
		record_set(reg, mnt_id, id);
}

/* Whether processes of the tree live in several mount namespaces: then the same name and file may be on several mounts. */
static bool regfile_has_several(const struct collect *c)
{
	size_t n = c->snap->tasks.v[0].ns_ino[PROC_NS_MNT] == c->options->own_namespaces.ino[PROC_NS_MNT];
	vec_foreach(ns, &c->snap->namespaces)
		n += ns->type == PROC_NS_MNT;
	return n > 1;
}

/* How the file comes back, when its path does not lead to it. */
static int regfile_find(struct collect *c, const struct file_object *o, uint32_t id,
			const struct regfile_place *p, struct regfile_found **ret_found,
			struct ferry_error *err)
{
	*ret_found = NULL;
	if (p->way == REACH_PATH)
		return 0;
	struct regfile_found *found = arena_new(&c->snap->arena, struct regfile_found);
	FerryFileEntry *entry;
	int r = found ? 0 : error_memory(err);
	if (r >= 0 && p->way == REACH_GHOST)
		r = ghost_collect(c, o, &found->ghost, err);
	else if (r >= 0)
		r = regfile_reach(o, p->name, c->options, &c->snap->arena, &entry, err);
	if (r < 0)
		return r;
	if (p->way == REACH_OTHER) {
		entry->id = id;
		found->reach = entry;
	}
	*ret_found = found;
	return 0;
}

/* A file of /proc that shows a process, of the tree or ended. */
static int regfile_find_proc(struct collect *c, const struct fd_view *view, char *name,
			     struct regfile_found **ret_found, struct ferry_error *err)
{
	char *mark = strstr(name, " (deleted)");
	if (mark)
		*mark = '\0';
	int r = procfile_check(view, c->snap, err);
	if (r < 0 || !procfile_ended(view))
		return r;
	struct regfile_found *found = arena_new(&c->snap->arena, struct regfile_found);
	if (!found)
		return error_memory(err);
	found->ended = procfile_pid(view->link);
	*ret_found = found;
	return 0;
}

/* Times of what the kernel makes up say nothing. */
static bool regfile_is_kernels(const char *name)
{
	return !strncmp(name, "/proc/", 6) || !strncmp(name, "/sys/", 5);
}

/* What is compared before the restore: a file that has a name. */
static int regfile_guard_found(struct collect *c, const char *name, const struct regfile_found *found,
			       const struct stat *st, struct ferry_error *err)
{
	if (regfile_is_kernels(name))
		return 0;
	bool deleted = found && (found->ghost || found->reach->has_deleted);
	const char *other = found && found->reach ? found->reach->link : NULL;
	if (!S_ISREG(st->st_mode) || (deleted && !other))
		return 0;
	return found && !other ? 0 : regfile_guard(c, other ? other : name, st, err);
}

static int regfile_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			   struct ferry_error *err)
{
	struct regfile_names names;
	struct file_object object;
	struct regfile_found *found = NULL;
	char name[PATH_MAX];
	struct regfile_place place = {.name = name};
	regfile_object(view, &names, &object);
	snprintf(name, sizeof(name), "%s", view->link);
	int r = regfile_check(view, c->options, err);
	if (r >= 0 && procfile_pid(view->link))
		r = regfile_find_proc(c, view, name, &found, err);
	else if (r >= 0) {
		place.way = regfile_way(&object, c->options, name);
		r = regfile_find(c, &object, file->entry->id, &place, &found, err);
	}
	if (r < 0)
		return r;
	file->data = found;
	RegFileEntry *reg =
		regfile_record(&c->snap->arena, name, &view->stat, view->info->flags, view->info->pos);
	if (!reg)
		return error_memory(err);
	reg->id = file->entry->id;
	regfile_record_mount(c, &object, reg);
	r = fdcommon_owner(c, view, &reg->fown, err);
	if (r < 0)
		return r;
	file->entry->reg = reg;
	bool writes = (reg->flags & O_ACCMODE) != O_RDONLY && !(reg->flags & O_PATH);
	return writes ? regfile_guard_found(c, name, found, &view->stat, err) : 0;
}

/* Requests of io_uring and AIO that were in flight when the file was looked at have written to it since. */
static int regfile_collect_end(struct collect *c, struct ferry_error *err)
{
	vec_foreach(file, &c->snap->files) {
		struct stat st;
		char path[48];
		if (file->kind != &kind_regfile || file->fd < 0 || !file->entry->reg ||
		    !file->entry->reg->has_size)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", file->look, file->fd);
		if (stat(path, &st) < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at '%s' again", path);
		file->entry->reg->size = (uint64_t)st.st_size;
		vec_foreach(guard, &c->snap->guards) {
			if ((*guard)->ino == st.st_ino && (*guard)->dev == st.st_dev)
				regfile_guard_as(*guard, &st);
		}
	}
	return 0;
}

/* One record for each file that is in no descriptor table. */
static struct snap_file *regfile_known(struct collect *c, const struct file_object *o, const char *name,
				       uint32_t flags)
{
	int32_t mount = regfile_mount_of(c, o);
	vec_foreach(known, &c->snap->files) {
		const RegFileEntry *reg = known->entry->reg;
		if (known->fd < 0 && known->kind == &kind_regfile && known->ino == o->st.st_ino &&
		    known->dev == o->st.st_dev && reg->flags == flags &&
		    (reg->has_mnt_id ? reg->mnt_id : -1) == mount && !strcmp(reg->name, name))
			return known;
	}
	return NULL;
}

/* A file with a place, of a process, and how that has it open. */
struct regfile_new {
	const struct file_object *object;
	struct regfile_place place;
	pid_t pid;
	uint32_t flags;
};

static int regfile_add(struct collect *c, const struct regfile_new *new, uint32_t *ret_index,
		       struct ferry_error *err)
{
	const struct file_object *o = new->object;
	struct regfile_found *found;
	uint32_t id = ++c->snap->next_file_id;
	int r = regfile_check_place(o, &new->place, &c->snap->arena, c->options, err);
	if (r >= 0)
		r = regfile_find(c, o, id, &new->place, &found, err);
	if (r < 0)
		return r;
	FileEntry *entry = record_new(&c->snap->arena, FileEntry, file_entry);
	RegFileEntry *reg =
		entry ? regfile_record(&c->snap->arena, new->place.name, &o->st, new->flags, 0) : NULL;
	struct snap_file *file = reg ? vec_push(&c->snap->files) : NULL;
	if (!file)
		return error_memory(err);
	entry->type = FD_TYPES__REG;
	entry->id = reg->id = id;
	entry->reg = reg;
	regfile_record_mount(c, o, reg);
	*file = (struct snap_file){.entry = entry,
				   .kind = &kind_regfile,
				   .data = found,
				   .copy = -1,
				   .pid = new->pid,
				   .fd = -1,
				   .ino = o->st.st_ino,
				   .dev = o->st.st_dev,
				   .mode = o->st.st_mode};
	*ret_index = (uint32_t)(c->snap->files.n - 1);
	return new->flags != O_RDONLY ? regfile_guard_found(c, new->place.name, found, &o->st, err) : 0;
}

static int regfile_collect_path(struct collect *c, pid_t pid, const struct file_object *o, uint32_t flags,
				uint32_t *ret_index, struct ferry_error *err)
{
	char name[PATH_MAX];
	const struct regfile_new new = {o, {regfile_way(o, c->options, name), name}, pid, flags};
	const struct snap_file *known = regfile_known(c, o, name, flags);
	if (!known)
		return regfile_add(c, &new, ret_index, err);
	*ret_index = (uint32_t)(known - c->snap->files.v);
	return 0;
}

int regfile_collect_name(struct collect *c, const struct fd_view *view, uint32_t *ret_index,
			 struct ferry_error *err)
{
	struct regfile_names names;
	struct file_object object;
	char name[PATH_MAX];
	regfile_object(view, &names, &object);
	const struct regfile_new new = {
		&object, {regfile_way(&object, c->options, name), name}, view->pid, view->info->flags};
	return regfile_add(c, &new, ret_index, err);
}

int regfile_check_name(const struct fd_view *view, const struct kind_options *options,
		       struct ferry_error *err)
{
	struct regfile_names names;
	struct file_object object;
	regfile_object(view, &names, &object);
	return regfile_check_object(&object, view->arena, options, err);
}

int regfile_collect_link(struct collect *c, const struct snap_task *t, int proc_dir, const char *link,
			 uint32_t *ret_id, struct ferry_error *err)
{
	_cleanup_free_ char *path = NULL;
	char who[64], source[64];
	uint32_t index;
	int r = proc_read_link(proc_dir, link, &path, err);
	if (r < 0)
		return r;
	struct file_object o = {.who = who, .link = path, .source = source};
	snprintf(who, sizeof(who), "%s of pid %d", link, t->pid);
	snprintf(source, sizeof(source), "/proc/%d/%s", t->look, link);
	if (fstatat(proc_dir, link, &o.st, 0) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "looking at the %s", who);
	r = regfile_collect_path(c, t->pid, &o, O_RDONLY, &index, err);
	if (r < 0)
		return r;
	*ret_id = c->snap->files.v[index].entry->id;
	return 0;
}

static int regfile_add_build(struct dump *d, const char *source, RegFileEntry *reg)
{
	uint32_t words[BUILDID_WORDS];
	size_t n = reg->n_build_id ? 0 : buildid_read(source, words);
	if (!n)
		return 0;
	reg->build_id = arena_copy(&d->snap->arena, words, n * sizeof(*words));
	reg->n_build_id = reg->build_id ? n : 0;
	return reg->build_id ? 0 : -ENOMEM;
}

static int regfile_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const struct regfile_found *found = file->data;
	struct image_writer *w;
	if (found && found->executed && regfile_add_build(d, found->executed, file->entry->reg) < 0)
		return error_memory(err);
	if (!found || (!found->ghost && !found->ended && !found->reach))
		return 0;
	if (found->ghost)
		return ghost_dump(d, found->ghost, file->entry->id, err);
	if (found->ended)
		return ghost_dump_ended(d, found->ended, file->entry->id, err);
	int r = fdcommon_writer(d, IMAGE_FERRY_FILE, &w, err);
	return r < 0 ? r : image_put(w, &found->reach->base, err);
}

bool regfile_is_root(const struct plan_file *file)
{
	return file && file->entry->reg && !strcmp(file->entry->reg->name, "/");
}

/* Code that continues in the middle of a function needs the very same build. */
static int regfile_verify_build(const RegFileEntry *entry, struct ferry_error *err)
{
	uint32_t words[BUILDID_WORDS];
	size_t n = entry->n_build_id ? buildid_read(entry->name, words) : 0;
	if (n == entry->n_build_id && (!n || !memcmp(words, entry->build_id, n * sizeof(*words))))
		return 0;
	error_set(err, FERRY_ERROR_FILES_CHANGED, EBADF, "'%s' is another build than when the dump was taken",
		  entry->name);
	error_hint(err, "put the program or library back as it was");
	return -EBADF;
}

static bool regfile_has_checked_size(const RegFileEntry *entry, const struct regfile_checks *checks)
{
	bool program = checks->programs && (entry->n_build_id || (entry->has_mode && entry->mode & 0111));
	bool appends = (entry->flags & (O_ACCMODE | O_APPEND)) == (O_WRONLY | O_APPEND);
	return program || (checks->sizes && !(checks->but_append && appends));
}

int regfile_verify(const struct plan *p, const struct plan_file *file, const struct regfile_checks *checks,
		   struct ferry_error *err)
{
	const RegFileEntry *entry = file->entry->reg;
	struct stat st;
	if (procfile_pid(entry->name) || ghost_is(p, file) || file->waits_for_mounts)
		return 0; /* of a process that is still to come; made by the restore */
	if (lstat(entry->name, &st) < 0) {
		error_errno(err, FERRY_ERROR_FILES_CHANGED, errno, "'%s' is needed by the image",
			    entry->name);
		error_hint(err, "put the file back where it was when the dump was taken");
		return -errno;
	}
	if (entry->has_mode && (st.st_mode & S_IFMT) != (entry->mode & S_IFMT))
		return error_set(err, FERRY_ERROR_FILES_CHANGED, EBADF,
				 "'%s' is of another type than when the dump was taken", entry->name);
	if (checks->rights && entry->has_mode && S_ISREG(st.st_mode) &&
	    (st.st_mode & 0777) != (entry->mode & 0777)) {
		error_set(err, FERRY_ERROR_FILES_CHANGED, EBADF,
			  "'%s' had the permissions %03o when the dump was taken and has %03o now",
			  entry->name, entry->mode & 0777, (unsigned)st.st_mode & 0777);
		error_hint(err, "set them back, or accept them with --skip-file-rwx-check");
		return -EBADF;
	}
	if (regfile_has_checked_size(entry, checks) && entry->has_size && S_ISREG(st.st_mode) &&
	    (uint64_t)st.st_size != entry->size) {
		error_set(err, FERRY_ERROR_FILES_CHANGED, EBADF,
			  "'%s' had %llu bytes when the dump was taken and has %llu now", entry->name,
			  (unsigned long long)entry->size, (unsigned long long)st.st_size);
		error_hint(err,
			   "restore the file from the time of the dump, or restore with --files=as-found");
		return -EBADF;
	}
	return checks->programs ? regfile_verify_build(entry, err) : 0;
}

int regfile_open(struct opener *o, struct plan_file *file, int flags, int *ret_fd, struct ferry_error *err)
{
	const RegFileEntry *reg = file->entry->reg;
	if (!reg)
		return fdcommon_no_record(file, err);
	if (ghost_is(o->plan, file))
		return ghost_open(o, file, flags, ret_fd, err);
	/* O_TMPFILE would make a file; what had it and has a name now was given that later. */
	int clean = flags & ~(REGFILE_FLAGS_DROP | (O_TMPFILE & ~O_DIRECTORY));
	if (flags & O_TMPFILE & ~O_DIRECTORY)
		clean &= ~O_DIRECTORY;
	int fd = mounts_open_file(o, file, clean | O_NOCTTY);
	if (fd == -EXDEV)
		fd = fd_open(AT_FDCWD, reg->name, clean | O_NOCTTY, 0);
	/* Images of CRIU name one file of a process that had ended, which is to stand for all. */
	pid_t ended = fd == -ENOENT ? procfile_pid(reg->name) : 0;
	if (ended && !plan_task(o->plan, ended))
		return procfile_open_ended(o, reg, ended, clean, ret_fd, err);
	if (fd < 0) {
		error_errno(err, FERRY_ERROR_FILES_CHANGED, -fd, "opening '%s'", reg->name);
		error_hint(err, "the file must be there with the rights that it had");
		return fd;
	}
	*ret_fd = fd;
	return 0;
}

static int regfile_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err)
{
	const RegFileEntry *reg = file->entry->reg;
	_cleanup_close_ int fd = -1;
	int r = reg ? regfile_open(o, file, (int)reg->flags, &fd, err) : fdcommon_no_record(file, err);
	if (r < 0)
		return r;
	int flags = (int)reg->flags;
	if (reg->pos && !(flags & O_PATH) && lseek(fd, (off_t)reg->pos, SEEK_SET) < 0 && errno != ESPIPE)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "seeking in '%s' to %llu", reg->name,
				   (unsigned long long)reg->pos);
	*ret_fd = take_fd(fd);
	return 0;
}

static bool regfile_is_last(const struct plan_file *file)
{
	return file->entry->reg && (file->waits_for_mounts || procfile_pid(file->entry->reg->name));
}

static int regfile_settle(struct settle *s unused, struct plan_file *file, int fd, struct ferry_error *err)
{
	return fdcommon_settle_owner(file->entry->reg->fown, fd, err);
}

/* What a task works with and runs, before anything stops. */
static int regfile_check_task(pid_t pid, int proc_dir, const struct proc_status *status unused,
			      const struct kind_options *options, struct ferry_error *err)
{
	static const char *const links[] = {"cwd", "root", "exe"};
	struct arena a = {0};
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(links) && r >= 0; i++) {
		_cleanup_free_ char *path = NULL;
		char who[64], source[64], name[PATH_MAX];
		struct file_object o = {.who = who, .source = source};
		if (proc_read_link(proc_dir, links[i], &path, NULL) < 0 ||
		    fstatat(proc_dir, links[i], &o.st, 0) < 0)
			continue; /* it is ending */
		o.link = path;
		snprintf(source, sizeof(source), "/proc/%d/%s", proc_look(pid), links[i]);
		const struct regfile_place place = {regfile_way(&o, options, name), name};
		if (place.way == REACH_PATH)
			continue;
		snprintf(who, sizeof(who), "%s of pid %d", links[i], pid);
		r = regfile_check_place(&o, &place, &a, options, err);
	}
	arena_release(&a);
	return r;
}

/* ------------------------------------------------------------------------- mappings */

static bool regfile_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_FILE;
}

/*
 * Files whose mappings were met in this check or collect. Those of all processes are of the same few as a rule, and what was found
 * out about a name and its file holds for each.
 */
struct regfile_seen {
	struct regfile_seen *next;
	uint64_t dev, ino; /* as mappings have them */
	const char *name, *source;
	bool deleted;
	struct stat st;
	bool kept; /* in the snapshot, with these flags and this index */
	uint32_t flags, file;
};

/* Where one that is called like this is, or belongs; NULL: memory is short. */
static struct regfile_seen **regfile_seen(const struct vma_view *view)
{
	const struct proc_vma *vma = view->vma;
	struct regfile_data *data = regfile_data(view->kind_data, view->arena);
	struct regfile_seen **at = data ? &data->seen[(vma->ino ^ vma->dev) % REGFILE_SEEN] : NULL;
	while (at && *at &&
	       ((*at)->ino != vma->ino || (*at)->dev != vma->dev || (*at)->deleted != (bool)vma->deleted ||
		strcmp((*at)->name, view->name) != 0))
		at = &(*at)->next;
	return at;
}

/* Without memory for it it will be looked at again. */
static void regfile_see(const struct vma_view *view, const struct file_object *o)
{
	struct regfile_seen **at = regfile_seen(view);
	struct regfile_seen *seen = at && !*at ? arena_new(view->arena, struct regfile_seen) : NULL;
	char *name = seen ? arena_string(view->arena, view->name) : NULL;
	char *source = name ? arena_string(view->arena, o->source) : NULL;
	if (!source)
		return;
	*seen = (struct regfile_seen){.dev = view->vma->dev,
				      .ino = view->vma->ino,
				      .name = name,
				      .source = source,
				      .deleted = view->vma->deleted,
				      .st = o->st};
	*at = seen;
}

/* The file of a mapping; /proc/PID/maps and map_files name it alike. */
static int regfile_mapped_object(const struct vma_view *view, struct regfile_seen **seen,
				 struct regfile_names *names, struct file_object *ret_object,
				 struct ferry_error *err)
{
	const struct proc_vma *vma = view->vma;
	snprintf(names->who, sizeof(names->who), "mapping %llx of pid %d", (unsigned long long)vma->start,
		 view->pid);
	snprintf(names->source, sizeof(names->source), "/proc/%d/map_files/%llx-%llx", view->look,
		 (unsigned long long)vma->start, (unsigned long long)vma->end);
	snprintf(names->link, sizeof(names->link), "%s%s", view->name, vma->deleted ? " (deleted)" : "");
	*ret_object = (struct file_object){.who = names->who, .link = names->link, .source = names->source};
	if (seen && *seen) {
		ret_object->source = (*seen)->source;
		ret_object->st = (*seen)->st;
		return 0;
	}
	int r = stat(names->source, &ret_object->st) < 0 ? -errno : 0;
	/* An ordinary user may not follow that link; the path leads to the same file as a rule. */
	if (r == -EPERM && !vma->deleted && stat(view->name, &ret_object->st) == 0 &&
	    ret_object->st.st_ino == vma->ino && ret_object->st.st_dev == vma->dev) {
		snprintf(names->source, sizeof(names->source), "%s", view->name);
		r = 0;
	}
	if (r == -EPERM && fdcommon_reach_mapped(view, names->source))
		r = stat(names->source, &ret_object->st) < 0 ? -errno : 0;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "%s: looking at '%s'", names->who,
				   view->name);
	return 0;
}

static int regfile_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	struct regfile_names names;
	struct file_object object;
	struct regfile_seen **seen = regfile_seen(view);
	if (seen && *seen)
		return 0;
	int r = regfile_mapped_object(view, seen, &names, &object, NULL);
	if (r == -EPERM)
		return fdcommon_check_map_files(view, err);
	/* It was unmapped meanwhile. */
	if (r < 0)
		return 0;
	r = regfile_check_object(&object, view->arena, view->options, err);
	if (r >= 0)
		regfile_see(view, &object);
	return r;
}

/* The build of what is executed is read when everything was collected: opening a file is seen by those who watch it. */
static int regfile_note_executed(struct collect *c, const struct file_object *o, struct snap_file *file)
{
	struct regfile_found *found = file->data;
	if (!found)
		file->data = found = arena_new(&c->snap->arena, struct regfile_found);
	if (!found || found->executed)
		return found ? 0 : -ENOMEM;
	found->executed = arena_string(&c->snap->arena, o->source);
	return found->executed ? 0 : -ENOMEM;
}

static int regfile_collect_vma(struct collect *c, struct snap_task *t, const struct vma_view *view,
			       struct snap_vma *vma, struct ferry_error *err)
{
	struct regfile_names names;
	struct file_object object;
	struct regfile_seen **seen = regfile_has_several(c) ? NULL : regfile_seen(view);
	uint32_t flags = fdcommon_mapped_flags(view);
	bool kept = seen && *seen && (*seen)->kept && (*seen)->flags == flags;
	int r = regfile_mapped_object(view, seen, &names, &object, err);
	if (kept)
		vma->file = (*seen)->file;
	else if (r >= 0)
		r = regfile_collect_path(c, t->pid, &object, flags, &vma->file, err);
	if (r >= 0 && seen && *seen) {
		(*seen)->kept = true;
		(*seen)->flags = flags;
		(*seen)->file = vma->file;
	}
	bool executed = r >= 0 && view->vma->prot & PROT_EXEC;
	if (executed && regfile_note_executed(c, &object, &c->snap->files.v[vma->file]) < 0)
		r = error_memory(err);
	if (r >= 0)
		fdcommon_mapped(c, view, vma);
	return r;
}

/* What is not of a kind before us in the list. */
static bool regfile_owns_record(const VmaEntry *entry)
{
	return entry->status & (VMA_STATUS_FILE_PRIVATE | VMA_STATUS_FILE_SHARED);
}

const struct kind_ops kind_regfile = {
	.name = "regfile",
	.what = "regular files, directories, symbolic links, stateless device nodes, also deleted ones",
	.fd_type = FD_TYPES__REG,
	.image_file = IMAGE_REMAP_FPATH,
	.is_last = regfile_is_last,
	.owns = regfile_owns,
	.check = regfile_check,
	.collect = regfile_collect,
	.collect_end = regfile_collect_end,
	.dump = regfile_dump,
	.read = ghost_read,
	.restore = regfile_restore,
	.settle = regfile_settle,
	.ready = ghost_ready,
	.before_run = ghost_before_run,
	.check_task = regfile_check_task,
	.owns_vma = regfile_owns_vma,
	.check_vma = regfile_check_vma,
	.collect_vma = regfile_collect_vma,
	.owns_record = regfile_owns_record,
	.map = fdcommon_map,
};
