/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of ours as the kernel's own words show them: alike, but for what one of them changes. */
#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proc/looker.h"

enum { PLAIN = 70, SKIPPED = 77 };

static atomic_int arrived;

struct one {
	void (*become)(void);
	pid_t tid;
};

static void *one_main(void *argument)
{
	struct one *one = argument;
	/* Sanitizers give each thread one. */
	const stack_t none = {.ss_flags = SS_DISABLE};
	sigaltstack(&none, NULL);
	if (one->become)
		one->become();
	one->tid = (pid_t)syscall(SYS_gettid);
	atomic_fetch_add(&arrived, 1);
	for (;;)
		pause();
	return NULL;
}

static void get_death(void)
{
	prctl(PR_SET_PDEATHSIG, SIGURG);
}

static void get_slack(void)
{
	prctl(PR_SET_TIMERSLACK, 12345);
}

static void get_machine_check(void)
{
	prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
}

static void get_tsc(void)
{
	prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
}

static void get_personality(void)
{
	personality(ADDR_NO_RANDOMIZE);
}

static void get_stack(void)
{
	static unsigned char bytes[1 << 14];
	const stack_t stack = {.ss_sp = bytes, .ss_size = sizeof(bytes)};
	sigaltstack(&stack, NULL);
}

static void get_folder(void)
{
	if (unshare(CLONE_FS) < 0)
		_exit(1);
}

static void get_files(void)
{
	if (unshare(CLONE_FILES) < 0)
		_exit(1);
}

static void get_namespace(void)
{
	if (unshare(CLONE_NEWUTS) < 0)
		_exit(1);
}

static void get_cred(void)
{
	prctl(PR_SET_SECUREBITS, 1 << 2);
}

static void get_privileges(void)
{
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static void get_name(void)
{
	prctl(PR_SET_NAME, "another");
}

static void get_child(void)
{
	if (!fork())
		for (;;)
			pause();
}

static const struct proc_thread_look *find(const struct proc_looker *l, const struct one *one)
{
	const struct proc_thread_look *look = proc_looker_find(l, getpid(), one->tid);
	assert_non_null(look);
	return look;
}

/* Which words each of the first is to differ in; NULL: in none. */
static const struct {
	void (*become)(void);
	size_t at, bytes;
} specials[] = {
#define WORD(name) offsetof(struct proc_words, name), sizeof(((struct proc_words *)0)->name)
	{get_death, WORD(death_signal)},
	{get_slack, WORD(timer_slack)},
	{get_machine_check, WORD(flags)},
	{get_tsc, WORD(info_flags)},
	{get_personality, WORD(personality)},
	{get_stack, WORD(stack_address)},
	{get_stack, WORD(stack_bytes)},
	{get_folder, WORD(fs)},
	{get_files, WORD(files)},
	{get_namespace, WORD(nsproxy)},
	{get_cred, WORD(cred)},
	{get_privileges, WORD(atomic_flags)},
	{get_name, 0, 0},
	{get_child, 0, 0},
};

enum { SPECIALS = ARRAY_SIZE(specials), ALL = SPECIALS + PLAIN };

static void look_at_all(struct proc_looker *l, const struct one *all)
{
	const struct proc_thread_look *plain = find(l, &all[ALL - 1]);
	char name[16];
	int alike = 0;
	prctl(PR_GET_NAME, name);
	assert_string_equal(plain->comm, name);
	assert_true(plain->words.nsproxy && plain->words.fs && plain->words.files && plain->words.cred);
	assert_false(plain->children);
	for (size_t i = 0; i < SPECIALS; i++) {
		const struct proc_thread_look *look = find(l, &all[i]);
		assert_true(look->clear_tid && look->clear_tid != plain->clear_tid);
		assert_int_equal(!look->children, specials[i].become != get_child);
		assert_int_equal(!strcmp(look->comm, "another"), specials[i].become == get_name);
		if (specials[i].bytes)
			assert_memory_not_equal((const char *)&look->words + specials[i].at,
						(const char *)&plain->words + specials[i].at,
						specials[i].bytes);
	}
	for (size_t i = SPECIALS; i < ALL; i++)
		alike += !memcmp(&find(l, &all[i])->words, &plain->words, sizeof(plain->words));
	/* Flags of those that run just now may differ. */
	assert_true(alike > 1);
	assert_null(proc_looker_find(l, getpid(), 1 << 30));
	assert_null(proc_looker_find(l, getpid() + 1, all[0].tid));
}

static void keep_parents(struct proc_looker *l, const struct one *all)
{
	struct proc_pid_list tids = {0};
	const pid_t some[] = {all[ALL - 1].tid, 1 << 30, all[SPECIALS - 1].tid};
	for (size_t i = 0; i < ARRAY_SIZE(some); i++) {
		pid_t *tid = vec_push(&tids.v);
		assert_non_null(tid);
		*tid = some[i];
	}
	proc_looker_keep_parents(l, getpid(), &tids);
	assert_int_equal(tids.v.n, 2);
	assert_int_equal(tids.v.v[0], 1 << 30);
	assert_int_equal(tids.v.v[1], all[SPECIALS - 1].tid);
	proc_pid_list_release(&tids);
}

/* Whether the kernel lets us. What some threads have become they cannot end with in order: the process ends with them. */
static bool threads_of_ours(void)
{
	static struct one all[ALL];
	struct proc_looker *l = proc_looker_new();
	assert_non_null(l);
	assert_true(proc_looker_read(l, getpid(), 2) < 0); /* too few */
	for (size_t i = 0; i < ALL; i++) {
		pthread_t handle;
		all[i].become = i < SPECIALS ? specials[i].become : NULL;
		assert_int_equal(pthread_create(&handle, NULL, one_main, &all[i]), 0);
	}
	while (atomic_load(&arrived) < ALL)
		usleep(1000);
	int r = proc_looker_read(l, getpid(), ALL);
	if (r >= 0) {
		look_at_all(l, all);
		keep_parents(l, all);
	}
	proc_looker_free(l);
	return r >= 0;
}

/* Its child ends with it. */
static void in_a_child(unused void **state)
{
	pid_t pid = fork();
	if (!pid) {
		setpgid(0, 0);
		_exit(threads_of_ours() ? 0 : SKIPPED);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	kill(-pid, SIGKILL);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
		skip();
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(in_a_child)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
