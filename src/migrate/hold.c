/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns addresses and connections of a held tree, and taking a hold back or ending it when the ferry that made it is gone.
 *
 * Kernel interface: tcp(7) TCP_REPAIR, read through copies of the tasks' descriptors (pidfd_getfd, 5.6).
 * Not handled: trees in another network namespace than ferry's; SO_REUSEADDR of connections that are resumed by hold_undo()
 * (leaving repair mode clears it).
 */
#include "migrate/hold.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ferry/inject.h>
#include <ferry/tcp.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/vec.h"
#include "host/freezer.h"
#include "host/netlock.h"
#include "proc/read.h"

enum { HOLD_ANNOUNCE_ONCE = 1 };

void hold_name(const char *id, char ret[static HOLD_NAME_BYTES])
{
	snprintf(ret, HOLD_NAME_BYTES, "ferry-hold-%s", id);
}

/* The network lock puts "ferry-" before it. */
static const char *hold_lock_id(const char *id, char ret[static HOLD_NAME_BYTES])
{
	snprintf(ret, HOLD_NAME_BYTES, "hold-%s", id);
	return ret;
}

/* ---------------------------------------------------------------- addresses */

int hold_parse_address(const char *text, struct address *ret, struct ferry_error *err)
{
	char number[INET6_ADDRSTRLEN];
	struct address a = {0};
	const char *slash = strchr(text, '/'), *at = slash ? strchr(slash, '@') : NULL;
	char *end;
	unsigned long prefix = slash ? strtoul(slash + 1, &end, 10) : 0;
	if (!at || end != at || slash[1] < '0' || slash[1] > '9' ||
	    (size_t)(slash - text) >= sizeof(number) || !at[1] || strlen(at + 1) >= sizeof(a.device) ||
	    strlen(text) >= JOURNAL_ADDRESS_BYTES)
		goto bad;
	snprintf(number, sizeof(number), "%.*s", (int)(slash - text), text);
	a.family = strchr(number, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(a.family, number, a.bytes) != 1 || prefix > (a.family == AF_INET ? 32 : 128))
		goto bad;
	a.prefix_len = (uint8_t)prefix;
	snprintf(a.device, sizeof(a.device), "%s", at + 1);
	*ret = a;
	return 0;
bad:
	error_set(err, FERRY_ERROR_USAGE, EINVAL, "'%.100s' is no address to move", text);
	error_hint(err, "it is written ADDRESS/PREFIX@DEVICE, for instance 192.0.2.7/24@eth0");
	return -EINVAL;
}

static int hold_has_address(const struct address *wanted, struct ferry_error *err)
{
	struct address *list;
	size_t n;
	int r = address_list(-1, wanted->device, &list, &n, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n && !r; i++)
		r = list[i].family == wanted->family && list[i].prefix_len == wanted->prefix_len &&
		    !memcmp(list[i].bytes, wanted->bytes, sizeof(wanted->bytes));
	free(list);
	return r;
}

int hold_check_addresses(const struct journal_record *r, bool wanted, struct ferry_error *err)
{
	for (size_t i = 0; i < r->n_addresses; i++) {
		struct address a;
		int ret = hold_parse_address(r->addresses[i], &a, err);
		if (ret >= 0)
			ret = hold_has_address(&a, err);
		if (ret < 0)
			return ret;
		if (ret == wanted)
			continue;
		error_set(err, FERRY_ERROR_ADDRESS_TAKEN, EADDRNOTAVAIL, "device '%s' has %s address '%.60s'",
			  a.device, wanted ? "no" : "already", r->addresses[i]);
		error_hint(err,
			   "'ip address' shows the addresses; --move-address wants the same prefix length");
		return -EADDRNOTAVAIL;
	}
	return 0;
}

static int hold_change_address(const char *text, bool add, const struct fault *fault, struct ferry_error *err)
{
	struct address a;
	int r = hold_parse_address(text, &a, err);
	if (r < 0)
		return r;
	fault_effect(fault, "address", add ? "add" : "remove");
	return add ? address_add(-1, &a, err) : address_remove(-1, &a, err);
}

