/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between a restore and who brings memory later, as CRIU has it: a stream socket beside the image. For each task a pid (i32, as in the image),
 * then one byte with the task's userfaultfd; when all tasks run, LAZYSOCK_RUNS.
 */
#pragma once

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LAZYSOCK_NAME "lazy-pages.socket"
#define LAZYSOCK_RUNS 0x52535446u

/* dir is a directory's descriptor in the caller. */
static inline void lazysock_address(int dir, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/" LAZYSOCK_NAME, dir);
}
