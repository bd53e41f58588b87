/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns running action scripts. Names and variables are CRIU's; which stages a tree has was looked up by running CRIU 4.2.1: pre-dump,
 * post-dump, pre-restore, post-restore, pre-resume, post-resume; with any namespace of its own setup-namespaces and
 * post-setup-namespaces, with a network namespace of its own network-lock and network-unlock.
 */
#include "compat/criu_hooks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/spawn.h"

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

static int hook_run_one(const char *path, char **environment, int output, struct ferry_error *err)
{
	pid_t pid;
	char *const argv[] = {(char *)path, NULL};
	const int stdio[] = {SPAWN_NULL, output, output};
	int status = 0, r = spawn_program(argv, false, environment, stdio, &pid);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_HOOK, -r, "action script '%s'", path);
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
