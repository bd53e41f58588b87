/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns running an engine's program, and telling why one failed. Engines print that a program called criu failed, and where its log is;
 * the cause is the last error in that.
 */
#include "container/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/spawn.h"
#include "kernel/syscalls.h"

extern char **environ;

enum { COMMAND_OUTPUT_MAX = 64 << 20, COMMAND_BLOCK = 1 << 16, COMMAND_LOG_MAX = 1 << 20 };

void command_release(struct command *c)
{
	vec_release(&c->words);
}

void command_result_release(struct command_result *result)
{
	strbuf_release(&result->out);
	strbuf_release(&result->error);
}

void command_add(struct command *c, const char *word)
{
	const char **slot = word ? vec_push(&c->words) : NULL;
	if (slot)
		*slot = word;
	c->failed |= word && !slot;
}

bool command_exists(const char *program)
{
	_cleanup_free_ char *found = NULL;
	return spawn_find(program, &found) >= 0;
}

/* ---------------------------------------------------------------- the name criu */

/* A folder with ferry under that name alone. */
struct command_name {
	char folder[32], link[40];
	char *path; /* of PATH */
};

static void name_release(struct command_name *n)
{
	if (*n->link)
		unlink(n->link);
	if (*n->folder)
		rmdir(n->folder);
	free(n->path);
}

static int name_make(struct command_name *n, struct ferry_error *err)
{
	_cleanup_free_ char *own = realpath("/proc/self/exe", NULL);
	*n = (struct command_name){0};
	if (!own)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "finding ferry's own program");
	char folder[sizeof(n->folder)] = "/tmp/ferry-criu.XXXXXX";
	if (!mkdtemp(folder))
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating '%s'", folder);
	memcpy(n->folder, folder, sizeof(folder));
	snprintf(n->link, sizeof(n->link), "%.30s/criu", folder);
	if (symlink(own, n->link) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating '%s'", n->link);
	if (asprintf(&n->path, "PATH=%s:%s", folder, spawn_path()) < 0) {
		n->path = NULL;
		return error_memory(err);
	}
	return 0;
}

/* The caller frees the list alone. */
static char **name_environment(const struct command_name *name)
{
	size_t n = 0, own = 0;
	while (environ[n])
		n++;
	char **list = calloc(n + 2, sizeof(*list));
	if (!list)
		return NULL;
	list[own++] = name->path;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "PATH=", 5) != 0)
			list[own++] = environ[i];
	return list;
}

/* ------------------------------------------------------------------------- run */

/* Some of what it prints. Returns 0 at the end. */
static int command_take(int from, struct strbuf *to)
{
	char block[COMMAND_BLOCK];
	ssize_t n = read(from, block, sizeof(block));
	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 1 : -errno;
	if (n && to->n < COMMAND_OUTPUT_MAX)
		strbuf_add(to, block, (size_t)n);
	return n > 0;
}

/*
 * Until the program has ended; whom it started in the background may keep the pipes open for as long as a container lives, so their
 * end is not waited for.
 */
