/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection moves to another network namespace, as it does to another machine: the address is taken away
 * here and added there, the new place is announced to a peer behind a bridge, and locks on both sides keep
 * every RST from being sent. The peer streams all the while and never learns.
 */
#include "lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "host/address.h"
#include "host/netlock.h"

enum { PORT = 7000, MOVES = 6, AFTER_BYTES = 4 << 20 };

struct node {
	int netns_fd;
	const char *device;
};

/* Two nodes and the namespace of the peer, which also holds the bridge. */
struct world {
	int home_fd;
	int peer_fd;
	struct node nodes[2];
};

static const char service_v4[] = "10.77.0.10";
static const char service_v6[] = "fd77::10";

static int open_own(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void add_node(struct world *w, int i)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	w->nodes[i].netns_fd = lab_netns();
	w->nodes[i].device = "eth0";
	lab_go(w->peer_fd);
	lab_run("ip link add port%d type veth peer name eth0 netns /proc/%d/fd/%d", i, getpid(),
		w->nodes[i].netns_fd);
	lab_run("ip link set port%d master br0 up", i);
	lab_go(w->home_fd);
	/*
	 * Addresses of the nodes themselves give each a route to the peer before the service's address is
	 * there.
	 */
	lab_go(w->nodes[i].netns_fd);
	lab_run("ip link set eth0 up; ip address add 10.77.0.%d/24 dev eth0; ip address add fd77::%d/64 dev eth0 nodad",
		2 + i, 2 + i);
	lab_go(w->home_fd);
	error_clear(&err);
}

static void world_open(struct world *w)
{
	w->home_fd = open_own();
	w->peer_fd = lab_netns();
	lab_go(w->peer_fd);
	lab_run("ip link add br0 type bridge && ip link set br0 up && ip address add 10.77.0.1/24 dev br0 && "
		"ip address add fd77::1/64 dev br0 nodad");
	lab_go(w->home_fd);
	add_node(w, 0);
	add_node(w, 1);
}

static void world_close(struct world *w)
{
	close(w->nodes[0].netns_fd);
	close(w->nodes[1].netns_fd);
	close(w->peer_fd);
	close(w->home_fd);
}

static struct address service_address(int family, const char *device)
{
	struct address a = {.family = (uint16_t)family, .prefix_len = family == AF_INET ? 24 : 64};
	snprintf(a.device, sizeof(a.device), "%s", device);
	assert_int_equal(inet_pton(family, family == AF_INET ? service_v4 : service_v6, a.bytes), 1);
	return a;
}

static socklen_t socket_address(int family, struct sockaddr_storage *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (family == AF_INET) {
		struct sockaddr_in *a = (struct sockaddr_in *)ret;
		a->sin_family = AF_INET;
		a->sin_port = htons(PORT);
		inet_pton(AF_INET, service_v4, &a->sin_addr);
		return sizeof(*a);
	}
	struct sockaddr_in6 *a = (struct sockaddr_in6 *)ret;
	a->sin6_family = AF_INET6;
	a->sin6_port = htons(PORT);
	inet_pton(AF_INET6, service_v6, &a->sin6_addr);
	return sizeof(*a);
}

/* The service listens on node 0, the peer connects. */
static void connect_peer(struct world *w, int family, struct end *service, struct end *peer)
{
	struct sockaddr_storage address;
	struct ferry_error err = FERRY_ERROR_INIT;
	struct address a = service_address(family, "eth0");
	int one = 1;
	socklen_t n = socket_address(family, &address);
	assert_int_equal(address_add(w->nodes[0].netns_fd, &a, &err), 1);
	assert_int_equal(address_add(w->nodes[0].netns_fd, &a, &err), 0);
	lab_go(w->nodes[0].netns_fd);
	int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
	assert_int_equal(listen(listener, 4), 0);
	lab_go(w->peer_fd);
	peer->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(peer->fd, (struct sockaddr *)&address, n), 0);
	lab_go(w->home_fd);
	service->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(service->fd >= 0);
	close(listener);
	service->out_seed = peer->in_seed = 11;
	service->in_seed = peer->out_seed = 12;
}

