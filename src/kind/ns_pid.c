/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns nothing but the name: PID namespaces are made with their first process (restore/tasks.c), and what a process is called in
 * each of them is part of the tree (collect/namespaces.c, restore/namespaces.c). An image has the numbers of the root's
 * namespace; those of namespaces below it are in ferry-nspids.img.
 *
 * Kernel interface: NSpid in /proc/PID/status (4.1), clone3(2) with set_tid (5.5), setns(2) with a pidfd (5.8).
 * Does not handle: a namespace below the root's whose first process is not in the tree or has ended, kernel.pid_max of a
 * namespace (6.14).
 */
#include "kind/kinds.h"
#include "model/kind.h"

static const struct ns_ops pidns_ops = {.type = PROC_NS_PID};

const struct kind_ops kind_pidns = {
	.name = "pidns",
	.what = "PID namespaces: the root's and those below",
	.fd_type = -1,
	.image_file = -1,
	.ns = &pidns_ops,
};
