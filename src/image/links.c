/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the directory of links for readers that know of parent images, but nothing of families.
 *
 * Such a reader looks for what a pagemap refers to in the pagemap of the same name in the directory 'parent', and so on. So the way of
 * each memory's references, which leads through tasks and images, is laid out as a row of directories: ferry-family, its own 'parent', the
 * 'parent' of that. In the first are links to the second pagemap of each way, under the name of the first, in the next to the third. Beside
 * them are links to their pages files, whose ids differ over the whole chain.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/strbuf.h"
#include "image/dir_private.h"
#include "image/memory.h"
#include "image/pages.h"

struct links {
	struct image_dir *dir;
	const char *name; /* of the first level */
	VEC(int) levels;  /* descriptors */
	struct ferry_error *err;
};

static int links_error(struct links *l, int code)
{
	return image_io_error(l->err, code, "cannot make links in", IMAGE_FAMILY_NAME);
}

/* Each level is in the one before. */
static int links_level(struct links *l, size_t level, int *ret_fd)
{
	while (l->levels.n <= level) {
		int above = l->levels.n ? l->levels.v[l->levels.n - 1] : l->dir->fd;
		const char *name = l->levels.n ? IMAGE_PARENT_NAME : l->name;
		if (mkdirat(above, name, 0700) < 0)
			return links_error(l, errno);
		l->dir->has_family = true;
		int fd = fd_open(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
		int *slot = fd < 0 ? NULL : vec_push(&l->levels);
		if (!slot) {
			if (fd >= 0)
				close(fd);
			return fd < 0 ? links_error(l, -fd) : error_memory(l->err);
		}
		*slot = fd;
	}
	*ret_fd = l->levels.v[level];
	return 0;
}

/* From a level's directory to that of an image, which is that many images before this one. */
static void links_way(const struct links *l, size_t level, const struct image_dir *to, struct strbuf *ret)
{
	for (size_t i = 0; i <= level; i++)
		strbuf_adds(ret, "../");
	for (const struct image_dir *at = l->dir; at != to; at = at->parent)
		strbuf_addf(ret, "%s/", image_dir__parent_link(at));
}

/* A link may be there already: to the pages file of a head, made for another member. */
static int links_make(struct links *l, int fd, const char *way, const char *target, const char *name)
{
	_cleanup_free_ char *path = NULL;
	char there[PATH_MAX];
	int n = asprintf(&path, "%s%s", way, target);
	if (n < 0)
		return error_memory(l->err);
	if (symlinkat(path, fd, name) == 0)
		return 0;
	if (errno == EEXIST && readlinkat(fd, name, there, sizeof(there)) == n &&
	    !memcmp(there, path, (size_t)n))
		return 0;
	return links_error(l, errno ? errno : EEXIST);
}

static int links_step(struct links *l, const char *name, enum image_kind kind, size_t level,
		      const struct image_source *step)
{
	char map[IMAGE_NAME_MAX], pages[IMAGE_NAME_MAX];
	_cleanup_strbuf_ struct strbuf way = {0};
	int fd = -1, r = links_level(l, level, &fd);
	if (r < 0)
		return r;
	links_way(l, level, step->dir, &way);
	if (way.failed)
		return error_memory(l->err);
	image_file_name(kind, step->id, map);
	image_file_name(IMAGE_PAGES, step->pages_id, pages);
	r = links_make(l, fd, strbuf_str(&way), map, name);
	return r < 0 ? r : links_make(l, fd, strbuf_str(&way), pages, pages);
}

/* The way of one memory. */
static int links_memory(struct links *l, const char *name, enum image_kind kind, uint64_t id)
{
	_cleanup_image_memory_ struct image_memory *m = NULL;
	const struct image_source *step;
	int r = image_memory_open(l->dir, kind, id, &m, l->err);
	if (r >= 0)
		r = image_memory_follow(m, l->err);
	for (size_t i = 1; r >= 0 && (step = image_memory_step(m, i)); i++)
		r = links_step(l, name, kind, i - 1, step);
	return r;
}

/* The link 'parent' leads here from now on; another one, that ferry reads, to the image that this one builds on. */
static int links_turn(struct links *l)
{
	struct image_dir *dir = l->dir;
	char target[PATH_MAX];
	if (dir->parent) {
		ssize_t n = readlinkat(dir->fd, IMAGE_PARENT_NAME, target, sizeof(target) - 1);
		if (n < 0)
			return links_error(l, errno);
		target[n] = '\0';
		int r = image_dir__make_link(dir, IMAGE_CHAIN_NAME, target, l->err);
		if (r < 0)
			return r;
	}
	return image_dir__make_link(dir, IMAGE_PARENT_NAME, IMAGE_FAMILY_NAME, l->err);
}

static int links_memories(struct links *l)
{
	int r = 0;
	for (size_t i = 0; i < l->dir->entries.n && r >= 0; i++) {
		char name[IMAGE_NAME_MAX];
		enum image_kind kind;
		uint64_t id;
		snprintf(name, sizeof(name), "%s", l->dir->entries.v[i].name);
		if (image_file_parse_name(name, &kind, &id) == 0 &&
		    (kind == IMAGE_PAGEMAP || kind == IMAGE_SHMEM_PAGEMAP))
			r = links_memory(l, name, kind, id);
	}
	vec_foreach(fd, &l->levels)
		close(*fd);
	vec_release(&l->levels);
	return r;
}

int image_dir_link_family(struct image_dir *dir, struct ferry_error *err)
{
	struct links l = {.dir = dir, .name = IMAGE_FAMILY_NAME, .err = err};
	/* Pages that went elsewhere are no file to link to. */
	int r = dir->create.pages ? 0 : links_turn(&l);
	return r < 0 || dir->create.pages ? r : links_memories(&l);
}

/* Whether all links of a level, and of those in it, lead somewhere. */
static bool links_hold(int above, const char *name)
{
	_cleanup_closedir_ DIR *listing = NULL;
	_cleanup_close_ int fd = fd_open(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	struct stat st;
	if (fd < 0 || image_dir__open_listing(fd, &listing) < 0)
		return false;
	for (struct dirent *e; (e = readdir(listing));) {
		if (fstatat(fd, e->d_name, &st, 0) < 0)
			return false;
		if (!strcmp(e->d_name, IMAGE_PARENT_NAME) && !links_hold(fd, IMAGE_PARENT_NAME))
			return false;
	}
	return true;
}

int image_dir_mend_family(struct image_dir *dir, struct ferry_error *err)
{
	struct links l = {.dir = dir, .name = IMAGE_FAMILY_NEW, .err = err};
	char target[sizeof(IMAGE_FAMILY_NAME) + 1];
	ssize_t n = readlinkat(dir->fd, IMAGE_PARENT_NAME, target, sizeof(target));
	if (n != (ssize_t)strlen(IMAGE_FAMILY_NAME) || memcmp(target, IMAGE_FAMILY_NAME, (size_t)n) ||
	    links_hold(dir->fd, IMAGE_FAMILY_NAME))
		return 0;
	int r = image_dir__remove_links(dir->fd, IMAGE_FAMILY_NEW);
	if (r < 0)
		return links_error(&l, -r);
	r = links_memories(&l);
	if (r < 0)
		return r;
	r = image_dir__remove_links(dir->fd, IMAGE_FAMILY_NAME);
	if (r >= 0 && renameat(dir->fd, IMAGE_FAMILY_NEW, dir->fd, IMAGE_FAMILY_NAME) < 0)
		r = errno == ENOENT ? 0 : -errno;
	return r < 0 ? links_error(&l, -r) : 0;
}
