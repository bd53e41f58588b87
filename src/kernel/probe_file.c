/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the probes about files, mounts and sockets. They use objects of their own and one netlink question. */
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/probe.h"
#include "kernel/syscalls.h"

enum kern_cap_state kern_probe_tfd_set_ticks(unused struct kern_caps *caps, int *ret_reason)
{
	uint64_t ticks = 1;
	_cleanup_close_ int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (fd < 0)
		return probe_verdict(-errno, ret_reason);
	return probe_verdict(sys_ret(ioctl(fd, TFD_IOC_SET_TICKS, &ticks)), ret_reason);
}

enum kern_cap_state kern_probe_inotify_next_wd(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_close_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd < 0)
		return probe_verdict(-errno, ret_reason);
	return probe_verdict(sys_ret(ioctl(fd, INOTIFY_IOC_SETNEXTWD, 1L)), ret_reason);
}

enum kern_cap_state kern_probe_close_range(unused struct kern_caps *caps, int *ret_reason)
{
	/* a number that no table reaches */
	return probe_verdict(sys_close_range(~0u, ~0u, 0), ret_reason);
}

enum kern_cap_state kern_probe_openat2(unused struct kern_caps *caps, int *ret_reason)
{
	struct kern_open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = KERN_RESOLVE_IN_ROOT};
	_cleanup_close_ int fd = sys_openat2(AT_FDCWD, "/", &how);
	return probe_verdict(fd, ret_reason);
}

enum kern_cap_state kern_probe_open_tree(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_close_ int fd = sys_open_tree(AT_FDCWD, "/", OPEN_TREE_CLOEXEC);
	return probe_verdict(fd, ret_reason);
}

enum kern_cap_state kern_probe_mount_setattr(unused struct kern_caps *caps, int *ret_reason)
{
	/* nothing to set, nothing to clear: done before a mount is looked at */
	struct mount_attr attr = {0};
	return probe_verdict(sys_mount_setattr(AT_FDCWD, "/", 0, &attr), ret_reason);
}

enum kern_cap_state kern_probe_move_mount_group(unused struct kern_caps *caps, int *ret_reason)
{
	/* unknown flags are refused before the descriptors are looked at */
	unsigned flags = MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
	return probe_expect(sys_move_mount(-1, "", -1, "", flags), EBADF, ret_reason);
}

enum kern_cap_state kern_probe_statmount(unused struct kern_caps *caps, int *ret_reason)
{
	struct kern_statx st;
	struct kern_statmount mount;
	int r = sys_statx(AT_FDCWD, "/", AT_STATX_DONT_SYNC, STATX_MNT_ID_UNIQUE, &st);
	if (!r && !(st.mask & STATX_MNT_ID_UNIQUE))
		r = -ENOSYS;
	if (r < 0)
		return probe_verdict(r, ret_reason);
	return probe_verdict(sys_statmount(st.mnt_id, 0, STATMOUNT_MNT_BASIC, &mount, sizeof(mount)),
			     ret_reason);
}

/* A TCP socket in repair mode, or -errno. */
static int repair_socket(void)
{
	int on = TCP_REPAIR_ON;
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0)
		return -errno;
	return take_fd(fd);
}

enum kern_cap_state kern_probe_tcp_repair(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_close_ int fd = repair_socket();
	return probe_verdict(fd, ret_reason);
}

enum kern_cap_state kern_probe_tcp_repair_window(unused struct kern_caps *caps, int *ret_reason)
{
	struct tcp_repair_window window;
	socklen_t n = sizeof(window);
	_cleanup_close_ int fd = repair_socket();
	if (fd < 0)
		return probe_verdict(fd, ret_reason);
	return probe_verdict(sys_ret(getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &n)),
			     ret_reason);
}

enum kern_cap_state kern_probe_tcp_repair_no_probe(unused struct kern_caps *caps, int *ret_reason)
{
	int off = TCP_REPAIR_OFF_NO_WP;
	_cleanup_close_ int fd = repair_socket();
	if (fd < 0)
		return probe_verdict(fd, ret_reason);
	return probe_verdict(sys_ret(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off))), ret_reason);
}

enum kern_cap_state kern_probe_so_peek_off(unused struct kern_caps *caps, int *ret_reason)
{
	int offset = 0;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return probe_verdict(-errno, ret_reason);
	return probe_verdict(sys_ret(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset))),
			     ret_reason);
}

enum kern_cap_state kern_probe_sock_diag(unused struct kern_caps *caps, int *ret_reason)
{
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	return probe_verdict(sys_ret(fd), ret_reason);
}

/* The errno value in the first answer, 0 for an answer that is no error; or -errno of the exchange. */
static long netlink_answer(int fd)
{
	union {
		struct nlmsghdr header;
		char bytes[4096];
	} answer;
	struct nlmsgerr error;
	ssize_t n = recv(fd, &answer, sizeof(answer), 0);
	if (n < 0)
		return -errno;
	if ((size_t)n < sizeof(answer.header))
		return -EBADMSG;
	if (answer.header.nlmsg_type != NLMSG_ERROR)
		return 0;
	if ((size_t)n < NLMSG_HDRLEN + sizeof(error))
		return -EBADMSG;
	memcpy(&error, answer.bytes + NLMSG_HDRLEN, sizeof(error));
	return error.error;
}

enum kern_cap_state kern_probe_nftables(unused struct kern_caps *caps, int *ret_reason)
{
	struct {
		struct nlmsghdr header;
		struct nfgenmsg body;
	} ask = {
		.header = {.nlmsg_len = sizeof(ask),
			   .nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN,
			   .nlmsg_flags = NLM_F_REQUEST},
		.body = {.version = NFNETLINK_V0},
	};
	struct timeval patience = {.tv_sec = 1};
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		return probe_verdict(-errno, ret_reason);
	if (send(fd, &ask, sizeof(ask), 0) < 0)
		return probe_verdict(-errno, ret_reason);
	return probe_verdict(netlink_answer(fd), ret_reason);
}

enum kern_cap_state kern_probe_io_uring(unused struct kern_caps *caps, int *ret_reason)
{
	/* the parameters are read before anything is created */
	return probe_expect(sys_call(SYS_io_uring_setup, 1, NULL), EFAULT, ret_reason);
}
