/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets while they are saved: unix.c and, for what waits in them, unix_queue.c. */
#pragma once

#include <sys/socket.h>

#include "image/proto/ferry.pb-c.h"
#include "kind/unix.h"
#include "model/kind.h"

/* A message of a queue, or bytes of a stream that were sent alike. */
struct unix_message {
	struct unix_message *next;
	uint8_t *bytes;
	size_t n;
	struct ucred sender; /* pid 0: not told */
	uint8_t from[UNIX_NAME_BYTES];
	size_t from_bytes;
	int *fds; /* that came with it; until they are described */
	size_t n_fds;
	uint32_t *rights; /* their file ids */
	size_t n_rights;
};

/* snap_file.data; NULL: a socket outside of the tree. */
struct unix_snap {
	FerrySocketEntry *extra;
	struct unix_message *queue;
	bool waits; /* something may be in the queue, which is read in the end */
};

FerrySocketCreds *unix_creds(struct snapshot *s, const struct ucred *c);

/* Read the queue of a socket (through file->copy) without taking anything out of it. */
must_check int unix_queue_read(struct collect *c, struct snap_file *file, struct ferry_error *err);

/* Make files of the image of what its messages brought along. index: of the file in the snapshot. */
must_check int unix_queue_describe(struct collect *c, size_t index, struct ferry_error *err);

must_check int unix_queue_dump(struct dump *d, const struct snap_file *file, struct ferry_error *err);

/* unix_scan.c: what the kernel tells of all unix sockets, and which of them the tree has. */
struct unix_sock;
struct unix_scan;
bool unix_owns(const struct fd_view *view);
must_check int unix_check(const struct fd_view *view, const struct kind_options *options,
			  struct ferry_error *err);
/* Without rights over the network namespace a socket's file is found by its name alone: refuse one that is not. */
must_check int unix_check_name(const struct fd_view *view, const struct unix_sock *sock,
			       struct ferry_error *err);
must_check int unix_check_end(void *const *kind_data, size_t *at, struct ferry_error *err);

/* What the kernel tells of one of the tree, which is remembered as such. */
must_check int unix_look_up(const struct fd_view *view, const struct kind_options *options,
			    const struct unix_sock **ret_sock, struct ferry_error *err);

/* A connection that nobody accepted yet: the listener's inode and the place in its queue; 0 = it is none. */
uint32_t unix_pending_on(const struct fd_view *view, uint32_t inode, uint32_t *ret_place);

/* A socket outside of the tree that one of it is connected to: its name; NULL when it is not outside. */
const struct unix_sock *unix_outside(struct collect *c, uint32_t inode);
