/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns bringing back files that have no name, or not the one that they were opened by. A regular file is made without a name
 * (O_TMPFILE), filled, linked under the name it had, opened wherever the image needs it, and unlinked again: for an instant
 * the name is there, complete. Should somebody else have it by now, a similar one is taken. Everything else is made under the name at
 * once. Folders that are missing on the way are made and removed, too.
 *
 * Kernel interface: open(2) O_TMPFILE (3.11), linkat(2) of /proc/self/fd/N, mkdirat(2), mknodat(2), symlinkat(2).
 * Does not handle: a file that lies on a file system mounted read-only since.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/warden.h"
#include "image/dir.h"
#include "image/proto/ghost-file.pb-c.h"
#include "kind/ghost.h"
#include "kind/ghost_plan.h"
#include "kind/procfile.h"

enum {
	GHOST_NAMES_MAX = 1000, /* similar names that are tried */
	GHOST_FOLDERS_MAX = 64, /* missing folders on the way to a name */
	GHOST_BUFFER_BYTES = 1 << 20,
	GHOST_MODE_BITS = 07777,
	/* What counts once, when a file is opened. */
	GHOST_FLAGS_DROP = O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_CLOEXEC,
	GHOST_TMPFILE = O_TMPFILE & ~O_DIRECTORY,
};

/* A name in a folder, while something is under it. */
struct ghost_place {
	const char *name; /* wanted, absolute */
	char *folder;
	int dir; /* O_PATH */
	char base[NAME_MAX + 1];
	int entry; /* in the undo log; -1 = nothing is there */
	bool is_folder;
	struct {
		char *path;
		int entry;
	} made[GHOST_FOLDERS_MAX]; /* folders on the way, outermost first */
	size_t n_made;
};

/* --------------------------------------------------------------------------- names */

/* The warden stays in the root that ferry was started in. */
static const char *place_root(const struct opener *o, char ret[32])
{
	snprintf(ret, 32, "/proc/%d/root", getpid());
	return plan_own_ns(o->plan, PROC_NS_MNT) ? ret : "";
}

/* Enter a name that is about to appear into the undo log. ino: remove only that one, 0 = whatever is there. */
static int place_arm(struct opener *o, const char *folder, int dir, const char *base, bool is_folder,
		     uint64_t ino)
{
	char path[PATH_MAX], root[32];
	int n = snprintf(path, sizeof(path), "%s%s/%s", place_root(o, root), folder[1] ? folder : "", base);
	if (n >= WARDEN_DATA_BYTES && dir < 0)
		return -ENAMETOOLONG;
	if (n >= WARDEN_DATA_BYTES)
		n = snprintf(path, sizeof(path), "/proc/%d/fd/%d/%s", getpid(), dir, base);
	return n >= PATH_MAX ? -ENAMETOOLONG
			     : warden_arm(o->warden, WARDEN_UNLINK, is_folder, ino, path, (size_t)n + 1);
}

static int place_make_folder(struct opener *o, struct ghost_place *p, char *path)
{
	char *slash = strrchr(path, '/');
	if (p->n_made == GHOST_FOLDERS_MAX || !slash)
		return -ENOENT;
	*slash = '\0';
	int entry = place_arm(o, *path ? path : "/", -1, slash + 1, true, 0);
	*slash = '/';
	if (entry < 0)
		return entry;
	char *copy = arena_string(&o->plan->arena, path);
	if (!copy || mkdir(path, 0700) < 0) {
		int r = copy ? -errno : -ENOMEM;
		warden_disarm(o->warden, entry);
		return r;
	}
	p->made[p->n_made].path = copy;
	p->made[p->n_made++].entry = entry;
	return 0;
}

/* Every folder on the way that is missing. */
static int place_make_way(struct opener *o, struct ghost_place *p)
{
	char path[PATH_MAX];
	int r = 0;
	snprintf(path, sizeof(path), "%s", p->folder);
	for (char *at = path + 1; r >= 0 && *at; at++) {
		at = strchrnul(at, '/');
		char kept = *at;
		*at = '\0';
		if (access(path, F_OK) < 0)
			r = place_make_folder(o, p, path);
		*at = kept;
		if (!kept)
			break;
	}
	return r;
}

