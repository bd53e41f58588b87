/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream and a sequence of packets to sockets outside of the tree, which answer every word with the same one. Proof: they do,
 * on the same descriptors, and options are as they were.
 */
#include "program.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST = 20 };

static const struct {
	const char *name;
	int type;
} sockets[] = {{"stream", SOCK_STREAM}, {"packets", SOCK_SEQPACKET}};

static void verify(struct program *p, void *state)
{
	(void)state;
	for (int i = 0; i < (int)ARRAY_SIZE(sockets); i++) {
		char got[16] = "";
		int value = 0;
		expect_same(p, "sending", send(FIRST + i, "word", 4, MSG_NOSIGNAL), 4);
		expect_same(p, sockets[i].name, recv(FIRST + i, got, sizeof(got), 0), 4);
		expect(p, !strcmp(got, "word"), "it answers '%s'", got);
		getsockopt(FIRST + i, SOL_SOCKET, SO_RCVLOWAT, &value, &(socklen_t){sizeof(value)});
		expect_same(p, "SO_RCVLOWAT", value, 3 + i);
	}
}

static void spoil(void *state)
{
	(void)state;
	must(setsockopt(FIRST, SOL_SOCKET, SO_RCVLOWAT, &(int){1}, sizeof(int)));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct program p;

	program_start(&p, argc, argv);
	for (int i = 0; i < (int)ARRAY_SIZE(sockets); i++) {
		struct sockaddr_un address = {.sun_family = AF_UNIX};
		int fd = must(socket(AF_UNIX, sockets[i].type | SOCK_CLOEXEC, 0));
		snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", p.folder, sockets[i].name);
		while (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
			sleep_ms(2);
		must(setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &(int){3 + i}, sizeof(int)));
		must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0},
				sizeof(struct timeval)));
		must(dup3(fd, FIRST + i, 0));
		close(fd);
	}
	return program_serve(&p, &ops, NULL);
}
