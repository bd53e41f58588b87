/* SPDX-License-Identifier: Apache-2.0 */
/* Owns one visit to a target. */
#include "scenario.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

__asm__(".section .rodata\n"
	".globl test_blob, test_blob_end\n"
	"test_blob:\n"
	"push %rbx\n"
	"mov %rdi, %rbx\n"
	"mov $186, %eax\n"
	"syscall\n"
	"add (%rbx), %rax\n"
	"movq $0, 8(%rbx)\n"
	"std\n"
	"pop %rbx\n"
	"ret\n"
	"test_blob_end:\n"
	".previous\n");

void fail_error(const char *what, const struct ferry_error *err)
{
	fail("%s: %s: %s%s%s", what, err->id ? err->message : "no message", strerror(err->code),
	     err->hint[0] ? "; " : "", err->hint);
}

int scenario_seize(struct target *t, const struct scenario *s,
		   struct ferry_thread *ret_threads[TARGET_THREADS])
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int n = 0;

	for (int i = 0; i < t->n; i++)
		must(ferry_thread_seize(t->shared->thread[i].tid, &s->options, &ret_threads[n++], &err),
		     &err);
	for (int i = 0; i < n; i++)
		must(ferry_thread_interrupt(ret_threads[i], &err), &err);
	for (int i = 0; i < n; i++) {
		int stop = (int)must(ferry_thread_wait(ret_threads[i], 5000, &err), &err);
		check(stop == FERRY_STOP_EVENT || stop == FERRY_STOP_GROUP || stop == FERRY_STOP_SIGNAL,
		      "stop %d", stop);
	}
	return n;
}

static void visit_registers(struct ferry_thread *thread)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_regs regs = FERRY_REGS_INIT;
	uint64_t mask;

	must(ferry_thread_get_regs(thread, &regs, &err), &err);
	must(ferry_thread_get_sigmask(thread, &mask, &err), &err);
	check(regs.xstate_bytes >= 512, "xstate of %u bytes", regs.xstate_bytes);
	must(ferry_thread_normalize(thread, FERRY_RESUME_IMAGE, &regs, &err), &err);
	ferry_regs_release(&regs);
}

/* A call with a buffer in memory that the leader owns. */
static void visit_buffer(struct ferry_inject *inject, struct ferry_thread *thread, uint64_t buffer)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	stack_t stack = {.ss_size = 12345};
	int64_t r;

	must(ferry_inject_write(inject, buffer, &stack, sizeof(stack), &err), &err);
	must(ferry_inject_call(inject, thread, SYS_sigaltstack, (uint64_t[6]){0, buffer}, &r, &err), &err);
	check(!r, "sigaltstack gave %lld", (long long)r);
	must(ferry_inject_read(inject, buffer, &stack, sizeof(stack), &err), &err);
	check(stack.ss_size != 12345, "sigaltstack wrote nothing");
}

static void visit_blob(struct ferry_blob *blob, struct ferry_inject *inject, struct ferry_thread *thread)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	uint64_t data[2] = {1000000, 5};
	int64_t r;

	must(ferry_inject_write(inject, ferry_inject_blob_data(blob) + 64, data, sizeof(data), &err), &err);
	must(ferry_inject_blob_run(blob, thread, 64, &r, &err), &err);
	check(r == 1000000 + ferry_thread_tid(thread), "the blob returned %lld in task %d", (long long)r,
	      ferry_thread_tid(thread));
	must(ferry_inject_read(inject, ferry_inject_blob_data(blob) + 64, data, sizeof(data), &err), &err);
	check(!data[1], "the blob did not write its data");
}

static void visit_descriptor(struct ferry_inject *inject, struct ferry_thread *thread)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int64_t fd, r;

	must(ferry_inject_call_fd(inject, thread, SYS_eventfd2, (uint64_t[6]){7, 0}, &fd, &err), &err);
	check(fd >= 0, "eventfd gave %lld", (long long)fd);
	int copy = (int)must(ferry_inject_get_fd(ferry_thread_tid(thread), (int)fd, &err), &err);
	uint64_t value = 0;
	check(read(copy, &value, sizeof(value)) == sizeof(value) && value == 7,
	      "the copied eventfd holds %llu", (unsigned long long)value);
	close(copy);
	must(ferry_inject_call(inject, thread, SYS_close, (uint64_t[6]){(uint64_t)fd}, &r, &err), &err);
	check(!r, "close gave %lld", (long long)r);
}

static void visit_all(struct target *t, const struct scenario *s, struct ferry_inject *inject,
		      struct ferry_thread **threads, int n)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_thread *leader = threads[0];
	struct ferry_blob *blob = NULL;
	uint64_t buffer = 0, second = 0;
	int64_t r;

	(void)t;
	must(ferry_inject_call(inject, leader, SYS_gettid, NULL, &r, &err), &err);
	check(r == ferry_thread_tid(leader), "gettid gave %lld", (long long)r);
	if (!s->no_memory) {
		must(ferry_inject_map(inject, leader, 4096, &buffer, &err), &err);
		must(ferry_inject_map(inject, leader, 4096, &second, &err), &err);
	}
	if (!s->no_memory && !s->no_blob)
		must(ferry_inject_blob_load(inject, leader, test_blob, (size_t)(test_blob_end - test_blob),
					    128, &blob, &err),
		     &err);
	for (int i = 0; i < n; i++) {
		visit_registers(threads[i]);
		must(ferry_inject_call(inject, threads[i], SYS_gettid, NULL, &r, &err), &err);
		check(r == ferry_thread_tid(threads[i]), "gettid gave %lld", (long long)r);
		if (buffer)
			visit_buffer(inject, threads[i], buffer);
		if (blob)
			visit_blob(blob, inject, threads[i]);
		if (i)
			must(ferry_inject_cure(inject, threads[i], &err), &err);
		if (i == 1 && second)
			must(ferry_inject_unmap(inject, leader, buffer, &err), &err);
		if (i == 1 && second)
			buffer = second;
	}
	must(ferry_inject_blob_unload(blob, &err), &err);
	must(ferry_inject_cure(inject, leader, &err), &err);
}

void scenario_run(struct target *t, const struct scenario *s)
{
	struct ferry_thread *threads[TARGET_THREADS] = {NULL};
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_inject *inject;

	int n = scenario_seize(t, s, threads);
	must(ferry_inject_open(threads[0], &s->options, &inject, &err), &err);
	must(ferry_inject_settle_all(inject, threads, (size_t)n, &err), &err);
	/*
	 * A descriptor in the target belongs to the process, not to a thread: only while nobody else opens
	 * one.
	 */
	if (!s->no_blob && !s->no_memory) {
		visit_descriptor(inject, threads[0]);
		must(ferry_inject_cure(inject, threads[0], &err), &err);
	}
	visit_all(t, s, inject, threads, n);
	for (int i = 0; i < n; i++)
		must(ferry_thread_release(threads[i], &err), &err);
	ferry_inject_close(inject);
}

int scenario_run_apart(struct target *t, const struct scenario *s)
{
	sigset_t all;
	int status;

	fflush(NULL);
	pid_t pid = fork();
	check(pid >= 0, "fork: %s", strerror(errno));
	if (!pid) {
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, NULL);
		harness_disown();
		scenario_run(t, s);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
		check(errno == EINTR, "waitpid: %s", strerror(errno));
	return status;
}
