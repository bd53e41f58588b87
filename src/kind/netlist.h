/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists that the kernel keeps of a network namespace, or of one device in it: addresses, routes, rules, neighbours, labels of addresses, what
 * bridges forward where. They are kept as it tells them, messages of rtnetlink(7) without their nlmsghdr, and set again by adding what is missing and taking away what the kernel
 * added by itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "base/macros.h"
#include "host/netlink_message.h"

struct netlink_socket;

enum {
	NETLIST_MAX = 4096,
	NETLIST_MESSAGE_BYTES = 2048,
	NETLIST_REQUEST_BYTES = 4096,
	NETLIST_HEAD_BYTES = 64
};

/* One list of the kernel, or one that the image has. */
struct netlist {
	struct arena *arena;
	uint32_t index; /* of the device; 0 = all, and messages go as they are */
	ProtobufCBinaryData *v;
	size_t n, room;
	bool several; /* a route over several devices, one of them this */
};

/* What a table of the kernel has. */
struct netlist_table {
	uint16_t get, add, remove;
	size_t head, index_at; /* of the fixed part; where in it the device's number is, 0 = in RTA_OIF */
	uint16_t add_flags;
	const struct netlist_ask *asks;
	size_t n_asks;
	int (*each)(const struct nlmsghdr *h, void *ctx);
	const uint16_t *key; /* attributes that tell entries apart, 0 ends; the device does, too */
	uint8_t alike[2];    /* and bytes of the fixed part */
};

/* What a list is asked for; not all that a kernel has of it is told in one answer. */
struct netlist_ask {
	uint8_t family, flags_at, flags;
};

extern const struct netlist_table netlist_addresses, netlist_routes, netlist_neighbours, netlist_rules,
	netlist_labels, netlist_forwarding;

/* An attribute behind the head of a message. */
const struct nlattr *netlist_attribute(const void *message, size_t n, size_t head, unsigned type);

must_check int netlist_add(struct netlist *list, const void *message, size_t n);
must_check int netlist_get(struct netlink_socket *socket, const struct netlist_table *table,
			   struct netlist *list);

/* The kernel's list of a device, or of all (0), becomes this one; but what is there beyond it stays if it is not whole. */
must_check int netlist_restore(struct netlink_socket *socket, const struct netlist_table *table,
			       uint32_t index, const ProtobufCBinaryData *v, size_t n, bool whole);
