/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the network lock: nf_tables over NETLINK_NETFILTER, kernel net/netfilter/nfnetlink.c. Tables with an
 * owner vanish with the socket that made them (Linux 5.12), so that a killed ferry leaves no lock behind.
 *
 * Not handled: single connections other than TCP; ICMP errors about a locked connection still pass.
 */
#include "host/netlock.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* After <netinet/in.h>, which they let define the addresses. */
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/vec.h"
#include "host/netlink.h"
#include "host/netlock_batch.h"

#define _cleanup_batch_ __attribute__((cleanup(netlock_batch_release)))

enum { ID_MAX = 200, ANSWER_BYTES = 64 * 1024 };

struct netlock {
	struct netlink_socket *socket;
	char table[NETLOCK_TABLE_MAX];
	bool owned;
};

static const char *const step_names[] = {
	[NETLOCK_STEP_BATCH] = "beginning a transaction",
	[NETLOCK_STEP_TABLE] = "the table",
	[NETLOCK_STEP_SET] = "a set",
	[NETLOCK_STEP_CHAIN] = "a chain",
	[NETLOCK_STEP_RULE] = "a rule",
	[NETLOCK_STEP_ELEMENT] = "the connections",
};

static int table_name(const char *id, char table[static NETLOCK_TABLE_MAX], struct ferry_error *err)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t n = strlen(id);
	if (!n || n > ID_MAX || strspn(id, allowed) != n)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "network lock '%.*s': the name must be 1 to %d characters of [A-Za-z0-9._-]",
				 ID_MAX, id, ID_MAX);
	bool whole = !strncmp(id, NETLOCK_IMAGE_PREFIX, strlen(NETLOCK_IMAGE_PREFIX));
	snprintf(table, NETLOCK_TABLE_MAX, "%s%s", whole ? "" : NETLOCK_PREFIX, id);
	return 0;
}

/* Kernels say "no nf_tables" in several ways, depending on what is missing. */
static bool means_missing(enum netlock_step step, int code)
{
	if (code == EOPNOTSUPP || code == EPROTONOSUPPORT || code == EAFNOSUPPORT)
		return true;
	if (code == EINVAL)
		return step == NETLOCK_STEP_BATCH || step == NETLOCK_STEP_TABLE;
	return code == ENOENT && (step == NETLOCK_STEP_CHAIN || step == NETLOCK_STEP_RULE);
}

static int lock_failed(struct ferry_error *err, const char *table, enum netlock_step step, int code)
{
	const char *what = step_names[step];
	if (code == EPERM) {
		error_set(err, FERRY_ERROR_PERMISSION, code, "network lock '%s': %s: not permitted", table,
			  what);
		error_hint(
			err,
			"it needs CAP_NET_ADMIN over the network namespace, and nobody else may own the table");
		return -code;
	}
	if (means_missing(step, code)) {
		error_errno(err, FERRY_ERROR_KERNEL_FEATURE, code, "network lock '%s': %s", table, what);
		error_hint(
			err,
			"locking the network needs nf_tables with inet tables (CONFIG_NF_TABLES_INET; modprobe "
			"nf_tables), and tables with an owner need Linux 5.12");
		return -code;
	}
	if (code == EEXIST && step == NETLOCK_STEP_TABLE) {
		error_errno(err, FERRY_ERROR_SYSTEM, code, "network lock '%s': %s", table, what);
		error_hint(err, "a lock of that name is there already: 'nft delete table inet %s' removes it",
			   table);
		return -code;
	}
	error_errno(err, FERRY_ERROR_SYSTEM, code, "network lock '%s': %s", table, what);
	if (code == EMSGSIZE)
		error_hint(err, "too many connections for one transaction; raise net.core.wmem_max");
	return -code;
}

/* The first failure among the answers in this buffer, or success once 'last' was acknowledged. */
struct verdict {
	uint32_t last;
	uint32_t seq; /* message that failed */
	int code;     /* errno value, 0 = none failed */
	bool done;
};

static void judge(const struct nlmsghdr *h, int n, struct verdict *v)
{
	for (; netlink_ok(h, n); h = netlink_next(h, &n)) {
		if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_len < NLMSG_HDRLEN + sizeof(struct nlmsgerr))
			continue;
		const struct nlmsgerr *e = netlink_body(h);
		if (e->error && !v->code) {
			v->code = -e->error;
			v->seq = h->nlmsg_seq;
		} else if (!e->error && h->nlmsg_seq == v->last) {
			v->done = true;
		}
	}
}

