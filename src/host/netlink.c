/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns netlink sockets: netlink(7), setns(2), libmnl for attributes and framing.
 */
#include "host/netlink.h"

#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

enum {
	REQUEST_ROOM_BYTES = 8 << 20,
	ANSWER_ROOM_BYTES = 4 << 20,
	READ_BYTES = 32 * 1024, /* as much as the kernel puts into one piece of a dump */
};

struct netns_request {
	int netns_fd;
	int domain;
	int type;
	int protocol;
	int result;
};

static void *netns_thread(void *arg)
{
	struct netns_request *r = arg;
	if (setns(r->netns_fd, CLONE_NEWNET) < 0) {
		r->result = -errno;
		return NULL;
	}
	int fd = socket(r->domain, r->type | SOCK_CLOEXEC, r->protocol);
	r->result = fd < 0 ? -errno : fd;
	return NULL;
}

int netns_socket(int netns_fd, int domain, int type, int protocol)
{
	if (netns_fd < 0) {
		int fd = socket(domain, type | SOCK_CLOEXEC, protocol);
		return fd < 0 ? -errno : fd;
	}
	/* Going there and back could strand the caller: coming back takes a right over the old namespace. */
	struct netns_request request = {netns_fd, domain, type, protocol, -EINVAL};
	pthread_t thread;
	int code = pthread_create(&thread, NULL, netns_thread, &request);
	if (code)
		return -code;
	pthread_join(thread, NULL);
	return request.result;
}

int device_request(const char *device, struct ifreq *ret_request)
{
	struct ifreq request = {0};
	size_t n = strlen(device);
	if (!n || n >= sizeof(request.ifr_name))
		return -ENODEV;
	memcpy(request.ifr_name, device, n);
	*ret_request = request;
	return 0;
}

static void make_room(int fd, int force, int plain, int bytes)
{
	if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)) < 0)
		(void)!setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof(bytes));
}

int netlink_open(int netns_fd, int protocol, struct mnl_socket **ret_socket)
{
	_cleanup_close_ int fd = netns_socket(netns_fd, AF_NETLINK, SOCK_RAW, protocol);
	if (fd < 0)
		return fd;
	make_room(fd, SO_SNDBUFFORCE, SO_SNDBUF, REQUEST_ROOM_BYTES);
	make_room(fd, SO_RCVBUFFORCE, SO_RCVBUF, ANSWER_ROOM_BYTES);
	struct mnl_socket *socket = mnl_socket_fdopen(fd);
	if (!socket)
		return -errno;
	take_fd(fd);
	if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0) {
		int code = errno;
		mnl_socket_close(socket);
		return -code;
	}
	*ret_socket = socket;
	return 0;
}

/* 1 = the answer ended, 0 = more follows, or -errno. */
static int read_message(const struct nlmsghdr *h, int (*each)(const struct nlmsghdr *message, void *ctx),
			void *ctx)
{
	if (h->nlmsg_flags & NLM_F_DUMP_INTR)
		return -EINTR;
	if (h->nlmsg_type == NLMSG_DONE) {
		/* A dump that failed half-way says so in its last message. */
		if (h->nlmsg_len >= MNL_NLMSG_HDRLEN + sizeof(int))
			return *(const int *)mnl_nlmsg_get_payload(h) < 0
				       ? *(const int *)mnl_nlmsg_get_payload(h)
				       : 1;
		return 1;
	}
	if (h->nlmsg_type == NLMSG_ERROR) {
		if (h->nlmsg_len < MNL_NLMSG_HDRLEN + sizeof(struct nlmsgerr))
			return -EBADMSG;
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
		return e->error ? e->error : 1;
	}
	return each ? each(h, ctx) : 0;
}

static int read_messages(const void *bytes, int n, uint32_t seq, unsigned port,
			 int (*each)(const struct nlmsghdr *message, void *ctx), void *ctx)
{
	const struct nlmsghdr *h = bytes;
	for (; mnl_nlmsg_ok(h, n); h = mnl_nlmsg_next(h, &n)) {
		if (h->nlmsg_seq != seq || h->nlmsg_pid != port)
			continue;
		int r = read_message(h, each, ctx);
		if (r)
			return r;
	}
	return 0;
}

int netlink_ask(struct mnl_socket *socket, struct nlmsghdr *request,
		int (*each)(const struct nlmsghdr *message, void *ctx), void *ctx)
{
	char bytes[READ_BYTES] __attribute__((aligned(8)));
	request->nlmsg_seq = 1;
	if (mnl_socket_sendto(socket, request, request->nlmsg_len) < 0)
		return -errno;
	int r = 0;
	while (!r) {
		ssize_t n = mnl_socket_recvfrom(socket, bytes, READ_BYTES);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			r = read_messages(bytes, (int)n, request->nlmsg_seq, mnl_socket_get_portid(socket),
					  each, ctx);
	}
	return r < 0 ? r : 0;
}
