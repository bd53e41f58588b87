/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals that wait: standard ones and queued real-time ones with values, to the process and to one thread. Proof:
 * sigpending(2) and the masks while they wait; at the end each is taken and its order, value and sender are compared.
 */
#include "program.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { QUEUED = 5, FIRST_VALUE = 101, THREAD_VALUE = -77 };

struct state {
	sigset_t blocked;
	sigset_t process_pending; /* what the main thread sees: only the process's */
	sigset_t thread_pending;  /* what the second thread sees: its own too */
	const struct program *program;
};

static bool same_set(const sigset_t *a, const sigset_t *b)
{
	for (int n = 1; n <= SIGRTMAX; n++)
		if (sigismember(a, n) != sigismember(b, n))
			return false;
	return true;
}

static void verify_sets(struct program *p, const struct state *s, const sigset_t *wanted)
{
	sigset_t pending, mask;

	sigpending(&pending);
	expect(p, same_set(&pending, wanted), "another set of signals is pending");
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	expect(p, same_set(&mask, &s->blocked), "the mask differs");
}

static void main_verify(struct program *p, void *state)
{
	const struct state *s = state;

	verify_sets(p, s, &s->process_pending);
}

static void thread_verify(struct program *p, void *state)
{
	const struct state *s = state;

	verify_sets(p, s, &s->thread_pending);
}

/* The system call itself: sigtimedwait(3) turns SI_TKILL into SI_USER. */
static int take(int number, siginfo_t *ret_info)
{
	const struct timespec now = {0};
	uint64_t set = 1ULL << (number - 1);

	return (int)syscall(SYS_rt_sigtimedwait, &set, ret_info, &now, sizeof(set));
}

static void main_finish(struct program *p, void *state)
{
	siginfo_t info;

	(void)state;
	for (int i = 0; i < QUEUED; i++) {
		expect_same(p, "queued signal", take(SIGRTMIN + 1, &info), SIGRTMIN + 1);
		expect_same(p, "its value", info.si_value.sival_int, FIRST_VALUE + i);
		expect_same(p, "its code", info.si_code, SI_QUEUE);
		expect_same(p, "its sender", info.si_pid, getpid());
		expect_same(p, "the sender's uid", info.si_uid, getuid());
	}
	expect_same(p, "one more queued signal", take(SIGRTMIN + 1, &info), -1);
	expect_same(p, "standard signal", take(SIGTERM, &info), SIGTERM);
	expect_same(p, "its code", info.si_code, SI_USER);
	expect_same(p, "standard signal once more", take(SIGTERM, &info), -1);
}

static void thread_finish(struct program *p, void *state)
{
	siginfo_t info;

	(void)state;
	expect_same(p, "the thread's signal", take(SIGRTMIN + 2, &info), SIGRTMIN + 2);
	expect_same(p, "its value", info.si_value.sival_int, THREAD_VALUE);
	expect_same(p, "the thread's standard signal", take(SIGUSR2, &info), SIGUSR2);
	expect_same(p, "its code", info.si_code, SI_TKILL);
}

static void spoil(void *state)
{
	siginfo_t info;

	(void)state;
	take(SIGTERM, &info);
}

static void send_to_thread(void)
{
	siginfo_t info = {
		.si_signo = SIGRTMIN + 2, .si_code = SI_QUEUE, .si_pid = getpid(), .si_uid = getuid()};
	pid_t tid = (pid_t)syscall(SYS_gettid);

	info.si_value.sival_int = THREAD_VALUE;
	must(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, SIGRTMIN + 2, &info));
	must(syscall(SYS_tgkill, getpid(), tid, SIGUSR2));
}

static void *thread_main(void *argument)
{
	static const struct program_ops ops = {.verify = thread_verify, .finish = thread_finish};
	struct state *s = argument;
	struct program p = program_role(s->program, "thread");

	send_to_thread();
	/* The process's signals are sent before the thread starts. */
	sigpending(&s->thread_pending);
	program_serve(&p, &ops, s);
	return NULL;
}

static void send_to_process(void)
{
	for (int i = 0; i < QUEUED; i++)
		must(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = FIRST_VALUE + i}));
	must(kill(getpid(), SIGTERM));
	must(kill(getpid(), SIGTERM));
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = main_verify, .spoil = spoil, .finish = main_finish};
	static struct state s;
	struct program p;
	pthread_t handle;

	program_start(&p, argc, argv);
	s.program = &p;
	sigemptyset(&s.blocked);
	sigaddset(&s.blocked, SIGTERM);
	sigaddset(&s.blocked, SIGUSR2);
	sigaddset(&s.blocked, SIGRTMIN + 1);
	sigaddset(&s.blocked, SIGRTMIN + 2);
	pthread_sigmask(SIG_SETMASK, &s.blocked, NULL);
	send_to_process();
	if (pthread_create(&handle, NULL, thread_main, &s) != 0)
		program_die("pthread_create");
	program_await(&p, "thread");
	sigpending(&s.process_pending);
	return program_serve(&p, &ops, &s);
}
