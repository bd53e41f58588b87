/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns addresses and links: rtnetlink(7) RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR, RTM_NEWLINK. Telling the
 * neighbours is announce.c.
 */
#include "host/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/if_addr.h>
#include <linux/rtnetlink.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/vec.h"
#include "host/netlink.h"

enum { DUMP_ATTEMPTS = 8, REQUEST_BYTES = 256, ROUTE_WAITS = 1000 };

typedef VEC(struct address) address_vec;

static size_t address_len(const struct address *a)
{
	return a->family == AF_INET ? 4 : 16;
}

/* Names and numbers of devices belong to a namespace: both are asked for there. */
static int device_index(int netns_fd, const char *device, uint32_t *ret_index)
{
	struct ifreq request;
	int r = device_request(device, &request);
	if (r)
		return r;
	_cleanup_close_ int fd = netns_socket(netns_fd, AF_INET, SOCK_DGRAM, 0);
	if (fd < 0)
		return fd;
	if (ioctl(fd, SIOCGIFINDEX, &request) < 0)
		return -errno;
	*ret_index = (uint32_t)request.ifr_ifindex;
	return 0;
}

static bool device_is_up(int netns_fd, const char *device)
{
	struct ifreq request;
	if (device_request(device, &request))
		return false;
	_cleanup_close_ int fd = netns_socket(netns_fd, AF_INET, SOCK_DGRAM, 0);
	return fd >= 0 && !ioctl(fd, SIOCGIFFLAGS, &request) && request.ifr_flags & IFF_UP;
}

static int device_failed(struct ferry_error *err, int code, const char *device)
{
	error_errno(err, FERRY_ERROR_ADDRESS_TAKEN, code, "network device '%s'", device);
	if (code == ENODEV)
		error_hint(err, "'ip link' lists the devices of a network namespace");
	return -code;
}

struct address_dump {
	address_vec found;
	uint32_t if_index; /* 0 = all */
	int names_fd;      /* a socket of the namespace, to ask for names */
};

static void fill_device(int fd, struct address *a)
{
	struct ifreq request = {.ifr_ifindex = (int)a->if_index};
	if (!ioctl(fd, SIOCGIFNAME, &request))
		memcpy(a->device, request.ifr_name, sizeof(a->device));
}

static int address_each(const struct nlmsghdr *h, void *ctx)
{
	struct address_dump *d = ctx;
	if (h->nlmsg_type != RTM_NEWADDR || netlink_body_len(h) < sizeof(struct ifaddrmsg))
		return 0;
	const struct ifaddrmsg *m = netlink_body(h);
	if ((m->ifa_family != AF_INET && m->ifa_family != AF_INET6) ||
	    (d->if_index && d->if_index != m->ifa_index))
		return 0;
	struct address a = {
		.family = m->ifa_family,
		.prefix_len = m->ifa_prefixlen,
		.scope = m->ifa_scope,
		.flags = m->ifa_flags,
		.if_index = m->ifa_index,
	};
	bool has_local = false;
	netlink_for_each(attr, h, sizeof(*m)) {
		unsigned type = netlink_attr_type(attr);
		size_t n = netlink_attr_len(attr);
		/* IFA_ADDRESS is the peer's on a point-to-point link; IFA_LOCAL, where it comes, is ours. */
		bool ours = type == IFA_LOCAL || (type == IFA_ADDRESS && !has_local);
		if (ours && n == address_len(&a))
			memcpy(a.bytes, netlink_attr_body(attr), n);
		if (type == IFA_LOCAL)
			has_local = true;
		if (type == IFA_FLAGS && n == sizeof(uint32_t))
			a.flags = netlink_attr_u32(attr);
	}
	fill_device(d->names_fd, &a);
	struct address *slot = vec_push(&d->found);
	if (!slot)
		return -ENOMEM;
	*slot = a;
	return 0;
}

static int address_dump(int netns_fd, struct address_dump *d)
{
	const struct ifaddrmsg all = {0};
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	int r = netlink_open(netns_fd, NETLINK_ROUTE, &socket);
	if (r)
		return r;
	r = -EINTR;
	for (unsigned i = 0; i < DUMP_ATTEMPTS && r == -EINTR; i++) {
		d->found.n = 0;
		r = netlink_list(socket, RTM_GETADDR, &all, sizeof(all), address_each, d);
	}
	return r;
}

int address_list(int netns_fd, const char *device, struct address **ret_addresses, size_t *ret_n,
		 struct ferry_error *err)
{
	struct address_dump d = {.names_fd = -EBADF};
	int r = device ? device_index(netns_fd, device, &d.if_index) : 0;
	if (r)
		return device_failed(err, -r, device);
	_cleanup_close_ int names_fd = netns_socket(netns_fd, AF_INET, SOCK_DGRAM, 0);
	d.names_fd = names_fd;
	r = names_fd < 0 ? names_fd : address_dump(netns_fd, &d);
	if (r) {
		vec_release(&d.found);
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "listing network addresses");
	}
	*ret_n = d.found.n;
	*ret_addresses = d.found.v;
	return 0;
}

