/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns addresses of the other side, listening and connecting.
 *
 * Kernel interface: unix(7) SO_PEERCRED; sock_diag(7) for the user behind a loopback connection.
 */
#include "stream/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/sockdiag.h"

enum { ENDPOINT_BACKLOG = 4, ENDPOINT_HOST_BYTES = 256 };

static int endpoint_bad(struct ferry_error *err, const char *text, const char *why)
{
	error_set(err, FERRY_ERROR_USAGE, EINVAL, "address '%s': %s", text, why);
	error_hint(err, "an address is unix:PATH, HOST:PORT or [IPv6]:PORT");
	return -EINVAL;
}

static int endpoint_parse_unix(const char *text, struct endpoint *ret, struct ferry_error *err)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *path = text + strlen("unix:");
	if (!*path)
		return endpoint_bad(err, text, "the path is empty");
	size_t n = strlen(path);
	if (n >= sizeof(un.sun_path))
		return endpoint_bad(err, text, "the path is longer than 107 bytes");
	memcpy(un.sun_path, path, n);
	*ret = (struct endpoint){.address_bytes = sizeof(un), .is_local = true};
	memcpy(&ret->address, &un, sizeof(un));
	return 0;
}

static bool endpoint_is_loopback(const struct sockaddr_storage *address)
{
	if (address->ss_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	const struct in6_addr *v6 = &((const struct sockaddr_in6 *)address)->sin6_addr;
	return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == IN_LOOPBACKNET);
}

/* Whoever started ferry made the connection, and answers for where it leads. */
static int endpoint_parse_open(const char *text, struct endpoint *ret, struct ferry_error *err)
{
	int type;
	char *end;
	socklen_t size = sizeof(type);
	long number = strtol(text + 3, &end, 10);
	int fd = number >= 0 && number <= INT_MAX ? (int)number : -1;
	if (end == text + 3 || *end || fd < 0)
		return endpoint_bad(err, text, "there is no number of a descriptor");
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM)
		return endpoint_bad(err, text, "this is no stream socket");
	*ret = (struct endpoint){.is_open = true, .fd = fd, .is_local = true};
	return 0;
}

int endpoint_parse(const char *text, struct endpoint *ret, struct ferry_error *err)
{
	char host[ENDPOINT_HOST_BYTES];
	if (!strncmp(text, "unix:", 5))
		return endpoint_parse_unix(text, ret, err);
	if (!strncmp(text, "fd:", 3))
		return endpoint_parse_open(text, ret, err);
	const char *colon = strrchr(text, ':');
	if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1))
		return endpoint_bad(err, text, "there is no port");
	size_t n = (size_t)(colon - text);
	bool bracketed = n >= 2 && text[0] == '[' && text[n - 1] == ']';
	if (!bracketed && memchr(text, ':', n))
		return endpoint_bad(err, text, "an IPv6 address stands in brackets");
	if (n >= sizeof(host) || !n)
		return endpoint_bad(err, text, "there is no host");
	snprintf(host, sizeof(host), "%.*s", (int)(bracketed ? n - 2 : n), text + bracketed);
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found;
	int r = getaddrinfo(host, colon + 1, &hints, &found);
	if (r)
		return endpoint_bad(err, text, gai_strerror(r));
	*ret = (struct endpoint){.address_bytes = found->ai_addrlen};
	memcpy(&ret->address, found->ai_addr, found->ai_addrlen);
	ret->is_local = endpoint_is_loopback(&ret->address);
	freeaddrinfo(found);
	return 0;
}

void endpoint_format(const struct sockaddr_storage *address, char ret[static ENDPOINT_TEXT_BYTES])
{
	char number[INET6_ADDRSTRLEN] = "?";
	if (address->ss_family == AF_UNIX) {
		snprintf(ret, ENDPOINT_TEXT_BYTES, "unix:%s",
			 ((const struct sockaddr_un *)address)->sun_path);
	} else if (address->ss_family == AF_INET) {
		const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
		inet_ntop(AF_INET, &v4->sin_addr, number, sizeof(number));
		snprintf(ret, ENDPOINT_TEXT_BYTES, "%s:%u", number, ntohs(v4->sin_port));
	} else {
		const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
		inet_ntop(AF_INET6, &v6->sin6_addr, number, sizeof(number));
		snprintf(ret, ENDPOINT_TEXT_BYTES, "[%s]:%u", number, ntohs(v6->sin6_port));
	}
}

static int endpoint_socket(const struct endpoint *e, struct ferry_error *err)
{
	int fd = socket(e->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return fd < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a socket") : fd;
}

/* A socket file whose owner is gone refuses connections; only such a one is removed. */
static void endpoint_remove_stale(const struct endpoint *e)
{
	struct stat st;
	const char *path = ((const struct sockaddr_un *)&e->address)->sun_path;
	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&e->address, e->address_bytes) < 0 &&
	    errno == ECONNREFUSED)
		unlink(path);
}

