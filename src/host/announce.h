/* SPDX-License-Identifier: Apache-2.0 */
/* Ethernet frames that announce an address. Pure: bytes only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ANNOUNCE_MAX = 128 };

/* Gratuitous ARP, as request or as reply. Returns the length of the frame. */
size_t announce_arp(const uint8_t mac[static 6], const uint8_t address[static 4], bool reply,
		    uint8_t frame[static ANNOUNCE_MAX]);

/* Unsolicited neighbour advertisement to all nodes. Returns the length of the frame. */
size_t announce_na(const uint8_t mac[static 6], const uint8_t address[static 16],
		   uint8_t frame[static ANNOUNCE_MAX]);