/* The kernel has worked through a batch when sendto(2) returns: every answer waits. */
static void read_verdict(struct netlink_socket *socket, struct verdict *v)
{
	_cleanup_free_ char *answer = malloc(ANSWER_BYTES);
	if (!answer) {
		v->code = ENOMEM;
		return;
	}
	for (;;) {
		ssize_t n = recv(socket->fd, answer, ANSWER_BYTES, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN && !v->code)
			v->code = errno;
		if (n <= 0)
			return;
		judge((const struct nlmsghdr *)answer, (int)n, v);
	}
}

/* Close the batch and carry it out: all of it or nothing. The step that failed goes to *ret_step. */
static int commit(struct netlink_socket *socket, struct netlock_batch *b, enum netlock_step *ret_step)
{
	struct verdict v = {.last = netlock_batch_end(b)};
	*ret_step = NETLOCK_STEP_BATCH;
	if (!v.last)
		return -ENOMEM;
	int r = netlink_send(socket, b->bytes, b->n);
	if (r < 0)
		return r;
	read_verdict(socket, &v);
	*ret_step = netlock_batch_step(b, v.seq);
	if (v.code)
		return -v.code;
	return v.done ? 0 : -EIO;
}

static int open_socket(int netns_fd, const char *table, struct netlink_socket **ret_socket,
		       struct ferry_error *err)
{
	int r = netlink_open(netns_fd, NETLINK_NETFILTER, ret_socket);
	return r ? lock_failed(err, table, NETLOCK_STEP_BATCH, -r) : 0;
}

static int open_lock(int netns_fd, struct netlock *lock, uint32_t mark, struct ferry_error *err)
{
	_cleanup_batch_ struct netlock_batch b = {0};
	enum netlock_step step;
	int r = open_socket(netns_fd, lock->table, &lock->socket, err);
	if (r)
		return r;
	netlock_batch_begin(&b);
	netlock_batch_table(&b, lock->table, lock->owned, mark);
	r = commit(lock->socket, &b, &step);
	return r ? lock_failed(err, lock->table, step, -r) : 0;
}

int netlock_open(int netns_fd, enum netlock_mode mode, const char *id, uint32_t mark,
		 struct netlock **ret_lock, struct ferry_error *err)
{
	struct netlock *lock = calloc(1, sizeof(*lock));
	if (!lock)
		return error_memory(err);
	lock->owned = mode == NETLOCK_OWNED;
	int r = table_name(id, lock->table, err);
	if (!r)
		r = open_lock(netns_fd, lock, mark, err);
	if (r) {
		netlock_close(lock);
		return r;
	}
	*ret_lock = lock;
	return 0;
}

static int change(struct netlock *lock, bool remove, const struct netlock_tcp *connections, size_t n,
		  struct ferry_error *err)
{
	_cleanup_batch_ struct netlock_batch b = {0};
	enum netlock_step step;
	if (!n)
		return 0;
	for (size_t i = 0; i < n; i++) {
		if (connections[i].family != AF_INET && connections[i].family != AF_INET6)
			return error_set(err, FERRY_ERROR_INTERNAL, EAFNOSUPPORT,
					 "network lock '%s': connection %zu has address family %u",
					 lock->table, i, connections[i].family);
	}
	netlock_batch_begin(&b);
	netlock_batch_connections(&b, lock->table, remove, connections, n);
	int r = commit(lock->socket, &b, &step);
	return r ? lock_failed(err, lock->table, step, -r) : 0;
}

int netlock_add_tcp(struct netlock *lock, const struct netlock_tcp *connections, size_t n,
		    struct ferry_error *err)
{
	return change(lock, false, connections, n, err);
}

int netlock_add_whole(struct netlock *lock, struct ferry_error *err)
{
	_cleanup_batch_ struct netlock_batch b = {0};
	enum netlock_step step;
	netlock_batch_begin(&b);
	netlock_batch_whole(&b, lock->table);
	int r = commit(lock->socket, &b, &step);
	return r ? lock_failed(err, lock->table, step, -r) : 0;
}

int netlock_drop_tcp(struct netlock *lock, const struct netlock_tcp *connections, size_t n,
		     struct ferry_error *err)
{
	return change(lock, true, connections, n, err);
}

