/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the shared part of the network tests: lab.h. */
#include "lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "host/netlock.h"

enum { PATIENCE_MS = 15000, BLOCK_BYTES = 64 * 1024 };

const char *const family_names[FAMILIES] = {"IPv4", "IPv6", "v4-mapped", "v4-mapped accepted"};

static void loopback_up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
	close(fd);
}

void lab_enter(void)
{
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	loopback_up();
}

int lab_netns(void)
{
	int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(home >= 0);
	lab_enter();
	int made = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(made >= 0);
	lab_go(home);
	close(home);
	return made;
}

void lab_go(int netns_fd)
{
	assert_int_equal(setns(netns_fd, CLONE_NEWNET), 0);
}

void lab_run(const char *fmt, ...)
{
	char command[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	int status = system(command);
	if (status)
		fail_msg("'%s' ended with %d", command, status);
}

void lab_read(char *text, size_t n, const char *fmt, ...)
{
	char command[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	FILE *f = popen(command, "re");
	assert_non_null(f);
	size_t got = fread(text, 1, n - 1, f);
	text[got] = '\0';
	assert_int_equal(pclose(f), 0);
}

void lab_sysctl(const char *name, const char *value)
{
	char path[128];
	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, value, strlen(value)), strlen(value));
	close(fd);
}

long lab_counter(const char *group, const char *name)
{
	char names[8192];
	char values[8192];
	bool extended = strcmp(group, "TcpExt") == 0;
	FILE *f = fopen(extended ? "/proc/thread-self/net/netstat" : "/proc/thread-self/net/snmp", "re");
	assert_non_null(f);
	while (fgets(names, sizeof(names), f) && fgets(values, sizeof(values), f)) {
		if (strncmp(names, group, strlen(group)) != 0 || names[strlen(group)] != ':')
			continue;
		char *n_at = names;
		char *v_at = values;
		char *n_save = NULL;
		char *v_save = NULL;
		for (;;) {
			const char *n = strtok_r(n_at, " \n", &n_save);
			const char *v = strtok_r(v_at, " \n", &v_save);
			if (!n || !v)
				break;
			n_at = NULL;
			v_at = NULL;
			if (strcmp(n, name) == 0) {
				fclose(f);
				return strtol(v, NULL, 10);
			}
		}
	}
	fclose(f);
	fail_msg("no counter %s.%s", group, name);
	return -1;
}

uint64_t lab_now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t lab_now_ms(void)
{
	return lab_now_us() / 1000;
}

/* A byte of a stream from its position alone. */
static uint8_t stream_byte(uint64_t seed, uint64_t position)
{
	uint64_t z = seed + (position >> 3) * 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return (uint8_t)((z ^ (z >> 31)) >> (8 * (position & 7)));
}

static void stream_fill(uint64_t seed, uint64_t position, uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		bytes[i] = stream_byte(seed, position + i);
}

static void stream_check(uint64_t seed, uint64_t position, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (bytes[i] != stream_byte(seed, position + i))
			fail_msg("byte %llu of the stream is wrong", (unsigned long long)(position + i));
	}
}

static socklen_t pair_address(enum family family, bool for_listener, struct sockaddr_storage *ret)
{
	bool v4 = family == V4 || (family == MAPPED && for_listener) ||
		  (family == MAPPED_LISTEN && !for_listener);
	memset(ret, 0, sizeof(*ret));
	if (v4) {
		struct sockaddr_in *a = (struct sockaddr_in *)ret;
		a->sin_family = AF_INET;
		a->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(*a);
	}
	struct sockaddr_in6 *a = (struct sockaddr_in6 *)ret;
	a->sin6_family = AF_INET6;
	const char *text = family == V6 ? "::1" : for_listener ? "::" : "::ffff:127.0.0.1";
	assert_int_equal(inet_pton(AF_INET6, text, &a->sin6_addr), 1);
	return sizeof(*a);
}

/* Both families have the port in the same place. */
static uint16_t *address_port(struct sockaddr_storage *a)
{
	_Static_assert(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port),
		       "port");
	return &((struct sockaddr_in *)a)->sin_port;
}

static void set_int(int fd, int level, int name, int value)
{
	if (value)
		assert_int_equal(setsockopt(fd, level, name, &value, sizeof(value)), 0);
}

