/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An accepted TCP connection whose client is outside: data that was received and not read, data that was sent and
 * not taken by the client, options. A word says "4" or "6", another ("any") that it listens on every address; the port is written to the file "port" in the mailbox.
 * The client sends RECEIVED bytes of pattern 1 and must read SENT bytes of pattern 2; "finish" reads ours.
 * Proof: names, state, options, queue lengths, the received bytes by MSG_PEEK.
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

enum { RECEIVED = 50000, SENT = 200000, OPTIONS = 6, CRIU_OPTIONS = 5 };

static const struct {
	const char *name;
	int level, option;
} options[OPTIONS] = {
	{"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE},  {"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY},
	{"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE}, {"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL},
	{"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT},   {"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT},
};

struct state {
	int listener, fd;
	struct sockaddr_storage local, remote;
	socklen_t length;
	int values[OPTIONS];
	unsigned char options; /* TCPI_OPT_* that both sides agreed on */
	unsigned send_scale, receive_scale;
};

static unsigned char buffer[SENT];

static int option_get(int fd, int level, int option)
{
	int value = -1;

	getsockopt(fd, level, option, &value, &(socklen_t){sizeof(value)});
	return value;
}

static struct tcp_info tcp_info_of(int fd)
{
	struct tcp_info info = {0};

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof(info)});
	return info;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	struct sockaddr_storage local = {0}, remote = {0};
	struct tcp_info info = tcp_info_of(s->fd);
	int waiting = -1;

	getsockname(s->fd, (struct sockaddr *)&local, &(socklen_t){sizeof(local)});
	getpeername(s->fd, (struct sockaddr *)&remote, &(socklen_t){sizeof(remote)});
	expect(p, !memcmp(&local, &s->local, s->length), "another local address");
	expect(p, !memcmp(&remote, &s->remote, s->length), "another remote address");
	expect_same(p, "state", info.tcpi_state, TCP_ESTABLISHED);
	expect_same(p, "agreed options", info.tcpi_options & 0x0f, s->options);
	expect_same(p, "window scale of the peer", info.tcpi_snd_wscale, s->send_scale);
	expect_same(p, "own window scale", info.tcpi_rcv_wscale, s->receive_scale);
	for (int i = 0; i < (p->more ? OPTIONS : CRIU_OPTIONS); i++)
		expect_same(p, options[i].name, option_get(s->fd, options[i].level, options[i].option),
			    s->values[i]);
	ioctl(s->fd, SIOCINQ, &waiting);
	expect_same(p, "bytes received and not read", waiting, RECEIVED);
	expect_same(p, "peeked bytes", recv(s->fd, buffer, sizeof(buffer), MSG_PEEK | MSG_DONTWAIT),
		    RECEIVED);
	expect(p, pattern_differs(buffer, RECEIVED, 1) < 0, "the received data differ");
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;

	verify(p, state);
	expect_same(p, "read bytes", recv(s->fd, buffer, sizeof(buffer), MSG_DONTWAIT), RECEIVED);
	expect(p, pattern_differs(buffer, RECEIVED, 1) < 0, "the data that were read differ");
	expect(p, recv(s->fd, buffer, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "more came than was sent");
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(recv(s->fd, buffer, 1, 0));
}

static void write_port(const struct program *p, unsigned port)
{
	char path[256], text[16];

	snprintf(path, sizeof(path), "%s/port.new", p->folder);
	int fd = must(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	int n = snprintf(text, sizeof(text), "%u\n", port);
	must(write(fd, text, (size_t)n));
	close(fd);
	char final[256];
	snprintf(final, sizeof(final), "%s/port", p->folder);
	must(rename(path, final));
}

static void listen_and_accept(const struct program *p, struct state *s, bool v6, bool any)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};

	if (any) {
		six.sin6_addr = in6addr_any;
		four.sin_addr.s_addr = INADDR_ANY;
	}
	s->length = v6 ? sizeof(six) : sizeof(four);
	s->listener = must(socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	must(bind(s->listener, v6 ? (struct sockaddr *)&six : (struct sockaddr *)&four, s->length));
	must(listen(s->listener, 5));
	must(getsockname(s->listener, (struct sockaddr *)&s->local, &(socklen_t){sizeof(s->local)}));
	/* The port is at the same place in both. */
	write_port(p, ntohs(((struct sockaddr_in *)&s->local)->sin_port));
	s->fd = must(accept4(s->listener, NULL, NULL, SOCK_CLOEXEC));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	int waiting = 0;

	program_start(&p, argc, argv);
	listen_and_accept(&p, &s, program_told(argc, argv, "6"), program_told(argc, argv, "any"));
	must(getsockname(s.fd, (struct sockaddr *)&s.local, &(socklen_t){sizeof(s.local)}));
	must(getpeername(s.fd, (struct sockaddr *)&s.remote, &(socklen_t){sizeof(s.remote)}));
	must(setsockopt(s.fd, SOL_SOCKET, SO_SNDBUF, &(int){SENT * 4}, sizeof(int)));
	must(setsockopt(s.fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int)));
	must(setsockopt(s.fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)));
	must(setsockopt(s.fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){321}, sizeof(int)));
	must(setsockopt(s.fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){11}, sizeof(int)));
	must(setsockopt(s.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(int){99000}, sizeof(int)));
	pattern_fill(buffer, SENT, 2);
	/* What the client's window does not take stays in our queue; the send buffer holds it all. */
	if (send(s.fd, buffer, SENT, 0) != SENT)
		program_die("send");
	while (ioctl(s.fd, SIOCINQ, &waiting) == 0 && waiting < RECEIVED)
		sleep_ms(1);
	for (int i = 0; i < OPTIONS; i++)
		s.values[i] = option_get(s.fd, options[i].level, options[i].option);
	struct tcp_info info = tcp_info_of(s.fd);
	s.options = info.tcpi_options & 0x0f;
	s.send_scale = info.tcpi_snd_wscale;
	s.receive_scale = info.tcpi_rcv_wscale;
	return program_serve(&p, &ops, &s);
}
