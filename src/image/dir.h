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
struct image_coverage;
struct log_sink;
struct progress;
struct image_dir;

/* A restored image carries this file. */
#define IMAGE_SPENT_NAME "ferry-restored"

/* An image that pages were taken out of has this one; in it stands for which image. */
#define IMAGE_PUNCHED_NAME "ferry-punched"

enum image_read_back {
	IMAGE_READ_BACK_NONE,
	IMAGE_READ_BACK_STORED, /* everything that is stored somewhere: not on a tmpfs, where a file is what was written */
	IMAGE_READ_BACK_ALL,
};

/* Takes the bytes of pages files, one file after the other, in order. A failure sets *err and ends the image. */
struct image_sink {
	int (*begin)(void *context, const char *name, struct ferry_error *err);
	int (*write)(void *context, const void *bytes, size_t n, struct ferry_error *err);
	void *context;
};

struct image_dir_create {
	const char *name; /* what messages call it; NULL = its path */
	bool overwrite;   /* an image that is there is removed first */
	bool partial; /* pages of an image whose other files come from elsewhere: no inventory, no manifest, and no id but that of
			 image_dir_set_id() */
	bool no_manifest;               /* plain CRIU image: ferry-manifest.img is left out */
	bool no_sync;                   /* for tests and for images that only pass through memory */
	enum image_read_back read_back; /* after the sync */
	const struct image_sink
		*pages; /* gets the pages files, which are then not in the directory; NULL = none */
	const struct image_pages_remote *
		remote; /* gets pagemaps and pages, of which the directory then has a list alone; NULL = none */
	struct image_coverage
		*coverage; /* gets which pages the image has; may be NULL; has to outlive the directory */
	struct progress *progress;  /* counts what is read back; may be NULL */
	bool read_back_cold;        /* ask the kernel to drop its cache first, so that the medium answers */
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

/* Remove every file of a write that was finished. Nothing else may have read it since. */
void image_dir_withdraw(struct image_dir *dir);

/* Aborts what is not finished. dir may be NULL. */
void image_dir_free(struct image_dir *dir);

/*
 * Enter a file that somebody else put there while this write was going on (a page server), so that it gets into
 * the manifest and is removed by an abort. Reads it whole.
 */
must_check int image_dir_adopt(struct image_dir *dir, const char *name, struct ferry_error *err);

/*
 * Make a file of the image a copy of another one; it shares its blocks if the file system can. The kind has neither header nor messages. Size
 * and checksum are found out by image_dir_finish().
 */
must_check int image_dir_copy(struct image_dir *dir, enum image_kind kind, uint64_t id, int from,
			      struct ferry_error *err);

/*
 * A round that the image has for itself: an image of memory in a directory of this one, which builds on the image before, as dir itself
 * would name it (NULL: on none), as a rule the round before it; numbers begin with 1. It is removed with what it belongs to. coverage gets
 * which pages it has, for the next one. When it is finished it is handed to dir, which frees it. One that is late is neither synced nor read
 * back before dir is finished: nobody takes it for an image without dir.
 */
enum { IMAGE_ROUNDS_MAX = 16, IMAGE_ROUND_NAME_BYTES = 32 };
void image_dir_round_name(unsigned number, char ret[IMAGE_ROUND_NAME_BYTES]);
must_check int image_dir_create_round(struct image_dir *dir, unsigned number, const char *before,
				      struct image_coverage *coverage, bool late, struct image_dir **ret,
				      struct ferry_error *err);
void image_dir_add_round(struct image_dir *dir, struct image_dir *round);

/*
 * Make the link to the image that this one builds on, an incremental dump; target as the reader will resolve it, relative to the
 * directory. The image has to be there and complete; its id becomes known to this one's manifest. Errors as of image_dir_parent().
 */
must_check int image_dir_link_parent(struct image_dir *dir, const char *target, struct ferry_error *err);

/*
 * For readers that know of parent images only, when references of a task lead to the pagemap of another one (pages_of): a directory of
 * links, ferry-family, that says nothing which our own records do not. Called when all pagemaps and the tasks' records were written.
 */
must_check int image_dir_link_family(struct image_dir *dir, struct ferry_error *err);

/* After an image that dir builds on was replaced by a merged one (merge.h): such links are made anew unless all of them hold. */
must_check int image_dir_mend_family(struct image_dir *dir, struct ferry_error *err);

/* Whether several threads may write pages at the same time; other files they always may, each its own. */
bool image_dir_takes_several(const struct image_dir *dir);

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
	bool keep;         /* what was read of small files to compare them need not be read again */
	const struct image_seen
		*seen; /* these need not be read again to be compared with the manifest; may be NULL */
	size_t n_seen;
	struct progress *progress;  /* counts what checksums are computed of; may be NULL */
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
 * seen, also those of images that it builds on and that are open. IMAGE_BAD as there. image_dir_pages_bytes() is how much that is to
 * read; 0 without a manifest.
 */
must_check int image_dir_check_pages(struct image_dir *dir, struct ferry_error *err);
/* Give the memory back that image_dir_open() has kept; from here on all files are read again. */
void image_dir_forget(struct image_dir *dir);

uint64_t image_dir_pages_bytes(const struct image_dir *dir);

/*
 * Who reads an image holds a lock on its directory, and on those of the images that it builds on. Before any of them is changed all of
 * that has to be ours alone: 1, or 0: somebody reads. What the image builds on is opened for that.
 */
must_check int image_dir_reserve(struct image_dir *dir, struct ferry_error *err);

/* The directory's descriptor, its path for messages, whether it has a manifest, its id (0, 0 without one). */
int image_dir_fd(const struct image_dir *dir);
const char *image_dir_path(const struct image_dir *dir);

/* Of all files that were written, or that the manifest lists. */
uint64_t image_dir_bytes(const struct image_dir *dir);

/* The same, with rounds that are late: what there is to sync. */
uint64_t image_dir_unsynced_bytes(const struct image_dir *dir);
bool image_dir_has_manifest(const struct image_dir *dir);
void image_dir_id(const struct image_dir *dir, uint64_t *ret_hi, uint64_t *ret_lo);

/* Of a partial image: it becomes known which image its pages belong to, so that a list of them is written in the end. */
void image_dir_set_id(struct image_dir *dir, uint64_t hi, uint64_t lo);

/* Its pages went to a page server, and nothing in the directory says whether they are beside it. */
bool image_dir_pages_are_elsewhere(const struct image_dir *dir);

/* The id as inventory_entry.dump_criu_run_id wants it: 8-4-4-4-12 hexadecimal digits. */
void image_dir_id_text(const struct image_dir *dir, char ret_text[37]);

/* Whether a file is in the image. */
bool image_dir_has(const struct image_dir *dir, enum image_kind kind, uint64_t id);

/*
 * The image that this one builds on, where the link 'parent' leads. It is opened when it is asked for first, and is dir's. *ret is NULL
 * (and 0 returned) when there is none. IMAGE_MISSING: the link leads nowhere, or to no image. IMAGE_BAD: to an image that builds on
 * this one (-ELOOP), to another one than this image was made with, or to a damaged one.
 */
must_check int image_dir_parent(struct image_dir *dir, struct image_dir **ret, struct ferry_error *err);

/* Open all that there are, one behind the other, up to one that is missing. And how many are open. */
must_check int image_dir_open_chain(struct image_dir *dir, struct ferry_error *err);
size_t image_dir_n_parents(const struct image_dir *dir);

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

/*
 * Note, durably, that pages are about to be taken out of dir, since younger, which builds on it, has them or needs none; NULL: for good.
 * From then on dir restores only by way of younger.
 */
must_check int image_dir_mark_punched(const struct image_dir *dir, const struct image_dir *younger,
				      struct ferry_error *err);

/*
 * Whether the pages that dir's pagemaps name are there, as far as such a mark tells; dir is opened by itself, or as the parent of others.
 * IMAGE_BAD: they are not. image_dir_parent() asks this of each image it opens.
 */
must_check int image_dir_check_whole(const struct image_dir *dir, struct ferry_error *err);

static inline void cleanup_image_dir_p(struct image_dir **dir)
{
	image_dir_free(*dir);
}

#define _cleanup_image_dir_ __attribute__((cleanup(cleanup_image_dir_p)))
