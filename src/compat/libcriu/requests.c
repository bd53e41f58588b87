/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what libcriu asks for: starting or finding the service, one request, being told of stages, the answer.
 *
 * A program that is started for a call must neither show in the caller's life (no SIGCHLD: he may have a handler that reaps everybody) nor
 * be part of a tree that it dumps: for a dump, where that may be the caller's own, it is nobody's child. A restore whose root is to be a
 * child of the caller has to be made by an ordinary child of his, because the root gets the same signal at its end.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "compat/libcriu/libcriu.h"

#define SERVICE_ADDRESS "criu_service.socket"
#define SERVICE_BINARY "criu"

const char *criu_lib_version = "4.2.1";

/* The last that came. As the notification's function has no options, it can ask for this one of the process alone. */
static int libcriu_pts_master = -1;

struct service {
	int fd;
	pid_t pid; /* to wait for; 0: nobody */
	sigset_t mask;
	bool is_masked; /* SIGCHLD is blocked meanwhile */
};

enum service_start {
	START_HIDDEN,  /* no signal at its end */
	START_CHILD,   /* as any child */
	START_NOBODYS, /* no child of ours */
};

/* ---------------------------------------------------------------- the service */

static pid_t service_clone(int signal)
{
	return (pid_t)syscall(SYS_clone, (unsigned long)signal, NULL, NULL, NULL, NULL);
}

static __attribute__((noreturn)) void service_exec(const char *program, int fd, const sigset_t *mask)
{
	char number[12];
	snprintf(number, sizeof(number), "%d", fd);
	if (fcntl(fd, F_SETFD, 0) == 0 && sigprocmask(SIG_SETMASK, mask, NULL) == 0)
		execlp(program, program, "swrk", number, (char *)NULL);
	_exit(1);
}

static __attribute__((noreturn)) void service_exec_alone(const char *program, int fd, const sigset_t *mask)
{
	pid_t pid = service_clone(0);
	if (pid)
		_exit(pid < 0);
	if (setsid() > 0 && chdir("/") == 0)
		service_exec(program, fd, mask);
	_exit(1);
}

static int service_wait(pid_t pid)
{
	int status = 0;
	while (waitpid(pid, &status, __WALL) < 0)
		if (errno != EINTR)
			return 0; /* the caller reaps everybody: it is gone */
	return status;
}

static int service_start(struct service *s, const criu_opts *opts, enum service_start start)
{
	const char *program = opts->service ? opts->service : SERVICE_BINARY;
	int pair[2];
	sigset_t child;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -ECONNREFUSED;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	s->is_masked = pthread_sigmask(SIG_BLOCK, &child, &s->mask) == 0;
	pid_t pid = service_clone(start == START_CHILD ? SIGCHLD : 0);
	if (!pid && start == START_NOBODYS)
		service_exec_alone(program, pair[1], &s->mask);
	if (!pid)
		service_exec(program, pair[1], &s->mask);
	close(pair[1]);
	s->fd = pair[0];
	s->pid = pid;
	if (pid > 0 && start == START_NOBODYS) {
		s->pid = 0;
		return service_wait(pid) ? -ECONNREFUSED : 0;
	}
	return pid < 0 ? -ECONNREFUSED : 0;
}

static int service_connect(struct service *s, const criu_opts *opts)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *path = opts->service ? opts->service : SERVICE_ADDRESS;
	if (strlen(path) >= sizeof(address.sun_path))
		return -ECONNREFUSED;
	memcpy(address.sun_path, path, strlen(path) + 1);
	s->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -ECONNREFUSED;
	return 0;
}

static int service_open(struct service *s, const criu_opts *opts, enum service_start start)
{
	*s = (struct service){.fd = -1};
	switch (opts->comm) {
	case CRIU_COMM_SK: return service_connect(s, opts);
	case CRIU_COMM_FD: s->fd = opts->service_fd; return 0;
	case CRIU_COMM_BIN: break;
	}
	return service_start(s, opts, start);
}

/* errno tells the cause of what failed before. */
static void service_close(struct service *s)
{
	int saved = errno;
	if (s->fd >= 0)
		close(s->fd);
	if (s->pid > 0)
		service_wait(s->pid);
	if (s->is_masked)
		pthread_sigmask(SIG_SETMASK, &s->mask, NULL);
	errno = saved;
}

/* ---------------------------------------------------------------- messages */

static int send_request(const struct service *s, const CriuReq *request)
{
	size_t n = criu_req__get_packed_size(request);
	_cleanup_free_ uint8_t *bytes = malloc(n + 1);
	if (!bytes)
		return -ECOMM;
	criu_req__pack(request, bytes);
	return send(s->fd, bytes, n, MSG_NOSIGNAL) < 0 ? -ECOMM : 0;
}

