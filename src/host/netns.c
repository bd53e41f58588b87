/* SPDX-License-Identifier: Apache-2.0 */
/* Owns network namespaces by descriptor: setns(2), SIOCGSKNS (Linux 4.10), SO_NETNS_COOKIE (5.14). */
#include "host/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/fd.h"

#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

int netns_open(void)
{
	return fd_open(AT_FDCWD, "/proc/thread-self/ns/net", O_RDONLY, 0);
}

int netns_of_socket(int socket)
{
	int fd = ioctl(socket, SIOCGSKNS);
	return fd < 0 ? -errno : fd;
}

int netns_inode(int netns, uint64_t *ret_inode)
{
	struct stat st;
	if (fstat(netns, &st) < 0)
		return -errno;
	*ret_inode = st.st_ino;
	return 0;
}

int netns_own_inode(uint64_t *ret_inode)
{
	struct stat st;
	if (stat("/proc/thread-self/ns/net", &st) < 0)
		return -errno;
	*ret_inode = st.st_ino;
	return 0;
}

int netns_enter(int netns)
{
	return setns(netns, CLONE_NEWNET) < 0 ? -errno : 0;
}

uint64_t netns_cookie(int socket)
{
	uint64_t cookie = 0;
	socklen_t n = sizeof(cookie);
	return getsockopt(socket, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &n) < 0 ? 0 : cookie;
}