static struct netlock *lock_node(const struct node *node, enum netlock_mode mode, const struct netlock_tcp *c)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct netlock *lock = NULL;
	assert_ferry(netlock_open(node->netns_fd, mode, "move", NETLOCK_MARK, &lock, &err), &err);
	assert_ferry(netlock_add_tcp(lock, c, 1, &err), &err);
	return lock;
}

/* Returns the time from lock to resume in microseconds. */
static uint64_t move_between(struct world *w, struct end *service, int from, int to)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_tcp t = FERRY_TCP_INIT;
	struct ferry_tcp_options options = FERRY_TCP_OPTIONS_INIT;
	struct netlock_tcp c;
	end_locate(service, &c);

	struct address a = service_address(c.family, "eth0");
	int announce_fd = announce_open(w->nodes[to].netns_fd, &err);
	assert_true(announce_fd >= 0);
	uint64_t began = lab_now_us();
	struct netlock *source_lock = lock_node(&w->nodes[from], NETLOCK_OWNED, &c);
	options.flags = FERRY_TCP_PAUSE;
	int unsent = end_queue(service, SIOCOUTQNSD);
	assert_ferry(ferry_tcp_take(service->fd, &options, &t, &err), &err);
	assert_int_equal(t.unsent_len, unsent);

	/* The source: the socket dies without a word, and the address goes. */
	assert_ferry(ferry_tcp_close_silently(service->fd, &err), &err);
	assert_int_equal(address_remove(w->nodes[from].netns_fd, &a, &err), 1);
	assert_int_equal(address_remove(w->nodes[from].netns_fd, &a, &err), 0);

	/* The target: locked before the address is there, so that nobody answers for a socket that is not. */
	netlock_close(lock_node(&w->nodes[to], NETLOCK_PERSIST, &c));
	assert_int_equal(address_add(w->nodes[to].netns_fd, &a, &err), 1);
	assert_ferry(address_announce(announce_fd, &a, 1, 0, &err), &err);
	lab_go(w->nodes[to].netns_fd);
	options.flags = 0;
	options.packet_mark = NETLOCK_MARK;
	assert_ferry(ferry_tcp_rebuild(&t, &options, &service->fd, &err), &err);
	lab_go(w->home_fd);
	struct netlock *target_lock = NULL;
	assert_int_equal(netlock_find(w->nodes[to].netns_fd, "move", &target_lock, &err), 1);
	assert_ferry(netlock_clear(target_lock, &err), &err);
	assert_ferry(ferry_tcp_resume(service->fd, &t.undo, 0, &err), &err);
	uint64_t took = lab_now_us() - began;
	assert_ferry(address_announce(announce_fd, &a, 1, 0, &err), &err);
	close(announce_fd);
	netlock_close(target_lock);
	assert_int_equal(netlock_find_and_remove(w->nodes[to].netns_fd, "move", &err), 1);
	assert_int_equal(netlock_find_and_remove(w->nodes[to].netns_fd, "move", &err), 0);
	assert_int_equal(netlock_find(w->nodes[to].netns_fd, "move", &target_lock, &err), 0);
	assert_ferry(netlock_remove(source_lock, &err), &err);
	ferry_tcp_release(&t);
	return took;
}

/* The peer streams in a thread of its own and measures the longest time in which nothing came. */
struct peer {
	struct end *end;
	atomic_bool stop;
	uint64_t longest_gap_ms;
};

static void *run_peer(void *arg)
{
	struct peer *p = arg;
	uint64_t last = lab_now_ms();
	while (!atomic_load(&p->stop)) {
		uint64_t received = p->end->received;
		if (!end_step(p->end, UINT64_MAX))
			usleep(200);
		if (p->end->received == received)
			continue;
		uint64_t now = lab_now_ms();
		p->longest_gap_ms = now - last > p->longest_gap_ms ? now - last : p->longest_gap_ms;
		last = now;
	}
	return NULL;
}