static void place_close(struct opener *o, struct ghost_place *p)
{
	if (p->entry >= 0 && !unlinkat(p->dir, p->base, p->is_folder ? AT_REMOVEDIR : 0))
		warden_disarm(o->warden, p->entry);
	p->entry = -1;
	while (p->n_made--)
		if (!rmdir(p->made[p->n_made].path))
			warden_disarm(o->warden, p->made[p->n_made].entry);
	p->n_made = 0;
	if (p->dir >= 0)
		close(p->dir);
	p->dir = -1;
}

static int place_open(struct opener *o, const char *name, struct ghost_place *p, struct ferry_error *err)
{
	const char *slash = strrchr(name, '/');
	*p = (struct ghost_place){.name = name, .dir = -1, .entry = -1};
	p->folder = arena_string(&o->plan->arena, name);
	if (!p->folder)
		return error_memory(err);
	p->folder[slash == name ? 1 : slash - name] = '\0';
	int r = place_make_way(o, p);
	p->dir = r < 0 ? r : fd_open(AT_FDCWD, p->folder, O_PATH | O_DIRECTORY, 0);
	if (p->dir >= 0)
		return 0;
	r = p->dir;
	place_close(o, p);
	return error_errno(err, FERRY_ERROR_FILES_CHANGED, -r, "the folder of '%s'", name);
}

/* What is put under the name. */
struct ghost_make {
	int inode;                   /* a descriptor to be linked there, or -1: */
	const GhostFileEntry *entry; /* what is to be made */
};

static int place_make(const struct ghost_place *p, const struct ghost_make *make)
{
	char path[64];
	const GhostFileEntry *e = make->entry;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", make->inode);
	if (make->inode >= 0)
		return linkat(AT_FDCWD, path, p->dir, p->base, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
	if (S_ISDIR(e->mode))
		return mkdirat(p->dir, p->base, 0700) < 0 ? -errno : 0;
	if (S_ISLNK(e->mode))
		return symlinkat(e->symlnk_target, p->dir, p->base) < 0 ? -errno : 0;
	return mknodat(p->dir, p->base, (e->mode & S_IFMT) | 0600, e->has_rdev ? e->rdev : 0) < 0 ? -errno
												  : 0;
}

/* Put it under the name that it had, or under a similar one. */
static int place_fill(struct opener *o, struct ghost_place *p, const struct ghost_make *make,
		      struct ferry_error *err)
{
	struct stat st = {0};
	const char *wanted = strrchr(p->name, '/') + 1;
	int r = make->inode >= 0 && fstat(make->inode, &st) < 0 ? -errno : -EEXIST;
	p->is_folder = make->inode < 0 && S_ISDIR(make->entry->mode);
	for (int i = 0; r == -EEXIST && i < GHOST_NAMES_MAX; i++) {
		struct stat there;
		int keep = NAME_MAX - 20;
		if (i)
			snprintf(p->base, sizeof(p->base), "%.*s.ferry-%d", keep, wanted, i);
		else
			snprintf(p->base, sizeof(p->base), "%s", wanted);
		if (!fstatat(p->dir, p->base, &there, AT_SYMLINK_NOFOLLOW))
			continue;
		r = place_arm(o, p->folder, p->dir, p->base, p->is_folder, st.st_ino);
		p->entry = r;
		fault_effect(o->fault, "restore", "ghost-name");
		if (r >= 0)
			r = place_make(p, make);
		if (r >= 0)
			return 0;
		warden_disarm(o->warden, p->entry);
		p->entry = -1;
	}
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "making the file that was called '%s'",
			   p->name);
}

/* ------------------------------------------------------------------------ contents */

static int ghost_fill_chunk(struct image_reader *in, int fd, uint64_t at, uint64_t n, char *buffer,
			    struct ferry_error *err)
{
	while (n) {
		size_t piece = (size_t)MIN(n, (uint64_t)GHOST_BUFFER_BYTES);
		int r = image_get_raw(in, buffer, piece, err);
		if (r < 0)
			return r;
		r = fd_pwrite_all(fd, buffer, piece, at);
		if (r < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
					   "writing the contents of a deleted file");
		at += piece;
		n -= piece;
	}
	return 0;
}

static int ghost_fill_chunks(struct image_reader *in, const GhostFileEntry *e, int fd, char *buffer,
			     struct ferry_error *err)
{
	for (;;) {
		_cleanup_message_ GhostChunkEntry *chunk = NULL;
		int r = image_get(in, &ghost_chunk_entry__descriptor, &chunk, err);
		if (r <= 0)
			return r;
		if (chunk->off > e->size || chunk->len > e->size - chunk->off)
			return image_bad(in, err, "a chunk lies behind the end of its file");
		r = ghost_fill_chunk(in, fd, chunk->off, chunk->len, buffer, err);
		if (r < 0)
			return r;
	}
}

