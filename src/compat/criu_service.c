/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the service's socket, and who is served: nobody may do through it what he could not do by himself. So whoever connects has to be the
 * service's own user, with at least its rights, and in its user and PID namespace, in which the numbers that he names mean the same.
 *
 * Kernel interface: unix(7) SO_PEERCRED; SO_PEERPIDFD (6.5), which tells that the process which connected still is the one that was
 * looked at. Before 6.5 its number may have been given to another one of the same user in between.
 */
#include "compat/criu_service.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "compat/criu_rpc.h"
#include "proc/status.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

enum { SERVICE_BACKLOG = 16 };

/* ---------------------------------------------------------------- who comes */

static bool service_is_alive(int socket)
{
	int fd = -1;
	socklen_t n = sizeof(fd);
	if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &n) < 0)
		return true; /* nobody knows */
	struct pollfd p = {.fd = fd, .events = POLLIN};
	bool lives = poll(&p, 1, 0) == 0;
	close(fd);
	return lives;
}

static int service_rights(int proc, uint64_t *ret, struct ferry_error *err)
{
	_cleanup_proc_status_ struct proc_status status = {0};
	_cleanup_free_ char *text = NULL;
	size_t n;
	int r = fd_read_path(proc, "status", 1 << 16, &text, &n);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_PEER_GONE, -r, "looking at who asks");
	r = proc_status_parse(text, n, &status, err);
	*ret = status.cap_effective;
	return r;
}

static bool service_same(int ours, int theirs, const char *name)
{
	struct stat a, b;
	return fstatat(ours, name, &a, 0) == 0 && fstatat(theirs, name, &b, 0) == 0 && a.st_ino == b.st_ino &&
	       a.st_dev == b.st_dev;
}

static int service_admit(int socket, struct ferry_error *err)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);
	uint64_t own = 0, theirs = 0;
	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "asking who connected");
	if (peer.uid != geteuid())
		return error_set(err, FERRY_ERROR_PERMISSION, EPERM,
				 "the service is for user %d, and user %d asks", (int)geteuid(),
				 (int)peer.uid);
	if (!peer.pid)
		return error_set(err, FERRY_ERROR_PERMISSION, EPERM,
				 "who asks is in a PID namespace that cannot be seen from here");
	_cleanup_close_ int self = fd_open(AT_FDCWD, "/proc/self", O_PATH | O_DIRECTORY, 0);
	_cleanup_close_ int proc = fd_openf(O_PATH | O_DIRECTORY, "/proc/%d", peer.pid);
	int r = self < 0 || proc < 0 ? error_set(err, FERRY_ERROR_PEER_GONE, ESRCH, "who asked is gone") : 0;
	if (r >= 0)
		r = service_rights(self, &own, err);
	if (r >= 0)
		r = service_rights(proc, &theirs, err);
	if (r < 0)
		return r;
	if (own & ~theirs)
		return error_set(err, FERRY_ERROR_PERMISSION, EPERM,
				 "pid %d asks, which lacks rights that the service has (capabilities 0x%llx)",
				 peer.pid, (unsigned long long)(own & ~theirs));
	if (!service_same(self, proc, "ns/user") || !service_same(self, proc, "ns/pid"))
		return error_set(err, FERRY_ERROR_PERMISSION, EPERM,
				 "pid %d asks out of another user or PID namespace", peer.pid);
	return service_is_alive(socket) ? 0
					: error_set(err, FERRY_ERROR_PEER_GONE, ESRCH, "who asked is gone");
}

/* ---------------------------------------------------------------- serving */

/* In a process of its own, with signals as they were. */
static __attribute__((noreturn)) void service_child(int connection, const sigset_t *mask,
						    const struct log_sink *log)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	const struct sigaction as_usual = {.sa_handler = SIG_DFL};
	sigaction(SIGCHLD, &as_usual, NULL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	int r = service_admit(connection, &err);
	r = r < 0 ? criu_rpc_refuse(connection, &err) : criu_rpc_serve(connection, true, &err);
	if (r < 0)
		log_write(log, LOG_ERROR_LEVEL, "service", NULL, 0, "%s", err.message);
	_exit(r != 0);
}

static void service_connection(int socket, const sigset_t *mask, const struct log_sink *log)
{
	int connection = accept4(socket, NULL, NULL, SOCK_CLOEXEC);
	if (connection < 0)
		return; /* who came has gone again */
	pid_t pid = fork();
	if (!pid) {
		close(socket);
		service_child(connection, mask, log);
	}
	if (pid < 0)
		log_write(log, LOG_ERROR_LEVEL, "service", NULL, 0, "no process for a connection: %s",
			  strerror(errno));
	close(connection);
}

static int service_listen(const char *path, struct ferry_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(err, FERRY_ERROR_USAGE, ENAMETOOLONG, "--address '%s' is too long", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	_cleanup_close_ int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (probe < 0 || fd < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a socket");
	/* One that nobody listens on any more. */
	if (connect(probe, (struct sockaddr *)&address, sizeof(address)) < 0 && errno == ECONNREFUSED)
		unlink(path);
	mode_t mask = umask(0177);
	int r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, SERVICE_BACKLOG) < 0
			? -errno
			: 0;
	umask(mask);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_ADDRESS_TAKEN, -r, "the service's socket '%s'", path);
	return take_fd(fd);
}

int criu_service_serve(const char *path, const struct log_sink *log, const struct engine_ready *ready,
		       struct ferry_error *err)
{
	const struct sigaction reaped = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
	sigset_t ends, mask;
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	_cleanup_close_ int socket = service_listen(path, err);
	if (socket < 0)
		return socket;
	int r = ready->tell(ready->context, path, err);
	sigprocmask(SIG_BLOCK, &ends, &mask);
	sigaction(SIGCHLD, &reaped, NULL);
	_cleanup_close_ int ended = r < 0 ? r : signalfd(-1, &ends, SFD_CLOEXEC);
	if (r >= 0 && ended < 0)
		r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for signals");
	struct pollfd p[] = {{.fd = socket, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
	while (r >= 0 && !p[1].revents) {
		if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
			r = error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for a connection");
		else if (p[0].revents && !p[1].revents)
			service_connection(socket, &mask, log);
	}
	unlink(path);
	return r;
}
