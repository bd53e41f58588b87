/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns running action scripts. Names and variables are CRIU's; which stages a tree has was looked up by running CRIU 4.2.1: pre-dump,
 * post-dump, pre-restore, post-restore, pre-resume, post-resume; with any namespace of its own setup-namespaces and
 * post-setup-namespaces, with a network namespace of its own network-lock and network-unlock.
 */
#include "compat/criu_hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

extern char **environ;

#define HOOK_PREFIX "CRTOOLS_"

enum { HOOK_VARIABLES = 3 };

static const char *const hook_words[] = {
	[ENGINE_PRE_DUMP] = "pre-dump",
	[ENGINE_NETWORK_LOCK] = "network-lock",
	[ENGINE_COLLECTED] = "query-ext-files",
	[ENGINE_POST_DUMP] = "post-dump",
	[ENGINE_READY] = "status-ready",
	[ENGINE_PRE_RESTORE] = "pre-restore",
	[ENGINE_SETUP_NAMESPACES] = "setup-namespaces",
	[ENGINE_POST_SETUP_NAMESPACES] = "post-setup-namespaces",
	[ENGINE_ORPHAN_PTS_MASTER] = "orphan-pts-master",
	[ENGINE_POST_RESTORE] = "post-restore",
	[ENGINE_NETWORK_UNLOCK] = "network-unlock",
	[ENGINE_PRE_RESUME] = "pre-resume",
	[ENGINE_POST_RESUME] = "post-resume",
};
_Static_assert(ARRAY_SIZE(hook_words) == ENGINE_STAGES, "every stage has a word");

const char *criu_hooks_word(enum engine_stage stage)
{
	return hook_words[stage];
}

/* The caller frees the list alone. */
static char **hook_environment(char variables[HOOK_VARIABLES][64], const struct criu_hooks *h,
			       enum engine_stage stage, pid_t pid)
{
	size_t n = 0, own = 0;
	while (environ[n])
		n++;
	char **list = calloc(n + HOOK_VARIABLES + 1, sizeof(*list));
	if (!list)
		return NULL;
	snprintf(variables[own++], sizeof(variables[0]), HOOK_PREFIX "SCRIPT_ACTION=%s", hook_words[stage]);
	snprintf(variables[own++], sizeof(variables[0]), HOOK_PREFIX "IMAGE_DIR=/proc/%d/fd/%d", getpid(),
		 h->images);
	if (pid)
		snprintf(variables[own++], sizeof(variables[0]), HOOK_PREFIX "INIT_PID=%d", pid);
	for (size_t i = 0; i < own; i++)
		list[i] = variables[i];
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], HOOK_PREFIX, strlen(HOOK_PREFIX)) != 0)
			list[own++] = environ[i];
	return list;
}

/* Nothing open but these three, no signal blocked. */
static int hook_spawn(const char *path, char **environment, int output, pid_t *ret_pid)
{
	char *const argv[] = {(char *)path, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int r = posix_spawn_file_actions_init(&actions);
	if (r)
		return r;
	r = posix_spawnattr_init(&attributes);
	if (r) {
		posix_spawn_file_actions_destroy(&actions);
		return r;
	}
	sigemptyset(&none);
	r = posix_spawnattr_setsigmask(&attributes, &none);
	if (!r)
		r = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	if (!r)
		r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (!r)
		r = posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
	if (!r)
		r = posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
	if (!r)
		r = posix_spawn(ret_pid, path, &actions, &attributes, argv, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return r;
}

static int hook_run_one(const char *path, char **environment, int output, struct ferry_error *err)
{
	pid_t pid;
	int status = 0, r = hook_spawn(path, environment, output, &pid);
	if (r)
		return error_errno(err, FERRY_ERROR_HOOK, r, "action script '%s'", path);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(err, FERRY_ERROR_HOOK, errno, "waiting for action script '%s'",
					   path);
	if (!status)
		return 0;
	return WIFSIGNALED(status)
		       ? error_set(err, FERRY_ERROR_HOOK, EINTR, "action script '%s' was killed by signal %d",
				   path, WTERMSIG(status))
		       : error_set(err, FERRY_ERROR_HOOK, EIO, "action script '%s' ended with status %d",
				   path, WEXITSTATUS(status));
}

int criu_hooks_run(const struct criu_hooks *h, enum engine_stage stage, pid_t pid, struct ferry_error *err)
{
	char variables[HOOK_VARIABLES][64];
	int r = 0;
	/* These are told by messages alone. */
	if (!h->scripts->v.n || stage == ENGINE_COLLECTED || stage == ENGINE_ORPHAN_PTS_MASTER)
		return 0;
	_cleanup_free_ char **environment = hook_environment(variables, h, stage, pid);
	if (!environment)
		return error_memory(err);
	for (size_t i = h->scripts->v.n; i-- > 0;) {
		int one = hook_run_one(h->scripts->v.v[i], environment, h->output, r < 0 ? NULL : err);
		r = r < 0 ? r : one;
	}
	error_context(err, hook_words[stage], NULL, pid);
	return r;
}
