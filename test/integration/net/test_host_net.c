/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network side of the host: locks as nft(8) and packets see them, addresses as ip(8) does, announcements as
 * a neighbour learns them, and sock_diag compared with what the sockets themselves and /proc say.
 */
#include "lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "host/address.h"
#include "host/netlock.h"
#include "host/sockdiag.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

static int own_netns(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void assert_tables(const char *expected)
{
	char text[1024];
	lab_read(text, sizeof(text), "nft list tables");
	assert_string_equal(text, expected);
}

/* Whether n bytes sent by one end arrive at the other within a short while. */
static bool passes(struct end *from, struct end *to, size_t n)
{
	end_send(from, n);
	struct pollfd p = {.fd = to->fd, .events = POLLIN};
	return poll(&p, 1, 100) > 0;
}

static void test_lock_blocks(void **state)
{
	(void)state;
	for (int family = 0; family < FAMILIES; family++) {
		for (int by_sender = 0; by_sender < 2; by_sender++) {
			struct ferry_error err = FERRY_ERROR_INIT;
			struct netlock *lock = NULL;
			struct netlock_tcp c;
			struct end a;
			struct end b;
			struct end other_a;
			struct end other_b;
			pair_open((enum family)family, false, NULL, &a, &b);
			pair_open((enum family)family, false, NULL, &other_a, &other_b);
			pair_exchange(&a, &b, 100000);
			end_locate(by_sender ? &a : &b, &c);
			assert_ferry(netlock_open(-1, NETLOCK_OWNED, "t", 0, &lock, &err), &err);
			assert_true(passes(&a, &b, 1000));
			end_catch_up(&b, &a);
			assert_ferry(netlock_add_tcp(lock, &c, 1, &err), &err);
			assert_ferry(netlock_add_tcp(lock, &c, 1, &err), &err);
			assert_false(passes(&a, &b, 1000));
			assert_false(passes(&b, &a, 1000));
			/* Only this connection. */
			pair_exchange(&other_a, &other_b, 100000);
			if (by_sender)
				assert_ferry(netlock_clear(lock, &err), &err);
			else
				assert_ferry(netlock_drop_tcp(lock, &c, 1, &err), &err);
			pair_exchange(&a, &b, 100000);
			assert_ferry(netlock_remove(lock, &err), &err);
			pair_close(&a, &b);
			pair_close(&other_a, &other_b);
		}
	}
	assert_tables("");
}

/* Marked packets pass, of this connection too. */
static void test_lock_mark(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct netlock *lock = NULL;
	struct netlock_tcp c;
	struct end a;
	struct end b;
	unsigned mark = 4711;
	(void)state;
	pair_open(V4, false, NULL, &a, &b);
	assert_int_equal(setsockopt(a.fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)), 0);
	end_locate(&a, &c);
	assert_ferry(netlock_open(-1, NETLOCK_OWNED, "t", mark, &lock, &err), &err);
	assert_ferry(netlock_add_tcp(lock, &c, 1, &err), &err);
	assert_true(passes(&a, &b, 1000));
	end_catch_up(&b, &a);
	assert_false(passes(&b, &a, 1000));
	assert_ferry(netlock_remove(lock, &err), &err);
	end_catch_up(&a, &b);
	pair_close(&a, &b);
}

/* An owned lock goes when its owner is killed, and stays while a second process holds its socket. */
static void test_lock_owner(void **state)
{
	(void)state;
	for (int held = 0; held < 2; held++) {
		int ready[2];
		int hold[2];
		char byte;
		assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
		assert_int_equal(pipe2(hold, O_CLOEXEC), 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			struct netlock *lock = NULL;
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (netlock_open(-1, NETLOCK_OWNED, "owned", 0, &lock, NULL))
				_exit(1);
			if (held && !fork()) {
				close(hold[1]);
				(void)!read(hold[0], &byte, 1);
				_exit(netlock_fd(lock) < 0);
			}
			(void)!write(ready[1], "", 1);
			pause();
			_exit(0);
		}
		assert_int_equal(read(ready[0], &byte, 1), 1);
		assert_tables("table inet ferry-owned\n");
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		if (held)
			assert_tables("table inet ferry-owned\n");
		for (int i = 0; i < 2; i++) {
			close(ready[i]);
			close(hold[i]);
		}
		/* The holder ends at the end of its pipe; the kernel removes the table a moment later. */
		char text[256] = "?";
		for (int i = 0; i < 1000 && text[0]; i++) {
			lab_read(text, sizeof(text), "nft list tables");
			usleep(1000);
		}
		assert_string_equal(text, "");
	}
}

