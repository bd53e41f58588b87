/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking the kernel for sockets through NETLINK_SOCK_DIAG. netns_fd is -1 for the namespace of the calling
 * thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "proc/sockdiag.h"

struct ferry_error;

/*
 * All sockets of a protocol (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE) and family (AF_INET, AF_INET6) whose
 * state is in the mask (bit = 1 << TCP state; 0 = all). AF_INET6 includes v4-mapped ones. Sorted by inode. The
 * caller frees *ret_socks. -EOPNOTSUPP: the kernel has no diag for this protocol.
 */
must_check int sockdiag_inet(int netns_fd, int family, int protocol, uint32_t states,
			     struct inet_sock **ret_socks, size_t *ret_n, struct ferry_error *err);

/* TCP and UDP, v4 and v6, all states, in one array sorted by inode: what collecting descriptors needs. */
must_check int sockdiag_inet_all(int netns_fd, struct inet_sock **ret_socks, size_t *ret_n,
				 struct ferry_error *err);

/* All unix sockets with name, vfs, peer, pending connections, queue lengths, shutdown; sorted by inode. */
must_check int sockdiag_unix(int netns_fd, struct unix_sock **ret_socks, size_t *ret_n,
			     struct ferry_error *err);

void unix_socks_free(struct unix_sock *socks, size_t n);

/* One unix socket by inode: -ENOENT when there is none. Release with unix_sock_release(). */
must_check int sockdiag_unix_one(int netns_fd, uint32_t inode, struct unix_sock *ret_sock,
				 struct ferry_error *err);

/* Binary search in a sorted array; NULL when there is none. */
const struct inet_sock *inet_socks_find(const struct inet_sock *socks, size_t n, uint32_t inode);
const struct inet_sock *inet_socks_find_cookie(const struct inet_sock *socks, size_t n, uint64_t cookie);
const struct unix_sock *unix_socks_find(const struct unix_sock *socks, size_t n, uint32_t inode);

/* One packet socket by its inode; released with packet_sock_release(). */
must_check int sockdiag_packet_one(int netns_fd, uint32_t inode, struct packet_sock *ret_sock,
				   struct ferry_error *err);
