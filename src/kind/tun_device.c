/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the network devices that descriptors of /dev/net/tun have: numbers, link, addresses, routes, neighbours and settings,
 * read for a dump and set again on a device that a restore has made. Lists of the kernel are kept as it tells them, and
 * what it adds to a new device by itself is taken away where it was not there before.
 *
 * Kernel interface: rtnetlink(7), ethtool (SIOCETHTOOL, ETHTOOL_GFEATURES), /proc/sys/net, TUNSETOWNER and its kin.
 * Does not handle: traffic control, programs (XDP), devices on top of it, routes over several devices: refused by name.
 */
#include "kind/tun.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "host/netlink.h"
#include "kind/netlist.h"
#include "model/record.h"

enum {
	TUN_SETTING_BYTES = 4096,
	TUN_FEATURE_WORDS = 8,
	TUN_WAITS = 100, /* without a carrier it never does */
	TUN_WAIT_NS = 2000000,
	TUN_OFFLOAD_USO4 = 0x20, /* TUN_F_USO4, Linux 6.2 */
	TUN_OFFLOAD_USO6 = 0x40,
	TUN_IFF_CHANGEABLE = IFF_UP | IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI | IFF_MULTICAST | IFF_DYNAMIC |
			     IFF_DEBUG | IFF_NOTRAILERS,
};

static const char *const tun_places[] = {"ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"};

/* How the kernel calls what TUNSETOFFLOAD switches on. */
static const struct tun_offload {
	const char *feature;
	uint32_t flag;
} tun_offloads[] = {
	{"tx-checksum-ip-generic", TUN_F_CSUM},
	{"tx-tcp-segmentation", TUN_F_TSO4},
	{"tx-tcp6-segmentation", TUN_F_TSO6},
	{"tx-tcp-ecn-segmentation", TUN_F_TSO_ECN},
	{"tx-udp-segmentation", TUN_OFFLOAD_USO4 | TUN_OFFLOAD_USO6},
};

/* ---------------------------------------------------------------------- link */

struct tun_link {
	struct arena *arena;
	FerryDeviceEntry *d;
	uint32_t index, master;
	bool found, carrier, program, stacked;
	int error;
};

static void tun_link_tun(struct tun_link *link, const struct nlattr *info)
{
	netlink_for_each_nested(data, info) {
		if (netlink_attr_type(data) != IFLA_INFO_DATA)
			continue;
		netlink_for_each_nested(attr, data) {
			if (netlink_attr_type(attr) == IFLA_TUN_OWNER)
				record_set(link->d, owner, (int32_t)netlink_attr_u32(attr));
			if (netlink_attr_type(attr) == IFLA_TUN_GROUP)
				record_set(link->d, group, (int32_t)netlink_attr_u32(attr));
			/* TUNGETIFF has one bit for this and for something else. */
			if (netlink_attr_type(attr) == IFLA_TUN_PI)
				link->d->mode = (link->d->mode & ~(uint32_t)IFF_NO_PI) |
						(netlink_attr_u8(attr) ? 0 : IFF_NO_PI);
		}
	}
}

static bool tun_link_has_program(const struct nlattr *xdp)
{
	netlink_for_each_nested(attr, xdp) {
		if (netlink_attr_type(attr) == IFLA_XDP_ATTACHED)
			return netlink_attr_u8(attr) != 0;
	}
	return false;
}

static void tun_link_attribute(struct tun_link *link, const struct nlattr *attr)
{
	FerryDeviceEntry *d = link->d;
	switch (netlink_attr_type(attr)) {
	case IFLA_MTU: d->mtu = netlink_attr_u32(attr); break;
	case IFLA_TXQLEN: d->queue_packets = netlink_attr_u32(attr); break;
	case IFLA_ADDRESS:
		d->address = record_bytes(link->arena, netlink_attr_body(attr), netlink_attr_len(attr));
		break;
	case IFLA_IFALIAS: d->alias = arena_string(link->arena, netlink_attr_string(attr)); break;
	case IFLA_MASTER: link->master = netlink_attr_u32(attr); break;
	case IFLA_GROUP:
		if (netlink_attr_u32(attr))
			record_set(d, link_group, netlink_attr_u32(attr));
		break;
	case IFLA_CARRIER: link->carrier = netlink_attr_u8(attr); break;
	case IFLA_XDP: link->program = tun_link_has_program(attr); break;
	case IFLA_LINKINFO: tun_link_tun(link, attr); break;
	default: break;
	}
}

