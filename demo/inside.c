/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts a command as its child and stays: every millisecond it tells an observer over UDP on which node the tree runs
 * ("NODE COUNTER GAP"; the node's name stands in a file that differs on each), and how long it did not run at most: the
 * largest gap between two looks at the clock, in nanoseconds. The clock is CLOCK_REALTIME: CLOCK_MONOTONIC of restored
 * tasks goes on where it stood and would hide most of the gap. Usage: inside NODEFILE ADDRESS PORT COMMAND...
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void read_node(const char *path, char *node, size_t n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, node, n - 1);
	if (fd >= 0)
		close(fd);
	node[got > 0 ? got : 0] = '\0';
}

static __attribute__((noreturn)) void tell(const char *node_file, const struct sockaddr_in *to, int sock)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	long long last = now_ns(), gap = 0;
	for (unsigned long counter = 1;; counter++) {
		char node[64], text[160];
		long long now = now_ns();
		if (now - last > gap)
			gap = now - last;
		last = now;
		read_node(node_file, node, sizeof(node));
		int n = snprintf(text, sizeof(text), "%s %lu %lld", node, counter, gap);
		(void)!sendto(sock, text, (size_t)n, MSG_DONTWAIT, (const struct sockaddr *)to, sizeof(*to));
		nanosleep(&pause, NULL);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (argc < 5 || sock < 0 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
		return 2;
	char *end;
	unsigned long port = strtoul(argv[3], &end, 10);
	if (*end || !port || port > 65535)
		return 2;
	to.sin_port = htons((uint16_t)port);
	pid_t pid = fork();
	if (pid < 0)
		return 1;
	if (!pid) {
		execvp(argv[4], argv + 4);
		_exit(127);
	}
	tell(argv[1], &to, sock);
}