static void test_lock_persist(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct netlock *lock = NULL;
	struct netlock *again = NULL;
	(void)state;
	assert_int_equal(netlock_find(-1, "p", &again, &err), 0);
	assert_ferry(netlock_open(-1, NETLOCK_PERSIST, "p", NETLOCK_MARK, &lock, &err), &err);
	assert_int_equal(netlock_open(-1, NETLOCK_PERSIST, "p", NETLOCK_MARK, &again, &err), -EEXIST);
	assert_non_null(strstr(err.hint, "nft delete table inet ferry-p"));
	error_clear(&err);
	netlock_close(lock);
	assert_tables("table inet ferry-p\n");
	assert_int_equal(netlock_find(-1, "p", &again, &err), 1);
	netlock_close(again);
	assert_int_equal(netlock_find_and_remove(-1, "p", &err), 1);
	assert_int_equal(netlock_find_and_remove(-1, "p", &err), 0);
	assert_tables("");
}

static void test_lock_errors(void **state)
{
	static const char *const bad[] = {"", "a b", "x;y", "\"", "../a"};
	struct ferry_error err = FERRY_ERROR_INIT;
	struct netlock *lock = NULL;
	struct netlock *other = NULL;
	struct netlock_tcp connection = {.family = AF_INET, .local_port = 1, .remote_port = 2};
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(netlock_open(-1, NETLOCK_OWNED, bad[i], 0, &lock, &err), -EINVAL);
		assert_int_equal(err.id, FERRY_ERROR_USAGE);
		error_clear(&err);
	}
	assert_ferry(netlock_open(-1, NETLOCK_OWNED, "e", 0, &lock, &err), &err);
	assert_int_equal(netlock_find_and_remove(-1, "e", &err), -EPERM);
	assert_int_equal(err.id, FERRY_ERROR_PERMISSION);
	error_clear(&err);
	assert_true(netlock_open(-1, NETLOCK_OWNED, "e", 0, &other, &err) < 0);
	error_clear(&err);
	/* What is not blocked cannot be let pass, and then nothing is. */
	assert_ferry(netlock_add_tcp(lock, &connection, 1, &err), &err);
	struct netlock_tcp two[2] = {connection, connection};
	two[1].local_port = 99;
	assert_int_equal(netlock_drop_tcp(lock, two, 2, &err), -ENOENT);
	char text[2048];
	lab_read(text, sizeof(text), "nft list set inet ferry-e v4");
	assert_non_null(strstr(text, "0.0.0.0 . 1 . 0.0.0.0 . 2"));
	error_clear(&err);
	assert_ferry(netlock_drop_tcp(lock, two, 1, &err), &err);
	connection.family = AF_UNIX;
	assert_int_equal(netlock_add_tcp(lock, &connection, 1, &err), -EAFNOSUPPORT);
	netlock_close(lock);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct ferry_error e = FERRY_ERROR_INIT;
		if (setuid(65534))
			_exit(2);
		int r = netlock_open(-1, NETLOCK_OWNED, "x", 0, &lock, &e);
		_exit(r == -EPERM && e.id == FERRY_ERROR_PERMISSION && e.hint[0] ? 0 : 1);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_tables("");
}

