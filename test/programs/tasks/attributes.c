/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process and one thread of it with one unusual attribute, named by the first argument. Proof: whatever the kernel
 * tells about attributes is the same afterwards, in the main thread, in the other thread, in a child that inherited it; at
 * the end the attribute works.
 */
#include "program.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kernel/uapi.h"

enum { LDT_BYTES = 64, SCHED_DEADLINE_POLICY = 6 };

/* sched_getattr(2); glibc has no wrapper. */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static struct attributes scheduling(void)
{
	struct attributes now = {.size = sizeof(now)};

	syscall(SYS_sched_getattr, 0, &now, sizeof(now), 0);
	return now;
}

static void schedule(struct attributes wanted)
{
	wanted.size = sizeof(wanted);
	must(syscall(SYS_sched_setattr, 0, &wanted, 0));
}

static long prctl_int(int what)
{
	int value = -1;

	prctl(what, &value);
	return value;
}

static long file_number(const char *path, const char *format)
{
	char text[128] = "";
	long value = -1;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
		sscanf(text, format, &value);
	close(fd);
	return value;
}

static void file_write(const char *path, const char *text)
{
	int fd = must(open(path, O_WRONLY | O_CLOEXEC));

	must(write(fd, text, strlen(text)));
	close(fd);
}

static long ldt_sum(void)
{
	unsigned char table[LDT_BYTES] = {0};
	long sum = 0;

	syscall(SYS_modify_ldt, 0, table, sizeof(table));
	for (size_t i = 0; i < sizeof(table); i++)
		sum = sum * 31 + table[i];
	return sum;
}

#define PROBES(X)                                                                    \
	X(mdwe, prctl(PR_GET_MDWE, 0, 0, 0, 0))                                      \
	X(thp_disable, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0))                        \
	X(tsc, prctl_int(PR_GET_TSC))                                                \
	X(cpuid, syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0))                         \
	X(store_bypass, prctl(PR_GET_SPECULATION_CTRL, 0, 0, 0, 0))                  \
	X(indirect_branch, prctl(PR_GET_SPECULATION_CTRL, 1, 0, 0, 0))               \
	X(l1d_flush, prctl(PR_GET_SPECULATION_CTRL, 2, 0, 0, 0))                     \
	X(personality, personality(0xffffffff))                                      \
	X(membarrier, syscall(SYS_membarrier, 1 << 9, 0, 0))                         \
	X(autogroup, file_number("/proc/self/autogroup", "/autogroup-%*d nice %ld")) \
	X(policy, scheduling().policy)                                               \
	X(nice, scheduling().nice)                                                   \
	X(priority, scheduling().priority)                                           \
	X(scheduling_flags, scheduling().flags)                                      \
	X(runtime, scheduling().runtime)                                             \
	X(deadline, scheduling().deadline)                                           \
	X(period, scheduling().period)                                               \
	X(death_signal, prctl_int(PR_GET_PDEATHSIG))                                 \
	X(subreaper, prctl_int(PR_GET_CHILD_SUBREAPER))                              \
	X(dumpable, prctl(PR_GET_DUMPABLE))                                          \
	X(keep_caps, prctl(PR_GET_KEEPCAPS))                                         \
	X(securebits, prctl(PR_GET_SECUREBITS))                                      \
	X(no_new_privs, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0))                      \
	X(timer_slack, prctl(PR_GET_TIMERSLACK))                                     \
	X(io_flusher, prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0))                          \
	X(mce_kill, prctl(PR_MCE_KILL_GET, 0, 0, 0, 0))                              \
	X(login_id, file_number("/proc/self/loginuid", "%ld"))                       \
	X(oom_score_adj, file_number("/proc/self/oom_score_adj", "%ld"))             \
	X(coredump_filter, file_number("/proc/self/coredump_filter", "%lx"))         \
	X(io_priority, syscall(SYS_ioprio_get, 1, 0))                                \
	X(ldt, ldt_sum())

enum probe {
#define X(name, value) PROBE_##name,
	PROBES(X)
#undef X
		PROBE_COUNT,
};

static const char *const probe_names[] = {
#define X(name, value) #name,
	PROBES(X)
#undef X
};

struct values {
	long v[PROBE_COUNT];
};

static void values_read(struct values *ret)
{
#define X(name, value) ret->v[PROBE_##name] = (long)(value);
	PROBES(X)
#undef X
}

struct attribute {
	const char *word;
	void (*make)(void);               /* in the main thread, before anybody else is there */
	void (*make_thread)(void);        /* in the other thread */
	void (*works)(struct program *p); /* in the main thread, at the end */
};

static const struct attribute *attribute;

