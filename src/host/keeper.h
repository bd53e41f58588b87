/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A keeper holds what tracks a tree's memory (a descriptor for each task) between two commands. It is a process of its own that
 * outlives the one that made it, and is found through a socket in the directory of the image that it belongs to.
 *
 * It never touches the tree. When it ends, however it does, the kernel closes what it holds, and nothing of the tree's memory is
 * protected any more. It ends by itself when all tasks have, when its socket is removed (with the image, say), or when it is told to.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

#define KEEPER_SOCKET_NAME "ferry-keeper.sock"

enum { KEEPER_IDENTITY_BYTES = 64 };

struct keeper;
struct keeper_client;

/* A task, and the identity of its memory, which only who keeps and who asks understand. */
struct keeper_record {
	pid_t pid;
	unsigned char identity[KEEPER_IDENTITY_BYTES];
};

/* Fork it; it waits. Do so before namespaces are entered. */
must_check int keeper_start(struct keeper **ret, struct ferry_error *err);

/* Have it hold this; fd stays the caller's, who closes his copy. */
must_check int keeper_hold(struct keeper *k, const struct keeper_record *record, int fd,
			   struct ferry_error *err);

/*
 * Let it go its way: it listens in that directory, on behalf of the image with this id, and no longer ends with the caller. Frees k.
 */
must_check int keeper_go(struct keeper *k, int dir_fd, uint64_t id_hi, uint64_t id_lo,
			 struct ferry_error *err);

/* End it. NULL is fine. */
void keeper_cancel(struct keeper *k);

/* Ask the keeper of the image in a directory. *ret is NULL (and 0 returned) when there is none, or it keeps for another image. */
must_check int keeper_find(int dir_fd, uint64_t id_hi, uint64_t id_lo, struct keeper_client **ret,
			   struct ferry_error *err);

/* The next task: 1, or 0 at the end. *ret_fd is the caller's. */
must_check int keeper_next(struct keeper_client *c, struct keeper_record *ret_record, int *ret_fd,
			   struct ferry_error *err);

/* What it holds is out of date from now on: it ends. 0 when it is known to have ended. */
must_check int keeper_end(struct keeper_client *c, struct ferry_error *err);

/* End the keeper in a directory whose image is no more, whichever it was. Where there is none, or it does not answer, nothing happens. */
void keeper_dismiss(int dir_fd);

/* Closes the connection; the keeper goes on unless it was told to end. NULL is fine. */
void keeper_client_free(struct keeper_client *c);