/* Thousands of connections of both families go in one transaction, into another namespace. */
static void test_lock_many(void **state)
{
	enum { N = 9000 };
	struct ferry_error err = FERRY_ERROR_INIT;
	struct netlock *lock = NULL;
	struct netlock_tcp *c = calloc(N, sizeof(*c));
	char text[64];
	int home = own_netns();
	int other = lab_netns();
	(void)state;
	assert_non_null(c);
	for (int i = 0; i < N; i++) {
		c[i].family = i % 3 ? AF_INET : AF_INET6;
		c[i].local_port = (uint16_t)(i + 1);
		c[i].remote_port = 80;
		memcpy(c[i].local_addr,
		       i % 3 ? "\x0a\x00\x00\x01"
			     : "\xfd\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
		       i % 3 ? 4 : 16);
		memcpy(c[i].remote_addr, c[i].local_addr, 16);
	}
	assert_ferry(netlock_open(other, NETLOCK_PERSIST, "many", 0, &lock, &err), &err);
	uint64_t began = lab_now_us();
	assert_ferry(netlock_add_tcp(lock, c, N, &err), &err);
	print_message("%d connections locked in %llu us\n", N, (unsigned long long)(lab_now_us() - began));
	assert_tables("");
	lab_go(other);
	lab_read(text, sizeof(text),
		 "nft list set inet ferry-many v4 | grep -o ' \\. 80\\( }\\|,\\)' | wc -l");
	assert_int_equal(atoi(text), N / 3 * 2);
	lab_read(text, sizeof(text),
		 "nft list set inet ferry-many v6 | grep -o ' \\. 80\\( }\\|,\\)' | wc -l");
	assert_int_equal(atoi(text), N / 3);
	lab_go(home);
	assert_ferry(netlock_drop_tcp(lock, c, N, &err), &err);
	lab_go(other);
	lab_read(text, sizeof(text), "nft list set inet ferry-many v4 | grep -c ' \\. 80' || true");
	assert_int_equal(atoi(text), 0);
	lab_go(home);
	assert_ferry(netlock_remove(lock, &err), &err);
	lab_go(other);
	assert_tables("");
	lab_go(home);
	close(home);
	close(other);
	free(c);
}

static struct address make_address(const char *device, const char *text, uint8_t prefix_len)
{
	struct address a = {.family = strchr(text, ':') ? AF_INET6 : AF_INET, .prefix_len = prefix_len};
	snprintf(a.device, sizeof(a.device), "%s", device);
	assert_int_equal(inet_pton(a.family, text, a.bytes), 1);
	return a;
}

static bool ip_shows(const char *device, const char *text)
{
	char all[4096];
	lab_read(all, sizeof(all), "ip -o address show dev %s", device);
	return strstr(all, text);
}

static void test_addresses(void **state)
{
	static const struct {
		const char *text;
		uint8_t prefix_len;
		const char *shown;
	} cases[] = {
		{"192.0.2.7", 24, "192.0.2.7/24"},
		{"192.0.2.8", 32, "192.0.2.8/32"},
		{"2001:db8::7", 64, "2001:db8::7/64"},
		{"2001:db8::8", 128, "2001:db8::8/128"},
	};
	struct ferry_error err = FERRY_ERROR_INIT;
	int home = own_netns();
	int other = lab_netns();
	(void)state;
	lab_go(other);
	lab_run("ip link add d0 type veth peer name d1");
	lab_go(home);
	assert_int_equal(link_set_up(other, "d0", true, &err), 1);
	assert_int_equal(link_set_up(other, "d0", true, &err), 0);
	assert_int_equal(link_set_up(other, "d1", true, &err), 1);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct address a = make_address("d0", cases[i].text, cases[i].prefix_len);
		struct address *all = NULL;
		size_t n = 0;
		assert_int_equal(address_add(other, &a, &err), 1);
		assert_int_equal(address_add(other, &a, &err), 0);
		lab_go(other);
		assert_true(ip_shows("d0", cases[i].shown));
		/* Usable at once. */
		struct sockaddr_storage any = {.ss_family = a.family};
		if (a.family == AF_INET)
			memcpy(&((struct sockaddr_in *)&any)->sin_addr, a.bytes, 4);
		else
			memcpy(&((struct sockaddr_in6 *)&any)->sin6_addr, a.bytes, 16);
		int fd = socket(a.family, SOCK_STREAM, 0);
		assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
		close(fd);
		lab_go(home);
		assert_ferry(address_list(other, "d0", &all, &n, &err), &err);
		bool found = false;
		for (size_t k = 0; k < n; k++) {
			assert_string_equal(all[k].device, "d0");
			found |= all[k].family == a.family && all[k].prefix_len == a.prefix_len &&
				 !memcmp(all[k].bytes, a.bytes, sizeof(a.bytes));
		}
		assert_true(found);
		free(all);
		assert_int_equal(address_remove(other, &a, &err), 1);
		assert_int_equal(address_remove(other, &a, &err), 0);
		lab_go(other);
		assert_false(ip_shows("d0", cases[i].shown));
		lab_go(home);
	}
	struct address *all = NULL;
	size_t n = 0;
	assert_ferry(address_list(other, NULL, &all, &n, &err), &err);
	bool lo = false;
	for (size_t k = 0; k < n; k++)
		lo |= !strcmp(all[k].device, "lo") && all[k].bytes[0] == 127;
	assert_true(lo);
	free(all);
	assert_int_equal(link_set_up(other, "d0", false, &err), 1);
	assert_int_equal(link_set_up(other, "d0", false, &err), 0);
	close(home);
	close(other);
}

