/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns following references from pagemap to pagemap. All of them ascend, so each is read once, side by side with those that refer to
 * it; what nobody refers to is neither looked for nor compared.
 */
#include "image/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/dir.h"
#include "image/pages.h"
#include "image/proto/ferry.pb-c.h"

/* One pagemap on the way; the first is that of the memory itself. */
struct memory_node {
	struct image_dir *dir;
	enum image_kind kind;
	uint64_t id;
	struct image_pages_reader *reader;
	struct image_source source;
	struct image_run run;     /* being looked at */
	int more;                 /* 0: there is none any more */
	struct memory_node *next; /* where its references lead; NULL: not asked yet */
};

struct image_memory {
	struct memory_node first;
	bool late;   /* pieces of a page server's are wanted, too */
	uint64_t at; /* of the first one's run: everything before was handed out */
};

static uint64_t memory_run_end(const struct image_run *run)
{
	return run->vaddr + run->nr_pages * IMAGE_PAGE_BYTES;
}

static int memory_open_node(struct memory_node *n, struct ferry_error *err)
{
	int r = image_pages_open(n->dir, n->kind, n->id, &n->reader, err);
	if (r < 0)
		return r;
	n->source = (struct image_source){
		.dir = n->dir,
		.id = n->id,
		.pages_id = image_pages_id(n->reader),
		.fd = image_pages_fd(n->reader),
		.user = -1,
	};
	n->more = 1;
	return 0;
}

int image_memory_open(struct image_dir *dir, enum image_kind kind, uint64_t id, struct image_memory **ret,
		      struct ferry_error *err)
{
	_cleanup_image_memory_ struct image_memory *m = calloc(1, sizeof(*m));
	if (!m)
		return error_memory(err);
	m->first = (struct memory_node){.dir = dir, .kind = kind, .id = id};
	int r = memory_open_node(&m->first, err);
	if (r < 0)
		return r;
	*ret = take_ptr(m);
	return 0;
}

void image_memory_free(struct image_memory *m)
{
	for (struct memory_node *n = m ? &m->first : NULL, *next; n; n = next) {
		next = n->next;
		image_pages_reader_free(n->reader);
		if (n != &m->first)
			free(n);
	}
	free(m);
}

int image_memory_pages_of(struct image_dir *dir, enum image_kind kind, uint64_t id, uint64_t *ret_id,
			  struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *r = NULL;
	_cleanup_message_ FerryMmEntry *mm = NULL;
	if (kind != IMAGE_PAGEMAP)
		return 0;
	int ret = image_open_optional(dir, IMAGE_FERRY_MM, id, &r, err);
	if (ret > 0)
		ret = image_need(r, &ferry_mm_entry__descriptor, &mm, err);
	if (ret < 0 || !mm || !mm->has_pages_of)
		return ret < 0 ? ret : 0;
	*ret_id = mm->pages_of;
	return 1;
}

static int memory_bad(const struct memory_node *n, struct ferry_error *err, const char *what)
{
	char name[IMAGE_NAME_MAX];
	image_file_name(n->kind, n->id, name);
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s in '%s' %s", name, image_dir_path(n->dir),
			 what);
}

static int memory_find_next(struct image_memory *m, struct memory_node *n, struct ferry_error *err)
{
	struct image_dir *dir = NULL;
	uint64_t id = n->id;
	int of = image_memory_pages_of(n->dir, n->kind, n->id, &id, err);
	int r = of > 0 ? 0 : of < 0 ? of : image_dir_parent(n->dir, &dir, err);
	if (r < 0)
		return r;
	if (of > 0)
		dir = n->dir;
	if (!dir)
		return memory_bad(n, err, "refers to pages of a parent image, but there is none");
	for (const struct memory_node *seen = &m->first; seen; seen = seen->next)
		if (seen->dir == dir && seen->id == id)
			return memory_bad(n, err, "refers to pages of a task that refers to it");
	if (!image_dir_has(dir, n->kind, id)) {
		memory_bad(n, err, "refers to pages of a pagemap that is not there");
		error_hint(err, "no such process, or shared memory, is in the image in '%s'",
			   image_dir_path(dir));
		return -EBADMSG;
	}
	_cleanup_free_ struct memory_node *next = calloc(1, sizeof(*next));
	if (!next)
		return error_memory(err);
	*next = (struct memory_node){.dir = dir, .kind = n->kind, .id = id};
	r = memory_open_node(next, err);
	if (r == 0)
		n->next = take_ptr(next);
	return r;
}

/* Go on to the run that an address is in, or the first behind it. */
static int memory_seek(struct memory_node *n, uint64_t at, struct ferry_error *err)
{
	while (n->more && (!n->run.nr_pages || memory_run_end(&n->run) <= at)) {
		int r = image_pages_next(n->reader, &n->run, err);
		if (r < 0)
			return r;
		n->more = r;
	}
	return 0;
}

static int memory_gap(const struct memory_node *n, const struct memory_node *from, uint64_t at,
		      struct ferry_error *err)
{
	char name[IMAGE_NAME_MAX], there[IMAGE_NAME_MAX];
	image_file_name(from->kind, from->id, name);
	image_file_name(n->kind, n->id, there);
	return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
			 "%s in '%s': the page at 0x%" PRIx64
			 " is said to be in %s of '%s', which has none there",
			 name, image_dir_path(from->dir), at, there, image_dir_path(n->dir));
}

