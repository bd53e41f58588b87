/* SPDX-License-Identifier: Apache-2.0 */
/* What file.c and dir.c know of each other. */
#pragma once

#include <dirent.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <xxhash.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/vec.h"
#include "image/dir.h"
#include "image/file.h"

struct image_dir_entry {
	char name[IMAGE_NAME_MAX];
	uint64_t size; /* bytes */
	struct image_checksum checksum;
	bool closed;         /* size and checksum are final */
	bool sent;           /* it went to the sink and is not in the directory */
	bool seen;           /* its checksum was compared already */
	bool copied;         /* size and checksum are found out at the end */
	const uint8_t *kept; /* its bytes, as they were compared; NULL = they are read from the file */
};

struct image_dir {
	int fd;
	int parent_fd; /* where path starts; for removing a directory that we made */
	char *path;
	const struct fault *fault;
	const struct log_sink *log;
	struct progress *progress;

	bool writing;
	bool made;      /* mkdir was ours */
	bool over;      /* finished or aborted */
	bool in_memory; /* on a tmpfs: there is no disk behind it */
	bool has_family, has_rounds;
	bool late; /* a round that is neither synced nor read back before what it belongs to is */
	struct image_dir *rounds; /* of those, the ones that are written; ours */
	struct image_dir *next;   /* in rounds */
	struct image_dir_create create;
	struct image_coverage *sent; /* what went to create.remote; NULL without one */
	int marker_fd;               /* IMAGE_UNFINISHED_NAME, locked while we write */
	pthread_mutex_t lock; /* of writers, next_pages_id, entries and slots while files are written */
	struct image_writer *writers;
	uint32_t next_pages_id;

	bool has_manifest;
	bool has_pages_list;  /* of what a page server took */
	bool pages_elsewhere; /* nothing lists them: they went to a page server */
	bool punched;         /* pages were taken out, so the checksums of pages files mean nothing */
	uint64_t id_hi, id_lo;
	uint64_t parent_hi,
		parent_lo;        /* id of the image that this one builds on; 0, 0 = none, or it has no id */
	struct image_dir *parent; /* opened by image_dir_parent(); ours */
	struct image_dir *child;  /* whose parent this one is */
	VEC(struct image_dir_entry) entries; /* files of this write, or those of the manifest */
	uint32_t *slots;                     /* hash table: index of an entry + 1, 0 = free */
	size_t n_slots;                      /* a power of two, or 0 */
	uint8_t *kept;                       /* the bytes of small files, one mapping; NULL = none */
	uint64_t kept_bytes;
};

#define IMAGE_INVENTORY_NAME "inventory.img"
#define IMAGE_MANIFEST_NAME "ferry-manifest.img"
#define IMAGE_PAGES_LIST_NAME "ferry-pages.img" /* the same for what a page server took */

/* Names in the directory that are no image files. */
#define IMAGE_UNFINISHED_NAME "ferry-unfinished"  /* there while a write goes on, and after it was killed */
#define IMAGE_INVENTORY_NEW "ferry-inventory.new" /* the inventory before the image is complete */
#define IMAGE_PARENT_NAME "parent"
#define IMAGE_CHAIN_NAME \
	"ferry-parent" /* leads to the image that this one builds on, when 'parent' leads to our links */
#define IMAGE_PUNCHED_NEW "ferry-punched.new"
#define IMAGE_FAMILY_NAME "ferry-family" /* links for readers that know of parent images only */
#define IMAGE_FAMILY_NEW "ferry-family.new"

/* The name under which a file is written: all but the inventory have their final one. */
const char *image_dir__written_name(const char *name);

struct image_dir_entry *image_dir__find(const struct image_dir *dir, const char *name);

/* Make, or replace, one of the two links; an abort removes it. */
int image_dir__make_link(struct image_dir *dir, const char *name, const char *target,
			 struct ferry_error *err);
bool image_dir__is_link(const char *name);

/* Remove a directory of image_dir_link_family(), unless something else is in it; not there is as good. */
int image_dir__remove_links(int dir_fd, const char *name);

/* The name of the link that leads to the image that this one builds on. */
const char *image_dir__parent_link(const struct image_dir *dir);

/* Add a file that is not in the list; NULL when memory is short. */
struct image_dir_entry *image_dir__add(struct image_dir *dir, const char *name);

/* Enter a file that is about to be written. -EEXIST: it was entered before. -ENOMEM. */
must_check int image_dir__enter(struct image_dir *dir, const char *name, bool sent, size_t *ret_index);

void image_dir__set_closed(struct image_dir *dir, size_t index, uint64_t size, XXH128_hash_t hash);

bool image_dir__is_service(const char *name);

/* Whether files of this kind may be there without being listed: pages that went elsewhere, and the lists themselves. */
bool image_dir__is_unlisted(const struct image_dir *dir, enum image_kind kind);
bool image_dir__is_pages(const char *name);

struct image_checksum image_dir__checksum_from(XXH128_hash_t hash);

/* Size and checksum of limit bytes (or all) of an open file, from its start. lanes: threads at most. */
must_check int image_dir__hash_file(int fd, uint64_t limit, unsigned lanes, struct progress *progress,
				    uint64_t *ret_size, struct image_checksum *ret);

/* The directory's names, from the first on. */
must_check int image_dir__open_listing(int dir_fd, DIR **ret);

/* An empty structure without descriptors; NULL when memory is short. */
struct image_dir *image_dir__new(const char *path);

/* Discard writers that are still open. */
void image_writer__discard_all(struct image_dir *dir);

/* Checksum of everything written so far. */
int image_writer__digest(struct image_writer *w, XXH128_hash_t *ret, struct ferry_error *err);

/* Set the error for a failed system call on a file of an image: what means "disk full" becomes NO_SPACE. */
int image_io_error(struct ferry_error *err, int code, const char *what, const char *name);
