/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns knowing what a task may call: its seccomp mode and filters. Kernel interface: ptrace(2)
 * PTRACE_SECCOMP_GET_FILTER (Linux 4.4, needs CAP_SYS_ADMIN), Seccomp: in /proc/PID/status.
 */
#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "inject/internal.h"

/* The kernel allows 32768 instructions in all filters of a task together, 4 more for each filter. */
#define FILTERS_MAX 8192

void seccomp_release(struct seccomp_state *state)
{
	for (size_t i = 0; i < state->n; i++)
		free(state->filters[i].code);
	free(state->filters);
	*state = (struct seccomp_state){0};
}

/* Filter number i, oldest first; 0 when there is none. */
static int filter_read(struct ferry_thread *t, size_t i, struct bpf_filter *ret)
{
	long n = thread_ptrace(t, PTRACE_SECCOMP_GET_FILTER, i, 0);

	if (n == -ENOENT)
		return 0;
	if (n < 0)
		return (int)n;
	struct sock_filter *code = calloc((size_t)n, sizeof(*code));
	if (!code)
		return -ENOMEM;
	long got = thread_ptrace(t, PTRACE_SECCOMP_GET_FILTER, i, (uintptr_t)code);
	if (got < 0) {
		free(code);
		return (int)got;
	}
	*ret = (struct bpf_filter){.n = (uint16_t)n, .code = code};
	return 1;
}

static int filters_read(struct ferry_thread *t, struct seccomp_state *state)
{
	for (;;) {
		struct bpf_filter *more = reallocarray(state->filters, state->n + 1, sizeof(*more));
		if (!more)
			return -ENOMEM;
		state->filters = more;
		int r = filter_read(t, state->n, &more[state->n]);
		if (r <= 0)
			return r;
		if (++state->n > FILTERS_MAX)
			return -E2BIG;
	}
}

int seccomp_read(struct ferry_thread *t, struct seccomp_state *ret, struct ferry_error *err)
{
	__attribute__((cleanup(cleanup_seccomp))) struct seccomp_state state = {0};
	uint64_t mode;
	int r;

	if (t->seccomp_mode < 0) {
		r = thread_status_number(t->tid, "Seccomp:", 10, &mode);
		if (r < 0 && r != -ENODATA)
			return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading the status of task %d",
					   t->tid);
		t->seccomp_mode = r < 0 ? SECCOMP_MODE_DISABLED : (int)mode;
	}
	state.mode = t->seccomp_mode;
	if (state.mode == SECCOMP_MODE_FILTER) {
		r = filters_read(t, &state);
		if (r < 0) {
			error_errno(err, FERRY_ERROR_SECCOMP, -r, "reading the seccomp filters of task %d",
				    t->tid);
			error_hint(
				err,
				"this needs CAP_SYS_ADMIN and a caller without seccomp filters of its own");
			return r;
		}
	}
	*ret = state;
	state = (struct seccomp_state){0};
	return 0;
}

/* Verdicts are ordered by the action read as a signed number: KILL_PROCESS is the least. */
static int32_t verdict_rank(uint32_t verdict)
{
	return (int32_t)(verdict & SECCOMP_RET_ACTION_FULL);
}

static bool strict_allows(long nr)
{
	return nr == SYS_read || nr == SYS_write || nr == SYS_exit || nr == SYS_rt_sigreturn;
}

uint32_t seccomp_verdict(const struct seccomp_state *state, const struct call *call, uint64_t rip)
{
	uint32_t worst = SECCOMP_RET_ALLOW;

	if (state->mode == SECCOMP_MODE_STRICT)
		return strict_allows(call->nr) ? SECCOMP_RET_ALLOW : SECCOMP_RET_KILL_THREAD;
	for (size_t i = 0; i < state->n; i++) {
		uint32_t verdict = bpf_evaluate(&state->filters[i], call, rip);
		if (verdict_rank(verdict) < verdict_rank(worst))
			worst = verdict;
	}
	return worst;
}

enum seccomp_class seccomp_classify(uint32_t verdict)
{
	switch (verdict & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_ALLOW:
	case SECCOMP_RET_LOG: return SECCOMP_RUNS;
	case SECCOMP_RET_TRACE:
	case SECCOMP_RET_USER_NOTIF:
	case SECCOMP_RET_ERRNO: return SECCOMP_DENIES;
	default: return SECCOMP_KILLS;
	}
}
