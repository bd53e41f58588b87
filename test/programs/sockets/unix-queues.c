/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues of unix stream sockets that tell more than their bytes: who sent what (SO_PASSCRED), where peeking
 * goes on (SO_PEEK_OFF), that the peer went away with unread bytes (ECONNRESET), many small messages in a
 * small buffer. None of it is kept by CRIU, so this program has only "more".
 */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MESSAGES = 200, OFFSET = 3 };

static const char first[] = "from the parent", second[] = "from the child, who is another user",
		  third[] = "once more";

struct state {
	int creds[2];
	pid_t parent, child;
	int peeked[2];
	int reset;
	int small[2];
	int sent; /* bytes that the small buffer took */
};

static unsigned char buffer[1 << 16];

/* One run of bytes with the credentials that it carries. */
static void check_run(struct program *p, int fd, const char *want, pid_t pid, uid_t uid, int flags)
{
	char control[CMSG_SPACE(sizeof(struct ucred))] __attribute__((aligned(8)));
	struct iovec iov = {.iov_base = buffer, .iov_len = sizeof(buffer)};
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct ucred creds = {0};

	expect_same(p, want, recvmsg(fd, &m, flags | MSG_DONTWAIT), strlen(want));
	expect(p, !memcmp(buffer, want, strlen(want)), "'%s': other bytes", want);
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_type == SCM_CREDENTIALS)
		memcpy(&creds, CMSG_DATA(h), sizeof(creds));
	expect_same(p, "pid of the sender", creds.pid, pid);
	expect_same(p, "uid of the sender", creds.uid, uid);
}

static void check_small(struct program *p, const struct state *s, int flags)
{
	expect_same(p, "small messages", recv(s->small[1], buffer, sizeof(buffer), flags | MSG_DONTWAIT),
		    s->sent);
	expect(p, pattern_differs(buffer, (size_t)s->sent, 5) < 0, "small messages: the data differ");
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	int offset = -1;
	struct pollfd poller = {.fd = s->reset};

	check_run(p, s->creds[1], first, s->parent, 0, MSG_PEEK);
	getsockopt(s->peeked[1], SOL_SOCKET, SO_PEEK_OFF, &offset, &(socklen_t){sizeof(offset)});
	expect_same(p, "peek offset", offset, OFFSET);
	expect_same(p, "waiting error", poll(&poller, 1, 0) > 0 && poller.revents & POLLERR, 1);
	check_small(p, s, MSG_PEEK);
}

static void finish(struct program *p, void *state)
{
	const struct state *s = state;
	char bytes[16];

	verify(p, state);
	check_run(p, s->creds[1], first, s->parent, 0, 0);
	check_run(p, s->creds[1], second, s->child, 1000, 0);
	check_run(p, s->creds[1], third, s->parent, 0, 0);
	expect_same(p, "peeked on", recv(s->peeked[1], bytes, 4, MSG_PEEK | MSG_DONTWAIT), 4);
	expect(p, !memcmp(bytes, "3456", 4), "peeking goes on elsewhere");
	expect_same(p, "read", recv(s->peeked[1], bytes, 10, MSG_DONTWAIT), 10);
	expect(p, !memcmp(bytes, "0123456789", 10), "other bytes");
	expect(p, recv(s->reset, bytes, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET, "no ECONNRESET");
	expect_same(p, "end after it", recv(s->reset, bytes, 1, MSG_DONTWAIT), 0);
	check_small(p, s, 0);
}

static void spoil(void *state)
{
	const struct state *s = state;

	must(setsockopt(s->peeked[1], SOL_SOCKET, SO_PEEK_OFF, &(int){1}, sizeof(int)));
}

static void must_send(int fd, const char *text)
{
	if (send(fd, text, strlen(text), 0) != (ssize_t)strlen(text))
		program_die("send");
}

static void creds_make(struct state *s, const struct program *p)
{
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->creds));
	must(setsockopt(s->creds[1], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)));
	must_send(s->creds[0], first);
	s->child = must(fork());
	if (!s->child) {
		must(setresuid(1000, 1000, 1000));
		struct program q = program_role(p, "child");
		program_note_volatile(&q);
		must_send(s->creds[0], second);
		pause();
		_exit(0);
	}
	/* In its order: the child's bytes come before our next ones. */
	int waiting = 0;
	for (int ms = 0; ms < 5000 && waiting < (int)(strlen(first) + strlen(second)); ms++, sleep_ms(1)) {
		char control[CMSG_SPACE(sizeof(struct ucred))];
		struct iovec iov = {.iov_base = buffer, .iov_len = sizeof(buffer)};
		struct msghdr m = {.msg_iov = &iov,
				   .msg_iovlen = 1,
				   .msg_control = control,
				   .msg_controllen = sizeof(control)};
		must(setsockopt(s->creds[1], SOL_SOCKET, SO_PEEK_OFF, &(int){(int)strlen(first)},
				sizeof(int)));
		ssize_t n = recvmsg(s->creds[1], &m, MSG_PEEK | MSG_DONTWAIT);
		waiting = n < 0 ? 0 : (int)(strlen(first) + (size_t)n);
		must(setsockopt(s->creds[1], SOL_SOCKET, SO_PEEK_OFF, &(int){-1}, sizeof(int)));
	}
	must_send(s->creds[0], third);
}

static void small_make(struct state *s)
{
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->small));
	must(setsockopt(s->small[0], SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int)));
	pattern_fill(buffer, sizeof(buffer), 5);
	while (s->sent < MESSAGES * 7 && send(s->small[0], buffer + s->sent, 7, MSG_DONTWAIT) == 7)
		s->sent += 7;
	if (!s->sent)
		program_die("nothing fits into the small buffer");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static struct state s;
	struct program p;
	int pair[2];

	program_start(&p, argc, argv);
	s.parent = getpid();
	creds_make(&s, &p);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s.peeked));
	must_send(s.peeked[0], "0123456789");
	must(setsockopt(s.peeked[1], SOL_SOCKET, SO_PEEK_OFF, &(int){OFFSET}, sizeof(int)));
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	must_send(pair[0], "unread");
	s.reset = pair[0];
	close(pair[1]);
	small_make(&s);
	return program_serve(&p, &ops, &s);
}
