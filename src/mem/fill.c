/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns bringing back the contents of shared memory objects: anonymous ones and memfds. They are mapped by whoever makes
 * them; private memory is read by the restored tasks themselves (restore/).
 */
#include <errno.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/dir.h"
#include "image/memory.h"
#include "image/pages.h"
#include "mem/mem.h"

int mem_fill_shmem(struct image_dir *dir, uint64_t shmid, uint64_t bytes, char *at, struct ferry_error *err)
{
	_cleanup_image_memory_ struct image_memory *m = NULL;
	uint64_t mapped = align_up(bytes, IMAGE_PAGE_BYTES);
	struct image_piece piece;
	int ret = image_memory_open(dir, IMAGE_SHMEM_PAGEMAP, shmid, &m, err);
	while (ret >= 0 && (ret = image_memory_next(m, &piece, err)) > 0) {
		if (piece.vaddr + piece.nr_pages * IMAGE_PAGE_BYTES > mapped)
			return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
					 "pagemap-shmem-%llu.img has pages that the object does not have",
					 (unsigned long long)shmid);
		ret = image_memory_read(&piece, 0, piece.nr_pages, at + piece.vaddr, err);
	}
	return ret;
}
