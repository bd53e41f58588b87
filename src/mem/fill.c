/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns bringing back the contents of shared memory objects: anonymous ones and memfds. They are mapped by whoever makes
 * them; private memory is read by the restored tasks themselves (restore/).
 */
#include <errno.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/dir.h"
#include "image/pages.h"
#include "mem/mem.h"

int mem_fill_shmem(struct image_dir *dir, uint64_t shmid, uint64_t bytes, char *at, struct ferry_error *err)
{
	_cleanup_pages_reader_ struct image_pages_reader *pages = NULL;
	uint64_t mapped = align_up(bytes, IMAGE_PAGE_BYTES);
	struct image_run run;
	int ret = image_pages_open(dir, IMAGE_SHMEM_PAGEMAP, shmid, &pages, err);
	while (ret >= 0 && (ret = image_pages_next(pages, &run, err)) > 0) {
		uint64_t end = run.vaddr + run.nr_pages * IMAGE_PAGE_BYTES;
		if (!(run.flags & IMAGE_PE_PRESENT) || end > mapped)
			return error_set(
				err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				"pagemap-shmem-%llu.img has pages that the object does not have or that are elsewhere",
				(unsigned long long)shmid);
		ret = image_pages_read(pages, &run, 0, run.nr_pages, at + run.vaddr, err);
	}
	return ret;
}
