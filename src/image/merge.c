/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns making one image of several in a chain. Nothing of those that are there is changed; whoever asked for it decides what takes whose
 * place, and when.
 *
 * References within a family stay what they are: the pagemap they lead to is in the new image, too. Pages files keep their ids, since links
 * of younger images name them (links.c).
 *
 * Kernel interface: linkat(2). Not handled: images without a manifest, or on a file system without hard links.
 */
#include "image/merge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/fd.h"
#include "image/dir_private.h"
#include "image/memory.h"
#include "image/pages.h"

enum { MERGE_BLOCK_PAGES = 256 };

struct merge {
	struct image_dir *from, *to;
	const struct image_dir *stays; /* of from's chain: what the new one builds on; NULL */
	const struct fault *fault;
	struct ferry_error *err;
	char *block;
	uint64_t bytes;
	bool has_family;
};

/* ---- memory ---- */

static int merge_copy(struct merge *m, struct image_pages_writer *w, const struct image_run *run, int fd)
{
	uint64_t n = 0;
	for (uint64_t page = 0; page < run->nr_pages; page += n) {
		n = MIN(run->nr_pages - page, (uint64_t)MERGE_BLOCK_PAGES);
		struct iovec iov = {m->block, n * IMAGE_PAGE_BYTES};
		int r = fd_pread_all(fd, m->block, iov.iov_len, run->offset + page * IMAGE_PAGE_BYTES);
		if (r < 0)
			return error_errno(m->err, r == -ENODATA ? FERRY_ERROR_IMAGE_BAD : FERRY_ERROR_SYSTEM,
					   -r, "reading pages to be merged into '%s'", m->to->path);
		r = image_pages_add(w, run->vaddr + page * IMAGE_PAGE_BYTES, n, run->flags & IMAGE_PE_LAZY,
				    &iov, 1, m->err);
		if (r < 0)
			return r;
		m->bytes += iov.iov_len;
	}
	return 0;
}

static bool merge_takes(const struct merge *m, const struct image_dir *dir)
{
	for (const struct image_dir *at = m->from; at && at != m->stays; at = at->parent)
		if (at == dir)
			return true;
	return false;
}

/* What a run of references leads to. piece: the last that was read; all of them ascend. */
static int merge_resolve(struct merge *m, struct image_pages_writer *w, const struct image_run *run,
			 struct image_memory *memory, struct image_piece *piece)
{
	uint64_t at = run->vaddr, end = run->vaddr + run->nr_pages * IMAGE_PAGE_BYTES;
	while (at < end) {
		uint64_t piece_end = piece->vaddr + piece->nr_pages * IMAGE_PAGE_BYTES;
		if (piece_end <= at) {
			int r = image_memory_next(memory, piece, m->err);
			if (r <= 0)
				return r < 0 ? r
					     : error_set(m->err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
							 "a reference in '%s' leads nowhere", m->from->path);
			continue;
		}
		struct image_run part = {
			.vaddr = at,
			.nr_pages = (MIN(end, piece_end) - at) / IMAGE_PAGE_BYTES,
			.flags = run->flags,
			.offset = piece->offset + (at - piece->vaddr),
		};
		int r = merge_takes(m, piece->source->dir)
				? merge_copy(m, w, &part, piece->source->fd)
				: image_pages_add_reference(w, at, part.nr_pages, run->flags, m->err);
		if (r < 0)
			return r;
		at += part.nr_pages * IMAGE_PAGE_BYTES;
	}
	return 0;
}

static int merge_runs(struct merge *m, struct image_pages_writer *w, struct image_pages_reader *own,
		      struct image_memory *memory)
{
	struct image_piece piece = {0};
	struct image_run run;
	int r;
	while ((r = image_pages_next(own, &run, m->err)) > 0) {
		if (run.flags & IMAGE_PE_PRESENT)
			r = merge_copy(m, w, &run, image_pages_fd(own));
		else if (memory && run.flags & IMAGE_PE_PARENT)
			r = merge_resolve(m, w, &run, memory, &piece);
		else
			r = image_pages_add_reference(w, run.vaddr, run.nr_pages, run.flags, m->err);
		if (r < 0)
			return r;
	}
	return r;
}

static int merge_pagemap(struct merge *m, enum image_kind kind, uint64_t id)
{
	_cleanup_pages_reader_ struct image_pages_reader *own = NULL;
	_cleanup_image_memory_ struct image_memory *memory = NULL;
	struct image_pages_writer *w = NULL;
	uint64_t head;
	int of = image_memory_pages_of(m->from, kind, id, &head, m->err);
	int r = of < 0 ? of : image_pages_open(m->from, kind, id, &own, m->err);
	m->has_family |= of > 0;
	if (r >= 0 && !of)
		r = image_memory_open(m->from, kind, id, &memory, m->err);
	if (r < 0)
		return r;
	m->to->next_pages_id = image_pages_id(own) - 1;
	fault_effect(m->fault, "merge", "pages");
	r = image_pages_create(m->to, kind, id, &w, m->err);
	if (r >= 0)
		r = merge_runs(m, w, own, memory);
	int closed = image_pages_close(w, r < 0 ? NULL : m->err);
	return r < 0 ? r : closed;
}

