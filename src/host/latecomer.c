/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the names of processes whose memory still comes.
 *
 * Kernel interface: abstract unix(7) sockets, SO_PEERCRED. They belong to a network namespace.
 */
#include "host/latecomer.h"

#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

static socklen_t latecomer_address(pid_t pid, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	int n = snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, "ferry-lazy/%d", pid);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

int latecomer_name(pid_t pid)
{
	struct sockaddr_un address;
	socklen_t n = latecomer_address(pid, &address);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, n) < 0 || listen(fd, SOMAXCONN) < 0)
		return -1;
	return take_fd(fd);
}

pid_t latecomer_find(pid_t pid)
{
	struct sockaddr_un address;
	struct ucred who;
	socklen_t n = latecomer_address(pid, &address), n_who = sizeof(who);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, n) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n_who) < 0)
		return 0;
	return who.uid == 0 || who.uid == geteuid() ? who.pid : 0;
}