int netlock_clear(struct netlock *lock, struct ferry_error *err)
{
	_cleanup_batch_ struct netlock_batch b = {0};
	enum netlock_step step;
	netlock_batch_begin(&b);
	netlock_batch_clear(&b, lock->table);
	int r = commit(lock->socket, &b, &step);
	return r ? lock_failed(err, lock->table, step, -r) : 0;
}

/* 1 = there is such a table, 0 = there is none. */
static int ask_table(struct netlink_socket *socket, const char *table)
{
	uint8_t bytes[NLMSG_HDRLEN + 64 + NETLOCK_TABLE_MAX] __attribute__((aligned(8)));
	struct nlmsghdr *h = netlink_begin(bytes);
	h->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	struct nfgenmsg *g = netlink_append(h, sizeof(*g));
	g->nfgen_family = NFPROTO_INET;
	g->version = NFNETLINK_V0;
	netlink_put_string(h, NFTA_TABLE_NAME, table);
	int r = netlink_ask(socket, h, NULL, NULL);
	return r == -ENOENT ? 0 : r ? r : 1;
}

struct table_name {
	char text[NETLOCK_TABLE_MAX];
};

struct table_list {
	VEC(struct table_name) v;
};

static int add_table(const struct nlmsghdr *h, void *ctx)
{
	struct table_list *list = ctx;
	netlink_for_each(attr, h, sizeof(struct nfgenmsg)) {
		if (netlink_attr_type(attr) != NFTA_TABLE_NAME)
			continue;
		const char *name = netlink_attr_string(attr);
		size_t n = strnlen(name, netlink_attr_len(attr));
		if (n >= NETLOCK_TABLE_MAX ||
		    strncmp(name, NETLOCK_IMAGE_PREFIX, strlen(NETLOCK_IMAGE_PREFIX)) != 0)
			continue;
		struct table_name *slot = vec_push(&list->v);
		if (!slot)
			return -ENOMEM;
		memcpy(slot->text, name, n);
		slot->text[n] = '\0';
	}
	return 0;
}

/* Locks that images left behind. */
static int list_tables(struct netlink_socket *socket, struct table_list *ret)
{
	const struct nfgenmsg all = {.nfgen_family = NFPROTO_INET, .version = NFNETLINK_V0};
	return netlink_list(socket, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, &all, sizeof(all),
			    add_table, ret);
}

static int forget_one(struct netlink_socket *socket, const char *table, const struct netlock_tcp *connection,
		      struct ferry_error *err)
{
	_cleanup_batch_ struct netlock_batch b = {0};
	enum netlock_step step;
	netlock_batch_begin(&b);
	netlock_batch_connections(&b, table, true, connection, 1);
	int r = commit(socket, &b, &step);
	return r && r != -ENOENT ? lock_failed(err, table, step, -r) : 0;
}

int netlock_forget(int netns_fd, const char *except_id, const struct netlock_tcp *connections, size_t n,
		   struct ferry_error *err)
{
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	struct table_list tables = {0};
	int r = n ? open_socket(netns_fd, NETLOCK_IMAGE_PREFIX, &socket, err) : 0;
	if (r < 0 || !n)
		return r;
	r = list_tables(socket, &tables);
	if (r < 0)
		r = lock_failed(err, NETLOCK_IMAGE_PREFIX, NETLOCK_STEP_TABLE, -r);
	vec_foreach(table, &tables.v) {
		for (size_t i = 0; i < n && r >= 0 && (!except_id || strcmp(table->text, except_id) != 0);
		     i++)
			r = forget_one(socket, table->text, &connections[i], err);
	}
	vec_release(&tables.v);
	return r;
}

int netlock_find(int netns_fd, const char *id, struct netlock **ret_lock, struct ferry_error *err)
{
	struct netlock *lock = calloc(1, sizeof(*lock));
	if (!lock)
		return error_memory(err);
	int r = table_name(id, lock->table, err);
	if (!r)
		r = open_socket(netns_fd, lock->table, &lock->socket, err);
	if (!r) {
		r = ask_table(lock->socket, lock->table);
		if (r < 0)
			lock_failed(err, lock->table, NETLOCK_STEP_TABLE, -r);
	}
	if (r <= 0) {
		netlock_close(lock);
		return r;
	}
	*ret_lock = lock;
	return 1;
}

/* 1 = removed, 0 = there was none. */
static int remove_table(struct netlink_socket *socket, const char *table, struct ferry_error *err)
{
	_cleanup_batch_ struct netlock_batch b = {0};
	enum netlock_step step;
	netlock_batch_begin(&b);
	netlock_batch_remove_table(&b, table);
	int r = commit(socket, &b, &step);
	if (r == -ENOENT)
		return 0;
	return r ? lock_failed(err, table, step, -r) : 1;
}

