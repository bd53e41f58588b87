/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the world that one test runs in: new pid, mount, net, ipc, uts and time namespaces, /proc of the new pid
 * namespace, terminals of its own, tmpfs on /dev/shm, /run and the test's own folder, loopback up, no descriptor above
 * 2, and an init that reaps. When the command ends everything else in the namespace is killed, and nsinit exits as the
 * command did (128 + signal when it was killed, 124 when the time was over, 125 when the world could not be made).
 *
 * Interface: unshare(2), time_namespaces(7) (5.6), pid_namespaces(7), close_range(2) (5.9).
 * Does not handle: cgroups and users; a test that wants those makes them itself. /sys stays the one of the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/close_range.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/macros.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

enum { EXIT_TIMEOUT = 124, EXIT_WORLD = 125 };

struct world {
	const char *folder; /* the test's own folder: gets a tmpfs; NULL = none */
	double timeout_s;   /* 0 = none */
	long monotonic_s;   /* offsets of the time namespace */
	long boottime_s;
	char **command;
};

__attribute__((noreturn)) static void printf_like(1, 2) die(const char *fmt, ...)
{
	int code = errno;
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "nsinit: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, ": %s\n", strerror(code));
	va_end(ap);
	_exit(EXIT_WORLD);
}

static void write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die("cannot write %s", path);
}

static void mount_fresh(const char *type, const char *target, unsigned long flags, const char *data)
{
	if (mount(type, target, type, flags, data) < 0)
		die("cannot mount %s on %s", type, target);
}

/* Nothing that is mounted here may reach the host. In a chroot "/" is no mount; then every mount below it is told. */
static void make_private(void)
{
	_cleanup_fclose_ FILE *list = NULL;
	char line[4096], *path;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
		return;
	list = errno == EINVAL ? fopen("/proc/self/mountinfo", "re") : NULL;
	if (!list)
		die("cannot make the mounts private");
	while (fgets(line, sizeof(line), list)) {
		/* The fifth field is the mount point (proc(5)). */
		char *save = NULL;
		path = strtok_r(line, " ", &save);
		for (int field = 1; path && field < 5; field++)
			path = strtok_r(NULL, " ", &save);
		if (path && mount(NULL, path, NULL, MS_PRIVATE, NULL) < 0 && errno != ENOENT &&
		    errno != EINVAL)
			die("cannot make %s private", path);
	}
}

static void make_mounts(const struct world *w)
{
	make_private();
	mount_fresh("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_fresh("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_fresh("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
	/* Terminals of its own, numbered from 0; /dev/ptmx goes by what is mounted beside it (4.7). */
	mount_fresh("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,mode=620,ptmxmode=666");
	if (!w->folder)
		return;
	mount_fresh("tmpfs", w->folder, 0, "mode=755");
	if (chdir(w->folder) < 0)
		die("cannot enter %s", w->folder);
}

static void loopback_up(void)
{
	_cleanup_close_ int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

	if (sock < 0 || ioctl(sock, SIOCSIFFLAGS, &request) < 0)
		die("cannot bring lo up");
}

static void set_clocks(const struct world *w)
{
	char text[96];

	if (!w->monotonic_s && !w->boottime_s)
		return;
	snprintf(text, sizeof(text), "monotonic %ld 0\nboottime %ld 0\n", w->monotonic_s, w->boottime_s);
	write_file("/proc/self/timens_offsets", text);
}

static int exit_code(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* A test starts with what a program can count on: default actions, an empty mask, stdin at /dev/null. */
static void run_command(const struct world *w)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || fcntl(STDIN_FILENO, F_SETFD, 0) < 0)
		die("cannot open /dev/null");
	execvp(w->command[0], w->command);
	die("cannot run '%s'", w->command[0]);
}

/* PID 1 of the namespace: reaps whatever comes until the command ends, then takes everything down. */
static int run_init(const struct world *w)
{
	if (close_range(3, ~0U, 0) < 0)
		die("cannot close descriptors");
	make_mounts(w);
	loopback_up();
	if (w->folder)
		setenv("TMPDIR", w->folder, 1);

	pid_t command = fork();
	if (command < 0)
		die("cannot fork");
	if (!command)
		run_command(w);

	int status = 0, code = EXIT_WORLD;
	for (;;) {
		pid_t pid = waitpid(-1, &status, 0);
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0)
			return code;
		if (pid != command)
			continue;
		code = exit_code(status);
		kill(-1, SIGKILL);
	}
}

static double seconds_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Wait for init; when the time is over kill it, and with it the kernel kills the whole namespace. */
static int wait_for_init(pid_t init, double timeout_s)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, init, 0);
	double end = seconds_now() + timeout_s;
	bool late = false;
	int status = 0;

	if (pidfd < 0)
		die("cannot watch init");
	struct pollfd watch = {.fd = pidfd, .events = POLLIN};
	for (;;) {
		double left = end - seconds_now();
		int wait_ms = timeout_s > 0 ? (int)MAX(left * 1000 + 1, 0) : -1;
		int r = poll(&watch, 1, wait_ms);
		if (r > 0)
			break;
		if (r == 0) {
			late = true;
			break;
		}
		if (errno != EINTR)
			die("poll");
	}
	if (late) {
		fprintf(stderr, "nsinit: no end after %.0f s, killed\n", timeout_s);
		kill(init, SIGKILL);
	}
	while (waitpid(init, &status, 0) < 0)
		if (errno != EINTR)
			die("cannot wait for init");
	return late ? EXIT_TIMEOUT : exit_code(status);
}

static void usage(void)
{
	fprintf(stderr,
		"usage: nsinit [--folder DIR] [--timeout SECONDS] [--monotonic SECONDS] [--boottime SECONDS]\n"
		"              -- COMMAND...\n");
	exit(2);
}

static void parse(int argc, char **argv, struct world *w)
{
	static const struct option options[] = {
		{"folder", required_argument, NULL, 'f'},
		{"timeout", required_argument, NULL, 't'},
		{"monotonic", required_argument, NULL, 'm'},
		{"boottime", required_argument, NULL, 'b'},
		{NULL, 0, NULL, 0},
	};

	for (int c; (c = getopt_long(argc, argv, "+", options, NULL)) != -1;) {
		switch (c) {
		case 'f': w->folder = optarg; break;
		case 't': w->timeout_s = strtod(optarg, NULL); break;
		case 'm': w->monotonic_s = strtol(optarg, NULL, 10); break;
		case 'b': w->boottime_s = strtol(optarg, NULL, 10); break;
		default: usage();
		}
	}
	if (optind >= argc)
		usage();
	w->command = argv + optind;
}

int main(int argc, char **argv)
{
	struct world w = {0};
	const int namespaces =
		CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWTIME;

	parse(argc, argv, &w);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(namespaces) < 0)
		die("cannot make the namespaces");
	set_clocks(&w);
	pid_t init = fork();
	if (init < 0)
		die("cannot fork");
	if (!init) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(run_init(&w));
	}
	return wait_for_init(init, w.timeout_s);
}
