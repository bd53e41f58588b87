/* SPDX-License-Identifier: Apache-2.0 */
#include "messages.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MESSAGE_CONTROL = 512 };

struct unix_name unix_name(const char *folder, const char *text)
{
	struct unix_name name = {.address.sun_family = AF_UNIX, .length = sizeof(sa_family_t)};
	char *path = name.address.sun_path;

	if (!*text)
		return name;
	if (*text == '@' || strchr(text, '/') || !folder)
		snprintf(path, sizeof(name.address.sun_path), "%s", text);
	else
		snprintf(path, sizeof(name.address.sun_path), "%.80s/%.20s", folder, text);
	name.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + (*text != '@'));
	if (*text == '@')
		path[0] = '\0';
	return name;
}

int unix_socket(int type, const struct unix_name *name)
{
	int fd = must(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));

	if (name && name->length > sizeof(sa_family_t))
		must(bind(fd, (const struct sockaddr *)&name->address, name->length));
	return fd;
}

void message_send(int fd, const char *text, const int *fds, size_t n_fds, const struct unix_name *to)
{
	char control[MESSAGE_CONTROL] __attribute__((aligned(8))) = {0};
	struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (to) {
		m.msg_name = (void *)(uintptr_t)&to->address;
		m.msg_namelen = to->length;
	}
	if (n_fds) {
		struct cmsghdr *h = (struct cmsghdr *)control;
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(h), fds, n_fds * sizeof(int));
	}
	if (sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)strlen(text))
		program_die("sendmsg");
}

static void message_control(struct msghdr *m, struct message *ret)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		if (h->cmsg_level != SOL_SOCKET)
			continue;
		if (h->cmsg_type == SCM_CREDENTIALS)
			memcpy(&ret->sender, CMSG_DATA(h), sizeof(ret->sender));
		if (h->cmsg_type != SCM_RIGHTS)
			continue;
		ret->n_fds = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		ret->n_fds = MIN(ret->n_fds, ARRAY_SIZE(ret->fds));
		memcpy(ret->fds, CMSG_DATA(h), ret->n_fds * sizeof(int));
	}
}

void message_receive(int fd, int flags, size_t room, struct message *ret)
{
	char control[MESSAGE_CONTROL] __attribute__((aligned(8)));
	memset(ret, 0, sizeof(*ret));
	struct iovec iov = {.iov_base = ret->bytes, .iov_len = MIN(room, sizeof(ret->bytes))};
	struct msghdr m = {.msg_name = &ret->from.address,
			   .msg_namelen = sizeof(ret->from.address),
			   .msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};
	ret->n = recvmsg(fd, &m, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (ret->n < 0) {
		ret->n = -errno;
		return;
	}
	ret->flags = m.msg_flags;
	/* The kernel says nothing where there is no name. */
	ret->from.length = m.msg_namelen ? m.msg_namelen : sizeof(sa_family_t);
	message_control(&m, ret);
}

static bool same_name(const struct unix_name *a, const struct unix_name *b)
{
	return a->length == b->length &&
	       !memcmp(a->address.sun_path, b->address.sun_path, a->length - sizeof(sa_family_t));
}

void expect_message(struct program *p, int fd, int flags, const char *text, const struct unix_name *from)
{
	struct message m;

	message_receive(fd, flags, sizeof(m.bytes), &m);
	expect_same(p, text, m.n, strlen(text));
	expect(p, m.n < 0 || !memcmp(m.bytes, text, MIN((size_t)m.n, strlen(text))), "'%s': other bytes",
	       text);
	expect(p, !m.n_fds, "'%s': descriptors came with it", text);
	for (size_t i = 0; i < m.n_fds; i++)
		close(m.fds[i]);
	expect(p, !from || same_name(&m.from, from), "'%s' came from another name (%d bytes)", text,
	       (int)m.from.length);
}

void expect_nothing(struct program *p, const char *what, int fd)
{
	struct message m;

	message_receive(fd, MSG_PEEK, sizeof(m.bytes), &m);
	expect_same(p, what, m.n, -EAGAIN);
}

void expect_name(struct program *p, const char *what, int fd, bool of_peer, const struct unix_name *want)
{
	struct unix_name got = {.length = sizeof(got.address)};
	struct sockaddr *address = (struct sockaddr *)&got.address;
	int r = of_peer ? getpeername(fd, address, &got.length) : getsockname(fd, address, &got.length);

	expect_same(p, what, r, 0);
	expect(p, same_name(&got, want), "%s: another name", what);
}
