/* SPDX-License-Identifier: Apache-2.0 */
/* The options of SOL_SOCKET that every image has for every socket (SkOptsEntry). */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <sys/socket.h>

#include <ferry/error.h>

#include "base/arena.h"
#include "base/macros.h"
#include "image/proto/sk-opts.pb-c.h"

/* getsockopt, setsockopt that return 0 or -errno. */
must_check int sock_get(int fd, int level, int name, int *ret_value);
must_check int sock_set(int fd, int level, int name, int value);
/* SO_SNDBUF or SO_RCVBUF: bytes as getsockopt(2) tells them, beyond the machine's limit where we may (force: SO_xBUFFORCE). */
must_check int sockopt_set_buffer(int fd, int name, int force, uint64_t bytes);
must_check int sock_get_bytes(int fd, int level, int name, void *ret_bytes, socklen_t *n);
must_check int sock_set_bytes(int fd, int level, int name, const void *bytes, socklen_t n);

/* local: a unix socket, which has options that others lack. *ret lives in the arena. */
must_check int sockopt_collect(int fd, bool local, struct arena *a, SkOptsEntry **ret,
			       struct ferry_error *err);

/* What decides where a socket may be bound. share: also let it share its port until sockopt_apply(). */
must_check int sockopt_before_bind(int fd, const SkOptsEntry *o, bool share, struct ferry_error *err);

/* Everything but the filter; only what differs is set. */
must_check int sockopt_apply(int fd, const SkOptsEntry *o, struct ferry_error *err);

/* The filter comes last: it would also drop what is put into the queue. */
must_check int sockopt_apply_filter(int fd, const SkOptsEntry *o, struct ferry_error *err);

/* Let a socket send this many bytes at once; sockopt_apply() puts the true size back. */
must_check int sockopt_make_room(int fd, size_t bytes, struct ferry_error *err);

/* An instruction of a classic program, as images have it. */
uint64_t sockopt_instruction(const struct sock_filter *f);
struct sock_filter sockopt_instruction_of(uint64_t word);
