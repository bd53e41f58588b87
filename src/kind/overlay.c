/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the form of what the kernel tells of an overlay file system: its options, and handles of its files.
 *
 * Kernel interface: options of fs/overlayfs in mountinfo; struct ovl_fb, which is on disks, too.
 */
#include "kind/overlay.h"

#include <limits.h>
#include <string.h>

enum {
	OVERLAY_TYPE = 0xf8, /* of the handle; before 5.8 another, without the padding */
	OVERLAY_MAGIC = 0xfb,
	OVERLAY_PADDING = 3,
	OVERLAY_HEAD = 21, /* bytes before the handle within */
};

/* Offsets into what follows the padding. */
enum { OVERLAY_AT_VERSION = 0, OVERLAY_AT_MAGIC = 1, OVERLAY_AT_LENGTH = 2, OVERLAY_AT_TYPE = 4 };

bool overlay_inner_handle(const struct proc_handle *outer, struct proc_handle *ret)
{
	const unsigned char *fb = (const unsigned char *)outer->bytes + OVERLAY_PADDING;
	if (outer->type != OVERLAY_TYPE || outer->n < OVERLAY_PADDING + OVERLAY_HEAD ||
	    fb[OVERLAY_AT_VERSION] != 0 || fb[OVERLAY_AT_MAGIC] != OVERLAY_MAGIC)
		return false;
	size_t length = fb[OVERLAY_AT_LENGTH];
	if (length <= OVERLAY_HEAD || length > outer->n - OVERLAY_PADDING)
		return false;
	*ret = (struct proc_handle){.n = (uint32_t)(length - OVERLAY_HEAD), .type = fb[OVERLAY_AT_TYPE]};
	memcpy(ret->bytes, fb + OVERLAY_HEAD, ret->n);
	return true;
}

static const struct overlay_word {
	const char *word;
	enum overlay_use use;
	bool several; /* with ':' between them; one that belongs to a path has a backslash before it */
} overlay_words[] = {
	{"lowerdir=", OVERLAY_LOWER, true},  {"upperdir=", OVERLAY_UPPER, false},
	{"workdir=", OVERLAY_WORK, false},   {"lowerdir+=", OVERLAY_LOWER, false},
	{"datadir+=", OVERLAY_LOWER, false},
};

static int overlay_each_of(const char *at, const struct overlay_word *w,
			   int (*each)(enum overlay_use use, const char *path, void *ctx), void *ctx)
{
	char path[PATH_MAX];
	for (size_t n = 0;; at++) {
		bool end = !*at || *at == ',';
		if (end || (w->several && *at == ':')) {
			path[n] = '\0';
			/* Nothing is between two ':' in a row, which say that what comes has data only. */
			int r = n ? each(w->use, path, ctx) : 0;
			if (r || end)
				return r;
			n = 0;
			continue;
		}
		at += *at == '\\' && at[1];
		if (n + 1 < sizeof(path))
			path[n++] = *at;
	}
}

int overlay_each(const char *options, int (*each)(enum overlay_use use, const char *path, void *ctx),
		 void *ctx)
{
	int r = 0;
	for (const char *at = options; *at && !r; at += strcspn(at, ","), at += *at == ',')
		for (size_t i = 0; i < ARRAY_SIZE(overlay_words) && !r; i++) {
			size_t n = strlen(overlay_words[i].word);
			if (!strncmp(at, overlay_words[i].word, n))
				r = overlay_each_of(at + n, &overlay_words[i], each, ctx);
		}
	return r;
}
