/* SPDX-License-Identifier: Apache-2.0 */
/* The two halves of the unix sockets: unix.c saves them, unix_restore.c brings them back. */
#pragma once

#include <sys/un.h>

#include "image/proto/sk-packet.pb-c.h"
#include "image/proto/sk-unix.pb-c.h"
#include "model/kind.h"

/* Kernel's numbers in unix_sk_entry.state. */
enum unix_state { UNIX_CONNECTED = 1, UNIX_CLOSED = 7, UNIX_LISTENING = 10 };

/* unix_sk_entry.uflags: not a socket of the image, but a name that one of it is connected to. */
enum {
	UNIX_EXTERNAL = 1,
	UNIX_SERVICE = 2, /* by which a process asked for its own dump: it is answered when it is restored */
};

enum { UNIX_NAME_BYTES = sizeof(((struct sockaddr_un *)0)->sun_path) };

/*
 * How much of a name is the way by a descriptor ("/proc/self/fd/9/"), which programs take to a path that is too long for a name; 0: it
 * takes no such way.
 */
size_t unix_via_descriptor(const char *name, size_t n, int *ret_number);

must_check int unix_read(struct reader *r, struct ferry_error *err);
must_check int unix_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err);
must_check int unix_opened(struct opener *o, struct ferry_error *err);
void unix_abandon(struct opener *o); /* no file is there that was not there before */
must_check int unix_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err);
