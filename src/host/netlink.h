/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets in another network namespace, and the question-and-answer of netlink(7), for the files of this room.
 * A socket stays in the namespace it was made in, so that only its creation has to happen there.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "host/netlink_message.h"

/*
 * socket(2) in the namespace of netns_fd (-1: that of the calling thread); a thread of its own goes there, the
 * caller never leaves. Returns the descriptor or -errno.
 */
must_check int netns_socket(int netns_fd, int domain, int type, int protocol);

struct netlink_socket {
	int fd;
	uint32_t port; /* where answers go */
};

/* A netlink socket with room for large requests; close-on-exec. */
must_check int netlink_open(int netns_fd, int protocol, struct netlink_socket **ret_socket);

void netlink_close(struct netlink_socket *socket);

/* To the kernel. Returns 0 or -errno. */
must_check int netlink_send(const struct netlink_socket *socket, const void *bytes, size_t n);

/*
 * Send one request and hand every message of the answer to 'each' until the answer ends. each returns 0 to go
 * on or -errno; it may be NULL when only success matters. Returns 0 or -errno (the kernel's, or each's).
 */
must_check int netlink_ask(struct netlink_socket *socket, struct nlmsghdr *request,
			   int (*each)(const struct nlmsghdr *message, void *ctx), void *ctx);

/* The same for everything that type lists; the question is head, which says of what. */
must_check int netlink_list(struct netlink_socket *socket, uint16_t type, const void *head, size_t head_bytes,
			    int (*each)(const struct nlmsghdr *message, void *ctx), void *ctx);

/* One of several questions: result is what netlink_ask() would have returned. */
struct netlink_question {
	struct nlmsghdr *request;
	int (*each)(const struct nlmsghdr *message, void *ctx);
	void *ctx;
	int result;
};

/*
 * Ask all of them at once, which takes a few calls altogether as long as the answers are short. Each has NLM_F_DUMP or NLM_F_ACK, so that its
 * answer ends, and the socket is a new one: the kernel makes its pieces as large as the largest that was read before. Returns 0, or -errno if
 * the kernel could not be asked.
 */
must_check int netlink_ask_all(struct netlink_socket *socket, struct netlink_question *v, size_t n);

/*
 * Several requests, one behind the other, none of which asks for an answer: the kernel tells those that it does not take, and refused returns
 * 0 to go on or -errno. Returns 0 or -errno.
 */
must_check int netlink_tell(struct netlink_socket *socket, const void *requests, size_t n,
			    int (*refused)(const struct nlmsgerr *e, void *ctx), void *ctx);

/* A request about a device by its name, for ioctl(2). -ENODEV: no device can have that name. */
struct ifreq;
must_check int device_request(const char *device, struct ifreq *ret_request);

static inline void cleanup_netlink_p(struct netlink_socket **socket)
{
	if (*socket)
		netlink_close(*socket);
}

#define _cleanup_netlink_ __attribute__((cleanup(cleanup_netlink_p)))