static void assert_clean(const struct world *w)
{
	char text[256];
	for (int i = 0; i < 2; i++) {
		lab_go(w->nodes[i].netns_fd);
		lab_read(text, sizeof(text), "nft list tables");
		assert_string_equal(text, "");
		assert_int_equal(lab_counter("Tcp", "OutRsts"), 0);
		assert_int_equal(lab_counter("Tcp", "CurrEstab"), 0);
	}
	lab_go(w->peer_fd);
	assert_int_equal(lab_counter("Tcp", "OutRsts"), 0);
	lab_go(w->home_fd);
}

static void ping_pong(int family)
{
	struct world w = {0};
	struct end service = {0};
	struct end peer_end = {0};
	struct peer p = {.end = &peer_end};
	pthread_t thread;
	uint64_t longest_us = 0;
	world_open(&w);
	connect_peer(&w, family, &service, &peer_end);
	pair_exchange(&service, &peer_end, 1 << 20);
	assert_int_equal(pthread_create(&thread, NULL, run_peer, &p), 0);
	for (int i = 0; i < MOVES; i++) {
		uint64_t goal = service.received + AFTER_BYTES;
		uint64_t sent_goal = service.sent + AFTER_BYTES;
		for (uint64_t end = lab_now_ms() + 20000;
		     service.received < goal || service.sent < sent_goal;) {
			if (!end_step(&service, UINT64_MAX))
				usleep(100);
			assert_true(lab_now_ms() < end);
		}
		uint64_t us = move_between(&w, &service, i % 2, 1 - i % 2);
		longest_us = us > longest_us ? us : longest_us;
	}
	uint64_t received = service.received;
	while (service.received < received + AFTER_BYTES)
		end_receive(&service, 4096);
	atomic_store(&p.stop, true);
	/* The peer may wait in the middle of its step for room: keep reading until it is gone. */
	while (pthread_tryjoin_np(thread, NULL))
		end_step(&service, 0);
	pair_exchange(&service, &peer_end, AFTER_BYTES);
	assert_true(service.received == peer_end.sent && peer_end.received == service.sent);
	print_message(
		"%s: %d moves, %llu and %llu bytes, longest move %llu us, longest gap at the peer %llu ms\n",
		family == AF_INET ? "IPv4" : "IPv6", MOVES, (unsigned long long)service.received,
		(unsigned long long)peer_end.received, (unsigned long long)longest_us,
		(unsigned long long)p.longest_gap_ms);
	/* An orderly end: a FIN each way, still no RST. */
	assert_int_equal(shutdown(service.fd, SHUT_WR), 0);
	assert_int_equal(end_receive_all(&peer_end), 0);
	close(peer_end.fd);
	assert_int_equal(end_receive_all(&service), 0);
	close(service.fd);
	assert_clean(&w);
	world_close(&w);
}

static void test_move_v4(void **state)
{
	(void)state;
	ping_pong(AF_INET);
}

static void test_move_v6(void **state)
{
	(void)state;
	ping_pong(AF_INET6);
}

/* Half-closed across namespaces: the packets that rebuild it pass the lock by their mark and stay inside. */
static void test_move_half_closed(void **state)
{
	(void)state;
	for (int by_peer = 0; by_peer < 2; by_peer++) {
		for (int v6 = 0; v6 < 2; v6++) {
			struct world w = {0};
			struct end service = {0};
			struct end peer = {0};
			world_open(&w);
			connect_peer(&w, v6 ? AF_INET6 : AF_INET, &service, &peer);
			end_send(&peer, 10000);
			end_send(&service, 10000);
			struct end *first = by_peer ? &peer : &service;
			struct end *second = by_peer ? &service : &peer;
			assert_int_equal(shutdown(first->fd, SHUT_WR), 0);
			unsigned expected = by_peer ? FERRY_TCP_CLOSE_WAIT : FERRY_TCP_FIN_WAIT2;
			for (int i = 0; i < 2; i++) {
				end_wait_state(&service, expected);
				move_between(&w, &service, i, 1 - i);
				assert_int_equal(end_state(&service), expected);
			}
			end_receive(first, 10000);
			end_receive(second, 10000);
			end_send(second, 200000);
			end_receive(first, 200000);
			assert_int_equal(end_receive_all(second), 0);
			assert_int_equal(shutdown(second->fd, SHUT_WR), 0);
			assert_int_equal(end_receive_all(first), 0);
			close(service.fd);
			close(peer.fd);
			assert_clean(&w);
			world_close(&w);
		}
	}
}

