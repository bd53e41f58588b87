/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells an observer outside, every two milliseconds and over UDP, that it runs and where: "NODE STREAM COUNTER GAP GOOD".
 * NODE is read anew each time from a file that differs on each node; STREAM is the process (0, or 1 for a child);
 * COUNTER grows by one; GAP is the longest time between two beats in nanoseconds of CLOCK_REALTIME (CLOCK_MONOTONIC of
 * restored tasks goes on where it stood, which hides most of it); GOOD is 1 while CLOCK_MONOTONIC never went back and
 * a block of memory holds what was written into it.
 *
 * Usage: beats NODEFILE KIB ADDRESS PORT [OWN ADDRESS]
 */
#include "program.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BEAT_MS = 2, CHECK_EVERY = 50, CHECK_BYTES = 64 << 10 };

struct beats {
	const char *node_file;
	int socket;
	struct sockaddr_in to;
	int stream;
	unsigned char *memory;
	size_t bytes, checked;
	unsigned long long counter;
	long long last_ns, monotonic_ns, gap_ns;
	int good;
};

static long long now_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void read_node(const char *path, char *node, size_t n)
{
	int fd = must(open(path, O_RDONLY | O_CLOEXEC));
	ssize_t got = read(fd, node, n - 1);

	close(fd);
	node[got > 0 ? got : 0] = '\0';
	node[strcspn(node, " \n")] = '\0';
}

/* A piece of the memory at a time, so that a beat stays short. */
static void check_memory(struct beats *b)
{
	unsigned char piece[CHECK_BYTES];
	size_t n = MIN(b->bytes - b->checked, sizeof(piece));

	if (!b->bytes || b->counter % CHECK_EVERY)
		return;
	pattern_fill(piece, n, b->checked);
	if (memcmp(piece, b->memory + b->checked, n) != 0)
		b->good = 0;
	b->checked = (b->checked + n) % b->bytes;
}

static void beat(struct beats *b)
{
	char node[32], text[128];
	long long now = now_ns(CLOCK_REALTIME), monotonic = now_ns(CLOCK_MONOTONIC);

	if (b->last_ns && now - b->last_ns > b->gap_ns)
		b->gap_ns = now - b->last_ns;
	b->last_ns = now;
	if (monotonic < b->monotonic_ns)
		b->good = 0;
	b->monotonic_ns = monotonic;
	check_memory(b);
	read_node(b->node_file, node, sizeof(node));
	int n = snprintf(text, sizeof(text), "%s %d %llu %lld %d", node, b->stream, ++b->counter, b->gap_ns,
			 b->good);
	/* Nobody may be there to observe, and there may be no way to send just now. */
	(void)!sendto(b->socket, text, (size_t)n, MSG_DONTWAIT, (const struct sockaddr *)&b->to,
		      sizeof(b->to));
}

/* Not connected, so that the address it sends from is that of the node, unless an own address is given. */
static void make_socket(struct beats *b, char **argv)
{
	struct sockaddr_in own = {.sin_family = AF_INET};

	b->to.sin_family = AF_INET;
	b->to.sin_port = htons((uint16_t)atoi(argv[4]));
	must(inet_pton(AF_INET, argv[3], &b->to.sin_addr) - 1);
	b->socket = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	if (argv[5]) {
		must(inet_pton(AF_INET, argv[5], &own.sin_addr) - 1);
		must(bind(b->socket, (const struct sockaddr *)&own, sizeof(own)));
	}
}

int main(int argc, char **argv)
{
	struct beats b = {.good = 1};

	if (argc < 5)
		return 2;
	b.node_file = argv[1];
	b.bytes = (size_t)atoi(argv[2]) << 10;
	b.memory = must(mmap(NULL, b.bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (size_t at = 0; at < b.bytes; at += CHECK_BYTES)
		pattern_fill(b.memory + at, MIN(b.bytes - at, (size_t)CHECK_BYTES), at);
	b.stream = must(fork()) == 0;
	make_socket(&b, argv);
	for (;;) {
		beat(&b);
		sleep_ms(BEAT_MS);
	}
}
