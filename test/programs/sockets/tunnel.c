/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors of /dev/net/tun, by word: "tun" with addresses, a route and another MTU; "tap" with a link address, an owner,
 * a header before each packet, what the device may leave to the program, a setting and a neighbour; "queues": three
 * of one device, one of them detached; "idle": attached to nothing; "persistent": two devices that stay. Packets come
 * through afterwards, both ways.
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST = 20, QUEUES = 3, PORT = 4711, LINES = 64, LINE = 160 };

#define DEVICE "ferry-tun0"
#define OTHER "ferry-tun1"
#define OWN 0x0a090001u  /* 10.9.0.1 */
#define PEER 0x0a090002u /* 10.9.0.2 */

struct lines {
	char v[LINES][LINE];
	size_t n;
};

struct state {
	const char *word;
	bool tap, refused;
	int fds[QUEUES];
	int n;
	int socket; /* bound to OWN */
	unsigned index;
	struct lines before;
};

static int get_int(int fd, unsigned long request)
{
	int value = -1;

	ioctl(fd, request, &value);
	return value;
}

static struct ifreq device(const char *name)
{
	struct ifreq ifr = {0};

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	return ifr;
}

/* --------------------------------------------------------------- how it looks */

static int compare_lines(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* Without what counts the uses. */
static void add_lines(struct lines *to, const char *path, const char *format)
{
	char line[256], a[4][64], *name;
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f) && to->n < LINES) {
		line[strcspn(line, "\n")] = '\0';
		name = strstr(line, "ferry-tun");
		if (name && format && sscanf(line, format, a[0], a[1], a[2], a[3]) == 4)
			snprintf(to->v[to->n++], LINE, "%.32s %.32s %.32s %.32s", a[0], a[1], a[2], a[3]);
		else if (name && !format)
			snprintf(to->v[to->n++], LINE, "%.*s", LINE - 1, line);
	}
	if (f)
		fclose(f);
}

static struct lines look(void)
{
	struct lines l = {.n = 0};

	add_lines(&l, "/proc/net/route", NULL);
	add_lines(&l, "/proc/net/if_inet6", NULL);
	add_lines(&l, "/proc/net/ipv6_route", "%63s %*s %*s %*s %63s %63s %*s %*s %63s");
	add_lines(&l, "/proc/net/arp", NULL);
	qsort(l.v, l.n, LINE, compare_lines);
	return l;
}

static void check_lines(struct program *p, const struct state *s)
{
	struct lines now = look();

	expect_same(p, "lines of /proc/net", now.n, s->before.n);
	for (size_t i = 0; i < now.n && i < s->before.n; i++)
		expect(p, !strcmp(now.v[i], s->before.v[i]), "'%s' was '%s'", now.v[i], s->before.v[i]);
}

static void check_link(struct program *p, const struct state *s)
{
	struct ifreq ifr = device(DEVICE);

	ioctl(s->socket, SIOCGIFMTU, &ifr);
	expect_same(p, "MTU", ifr.ifr_mtu, 1380);
	ioctl(s->socket, SIOCGIFTXQLEN, &ifr);
	expect_same(p, "queue", ifr.ifr_qlen, 77);
	ioctl(s->socket, SIOCGIFFLAGS, &ifr);
	expect_same(p, "flags", ifr.ifr_flags & (IFF_UP | IFF_ALLMULTI), IFF_UP | IFF_ALLMULTI);
	ioctl(s->socket, SIOCGIFADDR, &ifr);
	expect_same(p, "address", ntohl(((struct sockaddr_in *)&ifr.ifr_addr)->sin_addr.s_addr), OWN);
	expect_same(p, "number", if_nametoindex(DEVICE), s->index);
	check_lines(p, s);
}

static long setting(const char *path)
{
	long value = -1;
	FILE *f = fopen(path, "re");

	if (!f || fscanf(f, "%ld", &value) != 1)
		value = -1;
	if (f)
		fclose(f);
	return value;
}

static uint32_t offload(const struct state *s, uint32_t what)
{
	struct ethtool_value ask = {.cmd = what};
	struct ifreq ifr = device(DEVICE);

	ifr.ifr_data = (void *)&ask;
	return ioctl(s->socket, SIOCETHTOOL, &ifr) < 0 ? UINT32_MAX : ask.data;
}

/* What attaching to the device says to a user; it is in use. */
static int attach_as(uid_t uid)
{
	struct ifreq ifr = device(DEVICE);
	int code = 0, fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	pid_t pid = fork();

	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	if (!pid)
		_exit(setresuid(uid, uid, uid) < 0 ? 1 : ioctl(fd, TUNSETIFF, &ifr) < 0 ? errno : 0);
	waitpid(pid, &code, 0);
	close(fd);
	return WEXITSTATUS(code);
}

