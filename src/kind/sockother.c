/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns naming the sockets that no other kind brings back, and why.
 *
 * Kernel interface: looked at up to Linux 6.18.
 * Does not handle: any of them. AF_ALG sockets have no name that a call would tell (getsockname fails), nor their key;
 * vsock connections, Bluetooth, CAN, TIPC, SCTP and SMC have nothing like TCP_REPAIR, XDP sockets share rings with a
 * driver, AF_KEY and kernel protocols keep their state to themselves.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "kind/fdcommon.h"
#include "kind/kinds.h"
#include "kind/sockextra.h"

static const struct sockother {
	const char *protocol; /* how the kernel calls it, or how that begins */
	const char *what, *why;
} sockother_known[] = {
	{"ALG", "a socket of the kernel's crypto interface (AF_ALG)",
	 "getsockname() does not tell its algorithm"},
	{"AF_VSOCK", "a vsock socket", "there is no repair mode for it"},
	{"XDP", "an XDP socket", "its rings belong to the driver, too"},
	{"SCTP", "an SCTP socket", "there is no repair mode for it"},
	{"SMC", "an SMC socket", "there is no repair mode for it"},
	{"TIPC", "a TIPC socket", "there is no repair mode for it"},
	{"CAN", "a CAN socket", "no call lists its filters together with what waits"},
	{"BT", "a Bluetooth socket", "there is no repair mode for it"},
	{"L2CAP", "a Bluetooth socket", "there is no repair mode for it"},
	{"RFCOMM", "a Bluetooth socket", "there is no repair mode for it"},
	{"HCI", "a Bluetooth socket", "there is no repair mode for it"},
	{"KEY", "a key management socket (AF_KEY)", "what it registered is told by no call"},
	{"KCM", "a kernel connection multiplexor", "its program and sockets are told by no call"},
};

static bool sockother_owns(const struct fd_view *view)
{
	char name[32];
	return sock_protocol(view, name) >= 0;
}

static int sockother_check(const struct fd_view *view, const struct kind_options *options unused,
			   struct ferry_error *err)
{
	char who[64], name[32] = "";
	fd_view_name(view, who, sizeof(who));
	if (sock_protocol(view, name) < 0)
		name[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(sockother_known); i++) {
		const struct sockother *k = &sockother_known[i];
		if (strncmp(name, k->protocol, strlen(k->protocol)) != 0)
			continue;
		return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: %s; %s (Linux 6.18)", who,
				 k->what, k->why);
	}
	return error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: a socket of protocol '%s'", who,
			 name);
}

/* What check refuses is never collected. */
static int sockother_collect(struct collect *c, struct fd_view *view, struct snap_file *file unused,
			     struct ferry_error *err)
{
	return sockother_check(view, c->options, err);
}

const struct kind_ops kind_sockother = {
	.name = "sockother",
	.what = "sockets that cannot be brought back, each refused with its cause",
	.fd_type = -1,
	.image_file = -1,
	.owns = sockother_owns,
	.check = sockother_check,
	.collect = sockother_collect,
};
