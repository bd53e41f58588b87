/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the way from a handle of an overlay file system, which nobody can open, to the file: it holds the handle that the file has
 * in its layer, and where the layer's file system can open that, the path below the layer is the path below the overlay. The
 * layers are looked up where ferry was started: whoever mounted the overlay of a container did so outside of it.
 *
 * Kernel interface: handles of fs/overlayfs (shown by fdinfo since 6.6), open_by_handle_at(2).
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
#include "kind/overlay.h"
#include "kind/watched.h"
#include "proc/fdinfo.h"
#include "proc/mountinfo.h"

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
	return fd >= 0 && fd_path(dir, top, PATH_MAX) > 0 && fd_path(fd, path, PATH_MAX) > 0 &&
	       layers_below(path, top, path);
}

struct layers_search {
	int home;
	const struct proc_handle *inner;
	char *path;
};

static int layers_each(enum overlay_use use, const char *layer, void *ctx)
{
	const struct layers_search *s = ctx;
	return use != OVERLAY_WORK && layers_look(s->home, layer, s->inner, s->path);
}

bool watched_in_layers(const struct watched *w, const struct proc_mount *mount, char path[PATH_MAX])
{
	struct proc_handle inner;
	char below[PATH_MAX];
	if (!overlay_inner_handle(w->handle, &inner))
		return false;
	_cleanup_close_ int here = w->home < 0 ? fd_open(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0) : -1;
	int home = w->home < 0 ? here : w->home;
	struct layers_search search = {home, &inner, below};
	if (home < 0 || !overlay_each(mount->super_options, layers_each, &search) ||
	    !layers_below(below, mount->root, below))
		return false;
	int n = snprintf(path, PATH_MAX, "%s%s", mount->point[1] ? mount->point : "", below);
	return n > 0 && n < PATH_MAX;
}