static int tun_each_link(const struct nlmsghdr *h, void *ctx)
{
	struct tun_link *link = ctx;
	const struct ifinfomsg *m = netlink_body(h);
	size_t n = netlink_body_len(h);
	if (h->nlmsg_type != RTM_NEWLINK || n < sizeof(*m))
		return 0;
	if ((uint32_t)m->ifi_index != link->index) {
		const struct nlattr *below = netlist_attribute(m, n, sizeof(*m), IFLA_LINK);
		const struct nlattr *elsewhere = netlist_attribute(m, n, sizeof(*m), IFLA_LINK_NETNSID);
		link->stacked |= below && !elsewhere && netlink_attr_u32(below) == link->index;
		return 0;
	}
	link->found = true;
	link->d->type = m->ifi_type;
	link->d->flags = m->ifi_flags;
	netlink_for_each(attr, h, sizeof(*m))
		tun_link_attribute(link, attr);
	return 0;
}

static int tun_link_get(struct netlink_socket *socket, struct tun_link *link)
{
	const struct ifinfomsg all = {0};
	int r = netlink_list(socket, RTM_GETLINK, &all, sizeof(all), tun_each_link, link);
	return r < 0 ? r : link->found ? 0 : -ENODEV;
}

/* The kernel's own choice of a queue has no number. */
static int tun_each_queue(const struct nlmsghdr *h, void *ctx)
{
	struct tun_link *link = ctx;
	const struct tcmsg *m = netlink_body(h);
	if (h->nlmsg_type == RTM_NEWQDISC && netlink_body_len(h) >= sizeof(*m) &&
	    (uint32_t)m->tcm_ifindex == link->index && m->tcm_handle)
		link->found = true;
	return 0;
}

static int tun_queue_get(struct netlink_socket *socket, uint32_t index, bool *ret_configured)
{
	const struct tcmsg all = {0};
	struct tun_link link = {.index = index};
	int r = netlink_list(socket, RTM_GETQDISC, &all, sizeof(all), tun_each_queue, &link);
	*ret_configured = link.found;
	/* A kernel without traffic control has none. */
	return r == -EOPNOTSUPP ? 0 : r;
}

/* --------------------------------------------------------------------- check */

static int tun_refuse(const char *who, const char *name, const char *what, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_UNSUPPORTED_FD, ENOTSUP, "%s: the network device '%s' has %s", who, name,
		  what);
	error_hint(err, "take that down first, or make the device persistent (ip tuntap add): it stays then");
	return -ENOTSUP;
}

static int tun_check_routes(struct arena *a, struct netlink_socket *socket, uint32_t index, bool *ret_several)
{
	struct netlist routes = {.arena = a, .index = index};
	int r = netlist_get(socket, &netlist_routes, &routes);
	*ret_several = routes.several;
	return r;
}

int tun_device_check(const char *name, const char *who, struct ferry_error *err)
{
	struct arena a = {0};
	FerryDeviceEntry d = FERRY_DEVICE_ENTRY__INIT;
	struct tun_link link = {.arena = &a, .d = &d, .index = if_nametoindex(name)};
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	bool several = false, configured = false;
	int r = link.index ? netlink_open(-1, NETLINK_ROUTE, &socket) : -ENODEV;
	if (r >= 0)
		r = tun_link_get(socket, &link);
	if (r >= 0)
		r = tun_queue_get(socket, link.index, &configured);
	if (r >= 0)
		r = tun_check_routes(&a, socket, link.index, &several);
	arena_release(&a);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "%s: looking at the network device '%s'", who,
				   name);
	if (link.program)
		return tun_refuse(who, name, "a program (XDP), which nobody can read", err);
	if (link.stacked)
		return tun_refuse(who, name, "other network devices on top of it", err);
	if (configured)
		return tun_refuse(who, name, "traffic control (tc) of its own", err);
	return several ? tun_refuse(who, name, "a part in routes over several devices", err) : 0;
}

