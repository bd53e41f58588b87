/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of which unix sockets are made again. */
#pragma once

#include <sys/socket.h>

#include "kind/unix.h"

/* A listener that connections come through: of the image or our own. */
struct unix_gate {
	const struct plan_file *named; /* whose name it has */
	int fd;
	int jail; /* what its name is in; -1 = the file system as it is */
};

/* "<what> unix socket '<name>'", with a hint where there is one; file may be NULL. Returns -code. */
int unix_failed(const struct plan_file *file, int code, const char *what, struct ferry_error *err);

/* A socket of the type, or -errno. */
must_check int unix_new(unsigned type);

/* Bytes that wait, in the order of the image. */
struct unix_packet {
	struct unix_packet *next;
	uint8_t *bytes;
	size_t n;
	struct plan_file **rights; /* descriptors that ride along */
	size_t n_rights;
};

/* sock_plan.kind */
/* A file that was not there before. */
struct unix_made {
	int entry; /* in the undo log; -1 = there is no such file */
	int dir;   /* kept by the plan */
	const char *base;
};

struct unix_plan {
	struct unix_packet *packets;
	struct unix_packet **tail;
	int other;      /* the other end, where nobody has it; what waits comes from there. -1 */
	int jail;       /* what the name of a datagram socket is in, kept by the plan; -1 = the file system */
	bool paired;    /* datagram: connected since it was made */
	bool connected; /* datagram: to its peer */
	struct unix_made made;
};

struct unix_plan *unix_plan_of(const struct plan_file *file);
const FerrySocketEntry *unix_extra_of(const struct plan_file *file);

/* A socket of the image by its inode number there, NULL. */
struct plan_file *unix_by_inode(const struct plan *p, uint32_t inode);

/* Where names in the file system are looked up. */
struct unix_place {
	int root, cwd; /* to come back to; -1 = we are there */
};

/*
 * Go to the directory that a name counts from. jail: a mount that only we see and that becomes the root
 * directory meanwhile; -1 = the file system as it is.
 */
must_check int unix_enter(struct unix_place *place, int jail, const char *dir);
must_check int unix_leave(struct unix_place *place);

/* What leads to it from unix_dir(). */
socklen_t unix_address(const UnixSkEntry *usk, struct sockaddr_un *ret);
bool unix_has_path(const UnixSkEntry *usk);

/*
 * The directory that the name of a record counts from, "" = it counts from none. A name by a descriptor of the program that had it
 * ("/proc/self/fd/9/name") counts from what that was open on.
 */
const char *unix_dir(const UnixSkEntry *usk);

/* A socket's file is about to appear: enter it into the undo log, unless there is one already. */
must_check int unix_announce(struct opener *o, const char *path, struct unix_made *ret);

/*
 * Bind fd to the name of the record, with the file's mode and owner; in a jail when the file is gone or
 * force_jail is set. *ret_jail: the jail, owned by the caller, or -1. A file that nobody listens on any more
 * is removed first.
 */
must_check int unix_bind(struct opener *o, int fd, const struct plan_file *file, bool force_jail,
			 int *ret_jail, struct ferry_error *err);

/* What follows runs as creds say, as far as that is possible; NULL: as we are. */
must_check int unix_listen(struct opener *o, const struct plan_file *file, int fd, int backlog,
			   const FerrySocketCreds *creds, struct ferry_error *err);
must_check int unix_pair(struct opener *o, unsigned type, const FerrySocketCreds *creds, int ret_fds[2],
			 struct ferry_error *err);

/* *ret_pid: whose connection it is, as the listener's side will see it. */
must_check int unix_connect_to(struct opener *o, const struct unix_gate *gate, int fd,
			       const FerrySocketCreds *creds, pid_t *ret_pid, struct ferry_error *err);
