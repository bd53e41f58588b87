/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of sockets that share a port, in which a program chooses: of UDP sockets the one that the first byte of a packet names, of
 * TCP listeners always the last. Proof: that is where packets and connections come. With "program" it is one of eBPF,
 * with "turned" the descriptors are in another order than the sockets: both are refused.
 */
#include "program.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MEMBERS = 3 };

struct state {
	int tcp[MEMBERS], udp[MEMBERS];
	struct sockaddr_in tcp_name, udp_name;
	bool refused;
};

static bool readable(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) == 1;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int from = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

	for (char i = 0; i < MEMBERS && !s->refused; i++) {
		char got = 9;
		must(sendto(from, &i, 1, 0, (const struct sockaddr *)&s->udp_name, sizeof(s->udp_name)));
		expect(p, readable(s->udp[(int)i], 2000), "no packet comes to member %d", i);
		expect_same(p, "packet", recv(s->udp[(int)i], &got, 1, MSG_DONTWAIT), 1);
		expect_same(p, "of member", got, i);
	}
	close(from);
	for (int i = 0; i < 4 && !s->refused; i++) {
		int fd = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
		must(connect(fd, (const struct sockaddr *)&s->tcp_name, sizeof(s->tcp_name)));
		expect(p, readable(s->tcp[MEMBERS - 1], 2000), "no connection comes to the last");
		if (readable(s->tcp[MEMBERS - 1], 0))
			close(must(accept(s->tcp[MEMBERS - 1], NULL, NULL)));
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
		close(fd);
	}
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(setsockopt(s->udp[0], SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &(int){0}, sizeof(int)));
	/* Then all of one sender fall to one member. */
}

static void make(int type, int fds[MEMBERS], struct sockaddr_in *name, const struct sock_fprog *program)
{
	socklen_t n = sizeof(*name);

	*name = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	for (int i = 0; i < MEMBERS; i++) {
		fds[i] = must(socket(AF_INET, type | SOCK_CLOEXEC, 0));
		must(setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int)));
		must(bind(fds[i], (const struct sockaddr *)name, sizeof(*name)));
		must(getsockname(fds[i], (struct sockaddr *)name, &n));
		if (type == SOCK_STREAM)
			must(listen(fds[i], 8));
	}
	must(setsockopt(fds[1], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program, sizeof(*program)));
}

/* The same as the classic one does, but nobody can read it. */
static void make_program(const struct state *s)
{
	static const uint64_t code[] = {0x00000000000000b7, 0x95}; /* r0 = 0; exit */
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
			       .insn_cnt = ARRAY_SIZE(code),
			       .insns = (uintptr_t)code,
			       .license = (uintptr_t) "GPL"};
	int program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

	if (program < 0)
		program_lacks("BPF programs");
	must(setsockopt(s->udp[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &program, sizeof(program)));
	close(program);
}

static void turn(int fds[MEMBERS])
{
	int other = must(dup(fds[0]));

	must(dup3(fds[1], fds[0], O_CLOEXEC));
	must(dup3(other, fds[1], O_CLOEXEC));
	close(other);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct sock_filter by_byte[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
					       BPF_STMT(BPF_RET | BPF_A, 0)};
	static struct sock_filter last[40];
	const struct sock_fprog for_udp = {.len = ARRAY_SIZE(by_byte), .filter = by_byte};
	const struct sock_fprog for_tcp = {.len = ARRAY_SIZE(last), .filter = last};
	struct program p;
	struct state s = {.refused = false};

	program_start(&p, argc, argv);
	/* Longer than what is read of it at once. */
	for (size_t i = 0; i < ARRAY_SIZE(last); i++)
		last[i] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, (uint32_t)i);
	last[ARRAY_SIZE(last) - 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, MEMBERS - 1);
	make(SOCK_DGRAM, s.udp, &s.udp_name, &for_udp);
	make(SOCK_STREAM, s.tcp, &s.tcp_name, &for_tcp);
	s.refused = program_told(argc, argv, "program") || program_told(argc, argv, "turned");
	if (program_told(argc, argv, "program"))
		make_program(&s);
	if (program_told(argc, argv, "turned"))
		turn(s.udp);
	return program_serve(&p, &ops, &s);
}
