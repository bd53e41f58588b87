/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns frames: header, checksum, time-outs. A frame is 24 bytes of header (all little-endian: magic, length of the head,
 * length of the payload, zero, XXH3 of head and payload), then the head, then the payload.
 */
#include "stream/channel.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/log.h"

enum {
	CHANNEL_MAGIC = 0x31595246, /* "FRY1" */
	CHANNEL_TIMEOUT_MS = 10000,
};

struct channel_header {
	uint32_t magic, head_bytes, data_bytes, zero;
	uint64_t checksum;
};
_Static_assert(sizeof(struct channel_header) == 24, "header as in doc/protocol");

struct channel {
	const struct channel_ops *ops;
	void *context;
	int timeout_ms;
	int interrupt;
	size_t data_max;
	uint8_t *head, *data; /* of the frame received last */
	size_t head_cap, data_cap;
	struct channel_stats stats;
};

/* ------------------------------------------------------------------ sockets */

struct channel_socket {
	int fd;
};

static ssize_t socket_read(void *context, const struct iovec *iov, int n)
{
	ssize_t r = readv(((struct channel_socket *)context)->fd, iov, n);
	return r < 0 ? -errno : r;
}

static ssize_t socket_write(void *context, const struct iovec *iov, int n)
{
	struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
	ssize_t r = sendmsg(((struct channel_socket *)context)->fd, &m, MSG_NOSIGNAL);
	return r < 0 ? -errno : r;
}

static int socket_poll_fd(void *context)
{
	return ((struct channel_socket *)context)->fd;
}

static void socket_close(void *context)
{
	close(((struct channel_socket *)context)->fd);
	free(context);
}

static const struct channel_ops socket_ops = {socket_read, socket_write, socket_poll_fd, socket_close};

int channel_from_socket(int fd, struct channel **ret, struct ferry_error *err)
{
	struct channel *c = calloc(1, sizeof(*c));
	struct channel_socket *s = calloc(1, sizeof(*s));
	int flags = fcntl(fd, F_GETFL);
	if (!c || !s || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		free(c);
		free(s);
		close(fd);
		return error_memory(err);
	}
	s->fd = fd;
	*c = (struct channel){
		.ops = &socket_ops, .context = s, .timeout_ms = CHANNEL_TIMEOUT_MS, .interrupt = -1};
	*ret = c;
	return 0;
}

void channel_free(struct channel *c)
{
	if (!c)
		return;
	c->ops->close(c->context);
	free(c->head);
	free(c->data);
	free(c);
}

void channel_set_timeout(struct channel *c, int timeout_ms)
{
	c->timeout_ms = timeout_ms;
}

void channel_set_data_max(struct channel *c, size_t data_max)
{
	c->data_max = data_max;
}

void channel_set_interrupt(struct channel *c, int fd)
{
	c->interrupt = fd;
}

int channel_fd(const struct channel *c)
{
	return c->ops->poll_fd(c->context);
}

struct channel_stats channel_stats(const struct channel *c)
{
	return c->stats;
}

/* ------------------------------------------------------------------- moving */

static int channel_gone(struct ferry_error *err, int code, const char *doing)
{
	if (code == ETIMEDOUT)
		return error_set(err, FERRY_ERROR_PEER_GONE, code,
				 "the other side did not answer in time (%s)", doing);
	if (!code)
		return error_set(err, FERRY_ERROR_PEER_GONE, EPIPE,
				 "the other side closed the connection (%s)", doing);
	return error_errno(err, FERRY_ERROR_PEER_GONE, code, "the connection to the other side failed (%s)",
			   doing);
}

static int channel_wait(struct channel *c, short events, const char *doing, struct ferry_error *err)
{
	struct pollfd p[2] = {
		{.fd = c->ops->poll_fd(c->context), .events = events},
		{.fd = c->interrupt, .events = POLLIN},
	};
	int r;
	do
		r = poll(p, 2, c->timeout_ms);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "poll");
	if (!r)
		return channel_gone(err, ETIMEDOUT, doing);
	if (p[1].revents)
		return error_set(err, FERRY_ERROR_INTERRUPTED, EINTR, "interrupted (%s)", doing);
	return 0;
}

/* Drop n bytes from the front of a vector. Returns what is left of it. */
static struct iovec *iov_advance(struct iovec *iov, int *n_iov, size_t n)
{
	while (*n_iov && n >= iov->iov_len) {
		n -= iov->iov_len;
		iov++;
		--*n_iov;
	}
	if (*n_iov) {
		iov->iov_base = (char *)iov->iov_base + n;
		iov->iov_len -= n;
	}
	return iov;
}

