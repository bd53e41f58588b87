/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns idmapped mounts: asking the kernel what they make of ids, and making others that do the same. The map belongs to the mount; it is
 * given by a user namespace that nobody else has.
 *
 * Kernel interface: statmount(2) STATMOUNT_MNT_UIDMAP (6.15), statx(2) STATX_MNT_ID_UNIQUE (6.8), mount_setattr(2) MOUNT_ATTR_IDMAP (5.12).
 * Does not handle: mounts that others hide, older kernels: the map is not known then.
 */
#include "kind/mounts_ids.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/userns.h"
#include "kernel/syscalls.h"
#include "kind/ns_user.h"
#include "model/record.h"
#include "proc/lex.h"
#include "proc/read.h"

enum { IDS_ROOM_BYTES = 64 * 1024 };

/* -------------------------------------------------------------------- look */

/* Lines of a user namespace's map, one behind the other, each with its end. */
static bool ids_parse(const char *text, const char *end, uint32_t n, struct userns_extent *ret)
{
	if (n > USERNS_EXTENTS)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		size_t bytes = strnlen(text, (size_t)(end - text));
		struct lex l = lex_new(text, bytes);
		struct userns_extent *e = &ret[i];
		if (!lex_u32(&l, &e->first) || !lex_char(&l, ' ') || !lex_u32(&l, &e->lower) ||
		    !lex_char(&l, ' ') || !lex_u32(&l, &e->count) || !lex_done(&l) || text + bytes == end)
			return false;
		text += bytes + 1;
	}
	return true;
}

/* mount 0: there is none. ns_id 0: of the namespace that ferry sees. */
static bool ids_ask(uint64_t mount, uint64_t ns_id, struct kern_statmount *buf)
{
	const uint64_t wanted = STATMOUNT_MNT_BASIC | STATMOUNT_MNT_UIDMAP | STATMOUNT_MNT_GIDMAP;
	return mount && sys_statmount(mount, ns_id, wanted, buf, IDS_ROOM_BYTES) >= 0;
}

static bool ids_read(const struct kern_statmount *buf, struct userns_about *ret)
{
	const uint64_t wanted = STATMOUNT_MNT_UIDMAP | STATMOUNT_MNT_GIDMAP;
	const char *end = (const char *)buf + MIN((size_t)buf->size, (size_t)IDS_ROOM_BYTES);
	if ((buf->mask & wanted) != wanted || buf->str + buf->mnt_uidmap > end ||
	    buf->str + buf->mnt_gidmap > end ||
	    !ids_parse(buf->str + buf->mnt_uidmap, end, buf->mnt_uidmap_num, ret->uids) ||
	    !ids_parse(buf->str + buf->mnt_gidmap, end, buf->mnt_gidmap_num, ret->gids))
		return false;
	ret->n_uids = buf->mnt_uidmap_num;
	ret->n_gids = buf->mnt_gidmap_num;
	ret->owner = geteuid();
	return true;
}

static int ids_look_one(struct mounts_one *m, int proc_dir, uint64_t ns_id, struct kern_statmount *buf,
			struct arena *a)
{
	char path[MOUNTS_PATH_BYTES + sizeof("root")];
	struct userns_about *about = arena_new(a, struct userns_about);
	if (!about)
		return -ENOMEM;
	if ((size_t)snprintf(path, sizeof(path), "root%s", m->point) < sizeof(path) &&
	    ids_ask(sys_mount_unique_id(proc_dir, path, AT_SYMLINK_NOFOLLOW), ns_id, buf) &&
	    buf->mnt_id_old == m->id && ids_read(buf, about))
		m->ids = about;
	return 0;
}

int mounts_look_ids(struct mounts_list *l, int proc_dir, struct arena *a, struct ferry_error *err)
{
	_cleanup_free_ struct kern_statmount *buf = NULL;
	uint64_t ns_id = 0;
	int r = 0;
	for (size_t i = 0; i < l->n && r >= 0; i++) {
		if (!l->v[i].idmapped)
			continue;
		if (!buf) {
			_cleanup_close_ int ns = proc_open_namespace(proc_dir, PROC_NS_MNT, err);
			buf = malloc(IDS_ROOM_BYTES);
			if (ns < 0 || !buf)
				return ns < 0 ? ns : error_memory(err);
			if (ioctl(ns, NS_GET_MNTNS_ID, &ns_id) < 0)
				return 0;
		}
		r = ids_look_one(&l->v[i], proc_dir, ns_id, buf, a);
	}
	return r < 0 ? error_memory(err) : 0;
}