void pair_open(enum family family, bool a_connects, const struct pair_options *options, struct end *a,
	       struct end *b)
{
	static const struct pair_options none;
	static uint64_t seed;
	struct sockaddr_storage address = {0};
	const struct pair_options *o = options ? options : &none;
	socklen_t n = pair_address(family, true, &address);
	int listener = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(listener >= 0);
	set_int(listener, SOL_SOCKET, SO_RCVBUF, a_connects ? o->b_rcvbuf : o->a_rcvbuf);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
	assert_int_equal(listen(listener, 8), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
	uint16_t port = *address_port(&address);
	n = pair_address(family, false, &address);
	*address_port(&address) = port;
	int client = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(client >= 0);
	set_int(client, SOL_SOCKET, SO_RCVBUF, a_connects ? o->a_rcvbuf : o->b_rcvbuf);
	assert_int_equal(connect(client, (struct sockaddr *)&address, n), 0);
	int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(server >= 0);
	close(listener);
	seed += 2;
	*a = (struct end){a_connects ? client : server, seed, seed + 1, 0, 0};
	*b = (struct end){a_connects ? server : client, seed + 1, seed, 0, 0};
	set_int(a->fd, SOL_SOCKET, SO_SNDBUF, o->a_sndbuf);
}

void pair_close(struct end *a, struct end *b)
{
	close(a->fd);
	close(b->fd);
}

static void wait_for(int fd, short events, const char *what)
{
	struct pollfd p = {.fd = fd, .events = events};
	int r = poll(&p, 1, PATIENCE_MS);
	if (r <= 0)
		fail_msg("%s: nothing happened for %d ms", what, PATIENCE_MS);
}

/* Returns the number of bytes sent, 0 when nothing fits. */
static size_t send_some(struct end *e, size_t n)
{
	uint8_t block[BLOCK_BYTES];
	if (n > sizeof(block))
		n = sizeof(block);
	stream_fill(e->out_seed, e->sent, block, n);
	ssize_t r = send(e->fd, block, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r < 0 && errno == EAGAIN)
		return 0;
	if (r < 0)
		fail_msg("send: %s", strerror(errno));
	e->sent += (uint64_t)r;
	return (size_t)r;
}

/* Returns the number of bytes, 0 when there are none yet, -1 at the end. */
static ssize_t receive_some(struct end *e, size_t n)
{
	uint8_t block[BLOCK_BYTES];
	ssize_t r = recv(e->fd, block, n < sizeof(block) ? n : sizeof(block), MSG_DONTWAIT);
	if (r < 0 && errno == EAGAIN)
		return 0;
	if (r < 0)
		fail_msg("recv: %s", strerror(errno));
	if (!r)
		return -1;
	stream_check(e->in_seed, e->received, block, (size_t)r);
	e->received += (uint64_t)r;
	return r;
}

void end_send(struct end *e, size_t n)
{
	while (n) {
		size_t r = send_some(e, n);
		n -= r;
		if (!r)
			wait_for(e->fd, POLLOUT, "send");
	}
}

void end_receive(struct end *e, size_t n)
{
	while (n) {
		ssize_t r = receive_some(e, n);
		if (r < 0)
			fail_msg("the stream ended %zu bytes early", n);
		n -= (size_t)r;
		if (!r)
			wait_for(e->fd, POLLIN, "receive");
	}
}

size_t end_fill(struct end *e)
{
	uint64_t before = e->sent;
	/* What was just acknowledged makes room for more: full means full for a while. */
	for (unsigned quiet = 0; quiet < 20;) {
		if (send_some(e, BLOCK_BYTES)) {
			quiet = 0;
			continue;
		}
		usleep(2000);
		quiet++;
	}
	return (size_t)(e->sent - before);
}

size_t end_receive_all(struct end *e)
{
	uint64_t before = e->received;
	for (;;) {
		ssize_t r = receive_some(e, BLOCK_BYTES);
		if (r < 0)
			return (size_t)(e->received - before);
		if (!r)
			wait_for(e->fd, POLLIN, "receive to the end");
	}
}

size_t end_step(struct end *e, uint64_t send_goal)
{
	size_t moved = e->sent < send_goal ? send_some(e, (size_t)(send_goal - e->sent)) : 0;
	ssize_t r = receive_some(e, BLOCK_BYTES);
	if (r < 0)
		fail_msg("the stream ended early");
	return moved + (size_t)r;
}

void end_catch_up(struct end *e, const struct end *from)
{
	end_receive(e, (size_t)(from->sent - e->received));
}

void pair_exchange(struct end *a, struct end *b, size_t n)
{
	uint64_t a_goal = a->sent + n;
	uint64_t b_goal = b->sent + n;
	uint64_t deadline = lab_now_ms() + 4u * PATIENCE_MS;
	while (a->sent < a_goal || b->sent < b_goal || a->received < b_goal || b->received < a_goal) {
		size_t moved = 0;
		if (a->sent < a_goal)
			moved += send_some(a, (size_t)(a_goal - a->sent));
		if (b->sent < b_goal)
			moved += send_some(b, (size_t)(b_goal - b->sent));
		ssize_t r = a->received < b_goal ? receive_some(a, BLOCK_BYTES) : 0;
		ssize_t s = b->received < a_goal ? receive_some(b, BLOCK_BYTES) : 0;
		if (r < 0 || s < 0)
			fail_msg("a stream ended early");
		if (moved || r || s)
			continue;
		struct pollfd p[2] = {{.fd = a->fd, .events = POLLIN}, {.fd = b->fd, .events = POLLIN}};
		if (a->sent < a_goal)
			p[0].events |= POLLOUT;
		if (b->sent < b_goal)
			p[1].events |= POLLOUT;
		if (poll(p, 2, PATIENCE_MS) <= 0 || lab_now_ms() > deadline)
			fail_msg(
				"the streams stand still: a sent %llu received %llu, b sent %llu received %llu",
				(unsigned long long)a->sent, (unsigned long long)a->received,
				(unsigned long long)b->sent, (unsigned long long)b->received);
	}
}

unsigned end_state(const struct end *e)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof(info);
	assert_int_equal(getsockopt(e->fd, SOL_TCP, TCP_INFO, &info, &n), 0);
	return info.tcpi_state;
}

