/* SPDX-License-Identifier: Apache-2.0 */
/* What programs have in common whose first thread ends while others run. */
#pragma once

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "program.h"

enum { LEADER_STATUS = 7 };

/* End this thread alone, as no C library would: with a status. */
static inline __attribute__((noreturn)) void leader_end(void)
{
	for (;;)
		syscall(SYS_exit, LEADER_STATUS);
}

/* State, and exit status as wait(2) tells it, of one thread. */
static inline char thread_state(pid_t pid, pid_t tid, int *ret_status)
{
	char path[64], text[1024], state = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	const char *behind = strrchr(text, ')'), *last = strrchr(text, ' ');
	if (behind && last)
		sscanf(behind, ") %c", &state);
	if (ret_status && last)
		sscanf(last, "%d", ret_status);
	return state;
}

static inline void leader_await_end(pid_t pid)
{
	while (thread_state(pid, pid, NULL) != 'Z')
		sleep_ms(1);
}

static inline void leader_verify(struct program *p, pid_t pid)
{
	int status = -1;
	char state = thread_state(pid, pid, &status);

	expect(p, state == 'Z', "the first thread of pid %d is in state %c", pid, state);
	expect_same(p, "the status of the first thread", status, LEADER_STATUS << 8);
}

static inline pthread_t leader_thread(void *(*run)(void *), void *argument)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, argument) != 0)
		program_die("pthread_create");
	return thread;
}

/* What a thread counts up for ever. */
static inline bool counts_on(const atomic_uint *counter)
{
	unsigned before = *counter;

	for (int i = 0; i < 2000 && *counter == before; i++)
		sleep_ms(1);
	return *counter != before;
}
