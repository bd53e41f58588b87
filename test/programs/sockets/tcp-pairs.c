/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP connections between two processes of the tree, over IPv4, IPv6 and v4-mapped addresses: idle, with data
 * both ways, with a queue that the peer's window does not take, half closed in every way that lasts. The
 * parent has the connecting ends, the child the accepted ones. Proof: names, states, waiting bytes by
 * MSG_PEEK, options; at the end all bytes, then new ones both ways where the connection is still open.
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum family { V4, V6, MAPPED };
enum end { CLIENT, SERVER, ENDS };

struct pair {
	const char *what;
	enum family family;
	int bytes[ENDS]; /* that wait at this end; -1 = as many as fit, and more at the peer */
	int shut[ENDS];  /* shutdown(2) by this end after that: 1 + SHUT_x, 0 = none */
	int state[ENDS];
	int fd[ENDS];
	struct {
		bool known;
		unsigned options, sends, receives; /* as tcp_info has them */
		uint32_t stamp;                    /* the clock of its time stamps when it was last seen */
	} agreed[ENDS];
	int total[ENDS];   /* bytes on their way to this end */
	int waiting[ENDS]; /* of them, received */
	struct sockaddr_storage name[ENDS];
};

#define OPEN                                     \
	{                                        \
		TCP_ESTABLISHED, TCP_ESTABLISHED \
	}

static struct pair pairs[] = {
	{.what = "idle", .family = V4, .state = OPEN},
	{.what = "idle, IPv6", .family = V6, .state = OPEN},
	{.what = "idle, mapped", .family = MAPPED, .state = OPEN},
	{.what = "data", .family = V4, .bytes = {5000, 60000}, .state = OPEN},
	{.what = "data, IPv6", .family = V6, .bytes = {1, 30000}, .state = OPEN},
	{.what = "data, mapped", .family = MAPPED, .bytes = {777, 778}, .state = OPEN},
	{.what = "full", .family = V4, .bytes = {0, -1}, .state = OPEN},
	{.what = "full both ways", .family = V6, .bytes = {-1, -1}, .state = OPEN},
	{.what = "client wrote its last",
	 .family = V4,
	 .bytes = {10, 2000},
	 .shut = {1 + SHUT_WR, 0},
	 .state = {TCP_FIN_WAIT2, TCP_CLOSE_WAIT}},
	{.what = "server wrote its last",
	 .family = V6,
	 .bytes = {3000, 20},
	 .shut = {0, 1 + SHUT_WR},
	 .state = {TCP_CLOSE_WAIT, TCP_FIN_WAIT2}},
	{.what = "last bytes do not fit",
	 .family = V4,
	 .bytes = {0, -1},
	 .shut = {1 + SHUT_WR, 0},
	 .state = {TCP_FIN_WAIT1, TCP_ESTABLISHED}},
	{.what = "client reads no more", .family = V4, .shut = {1 + SHUT_RD, 0}, .state = OPEN},
};

