/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the start of a job: a folder, a record, and a process that nothing ties to who started it: own PID namespace, own
 * /proc, own session, pseudo terminals of its own (so that their numbers are free wherever it goes), no terminal or one of
 * those; for ordinary users, or where asked for, an own user namespace around it, and an own IPC namespace.
 *
 * Kernel interface: unshare(2), user_namespaces(7), pid_namespaces(7), mount(2), pts(4).
 * Does not handle: more than the caller's own ids in a user namespace (that takes newuidmap); they stay what they are, and no
 * other process's files can be given away.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "base/strbuf.h"
#include "host/userns.h"
#include "jobs/internal.h"

enum { RUN_NAMES = 1000, RUN_SIGNALS = 64, RUN_ROWS = 24, RUN_COLUMNS = 80 };

/* What the processes in between say: a PID, or what failed. */
struct run_word {
	pid_t pid;
	int code;
	char what[48];
};

struct run {
	const struct jobs_record *job;
	char *const *words; /* command as a path, its words, NULL */
	bool user_ns;
	int pipe;
	struct winsize size; /* of its terminal */
};

static __attribute__((noreturn)) void run_fail(const struct run *r, const char *what, int code)
{
	struct run_word word = {.code = code};
	snprintf(word.what, sizeof(word.what), "%s", what);
	_exit(fd_write_all(r->pipe, &word, sizeof(word)) < 0 ? 2 : 1);
}

static void run_open(const struct run *r, int number, const char *path, int flags)
{
	int fd = fd_open(AT_FDCWD, path, flags, 0600);
	if (fd < 0)
		run_fail(r, path, -fd);
	if (dup2(fd, number) < 0)
		run_fail(r, path, errno);
	if (fd != number)
		close(fd);
}

/* A machine without devpts, or one that forbids it, has the terminals that it has. */
static void run_mount_terminals(const struct run *r)
{
	const char *options =
		r->user_ns ? "newinstance,mode=620,ptmxmode=666" : "newinstance,gid=5,mode=620,ptmxmode=666";
	struct stat st;
	if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options) < 0)
		return;
	if (lstat("/dev/ptmx", &st) == 0 && S_ISCHR(st.st_mode) &&
	    mount("/dev/pts/ptmx", "/dev/ptmx", NULL, MS_BIND, NULL) < 0)
		run_fail(r, "mounting /dev/ptmx for the job", errno);
}

static void run_open_terminal(const struct run *r)
{
	int unlocked = 0, fd = fd_open(AT_FDCWD, "/dev/pts/ptmx", O_RDWR | O_NOCTTY, 0);
	if (fd < 0)
		fd = fd_open(AT_FDCWD, "/dev/ptmx", O_RDWR | O_NOCTTY, 0);
	if (fd < 0)
		run_fail(r, "opening a pseudo terminal", -fd);
	if (ioctl(fd, TIOCSPTLCK, &unlocked) < 0 || ioctl(fd, TIOCSWINSZ, &r->size) < 0 ||
	    dup2(fd, JOBS_TTY_FD) < 0)
		run_fail(r, "setting a pseudo terminal up", errno);
	if (fd != JOBS_TTY_FD)
		close(fd);
	else if (fcntl(fd, F_SETFD, 0) < 0) /* the init executes with it */
		run_fail(r, "keeping a pseudo terminal", errno);
}