static int command_listen(pid_t pid, const int ends[2], struct command_result *ret, struct ferry_error *err)
{
	struct strbuf *to[2] = {&ret->out, &ret->error};
	_cleanup_close_ int pidfd = sys_pidfd_open(pid, 0);
	struct pollfd polled[3] = {{.fd = ends[0], .events = POLLIN},
				   {.fd = ends[1], .events = POLLIN},
				   {.fd = pidfd, .events = POLLIN}};
	if (pidfd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -pidfd, "watching pid %d", pid);
	for (bool ended = false; !ended;) {
		if (poll(polled, ARRAY_SIZE(polled), -1) < 0 && errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for pid %d", pid);
		ended = polled[2].revents;
		for (size_t i = 0; i < 2; i++) {
			int r = 1;
			while (polled[i].fd >= 0 && poll(&polled[i], 1, 0) > 0 && r > 0)
				r = command_take(polled[i].fd, to[i]);
			if (r <= 0)
				polled[i].fd = -1;
		}
	}
	return ret->out.failed || ret->error.failed ? error_memory(err) : 0;
}

static int command_run_in(struct command *c, const struct command_name *name, struct command_result *ret,
			  struct ferry_error *err)
{
	_cleanup_free_ char **environment = name_environment(name);
	int out[2], error[2], status = 0;
	pid_t pid;
	if (!environment)
		return error_memory(err);
	if (pipe2(out, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	_cleanup_close_ int from_out = out[0];
	_cleanup_close_ int to_out = out[1];
	if (pipe2(error, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	_cleanup_close_ int from_error = error[0];
	_cleanup_close_ int to_error = error[1];
	const int taken[] = {SPAWN_NULL, to_out, to_error}, own[] = {SPAWN_SAME, SPAWN_SAME, SPAWN_SAME};
	int r = spawn_program((char *const *)c->words.v, true, environment, c->starts ? own : taken, &pid);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "starting '%s'", c->words.v[0]);
	close(take_fd(to_out));
	close(take_fd(to_error));
	r = command_listen(pid, (int[]){from_out, from_error}, ret, err);
	if (r < 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for '%s'", c->words.v[0]);
	ret->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return r;
}

int command_run(struct command *c, struct command_result *ret, struct ferry_error *err)
{
	struct command_name name;
	const char **end = vec_push(&c->words);
	*ret = (struct command_result){0};
	if (c->failed || !end)
		return error_memory(err);
	*end = NULL;
	c->words.n--;
	int r = name_make(&name, err);
	if (r >= 0)
		r = command_run_in(c, &name, ret, err);
	name_release(&name);
	return r;
}

/* ----------------------------------------------------------------------- causes */

/* The last line of a text that has the word, or the last of all; the caller frees it. */
static char *command_last(const char *text, const char *word)
{
	const char *found = NULL;
	size_t n = 0;
	for (const char *line = text; *line;) {
		size_t length = strcspn(line, "\n");
		if (length && (!word || memmem(line, length, word, strlen(word))))
			found = line, n = length;
		line += length + (line[length] == '\n');
	}
	return found ? strndup(found, n) : NULL;
}

/* The log that a message names: "log file: PATH", with other marks behind it. */
static char *command_log(const char *text)
{
	static const char mark[] = "log file: ";
	const char *at = strstr(text, mark), *next;
	while (at && (next = strstr(at + 1, mark)))
		at = next;
	if (!at)
		return NULL;
	at += sizeof(mark) - 1;
	return strndup(at, strcspn(at, "\"'\\ \n\t:,"));
}

static char *command_cause(const struct command *c, const char *text)
{
	char *bytes;
	size_t n;
	_cleanup_free_ char *path = c->log ? strdup(c->log) : command_log(text);
	_cleanup_close_ int fd = path ? fd_open(AT_FDCWD, path, O_RDONLY, 0) : -1;
	if (fd < 0 || fd_read_whole(fd, COMMAND_LOG_MAX, &bytes, &n) < 0)
		return NULL;
	_cleanup_free_ char *whole = strndup(bytes, n);
	free(bytes);
	return whole ? command_last(whole, "Error") : NULL;
}

int command_run_well(struct command *c, const char *what, struct command_result *ret, struct ferry_error *err)
{
	int r = command_run(c, ret, err);
	if (r < 0 || !ret->status)
		return r;
	const char *text = strbuf_str(ret->error.n ? &ret->error : &ret->out);
	_cleanup_free_ char *cause = command_cause(c, text);
	_cleanup_free_ char *last = command_last(text, NULL);
	error_set(err, FERRY_ERROR_CONTAINER_ENGINE, EIO, "%s fails with status %d at %s: %.300s",
		  c->words.v[0], ret->status, what, cause ?: last ?: "it says nothing");
	if (cause && last)
		error_hint(err, "%s says: %.200s", c->words.v[0], last);
	return -EIO;
}
