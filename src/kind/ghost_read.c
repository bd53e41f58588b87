/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns reading which files of an image do not come back by their path: deleted ones, ones with another name, links that a
 * dump left, files of processes that had ended. Everything is checked here, nothing is made.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "image/dir.h"
#include "image/proto/remap-file-path.pb-c.h"
#include "kind/ghost.h"
#include "kind/ghost_plan.h"
#include "kind/kinds.h"
#include "kind/procfile.h"
#include "model/record.h"
#include "model/records.h"

/* What CRIU calls the links that it makes for files whose name was removed, in their folder. */
#define GHOST_LINK "/link_remap."

struct ghost_image *ghost_image(const struct plan *p)
{
	return p->kind_data[KIND_regfile];
}

static struct ghost_plan *ghost_by_id(const struct plan *p, uint32_t id)
{
	struct ghost_plan *g = ghost_image(p)->ghosts;
	while (g && g->id != id)
		g = g->next;
	return g;
}

struct ghost_remap *ghost_remap_of(const struct plan *p, const struct plan_file *file)
{
	const struct ghost_image *image = ghost_image(p);
	struct ghost_remap *m = image ? image->remaps : NULL;
	while (m && m->file != file)
		m = m->next;
	return m;
}

bool ghost_is(const struct plan *p, const struct plan_file *file)
{
	return ghost_remap_of(p, file);
}

static int ghost_new_remap(struct reader *r, uint32_t id, const char *image, struct ghost_remap **ret,
			   struct ferry_error *err)
{
	struct plan_file *file = plan_file(r->plan, id);
	if (!file || !file->entry->reg || file->entry->reg->name[0] != '/')
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "%s names file id %u, which is no file with a path in files.img", image, id);
	if (ghost_remap_of(r->plan, file))
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "file id %u is remapped twice", id);
	struct ghost_remap *m = arena_new(&r->plan->arena, struct ghost_remap);
	if (!m)
		return error_memory(err);
	m->file = file;
	m->next = ghost_image(r->plan)->remaps;
	ghost_image(r->plan)->remaps = m;
	*ret = m;
	return 0;
}

static int ghost_check_entry(const struct image_reader *in, const GhostFileEntry *e, struct ferry_error *err)
{
	mode_t type = e->mode & S_IFMT;
	if (type != S_IFREG && type != S_IFDIR && type != S_IFIFO && type != S_IFCHR && type != S_IFBLK &&
	    type != S_IFLNK && type != S_IFSOCK)
		return image_bad(in, err, "a deleted file of mode 0%o", e->mode);
	if (type == S_IFLNK && !e->symlnk_target)
		return image_bad(in, err, "a symbolic link without its target");
	if (e->has_chunks && e->chunks && (!e->has_size || e->size > INT64_MAX))
		return image_bad(in, err, "a deleted file in chunks without its size");
	return 0;
}

static int ghost_load(struct reader *r, uint32_t id, struct ghost_plan **ret, struct ferry_error *err)
{
	*ret = ghost_by_id(r->plan, id);
	if (*ret)
		return 0;
	_cleanup_reader_ struct image_reader *in = NULL;
	struct ghost_plan *g = arena_new(&r->plan->arena, struct ghost_plan);
	if (!g)
		return error_memory(err);
	int ret_code = image_open(r->dir, IMAGE_GHOST_FILE, id, &in, err);
	if (ret_code >= 0)
		ret_code = image_need(in, &ghost_file_entry__descriptor, &g->entry, err);
	if (ret_code < 0)
		return ret_code;
	ret_code = records_keep(r->plan, g->entry, err);
	if (ret_code >= 0)
		ret_code = ghost_check_entry(in, g->entry, err);
	if (ret_code < 0)
		return ret_code;
	g->id = id;
	g->fd = -1;
	g->next = ghost_image(r->plan)->ghosts;
	ghost_image(r->plan)->ghosts = *ret = g;
	return 0;
}

static int ghost_take_linked(struct reader *r, struct ghost_remap *m, uint32_t id, struct ferry_error *err)
{
	const struct plan_file *link = plan_file(r->plan, id);
	if (!link || !link->entry->reg || link->entry->reg->name[0] != '/')
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "remap-fpath.img names link %u, which is not in files.img", id);
	/* It is removed in the end, so it has to be a name that nobody but a dump gives. */
	if (strncmp(strrchr(link->entry->reg->name, '/'), GHOST_LINK, sizeof(GHOST_LINK) - 1) != 0)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "remap-fpath.img calls '%s' a link that a dump made",
				 link->entry->reg->name);
	m->linked = link->entry->reg->name;
	return 0;
}

static int ghost_take_process(struct ghost_remap *m, uint32_t pid, struct ferry_error *err)
{
	m->process = procfile_pid(m->file->entry->reg->name);
	if (m->process > 0 && (uint32_t)m->process == pid)
		return 0;
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
			 "remap-fpath.img: '%s' is no file of process %u", m->file->entry->reg->name, pid);
}

static int ghost_take_remap(struct reader *r, struct image_reader *in unused, void *record,
			    void *context unused, struct ferry_error *err)
{
	const RemapFilePathEntry *e = record;
	struct ghost_remap *m;
	int ret = ghost_new_remap(r, e->orig_id, "remap-fpath.img", &m, err);
	if (ret < 0)
		return ret;
	switch (e->has_remap_type ? e->remap_type : REMAP_TYPE__GHOST) {
	case REMAP_TYPE__LINKED: return ghost_take_linked(r, m, e->remap_id, err);
	case REMAP_TYPE__PROCFS: return ghost_take_process(m, e->remap_id, err);
	default: break;
	}
	ret = ghost_load(r, e->remap_id, &m->ghost, err);
	struct plan_file **slot = ret < 0 ? NULL : vec_push(&m->ghost->files);
	if (ret >= 0 && !slot)
		return error_memory(err);
	if (slot)
		*slot = m->file;
	return ret;
}

static int ghost_take_extra(struct reader *r, struct image_reader *in unused, void *record,
			    void *context unused, struct ferry_error *err)
{
	FerryGhostEntry *e = record;
	struct ghost_plan *g = ghost_by_id(r->plan, e->id);
	if (!g || g->extra)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "ferry-ghost.img has deleted file %u, which %s", e->id,
				 g ? "it has twice" : "nothing refers to");
	g->extra = e;
	return 0;
}

static int ghost_take_reach(struct reader *r, struct image_reader *in unused, void *record,
			    void *context unused, struct ferry_error *err)
{
	const FerryFileEntry *e = record;
	struct ghost_remap *m;
	int ret = ghost_new_remap(r, e->id, "ferry-file.img", &m, err);
	if (ret >= 0)
		m->reach = e;
	return ret;
}

int ghost_read(struct reader *r, struct ferry_error *err)
{
	r->plan->kind_data[KIND_regfile] = arena_new(&r->plan->arena, struct ghost_image);
	if (!r->plan->kind_data[KIND_regfile])
		return error_memory(err);
	int ret = records_each(r, IMAGE_REMAP_FPATH, 0, &remap_file_path_entry__descriptor, ghost_take_remap,
			       NULL, err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_GHOST, 0, &ferry_ghost_entry__descriptor, ghost_take_extra,
				   NULL, err);
	if (ret >= 0)
		ret = records_each(r, IMAGE_FERRY_FILE, 0, &ferry_file_entry__descriptor, ghost_take_reach,
				   NULL, err);
	return ret;
}
