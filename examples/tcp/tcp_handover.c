/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves a live TCP connection from one process to another, again and again, with libferry-tcp:
 *
 *	tcp_handover PORT [LINES]
 *
 * It accepts one connection on 127.0.0.1:PORT and answers each line with "PID NUMBER: LINE". After every LINES
 * lines (3) the connection moves to a new process, which goes on counting where the old one stopped, and the
 * old one exits. The client sees nothing but another PID. Try it with `nc 127.0.0.1 PORT`. It ends with the
 * connection.
 *
 * The descriptor itself is never passed on: only the bytes of struct ferry_tcp travel through a pipe, as they
 * might travel to another machine. Packets of the connection are blocked meanwhile with nft(8), since the
 * kernel would answer them with a RST while no socket exists. Needs CAP_NET_ADMIN. A real program also needs
 * somebody who resumes the socket when this process is killed between take and close: see ferry-tcp(7).
 */
#include <ferry/tcp.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Any number that no other rule of this machine uses (SO_MARK). */
enum { PACKET_MARK = 0x7123 };

/* What the service itself remembers. */
struct service {
	int fd;
	unsigned lines; /* answered so far */
	unsigned lines_a_process;
};

static void die(const char *what, const struct ferry_error *err)
{
	if (err && err->message[0])
		fprintf(stderr, "tcp_handover: %s\n%s%s", err->message, err->hint, err->hint[0] ? "\n" : "");
	else
		fprintf(stderr, "tcp_handover: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void transfer(ssize_t (*call)(int, void *, size_t), int fd, void *bytes, size_t n)
{
	for (char *at = bytes; n;) {
		ssize_t r = call(fd, at, n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			die("pipe", NULL);
		at += r;
		n -= (size_t)r;
	}
}

static ssize_t write_call(int fd, void *bytes, size_t n)
{
	return write(fd, bytes, n);
}

/* Both sides are this very program, so that the structure can travel as it is. */
static void send_state(int fd, struct ferry_tcp *t, struct service *s)
{
	transfer(write_call, fd, t, sizeof(*t));
	transfer(write_call, fd, t->inq.bytes, t->inq.len);
	transfer(write_call, fd, t->outq.bytes, t->outq.len);
	transfer(write_call, fd, s, sizeof(*s));
}

static void *receive_queue(int fd, size_t n)
{
	void *bytes = n ? malloc(n) : NULL;
	if (n && !bytes)
		die("malloc", NULL);
	transfer(read, fd, bytes, n);
	return bytes;
}

static void receive_state(int fd, struct ferry_tcp *t, struct service *s)
{
	transfer(read, fd, t, sizeof(*t));
	t->inq.bytes = receive_queue(fd, t->inq.len);
	t->outq.bytes = receive_queue(fd, t->outq.len);
	transfer(read, fd, s, sizeof(*s));
}

/*
 * Block the connection whose client has this port, on its way in and out. Only what the rebuild repeats in the name of a
 * client that has closed its side may pass.
 */
static void block(uint16_t port)
{
	char command[512];
	snprintf(command, sizeof(command),
		 "nft 'add table inet tcp_handover;"
		 "add chain inet tcp_handover in { type filter hook input priority -300; };"
		 "add chain inet tcp_handover out { type filter hook output priority -300; };"
		 "add rule inet tcp_handover in meta mark != %u tcp sport %u drop;"
		 "add rule inet tcp_handover in meta mark != %u tcp dport %u drop;"
		 "add rule inet tcp_handover out tcp dport %u drop'",
		 PACKET_MARK, port, PACKET_MARK, port, port);
	if (system(command))
		die("nft", NULL);
}

static void unblock(void)
{
	if (system("nft delete table inet tcp_handover"))
		die("nft", NULL);
}

static uint16_t peer_port(int fd)
{
	struct sockaddr_in peer = {0};
	socklen_t n = sizeof(peer);
	if (getpeername(fd, (struct sockaddr *)&peer, &n) < 0)
		die("getpeername", NULL);
	return ntohs(peer.sin_port);
}

/* The old process: out of the socket, into the pipe. */
static void give(struct service *s, int pipe_fd)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_tcp t = FERRY_TCP_INIT;
	struct ferry_tcp_options options = FERRY_TCP_OPTIONS_INIT;
	options.flags = FERRY_TCP_PAUSE;
	block(peer_port(s->fd));
	if (ferry_tcp_take(s->fd, &options, &t, &err) < 0) {
		unblock();
		die("take", &err);
	}
	if (ferry_tcp_close_silently(s->fd, &err) < 0)
		die("close", &err);
	send_state(pipe_fd, &t, s);
	ferry_tcp_release(&t);
}

/* The new process: out of the pipe, into a socket of its own. */
static void receive(struct service *s, int pipe_fd)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_tcp t;
	struct ferry_tcp_options options = FERRY_TCP_OPTIONS_INIT;
	options.packet_mark = PACKET_MARK;
	receive_state(pipe_fd, &t, s);
	int r = ferry_tcp_rebuild(&t, &options, &s->fd, &err);
	unblock();
	if (r < 0 || ferry_tcp_resume(s->fd, &t.undo, 0, &err) < 0)
		die("rebuild", &err);
	ferry_tcp_release(&t);
}

/* Fork a process that shares nothing with this one but a pipe. Returns in the new process only. */
static void hand_over(struct service *s)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		die("pipe", NULL);
	pid_t pid = fork();
	if (pid < 0)
		die("fork", NULL);
	if (pid) {
		close(ends[0]);
		give(s, ends[1]);
		close(ends[1]);
		/* Only so that a shell that started us waits to the end. */
		int status = 0;
		waitpid(pid, &status, 0);
		exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	close(ends[1]);
	close(s->fd);
	*s = (struct service){.fd = -1};
	receive(s, ends[0]);
	close(ends[0]);
}

/* One line, without its end. Returns 0 when the client is gone. */
static int read_line(int fd, char *line, size_t n)
{
	for (size_t used = 0; used < n - 1;) {
		ssize_t r = read(fd, line + used, 1);
		if (r <= 0)
			return 0;
		if (line[used] == '\n') {
			line[used] = '\0';
			return 1;
		}
		used++;
	}
	return 0;
}

static int accept_one(uint16_t port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int one = 1;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 1) < 0)
		die("listen", NULL);
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		die("accept", NULL);
	close(listener);
	return fd;
}

int main(int argc, char **argv)
{
	char line[1024];
	if (argc < 2) {
		fprintf(stderr, "usage: tcp_handover PORT [LINES]\n");
		return 2;
	}
	struct service s = {.lines_a_process = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 3};
	s.fd = accept_one((uint16_t)strtoul(argv[1], NULL, 10));
	while (read_line(s.fd, line, sizeof(line))) {
		dprintf(s.fd, "%d %u: %s\n", (int)getpid(), ++s.lines, line);
		if (s.lines_a_process && s.lines % s.lines_a_process == 0)
			hand_over(&s);
	}
	close(s.fd);
	return 0;
}
