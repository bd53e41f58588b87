/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the self-test: a shell that was told a number over a named pipe, and counts how often it was asked, is dumped and restored, and has to
 * say the same number, and the next count.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "doctor/doctor.h"
#include "engine/engine.h"
#include "engine/job.h"
#include "kernel/syscalls.h"

enum { MOVE_WAIT_MS = 1500, MOVE_TEXT = 64 };

/* It has the pipe open for both, so that nobody has to write while it is away. */
static __attribute__((noreturn)) void move_process(int folder)
{
	static const char program[] = "exec 3<>ask; read -r secret <&3; n=0; "
				      "while read -r _ <&3; do n=$((n + 1)); echo \"$secret $n\" >said; done";
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	int nowhere = fd_open(AT_FDCWD, "/dev/null", O_RDWR, 0);
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (dup2(nowhere, fd) < 0)
			_exit(1);
	if (setsid() > 0 && fchdir(folder) == 0)
		fd_close_others(STDERR_FILENO + 1, NULL, 0);
	execl("/bin/sh", "sh", "-c", program, (char *)NULL);
	_exit(1);
}

static int move_write(int folder, const char *text)
{
	_cleanup_close_ int fd = fd_open(folder, "ask", O_RDWR | O_NONBLOCK, 0);
	return fd < 0 ? fd : fd_write_all(fd, text, strlen(text));
}

/* Whether it answers as it has to, the count-th time. */
static bool move_answers(int folder, uint64_t secret, unsigned count)
{
	char wanted[MOVE_TEXT];
	snprintf(wanted, sizeof(wanted), "%llu %u\n", (unsigned long long)secret, count);
	unlinkat(folder, "said", 0);
	if (move_write(folder, "now\n") < 0)
		return false;
	for (int ms = 0; ms < MOVE_WAIT_MS; ms++) {
		_cleanup_free_ char *said = NULL;
		size_t n;
		if (fd_read_path(folder, "said", MOVE_TEXT, &said, &n) >= 0 && n && said[n - 1] == '\n')
			return !strcmp(said, wanted);
		poll(NULL, 0, 1);
	}
	return false;
}

static void move_end(pid_t pid)
{
	_cleanup_close_ int fd = sys_pidfd_open(pid, 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	kill(pid, SIGKILL);
	if (fd >= 0)
		poll(&p, 1, MOVE_WAIT_MS);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
}

static void move_remove(const char *path)
{
	_cleanup_closedir_ DIR *folder = opendir(path);
	for (struct dirent *one; folder && (one = readdir(folder));)
		unlinkat(dirfd(folder), one->d_name, 0);
	rmdir(path);
}

/* NULL: it went well; else what did not. */
static const char *move_there_and_back(struct doctor *d, const struct log_sink *log, pid_t *pid, int folder,
				       int *ask, uint64_t secret, struct options *o, struct ferry_error *err)
{
	struct engine_report report;
	const pid_t was = *pid;
	o->tree = was;
	o->no_live = true;
	if (!move_answers(folder, secret, 1))
		return "the process of the self-test does not answer";
	/* From here on the pipe is its own. */
	close(take_fd(*ask));
	if (job_run(o, engine_dump, log, &report, err) < 0)
		return "dump";
	d->dump_ns = report.total_ns;
	while (waitpid(was, NULL, 0) < 0 && errno == EINTR)
		continue;
	/* From here on its number may be anybody's. */
	*pid = 0;
	o->restore_detached = true;
	if (job_run(o, engine_restore, log, &report, err) < 0)
		return "restore";
	*pid = was;
	d->restore_ns = report.total_ns;
	return move_answers(folder, secret, 2) ? NULL : "what came back is not what went";
}

void doctor_move(struct doctor *d, const struct log_sink *log)
{
	const char *folders = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	_cleanup_free_ char *path = NULL, *images = NULL;
	struct ferry_error err = FERRY_ERROR_INIT;
	struct options o;
	uint64_t secret = 0;
	if (asprintf(&path, "%s/ferry-doctor-XXXXXX", folders) < 0)
		path = NULL;
	if (!path || !mkdtemp(path) || asprintf(&images, "%s/images", path) < 0 ||
	    getrandom(&secret, sizeof(secret), 0) < 0) {
		doctor_find(d, DOCTOR_FAIL, "self-test", "make room there, or name another folder by TMPDIR",
			    "no folder in %s: %s", folders, strerror(errno));
		return;
	}
	_cleanup_close_ int folder =
		mkdir(images, 0700) < 0 ? -errno : fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	char first[MOVE_TEXT];
	snprintf(first, sizeof(first), "%llu\n", (unsigned long long)secret);
	/* Open, so that what is written stays until the shell has it open, too. */
	_cleanup_close_ int ask = folder < 0 || mkfifoat(folder, "ask", 0600) < 0
					  ? -EIO
					  : fd_open(folder, "ask", O_RDWR | O_NONBLOCK, 0);
	fflush(NULL);
	pid_t pid = ask < 0 || fd_write_all(ask, first, strlen(first)) < 0 ? -1 : fork();
	if (!pid)
		move_process(folder);
	options_init(&o);
	o.images_dir = strdup(images);
	const char *failed = pid > 0 && o.images_dir
				     ? move_there_and_back(d, log, &pid, folder, &ask, secret, &o, &err)
				     : "no process or no folder can be made";
	d->moved = !failed;
	if (failed)
		doctor_find(d, DOCTOR_FAIL, "self-test", error_next_step(&err), "%s%s%s", failed,
			    err.message[0] ? ": " : "", err.message);
	options_release(&o);
	if (pid > 0)
		move_end(pid);
	move_remove(images);
	move_remove(path);
}
