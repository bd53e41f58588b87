/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the giving side of lazy pages over CRIU's page server wire (stream/pageserver_wire.h).
 *
 * Does not handle: several connections, encryption.
 */
#include "stream/pagesource.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/pages.h"
#include "stream/endpoint.h"
#include "stream/pageserver_wire.h"
#include "stream/tls.h"

enum { PAGESOURCE_MOST_PAGES = 1 << 16, PAGESOURCE_BUFFER_PAGES = 256 };

struct pagesource_job {
	const struct pagesource *s;
	struct pagesource_done *done;
	struct ferry_error *err;
	int fd;
	uint8_t **given; /* for each memory a byte for each page */
	char *buffer;
};

static int pagesource_bad(struct pagesource_job *j, const struct pageserver_head *head, const char *what)
{
	return error_set(j->err, FERRY_ERROR_PROTOCOL, EPROTO,
			 "the other side asks with command 0x%x for %" PRIu64 " pages at 0x%" PRIx64
			 " of memory %" PRIu64 ": %s",
			 head->command, head->nr_pages, head->vaddr, head->memory, what);
}

static int pagesource_gone(struct pagesource_job *j, int code)
{
	return error_errno(j->err, FERRY_ERROR_PEER_GONE, code,
			   "the other side ended when it had %" PRIu64 " of %" PRIu64 " pages",
			   j->done->given, j->done->pages);
}

static void pagesource_settle(struct pagesource_job *j)
{
	if (!j->done->settled)
		j->s->settle(j->s->context);
	j->done->settled = true;
}

static uint64_t pagesource_count(const struct pagesource_memory *m)
{
	uint64_t n = 0;
	for (size_t i = 0; i + 1 < m->n_ranges; i += 2)
		n += (m->ranges[i + 1] - m->ranges[i]) / IMAGE_PAGE_BYTES;
	return n;
}

/* The number of a page among those of its memory; -1: not all of them are among them, or are not in one range. */
static int64_t pagesource_index(const struct pagesource_memory *m, uint64_t start, uint64_t end)
{
	uint64_t before = 0;
	for (size_t i = 0; i + 1 < m->n_ranges; i += 2) {
		if (start >= m->ranges[i] && end <= m->ranges[i + 1])
			return (int64_t)(before + (start - m->ranges[i]) / IMAGE_PAGE_BYTES);
		before += (m->ranges[i + 1] - m->ranges[i]) / IMAGE_PAGE_BYTES;
	}
	return -1;
}

static int pagesource_send(struct pagesource_job *j, const void *bytes, size_t n, int flags)
{
	const char *at = bytes;
	while (n) {
		ssize_t sent = send(j->fd, at, n, MSG_NOSIGNAL | flags);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return pagesource_gone(j, errno == EAGAIN ? ETIMEDOUT : errno);
		at += sent;
		n -= (size_t)sent;
	}
	return 0;
}

static int pagesource_head(struct pagesource_job *j, const struct pageserver_head *asked)
{
	const struct pageserver_head head = {
		.command = PAGESERVER_ADD_F | IMAGE_PE_PRESENT << PAGESERVER_FLAGS_SHIFT,
		.padding = j->done->settled ? PAGESERVER_SETTLED : 0,
		.nr_pages = asked->nr_pages,
		.vaddr = asked->vaddr,
		.memory = asked->memory,
	};
	return pagesource_send(j, &head, sizeof(head), asked->nr_pages ? MSG_MORE : 0);
}

static int pagesource_bytes(struct pagesource_job *j, int mem, uint64_t at, uint64_t n_pages)
{
	int r = 0;
	while (n_pages && r >= 0) {
		uint64_t n = MIN(n_pages, (uint64_t)PAGESOURCE_BUFFER_PAGES), bytes = n * IMAGE_PAGE_BYTES;
		r = fd_pread_all(mem, j->buffer, bytes, at);
		if (r < 0)
			return error_errno(j->err, FERRY_ERROR_SYSTEM, -r, "reading memory at 0x%" PRIx64,
					   at);
		r = pagesource_send(j, j->buffer, bytes, n_pages > n ? MSG_MORE : 0);
		at += bytes;
		n_pages -= n;
	}
	return r;
}

static int pagesource_give(struct pagesource_job *j, const struct pageserver_head *head)
{
	const struct pagesource *s = j->s;
	uint64_t end;
	size_t i = 0;
	if (!head->nr_pages && !head->vaddr && !head->memory) {
		pagesource_settle(j);
		return pagesource_head(j, head);
	}
	while (i < s->n && s->memories[i].id != head->memory)
		i++;
	if (i == s->n)
		return pagesource_bad(j, head, "there is no such memory");
	if (!head->nr_pages || head->nr_pages > PAGESOURCE_MOST_PAGES || head->vaddr % IMAGE_PAGE_BYTES ||
	    __builtin_add_overflow(head->vaddr, head->nr_pages * IMAGE_PAGE_BYTES, &end))
		return pagesource_bad(j, head, "no such pages can be");
	int64_t first = pagesource_index(&s->memories[i], head->vaddr, end);
	if (first < 0)
		return pagesource_bad(j, head, "these are not among those that come late");
	for (uint64_t n = 0; n < head->nr_pages; n++) {
		j->done->given += !j->given[i][(uint64_t)first + n];
		j->given[i][(uint64_t)first + n] = 1;
	}
	if (j->done->given == j->done->pages)
		pagesource_settle(j);
	int r = pagesource_head(j, head);
	return r < 0 ? r : pagesource_bytes(j, s->memories[i].mem, head->vaddr, head->nr_pages);
}

