/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of the internet sockets: inet.c saves them, inet_restore.c brings them back, tcp.c does
 * connections.
 */
#pragma once

#include <netinet/in.h>

#include <ferry/tcp.h>

#include "image/proto/sk-inet.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"
#include "kind/sockextra.h"
#include "model/kind.h"
#include "proc/sockdiag.h"

/* Kernel's numbers in inet_sk_entry.state; UDP knows connected and closed. */
enum inet_state {
	INET_CONNECTED = 1,
	INET_SYN_SENT = 2,
	INET_SYN_RECV = 3,
	INET_CLOSED = 7,
	INET_LISTENING = 10
};

/* During one check or collect. */
struct inet_scan {
	struct inet_sock *socks; /* all of this network namespace, by inode */
	size_t n;
	struct inet_chooser
		*choosers; /* those with a program that chooses among them; NULL = not asked yet */
	size_t n_choosers;
	bool blind; /* nobody tells us who chooses */
};

/* snap_file.data */
struct inet_snap {
	FerrySocketEntry *extra;
	struct tcp_snap *tcp; /* of a connection */
	TcpStreamEntry *dead; /* of one that is over */
	uint8_t *inq;         /* its bytes */
};

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262 /* Linux 5.6 */
#endif

static inline bool inet_is_tcp(const InetSkEntry *isk)
{
	return isk->proto == IPPROTO_TCP || isk->proto == IPPROTO_MPTCP;
}

static inline bool inet_is_udp(const InetSkEntry *isk)
{
	return isk->type == SOCK_DGRAM && (isk->proto == IPPROTO_UDP || isk->proto == IPPROTO_UDPLITE);
}

/* What the state field says: a connection that has sequence numbers, or will have them. */
static inline bool inet_is_connection(const InetSkEntry *isk)
{
	return isk->proto == IPPROTO_TCP && isk->state != INET_CLOSED && isk->state != INET_LISTENING;
}

/* inet_restore.c */
must_check int inet_read(struct reader *r, struct ferry_error *err);
must_check int inet_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err);
must_check int inet_settle(struct settle *s, struct plan_file *file, int fd, struct ferry_error *err);

/* The device that a link-local address belongs to. 0: none, or none here. */
unsigned inet_scope(const InetSkEntry *isk);

/* IP_TRANSPARENT or its IPv6 twin: a socket may be bound to an address that is not there yet. 0 or -errno. */
must_check int inet_set_transparent(int fd, const InetSkEntry *isk, bool on);

/* Options, filter, flags of a socket that stands; of a connection with what tcp_opts says, too. */
must_check int inet_finish(struct opener *o, const struct plan_file *file, int fd, struct ferry_error *err);

/* inet_groups.c: multicast groups; fd is our copy, family the socket's. */
must_check int inet_groups_collect(struct arena *a, int fd, int family, FerrySocketEntry *extra,
				   struct ferry_error *err);
must_check int inet_groups_restore(int fd, const FerrySocketEntry *extra, struct ferry_error *err);

/* tcp.c: connections. collect_end locks and pauses all; restore leaves the new socket paused. */
must_check int tcp_collect(struct collect *c, struct fd_view *view, struct snap_file *file, InetSkEntry *isk,
			   struct ferry_error *err);
must_check int tcp_collect_over(struct collect *c, struct snap_file *file, InetSkEntry *isk,
				struct ferry_error *err);
must_check int tcp_collect_end(struct collect *c, struct ferry_error *err);
must_check int tcp_dump(struct dump *d, struct snap_file *file, struct ferry_error *err);
must_check int tcp_after(struct collect *c, struct image_dir *dir, bool kill, struct ferry_error *err);
/* A socket that was connecting: it does so again when the tasks run. */
must_check int tcp_connecting_restore(struct opener *o, struct plan_file *file, int *ret_fd,
				      struct ferry_error *err);
/* inet_restore.c: bind as the record says; 1: the address is not there yet and the socket is transparent for now. */
must_check int inet_bind(struct opener *o, const struct plan_file *file, int fd, struct ferry_error *err);
socklen_t inet_address(const InetSkEntry *isk, bool remote, struct sockaddr_storage *ret);
must_check int tcp_restore(struct opener *o, struct plan_file *file, int *ret_fd, struct ferry_error *err);
/* Blocks the connections that the image has where ferry stands. */
must_check int tcp_lock_plan(struct opener *o, struct ferry_error *err);
must_check int tcp_ready(struct opener *o, struct ferry_error *err);
void tcp_before_run(struct opener *o);

/* sock_plan.kind of a TCP socket: what tcp-stream-*.img has. */
struct tcp_plan {
	TcpStreamEntry *stream; /* NULL: there is no such file */
	uint8_t *inq, *outq;
	bool paused;                /* rebuilt and in repair mode */
	bool transparent;           /* rebuilt before its address was there */
	struct ferry_tcp_undo undo; /* for its end */
	int entry;                  /* in the undo log */
};

/* Load the queues of a connection, or of one that is over. */
must_check int tcp_read(struct reader *r, struct plan_file *file, struct ferry_error *err);

/* tcp_dead.c: a connection that is over: what is left of it can be read, and nothing else. */
must_check int tcp_dead_collect(struct collect *c, struct fd_view *view, struct snap_file *file,
				InetSkEntry *isk, struct ferry_error *err);
must_check int tcp_dead_restore(struct opener *o, struct plan_file *file, int *ret_fd,
				struct ferry_error *err);
bool tcp_is_dead(const struct plan_file *file);
bool tcp_was_connected(int fd, unsigned state);

/* tcp_convert.c: 1:1, between the image and libferry-tcp. ret borrows the queues. */
must_check int tcp_from_records(const InetSkEntry *isk, const struct tcp_plan *plan,
				const FerrySocketEntry *extra, struct ferry_tcp *ret,
				struct ferry_error *err);
void tcp_to_stream(const struct ferry_tcp *t, TcpStreamEntry *ret);

/* SK_SHUTDOWN__x of a connection. */
unsigned tcp_shutdown_of(const struct ferry_tcp *t);

/* Programs that choose among the sockets of one port. */
must_check int inet_chooser_check(const struct fd_view *view, struct inet_scan *scan,
				  struct ferry_error *err);
must_check int inet_chooser_collect(const struct fd_view *view, struct inet_scan *scan,
				    FerrySocketEntry *extra, struct ferry_error *err);
must_check int inet_chooser_restore(int fd, const FerrySocketEntry *extra, struct ferry_error *err);
