/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine can do at best, beside which the benchmarks stand: argv: a file on the disk, a file on a tmpfs. Prints one line for
 * each: NAME, tab, bytes a second, the best of several.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { TRIES = 3 };
#define BYTES (256ull << 20)
#define BLOCK (1ull << 20)

static const char *disk, *memory;
static char *block;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static char *map(int advice)
{
	char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		die("mmap");
	if (madvise(at, BYTES, advice) < 0)
		die("madvise");
	return at;
}

static double touch(int advice)
{
	char *at = map(advice);
	double began = now();
	for (uint64_t i = 0; i < BYTES; i += 4096)
		at[i] = 1;
	double seconds = now() - began;
	munmap(at, BYTES);
	return seconds;
}

static double populate(void)
{
	return touch(MADV_NOHUGEPAGE);
}

static double populate_huge(void)
{
	return touch(MADV_HUGEPAGE);
}

static double copy(void)
{
	char *from = map(MADV_HUGEPAGE), *to = map(MADV_HUGEPAGE);
	memset(from, 1, BYTES);
	memset(to, 2, BYTES);
	double began = now();
	memcpy(to, from, BYTES);
	double seconds = now() - began;
	munmap(from, BYTES);
	munmap(to, BYTES);
	return seconds;
}

static double write_file(const char *path)
{
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		die(path);
	double began = now();
	for (uint64_t i = 0; i < BYTES; i += BLOCK)
		if (write(fd, block, BLOCK) != (ssize_t)BLOCK)
			die("write");
	if (fsync(fd) < 0)
		die("fsync");
	double seconds = now() - began;
	close(fd);
	unlink(path);
	return seconds;
}

static double write_tmpfs(void)
{
	return write_file(memory);
}

static double write_disk(void)
{
	return write_file(disk);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		double (*run)(void);
	} limits[] = {
		{"memcpy", copy},
		{"populate, pages of 4 KiB", populate},
		{"populate, huge pages", populate_huge},
		{"write to a new file on a tmpfs", write_tmpfs},
		{"write to a new file on the disk, synced", write_disk},
	};
	if (argc != 3)
		return 2;
	disk = argv[1];
	memory = argv[2];
	block = malloc(BLOCK);
	if (!block)
		die("malloc");
	memset(block, 3, BLOCK);
	for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
		double best = 0;
		for (int n = 0; n < TRIES; n++) {
			double rate = (double)BYTES / limits[i].run();
			best = rate > best ? rate : best;
		}
		printf("%s\t%.0f\n", limits[i].name, best);
	}
	return 0;
}