/* ------------------------------------------------------------------- collect */

static int tun_ethtool(int socket, const char *name, void *request)
{
	struct ifreq ifr = {.ifr_data = request};
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	return ioctl(socket, SIOCETHTOOL, &ifr) < 0 ? -errno : 0;
}

/* How many names of features this kernel has. */
static uint32_t tun_feature_count(int socket, const char *name)
{
	_Alignas(uint64_t) unsigned char room[sizeof(struct ethtool_sset_info) + sizeof(uint32_t)] = {0};
	struct ethtool_sset_info *info = (struct ethtool_sset_info *)room;
	uint32_t n = 0;
	info->cmd = ETHTOOL_GSSET_INFO;
	info->sset_mask = 1u << ETH_SS_FEATURES;
	if (tun_ethtool(socket, name, info) >= 0)
		memcpy(&n, info->data, sizeof(n));
	return n > TUN_FEATURE_WORDS * 32 ? 0 : n;
}

static uint32_t tun_offload_of(const char *feature)
{
	for (size_t i = 0; i < ARRAY_SIZE(tun_offloads); i++)
		if (!strncmp(tun_offloads[i].feature, feature, ETH_GSTRING_LEN))
			return tun_offloads[i].flag;
	return 0;
}

static int tun_collect_offload(const char *name, uint32_t *ret)
{
	_cleanup_close_ int socket_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint32_t n = socket_fd < 0 ? 0 : tun_feature_count(socket_fd, name);
	_cleanup_free_ struct ethtool_gstrings *names = calloc(1, sizeof(*names) + n * ETH_GSTRING_LEN);
	_Alignas(uint64_t) unsigned char room[sizeof(struct ethtool_gfeatures) +
					      TUN_FEATURE_WORDS * sizeof(struct ethtool_get_features_block)] =
		{0};
	struct ethtool_gfeatures *features = (struct ethtool_gfeatures *)room;
	features->cmd = ETHTOOL_GFEATURES;
	features->size = TUN_FEATURE_WORDS;
	if (!names)
		return -ENOMEM;
	*names = (struct ethtool_gstrings){.cmd = ETHTOOL_GSTRINGS, .string_set = ETH_SS_FEATURES, .len = n};
	int r = tun_ethtool(socket_fd, name, names);
	if (r >= 0)
		r = tun_ethtool(socket_fd, name, features);
	*ret = 0;
	for (uint32_t i = 0; i < n && r >= 0; i++)
		if (features->features[i / 32].active & 1u << i % 32)
			*ret |= tun_offload_of((const char *)names->data + (size_t)i * ETH_GSTRING_LEN);
	return r;
}

static ssize_t tun_setting_read(int folder, const char *name, char *ret_text, size_t room)
{
	_cleanup_close_ int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = fd < 0 ? -1 : read(fd, ret_text, room - 1);
	if (n < 0)
		return -errno;
	while (n && ret_text[n - 1] == '\n')
		n--;
	ret_text[n] = '\0';
	return n;
}

static int tun_collect_setting(struct arena *a, FerryDeviceEntry *d, uint32_t place, const char *name,
			       const char *value)
{
	FerryDeviceSetting *s = record_new(a, FerryDeviceSetting, ferry_device_setting);
	if (!s || d->n_settings >= NETLIST_MAX)
		return -ENOMEM;
	s->place = place;
	s->name = arena_string(a, name);
	s->value = arena_string(a, value);
	d->settings[d->n_settings++] = s;
	return s->name && s->value ? 0 : -ENOMEM;
}

