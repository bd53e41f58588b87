/* SPDX-License-Identifier: Apache-2.0 */
/* Owns faults on purpose: what the environment asks for, and the shared count of effects. */
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"

static const struct fault_info fault_infos[FAULT_COUNT] = {
#define FAULT(name, word, stage, text) [FAULT_##name] = {word, stage, text},
#include "base/faults.def"
#undef FAULT
};

const struct fault_info *fault_info(enum fault_id id)
{
	return (unsigned)id < FAULT_COUNT ? &fault_infos[id] : NULL;
}

int fault_init(struct fault *f)
{
	*f = (struct fault){.wanted = -1, .log_fd = -1};
	const char *name = getenv("FERRY_FAULT");
	if (name && *name) {
		for (int i = 0; i < FAULT_COUNT; i++)
			if (!strcmp(fault_infos[i].word, name))
				f->wanted = i;
		if (f->wanted < 0)
			return -EINVAL;
	}
	const char *at = getenv("FERRY_KILL_AT"), *victim = getenv("FERRY_KILL_VICTIM");
	const char *log = getenv("FERRY_EFFECT_LOG");
	f->full_copy = getenv("FERRY_FULL_COPY");
	f->kill_at = at ? strtoull(at, NULL, 10) : 0;
	f->kill_group = victim && !strcmp(victim, "group");
	f->victim = victim ? (pid_t)strtol(victim, NULL, 10) : 0;
	if (log) {
		int fd = fd_open(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
		if (fd < 0)
			return fd;
		f->log_fd = fd_dup(fd, 512);
		close(fd);
	}
	if (f->kill_at || f->log_fd >= 0) {
		f->counter = mmap(NULL, sizeof(*f->counter), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (f->counter == MAP_FAILED) {
			f->counter = NULL;
			return -errno;
		}
	}
	return 0;
}

void fault_release(struct fault *f)
{
	if (f->counter)
		munmap(f->counter, sizeof(*f->counter));
	if (f->log_fd >= 0)
		close(f->log_fd);
	*f = (struct fault){.wanted = -1, .log_fd = -1};
}

bool fault_hit(const struct fault *f, enum fault_id id)
{
	return f && f->wanted == (int)id;
}

void fault_effect(const struct fault *f, const char *stage, const char *what)
{
	if (!f || !f->counter)
		return;
	uint64_t number = __atomic_add_fetch(f->counter, 1, __ATOMIC_SEQ_CST);
	if (f->log_fd >= 0) {
		char line[160];
		int n = snprintf(line, sizeof(line), "%d %llu %s %s\n", getpid(), (unsigned long long)number,
				 stage, what);
		if (n > 0 && fd_write_all(f->log_fd, line, (size_t)MIN(n, (int)sizeof(line) - 1)) < 0)
			return;
	}
	if (f->kill_at && number == f->kill_at)
		kill(f->kill_group ? 0 : f->victim ? f->victim : getpid(), SIGKILL);
}
