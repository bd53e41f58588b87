/* SPDX-License-Identifier: Apache-2.0 */
/* Who else holds a pipe, a socket, a deleted file or a piece of shared memory: the processes outside of a tree. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

enum peer_type {
	PEER_PIPE,
	PEER_SOCKET,
	PEER_MEMORY,
	PEER_SYSV,
	PEER_DELETED,
	PEER_TERMINAL,
	PEER_MASTER,
	PEER_FIFO
};

/* Either side of a terminal is known by its number and the mount of devpts. */
static inline uint64_t peer_terminal(uint64_t devpts, uint32_t index)
{
	return devpts << 32 | index;
}

/* The number of an inode says little without its file system; a mix of both is as good as one of them. */
static inline uint64_t peer_fifo(uint64_t dev, uint64_t ino)
{
	return dev << 40 ^ ino;
}

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

/* The root of the tree; 0 when p is NULL. */
pid_t peers_root(const struct peers *p);

/*
 * A process outside of root's tree that has a descriptor of the pipe, socket or memfd, or maps the memory: 1 and *ret_peer, 0 when there
 * is none that /proc shows, -errno. Ferry itself does not count. p may be NULL (nobody asks): 0.
 */
must_check int peers_outside(struct peers *p, enum peer_type type, uint64_t ino, struct peer *ret_peer,
			     struct ferry_error *err);

/* The same for a mapping. */
struct vma_view;
must_check int peers_refuse_mapping(const struct vma_view *view, struct ferry_error *err);

/* Whether a process is part of the tree. p may be NULL: it is. */
bool peers_is_inside(const struct peers *p, pid_t pid);

/* Refuse a description that somebody outside holds: -ENOTSUP and OUTSIDE_PEER. what: "pipe", "socket". */
struct fd_view;
must_check int peers_refuse(const struct fd_view *view, enum peer_type type, struct ferry_error *err);

/* The same for what is not known by the number of its inode. */
must_check int peers_refuse_number(const struct fd_view *view, enum peer_type type, uint64_t number,
				   struct ferry_error *err);

/*
 * A path of an inode that a search found before anything stopped, for when the tree stands; dev is the superblock's. NULL when there
 * is none. It may be wrong by now. p may be NULL: nothing is kept. keep: -ENOMEM.
 */
const char *peers_path(const struct peers *p, uint64_t dev, uint64_t ino);
must_check int peers_keep_path(struct peers *p, uint64_t dev, uint64_t ino, const char *path);
