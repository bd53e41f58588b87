/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses and links of one network namespace through rtnetlink, and their announcement on the wire, so that
 * an address can follow the work that uses it. netns_fd is -1 for the namespace of the calling thread.
 */
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct ferry_error;

struct address {
	uint16_t family; /* AF_INET, AF_INET6 */
	uint8_t prefix_len;
	uint8_t scope;  /* rtnetlink(7) RT_SCOPE_* */
	uint32_t flags; /* IFA_F_* */
	uint32_t if_index;
	char device[IF_NAMESIZE];
	uint8_t bytes[16]; /* network byte order; AF_INET uses the first 4 */
};

/* All addresses of the namespace, or of one device (NULL = all). The caller frees *ret_addresses. */
must_check int address_list(int netns_fd, const char *device, struct address **ret_addresses, size_t *ret_n,
			    struct ferry_error *err);

/*
 * Add, remove an address; .device, .family, .prefix_len, .bytes are used. IPv6 addresses are added without
 * duplicate address detection: usable at once. 1 = changed, 0 = it was so already, or -errno.
 */
must_check int address_add(int netns_fd, const struct address *address, struct ferry_error *err);
must_check int address_remove(int netns_fd, const struct address *address, struct ferry_error *err);

/* Switch a link up or down. 1 = changed, 0 = it was so already, or -errno (-ENODEV: no such device). */
must_check int link_set_up(int netns_fd, const char *device, bool up, struct ferry_error *err);

/*
 * A socket to announce with, for any device of the namespace. Closing it waits for every processor (about 10
 * ms): do so when nobody waits. Returns the descriptor or -errno.
 */
must_check int announce_open(int netns_fd, struct ferry_error *err);

/*
 * Tell the neighbours that the address lives on this device now: gratuitous ARP (request and reply) or
 * unsolicited neighbour advertisement, 'times' times (0 = 3), interval_ms apart (the call waits in between).
 * Devices without a neighbour protocol (loopback, tunnels) need none: returns 0 at once.
 */
must_check int address_announce(int announce_fd, const struct address *address, unsigned times,
				unsigned interval_ms, struct ferry_error *err);