static void verify(struct program *p, void *state)
{
	const struct values *want = state;
	struct values now;

	values_read(&now);
	for (int i = 0; i < PROBE_COUNT; i++)
		expect_same(p, probe_names[i], now.v[i], want->v[i]);
}

static void finish(struct program *p, void *state)
{
	verify(p, state);
	if (attribute->works)
		attribute->works(p);
}

static void spoil(void *state)
{
	(void)state;
	prctl(PR_SET_TIMERSLACK, 4711);
}

/* -------------------------------------------------------------- attributes */

static void mdwe_make(void)
{
	must(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0));
}

static void mdwe_works(struct program *p)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	expect(p, mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0 && errno == EACCES,
	       "memory became executable");
}

static void mdwe_loose_make(void)
{
	must(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN | PR_MDWE_NO_INHERIT, 0, 0, 0));
}

static void thp_make(void)
{
	enum { EXCEPT_ADVISED = 2 };

	if (prctl(PR_SET_THP_DISABLE, 1, EXCEPT_ADVISED, 0, 0) < 0)
		program_lacks("PR_THP_DISABLE_EXCEPT_ADVISED");
}

static sigjmp_buf back;

static void on_segv(int number)
{
	(void)number;
	siglongjmp(back, 1);
}

static void tsc_make(void)
{
	must(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
}

static bool tsc_reads(void)
{
	signal(SIGSEGV, on_segv);
	if (sigsetjmp(back, 1))
		return false;
	(void)__builtin_ia32_rdtsc();
	return true;
}

static void tsc_works(struct program *p)
{
	expect(p, !tsc_reads(), "the time stamp counter can be read");
}

static void tsc_thread_works(struct program *p)
{
	expect(p, tsc_reads(), "the main thread cannot read the time stamp counter");
}

static void uname26_make(void)
{
	must(personality(PER_LINUX | 0x0020000));
}

static void uname26_works(struct program *p)
{
	struct utsname name;

	uname(&name);
	expect(p, !strncmp(name.release, "2.6.", 4), "the release is %s", name.release);
}

static void read_implies_exec_make(void)
{
	must(personality(PER_LINUX | READ_IMPLIES_EXEC));
}

static void read_implies_exec_works(struct program *p)
{
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	page[0] = 0xc3;
	((void (*)(void))(uintptr_t)page)();
	expect(p, page[0] == 0xc3, "the page cannot be executed");
}

static void personality_odd_make(void)
{
	must(personality(PER_LINUX | ADDR_NO_RANDOMIZE | MMAP_PAGE_ZERO | ADDR_COMPAT_LAYOUT |
			 STICKY_TIMEOUTS | WHOLE_SECONDS | SHORT_INODE));
}

static void membarrier_make(void)
{
	static const int commands[] = {MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED,
				       MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
				       MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE,
				       MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ};

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		must(syscall(SYS_membarrier, commands[i], 0, 0));
}

static void membarrier_one_make(void)
{
	must(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
}

static void membarrier_works(struct program *p)
{
	expect_same(p, "a barrier", syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0),
		    0);
}

static void autogroup_make(void)
{
	file_write("/proc/self/autogroup", "7");
}

static void deadline_make(void)
{
	schedule((struct attributes){.policy = SCHED_DEADLINE_POLICY,
				     .runtime = 10000000,
				     .deadline = 30000000,
				     .period = 40000000});
}

static void slice_make(void)
{
	schedule((struct attributes){.policy = SCHED_BATCH, .nice = 2, .runtime = 5000000});
}

static void reset_on_fork_make(void)
{
	schedule((struct attributes){.policy = SCHED_FIFO, .priority = 9, .flags = 1});
}

static void oom_make(void)
{
	file_write("/proc/self/oom_score_adj", "1000");
}

static void coredump_make(void)
{
	file_write("/proc/self/coredump_filter", "0x1ff");
}

static void undumpable_make(void)
{
	must(prctl(PR_SET_DUMPABLE, 0));
}

static void login_make(void)
{
	file_write("/proc/self/loginuid", "1234");
}

static void mce_make(void)
{
	must(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0));
}

static void io_idle_make(void)
{
	enum { IDLE = 3 << 13 };

	must(syscall(SYS_ioprio_set, 1, 0, IDLE));
}

static void io_realtime_make(void)
{
	enum { REALTIME = 1 << 13 };

	must(syscall(SYS_ioprio_set, 1, 0, REALTIME | 3));
}

static void death_signal_make(void)
{
	must(prctl(PR_SET_PDEATHSIG, SIGWINCH));
}

static void keep_caps_make(void)
{
	must(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_KEEP_CAPS_LOCKED));
}

