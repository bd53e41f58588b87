/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program whose file was replaced while it runs, as an upgrade does. Proof: /proc/self/exe is still the old file, with its bytes, and
 * functions that were never called before work.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

struct state {
	off_t size;
	uint64_t sum;
};

static uint64_t sum_of(const char *path, off_t *ret_size)
{
	static unsigned char buffer[1 << 16];
	uint64_t sum = 0;
	ssize_t n;
	int fd = must(open(path, O_RDONLY | O_CLOEXEC));

	*ret_size = 0;
	while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
		*ret_size += n;
		for (ssize_t i = 0; i < n; i++)
			sum = sum * 31 + buffer[i];
	}
	close(fd);
	return sum;
}

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void verify(struct program *p, void *state)
{
	const struct state *s = state;
	char link[256] = "";
	off_t size;
	uint64_t sum = sum_of("/proc/self/exe", &size);

	expect(p, sum == s->sum, "/proc/self/exe has other bytes");
	expect_same(p, "size of /proc/self/exe", size, s->size);
	must(readlink("/proc/self/exe", link, sizeof(link) - 1));
	expect(p, strstr(link, "(deleted)"), "/proc/self/exe is %s", link);
	sum_of("program", &size);
	expect_same(p, "size of what replaced it", size, 9);
}

static void finish(struct program *p, void *state)
{
	int numbers[] = {5, 3, 9, 1};

	verify(p, state);
	qsort(numbers, 4, sizeof(int), compare);
	expect_same(p, "sorted", numbers[0] * 1000 + numbers[3], 1009);
}

static void spoil(void *state)
{
	((struct state *)state)->sum++;
}

static void replace(void)
{
	int fd;

	must(unlink("program"));
	fd = must(open("program", O_CREAT | O_WRONLY | O_CLOEXEC, 0755));
	must(write(fd, "upgraded\n", 9));
	close(fd);
}

static void copy_and_run(char **argv)
{
	struct stat st;
	int from = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	int to = must(open("program", O_CREAT | O_WRONLY | O_CLOEXEC, 0755));

	must(fstat(from, &st));
	must(sendfile(to, from, NULL, (size_t)st.st_size));
	close(to);
	must(setenv("FERRY_TEST_COPIED", "1", 1));
	must(execv("./program", argv));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	struct program p;
	struct state s;

	program_start(&p, argc, argv);
	must(chdir(p.folder));
	if (!getenv("FERRY_TEST_COPIED"))
		copy_and_run(argv);
	s.sum = sum_of("/proc/self/exe", &s.size);
	replace();
	return program_serve(&p, &ops, &s);
}