/* By name, so that what is told in seconds and again in milliseconds ends with the exact value. */
static int tun_collect_place(struct arena *a, FerryDeviceEntry *d, uint32_t place)
{
	char path[64], now[TUN_SETTING_BYTES], usual[TUN_SETTING_BYTES];
	struct dirent **names;
	struct stat st;
	snprintf(path, sizeof(path), "/proc/sys/net/%s/%s", tun_places[place], d->name);
	_cleanup_close_ int own = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/sys/net/%s/default", tun_places[place]);
	_cleanup_close_ int others = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int n = own < 0 || others < 0 ? 0 : scandirat(own, ".", &names, NULL, alphasort), r = 0;
	for (int i = 0; i < n; i++) {
		bool can = fstatat(own, names[i]->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			   S_ISREG(st.st_mode) && st.st_mode & S_IWUSR;
		if (r >= 0 && can && tun_setting_read(own, names[i]->d_name, now, sizeof(now)) >= 0 &&
		    (tun_setting_read(others, names[i]->d_name, usual, sizeof(usual)) < 0 ||
		     strcmp(now, usual) != 0))
			r = tun_collect_setting(a, d, place, names[i]->d_name, now);
		free(names[i]);
	}
	if (n > 0)
		free(names);
	return r;
}

static int tun_collect_settings(struct arena *a, FerryDeviceEntry *d)
{
	int r = 0;
	d->settings = arena_array(a, FerryDeviceSetting *, NETLIST_MAX);
	if (!d->settings)
		return -ENOMEM;
	for (uint32_t i = 0; i < ARRAY_SIZE(tun_places) && r >= 0; i++)
		r = tun_collect_place(a, d, i);
	return r;
}

static int tun_collect_lists(struct arena *a, struct netlink_socket *socket, FerryDeviceEntry *d)
{
	struct netlist lists[3];
	static const struct netlist_table *const tables[] = {&netlist_addresses, &netlist_routes,
							     &netlist_neighbours};
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		lists[i] = (struct netlist){.arena = a, .index = d->index};
		int r = netlist_get(socket, tables[i], &lists[i]);
		if (r < 0)
			return r;
	}
	d->addresses = lists[0].v;
	d->n_addresses = lists[0].n;
	d->routes = lists[1].v;
	d->n_routes = lists[1].n;
	d->neighbours = lists[2].v;
	d->n_neighbours = lists[2].n;
	return 0;
}

static int tun_collect_modes(int fd, FerryDeviceEntry *d)
{
	int little = 0, big = 0;
	if (ioctl(fd, TUNGETVNETHDRSZ, &d->vnet_header_bytes) < 0)
		return -errno;
	if (ioctl(fd, TUNGETVNETLE, &little) >= 0 && little)
		record_set(d, vnet_little_endian, true);
	if (ioctl(fd, TUNGETVNETBE, &big) >= 0 && big)
		record_set(d, vnet_big_endian, true);
	return tun_collect_offload(d->name, &d->offload);
}

int tun_device_collect(struct arena *a, int fd, const char *name, uint32_t mode, FerryDeviceEntry **ret,
		       struct ferry_error *err)
{
	char master[IF_NAMESIZE];
	FerryDeviceEntry *d = record_new(a, FerryDeviceEntry, ferry_device_entry);
	if (!d)
		return error_memory(err);
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	d->name = arena_string(a, name);
	d->index = if_nametoindex(name);
	d->mode = mode;
	struct tun_link link = {.arena = a, .d = d, .index = d->index};
	int r = d->name ? netlink_open(-1, NETLINK_ROUTE, &socket) : -ENOMEM;
	if (r >= 0)
		r = tun_link_get(socket, &link);
	if (r >= 0)
		r = tun_collect_modes(fd, d);
	if (r >= 0)
		r = tun_collect_lists(a, socket, d);
	if (r >= 0)
		r = tun_collect_settings(a, d);
	if (r >= 0 && link.master && if_indextoname(link.master, master) &&
	    !(d->master = arena_string(a, master)))
		r = -ENOMEM;
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "reading the network device '%s'", name);
	if (d->flags & IFF_UP && !link.carrier && !(mode & IFF_DETACH_QUEUE))
		record_set(d, no_carrier, true);
	*ret = d;
	return 0;
}

/* ------------------------------------------------------------------- restore */

static bool tun_valid_lists(const ProtobufCBinaryData *v, size_t n, size_t head)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].len < head || v[i].len > NETLIST_MESSAGE_BYTES)
			return false;
	return n <= NETLIST_MAX;
}

static bool tun_valid_setting(const FerryDeviceSetting *s)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
	return s->place < ARRAY_SIZE(tun_places) && s->name[0] && strlen(s->name) < 64 &&
	       strspn(s->name, letters) == strlen(s->name) && strlen(s->value) < TUN_SETTING_BYTES;
}