/* 1: that was all. */
static int pagesource_command(struct pagesource_job *j, const struct pageserver_head *head)
{
	switch (head->command) {
	case PAGESERVER_GET: return pagesource_give(j, head);
	case PAGESERVER_CLOSE:
	case PAGESERVER_FORCE_CLOSE: return 1;
	default: return pagesource_bad(j, head, "ferry does not know what that means");
	}
}

/* A peer that is cut off is noticed; one that has nothing to ask is not. */
static int pagesource_watch(struct pagesource_job *j)
{
	int on = 1, seconds = MAX(j->s->timeout_ms / 1000, 1), ms = MAX(j->s->timeout_ms, 1000), probes = 3;
	const struct timeval limit = {.tv_sec = seconds};
	if (setsockopt(j->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return -errno;
	/* Of a unix socket the kernel knows by itself. */
	if (setsockopt(j->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) < 0 ||
	    setsockopt(j->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    setsockopt(j->fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds)) < 0 ||
	    setsockopt(j->fd, IPPROTO_TCP, TCP_KEEPINTVL, &on, sizeof(on)) < 0 ||
	    setsockopt(j->fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes)) < 0 ||
	    setsockopt(j->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms)) < 0)
		return errno == EOPNOTSUPP || errno == ENOPROTOOPT ? 0 : -errno;
	return 0;
}

static int pagesource_accept(struct pagesource_job *j, int listening)
{
	struct pollfd p = {.fd = listening, .events = POLLIN};
	for (;;) {
		int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			return fd;
		if ((errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) ||
		    (poll(&p, 1, -1) < 0 && errno != EINTR))
			return error_errno(j->err, FERRY_ERROR_SYSTEM, errno, "waiting for a connection");
	}
}

/* Who does not prove who he is gets nothing, and the next one is awaited. */
static int pagesource_meet(struct pagesource_job *j, int listening)
{
	const struct tls_how how = {.timeout_ms = j->s->timeout_ms, .message = &pageserver_message};
	int fd = pagesource_accept(j, listening);
	while (fd >= 0 && j->s->tls) {
		struct ferry_error why = FERRY_ERROR_INIT;
		j->fd = fd;
		int r = pagesource_watch(j);
		if (r < 0) {
			close(fd);
			return error_errno(j->err, FERRY_ERROR_SYSTEM, -r, "setting up the connection");
		}
		fd = tls_start(j->s->tls, fd, &how, &why);
		if (fd >= 0)
			break;
		fd = pagesource_accept(j, listening);
	}
	return fd;
}

static int pagesource_run(struct pagesource_job *j)
{
	struct pageserver_head head;
	int r = pagesource_watch(j);
	if (r < 0)
		return error_errno(j->err, FERRY_ERROR_SYSTEM, -r, "setting up the connection");
	while (r == 0) {
		r = fd_read_all(j->fd, &head, sizeof(head));
		r = r < 0 ? pagesource_gone(j, -r) : pagesource_command(j, &head);
	}
	return r;
}

static int pagesource_connections(struct pagesource_job *j, int listening)
{
	for (;;) {
		_cleanup_close_ int fd = pagesource_meet(j, listening);
		if (fd < 0)
			return fd;
		j->fd = fd;
		int r = pagesource_run(j);
		if (!j->done->given && !j->done->settled) {
			/* It got nothing, so nothing runs with it. */
			error_clear(j->err);
			continue;
		}
		if (r > 0)
			j->done->fd = take_fd(fd);
		return r < 0 ? r : 0;
	}
}

int pagesource_serve(const struct pagesource *s, int listening, struct pagesource_done *ret,
		     struct ferry_error *err)
{
	struct pagesource_job j = {.s = s, .done = ret, .err = err};
	*ret = (struct pagesource_done){.fd = -1};
	j.given = calloc(s->n + 1, sizeof(*j.given));
	j.buffer = malloc(PAGESOURCE_BUFFER_PAGES * IMAGE_PAGE_BYTES);
	int r = j.given && j.buffer ? 0 : -ENOMEM;
	for (size_t i = 0; i < s->n && r >= 0; i++) {
		uint64_t n = pagesource_count(&s->memories[i]);
		ret->pages += n;
		j.given[i] = calloc(n + 1, 1);
		r = j.given[i] ? 0 : -ENOMEM;
	}
	r = r < 0 ? error_memory(err) : pagesource_connections(&j, listening);
	for (size_t i = 0; i < s->n && j.given; i++)
		free(j.given[i]);
	free(j.given);
	free(j.buffer);
	return r;
}

void pagesource_confirm(struct pagesource_done *done)
{
	const int32_t status = 0;
	if (done->fd < 0)
		return;
	/* It has everything, whether it hears this or not. */
	if (send(done->fd, &status, sizeof(status), MSG_NOSIGNAL) < 0)
		errno = 0;
	close(done->fd);
	done->fd = -1;
}