static void expect_rebuild_error(const struct ferry_tcp *t, const struct ferry_tcp_options *o, int code,
				 enum ferry_error_id id, const char *hint)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	int fd = -1;
	int r = ferry_tcp_rebuild(t, o, &fd, &err);
	if (r != -code || err.id != id || !strstr(err.hint, hint))
		fail_msg("expected -%d %s, got %d: %s (%s)", code, ferry_error_word(id), r, err.message,
			 err.hint);
	assert_int_equal(fd, -1);
}

/* A rebuild that cannot work says why and leaves nothing. */
static void test_rebuild_refused(void **state)
{
	struct world w = {0};
	struct end service = {0};
	struct end peer = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_tcp t = FERRY_TCP_INIT;
	struct ferry_tcp_options o = FERRY_TCP_OPTIONS_INIT;
	(void)state;
	world_open(&w);
	connect_peer(&w, AF_INET, &service, &peer);
	assert_ferry(ferry_tcp_take(service.fd, NULL, &t, &err), &err);
	lab_go(w.nodes[0].netns_fd);
	expect_rebuild_error(&t, NULL, EADDRNOTAVAIL, FERRY_ERROR_ADDRESS_TAKEN, "exists");
	lab_go(w.nodes[1].netns_fd);
	expect_rebuild_error(&t, NULL, EADDRNOTAVAIL, FERRY_ERROR_ADDRESS_TAKEN, "add the local address");
	o.bound_device = "none0";
	expect_rebuild_error(&t, &o, ENODEV, FERRY_ERROR_ADDRESS_TAKEN, "");
	o.bound_device = "eth0";
	o.flags = FERRY_TCP_TRANSPARENT;
	lab_run("ip link set eth0 down");
	expect_rebuild_error(&t, &o, ENETUNREACH, FERRY_ERROR_SYSTEM, "route");
	lab_run("ip link set eth0 up");
	int fd = -1;
	assert_ferry(ferry_tcp_rebuild(&t, &o, &fd, &err), &err);
	assert_ferry(ferry_tcp_close_silently(fd, &err), &err);
	lab_go(w.home_fd);
	pair_exchange(&service, &peer, AFTER_BYTES);
	pair_close(&service, &peer);
	ferry_tcp_release(&t);
	world_close(&w);
}

