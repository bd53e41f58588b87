/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the receiving side of CRIU's page server wire (stream/pageserver_wire.h).
 *
 * Does not handle: asking for pages (stream/pagesource.c), encryption.
 */
#include "stream/pageserver.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "image/coverage.h"
#include "image/dir.h"
#include "image/pages.h"
#include "stream/pageserver_wire.h"
#include "stream/tls.h"

static uint64_t pageserver_more(const void *bytes)
{
	const struct pageserver_head *head = bytes;
	uint32_t command = head->command & ((1u << PAGESERVER_FLAGS_SHIFT) - 1);
	bool pages =
		command == PAGESERVER_ADD ||
		(command == PAGESERVER_ADD_F && head->command >> PAGESERVER_FLAGS_SHIFT & IMAGE_PE_PRESENT);
	return pages ? head->nr_pages * IMAGE_PAGE_BYTES : 0;
}

const struct tls_message pageserver_message = {
	.head_bytes = sizeof(struct pageserver_head),
	.more_bytes = pageserver_more,
};

enum { PAGESERVER_MOST_PAGES = 1 << 30 };

struct pageserver {
	int fd;
	struct image_dir *dir;
	struct ferry_error *err;
	struct image_dir *parent;        /* NULL: there is none */
	struct image_coverage *covered;  /* what it has */
	const struct image_covered *old; /* of the memory that is open; NULL: nothing */
	size_t old_at;
	struct image_pages_writer *writer; /* NULL: no memory is open */
	uint64_t memory, next;             /* which one, and the lowest address that may come */
	struct pageserver_stats stats;
};

static int pageserver_bad(struct pageserver *s, const struct pageserver_head *head, const char *what)
{
	return error_set(s->err, FERRY_ERROR_PROTOCOL, EPROTO,
			 "the other side sends command 0x%x (%" PRIu64 " pages at 0x%" PRIx64
			 " of memory 0x%" PRIx64 "): %s",
			 head->command, head->nr_pages, head->vaddr, head->memory, what);
}

static int pageserver_gone(struct pageserver *s, int code)
{
	return error_errno(s->err, FERRY_ERROR_PEER_GONE, code, "the other side ended before all pages came");
}

static int pageserver_close_memory(struct pageserver *s)
{
	struct image_pages_writer *w = s->writer;
	s->writer = NULL;
	return image_pages_close(w, s->err);
}

