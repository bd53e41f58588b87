/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads with different scheduling: policy, priority, nice value, reset on fork; with "more" also
 * affinity and input/output priority.
 * Proof: sched_getattr(2), sched_getaffinity(2) and ioprio_get(2) give each thread's values back.
 */
#include "program.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { IOPRIO_WHO_PROCESS = 1, IOPRIO_CLASS_SHIFT = 13, IOPRIO_BEST_EFFORT = 2, IOPRIO_IDLE = 3 };

/* sched_getattr(2); glibc has no wrapper. */
struct attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

enum { FLAG_RESET_ON_FORK = 1 };

struct thread {
	const char *role;
	struct attributes set;
	int ioprio;
	bool last_cpu_only;
	const struct program *program;
	bool affinity;
	cpu_set_t cpus;
};

static struct thread threads[] = {
	{"batch",
	 {.policy = SCHED_BATCH, .nice = 5},
	 IOPRIO_BEST_EFFORT << IOPRIO_CLASS_SHIFT | 6,
	 false,
	 NULL,
	 false,
	 {{0}}},
	{"idle", {.policy = SCHED_IDLE}, IOPRIO_IDLE << IOPRIO_CLASS_SHIFT, true, NULL, false, {{0}}},
	{"fifo", {.policy = SCHED_FIFO, .priority = 3}, 0, false, NULL, false, {{0}}},
	{"round-robin",
	 {.policy = SCHED_RR, .priority = 7, .flags = FLAG_RESET_ON_FORK},
	 IOPRIO_BEST_EFFORT << IOPRIO_CLASS_SHIFT | 1,
	 true,
	 NULL,
	 false,
	 {{0}}},
	{"nice", {.policy = SCHED_OTHER, .nice = -7}, 0, false, NULL, false, {{0}}},
};

static void get_attributes(struct attributes *ret)
{
	memset(ret, 0, sizeof(*ret));
	syscall(SYS_sched_getattr, 0, ret, sizeof(*ret), 0);
}

static void verify(struct program *p, void *state)
{
	const struct thread *t = state;
	struct attributes now;
	cpu_set_t cpus;

	get_attributes(&now);
	expect_same(p, "policy", now.policy, t->set.policy);
	expect_same(p, "nice", now.nice, t->set.nice);
	expect_same(p, "priority", now.priority, t->set.priority);
	expect_same(p, "flags", now.flags, t->set.flags);
	CPU_ZERO(&cpus);
	sched_getaffinity(0, sizeof(cpus), &cpus);
	expect(p, CPU_EQUAL(&cpus, &t->cpus), "the affinity differs: %d CPUs", CPU_COUNT(&cpus));
	expect_same(p, "ioprio", syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0), t->ioprio);
}

static void spoil(void *state)
{
	struct thread *t = state;

	t->set.nice = t->set.nice ? 0 : 1;
	t->set.priority++;
}

static void apply(struct thread *t)
{
	t->set.size = sizeof(t->set);
	if (t->affinity && t->last_cpu_only) {
		CPU_ZERO(&t->cpus);
		CPU_SET((size_t)sysconf(_SC_NPROCESSORS_ONLN) - 1, &t->cpus);
		must(sched_setaffinity(0, sizeof(t->cpus), &t->cpus));
	}
	sched_getaffinity(0, sizeof(t->cpus), &t->cpus);
	if (t->affinity && t->ioprio)
		must(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, t->ioprio));
	must(syscall(SYS_sched_setattr, 0, &t->set, 0));
	/* What the kernel derives from nice when nothing was set. */
	t->ioprio = (int)syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0);
}

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	struct thread *t = argument;
	struct program p = program_role(t->program, t->role);

	apply(t);
	program_serve(&p, &ops, t);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil};
	static struct thread self = {.role = "main", .set = {.policy = SCHED_OTHER, .nice = 3}};
	struct program p;

	program_start(&p, argc, argv);
	self.affinity = p.more;
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++) {
		pthread_t handle;
		threads[i].program = &p;
		threads[i].affinity = self.affinity;
		if (pthread_create(&handle, NULL, thread_main, &threads[i]) != 0)
			program_die("pthread_create");
		program_await(&p, threads[i].role);
	}
	apply(&self);
	return program_serve(&p, &ops, &self);
}
