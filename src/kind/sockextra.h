/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the common image format has no field for: socket options that differ from those of a new socket,
 * owner, queued errors, peer credentials (FerrySocketEntry, ferry-socket.img); and what all socket kinds
 * share.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <ferry/error.h>

#include "image/proto/ferry.pb-c.h"
#include "model/kind.h"

/* What kind of socket: also which options it can have. */
struct sock_type {
	int domain, type, protocol;
	bool connected; /* a TCP connection, also one that is over: some options are the connection's */
};

/* plan_file.data of every socket. */
struct sock_plan {
	const FerrySocketEntry *extra; /* NULL: the image has none */
	void *kind;                    /* the kind's own */
};

/* The kernel's name of a socket's protocol ("TCP", "UNIX-STREAM"), without a copy of it; -ENOTSOCK. */
must_check int sock_protocol(const struct fd_view *view, char ret_name[32]);

/* The inode in "socket:[N]"; 0 when the link is another. */
uint32_t sock_inode(const struct fd_view *view);

/* Before anything stops, for every kind of sockets: namespaces, programs and keys that stand in the way. */
must_check int sock_check(const struct fd_view *view, struct ferry_error *err);

/* Refuse a socket of another network namespace than ours; fd: our copy. */

must_check int sock_type_of(int fd, struct sock_type *ret, struct ferry_error *err);

/* Collecting begins with this: our copy of a socket, of this namespace, and what kind of socket it is. */
must_check int sock_copy(struct fd_view *view, const char *who, struct sock_type *ret,
			 struct ferry_error *err);

/* A new record for the socket fd (our copy), with its options and owner. */
must_check int sockextra_collect(struct arena *a, int fd, const struct sock_type *type, uint32_t id,
				 FerrySocketEntry **ret, struct ferry_error *err);

/* Append it to ferry-socket.img, if it says anything. */
must_check int sockextra_dump(struct dump *d, const FerrySocketEntry *extra, struct ferry_error *err);

/* Give every socket of this kind in the plan its struct sock_plan. */
must_check int sockextra_read(struct reader *r, const struct kind_ops *kind, struct ferry_error *err);

/*
 * early: options that decide where the socket can be bound; else the others and the owner. extra may be NULL.
 */
must_check int sockextra_apply(const struct opener *o, int fd, const struct sock_type *type,
			       const FerrySocketEntry *extra, bool early, struct ferry_error *err);

/* The value of an option that is an int; false when the record has none. extra may be NULL. */
bool sockextra_int(const FerrySocketEntry *extra, int level, int name, int *ret_value);

/*
 * Walk the queue of our copy of a socket with peeks. walk runs while SO_PEEK_OFF is 0, and may move it; the owner's
 * value is put back, also when we die. Returns what walk does.
 */
must_check int sock_peek_walk(struct collect *c, int fd, int (*walk)(int fd, void *context), void *context);
