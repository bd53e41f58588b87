/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Out-of-band data in unix streams: in the middle, as the first byte, as the last one, and to be read in its place
 * (SO_OOBINLINE). CRIU makes plain bytes of it: only "more".
 */
#include "program.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SIOCATMARK
#define SIOCATMARK 0x8905
#endif

static struct stream {
	const char *what, *before, *after;
	bool in_line;
	int to, from;
} streams[] = {
	{.what = "middle", .before = "plain", .after = "behind"},
	{.what = "first", .before = "", .after = "behind"},
	{.what = "last", .before = "plain", .after = ""},
	{.what = "in its place", .before = "plain", .after = "behind", .in_line = true},
	{.what = "first, in its place", .before = "", .after = "behind", .in_line = true},
};

static void check(struct program *p, const struct stream *s)
{
	struct pollfd poller = {.fd = s->to, .events = POLLPRI};
	int at_mark = -1, waiting = 0;
	char byte = 0;

	expect(p, poll(&poller, 1, 0) == 1 && poller.revents & POLLPRI, "%s: nothing urgent", s->what);
	ioctl(s->to, SIOCATMARK, &at_mark);
	expect_same(p, s->what, at_mark, !*s->before);
	ioctl(s->to, SIOCINQ, &waiting);
	expect_same(p, s->what, waiting, strlen(s->before) + 1 + strlen(s->after));
	ssize_t n = recv(s->to, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT);
	if (s->in_line)
		expect(p, n < 0 && errno == EINVAL, "%s: it can be read aside", s->what);
	else
		expect(p, n == 1 && byte == 'u', "%s: another byte", s->what);
}

static void take(struct program *p, const struct stream *s, const char *text)
{
	char bytes[32] = "";
	ssize_t n = recv(s->to, bytes, sizeof(bytes) - 1, MSG_DONTWAIT);

	expect(p, n == (ssize_t)strlen(text) && !strcmp(bytes, text), "%s: '%s' instead of '%s'", s->what,
	       bytes, text);
}

static void verify(struct program *p, void *state unused)
{
	for (size_t i = 0; i < ARRAY_SIZE(streams); i++)
		check(p, &streams[i]);
}

static void finish(struct program *p, void *state unused)
{
	for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
		const struct stream *s = &streams[i];
		char byte = 0;
		if (*s->before)
			take(p, s, s->before);
		if (s->in_line) {
			take(p, s, "ubehind");
			continue;
		}
		expect(p, recv(s->to, &byte, 1, MSG_OOB | MSG_DONTWAIT) == 1 && byte == 'u',
		       "%s: no byte aside", s->what);
		if (*s->after)
			take(p, s, s->after);
		expect(p, recv(s->to, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "%s: more came",
		       s->what);
	}
}

static void spoil(void *state unused)
{
	char byte;

	must(recv(streams[0].to, &byte, 1, MSG_OOB));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
		struct stream *s = &streams[i];
		int pair[2];
		must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
		s->to = pair[0];
		s->from = pair[1];
		must(setsockopt(s->to, SOL_SOCKET, SO_OOBINLINE, &(int){s->in_line}, sizeof(int)));
		if (*s->before)
			must(send(s->from, s->before, strlen(s->before), 0));
		if (send(s->from, "u", 1, MSG_OOB) < 0)
			program_lacks("out-of-band data in unix sockets");
		if (*s->after)
			must(send(s->from, s->after, strlen(s->after), 0));
	}
	return program_serve(&p, &ops, NULL);
}
