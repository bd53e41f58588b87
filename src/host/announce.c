/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns telling neighbours where an address lives now: gratuitous ARP (RFC 826, 5227) and unsolicited neighbour
 * advertisement (RFC 4861) as whole frames over packet(7), so that neither a route nor the state of the address
 * is needed.
 *
 * Not handled: devices other than Ethernet-like ones, whose neighbours learn in other ways or have none.
 */
#include "host/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip6.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/if_packet.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "host/announce.h"
#include "host/netlink.h"

enum { DEFAULT_TIMES = 3 };

struct device {
	int index;
	bool is_ethernet;
	uint8_t mac[ETH_ALEN];
};

size_t announce_arp(const uint8_t mac[static 6], const uint8_t address[static 4], bool reply,
		    uint8_t frame[static ANNOUNCE_MAX])
{
	struct ether_arp arp = {
		.ea_hdr =
			{
				.ar_hrd = htons(ARPHRD_ETHER),
				.ar_pro = htons(ETHERTYPE_IP),
				.ar_hln = ETH_ALEN,
				.ar_pln = 4,
				.ar_op = htons(reply ? ARPOP_REPLY : ARPOP_REQUEST),
			},
	};
	struct ether_header ether = {.ether_type = htons(ETHERTYPE_ARP)};
	memset(ether.ether_dhost, 0xff, ETH_ALEN);
	memcpy(ether.ether_shost, mac, ETH_ALEN);
	memcpy(arp.arp_sha, mac, ETH_ALEN);
	memcpy(arp.arp_spa, address, 4);
	/* RFC 5944: in a reply the target is the sender; in a request it is asked for and stays zero. */
	if (reply)
		memcpy(arp.arp_tha, mac, ETH_ALEN);
	memcpy(arp.arp_tpa, address, 4);
	memcpy(frame, &ether, sizeof(ether));
	memcpy(frame + sizeof(ether), &arp, sizeof(arp));
	return sizeof(ether) + sizeof(arp);
}

static uint32_t sum_bytes(uint32_t sum, const void *bytes, size_t n)
{
	const uint8_t *b = bytes;
	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)b[i] << 8 | b[i + 1];
	return sum;
}

/* A neighbour advertisement with its one option, the sender's link-layer address. */
struct advertisement {
	struct nd_neighbor_advert head;
	struct nd_opt_hdr option;
	uint8_t mac[ETH_ALEN];
};

size_t announce_na(const uint8_t mac[static 6], const uint8_t address[static 16],
		   uint8_t frame[static ANNOUNCE_MAX])
{
	/* All nodes of the link, and how Ethernet carries that group. */
	static const uint8_t group[16] = {0xff, 0x02, [15] = 1};
	static const uint8_t group_mac[ETH_ALEN] = {0x33, 0x33, [5] = 1};
	struct advertisement na = {
		.head =
			{
				.nd_na_hdr = {.icmp6_type = ND_NEIGHBOR_ADVERT},
			},
		.option = {.nd_opt_type = ND_OPT_TARGET_LINKADDR, .nd_opt_len = 1},
	};
	na.head.nd_na_flags_reserved = ND_NA_FLAG_OVERRIDE;
	memcpy(&na.head.nd_na_target, address, 16);
	memcpy(na.mac, mac, ETH_ALEN);
	struct ip6_hdr ip = {0};
	ip.ip6_flow = htonl(6u << 28);
	ip.ip6_plen = htons(sizeof(na));
	ip.ip6_nxt = IPPROTO_ICMPV6;
	ip.ip6_hlim = 255; /* the proof that no router passed it on */
	memcpy(&ip.ip6_src, address, 16);
	memcpy(&ip.ip6_dst, group, 16);
	uint32_t sum = sum_bytes(IPPROTO_ICMPV6 + sizeof(na), &ip.ip6_src, 2 * sizeof(ip.ip6_src));
	sum = sum_bytes(sum, &na, sizeof(na));
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	na.head.nd_na_cksum = htons((uint16_t)~sum);
	struct ether_header ether = {.ether_type = htons(ETHERTYPE_IPV6)};
	memcpy(ether.ether_dhost, group_mac, ETH_ALEN);
	memcpy(ether.ether_shost, mac, ETH_ALEN);
	memcpy(frame, &ether, sizeof(ether));
	memcpy(frame + sizeof(ether), &ip, sizeof(ip));
	memcpy(frame + sizeof(ether) + sizeof(ip), &na, sizeof(na));
	return sizeof(ether) + sizeof(ip) + sizeof(na);
}

static int read_device(int fd, const char *name, struct device *ret_device)
{
	struct ifreq request;
	struct device d = {0};
	int r = device_request(name, &request);
	if (r)
		return r;
	if (ioctl(fd, SIOCGIFINDEX, &request) < 0)
		return -errno;
	d.index = request.ifr_ifindex;
	if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
		return -errno;
	d.is_ethernet = request.ifr_hwaddr.sa_family == ARPHRD_ETHER;
	memcpy(d.mac, request.ifr_hwaddr.sa_data, ETH_ALEN);
	*ret_device = d;
	return 0;
}

static int send_frame(int fd, const struct device *d, const uint8_t *frame, size_t n)
{
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET,
		.sll_ifindex = d->index,
		.sll_halen = ETH_ALEN,
	};
	memcpy(to.sll_addr, frame, ETH_ALEN);
	return sendto(fd, frame, n, 0, (const struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
}

static int announce_once(int fd, const struct device *d, const struct address *a)
{
	uint8_t frame[ANNOUNCE_MAX];
	if (a->family == AF_INET6)
		return send_frame(fd, d, frame, announce_na(d->mac, a->bytes, frame));
	/* Some stacks listen to one of them only. */
	int r = send_frame(fd, d, frame, announce_arp(d->mac, a->bytes, false, frame));
	return r ? r : send_frame(fd, d, frame, announce_arp(d->mac, a->bytes, true, frame));
}

int announce_open(int netns_fd, struct ferry_error *err)
{
	/* Protocol 0: this socket only sends. */
	int fd = netns_socket(netns_fd, AF_PACKET, SOCK_RAW, 0);
	if (fd < 0)
		return error_errno(err, fd == -EPERM ? FERRY_ERROR_PERMISSION : FERRY_ERROR_SYSTEM, -fd,
				   "a socket to announce addresses");
	return fd;
}

static int announce_on(int fd, const struct address *a, unsigned times, unsigned interval_ms)
{
	const struct timespec pause = {interval_ms / 1000, interval_ms % 1000 * 1000000L};
	struct device d = {0};
	int r = read_device(fd, a->device, &d);
	if (r || !d.is_ethernet)
		return r;
	for (unsigned i = 0; !r && i < times; i++) {
		if (i)
			nanosleep(&pause, NULL);
		r = announce_once(fd, &d, a);
	}
	return r;
}

int address_announce(int announce_fd, const struct address *address, unsigned times, unsigned interval_ms,
		     struct ferry_error *err)
{
	char text[INET6_ADDRSTRLEN] = "?";
	int r = announce_on(announce_fd, address, times ? times : DEFAULT_TIMES, interval_ms);
	if (!r)
		return 0;
	inet_ntop(address->family, address->bytes, text, sizeof(text));
	error_errno(err, r == -EPERM ? FERRY_ERROR_PERMISSION : FERRY_ERROR_SYSTEM, -r,
		    "announcing address %s on '%s'", text, address->device);
	if (r == -ENETDOWN)
		error_hint(err, "switch the link up first");
	return r;
}
