/* SPDX-License-Identifier: Apache-2.0 */
/* Owns threads that somebody else traces: what ptrace(2) would tell of them comes from what their tracer has told. */
#include "inject/remote.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "inject/internal.h"

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif
#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

int thread_remote_new(pid_t tid, const struct thread_remote *remote, struct ferry_thread **ret,
		      struct ferry_error *err)
{
	struct ferry_thread *t = calloc(1, sizeof(*t));

	if (!t)
		return error_memory(err);
	*t = (struct ferry_thread){
		.tid = tid, .stop = FERRY_STOP_EVENT, .slot = -1, .seccomp_mode = -1, .remote = remote};
	*ret = t;
	return 0;
}

const struct thread_remote *thread_remote(const struct ferry_thread *t)
{
	return t->remote;
}

int remote_peek(pid_t tid, uint64_t address, uint64_t *words, size_t n)
{
	struct iovec ours = {words, n * sizeof(*words)};
	struct iovec theirs = {(void *)(uintptr_t)address, ours.iov_len};
	ssize_t got = process_vm_readv(tid, &ours, 1, &theirs, 1, 0);

	return got < 0 ? -errno : (size_t)got == ours.iov_len ? 0 : -EFAULT;
}

static long remote_regset(const struct thread_remote *remote, uintptr_t type, struct iovec *io)
{
	if (type != NT_X86_XSTATE)
		return -EOPNOTSUPP;
	io->iov_len = MIN(io->iov_len, remote->xstate_bytes);
	memcpy(io->iov_base, remote->xstate, io->iov_len);
	return 0;
}

static long remote_signals(const struct thread_remote *remote, const struct __ptrace_peeksiginfo_args *args,
			   siginfo_t *infos)
{
	int queue = args->flags & PTRACE_PEEKSIGINFO_SHARED ? 1 : 0;
	size_t n = remote->n_signals[queue];
	size_t first = MIN((size_t)args->off, n), count = MIN(n - first, (size_t)MAX(args->nr, 0));

	if (count)
		memcpy(infos, remote->signals[queue] + first, count * sizeof(*infos));
	return (long)count;
}

long remote_ptrace(const struct thread_remote *remote, int request, uintptr_t address, uintptr_t data)
{
	switch (request) {
	case PTRACE_GETREGS: memcpy((void *)data, &remote->regs, sizeof(remote->regs)); return 0;
	case PTRACE_GETREGSET: return remote_regset(remote, address, (struct iovec *)data);
	case PTRACE_GETSIGMASK: memcpy((void *)data, &remote->mask, sizeof(remote->mask)); return 0;
	case PTRACE_PEEKSIGINFO:
		return remote_signals(remote, (const struct __ptrace_peeksiginfo_args *)address,
				      (siginfo_t *)data);
	case PTRACE_GET_RSEQ_CONFIGURATION:
		memcpy((void *)data, remote->rseq, MIN(address, sizeof(remote->rseq)));
		return remote->rseq_bytes;
	default: return -EOPNOTSUPP;
	}
}
