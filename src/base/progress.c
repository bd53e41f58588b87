/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the memory that a job's processes count in. */
#include "base/progress.h"

#include <sys/mman.h>

struct progress *progress_new(void)
{
	void *at = mmap(NULL, sizeof(struct progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			0);
	return at == MAP_FAILED ? NULL : at;
}

void progress_free(struct progress *p)
{
	if (p)
		munmap(p, sizeof(*p));
}

const char *progress_word(enum progress_step step)
{
	static const char *const words[PROGRESS_STEPS] = {
		[PROGRESS_NONE] = "beginning",   [PROGRESS_ROUND] = "round", [PROGRESS_MEMORY] = "memory",
		[PROGRESS_SYNC] = "disk",        [PROGRESS_HOOK] = "hook",   [PROGRESS_FILL] = "memory",
		[PROGRESS_VERIFY] = "checksums", [PROGRESS_OVER] = "over",
	};
	return step < PROGRESS_STEPS ? words[step] : "";
}