static int pageserver_answer(struct pageserver *s, const void *bytes, size_t n)
{
	return send(s->fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n ? 0 : pageserver_gone(s, errno);
}

static int pageserver_memory(struct pageserver *s, const struct pageserver_head *head, enum image_kind *ret,
			     uint64_t *ret_id)
{
	unsigned type = head->memory & ((1 << PAGESERVER_ID_SHIFT) - 1);
	uint64_t id = head->memory >> PAGESERVER_ID_SHIFT;
	if ((type != PAGESERVER_TASK && type != PAGESERVER_SHARED) || !id || id > UINT32_MAX)
		return pageserver_bad(s, head, "no such memory can be");
	*ret = type == PAGESERVER_SHARED ? IMAGE_SHMEM_PAGEMAP : IMAGE_PAGEMAP;
	*ret_id = id;
	return 0;
}

/* Which image it belongs to: the same for all memories, or unknown for all. */
static int pageserver_image(struct pageserver *s, const struct pageserver_head *head)
{
	uint64_t hi, lo;
	if (!s->stats.memories)
		image_dir_set_id(s->dir, head->nr_pages, head->vaddr);
	image_dir_id(s->dir, &hi, &lo);
	return hi == head->nr_pages && lo == head->vaddr
		       ? 0
		       : pageserver_bad(s, head, "it belongs to another image than those before");
}

static int pageserver_open(struct pageserver *s, const struct pageserver_head *head, bool answer)
{
	enum image_kind kind = IMAGE_PAGEMAP;
	uint64_t id = 0;
	int r = pageserver_memory(s, head, &kind, &id);
	if (r >= 0)
		r = pageserver_image(s, head);
	if (r < 0)
		return r;
	if (image_dir_has(s->dir, kind, id))
		return pageserver_bad(s, head, "the directory has it already");
	r = pageserver_close_memory(s);
	if (r >= 0)
		r = image_pages_create(s->dir, kind, id, &s->writer, s->err);
	if (r < 0)
		return r;
	s->memory = head->memory;
	s->next = 0;
	s->old = image_coverage_find(s->covered, kind, id);
	s->old_at = 0;
	s->stats.memories++;
	uint8_t has = s->parent && image_dir_has(s->parent, kind, id);
	return answer ? pageserver_answer(s, &has, sizeof(has)) : 0;
}

/* Before a dump, so that nothing has to stop for it: is what it will refer to here? */
static int pageserver_tell_parent(struct pageserver *s, const struct pageserver_head *head)
{
	enum image_kind kind = IMAGE_PAGEMAP;
	uint64_t id = 0, hi = 0, lo = 0;
	int r = pageserver_memory(s, head, &kind, &id);
	if (r < 0)
		return r;
	if (s->parent)
		image_dir_id(s->parent, &hi, &lo);
	/* Only ferry says which image it means, and where CRIU took the pages nobody knows. */
	bool known = (head->nr_pages || head->vaddr) && (hi || lo);
	bool other = known && (head->nr_pages != hi || head->vaddr != lo);
	int32_t has = s->parent && !other && image_dir_has(s->parent, kind, id);
	r = pageserver_answer(s, &has, sizeof(has));
	if (r < 0 || !other)
		return r;
	return error_set(s->err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
			 "'%s' is not the image that what comes builds on: it is from another dump",
			 image_dir_path(s->parent));
}

static int pageserver_add(struct pageserver *s, const struct pageserver_head *head, uint32_t flags)
{
	uint64_t end;
	if (!s->writer || head->memory != s->memory)
		return pageserver_bad(s, head, "this memory was not begun");
	if (!head->nr_pages || head->nr_pages > PAGESERVER_MOST_PAGES || head->vaddr % IMAGE_PAGE_BYTES ||
	    head->vaddr < s->next ||
	    __builtin_add_overflow(head->vaddr, head->nr_pages * IMAGE_PAGE_BYTES, &end))
		return pageserver_bad(s, head, "no such pages can be, or they are out of order");
	if (flags & ~(uint32_t)(IMAGE_PE_PARENT | IMAGE_PE_LAZY | IMAGE_PE_PRESENT) || !flags ||
	    (flags & IMAGE_PE_PARENT && flags & IMAGE_PE_PRESENT))
		return pageserver_bad(s, head, "no pages have such flags");
	s->next = end;
	if (flags & IMAGE_PE_PARENT && !image_covered_has(s->old, &s->old_at, head->vaddr, end))
		return pageserver_bad(s, head, "the image before does not have all of these pages");
	if (!(flags & IMAGE_PE_PRESENT))
		return image_pages_add_reference(s->writer, head->vaddr, head->nr_pages, flags, s->err);
	s->stats.pages += head->nr_pages;
	return image_pages_add_from(s->writer, head->vaddr, head->nr_pages, flags, s->fd, s->err);
}

/* 1: that was all. */
static int pageserver_command(struct pageserver *s, const struct pageserver_head *head)
{
	switch (head->command & 0xffff) {
	case PAGESERVER_OPEN: return pageserver_open(s, head, false);
	case PAGESERVER_OPEN2: return pageserver_open(s, head, true);
	case PAGESERVER_PARENT: return pageserver_tell_parent(s, head);
	case PAGESERVER_ADD: return pageserver_add(s, head, IMAGE_PE_PRESENT);
	case PAGESERVER_HOLE: return pageserver_add(s, head, IMAGE_PE_PARENT);
	case PAGESERVER_ADD_F: return pageserver_add(s, head, head->command >> PAGESERVER_FLAGS_SHIFT);
	case PAGESERVER_CLOSE:
	case PAGESERVER_FORCE_CLOSE: return 1;
	default: return pageserver_bad(s, head, "ferry does not know what that means");
	}
}

int pageserver_receive(int fd, struct image_dir *dir, struct pageserver_stats *ret, struct ferry_error *err)
{
	struct pageserver s = {.fd = fd, .dir = dir, .err = err};
	struct pageserver_head head;
	int r = image_dir_parent(dir, &s.parent, err);
	if (r >= 0 && s.parent)
		r = image_coverage_read(s.parent, &s.covered, err);
	while (r == 0) {
		r = fd_read_all(fd, &head, sizeof(head));
		r = r < 0 ? pageserver_gone(&s, -r) : pageserver_command(&s, &head);
	}
	/* What is written is given up with the directory then. */
	s.err = r < 0 ? NULL : err;
	int closed = pageserver_close_memory(&s);
	image_coverage_free(s.covered);
	if (r < 0 || closed < 0)
		return r < 0 ? r : closed;
	*ret = s.stats;
	return 0;
}

int pageserver_confirm(int fd, struct ferry_error *err)
{
	const int32_t status = 0;
	if (send(fd, &status, sizeof(status), MSG_NOSIGNAL) == sizeof(status))
		return 0;
	return error_errno(err, FERRY_ERROR_PEER_GONE, errno,
			   "telling the other side that its pages are stored");
}
