/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A socket that a dump refuses; the word in argv[2] says which. Proof: it is as it was made, nothing was taken out of it.
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

struct state {
	const char *folder;
	int a, b, c;
	bool (*holds)(const struct state *s);
};

static struct sockaddr_un unix_address(const struct state *s, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", s->folder, name);
	return address;
}

static int unix_listener(const struct state *s)
{
	struct sockaddr_un address = unix_address(s, "socket");
	int fd = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));

	must(bind(fd, (const struct sockaddr *)&address, sizeof(address)));
	return fd;
}

static bool readable(const struct state *s)
{
	char byte;
	return recv(s->a, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

static bool acceptable(const struct state *s)
{
	struct sockaddr_storage name;
	return getpeername(s->b, (struct sockaddr *)&name, &(socklen_t){sizeof(name)}) == 0;
}

static void make_unix_pending(struct state *s)
{
	struct sockaddr_un address = unix_address(s, "socket");

	s->a = unix_listener(s);
	must(listen(s->a, 3));
	s->b = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(connect(s->b, (const struct sockaddr *)&address, sizeof(address)));
	must(send(s->b, "x", 1, 0));
	s->holds = acceptable;
}

/* The test listens there. */
static void make_outside(struct state *s)
{
	struct sockaddr_un address = unix_address(s, "outside");

	s->a = must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	while (connect(s->a, (const struct sockaddr *)&address, sizeof(address)) < 0)
		sleep_ms(2);
}

static struct sockaddr_in inet_bound(int fd)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};

	must(bind(fd, (const struct sockaddr *)&address, sizeof(address)));
	must(getsockname(fd, (struct sockaddr *)&address, &(socklen_t){sizeof(address)}));
	return address;
}

static void make_tcp_pending(struct state *s)
{
	s->a = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	struct sockaddr_in address = inet_bound(s->a);

	must(listen(s->a, 3));
	s->b = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(connect(s->b, (const struct sockaddr *)&address, sizeof(address)));
	s->holds = acceptable;
}

static void make_tcp(struct state *s)
{
	make_tcp_pending(s);
	s->c = must(accept4(s->a, NULL, NULL, SOCK_CLOEXEC));
	close(s->a);
}

static bool still_corked(const struct state *s)
{
	int unsent = 0;
	return !ioctl(s->b, SIOCOUTQ, &unsent) && unsent > 0;
}

static void make_corked(struct state *s)
{
	s->a = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	struct sockaddr_in address = inet_bound(s->a);

	s->b = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(connect(s->b, (const struct sockaddr *)&address, sizeof(address)));
	must(setsockopt(s->b, IPPROTO_UDP, UDP_CORK, &(int){1}, sizeof(int)));
	must(send(s->b, "gathered", 8, 0));
	s->holds = still_corked;
}

static void make_shared_port(struct state *s)
{
	s->a = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(setsockopt(s->a, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)));
	struct sockaddr_in address = inet_bound(s->a);

	s->b = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(sendto(s->b, "gram", 4, 0, (const struct sockaddr *)&address, sizeof(address)));
	must(setsockopt(s->b, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)));
	int other = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)));
	must(bind(other, (const struct sockaddr *)&address, sizeof(address)));
	s->holds = readable;
}

static void make_multipath(struct state *s)
{
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);

	if (listener < 0)
		program_lacks("Multipath TCP");
	struct sockaddr_in address = inet_bound(listener);
	must(listen(listener, 1));
	s->b = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP));
	must(connect(s->b, (const struct sockaddr *)&address, sizeof(address)));
	s->c = must(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
}

/* Packets come into memory that the program maps. */
static void make_tunnel(struct state *s)
{
	s->a = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	if (setsockopt(s->a, IPPROTO_UDP, UDP_ENCAP, &(int){UDP_ENCAP_ESPINUDP}, sizeof(int)) < 0)
		program_lacks("encapsulation in UDP");
}

/* Which of the sockets that share a network namespace with nobody of the tree. */
static void make_elsewhere(struct state *s, int domain, int type)
{
	int own = must(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));

	must(unshare(CLONE_NEWNET));
	s->a = must(socket(domain, type | SOCK_CLOEXEC, 0));
	must(setns(own, CLONE_NEWNET));
	close(own);
}

static void make_elsewhere_udp(struct state *s)
{
	make_elsewhere(s, AF_INET, SOCK_DGRAM);
}

static void make_elsewhere_unix(struct state *s)
{
	make_elsewhere(s, AF_UNIX, SOCK_STREAM);
}

static void make_elsewhere_netlink(struct state *s)
{
	make_elsewhere(s, AF_NETLINK, SOCK_RAW);
}

