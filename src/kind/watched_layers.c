/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the way from a handle of an overlay file system, which nobody can open, to the file: it holds the handle that the file has
 * in its layer, and where the layer's file system can open that, the path below the layer is the path below the overlay. The
 * layers are looked up where ferry was started: whoever mounted the overlay of a container did so outside of it.
 *
 * Kernel interface: handles of fs/overlayfs (struct ovl_fb, which is on disks, too; shown by fdinfo since 6.6), open_by_handle_at(2).
 * Does not handle: layers that are named by relative paths, or lie where no handle can be opened; then the caller searches.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "kernel/syscalls.h"
#include "kind/watched.h"
#include "proc/fdinfo.h"
#include "proc/mountinfo.h"

enum {
	LAYERS_TYPE = 0xf8, /* of the handle; before 5.8 another, without the padding */
	LAYERS_MAGIC = 0xfb,
	LAYERS_PADDING = 3,
	LAYERS_HEAD = 21, /* bytes before the handle within */
};

/* Offsets into what follows the padding. */
enum { LAYERS_AT_VERSION = 0, LAYERS_AT_MAGIC = 1, LAYERS_AT_LENGTH = 2, LAYERS_AT_TYPE = 4 };

/* The handle of the file in its layer. */
static bool layers_inner(const struct proc_handle *outer, struct proc_handle *ret)
{
	const unsigned char *fb = (const unsigned char *)outer->bytes + LAYERS_PADDING;
	if (outer->type != LAYERS_TYPE || outer->n < LAYERS_PADDING + LAYERS_HEAD ||
	    fb[LAYERS_AT_VERSION] != 0 || fb[LAYERS_AT_MAGIC] != LAYERS_MAGIC)
		return false;
	size_t length = fb[LAYERS_AT_LENGTH];
	if (length <= LAYERS_HEAD || length > outer->n - LAYERS_PADDING)
		return false;
	*ret = (struct proc_handle){.n = (uint32_t)(length - LAYERS_HEAD), .type = fb[LAYERS_AT_TYPE]};
	memcpy(ret->bytes, fb + LAYERS_HEAD, ret->n);
	return true;
}

/* The path of a descriptor, as long as the kernel knows one. */
static bool layers_path(int fd, char path[PATH_MAX])
{
	char link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, PATH_MAX - 1);
	path[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* What of a layer's file lies below the layer. */
static bool layers_below(const char *path, const char *layer, char *ret)
{
	size_t n = layer[1] ? strlen(layer) : 0;
	if (strncmp(path, layer, n) != 0 || (path[n] != '/' && path[n]))
		return false;
	memmove(ret, path + n, strlen(path + n) + 1);
	return true;
}

static bool layers_look(int home, const char *layer, const struct proc_handle *inner, char path[PATH_MAX])
{
	const struct kern_open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
					  .resolve = KERN_RESOLVE_IN_ROOT};
	char top[PATH_MAX];
	_cleanup_close_ int dir = layer[0] == '/' ? sys_openat2(home, layer, &how) : -1;
	_cleanup_close_ int fd = dir < 0 ? dir : watched_open_inode(dir, inner);
	return fd >= 0 && layers_path(dir, top) && layers_path(fd, path) && layers_below(path, top, path);
}

/* Paths with ':' between them, up to the next option. A backslash is before a ':' that belongs to a path. */
static bool layers_each(int home, const char *at, const struct proc_handle *inner, char path[PATH_MAX])
{
	char layer[PATH_MAX];
	for (size_t n = 0;; at++) {
		bool end = !*at || *at == ',';
		if (end || *at == ':') {
			layer[n] = '\0';
			if (layers_look(home, layer, inner, path))
				return true;
			n = 0;
			if (end)
				return false;
			continue;
		}
		at += *at == '\\' && at[1];
		if (n + 1 < sizeof(layer))
			layer[n++] = *at;
	}
}

/* The options of the file system tell its layers. A comma in a path is one too many; then nothing is found. */
static bool layers_of(int home, const char *options, const struct proc_handle *inner, char path[PATH_MAX])
{
	static const char *const words[] = {"upperdir=", "lowerdir=", "lowerdir+="};
	for (const char *at = options; *at; at += strcspn(at, ","), at += *at == ',')
		for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
			size_t n = strlen(words[i]);
			if (!strncmp(at, words[i], n) && layers_each(home, at + n, inner, path))
				return true;
		}
	return false;
}

bool watched_in_layers(const struct watched *w, const struct proc_mount *mount, char path[PATH_MAX])
{
	struct proc_handle inner;
	char below[PATH_MAX];
	if (!layers_inner(w->handle, &inner))
		return false;
	_cleanup_close_ int here = w->home < 0 ? fd_open(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0) : -1;
	int home = w->home < 0 ? here : w->home;
	if (home < 0 || !layers_of(home, mount->super_options, &inner, below) ||
	    !layers_below(below, mount->root, below))
		return false;
	int n = snprintf(path, PATH_MAX, "%s%s", mount->point[1] ? mount->point : "", below);
	return n > 0 && n < PATH_MAX;
}