static int ghost_fill(struct opener *o, const struct ghost_plan *g, int fd, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	_cleanup_message_ GhostFileEntry *head = NULL;
	_cleanup_free_ char *buffer = malloc(GHOST_BUFFER_BYTES);
	if (!buffer)
		return error_memory(err);
	int r = image_open(o->dir, IMAGE_GHOST_FILE, g->id, &in, err);
	if (r >= 0)
		r = image_need(in, &ghost_file_entry__descriptor, &head, err);
	if (r < 0)
		return r;
	if (!g->entry->has_chunks || !g->entry->chunks)
		return ghost_fill_chunk(in, fd, 0, image_reader_left(in), buffer, err);
	if (ftruncate(fd, (off_t)g->entry->size) < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno,
				   "making a deleted file %llu bytes large",
				   (unsigned long long)g->entry->size);
	return ghost_fill_chunks(in, g->entry, fd, buffer, err);
}

static struct timespec ghost_time(bool has_ns, int64_t ns, const Timeval *tv)
{
	struct timespec ts = {.tv_nsec = UTIME_OMIT};
	if (has_ns)
		ts = (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	else if (tv && tv->tv_usec < 1000000)
		ts = (struct timespec){.tv_sec = (time_t)tv->tv_sec, .tv_nsec = (long)tv->tv_usec * 1000};
	return ts;
}

/* Owner, mode, attributes; the times last. fd may be O_PATH. */
static int ghost_adorn(const struct ghost_plan *g, int fd, struct ferry_error *err)
{
	const GhostFileEntry *e = g->entry;
	const FerryGhostEntry *x = g->extra;
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int r = chown(path, e->uid, e->gid) < 0 ? -errno : 0;
	if (r >= 0 && !S_ISLNK(e->mode))
		r = chmod(path, e->mode & GHOST_MODE_BITS) < 0 ? -errno : 0;
	for (size_t i = 0; x && i < x->n_xattrs && r >= 0; i++)
		if (setxattr(path, x->xattrs[i]->name, x->xattrs[i]->value.data, x->xattrs[i]->value.len, 0) <
		    0)
			r = -errno;
	struct timespec times[2] = {
		ghost_time(x && x->has_atime_ns, x ? x->atime_ns : 0, e->atim),
		ghost_time(x && x->has_mtime_ns, x ? x->mtime_ns : 0, e->mtim),
	};
	if (r >= 0 && utimensat(AT_FDCWD, path, times, 0) < 0)
		r = -errno;
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "giving a deleted file its owner, mode, attributes and times")
		     : 0;
}

/* ------------------------------------------------------------------------- opening */

static int ghost_seek(const RegFileEntry *reg, int fd, struct ferry_error *err)
{
	if (!reg->pos || reg->flags & O_PATH || lseek(fd, (off_t)reg->pos, SEEK_SET) >= 0 || errno == ESPIPE)
		return 0;
	return error_errno(err, FERRY_ERROR_RESTORE_STEP, errno, "seeking in '%s' to %llu", reg->name,
			   (unsigned long long)reg->pos);
}