int hold_remove_addresses(const struct journal_record *r, const struct fault *fault, struct ferry_error *err)
{
	for (size_t i = 0; i < r->n_addresses; i++) {
		int ret = hold_change_address(r->addresses[i], false, fault, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

void hold_announce(const struct journal_record *r, unsigned times, unsigned interval_ms)
{
	for (size_t i = 0; i < r->n_addresses; i++) {
		struct address a;
		/* Neighbours that do not hear it ask again after a while. */
		if (hold_parse_address(r->addresses[i], &a, NULL) >= 0 &&
		    address_announce(-1, &a, times, interval_ms, NULL) < 0)
			continue;
	}
}

int hold_add_addresses(const struct journal_record *r, const struct fault *fault, struct ferry_error *err)
{
	for (size_t i = 0; i < r->n_addresses; i++) {
		int ret = hold_change_address(r->addresses[i], true, fault, err);
		if (ret < 0) {
			while (i-- > 0)
				if (hold_change_address(r->addresses[i], false, NULL, NULL) < 0)
					continue;
			return ret;
		}
	}
	hold_announce(r, HOLD_ANNOUNCE_ONCE, 0);
	return 0;
}

/* -------------------------------------------------------------- connections */

typedef int (*hold_socket_function)(int fd, void *context, struct ferry_error *err);

static bool hold_in_repair(int fd)
{
	int protocol = 0, repair = 0;
	socklen_t n = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n) < 0 || protocol != IPPROTO_TCP)
		return false;
	n = sizeof(int);
	return getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &repair, &n) == 0 && repair == 1;
}

static int hold_each_of(pid_t pid, hold_socket_function function, void *context, struct ferry_error *err)
{
	_cleanup_close_ int dir = proc_open(pid, NULL);
	if (dir == -ESRCH)
		return 0;
	if (dir < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -dir, "opening '/proc/%d'", pid);
	_cleanup_proc_fds_ struct proc_fds fds = {0};
	int r = proc_read_fds(dir, &fds, err);
	for (size_t i = 0; i < fds.v.n && r >= 0; i++) {
		if (!S_ISSOCK(fds.v.v[i].mode))
			continue;
		_cleanup_close_ int fd = ferry_inject_get_fd(pid, fds.v.v[i].fd, err);
		if (fd < 0)
			return fd;
		if (hold_in_repair(fd))
			r = function(fd, context, err);
	}
	return r;
}

/* Every socket in repair mode; one that several descriptors name comes several times. */
static int hold_each_socket(const pid_t *pids, size_t n, hold_socket_function function, void *context,
			    struct ferry_error *err)
{
	int r = 0;
	for (size_t i = 0; i < n && r >= 0; i++)
		r = hold_each_of(pids[i], function, context, err);
	return r;
}

struct hold_connections {
	VEC(struct netlock_tcp) v;
};

static void hold_end_point(const struct sockaddr_storage *a, uint8_t bytes[static 16], uint16_t *ret_port)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
	if (a->ss_family == AF_INET)
		memcpy(bytes, &v4->sin_addr, 4);
	else
		memcpy(bytes, &v6->sin6_addr, 16);
	*ret_port = ntohs(a->ss_family == AF_INET ? v4->sin_port : v6->sin6_port);
}

static int hold_note_connection(int fd, void *context, struct ferry_error *err)
{
	struct hold_connections *list = context;
	struct sockaddr_storage own = {0}, peer = {0};
	socklen_t own_n = sizeof(own), peer_n = sizeof(peer);
	if (getsockname(fd, (struct sockaddr *)&own, &own_n) < 0 ||
	    getpeername(fd, (struct sockaddr *)&peer, &peer_n) < 0)
		return 0; /* listening or closed: nothing to block */
	struct netlock_tcp *slot = vec_push(&list->v);
	if (!slot)
		return error_memory(err);
	slot->family = own.ss_family;
	hold_end_point(&own, slot->local_addr, &slot->local_port);
	hold_end_point(&peer, slot->remote_addr, &slot->remote_port);
	return 0;
}