static void check_tap(struct program *p, const struct state *s)
{
	static const unsigned char mac[6] = {0x02, 0xfe, 0x44, 0x11, 0x22, 0x33};
	struct ifreq ifr = device(DEVICE);

	ioctl(s->socket, SIOCGIFHWADDR, &ifr);
	expect(p, !memcmp(ifr.ifr_hwaddr.sa_data, mac, 6), "another link address");
	expect_same(p, "header", get_int(s->fds[0], TUNGETVNETHDRSZ), 12);
	expect_same(p, "little endian", get_int(s->fds[0], TUNGETVNETLE), 1);
	expect_same(p, "buffer", get_int(s->fds[0], TUNGETSNDBUF), 123456);
	expect_same(p, "as its owner", attach_as(1001), EBUSY);
	expect_same(p, "as somebody else", attach_as(1002), EPERM);
	expect_same(p, "rp_filter", setting("/proc/sys/net/ipv4/conf/" DEVICE "/rp_filter"), 2);
	expect_same(p, "proxy_ndp", setting("/proc/sys/net/ipv6/conf/" DEVICE "/proxy_ndp"), 1);
	expect_same(p, "checksums", offload(s, ETHTOOL_GTXCSUM), 1);
	expect_same(p, "segmentation", offload(s, ETHTOOL_GTSO), 1);
}

static bool readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1 && p.revents & POLLIN;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	for (int i = 0; i < s->n; i++) {
		struct ifreq ifr = {0};
		bool detached = s->n == QUEUES && i == 1;
		int r = ioctl(s->fds[i], TUNGETIFF, &ifr);
		if (!strcmp(s->word, "idle")) {
			expect(p, r < 0 && errno == EBADFD, "it is attached");
			expect_same(p, "flags", fcntl(s->fds[i], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
			continue;
		}
		expect(p, !r, "it is not attached any more");
		expect(p, !strcmp(ifr.ifr_name, i && s->n == 2 ? OTHER : DEVICE), "attached to %s",
		       ifr.ifr_name);
		expect_same(p, "detached", ifr.ifr_flags & IFF_DETACH_QUEUE, detached ? IFF_DETACH_QUEUE : 0);
		expect_same(p, "kind", ifr.ifr_flags & (IFF_TUN | IFF_TAP),
			    s->tap || (i && s->n == 2) || s->refused ? IFF_TAP : IFF_TUN);
		expect_same(p, "queues", ifr.ifr_flags & IFF_MULTI_QUEUE,
			    s->n == QUEUES ? IFF_MULTI_QUEUE : 0);
		expect_same(p, "persistent", ifr.ifr_flags & IFF_PERSIST, s->n == 2 ? IFF_PERSIST : 0);
		expect_same(p, "header", ifr.ifr_flags & IFF_VNET_HDR, s->tap ? IFF_VNET_HDR : 0);
	}
	if (s->socket > 0)
		check_link(p, s);
	if (s->tap)
		check_tap(p, s);
}

/* ------------------------------------------------------------------- packets */

static uint16_t checksum(const void *bytes, size_t n)
{
	const uint8_t *b = bytes;
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)b[i] << 8 | b[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/* Where in what a descriptor gives the packet begins. */
static size_t head_of(const struct state *s)
{
	return s->tap ? 12 + 14 : s->n == QUEUES ? 4 : 0;
}

/* From the peer to the socket. */
static void check_inward(struct program *p, const struct state *s, int fd)
{
	struct {
		struct iphdr ip;
		struct udphdr udp;
		char text[4];
	} __attribute__((packed)) packet = {
		.ip = {.version = 4,
		       .ihl = 5,
		       .tot_len = htons(sizeof(packet)),
		       .ttl = 9,
		       .protocol = IPPROTO_UDP,
		       .saddr = htonl(PEER),
		       .daddr = htonl(OWN)},
		.udp = {.source = htons(99), .dest = htons(PORT), .len = htons(12)},
		.text = "in..",
	};
	static const unsigned char mac[14] = {0x02, 0xfe, 0x44, 0x11, 0x22, 0x33, 2, 0, 0, 0, 0, 9, 8, 0};
	static const unsigned char info[4] = {0, 0, 8, 0};
	char frame[128] = "", got[16] = "";
	size_t head = head_of(s);
	struct pollfd poller = {.fd = s->socket, .events = POLLIN};

	packet.ip.check = checksum(&packet.ip, sizeof(packet.ip));
	memcpy(frame + head, &packet, sizeof(packet));
	if (s->tap)
		memcpy(frame + 12, mac, sizeof(mac));
	else if (head)
		memcpy(frame, info, sizeof(info));
	expect_same(p, "written", write(fd, frame, head + sizeof(packet)), head + sizeof(packet));
	expect_same(p, "arrives", poll(&poller, 1, 2000), 1);
	expect_same(p, "received", recv(s->socket, got, sizeof(got), MSG_DONTWAIT), 4);
	expect(p, !memcmp(got, "in..", 4), "another packet");
}

/* From the socket to the peer; with several queues it comes out of any that is not detached. */
static void check_outward(struct program *p, const struct state *s)
{
	const struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(99), .sin_addr = {htonl(PEER)}};
	size_t head = head_of(s) + sizeof(struct iphdr) + sizeof(struct udphdr);
	char frame[2048];

	expect_same(p, "sent", sendto(s->socket, "out..", 5, 0, (const struct sockaddr *)&to, sizeof(to)), 5);
	for (int tries = 0; tries < 1000; tries++) {
		for (int i = 0; i < s->n; i++) {
			ssize_t n = readable(s->fds[i]) ? read(s->fds[i], frame, sizeof(frame)) : -1;
			if (n == (ssize_t)head + 5 && !memcmp(frame + head, "out..", 5))
				return;
		}
		sleep_ms(2);
	}
	program_bad(p, "no packet comes out");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	if (s->socket <= 0)
		return;
	check_inward(p, s, s->fds[0]);
	check_outward(p, s);
	if (s->n != QUEUES)
		return;
	/* What was detached can be attached again. */
	expect_same(p, "attaching",
		    ioctl(s->fds[1], TUNSETQUEUE, &(struct ifreq){.ifr_flags = IFF_ATTACH_QUEUE}), 0);
	check_inward(p, s, s->fds[1]);
}

static void spoil(void *state)
{
	const struct state *s = state;
	struct ifreq ifr = device(DEVICE);

	if (!strcmp(s->word, "idle"))
		must(fcntl(s->fds[0], F_SETFL, 0));
	else if (s->socket > 0) {
		ifr.ifr_mtu = 1400;
		must(ioctl(s->socket, SIOCSIFMTU, &ifr));
	} else
		must(ioctl(s->fds[0], TUNSETPERSIST, 0));
}

/* ---------------------------------------------------------------------- make */

static int attach(const char *name, int flags)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	struct ifreq ifr = device(name);

	if (fd < 0)
		program_lacks("/dev/net/tun");
	ifr.ifr_flags = (short)flags;
	if (flags)
		must(ioctl(fd, TUNSETIFF, &ifr));
	return fd;
}