/* Open under its name what the image needs of this ghost: by then the name is there, with every flag. */
static int ghost_open_files(struct ghost_plan *g, const struct ghost_place *p, struct ferry_error *err)
{
	vec_foreach(slot, &g->files) {
		struct plan_file *file = *slot;
		const RegFileEntry *reg = file->entry->reg;
		bool waits = S_ISFIFO(g->entry->mode) && !(reg->flags & O_PATH);
		if (file->fd >= 0 || file->entry->type != FD_TYPES__REG || waits)
			continue;
		int flags = (int)reg->flags & ~(GHOST_FLAGS_DROP | GHOST_TMPFILE);
		_cleanup_close_ int fd = fd_open(p->dir, p->base, flags | O_NOCTTY, 0);
		if (fd < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening '%s'", reg->name);
		int r = ghost_seek(reg, fd, err);
		if (r < 0)
			return r;
		file->fd = take_fd(fd);
	}
	return 0;
}

/* The name of a file of O_TMPFILE is its inode's number, which will be another. */
static bool ghost_is_nameless(const struct ghost_plan *g, const char *name)
{
	const char *base = strrchr(name, '/') + 1;
	return S_ISREG(g->entry->mode) && base[0] == '#' && base[1] &&
	       !base[1 + strspn(base + 1, "0123456789")];
}

/* The description that made a file without a name: it may give it one later, so it has to be made in the same way. */
static struct plan_file *ghost_maker(const struct ghost_plan *g)
{
	vec_foreach(slot, &g->files) {
		if ((*slot)->entry->reg->flags & GHOST_TMPFILE && (*slot)->fd < 0)
			return *slot;
	}
	return NULL;
}

/* A regular file without a name; *ret_fd: open for reading and writing. */
static int ghost_make_regular(struct opener *o, struct ghost_plan *g, const struct ghost_place *p,
			      int *ret_fd, struct ferry_error *err)
{
	char path[64];
	struct plan_file *maker = ghost_is_nameless(g, p->name) ? ghost_maker(g) : NULL;
	int flags = maker ? (int)maker->entry->reg->flags & ~GHOST_FLAGS_DROP : O_RDWR;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->dir);
	_cleanup_close_ int fd = fd_open(AT_FDCWD, path, flags | O_TMPFILE, 0600);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "making a file in '%s'", p->folder);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	_cleanup_close_ int writes = fd_open(AT_FDCWD, path, O_RDWR, 0);
	if (writes < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -writes, "opening the file that was '%s'",
				   p->name);
	int r = ghost_fill(o, g, writes, err);
	if (r >= 0 && maker)
		r = ghost_seek(maker->entry->reg, fd, err);
	if (r < 0)
		return r;
	if (maker)
		maker->fd = take_fd(fd);
	*ret_fd = take_fd(writes);
	return 0;
}

/* Files that were opened again through the descriptor of one that has no name. */
static int ghost_open_nameless(struct ghost_plan *g, struct ferry_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", g->fd);
	vec_foreach(slot, &g->files) {
		struct plan_file *file = *slot;
		int flags = (int)file->entry->reg->flags & ~(GHOST_FLAGS_DROP | GHOST_TMPFILE | O_NOFOLLOW);
		if (file->fd >= 0)
			continue;
		_cleanup_close_ int fd = fd_open(AT_FDCWD, path, flags, 0);
		if (fd < 0)
			return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening '%s'",
					   file->entry->reg->name);
		int r = ghost_seek(file->entry->reg, fd, err);
		if (r < 0)
			return r;
		file->fd = take_fd(fd);
	}
	return 0;
}

/* A descriptor that leads to the ghost whatever becomes of its names. */
static int ghost_hold(struct opener *o, struct ghost_plan *g, int dir, const char *path,
		      struct ferry_error *err)
{
	int flags = O_PATH | (dir == AT_FDCWD ? 0 : O_NOFOLLOW);
	g->fd = plan_keep_source(o->plan, fd_open(dir, path, flags, 0));
	return g->fd < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -g->fd, "opening a deleted file") : 0;
}

static int ghost_make_named(struct opener *o, struct ghost_plan *g, struct ghost_place *p, int inode,
			    struct ferry_error *err)
{
	struct ghost_make make = {.inode = inode, .entry = g->entry};
	int r = place_fill(o, p, &make, err);
	if (r >= 0)
		r = ghost_hold(o, g, p->dir, p->base, err);
	if (r >= 0 && inode < 0)
		r = ghost_adorn(g, g->fd, err);
	return r < 0 ? r : ghost_open_files(g, p, err);
}

static int ghost_make(struct opener *o, struct ghost_plan *g, const char *name, struct ferry_error *err)
{
	struct ghost_place p;
	char path[64];
	int r = place_open(o, name, &p, err);
	if (r < 0)
		return r;
	_cleanup_close_ int inode = -1;
	if (S_ISREG(g->entry->mode))
		r = ghost_make_regular(o, g, &p, &inode, err);
	if (r >= 0 && inode >= 0)
		r = ghost_adorn(g, inode, err);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", inode);
	if (r >= 0 && ghost_is_nameless(g, name)) {
		r = ghost_hold(o, g, AT_FDCWD, path, err);
		if (r >= 0)
			r = ghost_open_nameless(g, err);
	} else if (r >= 0) {
		r = ghost_make_named(o, g, &p, inode, err);
	}
	place_close(o, &p);
	return r;
}

