/* SPDX-License-Identifier: Apache-2.0 */
/* Owns --exec-cmd. */
#include "compat/criu_exec.h"

#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

int criu_become_parent(struct criu_options *o, struct ferry_error *err)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "starting a process");
	if (!pid)
		o->job.restore_sibling = true;
	return pid;
}

int criu_exec(char *const *words, pid_t worker, struct ferry_error *err)
{
	int status = 0;
	while (waitpid(worker, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for the restore");
	if (status)
		return 1;
	execvp(words[0], words);
	return error_errno(err, FERRY_ERROR_USAGE, errno, "--exec-cmd '%s'", words[0]);
}