/* Link-local addresses mean something only together with a device. */
static void test_link_local(void **state)
{
	(void)state;
	for (int half_closed = 0; half_closed < 2; half_closed++) {
		struct world w = {0};
		struct end service = {.out_seed = 1, .in_seed = 2};
		struct end peer = {.out_seed = 2, .in_seed = 1};
		struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
		socklen_t n = sizeof(address);
		world_open(&w);
		inet_pton(AF_INET6, "fe80::10", &address.sin6_addr);
		lab_go(w.nodes[0].netns_fd);
		lab_run("ip address add fe80::10/64 dev eth0 nodad");
		usleep(20000);
		address.sin6_scope_id = if_nametoindex("eth0");
		int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
		assert_int_equal(listen(listener, 4), 0);
		lab_go(w.peer_fd);
		lab_run("ip address add fe80::1/64 dev br0 nodad");
		usleep(20000);
		address.sin6_scope_id = if_nametoindex("br0");
		peer.fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(peer.fd, (struct sockaddr *)&address, n), 0);
		service.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		close(listener);
		lab_go(w.nodes[0].netns_fd);
		end_send(&peer, 5000);
		if (half_closed) {
			assert_int_equal(shutdown(peer.fd, SHUT_WR), 0);
			end_wait_state(&service, FERRY_TCP_CLOSE_WAIT);
		}
		for (int i = 0; i < 2; i++) {
			struct ferry_tcp t = FERRY_TCP_INIT;
			end_move(&service, &t);
			assert_int_equal(t.scope_id, if_nametoindex("eth0"));
			ferry_tcp_release(&t);
		}
		end_receive(&service, 5000);
		end_send(&service, 100000);
		end_receive(&peer, 100000);
		if (!half_closed)
			pair_exchange(&service, &peer, AFTER_BYTES);
		pair_close(&service, &peer);
		lab_go(w.home_fd);
		world_close(&w);
	}
}

/* Options that go with binding reach the new socket. */
static void test_rebuild_options(void **state)
{
	struct world w = {0};
	struct end service = {0};
	struct end peer = {0};
	(void)state;
	for (int v6 = 0; v6 < 2; v6++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		struct ferry_tcp t = FERRY_TCP_INIT;
		struct ferry_tcp_options o = FERRY_TCP_OPTIONS_INIT;
		world_open(&w);
		service = (struct end){0};
		peer = (struct end){0};
		connect_peer(&w, v6 ? AF_INET6 : AF_INET, &service, &peer);
		o.flags = FERRY_TCP_PAUSE;
		assert_ferry(ferry_tcp_take(service.fd, &o, &t, &err), &err);
		assert_ferry(ferry_tcp_close_silently(service.fd, &err), &err);
		lab_go(w.nodes[0].netns_fd);
		o.flags = FERRY_TCP_FREEBIND | FERRY_TCP_SET_TOS | FERRY_TCP_SET_TTL | FERRY_TCP_NONBLOCK;
		o.bound_device = "eth0";
		o.mark = 77;
		o.tos = 0x48;
		o.ttl = 33;
		assert_ferry(ferry_tcp_rebuild(&t, &o, &service.fd, &err), &err);
		lab_go(w.home_fd);
		assert_ferry(ferry_tcp_resume(service.fd, &t.undo, 0, &err), &err);
		const struct {
			int level;
			int name;
			int value;
		} expected[] = {
			{SOL_SOCKET, SO_MARK, 77},
			{v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TCLASS : IP_TOS, 0x48},
			{v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_UNICAST_HOPS : IP_TTL, 33},
			{v6 ? SOL_IPV6 : SOL_IP, v6 ? 78 : IP_FREEBIND, 1},
		};
		for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
			int value = -1;
			socklen_t n = sizeof(value);
			assert_int_equal(
				getsockopt(service.fd, expected[i].level, expected[i].name, &value, &n), 0);
			assert_int_equal(value, expected[i].value);
		}
		char device[16] = "";
		socklen_t n = sizeof(device);
		assert_int_equal(getsockopt(service.fd, SOL_SOCKET, SO_BINDTODEVICE, device, &n), 0);
		assert_string_equal(device, "eth0");
		assert_true(fcntl(service.fd, F_GETFL) & O_NONBLOCK);
		assert_true(fcntl(service.fd, F_GETFD) & FD_CLOEXEC);
		pair_exchange(&service, &peer, AFTER_BYTES);
		pair_close(&service, &peer);
		ferry_tcp_release(&t);
		world_close(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_move_v4),          cmocka_unit_test(test_move_v6),
		cmocka_unit_test(test_move_half_closed), cmocka_unit_test(test_rebuild_refused),
		cmocka_unit_test(test_rebuild_options),  cmocka_unit_test(test_link_local),
	};
	return cmocka_run_group_tests_name("tcp-netns", tests, NULL, NULL);
}