int endpoint_parse_plain(const char *text, bool accepted, const char *how, struct endpoint *ret,
			 struct ferry_error *err)
{
	struct endpoint e;
	int r = endpoint_parse(text, &e, err);
	if (r < 0)
		return r;
	if (!e.is_local && !accepted) {
		error_set(err, FERRY_ERROR_USAGE, EPERM,
			  "'%s' is not on this machine, and the connection would not be encrypted", text);
		error_hint(err, "%s", how);
		return -EPERM;
	}
	*ret = e;
	return 0;
}

int endpoint_listen(const struct endpoint *e, char *ret_text, struct ferry_error *err)
{
	char text[ENDPOINT_TEXT_BYTES];
	int on = 1;
	if (e->is_open)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "fd:%d is connected already, and does not listen", e->fd);
	endpoint_format(&e->address, text);
	_cleanup_close_ int fd = endpoint_socket(e, err);
	if (fd < 0)
		return fd;
	bool is_unix = e->address.ss_family == AF_UNIX;
	if (is_unix)
		endpoint_remove_stale(e);
	else if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "setting SO_REUSEADDR");
	mode_t mask = umask(0177);
	int r = bind(fd, (const struct sockaddr *)&e->address, e->address_bytes) < 0 ? -errno : 0;
	umask(mask);
	if (r >= 0 && listen(fd, ENDPOINT_BACKLOG) < 0)
		r = -errno;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_ADDRESS_TAKEN, -r, "listening on %s", text);
	if (ret_text) {
		struct sockaddr_storage bound = {0};
		socklen_t n = sizeof(bound);
		if (getsockname(fd, (struct sockaddr *)&bound, &n) < 0)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "asking for our own address");
		endpoint_format(&bound, ret_text);
	}
	return take_fd(fd);
}

static int endpoint_finish_connect(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int code = 0, r;
	socklen_t n = sizeof(code);
	do
		r = poll(&p, 1, timeout_ms);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &n) < 0 ? -errno : -code;
}

int endpoint_connect(const struct endpoint *e, int timeout_ms, struct ferry_error *err)
{
	char text[ENDPOINT_TEXT_BYTES];
	int on = 1;
	if (e->is_open) {
		_cleanup_close_ int copy = fd_dup(e->fd, 3);
		if (copy < 0 || fcntl(copy, F_SETFL, O_NONBLOCK) < 0)
			return error_errno(err, FERRY_ERROR_USAGE, copy < 0 ? -copy : errno, "fd:%d", e->fd);
		return take_fd(copy);
	}
	endpoint_format(&e->address, text);
	_cleanup_close_ int fd = endpoint_socket(e, err);
	if (fd < 0)
		return fd;
	int r = connect(fd, (const struct sockaddr *)&e->address, e->address_bytes) < 0 ? -errno : 0;
	if (r == -EINPROGRESS)
		r = endpoint_finish_connect(fd, timeout_ms);
	if (r < 0) {
		error_errno(err, FERRY_ERROR_PEER_GONE, -r, "connecting to %s", text);
		error_hint(err, "start 'ferry receive --listen %s' there first", text);
		return r;
	}
	if (e->address.ss_family != AF_UNIX && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "setting TCP_NODELAY");
	return take_fd(fd);
}

static size_t endpoint_bytes(const struct sockaddr_storage *a, const uint8_t **ret_bytes, uint16_t *ret_port)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
	bool is_v4 = a->ss_family == AF_INET;
	*ret_bytes = is_v4 ? (const uint8_t *)&v4->sin_addr : (const uint8_t *)&v6->sin6_addr;
	*ret_port = ntohs(is_v4 ? v4->sin_port : v6->sin6_port);
	return is_v4 ? 4 : 16;
}

int endpoint_peer_uid(int fd, uid_t *ret_uid)
{
	struct sockaddr_storage own = {0}, peer = {0};
	socklen_t own_n = sizeof(own), peer_n = sizeof(peer);
	if (getsockname(fd, (struct sockaddr *)&own, &own_n) < 0 ||
	    getpeername(fd, (struct sockaddr *)&peer, &peer_n) < 0)
		return -errno;
	if (own.ss_family == AF_UNIX) {
		struct ucred cred;
		socklen_t n = sizeof(cred);
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
			return -errno;
		*ret_uid = cred.uid;
		return 0;
	}
	const uint8_t *own_bytes, *peer_bytes;
	uint16_t own_port, peer_port;
	size_t n_bytes = endpoint_bytes(&own, &own_bytes, &own_port), n = 0;
	endpoint_bytes(&peer, &peer_bytes, &peer_port);
	struct inet_sock *socks = NULL;
	/* A socket of either family may hold the other end of a v4 connection. */
	int r = sockdiag_inet(-1, own.ss_family, IPPROTO_TCP, 1u << TCP_ESTABLISHED, &socks, &n, NULL);
	if (r >= 0)
		r = -ENOENT;
	for (size_t i = 0; i < n && r == -ENOENT; i++) {
		const struct inet_sock *s = &socks[i];
		if (s->family == own.ss_family && s->local_port == peer_port && s->remote_port == own_port &&
		    s->inode && !memcmp(s->local_addr, peer_bytes, n_bytes) &&
		    !memcmp(s->remote_addr, own_bytes, n_bytes)) {
			*ret_uid = s->uid;
			r = 0;
		}
	}
	free(socks);
	return r;
}