static void securebits_locked_make(void)
{
	must(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
					      SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
					      SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_KEEP_CAPS_LOCKED));
}

static void securebits_works(struct program *p)
{
	expect(p, prctl(PR_SET_SECUREBITS, 0) < 0 && errno == EPERM, "locked bits can be changed");
	expect(p, prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 0, 0, 0) < 0 && errno == EPERM,
	       "an ambient capability can be raised");
}

/* A segment of this program's data, and one that is not present; the first can be loaded and read through. */
static unsigned char segment[64] = "read through a local descriptor";

static void ldt_make(void)
{
	struct user_desc data = {.entry_number = 3,
				 .limit = sizeof(segment) - 1,
				 .seg_32bit = 1,
				 .read_exec_only = 1,
				 .useable = 1};
	struct user_desc code = {.entry_number = 5,
				 .limit = 0xfffff,
				 .seg_32bit = 1,
				 .contents = 2,
				 .limit_in_pages = 1,
				 .read_exec_only = 1,
				 .seg_not_present = 1};

	void *low = mmap((void *)0x12340000, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (low == MAP_FAILED)
		program_die("mmap");
	memcpy(low, segment, sizeof(segment));
	data.base_addr = 0x12340000;
	must(syscall(SYS_modify_ldt, 0x11, &data, sizeof(data)));
	must(syscall(SYS_modify_ldt, 0x11, &code, sizeof(code)));
}

static void ldt_works(struct program *p)
{
	unsigned char byte = 0;
	unsigned short selector = 3 << 3 | 7, old;

	__asm__ volatile("mov %%gs, %1\n\tmov %2, %%gs\n\tmovb %%gs:5, %0\n\tmov %1, %%gs"
			 : "=&q"(byte), "=&r"(old)
			 : "r"(selector)
			 : "memory");
	expect_same(p, "the byte in the segment", byte, segment[5]);
}

static const struct attribute attributes[] = {
	{"mdwe", mdwe_make, NULL, mdwe_works},
	{"mdwe-loose", mdwe_loose_make, NULL, mdwe_works},
	{"thp-advised", thp_make, NULL, NULL},
	{"tsc", tsc_make, NULL, tsc_works},
	{"tsc-thread", NULL, tsc_make, tsc_thread_works},
	{"uname26", uname26_make, NULL, uname26_works},
	{"read-implies-exec", read_implies_exec_make, NULL, read_implies_exec_works},
	{"personality-odd", personality_odd_make, NULL, NULL},
	{"personality-thread", NULL, uname26_make, NULL},
	{"membarrier", membarrier_make, NULL, membarrier_works},
	{"membarrier-one", membarrier_one_make, NULL, membarrier_works},
	{"autogroup", autogroup_make, NULL, NULL},
	{"deadline", NULL, deadline_make, NULL},
	{"slice", slice_make, NULL, NULL},
	{"reset-on-fork", NULL, reset_on_fork_make, NULL},
	{"oom-score", oom_make, NULL, NULL},
	{"coredump-filter", coredump_make, NULL, NULL},
	{"undumpable", undumpable_make, NULL, NULL},
	{"login-id", login_make, NULL, NULL},
	{"mce-policy", mce_make, NULL, NULL},
	{"io-idle", NULL, io_idle_make, NULL},
	{"io-realtime", io_realtime_make, NULL, NULL},
	{"death-signal", NULL, death_signal_make, NULL},
	{"keep-caps", NULL, keep_caps_make, NULL},
	{"securebits-locked", securebits_locked_make, NULL, securebits_works},
	{"ldt", ldt_make, NULL, ldt_works},
};

/* --------------------------------------------------------------- who has it */

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct values values;
	struct program p = program_role(argument, "thread");

	if (attribute->make_thread)
		attribute->make_thread();
	values_read(&values);
	program_serve(&p, &ops, &values);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	static const struct program_ops child_ops = {.verify = verify, .spoil = spoil};
	static struct values values;
	pthread_t thread;
	struct program p;

	program_start(&p, argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(attributes); i++)
		if (program_told(argc, argv, attributes[i].word))
			attribute = &attributes[i];
	if (!attribute)
		return 2;
	if (attribute->make)
		attribute->make();
	if (!must(fork())) {
		struct program q = program_role(&p, "child");
		values_read(&values);
		return program_serve(&q, &child_ops, &values);
	}
	program_await(&p, "child");
	if (pthread_create(&thread, NULL, thread_main, &p) != 0)
		program_die("pthread_create");
	program_await(&p, "thread");
	values_read(&values);
	return program_serve(&p, &ops, &values);
}
