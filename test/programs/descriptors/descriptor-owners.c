/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The owner of one kind of descriptor, which a word names: a process group, by F_SETOWN_EX, with a signal of its own
 * (F_SETSIG), and O_ASYNC where the kind knows it. Proof: owner, signal and flag; where something can be made ready, its
 * signal arrives at the end, with the number of the descriptor.
 */
#include "program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { SIGNAL = 34 + 5 };

struct owned {
	const char *word;
	int (*make)(const struct program *p);
	bool async; /* the kind has O_ASYNC */
	void (*wake)(int fd);
	int fd;
};

static int make_eventfd(const struct program *p)
{
	(void)p;
	return eventfd(3, EFD_CLOEXEC);
}

static int make_timerfd(const struct program *p)
{
	(void)p;
	return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
}

static int make_signalfd(const struct program *p)
{
	sigset_t set;

	(void)p;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static int make_epoll(const struct program *p)
{
	(void)p;
	return epoll_create1(EPOLL_CLOEXEC);
}

static int make_pidfd(const struct program *p)
{
	(void)p;
	return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int make_memfd(const struct program *p)
{
	(void)p;
	return memfd_create("owned", MFD_CLOEXEC);
}

static char path[256];

static int make_file(const struct program *p)
{
	snprintf(path, sizeof(path), "%s/file", p->folder);
	return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static int make_inotify(const struct program *p)
{
	int fd = must(inotify_init1(IN_CLOEXEC));

	close(must(make_file(p)));
	must(inotify_add_watch(fd, path, IN_OPEN));
	return fd;
}

static void wake_inotify(int fd)
{
	(void)fd;
	close(must(open(path, O_RDONLY | O_CLOEXEC)));
}

static int make_fanotify(const struct program *p)
{
	int fd = must(fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC, O_RDONLY));

	(void)p;
	/* Unlike it was made. */
	must(fcntl(fd, F_SETFL, O_NONBLOCK));
	return fd;
}

static int make_mqueue(const struct program *p)
{
	struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 16};

	(void)p;
	return mq_open("/ferry-owned", O_RDWR | O_CREAT | O_CLOEXEC, 0600, &attributes);
}

static int make_udp(const struct program *p)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)p;
	if (fd >= 0)
		must(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	return fd;
}

/* To itself. */
static void wake_udp(int fd)
{
	struct sockaddr_in address;
	socklen_t n = sizeof(address);

	must(getsockname(fd, (struct sockaddr *)&address, &n));
	must(sendto(fd, "x", 1, 0, (struct sockaddr *)&address, n));
}

static int make_netlink(const struct program *p)
{
	(void)p;
	return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

static int make_packet(const struct program *p)
{
	(void)p;
	return socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

#define TUNNEL "ferry-owned0"

/* Up, without a program that takes its packets. */
static int make_tun(const struct program *p)
{
	struct ifreq ifr = {.ifr_name = TUNNEL, .ifr_flags = IFF_TUN | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int helper = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	(void)p;
	if (fd < 0)
		program_lacks("/dev/net/tun");
	must(ioctl(fd, TUNSETIFF, &ifr));
	must(ioctl(helper, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags |= IFF_UP;
	must(ioctl(helper, SIOCSIFFLAGS, &ifr));
	close(helper);
	return fd;
}

static void wake_tun(int fd)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
	char packet[64] = {0x45};
	int sender = must(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	(void)fd;
	to.sll_ifindex = (int)if_nametoindex(TUNNEL);
	must(sendto(sender, packet, sizeof(packet), 0, (struct sockaddr *)&to, sizeof(to)));
	close(sender);
}

static struct owned kinds[] = {
	{.word = "eventfd", .make = make_eventfd},
	{.word = "timerfd", .make = make_timerfd},
	{.word = "signalfd", .make = make_signalfd},
	{.word = "epoll", .make = make_epoll},
	{.word = "pidfd", .make = make_pidfd},
	{.word = "memfd", .make = make_memfd},
	{.word = "file", .make = make_file},
	{.word = "inotify", .make = make_inotify, .async = true, .wake = wake_inotify},
	{.word = "fanotify", .make = make_fanotify},
	{.word = "message-queue", .make = make_mqueue},
	{.word = "udp", .make = make_udp, .async = true, .wake = wake_udp},
	{.word = "netlink", .make = make_netlink, .async = true},
	{.word = "packet", .make = make_packet, .async = true},
	{.word = "tun", .make = make_tun, .async = true, .wake = wake_tun},
};

static void verify(struct program *p, void *state)
{
	const struct owned *o = state;
	struct f_owner_ex owner = {-1, -1};

	expect(p, !fcntl(o->fd, F_GETOWN_EX, &owner), "F_GETOWN_EX: %s", strerror(errno));
	expect_same(p, "type of the owner", owner.type, F_OWNER_PGRP);
	expect_same(p, "owner", owner.pid, getpgrp());
	expect_same(p, "signal", fcntl(o->fd, F_GETSIG), SIGNAL);
	expect_same(p, "O_ASYNC", fcntl(o->fd, F_GETFL) & O_ASYNC, o->async ? O_ASYNC : 0);
}

static void finish(struct program *p, void *state)
{
	const struct timespec patience = {.tv_sec = 2};
	struct owned *o = state;
	siginfo_t info = {0};
	sigset_t set;

	verify(p, state);
	if (!o->wake)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGNAL);
	o->wake(o->fd);
	expect_same(p, "what arrives", sigtimedwait(&set, &info, &patience), SIGNAL);
	expect_same(p, "descriptor of the signal", info.si_fd, o->fd);
}

static void spoil(void *state)
{
	const struct owned *o = state;

	must(fcntl(o->fd, F_SETSIG, SIGUSR1));
}

static void own(struct owned *o)
{
	const struct f_owner_ex owner = {.type = F_OWNER_PGRP, .pid = getpgrp()};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGNAL);
	must(sigprocmask(SIG_BLOCK, &set, NULL));
	must(fcntl(o->fd, F_SETOWN_EX, &owner));
	must(fcntl(o->fd, F_SETSIG, SIGNAL));
	if (o->async)
		must(fcntl(o->fd, F_SETFL, fcntl(o->fd, F_GETFL) | O_ASYNC));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct owned *found = NULL;
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (program_told(argc, argv, kinds[i].word))
			found = &kinds[i];
	if (!found)
		program_die("no such kind");
	found->fd = must(found->make(&p));
	own(found);
	return program_serve(&p, &ops, found);
}