static int channel_move(struct channel *c, struct iovec *iov, int n_iov, bool out, struct ferry_error *err)
{
	const char *doing = out ? "sending" : "receiving";
	iov = iov_advance(iov, &n_iov, 0);
	while (n_iov) {
		ssize_t n = (out ? c->ops->write : c->ops->read)(c->context, iov, n_iov);
		if (n == -EAGAIN || n == -EINTR) {
			int r = n == -EINTR ? 0 : channel_wait(c, out ? POLLOUT : POLLIN, doing, err);
			if (r < 0)
				return r;
			continue;
		}
		if (n <= 0)
			return channel_gone(err, (int)-n, doing);
		*(out ? &c->stats.sent_bytes : &c->stats.received_bytes) += (uint64_t)n;
		iov = iov_advance(iov, &n_iov, (size_t)n);
	}
	return 0;
}

static uint64_t channel_checksum(const uint8_t *head, size_t head_bytes, const uint8_t *data,
				 size_t data_bytes)
{
	uint64_t seed = XXH3_64bits(head, head_bytes);
	return XXH3_64bits_withSeed(data, data_bytes, seed);
}

int channel_send(struct channel *c, const struct frame *f, struct ferry_error *err)
{
	if (!f->head_bytes || f->head_bytes > CHANNEL_HEAD_MAX || f->data_bytes > CHANNEL_DATA_MAX)
		return error_set(err, FERRY_ERROR_INTERNAL, EMSGSIZE, "a frame of %zu and %zu bytes",
				 f->head_bytes, f->data_bytes);
	struct channel_header h = {
		.magic = htole32(CHANNEL_MAGIC),
		.head_bytes = htole32((uint32_t)f->head_bytes),
		.data_bytes = htole32((uint32_t)f->data_bytes),
		.checksum = htole64(channel_checksum(f->head, f->head_bytes, f->data, f->data_bytes)),
	};
	struct iovec iov[3] = {
		{&h, sizeof(h)},
		{(void *)f->head, f->head_bytes},
		{(void *)f->data, f->data_bytes},
	};
	return channel_move(c, iov, 3, true, err);
}

static int channel_room(uint8_t **buffer, size_t *cap, size_t n, struct ferry_error *err)
{
	if (n <= *cap)
		return 0;
	uint8_t *bigger = malloc(n);
	if (!bigger)
		return error_memory(err);
	free(*buffer);
	*buffer = bigger;
	*cap = n;
	return 0;
}

static int channel_check_header(const struct channel *c, const struct channel_header *h,
				struct ferry_error *err)
{
	if (h->magic != CHANNEL_MAGIC || h->zero)
		return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG,
				 "the other side does not speak ferry's protocol");
	if (!h->head_bytes || h->head_bytes > CHANNEL_HEAD_MAX)
		return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG,
				 "the other side sent a message of %u bytes", h->head_bytes);
	if (h->data_bytes > c->data_max)
		return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG,
				 "the other side sent %u bytes of data, at most %zu are allowed here",
				 h->data_bytes, c->data_max);
	return 0;
}

int channel_receive(struct channel *c, struct frame *ret, struct ferry_error *err)
{
	struct channel_header h;
	struct iovec first = {&h, sizeof(h)};
	int r = channel_move(c, &first, 1, false, err);
	if (r < 0)
		return r;
	h.magic = le32toh(h.magic);
	h.head_bytes = le32toh(h.head_bytes);
	h.data_bytes = le32toh(h.data_bytes);
	r = channel_check_header(c, &h, err);
	if (r >= 0)
		r = channel_room(&c->head, &c->head_cap, h.head_bytes, err);
	if (r >= 0)
		r = channel_room(&c->data, &c->data_cap, h.data_bytes, err);
	if (r < 0)
		return r;
	struct iovec rest[2] = {{c->head, h.head_bytes}, {c->data, h.data_bytes}};
	r = channel_move(c, rest, 2, false, err);
	if (r < 0)
		return r;
	if (channel_checksum(c->head, h.head_bytes, c->data, h.data_bytes) != le64toh(h.checksum))
		return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG, "a message arrived damaged");
	*ret = (struct frame){
		.head = c->head, .head_bytes = h.head_bytes, .data = c->data, .data_bytes = h.data_bytes};
	return 0;
}

bool channel_has_input(const struct channel *c)
{
	struct pollfd p = {.fd = c->ops->poll_fd(c->context), .events = POLLIN};
	return poll(&p, 1, 0) > 0;
}

void channel_drain(struct channel *c, int timeout_ms)
{
	enum { DRAIN_BYTES = 256 << 10 };
	uint64_t end = time_now_ns() + (uint64_t)timeout_ms * 1000000;
	char *bytes = malloc(DRAIN_BYTES);
	struct iovec iov = {bytes, DRAIN_BYTES};
	while (bytes && time_now_ns() < end) {
		ssize_t n = c->ops->read(c->context, &iov, 1);
		struct pollfd p = {.fd = c->ops->poll_fd(c->context), .events = POLLIN};
		if (n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR))
			break;
		if (n < 0 && poll(&p, 1, timeout_ms) < 0)
			break;
	}
	free(bytes);
}