static int change_failed(struct ferry_error *err, int code, const struct address *a, const char *what)
{
	char text[INET6_ADDRSTRLEN] = "?";
	inet_ntop(a->family, a->bytes, text, sizeof(text));
	if (code == EPERM) {
		error_set(err, FERRY_ERROR_PERMISSION, code, "%s address %s/%u on '%s': not permitted", what,
			  text, a->prefix_len, a->device);
		error_hint(err, "it needs CAP_NET_ADMIN over the network namespace");
		return -code;
	}
	return error_errno(err, FERRY_ERROR_SYSTEM, code, "%s address %s/%u on '%s'", what, text,
			   a->prefix_len, a->device);
}

static int change_address(int netns_fd, const struct address *a, uint16_t type, uint16_t flags,
			  uint32_t if_index)
{
	uint8_t bytes[REQUEST_BYTES] __attribute__((aligned(8)));
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	int r = netlink_open(netns_fd, NETLINK_ROUTE, &socket);
	if (r)
		return r;
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	struct ifaddrmsg *m = netlink_append(h, sizeof(*m));
	m->ifa_family = (uint8_t)a->family;
	m->ifa_prefixlen = a->prefix_len;
	m->ifa_index = if_index;
	m->ifa_scope = a->scope;
	/* An address under duplicate detection cannot be bound for a second or more. */
	m->ifa_flags = type == RTM_NEWADDR && a->family == AF_INET6 ? IFA_F_NODAD : 0;
	netlink_put(h, IFA_LOCAL, address_len(a), a->bytes);
	netlink_put(h, IFA_ADDRESS, address_len(a), a->bytes);
	return netlink_ask(socket, h, NULL, NULL);
}

static int check_address(const struct address *a, struct ferry_error *err)
{
	if (a->family != AF_INET && a->family != AF_INET6)
		return error_set(err, FERRY_ERROR_INTERNAL, EAFNOSUPPORT, "address family %u", a->family);
	if (a->prefix_len > 8 * address_len(a))
		return error_set(err, FERRY_ERROR_INTERNAL, EINVAL, "an address prefix of %u bits",
				 a->prefix_len);
	return 0;
}

static int route_each(const struct nlmsghdr *h, void *ctx)
{
	int *type = ctx;
	if (h->nlmsg_type == RTM_NEWROUTE && netlink_body_len(h) >= sizeof(struct rtmsg))
		*type = ((const struct rtmsg *)netlink_body(h))->rtm_type;
	return 0;
}

static int route_type(struct netlink_socket *socket, const struct address *a)
{
	uint8_t bytes[REQUEST_BYTES] __attribute__((aligned(8)));
	int type = RTN_UNSPEC;
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = RTM_GETROUTE;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	struct rtmsg *m = netlink_append(h, sizeof(*m));
	m->rtm_family = (uint8_t)a->family;
	m->rtm_dst_len = (uint8_t)(8 * address_len(a));
	netlink_put(h, RTA_DST, address_len(a), a->bytes);
	int r = netlink_ask(socket, h, route_each, &type);
	return r == -ENETUNREACH || r == -EHOSTUNREACH ? RTN_UNREACHABLE : r ? r : type;
}

/*
 * The kernel adds the local route of an IPv6 address from a work queue; until then packets for it would leave
 * the machine. Link-local ones depend on the device and are not waited for; neither is a device that is down.
 */
static int wait_usable(int netns_fd, const struct address *a)
{
	const struct timespec tick = {.tv_nsec = 500 * 1000};
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	if (a->family != AF_INET6 || !device_is_up(netns_fd, a->device) ||
	    (a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80))
		return 0;
	int r = netlink_open(netns_fd, NETLINK_ROUTE, &socket);
	for (unsigned i = 0; !r && i < ROUTE_WAITS; i++) {
		int type = route_type(socket, a);
		if (type < 0 || type == RTN_LOCAL)
			return type < 0 ? type : 0;
		nanosleep(&tick, NULL);
	}
	return r;
}

static int find_device(int netns_fd, const struct address *a, uint32_t *ret_index, struct ferry_error *err)
{
	int r = check_address(a, err);
	if (r)
		return r;
	r = device_index(netns_fd, a->device, ret_index);
	return r ? device_failed(err, -r, a->device) : 0;
}

int address_add(int netns_fd, const struct address *address, struct ferry_error *err)
{
	uint32_t index = 0;
	int r = find_device(netns_fd, address, &index, err);
	if (r)
		return r;
	r = change_address(netns_fd, address, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index);
	bool existed = r == -EEXIST;
	if (!r || existed)
		r = wait_usable(netns_fd, address);
	return r ? change_failed(err, -r, address, "adding") : !existed;
}

int address_remove(int netns_fd, const struct address *address, struct ferry_error *err)
{
	uint32_t index = 0;
	int r = find_device(netns_fd, address, &index, err);
	if (r)
		return r;
	r = change_address(netns_fd, address, RTM_DELADDR, 0, index);
	if (r == -EADDRNOTAVAIL)
		return 0;
	return r ? change_failed(err, -r, address, "removing") : 1;
}

int link_set_up(int netns_fd, const char *device, bool up, struct ferry_error *err)
{
	struct ifreq request;
	int r = device_request(device, &request);
	if (r)
		return device_failed(err, -r, device);
	_cleanup_close_ int fd = netns_socket(netns_fd, AF_INET, SOCK_DGRAM, 0);
	if (fd < 0)
		return device_failed(err, -fd, device);
	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return device_failed(err, errno, device);
	if (!!(request.ifr_flags & IFF_UP) == up)
		return 0;
	request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return device_failed(err, errno, device);
	return 1;
}