/* A descriptor may come with it: -1 where none does. */
static CriuResp *receive_response(const struct service *s, int *ret_fd)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	ssize_t n;
	*ret_fd = -1;
	do
		n = recv(s->fd, NULL, 0, MSG_PEEK | MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return NULL;
	_cleanup_free_ uint8_t *bytes = malloc((size_t)n);
	struct iovec part = {.iov_base = bytes, .iov_len = (size_t)n};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	n = bytes ? recvmsg(s->fd, &message, MSG_CMSG_CLOEXEC) : -1;
	if (n <= 0)
		return NULL;
	const struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
	return criu_resp__unpack(NULL, (size_t)n, bytes);
}

/* What the caller's function says to a stage; without one everything goes on. */
static int tell_stage(const struct service *s, const criu_opts *opts, CriuNotify *notify, int fd)
{
	CriuReq answer = CRIU_REQ__INIT;
	char nothing[] = "";
	if (fd >= 0)
		libcriu_pts_master = fd;
	int said =
		opts->notify && notify ? opts->notify(notify->script ? notify->script : nothing, notify) : 0;
	answer.type = CRIU_REQ_TYPE__NOTIFY;
	answer.has_notify_success = true;
	answer.notify_success = said == 0;
	int r = send_request(s, &answer);
	return said ? (said < 0 ? said : -said) : r;
}

/* Until the answer comes, which the caller frees; it is one that says yes. */
static int await(const struct service *s, const criu_opts *opts, CriuReqType type, CriuResp **ret)
{
	for (;;) {
		int fd;
		CriuResp *response = receive_response(s, &fd);
		if (!response)
			return -ECOMM;
		if (response->type == CRIU_REQ_TYPE__NOTIFY) {
			int r = tell_stage(s, opts, response->notify, fd);
			criu_resp__free_unpacked(response, NULL);
			if (r < 0)
				return r;
			continue;
		}
		if (fd >= 0)
			close(fd);
		*ret = response;
		if (response->type != type)
			return response->type == CRIU_REQ_TYPE__EMPTY ? -EINVAL : -EBADMSG;
		if (response->success)
			return 0;
		if (response->has_cr_errno)
			errno = response->cr_errno;
		return -EBADE;
	}
}

static int ask_over(const struct service *s, const criu_opts *opts, const CriuReq *request, CriuResp **ret)
{
	*ret = NULL;
	int r = send_request(s, request);
	return r < 0 ? r : await(s, opts, request->type, ret);
}

static void drop(CriuResp **response)
{
	if (*response)
		criu_resp__free_unpacked(*response, NULL);
}

#define _cleanup_response_ _cleanup_(drop)

/* A service of its own; *ret is freed by the caller, also after a failure. */
static int ask(criu_opts *opts, CriuReq *request, CriuReqType type, enum service_start start, CriuResp **ret)
{
	struct service s;
	*ret = NULL;
	if (!opts)
		return -EINVAL;
	request->type = type;
	/* Whether this machine will do depends on no option. */
	request->opts = type == CRIU_REQ_TYPE__CHECK ? NULL : opts->rpc;
	int r = service_open(&s, opts, start);
	if (r >= 0)
		r = ask_over(&s, opts, request, ret);
	service_close(&s);
	return r;
}

/* ---------------------------------------------------------------- requests */

int criu_local_check(criu_opts *opts)
{
	CriuReq request = CRIU_REQ__INIT;
	_cleanup_response_ CriuResp *response = NULL;
	return ask(opts, &request, CRIU_REQ_TYPE__CHECK, START_HIDDEN, &response);
}

static int dumped(const CriuResp *response)
{
	return response->dump && response->dump->has_restored && response->dump->restored;
}

int criu_local_dump(criu_opts *opts)
{
	CriuReq request = CRIU_REQ__INIT;
	_cleanup_response_ CriuResp *response = NULL;
	int r = ask(opts, &request, CRIU_REQ_TYPE__DUMP, START_NOBODYS, &response);
	return r < 0 ? r : dumped(response);
}

int criu_local_pre_dump(criu_opts *opts)
{
	CriuReq request = CRIU_REQ__INIT;
	_cleanup_response_ CriuResp *response = NULL;
	return ask(opts, &request, CRIU_REQ_TYPE__SINGLE_PRE_DUMP, START_NOBODYS, &response);
}

static int restored(criu_opts *opts, enum service_start start)
{
	CriuReq request = CRIU_REQ__INIT;
	_cleanup_response_ CriuResp *response = NULL;
	int r = ask(opts, &request, CRIU_REQ_TYPE__RESTORE, start, &response);
	if (r < 0)
		return r;
	return response->restore ? response->restore->pid : -EBADMSG;
}

int criu_local_restore(criu_opts *opts)
{
	return restored(opts, START_HIDDEN);
}