static bool ids_same(const struct userns_extent *a, uint32_t n, const struct userns_extent *b, uint32_t m)
{
	for (uint32_t i = 0; i < n && n == m; i++)
		if (a[i].first != b[i].first || a[i].lower != b[i].lower || a[i].count != b[i].count)
			return false;
	return n == m;
}

bool mounts_same_ids(const struct mounts_one *a, const struct mounts_one *b)
{
	const struct userns_about *x = a->ids, *y = b->ids;
	if (!x || !y)
		return !a->idmapped && !b->idmapped;
	return ids_same(x->uids, x->n_uids, y->uids, y->n_uids) &&
	       ids_same(x->gids, x->n_gids, y->gids, y->n_gids);
}

/* ------------------------------------------------------------------- image */

int mounts_store_ids(struct dump *d, uint32_t id, const struct mounts_list *l, struct ferry_error *err)
{
	struct image_writer *w = NULL;
	struct arena *a = &d->snap->arena;
	int r = 0;
	for (size_t i = 0; i < l->n && r >= 0; i++) {
		FerryIdmapEntry e = FERRY_IDMAP_ENTRY__INIT;
		const struct userns_about *ids = l->v[i].ids;
		if (!ids)
			continue;
		e.mnt_id = l->v[i].id;
		if (userns_record_extents(a, ids->uids, ids->n_uids, &e.n_uids, &e.uids) < 0 ||
		    userns_record_extents(a, ids->gids, ids->n_gids, &e.n_gids, &e.gids) < 0)
			r = error_memory(err);
		if (r >= 0 && !w)
			r = image_create(d->dir, IMAGE_FERRY_IDMAPS, id, &w, err);
		if (r >= 0)
			r = image_put(w, &e.base, err);
	}
	int closed = w ? image_close(w, r < 0 ? NULL : err) : 0;
	return r < 0 ? r : closed;
}

int mounts_load_ids(struct image_dir *dir, uint32_t id, struct arena *a, struct mounts_list *l,
		    struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	int r = image_open_optional(dir, IMAGE_FERRY_IDMAPS, id, &in, err);
	for (int got = 1; in && r >= 0 && got;) {
		_cleanup_message_ FerryIdmapEntry *e = NULL;
		r = got = image_get(in, &ferry_idmap_entry__descriptor, &e, err);
		if (got <= 0)
			break;
		struct userns_about *about = arena_new(a, struct userns_about);
		if (!about)
			return error_memory(err);
		about->owner = geteuid();
		if (userns_take_extents(e->uids, e->n_uids, about->uids, &about->n_uids) < 0 ||
		    userns_take_extents(e->gids, e->n_gids, about->gids, &about->n_gids) < 0)
			return image_bad(in, err, "mount %u has too many ids", e->mnt_id);
		for (size_t i = 0; i < l->n; i++)
			if (l->v[i].id == e->mnt_id)
				l->v[i].ids = about;
	}
	return r < 0 ? r : 0;
}

/* -------------------------------------------------------------------- make */

/* Whoever restores may have made it so himself. */
static bool ids_are_mapped(int fd)
{
	_cleanup_free_ struct kern_statmount *buf = malloc(IDS_ROOM_BYTES);
	return buf && fd >= 0 && ids_ask(sys_mount_unique_id(fd, "", AT_EMPTY_PATH), 0, buf) &&
	       buf->mnt_attr & MOUNT_ATTR_IDMAP;
}

int mounts_map_ids(const struct mounts_one *m, int fd, int of, struct ferry_error *err)
{
	_cleanup_close_ int userns = -1;
	if (!m->ids || ids_are_mapped(of))
		return 0;
	int r = userns_make(-1, m->ids, &userns, err);
	if (r < 0)
		return r;
	const struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)userns};
	r = sys_mount_setattr(fd, "", AT_EMPTY_PATH, &attr);
	return r < 0 ? error_errno(err, FERRY_ERROR_RESTORE_STEP, -r,
				   "letting '%.200s' (%s) show other ids than its file system has", m->point,
				   mounts_type_name(m))
		     : 0;
}
