/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image directory is complete or it is no image. Files are written first and synced, ferry-manifest.img
 * holds size and checksum of each, and inventory.img appears last, by rename. Whatever goes wrong before that
 * removes every file of this write, and the directory if this write made it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/file.h"
#include "image/hash.h"

struct fault;
struct log_sink;
struct image_dir;

/* A restored image carries this file. */
#define IMAGE_SPENT_NAME "ferry-restored"

enum image_read_back {
	IMAGE_READ_BACK_NONE,
	IMAGE_READ_BACK_METADATA, /* everything but pages files */
	IMAGE_READ_BACK_ALL,
};

/* Takes the bytes of pages files, one file after the other, in order. A failure sets *err and ends the image. */
struct image_sink {
	int (*begin)(void *context, const char *name, struct ferry_error *err);
	int (*write)(void *context, const void *bytes, size_t n, struct ferry_error *err);
	void *context;
};

struct image_dir_create {
	bool overwrite;                 /* an image that is there is removed first */
	bool no_manifest;               /* plain CRIU image: ferry-manifest.img is left out */
	bool no_sync;                   /* for tests and for images that only pass through memory */
	enum image_read_back read_back; /* after the sync */
	const struct image_sink
		*pages;      /* gets the pages files, which are then not in the directory; NULL = none */
	bool read_back_cold; /* ask the kernel to drop its cache first, so that the medium answers */
	const struct fault *fault;  /* may be NULL; has to outlive the directory */
	const struct log_sink *log; /* may be NULL; has to outlive the directory */
};

/*
 * Begin an image in the directory at_fd/path, made (0700) when it does not exist. What an earlier write left
 * unfinished there is removed. -EEXIST and IMAGE_EXISTS when an inventory is there and overwrite was not asked,
 * or when another ferry is writing there.
 */
must_check int image_dir_create(int at_fd, const char *path, const struct image_dir_create *options,
				struct image_dir **ret, struct ferry_error *err);

/*
 * End the image: every writer has to be closed and IMAGE_INVENTORY has to be among the files. On failure
 * everything is removed as by image_dir_abort (dir itself still has to be freed). When 0 is returned the image
 * is on the disk and complete.
 */
must_check int image_dir_finish(struct image_dir *dir, struct ferry_error *err);

/* Remove every file of this write. Nothing happens when it was finished already. */
void image_dir_abort(struct image_dir *dir);

/* Aborts what is not finished. dir may be NULL. */
void image_dir_free(struct image_dir *dir);

/*
 * Enter a file that somebody else put there while this write was going on (a page server), so that it gets into
 * the manifest and is removed by an abort. Reads it whole.
 */
must_check int image_dir_adopt(struct image_dir *dir, const char *name, struct ferry_error *err);

/* Make the link to the parent image of an incremental dump; target as the reader will resolve it. */
must_check int image_dir_link_parent(struct image_dir *dir, const char *target, struct ferry_error *err);

/*
 * Give a task's pagemap a parent, as an incremental dump has: the pagemap of another task in the same image, whose pages file is
 * pages_id. It is a directory of links, ferry-family, which says nothing that our own records do not.
 */
must_check int image_dir_link_family(struct image_dir *dir, uint64_t pid, uint64_t head, uint32_t pages_id,
				     struct ferry_error *err);

/* The next unused pages_id, from 1. */
uint32_t image_dir_next_pages_id(struct image_dir *dir);

/* What somebody found out while a file of the directory passed through his hands. */
struct image_seen {
	char name[IMAGE_NAME_MAX];
	uint64_t size; /* bytes */
	struct image_checksum checksum;
};

struct image_dir_open {
	bool check_pages;  /* also compare the checksums of pages files */
	bool no_checksums; /* sizes and names only */
	const struct image_seen
		*seen; /* these need not be read again to be compared with the manifest; may be NULL */
	size_t n_seen;
	const struct fault *fault;  /* may be NULL; has to outlive the directory */
	const struct log_sink *log; /* may be NULL; has to outlive the directory */
};

/*
 * Open an image for reading. IMAGE_MISSING: no directory or no inventory. IMAGE_UNSUPPORTED: img_version is none
 * that we know. IMAGE_BAD: with a manifest, a file is missing, is of another size or content, or is not in
 * the list. An image without a manifest (CRIU's) is opened without these checks.
 */
must_check int image_dir_open(int at_fd, const char *path, const struct image_dir_open *options,
			      struct image_dir **ret, struct ferry_error *err);

/*
 * What check_pages of image_dir_open() does, later and without further threads: compare the checksums of pages files that were not
 * seen. IMAGE_BAD as there. image_dir_pages_bytes() is how much that is to read; 0 without a manifest.
 */
must_check int image_dir_check_pages(struct image_dir *dir, struct ferry_error *err);
uint64_t image_dir_pages_bytes(const struct image_dir *dir);

/* The directory's descriptor, its path for messages, whether it has a manifest, its id (0, 0 without one). */
int image_dir_fd(const struct image_dir *dir);
const char *image_dir_path(const struct image_dir *dir);

/* Of all files that were written, or that the manifest lists. */
uint64_t image_dir_bytes(const struct image_dir *dir);
bool image_dir_has_manifest(const struct image_dir *dir);
void image_dir_id(const struct image_dir *dir, uint64_t *ret_hi, uint64_t *ret_lo);

/* The id as inventory_entry.dump_criu_run_id wants it: 8-4-4-4-12 hexadecimal digits. */
void image_dir_id_text(const struct image_dir *dir, char ret_text[37]);

/* Whether a file is in the image. */
bool image_dir_has(const struct image_dir *dir, enum image_kind kind, uint64_t id);

/* The image that this one builds on; *ret is NULL (and 0 returned) when there is none. */
must_check int image_dir_open_parent(struct image_dir *dir, const struct image_dir_open *options,
				     struct image_dir **ret, struct ferry_error *err);

/* All image files of the directory, sorted by kind and id. */
struct image_dir_file {
	enum image_kind kind;
	uint64_t id;
	uint64_t size; /* bytes */
};
must_check int image_dir_list(struct image_dir *dir, struct image_dir_file **ret_files, size_t *ret_n,
			      struct ferry_error *err);

/*
 * A restored image is spent: it restores no second time unless asked to. Marking is durable when it returns, and
 * only one of several concurrent callers succeeds; the others get -EEXIST and IMAGE_SPENT.
 */
must_check int image_dir_mark_spent(struct image_dir *dir, struct ferry_error *err);
must_check int image_dir_is_spent(const struct image_dir *dir); /* 1, 0 or -errno */

/* Take the mark back, when the restore failed before anything ran. */
must_check int image_dir_unmark_spent(struct image_dir *dir, struct ferry_error *err);

static inline void cleanup_image_dir_p(struct image_dir **dir)
{
	image_dir_free(*dir);
}

#define _cleanup_image_dir_ __attribute__((cleanup(cleanup_image_dir_p)))
