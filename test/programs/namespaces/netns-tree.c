/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several network namespaces in a tree. The first process lives in one of its own, with "home" in that of the tests; a child and a grandchild
 * live in others. Unless it is "home", a pair of devices leads from each to the next, with a TCP connection and datagrams over it; one namespace has a number for another that it did not get by itself.
 * "more": a macvlan of the child lies on a device of the first.
 * Proof: whose namespace differs from whose, what ip(8) tells in each, and that what is sent to the process below comes back.
 */
#include "program.h"

#include <errno.h>
#include <linux/net_namespace.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PORT = 4711,
	ANSWER_MS = 20000,
	NUMBER = 77,
	TEXT_BYTES = 32 * 1024,
	LOOKS = 100,
	LOOK_MS = 50,
	NET = 51
};

static const char *const roles[] = {"main", "child", "grandchild"};

/* What a process of the tree has, by its place in it. */
struct place {
	int depth;
	bool linked, more;
	int up, up_datagrams;     /* to the process above, which asks; -1 */
	int down, down_datagrams; /* to the one below, which answers; -1 */
	char text[TEXT_BYTES];    /* what ip(8) says */
};

static void run(const char *fmt, ...) printf_like(1, 2);

static void run(const char *fmt, ...)
{
	char command[300];
	va_list args;
	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	if (system(command) != 0) {
		fprintf(stderr, "%s\n", command);
		exit(77);
	}
}

static ino_t namespace_of(pid_t pid)
{
	char path[40];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	must(stat(path, &st));
	return st.st_ino;
}

static void look(char *text)
{
	static const char command[] = "ip -o -d link; ip -o addr; ip route show table all | sort; "
				      "ip -6 route show table all | sort";
	FILE *f = popen(command, "re");
	if (!f)
		program_die("popen");
	text[fread(text, 1, TEXT_BYTES - 1, f)] = '\0';
	pclose(f);
}

static bool settled(const char *text)
{
	return !strstr(text, "tentative") && !strstr(text, "LOWERLAYERDOWN");
}

/* What the kernel finds out by itself takes its time. */
static void remember(char *text)
{
	for (int i = 0; i < LOOKS; i++) {
		look(text);
		if (settled(text))
			return;
		sleep_ms(LOOK_MS);
	}
}

static void verify_text(struct program *p, const char *was)
{
	static char now[TEXT_BYTES];
	size_t at = 0;
	for (int i = 0; i < LOOKS; i++) {
		look(now);
		if (!strcmp(now, was))
			return;
		sleep_ms(LOOK_MS);
	}
	while (now[at] == was[at])
		at++;
	while (at && now[at - 1] != '\n')
		at--;
	program_bad(p, "'%.*s' was '%.*s'", (int)strcspn(now + at, "\n"), now + at,
		    (int)strcspn(was + at, "\n"), was + at);
}

static void verify_answer(struct program *p, const char *what, int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	char byte = 0;
	expect(p, send(fd, "x", 1, MSG_NOSIGNAL) == 1, "%s: %s", what, strerror(errno));
	expect(p, poll(&wait, 1, ANSWER_MS) == 1 && recv(fd, &byte, 1, 0) == 1 && byte == 'x',
	       "%s: no answer", what);
}

static void verify(struct program *p, void *state)
{
	const struct place *s = state;
	bool of_tests = namespace_of(getpid()) == namespace_of(1),
	     of_above = s->depth && namespace_of(getpid()) == namespace_of(getppid());
	expect(p, of_tests == (!s->depth && !s->linked),
	       "it lives in the namespace of the tests, or not any more");
	expect(p, !of_above, "it lives in the namespace of the process above");
	if (!of_tests)
		verify_text(p, s->text);
	if (s->down >= 0) {
		verify_answer(p, "connection", s->down);
		verify_answer(p, "datagrams", s->down_datagrams);
	}
}

static void spoil(void *state)
{
	(void)state;
	run("ip link set lo mtu 1234");
}

/* Of who lives in the namespace of the tests. */
static void leave(void *state)
{
	(void)state;
	must(unshare(CLONE_NEWNET));
}

static void answer(int fd)
{
	struct sockaddr_in from;
	socklen_t n = sizeof(from);
	char byte;
	if (fd >= 0 && recvfrom(fd, &byte, 1, MSG_DONTWAIT, (struct sockaddr *)&from, &n) == 1)
		(void)!sendto(fd, &byte, 1, MSG_NOSIGNAL, n ? (struct sockaddr *)&from : NULL, n);
}

/* Work between questions: what comes from above goes back there. */
static void step(void *state)
{
	const struct place *s = state;
	answer(s->up);
	answer(s->up_datagrams);
}

