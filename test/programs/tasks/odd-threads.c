/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that part from their process in a way that is refused, by the first argument: "files", with a descriptor table of
 * its own; "folders", two threads that share a working directory which is not the process's; "segment", with a segment
 * register loaded; "table", with a late descriptor of its table; "table-end", with the last one alone; "descriptor", with one
 * of those that 32-bit code has for each thread; "landlock", one in a Landlock domain; "landlock-user", the same without
 * rights. Proof: they go on as they were.
 */
#include "program.h"

#include <asm/ldt.h>
#include <errno.h>
#include <linux/landlock.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *what;
static volatile int ready;

static void verify(struct program *p, void *state)
{
	(void)state;
	expect_same(p, "threads that are ready", ready, strcmp(what, "folders") != 0 ? 1 : 2);
}

static void *sleep_main(void *argument)
{
	(void)argument;
	__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
	for (;;)
		sleep_ms(1000);
	return NULL;
}

static void load_segment(void)
{
	struct user_desc data = {
		.entry_number = 1, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1};
	unsigned short selector = 1 << 3 | 7;

	must(syscall(SYS_modify_ldt, 0x11, &data, sizeof(data)));
	__asm__ volatile("mov %0, %%es" : : "r"(selector));
}

static void fill_table(unsigned entry)
{
	struct user_desc data = {
		.entry_number = entry, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1};

	must(syscall(SYS_modify_ldt, 0x11, &data, sizeof(data)));
}

/* As a 32-bit program calls the kernel, which has to have such calls; arguments lie below 4 GiB. */
static long old_call(long number, const void *argument, unsigned long bytes)
{
	char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	long result = number;

	if (low == MAP_FAILED)
		program_die("mmap");
	memcpy(low, argument, bytes);
	__asm__ volatile("int $0x80"
			 : "+a"(result)
			 : "b"(low), "c"(bytes)
			 : "memory", "r8", "r9", "r10", "r11");
	return result;
}

static void describe_segment(void)
{
	const struct user_desc data = {
		.entry_number = -1u, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1};

	if (old_call(243, &data, sizeof(data)))
		program_lacks("calls of 32-bit programs");
}

/* It forbids to execute what is not named, and nothing is. */
static void confine(void)
{
	struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE};
	int rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (rules < 0)
		program_lacks("landlock_create_ruleset");
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(syscall(SYS_landlock_restrict_self, rules, 0));
	close(rules);
	if (!strcmp(what, "landlock-user")) {
		must(syscall(SYS_setresgid, 4000, 4000, 4000));
		must(syscall(SYS_setresuid, 4000, 4000, 4000));
	}
}

static void *thread_main(void *argument)
{
	pthread_t second;

	if (!strcmp(what, "files"))
		must(unshare(CLONE_FILES));
	if (!strcmp(what, "folders")) {
		must(unshare(CLONE_FS));
		if (pthread_create(&second, NULL, sleep_main, NULL) != 0)
			program_die("pthread_create");
	}
	if (!strncmp(what, "landlock", 8))
		confine();
	if (!strcmp(what, "segment"))
		load_segment();
	if (!strcmp(what, "table"))
		fill_table(128);
	if (!strcmp(what, "table-end"))
		fill_table(8191);
	if (!strcmp(what, "descriptor"))
		describe_segment();
	return sleep_main(argument);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify};
	pthread_t thread;
	struct program p;

	program_start(&p, argc, argv);
	what = argc > 2 ? argv[2] : "";
	if (pthread_create(&thread, NULL, thread_main, NULL) != 0)
		program_die("pthread_create");
	while (ready < (strcmp(what, "folders") != 0 ? 1 : 2))
		sleep_ms(1);
	return program_serve(&p, &ops, NULL);
}
