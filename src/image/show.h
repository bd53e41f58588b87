/* SPDX-License-Identifier: Apache-2.0 */
/* What stands behind `ferry image VERB`: an image for people, and its inner consistency. */
#pragma once

#include <stdio.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "image/dir.h"

struct progress;

/* Every file with magic, number of entries and size. */
must_check int image_show_info(struct image_dir *dir, FILE *out, struct ferry_error *err);

/* One file: magic, entries, bytes. */
must_check int image_show_file_info(int at_fd, const char *path, FILE *out, struct ferry_error *err);

/* Tasks, descriptors, mappings and memory. */
must_check int image_show(struct image_dir *dir, FILE *out, struct ferry_error *err);

/*
 * Read everything and compare: every file parses and has as many entries as it should, pages files are as long
 * as their pagemaps say, every id that is mentioned exists. All findings are written to out, one a line; the
 * first becomes err. Checksums were compared when dir was opened.
 */
must_check int image_verify(struct image_dir *dir, FILE *out, struct ferry_error *err);

/* `ferry image show|decode|encode|info|verify ...`: argv[0] is the verb. 0 or -errno. */
must_check int image_verb(int argc, char **argv, FILE *out, struct progress *progress,
			  struct ferry_error *err);
