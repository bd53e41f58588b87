/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the network tests share: namespaces of their own, connected pairs of sockets, and streams of bytes whose
 * every byte is known from its position, so that one lost, doubled or changed byte fails the test.
 */
#pragma once

#include "../../unit/unit.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include <linux/sockios.h>

#include <ferry/tcp.h>

/* A new network namespace with loopback up for the calling thread. */
void lab_enter(void);

/* A new network namespace, loopback up, the caller stays where it is. Returns its descriptor. */
int lab_netns(void);

/* Go to a namespace, return to the first one. */
void lab_go(int netns_fd);

/* Run a shell command that must succeed. */
void lab_run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* What a command prints, at most n - 1 bytes. */
void lab_read(char *text, size_t n, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Write a sysctl of the current namespace: "net/ipv4/tcp_sack". */
void lab_sysctl(const char *name, const char *value);

/* One counter of /proc/net/snmp or netstat in the current namespace: lab_counter("Tcp", "OutRsts"). */
long lab_counter(const char *group, const char *name);

uint64_t lab_now_ms(void);
uint64_t lab_now_us(void);

/* One end of a connection. The bytes it sends follow its own seed, those it receives the peer's. */
struct end {
	int fd;
	uint64_t out_seed;
	uint64_t in_seed;
	uint64_t sent;
	uint64_t received;
};

enum family { V4, V6, MAPPED, MAPPED_LISTEN, FAMILIES };
extern const char *const family_names[FAMILIES];

struct pair_options {
	int a_rcvbuf; /* SO_RCVBUF before the handshake, 0 = default */
	int b_rcvbuf;
	int a_sndbuf;
};

/* Connect a to b over loopback; a is the accepted end unless 'a_connects'. */
void pair_open(enum family family, bool a_connects, const struct pair_options *options, struct end *a,
	       struct end *b);
void pair_close(struct end *a, struct end *b);

/* Send n bytes, receive and check n bytes; both must succeed within a few seconds. */
void end_send(struct end *e, size_t n);
void end_receive(struct end *e, size_t n);

/* Send until nothing more fits. Returns the number of bytes. */
size_t end_fill(struct end *e);

/* Receive and check until the peer's FIN. Returns the number of bytes. */
size_t end_receive_all(struct end *e);

/* Send n bytes from each end to the other at once, checked. What was already under way is received as well. */
void pair_exchange(struct end *a, struct end *b, size_t n);

/* Send and receive one block each if possible, without waiting. Returns the number of bytes moved. */
size_t end_step(struct end *e, uint64_t send_goal);

/* Receive what the other has sent already. */
void end_catch_up(struct end *e, const struct end *from);

unsigned end_state(const struct end *e);
int end_queue(const struct end *e, unsigned long request); /* SIOCINQ, SIOCOUTQ, SIOCOUTQNSD */

/* Wait up to 5 s until the end is in this state. */
void end_wait_state(const struct end *e, unsigned state);

/* Where the connection of this end is, for a lock. */
struct netlock_tcp;
void end_locate(const struct end *e, struct netlock_tcp *ret_connection);

/*
 * Packets to this end are lost on the wire from now on, the sender not knowing; end_lose_nothing() ends that.
 * The rule is the test's own, not ferry's.
 */
void end_lose_input(const struct end *e);
void end_lose_nothing(void);

/*
 * Lock the connection, take it, close it silently, rebuild it, compare the kernel's figures with the old
 * socket's, unlock, resume. ret_state: what was taken, NULL = not wanted, else to be released.
 */
void end_move(struct end *e, struct ferry_tcp *ret_state);

/* Assert that a call of ours succeeded, printing its error otherwise. */
#define assert_ferry(call, err)                                                                     \
	do {                                                                                        \
		int assert_r_ = (call);                                                             \
		if (assert_r_ < 0)                                                                  \
			fail_msg("%s: %d: %s (%s)", #call, assert_r_, (err)->message, (err)->hint); \
	} while (0)