/* A running service's children are not ours. */
int criu_local_restore_child(criu_opts *opts)
{
	if (!opts || opts->comm != CRIU_COMM_BIN)
		return -EINVAL;
	protobuf_c_boolean had = opts->rpc->has_rst_sibling, was = opts->rpc->rst_sibling;
	opts->rpc->has_rst_sibling = opts->rpc->rst_sibling = true;
	int r = restored(opts, START_CHILD);
	opts->rpc->has_rst_sibling = had;
	opts->rpc->rst_sibling = was;
	return r;
}

/* All over one connection: between two of them the service keeps what it knows of the memory. */
int criu_local_dump_iters(criu_opts *opts, int (*more)(criu_predump_info info))
{
	CriuReq request = CRIU_REQ__INIT;
	CriuResp *response = NULL;
	struct service s;
	/* Who stands still cannot be asked whether there shall be more. */
	if (!opts || !opts->rpc->has_pid || !opts->rpc->pid)
		return -EINVAL;
	int r = service_open(&s, opts, START_NOBODYS), go_on = 1;
	request.opts = opts->rpc;
	while (r >= 0 && go_on > 0) {
		request.type = CRIU_REQ_TYPE__PRE_DUMP;
		r = ask_over(&s, opts, &request, &response);
		drop(&response);
		go_on = r < 0 ? r : more(NULL);
	}
	if (r >= 0 && go_on < 0)
		r = go_on;
	if (r >= 0) {
		request.type = CRIU_REQ_TYPE__DUMP;
		r = ask_over(&s, opts, &request, &response);
		drop(&response);
	}
	service_close(&s);
	return r;
}

int criu_local_get_version(criu_opts *opts)
{
	CriuReq request = CRIU_REQ__INIT;
	_cleanup_response_ CriuResp *response = NULL;
	int r = ask(opts, &request, CRIU_REQ_TYPE__VERSION, START_HIDDEN, &response);
	const CriuVersion *v = r < 0 ? NULL : response->version;
	if (r < 0 || !v)
		return r < 0 ? r : -EBADMSG;
	int version = v->major_number * 10000 + v->minor_number * 100;
	/* What was built from between two releases counts as the next one. */
	return v->gitid ? version + 100 : version + (v->has_sublevel ? v->sublevel : 0);
}

int criu_local_check_version(criu_opts *opts, int minimum)
{
	int version = criu_local_get_version(opts);
	return version < 0 ? version : version >= minimum;
}

/* Callers of older versions know fewer of them. */
int criu_local_feature_check(criu_opts *opts, struct criu_feature_check *features, size_t size)
{
	CriuFeatures asked = CRIU_FEATURES__INIT;
	CriuReq request = CRIU_REQ__INIT;
	struct criu_feature_check known = {0};
	_cleanup_response_ CriuResp *response = NULL;
	if (!features || size > sizeof(known))
		return -1;
	memcpy(&known, features, size);
	asked.has_mem_track = asked.mem_track = known.mem_track;
	asked.has_lazy_pages = asked.lazy_pages = known.lazy_pages;
	asked.has_pidfd_store = asked.pidfd_store = known.pidfd_store;
	request.features = &asked;
	int r = ask(opts, &request, CRIU_REQ_TYPE__FEATURE_CHECK, START_HIDDEN, &response);
	if (r < 0)
		return r;
	if (!response->features)
		return -EBADMSG;
	known = (struct criu_feature_check){.mem_track = response->features->mem_track,
					    .lazy_pages = response->features->lazy_pages,
					    .pidfd_store = response->features->pidfd_store};
	memcpy(features, &known, size);
	return 0;
}

int criu_notify_pid(criu_notify_arg_t na)
{
	return na && na->has_pid ? na->pid : 0;
}

int criu_get_orphan_pts_master_fd(void)
{
	return libcriu_pts_master;
}

/* ---------------------------------------------------------------- with the options of the process */

int criu_check(void)
{
	return criu_local_check(libcriu__opts());
}

int criu_dump(void)
{
	return criu_local_dump(libcriu__opts());
}

int criu_pre_dump(void)
{
	return criu_local_pre_dump(libcriu__opts());
}

int criu_restore(void)
{
	return criu_local_restore(libcriu__opts());
}

int criu_restore_child(void)
{
	return criu_local_restore_child(libcriu__opts());
}

int criu_dump_iters(int (*more)(criu_predump_info info))
{
	return criu_local_dump_iters(libcriu__opts(), more);
}

int criu_get_version(void)
{
	return criu_local_get_version(libcriu__opts());
}

int criu_check_version(int minimum)
{
	return criu_local_check_version(libcriu__opts(), minimum);
}

int criu_feature_check(struct criu_feature_check *features, size_t size)
{
	return criu_local_feature_check(libcriu__opts(), features, size);
}
