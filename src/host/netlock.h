/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network lock: an nftables table named ferry-<id> in one network namespace that drops the packets of
 * chosen TCP connections, or all, in both directions, on input and output, loopback included. Both ends of a loopback
 * connection are held by locking one.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct ferry_error;
struct netlock;

/* Packets with this mark pass a lock unless another mark was given. */
#define NETLOCK_MARK 0x46455259u

#define NETLOCK_PREFIX "ferry-"

/*
 * An id that begins so is a table's whole name: what the image format calls the lock that waits for a restore, and the mark
 * that passes it, so that either of two programs can restore the other's image and remove its lock.
 */
#define NETLOCK_IMAGE_PREFIX "CRIU-"
#define NETLOCK_IMAGE_MARK 0xc114u
enum { NETLOCK_IMAGE_ID_CHARS = 21 }; /* as many of the image's id follow */

enum netlock_mode {
	NETLOCK_OWNED, /* belongs to our netlink socket and vanishes with it, also when we are killed (Linux 5.12) */
	NETLOCK_PERSIST, /* stays until removed by name: the connection waits for a restore */
};

struct netlock_tcp {
	uint16_t family;     /* AF_INET, AF_INET6; v4-mapped addresses are locked as IPv4 */
	uint16_t local_port; /* host byte order */
	uint16_t remote_port;
	uint8_t local_addr[16]; /* network byte order; AF_INET uses the first 4 */
	uint8_t remote_addr[16];
};

/*
 * Create an empty lock, in one transaction. netns_fd: the namespace, -1 = that of the calling thread. id: 1..200
 * characters of [A-Za-z0-9._-]; the table is "ferry-<id>" (but see NETLOCK_IMAGE_PREFIX). mark: packets that pass, 0 = none.
 * -EEXIST: such a table is there already (PERSIST; remove it first). FERRY_ERROR_KERNEL_FEATURE: no nf_tables.
 */
must_check int netlock_open(int netns_fd, enum netlock_mode mode, const char *id, uint32_t mark,
			    struct netlock **ret_lock, struct ferry_error *err);

/* Block n more connections, all or none, in one transaction. One that is blocked already counts as done. */
must_check int netlock_add_tcp(struct netlock *lock, const struct netlock_tcp *connections, size_t n,
			       struct ferry_error *err);

/* Block everything, of any protocol. */
must_check int netlock_add_whole(struct netlock *lock, struct ferry_error *err);

/* Let n connections pass again, all or none, in one transaction. */
must_check int netlock_drop_tcp(struct netlock *lock, const struct netlock_tcp *connections, size_t n,
				struct ferry_error *err);

/*
 * Let everything pass at once; the table stays, empty. This is how to unlock when somebody waits: it takes
 * microseconds, while removing a table waits for every processor (15 to 30 ms).
 */
must_check int netlock_clear(struct netlock *lock, struct ferry_error *err);

/* Open a PERSIST lock by id. 1 = found, 0 = there is none (*ret_lock stays untouched), or -errno. */
must_check int netlock_find(int netns_fd, const char *id, struct netlock **ret_lock, struct ferry_error *err);

/* Remove the table and free the lock; the lock is freed also on failure. NULL is allowed. */
int netlock_remove(struct netlock *lock, struct ferry_error *err);

/* Free the lock without removing the table: an OWNED one vanishes, a PERSIST one stays. NULL is allowed. */
void netlock_close(struct netlock *lock);

/*
 * Remove a PERSIST table by id. 1 = removed, 0 = there was none, or -errno (-EPERM: owned by a living ferry).
 */
must_check int netlock_find_and_remove(int netns_fd, const char *id, struct ferry_error *err);

/*
 * Take n connections out of every PERSIST table named NETLOCK_IMAGE_PREFIX..., except the one with this id (NULL = of all).
 * Such a lock is one that waits for the restore of an image, which then happened on another machine. A connection that a table
 * does not have, and a table of another make, is passed over.
 */
must_check int netlock_forget(int netns_fd, const char *except_id, const struct netlock_tcp *connections,
			      size_t n, struct ferry_error *err);

/* The netlink socket, so that a warden can keep an OWNED lock alive by holding a copy. */
int netlock_fd(const struct netlock *lock);

/*
 * OWNED locks of one job, of one name, in any number of network namespaces, each known by a number that the caller chooses. All functions
 * of them take one that is zeroed or NULL.
 */
struct netlocks;
struct netlocks *netlocks_new(const char *id, uint32_t mark);

/* The lock of a namespace, opened when it is first asked for. */
must_check int netlocks_at(struct netlocks *l, uint64_t namespace, int netns_fd, struct netlock **ret_lock,
			   struct ferry_error *err);

/* The same, and nothing passes in the whole namespace. */
must_check int netlocks_whole(struct netlocks *l, uint64_t namespace, int netns_fd, struct ferry_error *err);
bool netlocks_is_whole(const struct netlocks *l, uint64_t namespace);

/* Whether there is one yet, or any. */
bool netlocks_has(const struct netlocks *l, uint64_t namespace);
bool netlocks_has_any(const struct netlocks *l);

/* netlock_clear() of all; the first error is told. */
must_check int netlocks_clear(struct netlocks *l, struct ferry_error *err);

/* netlock_remove() of all. The list stays, empty. */
int netlocks_remove(struct netlocks *l, struct ferry_error *err);

/* netlock_close() of all. */
void netlocks_free(struct netlocks *l);
