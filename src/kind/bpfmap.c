/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns BPF maps that a descriptor holds: arrays, hashes, tries of prefixes, with their keys and values, name, flags, whether
 * they are frozen. Programs, links and type information are refused by name.
 *
 * Kernel interface: bpf(2) BPF_OBJ_GET_INFO_BY_FD (4.13), BPF_MAP_GET_NEXT_KEY, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM,
 * BPF_MAP_FREEZE (5.2); /proc/PID/fdinfo memlock and frozen.
 * Does not handle: maps for each processor, ring buffers, queues, maps of maps, programs or sockets: refused; programs: the
 * kernel gives back their translated code, which cannot be loaded again (kernel/bpf/syscall.c, looked at in 6.18); the
 * type information of a map, which only pictures its contents; the order in which a map that forgets was used; who
 * else holds a map, which the kernel does not tell: a pinned map or one that a loaded program uses comes back as a copy;
 * the id of a map.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/proto/bpfmap-data.pb-c.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "model/record.h"
#include "model/records.h"

enum { BPFMAP_BYTES_MAX = 1 << 30 };

/* What of the kernel's is held by a descriptor of this link. */
static const struct bpfmap_link {
	const char *link, *what;
} bpfmap_links[] = {
	{"anon_inode:bpf-map", NULL},
	{"anon_inode:bpf-prog", "BPF program"},
	{"anon_inode:bpf_link", "BPF link"},
	{"anon_inode:bpf-link", "BPF link"},
	{"anon_inode:btf", "BPF type information"},
	{"anon_inode:bpf_iter", "BPF iterator"},
	{"anon_inode:bpf-token", "BPF token"},
};

static const uint32_t bpfmap_types[] = {
	BPF_MAP_TYPE_HASH,
	BPF_MAP_TYPE_ARRAY,
	BPF_MAP_TYPE_LRU_HASH,
	BPF_MAP_TYPE_LPM_TRIE,
};

/* Keys and values, each in one piece. */
struct bpfmap_contents {
	char *keys, *values;
	uint32_t count;
};

static int bpfmap_call(int cmd, union bpf_attr *attr)
{
	long r = syscall(SYS_bpf, cmd, attr, sizeof(*attr));
	return r < 0 ? -errno : (int)r;
}

static int bpfmap_element(int cmd, int fd, const void *key, const void *value)
{
	union bpf_attr attr = {.map_fd = (uint32_t)fd, .key = (uintptr_t)key, .value = (uintptr_t)value};
	return bpfmap_call(cmd, &attr);
}

static const struct bpfmap_link *bpfmap_link(const struct fd_view *view)
{
	for (size_t i = 0; i < ARRAY_SIZE(bpfmap_links); i++)
		if (!strcmp(view->link, bpfmap_links[i].link))
			return &bpfmap_links[i];
	return NULL;
}

static bool bpfmap_owns(const struct fd_view *view)
{
	return bpfmap_link(view);
}

static bool bpfmap_type_known(uint32_t type)
{
	for (size_t i = 0; i < ARRAY_SIZE(bpfmap_types); i++)
		if (bpfmap_types[i] == type)
			return true;
	return false;
}

static int bpfmap_check(const struct fd_view *view, const struct kind_options *options unused,
			struct ferry_error *err)
{
	char who[64];
	const struct bpfmap_link *link = bpfmap_link(view);
	fd_view_name(view, who, sizeof(who));
	if (link && link->what) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: it holds a %s", who, link->what);
		error_hint(err, "the kernel does not give back what was loaded (Linux 6.18)");
		return -ENOTSUP;
	}
	if (view->info->kind != PROC_FDINFO_BPF_MAP || !bpfmap_type_known(view->info->bpf.type)) {
		error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
			  "%s: it holds a BPF map of type %u, which is not dumped", who,
			  view->info->kind == PROC_FDINFO_BPF_MAP ? view->info->bpf.type : 0);
		error_hint(err, "hashes, arrays and tries of prefixes are");
		return -ENOTSUP;
	}
	if ((view->info->flags & O_ACCMODE) != O_RDWR)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "%s: it holds a BPF map for reading or writing alone", who);
	return 0;
}