static void test_address_errors(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct address a = make_address("none0", "192.0.2.1", 24);
	struct address *all = NULL;
	size_t n = 0;
	(void)state;
	assert_int_equal(address_add(-1, &a, &err), -ENODEV);
	assert_non_null(strstr(err.message, "none0"));
	error_clear(&err);
	assert_int_equal(address_remove(-1, &a, NULL), -ENODEV);
	assert_int_equal(address_list(-1, "none0", &all, &n, NULL), -ENODEV);
	assert_int_equal(link_set_up(-1, "a-name-that-is-too-long", true, NULL), -ENODEV);
	a = make_address("lo", "192.0.2.1", 33);
	assert_int_equal(address_add(-1, &a, NULL), -EINVAL);
	assert_int_equal(address_list(1000000, NULL, &all, &n, NULL), -EBADF);
}

/* A neighbour that knows the address elsewhere learns where it is now; on loopback there is nobody to tell. */
static void test_announce(void **state)
{
	static const char *const texts[] = {"192.0.2.7", "2001:db8::7"};
	struct ferry_error err = FERRY_ERROR_INIT;
	char mac[32];
	char entry[256];
	int home = own_netns();
	int near = lab_netns();
	int far = lab_netns();
	(void)state;
	lab_go(near);
	lab_run("ip link add d0 type veth peer name d1 netns /proc/%d/fd/%d && ip link set d0 up", getpid(),
		far);
	lab_read(mac, sizeof(mac), "ip -o link show d0 | sed 's/.*ether \\([^ ]*\\).*/\\1/' | tr -d '\\n'");
	lab_go(far);
	lab_run("ip link set d1 up && ip address add 192.0.2.1/24 dev d1 && "
		"ip address add 2001:db8::1/64 dev d1 nodad && "
		"ip neighbour add 192.0.2.7 lladdr 02:00:00:00:00:99 dev d1 nud stale && "
		"ip neighbour add 2001:db8::7 lladdr 02:00:00:00:00:99 dev d1 nud stale");
	lab_go(home);
	int fd = announce_open(near, &err);
	assert_true(fd >= 0);
	for (int i = 0; i < 2; i++) {
		struct address a = make_address("d0", texts[i], 24);
		assert_ferry(address_announce(fd, &a, 2, 1, &err), &err);
		lab_go(far);
		for (int tries = 0; tries < 200; tries++) {
			lab_read(entry, sizeof(entry), "ip neighbour show %s", texts[i]);
			if (strstr(entry, mac))
				break;
			usleep(5000);
		}
		if (!strstr(entry, mac))
			fail_msg("the neighbour has '%s', not %s", entry, mac);
		lab_go(home);
		a = make_address("lo", texts[i], 24);
		assert_ferry(address_announce(fd, &a, 2, 1, &err), &err);
		a = make_address("none0", texts[i], 24);
		assert_int_equal(address_announce(fd, &a, 1, 0, NULL), -ENODEV);
	}
	lab_go(near);
	lab_run("ip link set d0 down");
	lab_go(home);
	struct address a = make_address("d0", texts[0], 24);
	assert_int_equal(address_announce(fd, &a, 1, 0, &err), -ENETDOWN);
	assert_non_null(strstr(err.hint, "up"));
	close(fd);
	close(home);
	close(near);
	close(far);
}

static uint32_t inode_of(int fd)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return (uint32_t)st.st_ino;
}

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t n = sizeof(cookie);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &n), 0);
	return cookie;
}