/* ---- everything else ---- */

static bool merge_is_memory(const char *name)
{
	enum image_kind kind;
	uint64_t id;
	return image_file_parse_name(name, &kind, &id) == 0 &&
	       (kind == IMAGE_PAGEMAP || kind == IMAGE_SHMEM_PAGEMAP || kind == IMAGE_PAGES);
}

static bool merge_leaves(const char *name)
{
	static const char *const names[] = {IMAGE_MANIFEST_NAME,
					    IMAGE_UNFINISHED_NAME,
					    IMAGE_INVENTORY_NEW,
					    IMAGE_PUNCHED_NAME,
					    IMAGE_PUNCHED_NEW,
					    ".",
					    ".."};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return merge_is_memory(name) || image_dir__is_link(name);
}

/* What is no part of the image comes along: marks, logs, the socket of a keeper. */
static int merge_link(struct merge *m, const char *name)
{
	const struct image_dir_entry *known = image_dir__find(m->from, name);
	struct stat st;
	if (merge_leaves(name) || fstatat(m->from->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    S_ISDIR(st.st_mode))
		return 0;
	if (linkat(m->from->fd, name, m->to->fd, image_dir__written_name(name), 0) < 0)
		return image_io_error(m->err, errno, "cannot link", name);
	if (!known)
		return 0;
	struct image_dir_entry *entry = image_dir__add(m->to, name);
	if (!entry)
		return error_memory(m->err);
	*entry = *known;
	entry->closed = true;
	return 0;
}

static int merge_files(struct merge *m)
{
	_cleanup_closedir_ DIR *listing = NULL;
	int r = image_dir__open_listing(m->from->fd, &listing);
	if (r < 0)
		return error_errno(m->err, FERRY_ERROR_SYSTEM, -r, "cannot list '%s'", m->from->path);
	for (struct dirent *e; r >= 0 && (errno = 0, e = readdir(listing));)
		r = merge_link(m, e->d_name);
	return r < 0 ? r : errno ? image_io_error(m->err, errno, "cannot list", m->from->path) : 0;
}

/* The image that stays, as from's chain has it. */
static int merge_find_stays(struct merge *m)
{
	struct stat wanted, st;
	if (!m->to->parent)
		return 0;
	if (fstat(m->to->parent->fd, &wanted) < 0)
		return error_errno(m->err, FERRY_ERROR_SYSTEM, errno, "looking at '%s'", m->to->parent->path);
	for (const struct image_dir *at = m->from->parent; at; at = at->parent)
		if (fstat(at->fd, &st) == 0 && st.st_ino == wanted.st_ino && st.st_dev == wanted.st_dev)
			m->stays = at;
	return m->stays ? 0
			: error_set(m->err, FERRY_ERROR_INTERNAL, EINVAL, "'%s' does not build on '%s'",
				    m->from->path, m->to->parent->path);
}

static int merge_begin(struct merge *m, int at_fd, const char *path, const struct image_merge *options)
{
	const struct image_dir_create create = {.overwrite = true,
						.read_back = IMAGE_READ_BACK_STORED,
						.fault = options->fault,
						.log = options->log};
	struct image_dir *parent = m->from;
	int r = m->from->has_manifest
			? image_dir_check_whole(m->from, m->err)
			: error_set(m->err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
				    "the image in '%s' has no manifest and is not merged", m->from->path);
	while (r >= 0 && parent)
		r = image_dir_parent(parent, &parent, m->err);
	if (r >= 0)
		r = image_dir_create(at_fd, path, &create, &m->to, m->err);
	if (r < 0)
		return r;
	m->to->id_hi = m->from->id_hi;
	m->to->id_lo = m->from->id_lo;
	if (options->parent)
		r = image_dir_link_parent(m->to, options->parent, m->err);
	return r < 0 ? r : merge_find_stays(m);
}

static int merge_memories(struct merge *m)
{
	_cleanup_free_ struct image_dir_file *files = NULL;
	size_t n = 0;
	int r = image_dir_list(m->from, &files, &n, m->err);
	for (size_t i = 0; i < n && r >= 0; i++)
		if (files[i].kind == IMAGE_PAGEMAP || files[i].kind == IMAGE_SHMEM_PAGEMAP)
			r = merge_pagemap(m, files[i].kind, files[i].id);
	return r;
}

int image_merge(struct image_dir *from, int at_fd, const char *path, const struct image_merge *options,
		uint64_t *ret_bytes, struct ferry_error *err)
{
	_cleanup_free_ char *block = malloc(MERGE_BLOCK_PAGES * IMAGE_PAGE_BYTES);
	struct merge m = {.from = from, .fault = options->fault, .err = err, .block = block};
	if (!block)
		return error_memory(err);
	int r = merge_begin(&m, at_fd, path, options);
	if (r >= 0)
		r = merge_memories(&m);
	if (r >= 0)
		r = merge_files(&m);
	if (r >= 0 && m.has_family)
		r = image_dir_link_family(m.to, err);
	fault_effect(m.fault, "merge", "finish");
	if (r >= 0)
		r = image_dir_finish(m.to, err);
	image_dir_free(m.to);
	if (r >= 0)
		*ret_bytes = m.bytes;
	return r;
}