static const struct {
	const char *name;
	int level, option, value[ENDS];
	bool more;
} options[] = {
	{"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, {1, 0}, false},
	{"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, {1234, 99}, false},
	{"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, {1, 0}, false},
	{"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, {3, 5}, false},
	{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, {0, 1}, false},
	{"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, {3600000, 0}, true},
	{"TCP_NOTSENT_LOWAT", IPPROTO_TCP, TCP_NOTSENT_LOWAT, {9999, 8888}, true},
	{"TCP_LINGER2", IPPROTO_TCP, TCP_LINGER2, {20, 30}, true},
};

enum { MOST_BYTES = 8 << 20, SMALL_BUFFER = 4096 };

static unsigned char buffer[MOST_BYTES];

static int state_of(int fd)
{
	struct tcp_info info = {0};

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	return info.tcpi_state;
}

static int waiting_at(int fd)
{
	int n = 0;

	ioctl(fd, SIOCINQ, &n);
	return n;
}

static uint64_t seed_of(const struct pair *s, enum end end)
{
	return (uint64_t)(s - pairs) * 2 + end;
}

/* ------------------------------------------------------------------ making */

static void pair_connect(struct pair *s)
{
	bool v6 = s->family != V4;
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t n = v6 ? sizeof(six) : sizeof(four);
	struct sockaddr *address = v6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;

	if (s->family == MAPPED)
		six.sin6_addr =
			(struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}};
	int listener = must(socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	s->fd[CLIENT] = must(socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	/* Small buffers, so that little fills them. */
	for (int end = 0; end < ENDS; end++)
		if (s->bytes[end] < 0) {
			int receiver = end == CLIENT ? s->fd[CLIENT] : listener,
			    sender = end == CLIENT ? listener : s->fd[CLIENT];
			must(setsockopt(receiver, SOL_SOCKET, SO_RCVBUF, &(int){SMALL_BUFFER}, sizeof(int)));
			must(setsockopt(sender, SOL_SOCKET, SO_SNDBUF, &(int){SMALL_BUFFER * 4},
					sizeof(int)));
		}
	must(bind(listener, address, n));
	must(listen(listener, 1));
	must(getsockname(listener, address, &n));
	must(connect(s->fd[CLIENT], address, n));
	s->fd[SERVER] = must(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	close(listener);
}

static void pair_fill(struct pair *s, enum end end)
{
	int from = s->fd[!end], limit = s->bytes[end] < 0 ? MOST_BYTES : s->bytes[end], quiet = 0;

	pattern_fill(buffer, (size_t)limit, seed_of(s, end));
	must(fcntl(from, F_SETFL, O_NONBLOCK));
	while (s->total[end] < limit && quiet < 50) {
		ssize_t n = send(from, buffer + s->total[end], (size_t)(limit - s->total[end]), 0);
		quiet = n > 0 ? 0 : quiet + 1;
		s->total[end] += n > 0 ? (int)n : 0;
		if (n < 0)
			sleep_ms(2);
	}
	if (!s->total[end] || (s->bytes[end] >= 0 && s->total[end] != limit))
		program_die(s->what);
}

static void pair_make(struct pair *s, bool more)
{
	pair_connect(s);
	for (int end = 0; end < ENDS; end++)
		for (size_t i = 0; i < ARRAY_SIZE(options); i++)
			if (more || !options[i].more)
				must(setsockopt(s->fd[end], options[i].level, options[i].option,
						&options[i].value[end], sizeof(int)));
	for (int end = 0; end < ENDS; end++)
		if (s->bytes[end])
			pair_fill(s, (enum end)end);
	for (int end = 0; end < ENDS; end++)
		if (s->shut[end])
			must(shutdown(s->fd[end], s->shut[end] - 1));
	for (int end = 0; end < ENDS; end++) {
		for (int ms = 0; ms < 5000 && state_of(s->fd[end]) != s->state[end]; ms++)
			sleep_ms(1);
		for (int ms = 0; ms < 5000 && s->bytes[end] > 0 && waiting_at(s->fd[end]) < s->bytes[end];
		     ms++)
			sleep_ms(1);
		if (state_of(s->fd[end]) != s->state[end])
			program_die(s->what);
		s->waiting[end] = waiting_at(s->fd[end]);
		must(getsockname(s->fd[end], (struct sockaddr *)&s->name[end],
				 &(socklen_t){sizeof(s->name[end])}));
	}
}

/* ----------------------------------------------------------------- checking */

static void check_names(struct program *p, const struct pair *s, enum end end)
{
	struct sockaddr_storage own = {0}, peer = {0};

	getsockname(s->fd[end], (struct sockaddr *)&own, &(socklen_t){sizeof(own)});
	getpeername(s->fd[end], (struct sockaddr *)&peer, &(socklen_t){sizeof(peer)});
	expect(p, !memcmp(&own, &s->name[end], sizeof(own)), "%s: another name", s->what);
	expect(p, !memcmp(&peer, &s->name[!end], sizeof(peer)), "%s: another peer", s->what);
}

static void check_options(struct program *p, const struct pair *s, enum end end)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		int value = -1;
		if (options[i].more && !p->more)
			continue;
		getsockopt(s->fd[end], options[i].level, options[i].option, &value,
			   &(socklen_t){sizeof(value)});
		expect_same(p, options[i].name, value, options[i].value[end]);
	}
}

/* The window may have opened a little, so a full queue may have grown. */
static void end_check(struct program *p, const struct pair *s, enum end end)
{
	int fd = s->fd[end];
	ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_PEEK | MSG_DONTWAIT);

	expect_same(p, s->what, state_of(fd), s->state[end]);
	check_names(p, s, end);
	check_options(p, s, end);
	if (n < 0)
		n = 0;
	if (s->bytes[end] < 0)
		expect(p, n >= s->waiting[end], "%s: %zd bytes wait, there were %d", s->what, n,
		       s->waiting[end]);
	else
		expect_same(p, s->what, n, s->bytes[end]);
	expect(p, pattern_differs(buffer, (size_t)n, seed_of(s, end)) < 0, "%s: the data differ", s->what);
}

/* What the two ends agreed on when they met; the clock of the time stamps never goes back. */
static void end_check_agreed(struct program *p, struct pair *s, enum end end)
{
	struct tcp_info info = {0};
	uint32_t stamp = 0;

	getsockopt(s->fd[end], IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	getsockopt(s->fd[end], IPPROTO_TCP, TCP_TIMESTAMP, &stamp, &(socklen_t){sizeof(stamp)});
	if (s->agreed[end].known) {
		expect_same(p, "options of a connection", info.tcpi_options, s->agreed[end].options);
		expect_same(p, "scale of the window it sends to", info.tcpi_snd_wscale, s->agreed[end].sends);
		expect_same(p, "scale of the window it has", info.tcpi_rcv_wscale, s->agreed[end].receives);
		expect(p, (int32_t)(stamp - s->agreed[end].stamp) >= 0,
		       "%s: the clock of its time stamps went back from %u to %u", s->what,
		       s->agreed[end].stamp, stamp);
	}
	s->agreed[end].known = true;
	s->agreed[end].options = info.tcpi_options;
	s->agreed[end].sends = info.tcpi_snd_wscale;
	s->agreed[end].receives = info.tcpi_rcv_wscale;
	s->agreed[end].stamp = stamp;
}

static void verify_end(struct program *p, enum end end)
{
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		end_check(p, &pairs[i], end);
		end_check_agreed(p, &pairs[i], end);
	}
}

/* Everything that was sent arrives, and nothing else; then the end, if it was sent. */
static void end_drain(struct program *p, const struct pair *s, enum end end)
{
	int fd = s->fd[end], got = 0;

	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	for (int ms = 0; ms < 20000 && got < s->total[end];) {
		ssize_t n = recv(fd, buffer + got, (size_t)(s->total[end] - got), 0);
		if (n <= 0) {
			sleep_ms(1);
			ms++;
		}
		got += n > 0 ? (int)n : 0;
	}
	expect_same(p, s->what, got, s->total[end]);
	expect(p, pattern_differs(buffer, (size_t)got, seed_of(s, end)) < 0, "%s: what was read differs",
	       s->what);
}

static void finish_end(struct program *p, enum end end)
{
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		end_drain(p, &pairs[i], end);
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		const struct pair *s = &pairs[i];
		ssize_t n = s->shut[end] == 1 + SHUT_WR ? 3 : -1;
		/* The other process may not have made room yet. */
		for (int ms = 0; ms < 20000 && n < 0; ms++) {
			n = send(s->fd[end], "new", 3, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (n < 0)
				sleep_ms(1);
		}
		expect_same(p, s->what, n, 3);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		const struct pair *s = &pairs[i];
		bool ended = s->shut[!end] == 1 + SHUT_WR || s->shut[end] == 1 + SHUT_RD;
		char text[8] = "";
		ssize_t n = -1;
		for (int ms = 0; ms < 20000 && n < 0; ms++) {
			n = recv(s->fd[end], text, sizeof(text), MSG_DONTWAIT);
			if (n < 0)
				sleep_ms(1);
		}
		/* After SHUT_RD the kernel still takes what comes. */
		if (s->shut[end] != 1 + SHUT_RD)
			expect_same(p, s->what, n, ended ? 0 : 3);
	}
}

static void client_verify(struct program *p, void *state)
{
	(void)state;
	verify_end(p, CLIENT);
}

static void server_verify(struct program *p, void *state)
{
	(void)state;
	verify_end(p, SERVER);
}

/* Each end waits for the other, so one of them does it on its own; what it finds goes into a file. */
static void server_step(void *state)
{
	struct program judge = *(struct program *)state;
	static bool done;
	char path[256], made[256];

	snprintf(path, sizeof(path), "%s/finish-now", judge.folder);
	if (done || access(path, F_OK) < 0)
		return;
	done = true;
	judge.bad = false;
	judge.reason[0] = '\0';
	finish_end(&judge, SERVER);
	snprintf(made, sizeof(made), "%s/finished.new", judge.folder);
	snprintf(path, sizeof(path), "%s/finished", judge.folder);
	int fd = must(open(made, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	if (judge.bad)
		must(write(fd, judge.reason, strlen(judge.reason)));
	close(fd);
	must(rename(made, path));
}

static void client_finish(struct program *p, void *state)
{
	(void)state;
	char path[256];

	client_verify(p, state);
	snprintf(path, sizeof(path), "%s/finish-now", p->folder);
	close(must(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644)));
	finish_end(p, CLIENT);
	snprintf(path, sizeof(path), "%s/finished", p->folder);
	for (int ms = 0; ms < 20000 && access(path, F_OK) < 0; ms++)
		sleep_ms(1);
	char reason[320] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	expect(p, fd >= 0, "the other process does not come to an end");
	expect(p, fd < 0 || read(fd, reason, sizeof(reason) - 1) == 0, "the other process: %s", reason);
	close(fd);
}

static void server_finish(struct program *p, void *state)
{
	server_verify(p, state);
}

static void spoil(void *state)
{
	(void)state;
	must(recv(pairs[3].fd[CLIENT], buffer, 1, 0));
}

static void close_ends(enum end end)
{
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		close(pairs[i].fd[end]);
}

int main(int argc, char **argv)
{
	static const struct program_ops client_ops = {
		.verify = client_verify, .spoil = spoil, .finish = client_finish};
	static const struct program_ops server_ops = {
		.verify = server_verify, .finish = server_finish, .step = server_step};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
		pair_make(&pairs[i], p.more);
	if (!must(fork())) {
		struct program q = program_role(&p, "server");
		close_ends(CLIENT);
		return program_serve(&q, &server_ops, &q);
	}
	close_ends(SERVER);
	program_await(&p, "server");
	return program_serve(&p, &client_ops, NULL);
}
