/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network namespace of its own, and in it sockets of every family: a unix pair, an abstract name, a UDP socket, a TCP socket that
 * listens, one that does nothing, a netlink socket, and a descriptor of the namespace. Proof: the namespace is not that of the tests, every
 * socket belongs to it, names and ports are what they were, and the pair still passes bytes on.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif

enum { PORT = 4711, LISTENER = 4712, NETLINK_ROUTE_PROTOCOL = 0 };

enum { PAIR_A, PAIR_B, NAMED, UDP, TCP, UNBOUND, NETLINK, SOCKETS };

struct state {
	int fds[SOCKETS];
	int file; /* of the namespace */
	int spoilt;
};

static const char name[] = "\0ferry-netns";

static ino_t inode_of(const char *path)
{
	struct stat st;
	must(stat(path, &st));
	return st.st_ino;
}

static unsigned port_of(int fd)
{
	struct sockaddr_in address = {0};
	must(getsockname(fd, (struct sockaddr *)&address, &(socklen_t){sizeof(address)}));
	return ntohs(address.sin_port);
}

static void verify_place(struct program *p, const struct state *s)
{
	struct stat st;
	ino_t own = inode_of("/proc/self/ns/net");
	expect(p, own != inode_of("/proc/1/ns/net"), "the namespace is that of the tests");
	for (int i = 0; i < SOCKETS; i++) {
		int ns = ioctl(s->fds[i], SIOCGSKNS);
		expect(p, ns >= 0 && !fstat(ns, &st) && st.st_ino == own,
		       "socket %d belongs to another namespace", i);
		close(ns);
	}
	expect(p, !fstat(s->file, &st) && st.st_ino == own, "the descriptor shows another namespace");
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_un address = {0};
	struct sockaddr_nl netlink = {0};
	socklen_t n = sizeof(address);
	char byte = 0;
	int listens = 0;
	verify_place(p, s);
	expect_same(p, "written", write(s->fds[PAIR_A], "x", 1), 1);
	expect_same(p, "read", read(s->fds[PAIR_B], &byte, 1), 1);
	expect(p, byte == 'x', "another byte came");
	must(getsockname(s->fds[NAMED], (struct sockaddr *)&address, &n));
	expect(p,
	       n == offsetof(struct sockaddr_un, sun_path) + sizeof(name) - 1 &&
		       !memcmp(address.sun_path, name, sizeof(name) - 1),
	       "another abstract name");
	expect_same(p, "UDP port", port_of(s->fds[UDP]), PORT + s->spoilt);
	expect_same(p, "TCP port", port_of(s->fds[TCP]), LISTENER);
	must(getsockopt(s->fds[TCP], SOL_SOCKET, SO_ACCEPTCONN, &listens, &(socklen_t){sizeof(listens)}));
	expect(p, listens, "the TCP socket does not listen");
	expect_same(p, "port of a socket that was not bound", port_of(s->fds[UNBOUND]), 0);
	must(getsockname(s->fds[NETLINK], (struct sockaddr *)&netlink, &(socklen_t){sizeof(netlink)}));
	expect_same(p, "netlink port", netlink.nl_pid, 4711);
}

static void spoil(void *state)
{
	((struct state *)state)->spoilt = 1;
}

static int bound(int type, int port)
{
	const struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = must(socket(AF_INET, type | SOCK_CLOEXEC, 0));
	must(bind(fd, (const struct sockaddr *)&any, sizeof(any)));
	return fd;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct state s;
	struct program p;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct sockaddr_nl netlink = {.nl_family = AF_NETLINK, .nl_pid = 4711};

	program_start(&p, argc, argv);
	must(unshare(CLONE_NEWNET));
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s.fds));
	memcpy(address.sun_path, name, sizeof(name) - 1);
	s.fds[NAMED] = must(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(bind(s.fds[NAMED], (const struct sockaddr *)&address,
		  offsetof(struct sockaddr_un, sun_path) + sizeof(name) - 1));
	s.fds[UDP] = bound(SOCK_DGRAM, PORT);
	s.fds[TCP] = bound(SOCK_STREAM, LISTENER);
	must(listen(s.fds[TCP], 5));
	s.fds[UNBOUND] = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	s.fds[NETLINK] = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE_PROTOCOL));
	must(bind(s.fds[NETLINK], (const struct sockaddr *)&netlink, sizeof(netlink)));
	s.file = must(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
	return program_serve(&p, &ops, &s);
}
