/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the sending side of CRIU's page server wire (stream/pageserver_wire.h).
 *
 * Does not handle: encryption.
 */
#include "stream/pageclient.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/coverage.h"
#include "stream/endpoint.h"
#include "stream/pageserver_wire.h"
#include "stream/tls.h"

enum { PAGECLIENT_MS = 1000 };
#define PAGECLIENT_HOW "forward a port of loopback with ssh, or accept that with --insecure"

static int pageclient_gone(int code, struct ferry_error *err)
{
	int r = code == EAGAIN
			? error_set(err, FERRY_ERROR_PEER_GONE, ETIMEDOUT, "the page server does not answer")
			: error_errno(err, FERRY_ERROR_PEER_GONE, code ? code : ECONNRESET,
				      "the page server ended before it had all pages");
	error_hint(err, "look at what it says; the tree runs on as before");
	return r;
}

/* All of it, without a signal when the other side is gone. */
static int pageclient_send(struct pageclient *c, const void *bytes, size_t n, int flags,
			   struct ferry_error *err)
{
	const char *at = bytes;
	while (n) {
		ssize_t sent = send(c->fd, at, n, MSG_NOSIGNAL | flags);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return pageclient_gone(errno, err);
		at += sent;
		n -= (size_t)sent;
	}
	return 0;
}

static int pageclient_read(struct pageclient *c, void *bytes, size_t n, struct ferry_error *err)
{
	int r = fd_read_all(c->fd, bytes, n);
	return r < 0 ? pageclient_gone(-r, err) : 0;
}

static uint64_t pageclient_memory(enum image_kind kind, uint64_t id)
{
	return id << PAGESERVER_ID_SHIFT |
	       (kind == IMAGE_SHMEM_PAGEMAP ? PAGESERVER_SHARED : PAGESERVER_TASK);
}

static int pageclient_lacks(uint64_t memory, struct ferry_error *err)
{
	int r = error_set(err, FERRY_ERROR_IMAGE_MISSING, ENOENT,
			  "the page server does not have what the image before has of %s %" PRIu64,
			  (memory & 0xff) == PAGESERVER_SHARED ? "shared memory" : "pid",
			  memory >> PAGESERVER_ID_SHIFT);
	error_hint(err,
		   "start it with --prev-images-dir and the directory that the pages of that image went to");
	return r;
}

/* While nothing has stopped yet. */
static int pageclient_builds_on(void *context, const struct image_coverage *covered, uint64_t id_hi,
				uint64_t id_lo, struct ferry_error *err)
{
	struct pageclient *c = context;
	const struct image_covered *memory = NULL;
	int r = 0;
	while (r >= 0 && (memory = image_coverage_next(covered, memory))) {
		const struct pageserver_head head = {.command = PAGESERVER_PARENT,
						     .nr_pages = id_hi,
						     .vaddr = id_lo,
						     .memory = pageclient_memory(memory->kind, memory->id)};
		int32_t has = 0;
		r = pageclient_send(c, &head, sizeof(head), 0, err);
		if (r >= 0)
			r = pageclient_read(c, &has, sizeof(has), err);
		if (r >= 0 && has != 1)
			r = pageclient_lacks(head.memory, err);
	}
	return r;
}

static int pageclient_begin(void *context, const struct image_dir *dir, enum image_kind kind, uint64_t id,
			    struct ferry_error *err)
{
	struct pageclient *c = context;
	uint8_t has = 0;
	c->memory = pageclient_memory(kind, id);
	struct pageserver_head head = {.command = PAGESERVER_OPEN2, .memory = c->memory};
	image_dir_id(dir, &head.nr_pages, &head.vaddr);
	int r = pageclient_send(c, &head, sizeof(head), 0, err);
	if (r >= 0)
		r = pageclient_read(c, &has, sizeof(has), err);
	c->has_parent = has;
	return r;
}

static int pageclient_run(void *context, const struct image_run *run, const void *bytes,
			  struct ferry_error *err)
{
	struct pageclient *c = context;
	bool here = run->flags & IMAGE_PE_PRESENT;
	const struct pageserver_head head = {
		.command = PAGESERVER_ADD_F | run->flags << PAGESERVER_FLAGS_SHIFT,
		.nr_pages = run->nr_pages,
		.vaddr = run->vaddr,
		.memory = c->memory,
	};
	if (run->flags & IMAGE_PE_PARENT && !c->has_parent)
		return error_set(err, FERRY_ERROR_PROTOCOL, EPROTO,
				 "the page server has nothing any more of what it had of the image before");
	int r = pageclient_send(c, &head, sizeof(head), here ? MSG_MORE : 0, err);
	return r < 0 || !here ? r : pageclient_send(c, bytes, run->nr_pages * IMAGE_PAGE_BYTES, 0, err);
}

static int pageclient_end(void *context, struct ferry_error *err)
{
	struct pageclient *c = context;
	const struct pageserver_head head = {.command = PAGESERVER_CLOSE};
	int32_t status = 0;
	int r = pageclient_send(c, &head, sizeof(head), 0, err);
	if (r >= 0)
		r = pageclient_read(c, &status, sizeof(status), err);
	if (r < 0 || !status)
		return r;
	return error_set(err, FERRY_ERROR_PEER_GONE, EIO, "the page server could not store the pages (%d)",
			 status);
}

/* Blocking from here on, but never for good. */
static int pageclient_limit(int fd, int timeout_ms)
{
	const struct timeval limit = {timeout_ms / PAGECLIENT_MS, timeout_ms % PAGECLIENT_MS * PAGECLIENT_MS};
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return -errno;
	return 0;
}

/* The name that a certificate has to be for: what stands before the port, without brackets. */
static int pageclient_encrypt(int fd, const char *address, const struct pageclient_how *how,
			      struct ferry_error *err)
{
	static const char *const nameless[] = {"unix:", "fd:"};
	const char *port = strrchr(address, ':');
	bool brackets = address[0] == '[';
	size_t n = port ? (size_t)(port - address) : strlen(address);
	for (size_t i = 0; i < ARRAY_SIZE(nameless); i++)
		if (!strncmp(address, nameless[i], strlen(nameless[i])))
			n = 0;
	_cleanup_free_ char *host = strndup(address + (n && brackets), n > 2 && brackets ? n - 2 : n);
	if (!host) {
		close(fd);
		return error_memory(err);
	}
	const struct tls_how tls = {
		.host = host, .timeout_ms = how->timeout_ms, .message = &pageserver_message};
	return tls_start(how->tls, fd, &tls, err);
}

int pageclient_open(struct pageclient *ret, const char *address, const struct pageclient_how *how,
		    struct ferry_error *err)
{
	struct endpoint e;
	int r = endpoint_parse_plain(address, how->insecure || how->tls, PAGECLIENT_HOW, &e, err);
	if (r < 0)
		return r;
	int fd = endpoint_connect(&e, how->timeout_ms, err);
	if (fd >= 0 && how->tls)
		fd = pageclient_encrypt(fd, address, how, err);
	if (fd < 0)
		return fd;
	r = pageclient_limit(fd, how->timeout_ms);
	if (r < 0) {
		close(fd);
		return error_errno(err, FERRY_ERROR_SYSTEM, -r,
				   "setting up the connection to the page server");
	}
	*ret = (struct pageclient){
		.remote = {.builds_on = pageclient_builds_on,
			   .begin = pageclient_begin,
			   .run = pageclient_run,
			   .end = pageclient_end,
			   .context = ret},
		.fd = fd,
	};
	return 0;
}

void pageclient_close(struct pageclient *c)
{
	close(c->fd);
}
