/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deduplication: taking pages out of the images that an image builds on. Their files keep their length and get holes. What was left
 * out of is marked (image_dir_check_whole()), because it does not restore by itself any more.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"

struct fault;
struct image_dir;

struct image_dedup {
	uint64_t bytes; /* by which the files became smaller on their file system */
	size_t images;  /* that something was taken out of */
};

/*
 * Take out of all images that dir builds on the pages that dir has again at the same address, unless a reference of dir's still leads
 * to them. dir is complete; its pages files are synced first. Only dir and images that build on it can be restored afterwards.
 * When it is interrupted at any point they can be restored, too, and it can be done again. Nothing was changed when one of the images
 * cannot be read. -EPERM: a file has several links.
 */
must_check int image_dedup(struct image_dir *dir, const struct fault *fault, struct image_dedup *ret,
			   struct ferry_error *err);

/*
 * The same, and whatever else nobody needs who begins with dir: all that its references do not lead to. Every image that it builds on is
 * marked, also one that nothing is taken out of.
 */
must_check int image_dedup_unneeded(struct image_dir *dir, const struct fault *fault, struct image_dedup *ret,
				    struct ferry_error *err);

/* Take all pages out of dir and the images that it builds on, after it was restored. None of them can be restored afterwards. */
must_check int image_dedup_all(struct image_dir *dir, const struct fault *fault, struct image_dedup *ret,
			       struct ferry_error *err);