static void set_int(const char *path, const char *value)
{
	int fd = must(open(path, O_WRONLY | O_CLOEXEC));

	must(write(fd, value, strlen(value)));
	close(fd);
}

static void set_address(int fd, unsigned long request, uint32_t address)
{
	struct ifreq ifr = device(DEVICE);

	*(struct sockaddr_in *)&ifr.ifr_addr =
		(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(address)}};
	must(ioctl(fd, request, &ifr));
}

static void set_route(int fd)
{
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_metric = 6, .rt_dev = (char[]){DEVICE}};

	*(struct sockaddr_in *)&route.rt_dst =
		(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(0x0a0a0000)}};
	*(struct sockaddr_in *)&route.rt_genmask =
		(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(0xffff0000)}};
	*(struct sockaddr_in *)&route.rt_gateway =
		(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(PEER)}};
	must(ioctl(fd, SIOCADDRT, &route));
}

static void set_address6(unsigned index)
{
	struct {
		struct in6_addr ifr6_addr;
		uint32_t ifr6_prefixlen;
		int ifr6_ifindex;
	} in6 = {.ifr6_prefixlen = 64, .ifr6_ifindex = (int)index};
	int fd = must(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	inet_pton(AF_INET6, "fd00:9::1", &in6.ifr6_addr);
	must(ioctl(fd, SIOCSIFADDR, &in6));
	close(fd);
}

static void set_neighbour(int fd)
{
	struct arpreq arp = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = DEVICE};

	*(struct sockaddr_in *)&arp.arp_pa =
		(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(PEER)}};
	arp.arp_ha.sa_family = ARPHRD_ETHER;
	memcpy(arp.arp_ha.sa_data, (const char[]){2, 0, 0, 0, 0, 9}, 6);
	must(ioctl(fd, SIOCSARP, &arp));
}

