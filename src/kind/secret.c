/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns memory of memfd_secret(2), which is refused: it was made so that nothing but the program reads it, the kernel
 * included, and an image would be a copy of it on a disk.
 *
 * Kernel interface: memfd_secret(2) (5.14).
 * Does not handle: such memory at all. process_vm_readv(2) and /proc/PID/mem fail on it by design (mm/secretmem.c, looked
 * at in 6.18); only code inside the task could copy it out.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "proc/maps.h"

static const char secret_hint[] =
	"let the program give the secret up before, or keep it in locked memory (mlock(2), MADV_DONTDUMP)";

static bool secret_owns(const struct fd_view *view)
{
	return S_ISREG(view->stat.st_mode) && !strcmp(view->link, "/secretmem (deleted)");
}

static int secret_check(const struct fd_view *view, const struct kind_options *options unused,
			struct ferry_error *err)
{
	char who[64];
	fd_view_name(view, who, sizeof(who));
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: secret memory (memfd_secret)", who);
	error_hint(err, "%s", secret_hint);
	return -ENOTSUP;
}

static int secret_collect(struct collect *c, struct fd_view *view, struct snap_file *file unused,
			  struct ferry_error *err)
{
	return secret_check(view, c->options, err);
}

static bool secret_owns_vma(const struct vma_view *view)
{
	return view->vma->kind == PROC_VMA_SECRETMEM;
}

static int secret_check_vma(const struct vma_view *view, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_VMA, ENOTSUP,
		  "pid %d maps secret memory (memfd_secret) at %llx", view->pid,
		  (unsigned long long)view->vma->start);
	error_hint(err, "%s", secret_hint);
	return -ENOTSUP;
}

static int secret_collect_vma(struct collect *c unused, struct snap_task *t unused,
			      const struct vma_view *view, struct snap_vma *vma unused,
			      struct ferry_error *err)
{
	return secret_check_vma(view, err);
}

const struct kind_ops kind_secret = {
	.name = "secret",
	.what = "memory of memfd_secret(2), which is refused",
	.fd_type = -1,
	.image_file = -1,
	.owns = secret_owns,
	.check = secret_check,
	.collect = secret_collect,
	.owns_vma = secret_owns_vma,
	.check_vma = secret_check_vma,
	.collect_vma = secret_collect_vma,
};
