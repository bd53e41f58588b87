/* SPDX-License-Identifier: Apache-2.0 */
/* What the programs with unix sockets share: names, messages with what comes beside their bytes. */
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include "program.h"

struct unix_name {
	struct sockaddr_un address;
	socklen_t length;
};

/* "@" stands for the NUL of an abstract name; "" is no name; what has a slash is taken as it is, else it lies in folder. */
struct unix_name unix_name(const char *folder, const char *text);

/* A socket, bound when the name is not empty. */
int unix_socket(int type, const struct unix_name *name);

/* One message with descriptors; to: NULL = to whom the socket is connected. */
void message_send(int fd, const char *text, const int *fds, size_t n_fds, const struct unix_name *to);

struct message {
	char bytes[8192];
	ssize_t n; /* or -errno */
	int flags; /* MSG_x that came back */
	int fds[16];
	size_t n_fds;
	struct ucred sender; /* pid 0: none came */
	struct unix_name from;
};

/* Never waits; descriptors that come are the caller's. */
void message_receive(int fd, int flags, size_t room, struct message *ret);

/* The next message is this text, without descriptors; from: NULL = whoever. */
void expect_message(struct program *p, int fd, int flags, const char *text, const struct unix_name *from);

/* Nothing waits. */
void expect_nothing(struct program *p, const char *what, int fd);

/* The name of a socket, or of its peer. */
void expect_name(struct program *p, const char *what, int fd, bool of_peer, const struct unix_name *want);