/* The first process of the namespace. */
static __attribute__((noreturn)) void run_first(struct run *r)
{
	char init[JOBS_PATH_BYTES + 16], log[JOBS_PATH_BYTES + 16], status[JOBS_PATH_BYTES + 16];
	sigset_t none;
	snprintf(init, sizeof(init), "%s/%s", r->job->path, JOBS_INIT_NAME);
	snprintf(log, sizeof(log), "%s/%s", r->job->path, JOBS_LOG_NAME);
	snprintf(status, sizeof(status), "%s/%s", r->job->path, JOBS_STATUS_NAME);
	size_t n = 0;
	while (r->words[n])
		n++;
	char **words = calloc(n + 4, sizeof(*words)), **word = words;
	if (!words)
		run_fail(r, "memory", ENOMEM);
	*word++ = init;
	if (r->job->tty)
		*word++ = (char *)"-t";
	*word++ = status;
	memcpy(word, r->words, n * sizeof(*words));
	if (setsid() < 0)
		run_fail(r, "making a session", errno);
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		run_fail(r, "mounting /proc for the job", errno);
	run_mount_terminals(r);
	run_open(r, STDIN_FILENO, "/dev/null", O_RDONLY);
	run_open(r, STDOUT_FILENO, log, O_WRONLY | O_APPEND | O_CREAT);
	if (dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
		run_fail(r, "opening the log", errno);
	int keep = fcntl(r->pipe, F_DUPFD_CLOEXEC, JOBS_TTY_FD + 1);
	if (keep < 0)
		run_fail(r, "keeping a pipe", errno);
	r->pipe = keep;
	fd_close_others(3, &r->pipe, 1);
	if (r->job->tty)
		run_open_terminal(r);
	for (int number = 1; number <= RUN_SIGNALS; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(init, words);
	run_fail(r, "executing the job's init", errno);
}

static __attribute__((noreturn)) void run_between(struct run *r)
{
	struct run_word word = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	if (r->user_ns && userns_new(&err) < 0) {
		word.code = err.code;
		run_fail(r, "creating a user namespace", err.code);
	}
	/* System V IPC has numbers that only an owner of the namespace can give back. */
	if (unshare(CLONE_NEWNS | CLONE_NEWPID | (r->user_ns ? CLONE_NEWIPC : 0)) < 0)
		run_fail(r, "creating namespaces", errno);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		run_fail(r, "making mounts private", errno);
	word.pid = fork();
	if (!word.pid)
		run_first(r);
	if (word.pid < 0)
		run_fail(r, "starting the job", errno);
	/* Nobody waits for the job: it outlives us. */
	_exit(fd_write_all(r->pipe, &word, sizeof(word)) < 0 ? 2 : 0);
}

static int run_start(struct run *r, pid_t *ret_pid, struct ferry_error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	fflush(NULL);
	pid_t pid = fork();
	int code = errno;
	if (!pid) {
		close(ends[0]);
		r->pipe = ends[1];
		run_between(r);
	}
	close(ends[1]);
	_cleanup_close_ int from = ends[0];
	if (pid < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, code, "starting a process");
	/* The pipe closes when the init was executed. */
	struct run_word word;
	while (fd_read_all(from, &word, sizeof(word)) >= 0) {
		if (word.pid) {
			*ret_pid = word.pid;
			continue;
		}
		error_errno(err, FERRY_ERROR_PERMISSION, word.code, "job '%s': %s", r->job->name, word.what);
		if (!r->user_ns && word.code == EPERM)
			error_hint(err, "an ordinary user needs --user-ns");
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
	return error_is_set(err) ? -EPERM : 0;
}

/* ------------------------------------------------------------------- folder */

static int run_make_dirs(const char *path, struct ferry_error *err)
{
	char part[JOBS_PATH_BYTES];
	snprintf(part, sizeof(part), "%s", path);
	for (char *at = part + 1;; at++) {
		if (*at && *at != '/')
			continue;
		char end = *at;
		*at = '\0';
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return error_errno(err, FERRY_ERROR_PERMISSION, errno, "making the directory '%s'",
					   part);
		*at = end;
		if (!end)
			return 0;
	}
}

/* A name from the command: its last part, with a number where that is taken. */
static int run_name(struct jobs_record *j, int dir, const char *wanted, const char *command,
		    struct ferry_error *err)
{
	const char *slash = strrchr(command, '/'), *base = slash ? slash + 1 : command;
	if (wanted && !jobs_name_good(wanted))
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "'%s' is no name for a job: letters, digits, '.', '_' and '-', at most %d",
				 wanted, JOBS_NAME_BYTES - 1);
	for (int i = 1; i <= RUN_NAMES; i++) {
		if (wanted)
			snprintf(j->name, sizeof(j->name), "%s", wanted);
		else if (i == 1)
			snprintf(j->name, sizeof(j->name), "%.40s", jobs_name_good(base) ? base : "job");
		else
			snprintf(j->name, sizeof(j->name), "%.40s-%d", jobs_name_good(base) ? base : "job",
				 i);
		if (mkdirat(dir, j->name, 0700) == 0)
			return 0;
		if (errno != EEXIST)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "making a folder for job '%s'",
					   j->name);
		if (!wanted)
			continue;
		error_set(err, FERRY_ERROR_USAGE, EEXIST, "there is a job '%s' already", wanted);
		error_hint(err, "ferry rm %s removes it once it has ended", wanted);
		return -EEXIST;
	}
	return error_set(err, FERRY_ERROR_USAGE, EEXIST, "too many jobs of one name, use --name");
}

static int run_write_init(const struct jobs_record *j, struct ferry_error *err)
{
	_cleanup_close_ int fd = fd_open(j->dir, JOBS_INIT_NAME, O_WRONLY | O_CREAT | O_EXCL, 0700);
	int r = fd < 0 ? fd : fd_write_all(fd, jobs_init_start, (size_t)(jobs_init_end - jobs_init_start));
	return r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "writing the init of job '%s'", j->name) : 0;
}