int end_queue(const struct end *e, unsigned long request)
{
	int value = -1;
	assert_int_equal(ioctl(e->fd, request, &value), 0);
	return value;
}

void end_wait_state(const struct end *e, unsigned state)
{
	for (unsigned i = 0; i < 5000 && end_state(e) != state; i++)
		usleep(1000);
	assert_string_equal(ferry_tcp_state_name(end_state(e)), ferry_tcp_state_name(state));
}

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* Returns the port. bytes: the address as a lock wants it. */
static uint16_t split_address(const union address *a, uint8_t bytes[static 16])
{
	memset(bytes, 0, 16);
	if (a->any.sa_family == AF_INET) {
		memcpy(bytes, &a->v4.sin_addr, 4);
		return ntohs(a->v4.sin_port);
	}
	memcpy(bytes, &a->v6.sin6_addr, 16);
	return ntohs(a->v6.sin6_port);
}

void end_locate(const struct end *e, struct netlock_tcp *ret_connection)
{
	union address local = {.v6 = {0}};
	union address remote = {.v6 = {0}};
	struct netlock_tcp c = {0};
	socklen_t n = sizeof(local);
	assert_int_equal(getsockname(e->fd, &local.any, &n), 0);
	n = sizeof(remote);
	assert_int_equal(getpeername(e->fd, &remote.any, &n), 0);
	c.family = local.any.sa_family;
	c.local_port = split_address(&local, c.local_addr);
	c.remote_port = split_address(&remote, c.remote_addr);
	*ret_connection = c;
}

static void end_lock(const struct end *e, struct netlock **ret_lock)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct netlock_tcp c;
	end_locate(e, &c);
	assert_ferry(netlock_open(-1, NETLOCK_OWNED, "lab", NETLOCK_MARK, ret_lock, &err), &err);
	assert_ferry(netlock_add_tcp(*ret_lock, &c, 1, &err), &err);
}

void end_lose_input(const struct end *e)
{
	union address local = {.v6 = {0}};
	uint8_t bytes[16];
	socklen_t n = sizeof(local);
	assert_int_equal(getsockname(e->fd, &local.any, &n), 0);
	lab_run("nft 'add table inet lossy; add chain inet lossy in { type filter hook input priority 0; }; "
		"add rule inet lossy in tcp dport %u drop'",
		split_address(&local, bytes));
}

void end_lose_nothing(void)
{
	lab_run("nft delete table inet lossy");
}

/* What the kernel says of an end, to compare the old socket with the new one. */
struct figures {
	unsigned state;
	int inq;
	int outq;
	int unsent;
};

static struct figures end_figures(const struct end *e)
{
	return (struct figures){
		.state = end_state(e),
		.inq = end_queue(e, SIOCINQ),
		.outq = end_queue(e, SIOCOUTQ),
		.unsent = end_queue(e, SIOCOUTQNSD),
	};
}

static void figures_compare(const struct figures *old, const struct figures *new)
{
	assert_string_equal(ferry_tcp_state_name(new->state), ferry_tcp_state_name(old->state));
	assert_int_equal(new->inq, old->inq);
	assert_int_equal(new->outq, old->outq);
	assert_int_equal(new->unsent, old->unsent);
}

void end_move(struct end *e, struct ferry_tcp *ret_state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_tcp t = FERRY_TCP_INIT;
	struct ferry_tcp_options options = FERRY_TCP_OPTIONS_INIT;
	struct netlock *lock = NULL;
	options.flags = FERRY_TCP_PAUSE;
	options.packet_mark = NETLOCK_MARK;
	end_lock(e, &lock);
	/* Before: taking makes the old socket believe that everything was sent. */
	struct figures before = end_figures(e);
	assert_ferry(ferry_tcp_take(e->fd, &options, &t, &err), &err);
	assert_ferry(ferry_tcp_close_silently(e->fd, &err), &err);
	options.flags = 0;
	e->fd = -1;
	assert_ferry(ferry_tcp_rebuild(&t, &options, &e->fd, &err), &err);
	struct figures after = end_figures(e);
	figures_compare(&before, &after);
	assert_ferry(netlock_remove(lock, &err), &err);
	assert_ferry(ferry_tcp_resume(e->fd, &t.undo, 0, &err), &err);
	if (ret_state)
		*ret_state = t;
	else
		ferry_tcp_release(&t);
}