int hold_lock_connections(const char *id, const pid_t *pids, size_t n, const struct fault *fault,
			  struct ferry_error *err)
{
	char name[HOLD_NAME_BYTES];
	struct hold_connections list = {0};
	struct netlock *lock = NULL;
	int r = hold_each_socket(pids, n, hold_note_connection, &list, err);
	if (r >= 0 && list.v.n) {
		fault_effect(fault, "hold", "lock-connections");
		r = netlock_open(-1, NETLOCK_PERSIST, hold_lock_id(id, name), NETLOCK_MARK, &lock, err);
	}
	if (r >= 0 && lock)
		r = netlock_add_tcp(lock, list.v.v, list.v.n, err);
	netlock_close(lock);
	vec_release(&list.v);
	return r;
}

int hold_unlock(const char *id, struct ferry_error *err)
{
	char name[HOLD_NAME_BYTES];
	int r = netlock_find_and_remove(-1, hold_lock_id(id, name), err);
	if (r == -EOPNOTSUPP || r == -EPROTONOSUPPORT || r == -EAFNOSUPPORT) {
		error_clear(err); /* a kernel without nf_tables has no lock of ours */
		return 0;
	}
	return r;
}

static int hold_resume_socket(int fd, void *context, struct ferry_error *err)
{
	struct ferry_tcp_undo undo = FERRY_TCP_UNDO_INIT;
	int on = 0;
	socklen_t n = sizeof(on);
	(void)context;
	if (getsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, &n) == 0)
		undo.oobinline = on != 0;
	return ferry_tcp_resume(fd, &undo, 0, err);
}

/* ----------------------------------------------------------------- recovery */

static int hold_open(const struct journal_record *r, enum freezer_kind kind, const struct fault *fault,
		     struct freezer **ret, struct ferry_error *err)
{
	char name[HOLD_NAME_BYTES];
	hold_name(r->id, name);
	int ret_code = freezer_open(kind, name, fault, ret, err);
	if (ret_code < 0)
		return ret_code;
	ret_code = freezer_find(*ret, err);
	if (ret_code <= 0) {
		freezer_close(*ret);
		*ret = NULL;
	}
	return ret_code;
}

/* The groups are in one of the two hierarchies; *ret stays NULL when they are in none. */
static int hold_find(const struct journal_record *r, const struct fault *fault, struct freezer **ret,
		     struct ferry_error *err)
{
	*ret = NULL;
	int v1 = hold_open(r, FREEZER_V1, fault, ret, NULL);
	if (v1 > 0)
		return v1;
	struct ferry_error second = FERRY_ERROR_INIT;
	int v2 = hold_open(r, FREEZER_V2, fault, ret, &second);
	if (v2 < 0 && v1 < 0 && err)
		*err = second;
	return v2 >= 0 ? v2 : v1;
}

static int hold_resume(struct freezer *f, struct ferry_error *err)
{
	pid_t *pids = NULL;
	size_t n = 0;
	int r = freezer_members(f, &pids, &n, err);
	if (r >= 0)
		r = hold_each_socket(pids, n, hold_resume_socket, NULL, err);
	free(pids);
	return r < 0 ? r : (int)n;
}

int hold_undo(const struct journal_record *r, const struct fault *fault, struct ferry_error *err)
{
	struct freezer *f;
	int members = 0;
	int ret = hold_find(r, fault, &f, err);
	if (ret < 0)
		return ret;
	ret = journal_is_this_boot(r) ? hold_add_addresses(r, fault, err) : 0;
	if (ret >= 0)
		ret = hold_unlock(r->id, err);
	if (ret >= 0 && f)
		ret = members = hold_resume(f, err);
	if (ret >= 0 && f)
		ret = freezer_thaw(f, err);
	freezer_close(f);
	return ret < 0 ? ret : members;
}

int hold_end(const struct journal_record *r, const struct fault *fault, int timeout_ms,
	     struct ferry_error *err)
{
	struct freezer *f;
	int ret = hold_find(r, fault, &f, err);
	if (ret >= 0 && f)
		ret = freezer_kill(f, timeout_ms, err);
	freezer_close(f);
	/* The lock falls last: until their end the sockets must stay silent. */
	return ret < 0 ? ret : hold_unlock(r->id, err);
}