static int run_find(const char *word, char **ret_path, struct ferry_error *err)
{
	int r = spawn_find(word, ret_path);
	if (r >= 0 || r == -ENOMEM)
		return r < 0 ? error_memory(err) : 0;
	if (strchr(word, '/'))
		return error_errno(err, FERRY_ERROR_USAGE, -r, "'%s'", word);
	return error_set(err, FERRY_ERROR_USAGE, ENOENT, "there is no command '%s'", word);
}

static char *run_text(char *const words[])
{
	struct strbuf text = {0};
	for (size_t i = 0; words[i]; i++)
		strbuf_addf(&text, "%s%s", i ? " " : "", words[i]);
	return strbuf_take(&text);
}

static int run_prepare(const struct options *options, const char *path, struct jobs_record *j,
		       char *const words[], struct ferry_error *err)
{
	int r = run_make_dirs(path, err);
	_cleanup_close_ int dir = r < 0 ? -1 : fd_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	if (r < 0)
		return r;
	if (dir < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -dir, "opening '%s'", path);
	r = run_name(j, dir, options->name, words[0], err);
	if (r < 0)
		return r;
	snprintf(j->path, sizeof(j->path), "%.*s/%s", JOBS_PATH_BYTES / 2, path, j->name);
	j->dir = fd_open(dir, j->name, O_RDONLY | O_DIRECTORY, 0);
	j->command = run_text(words);
	j->user_ns = options->user_ns || geteuid();
	j->tty = options->tty;
	j->created_s = j->since_s = time(NULL);
	if (j->dir < 0 || !j->command)
		return error_memory(err);
	r = jobs_lock(j, err);
	if (r >= 0)
		r = run_write_init(j, err);
	return r < 0 ? r : jobs_write(j, err);
}

/* That of the caller's terminal. */
static struct winsize run_size(void)
{
	struct winsize size = {.ws_row = RUN_ROWS, .ws_col = RUN_COLUMNS}, ours;
	for (int fd = 0; fd <= 2; fd++)
		if (ioctl(fd, TIOCGWINSZ, &ours) == 0 && ours.ws_row && ours.ws_col)
			return ours;
	return size;
}

int jobs_run(const struct options *options, char *const words[], struct jobs_list *ret,
	     struct ferry_error *err)
{
	char path[JOBS_PATH_BYTES];
	_cleanup_free_ char *command = NULL;
	struct jobs_list list = {0};
	int r = run_find(words[0], &command, err);
	if (r >= 0)
		r = jobs_dir(options, path, err);
	struct jobs_record *j = r < 0 ? NULL : jobs_add(&list);
	if (r >= 0 && !j)
		r = error_memory(err);
	if (r >= 0)
		r = run_prepare(options, path, j, words, err);
	size_t n = 0;
	while (words[n])
		n++;
	char **copy = calloc(n + 1, sizeof(*copy));
	if (r >= 0 && !copy)
		r = error_memory(err);
	if (r >= 0) {
		memcpy(copy, words, n * sizeof(*copy));
		copy[0] = command;
		struct run run = {.job = j, .words = copy, .user_ns = j->user_ns, .size = run_size()};
		r = run_start(&run, &j->pid, err);
		j->state = r < 0 ? JOBS_ENDED : JOBS_RUNNING;
		if (r < 0 && jobs_remove(options, j, NULL) < 0)
			error_hint(err, "ferry rm %s removes what is left of it", j->name);
	}
	free(copy);
	if (r < 0)
		jobs_release(&list);
	else
		*ret = list;
	return r;
}
