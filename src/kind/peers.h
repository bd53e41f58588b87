/* SPDX-License-Identifier: Apache-2.0 */
/* Who else holds a pipe, a socket or a piece of shared memory: the processes outside of a tree. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

enum peer_type { PEER_PIPE, PEER_SOCKET, PEER_MEMORY };

struct peer {
	uint64_t ino;
	pid_t pid;
	int fd; /* -1: it is mapped */
	enum peer_type type;
};

struct peers;

/* Nothing is read until the first question; what is read then holds for all questions. NULL when memory is short. */
struct peers *peers_new(pid_t root);
void peers_free(struct peers *p);

/*
 * A process outside of root's tree that has a descriptor of the pipe, socket or memfd, or maps the memory: 1 and *ret_peer, 0 when there
 * is none that /proc shows, -errno. Ferry itself does not count. p may be NULL (nobody asks): 0.
 */
must_check int peers_outside(struct peers *p, enum peer_type type, uint64_t ino, struct peer *ret_peer,
			     struct ferry_error *err);

/* The same for a mapping. */
struct vma_view;
must_check int peers_refuse_mapping(const struct vma_view *view, struct ferry_error *err);

/* Refuse a description that somebody outside holds: -ENOTSUP and OUTSIDE_PEER. what: "pipe", "socket". */
struct fd_view;
must_check int peers_refuse(const struct fd_view *view, enum peer_type type, struct ferry_error *err);