/* The piece that begins with a page that a run has, and is at most as long as the run. */
static int memory_is_late(uint64_t at, uint64_t id, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, ENOTSUP,
		  "the page at 0x%" PRIx64 " of pagemap %" PRIu64 " is to come from a page server", at, id);
	error_hint(err,
		   "restore it with --lazy and --page-server, while the tree that was dumped still stands");
	return -ENOTSUP;
}

static int memory_resolve(struct image_memory *m, struct memory_node *n, uint64_t at, struct image_piece *ret,
			  struct ferry_error *err)
{
	uint64_t end = memory_run_end(&n->run);
	while (!(n->run.flags & IMAGE_PE_PRESENT)) {
		const struct memory_node *from = n;
		if (!(n->run.flags & IMAGE_PE_PARENT) && m->late && n == &m->first) {
			*ret = (struct image_piece){
				.vaddr = at, .nr_pages = (end - at) / IMAGE_PAGE_BYTES, .lazy = true};
			return 0;
		}
		if (!(n->run.flags & IMAGE_PE_PARENT))
			return memory_is_late(at, n->id, err);
		int r = n->next ? 0 : memory_find_next(m, n, err);
		if (r < 0 || !n->next)
			return r;
		n = n->next;
		r = memory_seek(n, at, err);
		if (r < 0)
			return r;
		if (!n->more || n->run.vaddr > at)
			return memory_gap(n, from, at, err);
		end = MIN(end, memory_run_end(&n->run));
	}
	*ret = (struct image_piece){
		.vaddr = at,
		.nr_pages = (end - at) / IMAGE_PAGE_BYTES,
		.offset = n->run.offset + (at - n->run.vaddr),
		.lazy = m->first.run.flags & IMAGE_PE_LAZY,
		.source = &n->source,
	};
	return 0;
}

void image_memory_allow_late(struct image_memory *m)
{
	m->late = true;
}

int image_memory_next(struct image_memory *m, struct image_piece *ret, struct ferry_error *err)
{
	struct memory_node *n = &m->first;
	int r = memory_seek(n, m->at, err);
	if (r < 0 || !n->more)
		return r;
	r = memory_resolve(m, n, MAX(m->at, n->run.vaddr), ret, err);
	if (r < 0)
		return r;
	m->at = ret->vaddr + ret->nr_pages * IMAGE_PAGE_BYTES;
	return 1;
}

int image_memory_follow(struct image_memory *m, struct ferry_error *err)
{
	struct memory_node *n = &m->first;
	while (n) {
		struct image_run run;
		bool refers = false;
		int r;
		while ((r = image_pages_next(n->reader, &run, err)) > 0)
			refers |= run.flags & IMAGE_PE_PARENT;
		if (r >= 0 && refers && !n->next)
			r = memory_find_next(m, n, err);
		if (r < 0)
			return r;
		n = refers ? n->next : NULL;
	}
	return 0;
}

const struct image_source *image_memory_step(const struct image_memory *m, size_t number)
{
	const struct memory_node *n = &m->first;
	while (n && number--)
		n = n->next;
	return n ? &n->source : NULL;
}

int image_memory_read(const struct image_piece *piece, uint64_t first_page, uint64_t nr_pages, void *bytes,
		      struct ferry_error *err)
{
	int r = fd_pread_all(piece->source->fd, bytes, nr_pages * IMAGE_PAGE_BYTES,
			     piece->offset + first_page * IMAGE_PAGE_BYTES);
	return r < 0 ? error_errno(err, r == -ENODATA ? FERRY_ERROR_IMAGE_BAD : FERRY_ERROR_SYSTEM, -r,
				   "reading pages of pagemap %" PRIu64 " in '%s'", piece->source->id,
				   image_dir_path(piece->source->dir))
		     : 0;
}

int image_memory_get(struct image_dir *dir, enum image_kind kind, uint64_t id, uint64_t start, uint64_t end,
		     void *to, uint64_t *ret_pages, struct ferry_error *err)
{
	_cleanup_image_memory_ struct image_memory *m = NULL;
	struct image_piece piece;
	uint64_t pages = 0;
	int r = image_memory_open(dir, kind, id, &m, err);
	if (m)
		image_memory_allow_late(m);
	while (r >= 0 && (r = image_memory_next(m, &piece, err)) > 0) {
		uint64_t piece_end = piece.vaddr + piece.nr_pages * IMAGE_PAGE_BYTES;
		uint64_t from = MAX(piece.vaddr, start), until = MIN(piece_end, end);
		if (from >= until)
			continue;
		if (!piece.source)
			return memory_is_late(from, id, err);
		pages += (until - from) / IMAGE_PAGE_BYTES;
		r = image_memory_read(&piece, (from - piece.vaddr) / IMAGE_PAGE_BYTES,
				      (until - from) / IMAGE_PAGE_BYTES, (char *)to + (from - start), err);
	}
	if (r < 0)
		return r;
	*ret_pages = pages;
	return 0;
}