static void set_tap(const struct state *s)
{
	struct ifreq ifr = device(DEVICE);

	ifr.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(ifr.ifr_hwaddr.sa_data, (const char[]){0x02, (char)0xfe, 0x44, 0x11, 0x22, 0x33}, 6);
	must(ioctl(s->socket, SIOCSIFHWADDR, &ifr));
	must(ioctl(s->fds[0], TUNSETVNETHDRSZ, &(int){12}));
	must(ioctl(s->fds[0], TUNSETVNETLE, &(int){1}));
	must(ioctl(s->fds[0], TUNSETSNDBUF, &(int){123456}));
	must(ioctl(s->fds[0], TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4));
	must(ioctl(s->fds[0], TUNSETOWNER, 1001));
	set_int("/proc/sys/net/ipv4/conf/" DEVICE "/rp_filter", "2");
	set_int("/proc/sys/net/ipv6/conf/" DEVICE "/proxy_ndp", "1");
}

/* A link-local address is probed for first. */
static void wait_address6(void)
{
	struct lines l;

	for (int tries = 0; tries < 2500; tries++) {
		size_t found = 0, ready = 0;
		l = look();
		for (size_t i = 0; i < l.n; i++) {
			unsigned flags = 0;
			if (sscanf(l.v[i], "%*32[0-9a-f] %*x %*x %*x %x ferry-tun", &flags) != 1)
				continue;
			found++;
			ready += !(flags & 0x40);
		}
		if (found >= 2 && found == ready)
			return;
		sleep_ms(2);
	}
}

static void set_link(struct state *s)
{
	struct ifreq ifr = device(DEVICE);
	const struct sockaddr_in name = {
		.sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr = {htonl(OWN)}};

	s->socket = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	if (s->tap)
		set_tap(s);
	ifr.ifr_mtu = 1380;
	must(ioctl(s->socket, SIOCSIFMTU, &ifr));
	ifr.ifr_qlen = 77;
	must(ioctl(s->socket, SIOCSIFTXQLEN, &ifr));
	set_address(s->socket, SIOCSIFADDR, OWN);
	set_address(s->socket, SIOCSIFNETMASK, 0xffffff00);
	must(ioctl(s->socket, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags |= IFF_UP | IFF_ALLMULTI;
	must(ioctl(s->socket, SIOCSIFFLAGS, &ifr));
	s->index = if_nametoindex(DEVICE);
	set_address6(s->index);
	set_route(s->socket);
	if (s->tap)
		set_neighbour(s->socket);
	must(bind(s->socket, (const struct sockaddr *)&name, sizeof(name)));
	wait_address6();
	s->before = look();
}

static void make_tun(struct state *s)
{
	s->fds[s->n++] = attach(DEVICE, IFF_TUN | IFF_NO_PI);
	set_link(s);
}

static void make_tap(struct state *s)
{
	s->tap = true;
	s->fds[s->n++] = attach(DEVICE, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	set_link(s);
}

static void make_queues(struct state *s)
{
	while (s->n < QUEUES)
		s->fds[s->n++] = attach(DEVICE, IFF_TUN | IFF_MULTI_QUEUE);
	set_link(s);
	must(ioctl(s->fds[1], TUNSETQUEUE, &(struct ifreq){.ifr_flags = IFF_DETACH_QUEUE}));
}

static void make_idle(struct state *s)
{
	s->fds[s->n++] = attach(DEVICE, 0);
	must(fcntl(s->fds[0], F_SETFL, O_NONBLOCK));
}

static void make_persistent(struct state *s)
{
	s->fds[s->n++] = attach(DEVICE, IFF_TUN | IFF_NO_PI);
	s->fds[s->n++] = attach(OTHER, IFF_TAP | IFF_NO_PI);
	for (int i = 0; i < s->n; i++)
		must(ioctl(s->fds[i], TUNSETPERSIST, 1));
}

/* What is refused. */
static void make_filtered(struct state *s)
{
	struct sock_filter code = BPF_STMT(BPF_RET | BPF_K, 100);

	s->refused = true;
	s->fds[s->n++] = attach(DEVICE, IFF_TAP | IFF_NO_PI);
	must(ioctl(s->fds[0], TUNATTACHFILTER, &(struct sock_fprog){.len = 1, .filter = &code}));
}

static void make_moved(struct state *s)
{
	int own = must(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));

	s->refused = true;
	must(unshare(CLONE_NEWNET));
	s->fds[s->n++] = attach(DEVICE, IFF_TAP | IFF_NO_PI);
	must(setns(own, CLONE_NEWNET));
	close(own);
}

static const struct {
	const char *word;
	void (*make)(struct state *s);
} makers[] = {
	{"filtered", make_filtered},
	{"moved", make_moved},
	{"tun", make_tun},
	{"tap", make_tap},
	{"queues", make_queues},
	{"idle", make_idle},
	{"persistent", make_persistent},
};

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s = {.socket = -1};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
		if (program_told(argc, argv, makers[i].word)) {
			s.word = makers[i].word;
			makers[i].make(&s);
		}
	return program_serve(&p, &ops, &s);
}