bool tun_device_valid(const FerryDeviceEntry *d)
{
	size_t n = strlen(d->name);
	if (!n || n >= IF_NAMESIZE || strchr(d->name, '/') || d->name[0] == '.' || d->index > INT32_MAX ||
	    d->address.len > 32 || (d->alias && strlen(d->alias) >= 256) ||
	    (d->master && strlen(d->master) >= IF_NAMESIZE) ||
	    (d->mode & (IFF_TUN | IFF_TAP)) == (IFF_TUN | IFF_TAP) || d->n_settings > NETLIST_MAX)
		return false;
	for (size_t i = 0; i < d->n_settings; i++)
		if (!tun_valid_setting(d->settings[i]))
			return false;
	return tun_valid_lists(d->addresses, d->n_addresses, netlist_addresses.head) &&
	       tun_valid_lists(d->routes, d->n_routes, netlist_routes.head) &&
	       tun_valid_lists(d->neighbours, d->n_neighbours, netlist_neighbours.head);
}

bool tun_device_exists(const char *name)
{
	return if_nametoindex(name) != 0;
}

/* A setting that this kernel lacks, or calculates from others, is told and left. */
static int tun_restore_setting(const FerryDeviceEntry *d, const FerryDeviceSetting *s, const char *value)
{
	char path[160], now[TUN_SETTING_BYTES];
	snprintf(path, sizeof(path), "/proc/sys/net/%s/%s/%s", tun_places[s->place], d->name, s->name);
	if (tun_setting_read(AT_FDCWD, path, now, sizeof(now)) >= 0 && !strcmp(now, value))
		return 0;
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd_write_all(fd, value, strlen(value));
}

static void tun_restore_settings(const FerryDeviceEntry *d, const struct log_sink *log)
{
	for (size_t i = 0; i < d->n_settings; i++) {
		const FerryDeviceSetting *s = d->settings[i];
		int r = tun_restore_setting(d, s, s->value);
		if (r < 0)
			log_write(log, LOG_WARN, "restore", "tun", 0,
				  "setting %s/%s of the network device '%s': %s, ignoring",
				  tun_places[s->place], s->name, d->name, strerror(-r));
	}
}

/* An address that nobody else can have is there at once: no probing for it. */
static void tun_restore_probing(const FerryDeviceEntry *d, bool on)
{
	FerryDeviceSetting s = FERRY_DEVICE_SETTING__INIT;
	const char *value = "0";
	s.place = 1;
	s.name = (char *)(uintptr_t) "accept_dad";
	if (on) {
		value = "1";
		for (size_t i = 0; i < d->n_settings; i++)
			if (d->settings[i]->place == 1 && !strcmp(d->settings[i]->name, s.name))
				value = d->settings[i]->value;
	}
	int r = tun_restore_setting(d, &s, value);
	(void)r; /* no IPv6: nothing probes */
}

static int tun_restore_link(struct netlink_socket *socket, const FerryDeviceEntry *d, uint32_t index)
{
	uint8_t bytes[NETLIST_REQUEST_BYTES] __attribute__((aligned(8)));
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = RTM_NEWLINK;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	struct ifinfomsg *m = netlink_append(h, sizeof(*m));
	m->ifi_index = (int)index;
	if (d->address.len)
		netlink_put(h, IFLA_ADDRESS, d->address.len, d->address.data);
	netlink_put_u32(h, IFLA_MTU, d->mtu);
	netlink_put_u32(h, IFLA_TXQLEN, d->queue_packets);
	if (d->alias)
		netlink_put(h, IFLA_IFALIAS, strlen(d->alias), d->alias);
	if (d->has_link_group)
		netlink_put_u32(h, IFLA_GROUP, d->link_group);
	uint32_t master = d->master ? if_nametoindex(d->master) : 0;
	if (d->master && !master)
		return -ENODEV;
	if (master)
		netlink_put_u32(h, IFLA_MASTER, master);
	return netlink_ask(socket, h, NULL, NULL);
}

