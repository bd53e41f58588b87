/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns netlink sockets: netlink(7), setns(2).
 */
#include "host/netlink.h"

#include <errno.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

enum {
	REQUEST_ROOM_BYTES = 8 << 20,
	ANSWER_ROOM_BYTES = 4 << 20,
	READ_BYTES = 32 * 1024, /* as much as the kernel puts into one piece of a dump */
	MANY_PIECES = 16,
	MANY_BYTES = 8 * 1024,
	LIST_BYTES = 128,
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

int netlink_open(int netns_fd, int protocol, struct netlink_socket **ret_socket)
{
	_cleanup_close_ int fd = netns_socket(netns_fd, AF_NETLINK, SOCK_RAW, protocol);
	if (fd < 0)
		return fd;
	make_room(fd, SO_SNDBUFFORCE, SO_SNDBUF, REQUEST_ROOM_BYTES);
	make_room(fd, SO_RCVBUFFORCE, SO_RCVBUF, ANSWER_ROOM_BYTES);
	struct sockaddr_nl address = {.nl_family = AF_NETLINK};
	socklen_t n = sizeof(address);
	if (bind(fd, (const struct sockaddr *)&address, n) < 0 ||
	    getsockname(fd, (struct sockaddr *)&address, &n) < 0)
		return -errno;
	struct netlink_socket *socket = malloc(sizeof(*socket));
	if (!socket)
		return -ENOMEM;
	*socket = (struct netlink_socket){.fd = take_fd(fd), .port = address.nl_pid};
	*ret_socket = socket;
	return 0;
}

void netlink_close(struct netlink_socket *socket)
{
	if (!socket)
		return;
	close(socket->fd);
	free(socket);
}

int netlink_send(const struct netlink_socket *socket, const void *bytes, size_t n)
{
	const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	return sendto(socket->fd, bytes, n, 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0 ? -errno
												     : 0;
}

/* What others than the kernel send is no answer. Returns the length, 0: nothing for us, or -errno. */
static int netlink_receive(const struct netlink_socket *socket, void *bytes, size_t room, int flags)
{
	struct sockaddr_nl from = {0};
	socklen_t from_len = sizeof(from);
	ssize_t n = recvfrom(socket->fd, bytes, room, MSG_TRUNC | flags, (struct sockaddr *)&from, &from_len);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if ((size_t)n > room)
		return -ENOSPC;
	return from.nl_pid ? 0 : (int)n;
}

/* 1 = the answer ended, 0 = more follows, or -errno. */
static int read_message(const struct nlmsghdr *h, int (*each)(const struct nlmsghdr *message, void *ctx),
			void *ctx)
{
	if (h->nlmsg_flags & NLM_F_DUMP_INTR)
		return -EINTR;
	if (h->nlmsg_type == NLMSG_DONE) {
		/* A dump that failed half-way says so in its last message. */
		if (h->nlmsg_len >= NLMSG_HDRLEN + sizeof(int))
			return *(const int *)netlink_body(h) < 0 ? *(const int *)netlink_body(h) : 1;
		return 1;
	}
	if (h->nlmsg_type == NLMSG_ERROR) {
		if (h->nlmsg_len < NLMSG_HDRLEN + sizeof(struct nlmsgerr))
			return -EBADMSG;
		const struct nlmsgerr *e = netlink_body(h);
		return e->error ? e->error : 1;
	}
	return each ? each(h, ctx) : 0;
}

static int read_messages(const void *bytes, int n, uint32_t seq, unsigned port,
			 int (*each)(const struct nlmsghdr *message, void *ctx), void *ctx)
{
	const struct nlmsghdr *h = bytes;
	for (; netlink_ok(h, n); h = netlink_next(h, &n)) {
		if (h->nlmsg_seq != seq || h->nlmsg_pid != port)
			continue;
		int r = read_message(h, each, ctx);
		if (r)
			return r;
	}
	return 0;
}

int netlink_ask(struct netlink_socket *socket, struct nlmsghdr *request,
		int (*each)(const struct nlmsghdr *message, void *ctx), void *ctx)
{
	char bytes[READ_BYTES] __attribute__((aligned(8)));
	request->nlmsg_seq = 1;
	int r = netlink_send(socket, request, request->nlmsg_len);
	while (!r) {
		int n = netlink_receive(socket, bytes, READ_BYTES, 0);
		r = n < 0 ? n : read_messages(bytes, n, request->nlmsg_seq, socket->port, each, ctx);
	}
	return r < 0 ? r : 0;
}

int netlink_list(struct netlink_socket *socket, uint16_t type, const void *head, size_t head_bytes,
		 int (*each)(const struct nlmsghdr *message, void *ctx), void *ctx)
{
	uint8_t bytes[LIST_BYTES] __attribute__((aligned(8)));
	if (NLMSG_SPACE(head_bytes) > sizeof(bytes))
		return -EMSGSIZE;
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	memcpy(netlink_append(h, head_bytes), head, head_bytes);
	return netlink_ask(socket, h, each, ctx);
}

enum { NOT_ANSWERED = 1 };

/* Messages of any of the questions; how many ended. */
static size_t read_many(const void *bytes, int left, unsigned port, struct netlink_question *v, size_t n)
{
	const struct nlmsghdr *h = bytes;
	size_t ended = 0;
	for (; netlink_ok(h, left); h = netlink_next(h, &left)) {
		size_t i = (size_t)h->nlmsg_seq - 1;
		if (i >= n || h->nlmsg_pid != port || v[i].result != NOT_ANSWERED)
			continue;
		int r = read_message(h, v[i].each, v[i].ctx);
		if (!r)
			continue;
		v[i].result = MIN(r, 0);
		ended++;
	}
	return ended;
}

/* What does not fit into a piece is asked again by itself. */
static int receive_many(const struct netlink_socket *socket, char *bytes, struct netlink_question *v,
			size_t n)
{
	struct sockaddr_nl from[MANY_PIECES] = {0};
	struct mmsghdr pieces[MANY_PIECES] = {0};
	struct iovec room[MANY_PIECES];
	int ended = 0;
	for (size_t i = 0; i < MANY_PIECES; i++) {
		room[i] = (struct iovec){bytes + i * MANY_BYTES, MANY_BYTES};
		pieces[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
						    .msg_namelen = sizeof(from[i]),
						    .msg_iov = &room[i],
						    .msg_iovlen = 1};
	}
	int got = recvmmsg(socket->fd, pieces, MANY_PIECES, MSG_WAITFORONE, NULL);
	if (got < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < got; i++) {
		if (pieces[i].msg_hdr.msg_flags & MSG_TRUNC)
			return -ENOSPC;
		if (!from[i].nl_pid)
			ended += (int)read_many(room[i].iov_base, (int)pieces[i].msg_len, socket->port, v, n);
	}
	return ended;
}

int netlink_ask_all(struct netlink_socket *socket, struct netlink_question *v, size_t n)
{
	_cleanup_free_ char *bytes = malloc((size_t)MANY_PIECES * MANY_BYTES);
	size_t length = 0, left = n;
	if (!bytes)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct nlmsghdr *h = v[i].request;
		if (length + NLMSG_ALIGN(h->nlmsg_len) > (size_t)MANY_PIECES * MANY_BYTES)
			return -E2BIG;
		h->nlmsg_seq = (uint32_t)i + 1;
		memcpy(bytes + length, h, h->nlmsg_len);
		length += NLMSG_ALIGN(h->nlmsg_len);
		v[i].result = NOT_ANSWERED;
	}
	int r = n ? netlink_send(socket, bytes, length) : 0;
	while (r >= 0 && left) {
		r = receive_many(socket, bytes, v, n);
		left -= r > 0 ? (size_t)r : 0;
	}
	/* One list after the other: what was asked while another one was not told to its end is refused. */
	for (size_t i = 0; i < n && r >= 0; i++)
		if (v[i].result == -EBUSY)
			v[i].result = netlink_ask(socket, v[i].request, v[i].each, v[i].ctx);
	return MIN(r, 0);
}

static int read_refusals(const void *bytes, int n, int (*refused)(const struct nlmsgerr *e, void *ctx),
			 void *ctx)
{
	const struct nlmsghdr *h = bytes;
	int r = 0;
	for (; netlink_ok(h, n) && r >= 0; h = netlink_next(h, &n))
		if (h->nlmsg_type == NLMSG_ERROR && netlink_body_len(h) >= sizeof(struct nlmsgerr))
			r = refused(netlink_body(h), ctx);
	return r;
}

int netlink_tell(struct netlink_socket *socket, const void *requests, size_t n,
		 int (*refused)(const struct nlmsgerr *e, void *ctx), void *ctx)
{
	char bytes[READ_BYTES] __attribute__((aligned(8)));
	int code = 0, r = netlink_send(socket, requests, n);
	if (r < 0)
		return r;
	/* The kernel has done them all by now. */
	while ((r = netlink_receive(socket, bytes, READ_BYTES, MSG_DONTWAIT)) >= 0)
		if (code >= 0)
			code = read_refusals(bytes, r, refused, ctx);
	return code < 0 ? code : r == -EAGAIN ? 0 : r;
}