void netlock_close(struct netlock *lock)
{
	if (!lock)
		return;
	if (lock->socket)
		netlink_close(lock->socket);
	free(lock);
}

int netlock_remove(struct netlock *lock, struct ferry_error *err)
{
	if (!lock)
		return 0;
	int r = remove_table(lock->socket, lock->table, err);
	netlock_close(lock);
	return r < 0 ? r : 0;
}

int netlock_find_and_remove(int netns_fd, const char *id, struct ferry_error *err)
{
	_cleanup_netlink_ struct netlink_socket *socket = NULL;
	char table[NETLOCK_TABLE_MAX];
	int r = table_name(id, table, err);
	if (!r)
		r = open_socket(netns_fd, table, &socket, err);
	return r ? r : remove_table(socket, table, err);
}

int netlock_fd(const struct netlock *lock)
{
	return lock->socket->fd;
}

/* ------------------------------------------------------------- locks of a job */

struct netlocks_one {
	uint64_t namespace;
	bool whole;
	struct netlock *lock;
};

struct netlocks {
	char id[ID_MAX + 1];
	uint32_t mark;
	VEC(struct netlocks_one) v;
};

struct netlocks *netlocks_new(const char *id, uint32_t mark)
{
	struct netlocks *l = calloc(1, sizeof(*l));
	if (l) {
		snprintf(l->id, sizeof(l->id), "%s", id);
		l->mark = mark;
	}
	return l;
}

static struct netlocks_one *netlocks_find(const struct netlocks *l, uint64_t namespace)
{
	for (size_t i = 0; l && i < l->v.n; i++)
		if (l->v.v[i].namespace == namespace)
			return &l->v.v[i];
	return NULL;
}

bool netlocks_has(const struct netlocks *l, uint64_t namespace)
{
	return netlocks_find(l, namespace);
}

bool netlocks_has_any(const struct netlocks *l)
{
	return l && l->v.n;
}

bool netlocks_is_whole(const struct netlocks *l, uint64_t namespace)
{
	const struct netlocks_one *one = netlocks_find(l, namespace);
	return one && one->whole;
}

int netlocks_at(struct netlocks *l, uint64_t namespace, int netns_fd, struct netlock **ret_lock,
		struct ferry_error *err)
{
	const struct netlocks_one *known = netlocks_find(l, namespace);
	if (known) {
		*ret_lock = known->lock;
		return 0;
	}
	struct netlock *lock;
	int r = netlock_open(netns_fd, NETLOCK_OWNED, l->id, l->mark, &lock, err);
	struct netlocks_one *one = r < 0 ? NULL : vec_push(&l->v);
	if (r >= 0 && !one) {
		netlock_close(lock);
		return error_memory(err);
	}
	if (r >= 0) {
		*one = (struct netlocks_one){.namespace = namespace, .lock = lock};
		*ret_lock = lock;
	}
	return r;
}

int netlocks_whole(struct netlocks *l, uint64_t namespace, int netns_fd, struct ferry_error *err)
{
	struct netlock *lock;
	int r = netlocks_at(l, namespace, netns_fd, &lock, err);
	if (r >= 0)
		r = netlock_add_whole(lock, err);
	struct netlocks_one *one = netlocks_find(l, namespace);
	if (r >= 0 && one)
		one->whole = true;
	return r;
}

int netlocks_clear(struct netlocks *l, struct ferry_error *err)
{
	int first = 0;
	for (size_t i = 0; l && i < l->v.n; i++) {
		int r = netlock_clear(l->v.v[i].lock, first < 0 ? NULL : err);
		l->v.v[i].whole = false;
		first = first < 0 ? first : r;
	}
	return first;
}

int netlocks_remove(struct netlocks *l, struct ferry_error *err)
{
	int first = 0;
	for (size_t i = 0; l && i < l->v.n; i++) {
		int r = netlock_remove(l->v.v[i].lock, first < 0 ? NULL : err);
		first = first < 0 ? first : r;
	}
	if (l)
		l->v.n = 0;
	return first;
}

void netlocks_free(struct netlocks *l)
{
	for (size_t i = 0; l && i < l->v.n; i++)
		netlock_close(l->v.v[i].lock);
	if (l)
		vec_release(&l->v);
	free(l);
}