/* A number for the namespace of a process. */
static void give_number(pid_t pid)
{
	struct {
		struct nlmsghdr h;
		struct rtgenmsg m;
		char room[3];
		struct nlattr number;
		int32_t number_value;
		struct nlattr pid;
		uint32_t pid_value;
	} ask = {.h = {.nlmsg_len = sizeof(ask),
		       .nlmsg_type = RTM_NEWNSID,
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
		 .number = {.nla_type = NETNSA_NSID, .nla_len = NLA_HDRLEN + sizeof(int32_t)},
		 .number_value = NUMBER,
		 .pid = {.nla_type = NETNSA_PID, .nla_len = NLA_HDRLEN + sizeof(int32_t)},
		 .pid_value = (uint32_t)pid};
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
		char more[256];
	} told;
	int fd = must(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
	must(send(fd, &ask, sizeof(ask), 0));
	must(recv(fd, &told, sizeof(told), 0));
	close(fd);
	if (told.e.error)
		exit(77);
}

/* ------------------------------------------------------------------- building */

static void say(int fd)
{
	must(write(fd, "x", 1));
}

static void hear(int fd)
{
	char byte;
	if (read(fd, &byte, 1) != 1)
		program_die("the other process");
}

static int make(int type, int net, int (*place)(int fd, const struct sockaddr *address, socklen_t n))
{
	const struct sockaddr_in address = {.sin_family = AF_INET,
					    .sin_port = htons(PORT),
					    .sin_addr.s_addr = htonl(10u << 24 | (uint32_t)net << 16 | 2)};
	int fd = must(socket(AF_INET, type | SOCK_CLOEXEC, 0));
	must(place(fd, (const struct sockaddr *)&address, sizeof(address)));
	return fd;
}

/* From the caller's namespace into that of the process below it. */
static void lay(const struct place *s, pid_t to)
{
	int net = NET + s->depth;
	if (!s->depth)
		give_number(to); /* before it gets another by itself */
	run("ip link add over%d address 02:00:00:%02d:00:01 type veth peer name under%d address 02:00:00:%02d:00:02 netns %d",
	    net, net, net, net, (int)to);
	run("ip addr add 10.%d.0.1/16 dev over%d && ip link set over%d up", net, net, net);
	if (s->depth || !s->more)
		return;
	run("ip link add mac0 link over%d address 02:00:00:%02d:00:03 type macvlan mode bridge && ip link set mac0 netns %d",
	    net, net, (int)to);
}

static void start_below(struct program *p, struct place *above);

/* The process below: in a namespace of its own, into which the one above leads devices. */
static void live(const struct program *above, struct place *s, int from, int to)
{
	struct program p = program_role(above, roles[s->depth]);
	int net = NET + s->depth - 1;
	must(unshare(CLONE_NEWNET));
	run("ip link set lo up");
	say(to);
	hear(from);
	if (s->linked) {
		run("ip addr add 10.%d.0.2/16 dev under%d && ip link set under%d up", net, net, net);
		if (s->depth == 1 && s->more)
			run("ip addr add 10.99.0.1/16 dev mac0 && ip link set mac0 up");
		int listener = make(SOCK_STREAM, net, bind);
		must(listen(listener, 1));
		s->up_datagrams = make(SOCK_DGRAM, net, bind);
		say(to);
		s->up = must(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
		close(listener);
	}
	close(from);
	close(to);
	if (s->depth + 1 < (int)ARRAY_SIZE(roles))
		start_below(&p, s);
	static const struct program_ops ops = {.verify = verify, .step = step};
	remember(s->text);
	_exit(program_serve(&p, &ops, s));
}

static void start_below(struct program *p, struct place *above)
{
	int up[2], down[2], net = NET + above->depth;
	must(pipe(up));
	must(pipe(down));
	pid_t pid = must(fork());
	if (!pid) {
		struct place *s = calloc(1, sizeof(*s));
		*s = (struct place){.depth = above->depth + 1,
				    .linked = above->linked,
				    .more = above->more,
				    .up = -1,
				    .up_datagrams = -1,
				    .down = -1,
				    .down_datagrams = -1};
		close(up[0]);
		close(down[1]);
		close(above->up);
		close(above->up_datagrams);
		live(p, s, down[0], up[1]);
	}
	close(up[1]);
	close(down[0]);
	hear(up[0]);
	if (above->linked)
		lay(above, pid);
	say(down[1]);
	if (above->linked) {
		hear(up[0]);
		above->down = make(SOCK_STREAM, net, connect);
		above->down_datagrams = make(SOCK_DGRAM, net, connect);
	}
	close(up[0]);
	close(down[1]);
	program_await(p, roles[above->depth + 1]);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil},
					at_home = {.verify = verify, .spoil = leave};
	static struct place s = {.up = -1, .up_datagrams = -1, .down = -1, .down_datagrams = -1};
	struct program p;
	program_start(&p, argc, argv);
	s.more = p.more;
	s.linked = !program_told(argc, argv, "home");
	if (s.linked) {
		must(unshare(CLONE_NEWNET));
		run("ip link set lo up");
	}
	start_below(&p, &s);
	if (s.linked)
		remember(s.text);
	return program_serve(&p, s.linked ? &ops : &at_home, &s);
}