/* A line of our copy's fdinfo. */
static uint64_t bpfmap_fdinfo(int fd, const char *key)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t n = 0;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (fd_read_path(AT_FDCWD, path, 1 << 16, &text, &n) < 0)
		return 0;
	const char *at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static int bpfmap_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
			  struct ferry_error *err)
{
	struct arena *a = &c->snap->arena;
	BpfmapFileEntry *entry = record_new(a, BpfmapFileEntry, bpfmap_file_entry);
	struct bpf_map_info info = {0};
	int r = entry ? fd_view_copy(view, err) : error_memory(err);
	if (r < 0)
		return r;
	union bpf_attr attr = {
		.info = {.bpf_fd = (uint32_t)view->copy, .info_len = sizeof(info), .info = (uintptr_t)&info}};
	r = bpfmap_call(BPF_OBJ_GET_INFO_BY_FD, &attr);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "fd %d of pid %d: asking for a BPF map",
				   view->fd, view->pid);
	entry->id = file->entry->id;
	entry->flags = fdcommon_flags(view);
	entry->pos = view->info->pos;
	entry->fown = fdcommon_no_owner(a);
	entry->map_type = info.type;
	entry->map_id = info.id;
	entry->key_size = info.key_size;
	entry->value_size = info.value_size;
	entry->max_entries = info.max_entries;
	entry->map_flags = info.map_flags;
	entry->ifindex = info.ifindex;
	entry->memlock = bpfmap_fdinfo(view->copy, "memlock:");
	entry->frozen = bpfmap_fdinfo(view->copy, "frozen:");
	entry->map_name = arena_string(a, info.name);
	record_set(entry, map_extra, info.map_extra);
	if (!entry->fown || !entry->map_name)
		return error_memory(err);
	if (info.ifindex)
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP,
				 "fd %d of pid %d: a BPF map in a network device", view->fd, view->pid);
	file->entry->bpf = entry;
	file->copy = take_fd(view->copy);
	return 0;
}

/* -------------------------------------------------------------------------- contents */

static void bpfmap_contents_release(struct bpfmap_contents *m)
{
	free(m->keys);
	free(m->values);
}

static int bpfmap_load(int fd, const BpfmapFileEntry *e, struct bpfmap_contents *ret)
{
	uint64_t room = e->max_entries;
	if (room * e->key_size > BPFMAP_BYTES_MAX || room * e->value_size > BPFMAP_BYTES_MAX)
		return -E2BIG;
	ret->keys = calloc(room + 1, e->key_size);
	ret->values = calloc(room + 1, e->value_size);
	if (!ret->keys || !ret->values)
		return -ENOMEM;
	const char *last = NULL;
	while (ret->count < room) {
		char *key = ret->keys + (uint64_t)ret->count * e->key_size;
		int r = bpfmap_element(BPF_MAP_GET_NEXT_KEY, fd, last, key);
		if (r == -ENOENT)
			break;
		if (r >= 0)
			r = bpfmap_element(BPF_MAP_LOOKUP_ELEM, fd, key,
					   ret->values + (uint64_t)ret->count * e->value_size);
		/* A program in the kernel may remove it meanwhile. */
		if (r < 0 && r != -ENOENT)
			return r;
		last = key;
		ret->count += r >= 0;
	}
	return 0;
}

static int bpfmap_dump(struct dump *d, struct snap_file *file, struct ferry_error *err)
{
	const BpfmapFileEntry *e = file->entry->bpf;
	_cleanup_(bpfmap_contents_release) struct bpfmap_contents m = {0};
	BpfmapDataEntry data = BPFMAP_DATA_ENTRY__INIT;
	struct image_writer *w;
	int r = bpfmap_load(file->copy, e, &m);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "fd %d of pid %d: reading a BPF map",
				   file->fd, file->pid);
	data.map_id = e->map_id;
	data.count = m.count;
	data.keys_bytes = m.count * e->key_size;
	data.values_bytes = m.count * e->value_size;
	r = fdcommon_writer(d, IMAGE_BPFMAP_DATA, &w, err);
	if (r >= 0)
		r = image_put(w, &data.base, err);
	if (r >= 0)
		r = image_put_raw(w, m.keys, data.keys_bytes, err);
	return r < 0 ? r : image_put_raw(w, m.values, data.values_bytes, err);
}

/* -------------------------------------------------------------------------- restore */

