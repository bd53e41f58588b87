/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Usage: libcriu-client VERB IMAGES WORK [PID]
 *
 * Uses libcriu as programs do, and prints what its calls return and which stages it is told. CRIU_REFUSE names a stage to say no at;
 * CRIU_SERVICE a socket's address.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <criu/criu.h>

static int client_stage(char *action, criu_notify_arg_t na)
{
	const char *refuse = getenv("CRIU_REFUSE");
	printf("stage %s %d\n", action, criu_notify_pid(na));
	return refuse && !strcmp(refuse, action) ? -EPERM : 0;
}

static int client_open(const char *path)
{
	int fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		perror(path);
		exit(2);
	}
	return fd;
}

static void client_prepare(char *const *argv)
{
	const char *address = getenv("CRIU_SERVICE");
	if (criu_init_opts() < 0 || (address && criu_set_service_address(address) < 0) ||
	    criu_set_log_file("log") < 0)
		exit(2);
	criu_set_images_dir_fd(client_open(argv[2]));
	criu_set_work_dir_fd(client_open(argv[3]));
	criu_set_log_level(CRIU_LOG_DEBUG);
	if (argv[4])
		criu_set_pid(atoi(argv[4]));
	if (strncmp(argv[1], "silent-", 7))
		criu_set_notify_cb(client_stage);
}

static int client_more(criu_predump_info info)
{
	static int left = 2;
	printf("more %d\n", info == NULL);
	return --left;
}

/* Who dumps himself: what he has survives, and where he stands in the call he learns that he was restored. */
static int client_self(bool leave_running)
{
	size_t n = 1 << 20;
	unsigned char *memory = malloc(n);
	for (size_t i = 0; memory && i < n; i++)
		memory[i] = (unsigned char)(i * 7 + i / 251);
	criu_set_leave_running(leave_running);
	int r = criu_dump();
	for (size_t i = 0; memory && i < n; i++)
		if (memory[i] != (unsigned char)(i * 7 + i / 251))
			r = -EFAULT;
	free(memory);
	return r;
}

static int client_run(char *const *argv)
{
	const char *verb = argv[1] + (strncmp(argv[1], "silent-", 7) ? 0 : 7);
	struct criu_feature_check features = {.mem_track = true, .lazy_pages = true};
	if (!strcmp(verb, "check"))
		return criu_check();
	if (!strcmp(verb, "version"))
		return criu_get_version();
	if (!strcmp(verb, "at-least-3.15"))
		return criu_check_version(31500);
	if (!strcmp(verb, "at-least-9"))
		return criu_check_version(90000);
	if (!strcmp(verb, "features")) {
		int r = criu_feature_check(&features, sizeof(features));
		printf("lazy_pages %d\n", features.lazy_pages);
		return r;
	}
	if (!strcmp(verb, "dump"))
		return criu_dump();
	if (!strcmp(verb, "dump-running")) {
		criu_set_leave_running(true);
		return criu_dump();
	}
	if (!strcmp(verb, "pre-dump"))
		return criu_pre_dump();
	if (!strcmp(verb, "iters")) {
		criu_set_track_mem(true);
		criu_set_leave_running(true);
		return criu_dump_iters(client_more);
	}
	if (!strcmp(verb, "restore"))
		return criu_restore();
	if (!strcmp(verb, "self") || !strcmp(verb, "self-running"))
		return client_self(strcmp(verb, "self") != 0);
	return -ENOSYS;
}

/* A child of ours, which we wait for. */
static int client_child(void)
{
	int status = 0, pid = criu_restore_child();
	printf("returned %d\n", pid);
	fflush(stdout);
	if (pid <= 0)
		return 1;
	if (waitpid(pid, &status, 0) != pid)
		printf("no child of ours: %s\n", strerror(errno));
	printf("status %d\n", status);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	client_prepare(argv);
	if (!strcmp(argv[1], "restore-child"))
		return client_child();
	errno = 0;
	int r = client_run(argv), code = errno;
	printf("returned %d%s%s\n", r, r < 0 ? " errno " : "", r == -EBADE ? strerror(code) : "");
	/* Signals of children that we never had: none. */
	if (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD)
		printf("there are children\n");
	criu_free_opts();
	return 0;
}
