/* SPDX-License-Identifier: Apache-2.0 */
/* Network namespaces by descriptor. Each thread stands in one, in which its sockets are made; results are -errno on failure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

/* That of the calling thread, or of a socket, which takes rights over it. Returns a descriptor. */
must_check int netns_open(void);
must_check int netns_of_socket(int socket);

must_check int netns_inode(int netns, uint64_t *ret_inode);
must_check int netns_own_inode(uint64_t *ret_inode);

/* The calling thread goes there. */
must_check int netns_enter(int netns);

/* What tells namespaces apart without any rights: the cookie of a socket's namespace (Linux 5.14); 0: none is told. */
uint64_t netns_cookie(int socket);
