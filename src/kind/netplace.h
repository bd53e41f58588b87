/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In which network namespace ferry stands: that of the socket which it looks at or makes. So whatever a kind asks the kernel of sockets and
 * devices, it asks in the right place, and nobody passes namespaces around.
 */
#pragma once

#include <stdint.h>

#include "model/kind.h"

enum { NET_ID_OWN = 2 }; /* what images call the network namespace that the dumping program lives in */

struct inet_scan;

/* A network namespace in which sockets of the tree were found, during one check or collect. */
struct net_place {
	struct net_place *next;
	uint64_t inode;
	uint64_t cookie;        /* see host/netns.h */
	struct inet_scan *inet; /* what the kernel tells of internet sockets there; NULL: nobody asked */
	bool has_unix;          /* its unix sockets are known */
};

/*
 * Go where the socket fd is from, a copy of what the view shows. A socket of a namespace that neither ferry nor its holder lives in is
 * refused.
 */
must_check int net_stand(const struct fd_view *view, int fd, const char *who, struct ferry_error *err);

/* Where that was; NULL: nowhere yet. */
struct net_place *net_here(const struct fd_view *view);

/* What the image calls it. */
uint32_t net_here_id(const struct collect *c, const struct fd_view *view);

/* Back to where ferry was started. Who has no right to go there stays, and nothing that follows depends on it. */
void net_go_home(const struct kind_options *options);

/* Restore: go where a file of the image is made. */
must_check int net_stand_for(struct opener *o, const struct plan_file *file, struct ferry_error *err);

/* Restore: go to a namespace of the image; 0 = ferry's own. */
must_check int net_stand_in(struct opener *o, uint32_t id, struct ferry_error *err);