static int tun_restore_up(struct netlink_socket *socket, const FerryDeviceEntry *d, uint32_t index)
{
	uint8_t bytes[256] __attribute__((aligned(8)));
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = RTM_NEWLINK;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	struct ifinfomsg *m = netlink_append(h, sizeof(*m));
	m->ifi_index = (int)index;
	m->ifi_change = TUN_IFF_CHANGEABLE;
	m->ifi_flags = d->flags & TUN_IFF_CHANGEABLE;
	return netlink_ask(socket, h, NULL, NULL);
}

static int tun_restore_modes(int fd, const FerryDeviceEntry *d, bool fresh)
{
	const struct {
		unsigned long request;
		bool wanted, by_value;
		int value;
	} calls[] = {
		{TUNSETOWNER, d->has_owner, true, d->owner},
		{TUNSETGROUP, d->has_group, true, d->group},
		{TUNSETVNETHDRSZ, true, false, d->vnet_header_bytes},
		{TUNSETVNETLE, d->vnet_little_endian, false, 1},
		{TUNSETVNETBE, d->vnet_big_endian, false, 1},
		{TUNSETLINK, fresh, true, (int)d->type},
		{TUNSETOFFLOAD, d->offload != 0, true, (int)d->offload},
	};
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		int value = calls[i].value;
		if (calls[i].wanted &&
		    ioctl(fd, calls[i].request,
			  calls[i].by_value ? (unsigned long)value : (unsigned long)(uintptr_t)&value) < 0)
			return -errno;
	}
	return 0;
}

/* An address has its routes when the kernel, in its own time, has found that it need not probe. */
static int tun_wait_addresses(struct netlink_socket *socket, uint32_t index)
{
	const struct timespec pause = {.tv_nsec = TUN_WAIT_NS};
	bool waits = true;
	int r = 0;
	for (int i = 0; i < TUN_WAITS && waits && r >= 0; i++) {
		struct arena a = {0};
		struct netlist there = {.arena = &a, .index = index};
		r = netlist_get(socket, &netlist_addresses, &there);
		waits = false;
		for (size_t k = 0; k < there.n; k++)
			waits |= ((const struct ifaddrmsg *)there.v[k].data)->ifa_flags & IFA_F_TENTATIVE;
		arena_release(&a);
		if (waits)
			nanosleep(&pause, NULL);
	}
	return r;
}

static int tun_restore_all(int fd, struct netlink_socket *socket, const FerryDeviceEntry *d,
			   const struct log_sink *log)
{
	uint32_t index = if_nametoindex(d->name);
	int r = tun_restore_modes(fd, d, true);
	if (r >= 0)
		r = tun_restore_link(socket, d, index);
	if (r < 0)
		return r;
	tun_restore_settings(d, log);
	tun_restore_probing(d, false);
	r = tun_restore_up(socket, d, index);
	if (r >= 0)
		r = netlist_restore(socket, &netlist_addresses, index, d->addresses, d->n_addresses, true);
	if (r >= 0)
		r = tun_wait_addresses(socket, index);
	tun_restore_probing(d, true);
	if (r >= 0)
		r = netlist_restore(socket, &netlist_routes, index, d->routes, d->n_routes, true);
	if (r >= 0)
		r = netlist_restore(socket, &netlist_neighbours, index, d->neighbours, d->n_neighbours, true);
	if (r >= 0 && d->no_carrier && ioctl(fd, TUNSETCARRIER, &(int){0}) < 0)
		r = -errno;
	return r;
}

int tun_device_restore(int fd, const FerryDeviceEntry *d, bool fresh, const struct log_sink *log,
		       struct ferry_error *err)
{
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	int r = fresh ? netlink_open(-1, NETLINK_ROUTE, &socket) : tun_restore_modes(fd, d, false);
	if (r >= 0 && fresh)
		r = tun_restore_all(fd, socket, d, log);
	if (r >= 0 && !fresh && d->no_carrier && ioctl(fd, TUNSETCARRIER, &(int){0}) < 0)
		r = -errno;
	if (r >= 0)
		return 0;
	error_errno(err, FERRY_ERROR_RESTORE_STEP, -r, "setting up the network device '%s'", d->name);
	if (r == -ENODEV && d->master)
		error_hint(err, "make the bridge '%s' first, which it was a port of", d->master);
	return r;
}
