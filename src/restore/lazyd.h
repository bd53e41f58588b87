/* SPDX-License-Identifier: Apache-2.0 */
/* The process that a restore with --lazy-pages leaves its memory to: brings it from the image, or from a page server. */
#pragma once

#include <stdbool.h>

#include <ferry/error.h>

#include "base/macros.h"

struct image_dir;

struct lazyd {
	struct image_dir *dir;
	int listening;   /* of lazyd_listen() */
	int page_server; /* -1: all pages are in the image */
	int log;         /* see struct pager_setup */
};

/* Make the socket in a directory, which errors call path. Returns it. ADDRESS_TAKEN: somebody waits there. */
must_check int lazyd_listen(int dir, const char *path, struct ferry_error *err);

/* Wait for one restore, and bring its memory until nothing is missing. PEER_GONE: the restore failed, or pages could not be had and the tasks are ended. */
must_check int lazyd_serve(const struct lazyd *d, struct ferry_error *err);
