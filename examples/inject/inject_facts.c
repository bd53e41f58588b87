/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Example of libferry-inject: inject-facts PID BLOB tells what every thread of a running process knows of
 * itself. It makes one system call in the first thread, then runs the blob (facts_blob.c) in each of them.
 * The process does not notice, even if this program is killed half-way.
 */
#include <ferry/inject.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "facts.h"

#define THREADS_MAX 4096

static int complain(const char *what, const struct ferry_error *err)
{
	fprintf(stderr, "inject-facts: %s: %s\n", what, err->message);
	if (err->hint[0])
		fprintf(stderr, "hint: %s\n", err->hint);
	return -1;
}

/* The process's threads, as numbers. One that begins later is missed: a real tool would look again. */
static int list_threads(pid_t pid, pid_t *tids)
{
	char path[64];
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	DIR *dir = opendir(path);
	if (!dir)
		return -1;
	for (struct dirent *entry; n < THREADS_MAX && (entry = readdir(dir));)
		if (entry->d_name[0] != '.')
			tids[n++] = (pid_t)strtol(entry->d_name, NULL, 10);
	closedir(dir);
	return n;
}

/* Seize all, then stop all: they stop at the same time. Those that have exited meanwhile are left out. */
static int stop_threads(const pid_t *tids, int n, struct ferry_thread **threads)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int stopped = 0;

	for (int i = 0; i < n; i++) {
		if (ferry_thread_seize(tids[i], NULL, &threads[stopped], &err) >= 0) {
			ferry_thread_interrupt(threads[stopped++], NULL);
			continue;
		}
		if (err.id != FERRY_ERROR_NO_SUCH_TASK) {
			complain("seizing", &err);
			break;
		}
		err = (struct ferry_error)FERRY_ERROR_INIT;
	}
	for (int i = 0; i < stopped; i++)
		if (ferry_thread_wait(threads[i], 5000, &err) < 0)
			complain("stopping", &err);
	return err.id ? -1 : stopped;
}

static int show_thread(struct ferry_inject *inject, struct ferry_blob *blob, struct ferry_thread *thread,
		       struct ferry_error *err)
{
	struct facts facts = {0};
	int64_t r;

	if (ferry_inject_write(inject, ferry_inject_blob_data(blob), &facts, sizeof(facts), err) < 0 ||
	    ferry_inject_blob_run(blob, thread, 0, &r, err) < 0 ||
	    ferry_inject_read(inject, ferry_inject_blob_data(blob), &facts, sizeof(facts), err) < 0)
		return -1;
	printf("thread %d (%d inside): alternate stack %#llx + %llu, flags %#x; clears %#llx; slack %llu ns",
	       facts.tid, facts.pid, (unsigned long long)facts.stack_pointer,
	       (unsigned long long)facts.stack_bytes, (unsigned)facts.stack_flags,
	       (unsigned long long)facts.clear_tid, (unsigned long long)facts.timer_slack_ns);
	printf(r ? ", error %d\n" : "\n", facts.first_error);
	return 0;
}

/* The first thread owns the blob and stays away until all others have run it. */
static int show_all(struct ferry_inject *inject, struct ferry_thread **threads, int n, const void *code,
		    size_t code_bytes)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_blob *blob;
	int64_t pid;

	if (ferry_inject_settle_all(inject, threads, (size_t)n, &err) < 0 ||
	    ferry_inject_call(inject, threads[0], SYS_getpid, NULL, &pid, &err) < 0)
		return complain("injecting", &err);
	printf("getpid() gives %lld\n", (long long)pid);
	if (ferry_inject_blob_load(inject, threads[0], code, code_bytes, sizeof(struct facts), &blob, &err) <
	    0)
		return complain("loading the blob", &err);
	for (int i = 0; i < n && !err.id; i++) {
		show_thread(inject, blob, threads[i], &err);
		if (i && !err.id)
			ferry_inject_cure(inject, threads[i], &err);
	}
	ferry_inject_blob_unload(blob, NULL);
	return err.id ? complain("running the blob", &err) : 0;
}

static ssize_t read_blob(const char *path, unsigned char *code, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, code, room);

	if (n <= 0)
		perror(path);
	if (fd >= 0)
		close(fd);
	return n;
}

int main(int argc, char **argv)
{
	static struct ferry_thread *threads[THREADS_MAX];
	static unsigned char code[65536];
	static pid_t tids[THREADS_MAX];
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_inject *inject;
	int result = -1;

	if (argc != 3) {
		fprintf(stderr, "usage: inject-facts PID BLOB\n");
		return 2;
	}
	ssize_t code_bytes = read_blob(argv[2], code, sizeof(code));
	int n = list_threads((pid_t)strtol(argv[1], NULL, 10), tids);
	if (code_bytes <= 0 || n <= 0) {
		fprintf(stderr, "inject-facts: no blob or no process\n");
		return 1;
	}
	n = stop_threads(tids, n, threads);
	if (n > 0 && ferry_inject_open(threads[0], NULL, &inject, &err) >= 0) {
		result = show_all(inject, threads, n, code, (size_t)code_bytes);
		for (int i = 0; i < n; i++)
			ferry_thread_release(threads[i], NULL);
		ferry_inject_close(inject);
	} else if (err.id) {
		complain("preparing", &err);
	}
	return result ? 1 : 0;
}