/* A filter that the kernel gives to nobody. */
static void make_program_filter(struct state *s)
{
	static const uint64_t code[] = {0x00000064000000b7, 0x95}; /* r0 = 100; exit */
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
			       .insn_cnt = ARRAY_SIZE(code),
			       .insns = (uintptr_t)code,
			       .license = (uintptr_t) "GPL"};
	int program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

	if (program < 0)
		program_lacks("BPF programs");
	s->a = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(setsockopt(s->a, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)));
	close(program);
}

/* A key that the kernel tells to nobody. */
static void make_md5(struct state *s)
{
	struct tcp_md5sig key = {.tcpm_keylen = 6, .tcpm_key = "secret"};

	*(struct sockaddr_in *)&key.tcpm_addr =
		(struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	s->a = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	inet_bound(s->a);
	if (setsockopt(s->a, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof(key)) < 0)
		program_lacks("TCP_MD5SIG");
	must(listen(s->a, 4));
}

static void make_vsock(struct state *s)
{
	s->a = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->a < 0)
		program_lacks("vsock");
}

static void make_netlink_message(struct state *s)
{
	const struct {
		struct nlmsghdr head;
		struct rtgenmsg what;
	} ask = {.head = {.nlmsg_len = sizeof(ask),
			  .nlmsg_type = RTM_GETLINK,
			  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		 .what = {.rtgen_family = AF_UNSPEC}};

	s->a = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
	must(send(s->a, &ask, sizeof(ask), 0));
	s->holds = readable;
}

static void make_raw_packet(struct state *s)
{
	const struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};

	s->a = must(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 253));
	must(sendto(s->a, "x", 1, 0, (const struct sockaddr *)&to, sizeof(to)));
	s->holds = readable;
}

static void make_packet(struct state *s)
{
	const struct sockaddr_ll name = {
		.sll_family = AF_PACKET, .sll_ifindex = 1, .sll_protocol = htons(0x88b5)};

	s->a = must(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(bind(s->a, (const struct sockaddr *)&name, sizeof(name)));
	must(sendto(s->a, "x", 1, 0, (const struct sockaddr *)&name, sizeof(name)));
	s->holds = readable;
}

/* The test has the other socket. */
static void make_log(struct state *s)
{
	struct sockaddr_un address = unix_address(s, "outside");

	s->a = must(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	while (connect(s->a, (const struct sockaddr *)&address, sizeof(address)) < 0)
		sleep_ms(2);
}

/* An epoll instance that is nowhere but in a queue. */
static void make_epoll_in_flight(struct state *s)
{
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
	struct iovec iov = {.iov_base = (char[]){"x"}, .iov_len = 1};
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *h = (struct cmsghdr *)control;
	int pair[2], epoll = must(epoll_create1(EPOLL_CLOEXEC));

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &epoll, sizeof(int));
	must(sendmsg(pair[1], &m, 0));
	close(epoll);
	s->a = pair[0];
	s->b = pair[1];
	s->holds = readable;
}

static void make_zerocopy(struct state *s)
{
	static char bytes[1 << 20];

	make_tcp_pending(s);
	s->c = must(accept4(s->a, NULL, NULL, SOCK_CLOEXEC));
	must(setsockopt(s->b, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int)));
	must(send(s->b, bytes, sizeof(bytes), MSG_ZEROCOPY | MSG_DONTWAIT));
	s->c = 0;
	s->holds = NULL;
}

static const struct {
	const char *word;
	void (*make)(struct state *s);
} makers[] = {
	{"unix-pending", make_unix_pending},
	{"outside", make_outside},
	{"tcp-pending", make_tcp_pending},
	{"tcp", make_tcp},
	{"corked", make_corked},
	{"vsock", make_vsock},
	{"tunnel", make_tunnel},
	{"netlink-message", make_netlink_message},
	{"raw-packet", make_raw_packet},
	{"packet", make_packet},
	{"log", make_log},
	{"epoll-in-flight", make_epoll_in_flight},
	{"zerocopy", make_zerocopy},
	{"shared-port", make_shared_port},
	{"multipath", make_multipath},
	{"md5", make_md5},
	{"elsewhere-udp", make_elsewhere_udp},
	{"elsewhere-unix", make_elsewhere_unix},
	{"elsewhere-netlink", make_elsewhere_netlink},
	{"program-filter", make_program_filter},
};

static void verify(struct program *p, void *state)
{
	const struct state *s = state;

	if (s->holds)
		expect(p, s->holds(s), "what was in the socket is not there any more");
	if (s->c > 0) {
		char byte = 0;
		expect_same(p, "sending", send(s->b, "y", 1, MSG_NOSIGNAL), 1);
		expect_same(p, "receiving", recv(s->c, &byte, 1, 0), 1);
	}
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	struct program p;
	struct state s = {0};

	program_start(&p, argc, argv);
	s.folder = p.folder;
	for (size_t i = 0; i < ARRAY_SIZE(makers); i++)
		if (program_told(argc, argv, makers[i].word))
			makers[i].make(&s);
	return program_serve(&p, &ops, &s);
}
