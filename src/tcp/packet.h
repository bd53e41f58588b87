/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets that the peer has sent long ago and that a rebuilt socket has to see once more: its FIN, and its
 * acknowledgement of ours. No socket call can put a connection into the states that follow them.
 */
#pragma once

#include <ferry/tcp.h>

#include "base/macros.h"

enum { TCP_PACKET_MAX = 40 + 20 };

enum tcp_packet_kind {
	TCP_PACKET_FIN, /* the peer ends its direction, acknowledging nothing new */
	TCP_PACKET_ACK, /* the peer acknowledges everything including our FIN */
};

/* Build the packet as it would come from the peer. Returns its length; pure. */
size_t tcp_packet_build(const struct ferry_tcp *t, enum tcp_packet_kind kind,
			uint8_t packet[static TCP_PACKET_MAX]);

/*
 * Build it and hand it to our own network stack, in the namespace of the calling thread. The local address must
 * exist there, else the packet would leave the machine: -EADDRNOTAVAIL. Needs CAP_NET_RAW. scope: interface
 * index of a link-local address here. mark: 0 = none.
 */
must_check int tcp_packet_inject(const struct ferry_tcp *t, enum tcp_packet_kind kind, uint32_t scope,
				 uint32_t mark);
