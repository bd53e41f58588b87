/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads, most of them in the same state but for their names; each of the others differs in one thing that only a thread
 * itself can tell. Proof: each reads back what it has, and has what it was given.
 */
#include "program.h"

#include <asm/prctl.h>
#include <linux/capability.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 120, STACK_BYTES = 1 << 14, UMASK = 0137 };

/* What thread N has beside a name; most have none of them. */
enum special {
	PLAIN,
	DEATH,
	SLACK,
	MACHINE_CHECK,
	TSC,
	PERSONALITY,
	STACK,
	FOLDER,
	SECUREBITS,
	POLICY,
	CAPS,
	PRIVILEGES,
	SPECIALS
};

/* What a thread tells of itself. */
struct said {
	char name[16];
	long numbers[10];
	stack_t stack;
	mode_t mask;
};

struct thread {
	struct said was, is;
	atomic_uint asked, answered;
	int number;
};

struct state {
	struct thread threads[THREADS];
};

static mode_t own_umask(void)
{
	mode_t mask = umask(0);

	umask(mask);
	return mask;
}

static uint64_t effective_caps(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};

	must((int)syscall(SYS_capget, &head, data));
	return data[0].effective | (uint64_t)data[1].effective << 32;
}

static void drop_caps(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[2] = {0};

	must((int)syscall(SYS_capset, &head, none));
}

static void look(struct said *ret)
{
	int number = 0;

	memset(ret, 0, sizeof(*ret));
	prctl(PR_GET_NAME, ret->name);
	prctl(PR_GET_PDEATHSIG, &number);
	ret->numbers[0] = number;
	ret->numbers[1] = prctl(PR_GET_TIMERSLACK);
	ret->numbers[2] = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
	prctl(PR_GET_TSC, &number);
	ret->numbers[3] = number;
	ret->numbers[4] = personality(0xffffffff);
	ret->numbers[5] = prctl(PR_GET_SECUREBITS);
	syscall(SYS_get_mempolicy, &number, NULL, 0, NULL, 0);
	ret->numbers[6] = number;
	ret->numbers[7] = syscall(SYS_gettid);
	ret->numbers[8] = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	ret->numbers[9] = (long)effective_caps();
	sigaltstack(NULL, &ret->stack);
	ret->mask = own_umask();
}

static enum special special_of(int number)
{
	return number % 5 == 3 ? (enum special)(number / 5 % SPECIALS) : PLAIN;
}

static void become(const struct thread *t, unsigned char *alternate)
{
	const stack_t stack = {.ss_sp = alternate, .ss_size = STACK_BYTES};
	char name[16];

	snprintf(name, sizeof(name), "alike %d", t->number);
	must(prctl(PR_SET_NAME, name));
	switch (special_of(t->number)) {
	case DEATH: must(prctl(PR_SET_PDEATHSIG, SIGURG)); break;
	case SLACK: must(prctl(PR_SET_TIMERSLACK, 70000 + t->number)); break;
	case MACHINE_CHECK: must(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0)); break;
	case TSC: must(prctl(PR_SET_TSC, PR_TSC_SIGSEGV)); break;
	case PERSONALITY: must(personality(ADDR_NO_RANDOMIZE)); break;
	case STACK: must(sigaltstack(&stack, NULL)); break;
	case FOLDER:
		must(unshare(CLONE_FS));
		umask(UMASK);
		break;
	case SECUREBITS:
		must(prctl(PR_SET_SECUREBITS, 1 << 2));
		break; /* SECBIT_NO_SETUID_FIXUP */
	/* Not every kernel has it. */
	case POLICY: syscall(SYS_set_mempolicy, MPOL_LOCAL, NULL, 0); break;
	case CAPS: drop_caps(); break;
	case PRIVILEGES: must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); break;
	default: break;
	}
}

/* Without a call of libc that reads the time stamp counter. */
static void wait_for(atomic_uint *word, unsigned value)
{
	while (atomic_load(word) != value)
		syscall(SYS_sched_yield);
}

static void *thread_main(void *argument)
{
	struct thread *t = argument;
	unsigned char alternate[STACK_BYTES]; /* a restore may write to it */

	become(t, alternate);
	look(&t->was);
	for (unsigned n = 1;; n++) {
		atomic_store(&t->answered, n);
		while (atomic_load(&t->asked) < n)
			syscall(SYS_poll, NULL, 0, 5);
		look(&t->is);
	}
	return NULL;
}

static void verify(struct program *p, void *state)
{
	struct state *s = state;

	for (int i = 0; i < THREADS; i++) {
		struct thread *t = &s->threads[i];
		unsigned n = atomic_fetch_add(&t->asked, 1) + 1;
		wait_for(&t->answered, n + 1);
		expect(p, !strcmp(t->is.name, t->was.name), "thread %d is called '%s', not '%s'", i,
		       t->is.name, t->was.name);
		expect(p, !memcmp(&t->is, &t->was, sizeof(t->is)), "thread %d differs in what it tells", i);
	}
}

static void spoil(void *state)
{
	struct state *s = state;

	s->threads[THREADS / 2].was.numbers[1]++;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct state s;
	struct program p;

	program_start(&p, argc, argv);
	for (int i = 0; i < THREADS; i++) {
		pthread_t handle;
		s.threads[i].number = i;
		if (pthread_create(&handle, NULL, thread_main, &s.threads[i]) != 0)
			program_die("pthread_create");
		wait_for(&s.threads[i].answered, 1);
	}
	return program_serve(&p, &ops, &s);
}