static void check_inet(const struct inet_sock *s, const struct end *e, unsigned state)
{
	struct netlock_tcp where;
	assert_non_null(s);
	end_locate(e, &where);
	assert_int_equal(s->family, where.family);
	assert_int_equal(s->protocol, IPPROTO_TCP);
	assert_int_equal(s->state, state);
	assert_int_equal(s->local_port, where.local_port);
	assert_int_equal(s->remote_port, where.remote_port);
	assert_memory_equal(s->local_addr, where.local_addr, 16);
	assert_memory_equal(s->remote_addr, where.remote_addr, 16);
	assert_int_equal(s->cookie, cookie_of(e->fd));
	assert_int_equal(s->rqueue, end_queue(e, SIOCINQ));
	assert_int_equal(s->wqueue, end_queue(e, SIOCOUTQ));
}

static void test_diag_inet(void **state)
{
	(void)state;
	for (int family = 0; family < FAMILIES; family++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		struct inet_sock *socks = NULL;
		size_t n = 0;
		struct end a;
		struct end b;
		int home = own_netns();
		int other = lab_netns();
		lab_go(other);
		pair_open((enum family)family, false, NULL, &a, &b);
		end_send(&b, 12345);
		usleep(5000);
		end_lose_input(&b);
		end_send(&a, 777);
		assert_int_equal(shutdown(b.fd, SHUT_RD), 0);
		int listener = socket(AF_INET6, SOCK_STREAM, 0);
		assert_int_equal(listen(listener, 33), 0);
		int udp = socket(AF_INET, SOCK_DGRAM, 0);
		struct sockaddr_in to = {.sin_family = AF_INET,
					 .sin_port = htons(9),
					 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		assert_int_equal(connect(udp, (struct sockaddr *)&to, sizeof(to)), 0);
		lab_go(home);
		assert_ferry(sockdiag_inet_all(other, &socks, &n, &err), &err);
		check_inet(inet_socks_find(socks, n, inode_of(a.fd)), &a, FERRY_TCP_ESTABLISHED);
		const struct inet_sock *s = inet_socks_find_cookie(socks, n, cookie_of(b.fd));
		assert_non_null(s);
		assert_int_equal(s->inode, inode_of(b.fd));
		assert_true(s->has_shutdown);
		assert_int_equal(s->shutdown, 1);
		s = inet_socks_find(socks, n, inode_of(listener));
		assert_non_null(s);
		assert_int_equal(s->state, TCP_LISTEN);
		assert_int_equal(s->wqueue, 33);
		assert_false(s->v6only);
		s = inet_socks_find(socks, n, inode_of(udp));
		assert_non_null(s);
		assert_int_equal(s->protocol, IPPROTO_UDP);
		assert_int_equal(s->remote_port, 9);
		assert_null(inet_socks_find(socks, n, 0));
		assert_null(inet_socks_find(socks, n, 0xffffffff));
		free(socks);
		/* Only listening ones. */
		assert_ferry(sockdiag_inet(other, AF_INET6, IPPROTO_TCP, 1u << TCP_LISTEN, &socks, &n, &err),
			     &err);
		assert_int_equal(n, 1);
		assert_int_equal(socks[0].inode, inode_of(listener));
		free(socks);
		lab_go(other);
		end_lose_nothing();
		pair_close(&a, &b);
		close(listener);
		close(udp);
		lab_go(home);
		close(home);
		close(other);
	}
}

/* More sockets than one answer holds. */
static void test_diag_many(void **state)
{
	enum { N = 1500 };
	struct ferry_error err = FERRY_ERROR_INIT;
	struct inet_sock *socks = NULL;
	size_t n = 0;
	static int fds[N];
	(void)state;
	for (int i = 0; i < N; i++) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_true(fds[i] >= 0);
		assert_int_equal(bind(fds[i], (struct sockaddr *)&a, sizeof(a)), 0);
		assert_int_equal(listen(fds[i], 1), 0);
	}
	assert_ferry(sockdiag_inet(-1, AF_INET, IPPROTO_TCP, 1u << TCP_LISTEN, &socks, &n, &err), &err);
	assert_int_equal(n, N);
	for (int i = 0; i < N; i++) {
		assert_non_null(inet_socks_find(socks, n, inode_of(fds[i])));
		close(fds[i]);
	}
	free(socks);
}

