/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that runs from a memory file, as container runtimes and loaders have it: the memfd is its executable and has no
 * descriptor. Proof: what /proc/self/exe leads to and holds, its own data, and that it can be executed again.
 */
#include "program.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned value = 4711; /* in a private mapping of the file */

struct state {
	off_t size;
};

static int runs_again(void)
{
	int status;
	pid_t pid = must(fork());

	if (!pid) {
		execl("/proc/self/exe", "memfd-exe", "--hello", NULL);
		_exit(99);
	}
	must(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;
	char link[64] = "";
	struct stat st;

	must(readlink("/proc/self/exe", link, sizeof(link) - 1));
	expect(p, !strcmp(link, "/memfd:ferry-exe (deleted)"), "the executable is '%s'", link);
	must(stat("/proc/self/exe", &st));
	expect_same(p, "size of the executable", st.st_size, s->size);
	expect_same(p, "a variable", value, 4712);
	expect_same(p, "what it returns when it is executed", runs_again(), 42);
}

static void spoil(void *state unused)
{
	value++;
}

/* Copies itself and goes on as the copy. */
static void become_memfd(char **argv)
{
	static char bytes[1 << 16];
	char path[64];
	ssize_t n;
	int from = must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	int to = must(memfd_create("ferry-exe", MFD_CLOEXEC));

	while ((n = must(read(from, bytes, sizeof(bytes)))) > 0)
		must(write(to, bytes, (size_t)n));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", to);
	int run = must(open(path, O_RDONLY | O_CLOEXEC));
	close(to); /* what is open for writing cannot be executed */
	close(from);
	must(setenv("FERRY_MEMFD_EXE", "1", 1));
	fexecve(run, argv, environ);
	program_die("fexecve");
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct state s;
	struct stat st;
	struct program p;

	if (argc == 2 && !strcmp(argv[1], "--hello"))
		return 42;
	if (!getenv("FERRY_MEMFD_EXE"))
		become_memfd(argv);
	program_start(&p, argc, argv);
	value++;
	must(stat("/proc/self/exe", &st));
	s.size = st.st_size;
	return program_serve(&p, &ops, &s);
}