/* Through what leads to any file that a descriptor refers to, for kinds that open it in a way of their own. */
static int ghost_open_again(const struct ghost_plan *g, int flags, int *ret_fd, struct ferry_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", g->fd);
	int fd = fd_open(AT_FDCWD, path, flags & ~(GHOST_FLAGS_DROP | GHOST_TMPFILE | O_NOFOLLOW), 0);
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening a deleted file");
	*ret_fd = fd;
	return 0;
}

/* Give an inode that has other names the one that is wanted for as long as it takes to open it. */
static int ghost_open_linked(struct opener *o, const char *name, int inode, int flags, int *ret_fd,
			     struct ferry_error *err)
{
	struct ghost_place p;
	struct ghost_make make = {.inode = inode};
	int r = place_open(o, name, &p, err);
	if (r < 0)
		return r;
	r = place_fill(o, &p, &make, err);
	int fd = r < 0 ? r : fd_open(p.dir, p.base, flags & ~GHOST_FLAGS_DROP, 0);
	place_close(o, &p);
	if (r < 0)
		return r;
	if (fd < 0)
		return error_errno(err, FERRY_ERROR_RESTORE_STEP, -fd, "opening '%s'", name);
	*ret_fd = fd;
	return 0;
}

static int ghost_open_reach(struct opener *o, const struct ghost_remap *m, const char *name, int flags,
			    int *ret_fd, struct ferry_error *err)
{
	bool deleted = m->linked || (m->reach->has_deleted && m->reach->deleted);
	int want = deleted ? O_PATH : flags & ~GHOST_FLAGS_DROP;
	int fd;
	if (m->linked)
		fd = fd_open(AT_FDCWD, m->linked, O_PATH | O_NOFOLLOW, 0);
	else
		fd = reach_open(m->reach, want, o->options->moving, err);
	if (fd < 0)
		return m->linked ? error_errno(err, FERRY_ERROR_FILES_CHANGED, -fd,
					       "opening '%s', which the dump made", m->linked)
				 : fd;
	if (!deleted) {
		*ret_fd = fd;
		return 0;
	}
	int r = ghost_open_linked(o, name, fd, flags, ret_fd, err);
	close(fd);
	return r;
}

int ghost_open(struct opener *o, struct plan_file *file, int flags, int *ret_fd, struct ferry_error *err)
{
	struct ghost_remap *m = ghost_remap_of(o->plan, file);
	const char *name = file->entry->reg->name;
	if (!m)
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "'%s' is no ghost", name);
	if (m->process)
		return procfile_open_ended(o, file->entry->reg, m->process, flags, ret_fd, err);
	if (!m->ghost)
		return ghost_open_reach(o, m, name, flags, ret_fd, err);
	int r = m->ghost->fd < 0 ? ghost_make(o, m->ghost, name, err) : 0;
	if (r < 0)
		return r;
	if (file->fd < 0)
		return ghost_open_again(m->ghost, flags, ret_fd, err);
	*ret_fd = file->fd;
	return 0;
}

/* The links that a dump left go when the job is sure, also if we die then. */
int ghost_ready(struct opener *o, struct ferry_error *err)
{
	const struct ghost_image *image = ghost_image(o->plan);
	for (struct ghost_remap *m = image->remaps; m; m = m->next) {
		char path[PATH_MAX], root[32];
		size_t n = !m->linked ? 0
				      : (size_t)snprintf(path, sizeof(path), "%s%s", place_root(o, root),
							 m->linked) +
						1;
		int r = n && n <= MIN(WARDEN_DATA_BYTES, sizeof(path))
				? warden_arm(o->warden, WARDEN_REMOVE, 0, 0, path, n)
				: 0;
		if (r < 0)
			return error_errno(err, FERRY_ERROR_LIMIT, -r, "entering '%s' into the undo log",
					   m->linked);
	}
	return 0;
}

void ghost_before_run(struct opener *o)
{
	const struct ghost_image *image = ghost_image(o->plan);
	for (const struct ghost_remap *m = image->remaps; m; m = m->next) {
		if (!m->linked)
			continue;
		fault_effect(o->fault, "restore", "remove-link");
		if (unlink(m->linked) < 0 && errno != ENOENT)
			log_write(o->log, LOG_WARN, "restore", "regfile", 0, "removing '%s' failed, ignoring",
				  m->linked);
	}
}