static int bpfmap_take(struct reader *r, struct image_reader *in, void *record, void *context unused,
		       struct ferry_error *err)
{
	const BpfmapDataEntry *data = record;
	struct plan_file *file = NULL;
	for (size_t i = 0; i < r->plan->n_files; i++) {
		const BpfmapFileEntry *e = r->plan->files[i].entry->bpf;
		if (e && r->plan->files[i].kind == &kind_bpfmap && e->map_id == data->map_id)
			file = &r->plan->files[i];
	}
	const BpfmapFileEntry *e = file ? file->entry->bpf : NULL;
	if (!e || file->data || (uint64_t)data->count * e->key_size != data->keys_bytes ||
	    (uint64_t)data->count * e->value_size != data->values_bytes || data->count > e->max_entries)
		return image_bad(in, err, "the contents of BPF map %u make no sense", data->map_id);
	struct bpfmap_contents *m = arena_new(&r->plan->arena, struct bpfmap_contents);
	if (!m)
		return error_memory(err);
	m->keys = arena_alloc(&r->plan->arena, data->keys_bytes + 1);
	m->values = arena_alloc(&r->plan->arena, data->values_bytes + 1);
	m->count = data->count;
	if (!m->keys || !m->values)
		return error_memory(err);
	int ret = image_get_raw(in, m->keys, data->keys_bytes, err);
	if (ret >= 0)
		ret = image_get_raw(in, m->values, data->values_bytes, err);
	file->data = m;
	return ret;
}

static int bpfmap_read(struct reader *r, struct ferry_error *err)
{
	return records_each(r, IMAGE_BPFMAP_DATA, 0, &bpfmap_data_entry__descriptor, bpfmap_take, NULL, err);
}

static int bpfmap_create(const BpfmapFileEntry *e, struct ferry_error *err)
{
	union bpf_attr attr = {
		.map_type = e->map_type,
		.key_size = e->key_size,
		.value_size = e->value_size,
		.max_entries = e->max_entries,
		.map_flags = e->map_flags,
		.map_extra = e->map_extra,
	};
	strncpy(attr.map_name, e->map_name, sizeof(attr.map_name) - 1);
	if (!bpfmap_type_known(e->map_type) || e->ifindex)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				 "a BPF map of type %u is not restored by this ferry", e->map_type);
	int fd = bpfmap_call(BPF_MAP_CREATE, &attr);
	if (fd < 0) {
		error_errno(err, FERRY_ERROR_KERNEL_FEATURE, -fd, "making BPF map '%s' of type %u",
			    e->map_name, e->map_type);
		error_hint(err, "this takes CAP_BPF");
	}
	return fd;
}

static int bpfmap_restore(struct opener *o unused, struct plan_file *file, int *ret_fd,
			  struct ferry_error *err)
{
	const BpfmapFileEntry *e = file->entry->bpf;
	const struct bpfmap_contents *m = file->data;
	if (!e)
		return fdcommon_no_record(file, err);
	_cleanup_close_ int fd = bpfmap_create(e, err);
	int r = fd < 0 ? fd : 0;
	for (uint32_t i = 0; m && i < m->count && r >= 0; i++) {
		r = bpfmap_element(BPF_MAP_UPDATE_ELEM, fd, m->keys + (uint64_t)i * e->key_size,
				   m->values + (uint64_t)i * e->value_size);
		if (r < 0)
			error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "filling BPF map '%s'", e->map_name);
	}
	union bpf_attr freeze = {.map_fd = (uint32_t)fd};
	if (r >= 0 && e->frozen) {
		r = bpfmap_call(BPF_MAP_FREEZE, &freeze);
		if (r < 0)
			error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "freezing BPF map '%s'", e->map_name);
	}
	if (r >= 0)
		*ret_fd = take_fd(fd);
	return r < 0 ? r : 0;
}

const struct kind_ops kind_bpfmap = {
	.name = "bpfmap",
	.what = "BPF maps: arrays, hashes, tries of prefixes",
	.fd_type = FD_TYPES__BPFMAP,
	.image_file = IMAGE_BPFMAP_DATA,
	.owns = bpfmap_owns,
	.check = bpfmap_check,
	.collect = bpfmap_collect,
	.dump = bpfmap_dump,
	.read = bpfmap_read,
	.restore = bpfmap_restore,
};
