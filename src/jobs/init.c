/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first process of a job's PID namespace: starts the command, hands signals on to it, reaps, and ends when nobody is
 * left. Each job executes a copy of this in its own folder, so that an image of it does not depend on what is installed.
 *
 *	init STATUS-FILE COMMAND [WORD...]
 *	init -t STATUS-FILE COMMAND [WORD...]
 *
 * With -t descriptor 3 is the master side of a pseudo terminal. The command's session has it as its terminal; what is
 * written to it goes to standard output, the job's log. Whoever is attached reads that log, and writes through a copy of
 * descriptor 3; so nobody outside holds anything of the job for longer than a moment, and the log has no gap.
 *
 * Freestanding: no libc, so it is small and maps nothing else. The environment follows the arguments, as the kernel puts them.
 */
#include <asm/ioctls.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/signal.h>
#include <linux/wait.h>
#include <stddef.h>
#include <stdint.h>

enum { INIT_NOT_FOUND = 127, INIT_SIGNALLED = 128 };

/* While no process has the terminal open there is nothing to wait for; it is looked at again after a while. */
enum { INIT_MASTER = 3, INIT_BLOCK = 4096, INIT_IDLE_MS = 200 };

static long call(long nr, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

static void leave(long status) __attribute__((noreturn));
static void leave(long status)
{
	for (;;)
		call(__NR_exit_group, status, 0, 0, 0);
}

static size_t length(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

/* The other side of the terminal becomes the session's, and what the command reads and writes. */
static void take_terminal(void)
{
	long fd = call(__NR_ioctl, INIT_MASTER, TIOCGPTPEER, O_RDWR, 0);
	if (fd < 0 || call(__NR_ioctl, fd, TIOCSCTTY, 0, 0) < 0)
		leave(INIT_NOT_FOUND);
	for (long number = 0; number <= 2; number++)
		call(__NR_dup2, fd, number, 0, 0);
	if (fd > 2)
		call(__NR_close, fd, 0, 0, 0);
}

/* In the child. PATH was searched by who started us: the command is a path. */
static void start(char **words, char **environment, int terminal) __attribute__((noreturn));
static void start(char **words, char **environment, int terminal)
{
	static const char text[] = ": cannot be executed\n";
	uint64_t none = 0;
	call(__NR_setsid, 0, 0, 0, 0);
	if (terminal)
		take_terminal();
	call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof(none));
	call(__NR_execve, (long)words[0], (long)words, (long)environment, 0);
	call(__NR_write, 2, (long)words[0], (long)length(words[0]), 0);
	call(__NR_write, 2, (long)text, sizeof(text) - 1, 0);
	leave(INIT_NOT_FOUND);
}

static void tell(const char *path, long status)
{
	char text[4];
	size_t n = 0;
	for (long unit = 100; unit; unit /= 10)
		if (status >= unit || unit == 1)
			text[n++] = (char)('0' + status / unit % 10);
	text[n++] = '\n';
	long fd = call(__NR_open, (long)path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600, 0);
	if (fd < 0)
		return;
	call(__NR_write, fd, (long)text, (long)n, 0);
	call(__NR_close, fd, 0, 0, 0);
}

/* Take the ends of all that have ended. 0: nobody is left. */
static int reap(long command, long *status)
{
	int raw;
	for (;;) {
		long pid = call(__NR_wait4, -1, (long)&raw, WNOHANG | __WALL, 0);
		if (pid == command)
			*status = raw & 0x7f ? INIT_SIGNALLED + (raw & 0x7f) : raw >> 8 & 0xff;
		if (pid < 0)
			return 0;
		if (!pid)
			return 1;
	}
}

/* A signal for us is one for the job; SIGCHLD only wakes us up. */
static void hand_on(long command, long number)
{
	if (number > 0 && number != SIGCHLD && call(__NR_kill, command, number, 0, 0) < 0)
		call(__NR_kill, -1, number, 0, 0);
}

/* Copy what the terminal has to the log. 0: nobody has it open. */
static int copy_output(void)
{
	char block[INIT_BLOCK];
	long n = call(__NR_read, INIT_MASTER, (long)block, sizeof(block), 0);
	for (long done = 0; done < n;) {
		long r = call(__NR_write, 1, (long)block + done, n - done, 0);
		if (r <= 0)
			break; /* a full disk must not stop the job */
		done += r;
	}
	return n > 0;
}

/* Wait for a signal; with a terminal also take what it shows. */
static void wait_signal(long command, const uint64_t *all, long signals)
{
	struct pollfd polled[] = {{(int)signals, POLLIN, 0}, {INIT_MASTER, POLLIN, 0}};
	const uint64_t now[2] = {0, 0};
	if (signals < 0) {
		hand_on(command, call(__NR_rt_sigtimedwait, (long)all, 0, 0, sizeof(*all)));
		return;
	}
	call(__NR_poll, (long)polled, 2, -1, 0);
	if (polled[1].revents && !copy_output())
		call(__NR_poll, (long)polled, 1, INIT_IDLE_MS, 0);
	if (polled[0].revents)
		hand_on(command, call(__NR_rt_sigtimedwait, (long)all, 0, (long)now, sizeof(*all)));
}

/* What was written last, before everybody ended. */
static void copy_rest(void)
{
	struct pollfd polled = {INIT_MASTER, POLLIN, 0};
	while (call(__NR_poll, (long)&polled, 1, 0, 0) == 1 && polled.revents & POLLIN)
		if (!copy_output())
			return;
}

static void run(long argc, char **words, char **environment) __attribute__((noreturn));
static void run(long argc, char **words, char **environment)
{
	uint64_t all = ~0ull;
	long status = 0, signals = -1;
	int terminal = argc > 1 && words[1][0] == '-';
	words += terminal;
	if (argc - terminal < 3)
		leave(2);
	call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, sizeof(all));
	if (terminal) {
		call(__NR_fcntl, INIT_MASTER, F_SETFD, FD_CLOEXEC, 0);
		signals = call(__NR_signalfd4, -1, (long)&all, sizeof(all), O_CLOEXEC);
	}
	long command = call(__NR_fork, 0, 0, 0, 0);
	if (!command)
		start(words + 2, environment, terminal);
	while (command > 0 && reap(command, &status))
		wait_signal(command, &all, signals);
	if (terminal)
		copy_rest();
	if (command < 0)
		status = INIT_NOT_FOUND;
	tell(words[1], status);
	leave(status);
}

/* The stack as the kernel leaves it: argc, argv, NULL, environment. */
void init_main(long *stack) __attribute__((used, noreturn));
void init_main(long *stack)
{
	char **words = (char **)(stack + 1);
	run(stack[0], words, words + stack[0] + 1);
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall init_main\n\tud2\n");
