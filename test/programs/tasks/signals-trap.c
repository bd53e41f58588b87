/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signals of which a debugger hears, blocked and waiting: SIGTRAP, SIGSEGV and SIGILL of a thread with the siginfo that a fault
 * has (an address, a code of the processor's), SIGTRAP of the process, sent with a value. Proof: the sets that wait; in the
 * end each is taken with all of its siginfo.
 */
#include "program.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const struct fault {
	int number, code;
	uint64_t address;
} faults[] = {
	{SIGTRAP, TRAP_BRKPT, 0x1234567890},
	{SIGSEGV, SEGV_ACCERR, 0xdeadbeef000},
	{SIGILL, ILL_ILLOPN, 0x777},
};

enum { VALUE = 987654 };

static sigset_t blocked;

static void fault_info(const struct fault *f, siginfo_t *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->si_signo = f->number;
	ret->si_code = f->code;
	ret->si_addr = (void *)(uintptr_t)f->address;
}

static void verify(struct program *p, void *state)
{
	sigset_t waits;

	(void)state;
	must(sigpending(&waits));
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		expect_same(p, "a signal waits", sigismember(&waits, faults[i].number), 1);
}

static void finish(struct program *p, void *state)
{
	const struct timespec none = {0};
	siginfo_t info, want;

	verify(p, state);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		sigset_t one;
		sigemptyset(&one);
		sigaddset(&one, faults[i].number);
		fault_info(&faults[i], &want);
		expect_same(p, "taking a signal", sigtimedwait(&one, &info, &none), faults[i].number);
		expect(p, !memcmp(&info, &want, sizeof(info)),
		       "the siginfo of signal %d differs: code %d, address %p", faults[i].number,
		       info.si_code, info.si_addr);
		if (faults[i].number != SIGTRAP)
			continue;
		expect_same(p, "the process's", sigtimedwait(&one, &info, &none), SIGTRAP);
		expect_same(p, "its code", info.si_code, SI_QUEUE);
		expect_same(p, "its value", info.si_value.sival_int, VALUE);
	}
	expect_same(p, "nothing more", sigtimedwait(&blocked, &info, &none) < 0 && errno == EAGAIN, 1);
}

static void spoil(void *state)
{
	const struct timespec none = {0};
	siginfo_t info;

	(void)state;
	for (int i = 0; i < 8; i++)
		sigtimedwait(&blocked, &info, &none);
}

int main(int argc, char **argv)
{
	static const struct program_ops ops = {.verify = verify, .spoil = spoil, .finish = finish};
	const union sigval value = {.sival_int = VALUE};
	struct program p;

	program_start(&p, argc, argv);
	sigemptyset(&blocked);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		sigaddset(&blocked, faults[i].number);
	must(sigprocmask(SIG_BLOCK, &blocked, NULL));
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		siginfo_t info;
		fault_info(&faults[i], &info);
		must(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), info.si_signo, &info));
	}
	must(sigqueue(getpid(), SIGTRAP, value));
	program_note_volatile(&p);
	return program_serve(&p, &ops, NULL);
}