static void test_diag_unix(void **state)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct unix_sock *socks = NULL;
	struct unix_sock one;
	size_t n = 0;
	int pair[2];
	char path[64];
	struct sockaddr_un abstract = {.sun_family = AF_UNIX, .sun_path = "\0ferry\0test"};
	struct sockaddr_un named = {.sun_family = AF_UNIX};
	struct stat st;
	(void)state;
	snprintf(path, sizeof(path), "%s/ferry-diag-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
		 getpid());
	snprintf(named.sun_path, sizeof(named.sun_path), "%s", path);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	assert_int_equal(write(pair[0], "hello", 5), 5);
	assert_int_equal(shutdown(pair[0], SHUT_WR), 0);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&named, sizeof(named)), 0);
	assert_int_equal(listen(listener, 9), 0);
	assert_int_equal(stat(path, &st), 0);
	int clients[2];
	for (int i = 0; i < 2; i++) {
		clients[i] = socket(AF_UNIX, SOCK_STREAM, 0);
		assert_int_equal(connect(clients[i], (struct sockaddr *)&named, sizeof(named)), 0);
	}
	int datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
	assert_int_equal(bind(datagram, (struct sockaddr *)&abstract, sizeof(sa_family_t) + 11), 0);

	assert_ferry(sockdiag_unix(-1, &socks, &n, &err), &err);
	const struct unix_sock *s = unix_socks_find(socks, n, inode_of(pair[1]));
	assert_non_null(s);
	assert_int_equal(s->type, SOCK_SEQPACKET);
	assert_true(s->has_peer);
	assert_int_equal(s->peer_inode, inode_of(pair[0]));
	assert_int_equal(s->rqueue, 5);
	assert_int_equal(s->cookie, cookie_of(pair[1]));
	assert_int_equal(s->shutdown, 1);
	assert_false(s->has_name);
	s = unix_socks_find(socks, n, inode_of(listener));
	assert_non_null(s);
	assert_int_equal(s->state, TCP_LISTEN);
	assert_true(s->has_name && s->has_vfs);
	assert_int_equal(s->name_len, strlen(path) + 1);
	assert_string_equal(s->name, path);
	assert_int_equal(s->vfs_inode, (uint32_t)st.st_ino);
	assert_int_equal(s->rqueue, 2);
	assert_int_equal(s->wqueue, 9);
	assert_int_equal(s->n_pending, 2);
	assert_int_equal(s->pending[0], inode_of(clients[0]));
	assert_int_equal(s->pending[1], inode_of(clients[1]));
	s = unix_socks_find(socks, n, inode_of(datagram));
	assert_non_null(s);
	assert_int_equal(s->type, SOCK_DGRAM);
	assert_int_equal(s->name_len, 11);
	assert_memory_equal(s->name, "\0ferry\0test", 11);
	assert_false(s->has_peer);
	assert_false(s->has_vfs);
	unix_socks_free(socks, n);

	assert_ferry(sockdiag_unix_one(-1, inode_of(clients[0]), &one, &err), &err);
	assert_int_equal(one.inode, inode_of(clients[0]));
	unix_sock_release(&one);
	assert_int_equal(sockdiag_unix_one(-1, 0xfffffff0, &one, &err), -ENOENT);
	for (int i = 0; i < 2; i++) {
		close(pair[i]);
		close(clients[i]);
	}
	close(listener);
	close(datagram);
	unlink(path);
}

static int setup(void **state)
{
	(void)state;
	lab_enter();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lock_blocks), cmocka_unit_test(test_lock_mark),
		cmocka_unit_test(test_lock_owner),  cmocka_unit_test(test_lock_persist),
		cmocka_unit_test(test_lock_errors), cmocka_unit_test(test_lock_many),
		cmocka_unit_test(test_addresses),   cmocka_unit_test(test_address_errors),
		cmocka_unit_test(test_announce),    cmocka_unit_test(test_diag_inet),
		cmocka_unit_test(test_diag_many),   cmocka_unit_test(test_diag_unix),
	};
	return cmocka_run_group_tests_name("host-net", tests, setup, NULL);
}
