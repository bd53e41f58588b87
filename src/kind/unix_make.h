/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of which unix sockets are made again. */
#pragma once

#include "kind/unix.h"

/* A listener that connections come through: of the image or our own. */
struct unix_gate {
	const struct plan_file *named; /* whose name it has */
	int fd;
	int jail; /* what its name is in; -1 = the file system as it is */
};

/* "<what> unix socket '<name>'", with a hint where there is one; file may be NULL. Returns -code. */
int unix_failed(const struct plan_file *file, int code, const char *what, struct ferry_error *err);

/* A stream socket, or -errno. */
must_check int unix_new(void);

/* The directory that the name of a record counts from, "" = it counts from none. */
const char *unix_dir(const UnixSkEntry *usk);

/*
 * Bind fd to the name of the record, with the file's mode and owner; in a jail when the file is gone or
 * force_jail is set. *ret_jail: the jail, owned by the caller, or -1. A file that nobody listens on any more
 * is removed first.
 */
must_check int unix_bind(int fd, const struct plan_file *file, bool force_jail, int *ret_jail,
			 struct ferry_error *err);

/* What follows runs as creds say, as far as that is possible; NULL: as we are. */
must_check int unix_listen(struct opener *o, const struct plan_file *file, int fd, int backlog,
			   const FerrySocketCreds *creds, struct ferry_error *err);
must_check int unix_pair(struct opener *o, const FerrySocketCreds *creds, int ret_fds[2],
			 struct ferry_error *err);

/* *ret_pid: whose connection it is, as the listener's side will see it. */
must_check int unix_connect_to(struct opener *o, const struct unix_gate *gate, int fd,
			       const FerrySocketCreds *creds, pid_t *ret_pid, struct ferry_error *err);
