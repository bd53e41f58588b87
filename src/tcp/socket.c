/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the thin layer over getsockopt(2) and setsockopt(2) below libferry-tcp. */
#include "tcp/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

int socket_get_bytes(int fd, int level, int name, void *ret_bytes, socklen_t *n)
{
	return getsockopt(fd, level, name, ret_bytes, n) < 0 ? -errno : 0;
}

int socket_get(int fd, int level, int name, int *ret_value)
{
	int value = 0;
	socklen_t n = sizeof(value);
	int r = socket_get_bytes(fd, level, name, &value, &n);
	if (!r)
		*ret_value = value;
	return r;
}

int socket_set_bytes(int fd, int level, int name, const void *bytes, socklen_t n)
{
	return setsockopt(fd, level, name, bytes, n) < 0 ? -errno : 0;
}

int socket_set(int fd, int level, int name, int value)
{
	return socket_set_bytes(fd, level, name, &value, sizeof(value));
}

int socket_info(int fd, struct tcp_info *ret_info)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof(info);
	int r = socket_get_bytes(fd, SOL_TCP, TCP_INFO, &info, &n);
	if (!r)
		*ret_info = info;
	return r;
}

int repair_on(int fd)
{
	return socket_set(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_ON);
}

int repair_off(int fd, bool quiet)
{
	if (!quiet)
		return socket_set(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_OFF);
	int r = socket_set(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	/* Before Linux 4.19 there is only the way with a window probe, which harms nobody. */
	return r == -EINVAL ? socket_set(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_OFF) : r;
}

int repair_queue(int fd, int queue)
{
	return socket_set(fd, SOL_TCP, TCP_REPAIR_QUEUE, queue);
}

const struct ferry_tcp_options *tcp_options(const struct ferry_tcp_options *options, struct ferry_error *err)
{
	static const struct ferry_tcp_options none = FERRY_TCP_OPTIONS_INIT;
	if (!options)
		return &none;
	if (options->size == sizeof(*options))
		return options;
	error_set(err, FERRY_ERROR_INTERNAL, EINVAL,
		  "struct ferry_tcp_options has an unknown size of %u bytes", options->size);
	return NULL;
}

void tcp_effect(const struct ferry_tcp_options *options, const char *what)
{
	if (options->on_effect)
		options->on_effect(options->on_effect_ctx, what);
}

const char *tcp_name(const struct ferry_tcp *t, char name[static TCP_NAME_LEN])
{
	char local[INET6_ADDRSTRLEN] = "?";
	char remote[INET6_ADDRSTRLEN] = "?";
	inet_ntop(t->family, t->local_addr, local, sizeof(local));
	inet_ntop(t->family, t->remote_addr, remote, sizeof(remote));
	const char *format = t->family == AF_INET6 ? "[%s]:%u -> [%s]:%u" : "%s:%u -> %s:%u";
	snprintf(name, TCP_NAME_LEN, format, local, t->local_port, remote, t->remote_port);
	return name;
}

int tcp_fail(struct ferry_error *err, int code, const char *call, const char *name)
{
	if (code == EPERM) {
		error_set(err, FERRY_ERROR_PERMISSION, code, "TCP connection %s: %s: not permitted", name,
			  call);
		error_hint(err,
			   "repair mode needs CAP_NET_ADMIN in the user namespace that owns the socket's "
			   "network namespace");
		return -code;
	}
	return error_errno(err, FERRY_ERROR_SYSTEM, code, "TCP connection %s: %s", name, call);
}
