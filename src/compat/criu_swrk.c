/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns serving CRIU's remote calls over one socket. Stages of a job are told as messages, if the request asks for it, and the job waits for
 * the answer. A failure is told by its number, its text and what to do about it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "compat/criu_exec.h"
#include "compat/criu_hooks.h"
#include "compat/criu_job.h"
#include "compat/criu_rpc.h"
#include "compat/criu_server.h"
#include "engine/servers.h"
#include "host/cpu.h"
#include "host/sockdiag.h"
#include "kernel/caps.h"

enum { SWRK_MESSAGE_MAX = 1 << 20, SWRK_PATIENCE_S = 2 };

struct swrk {
	int socket;
	pid_t peer;
	bool is_service;
	bool has_ended; /* who asked, by the dump that it asked for */
	bool failed;    /* a request did */
	bool is_spent;  /* a restore was done in this very process, see job.c */
};

/* fd goes with it; -1 = none. */
static int swrk_send_with(const struct swrk *s, const CriuResp *response, int fd, struct ferry_error *err)
{
	size_t n = criu_resp__get_packed_size(response);
	_cleanup_free_ uint8_t *bytes = malloc(n + 1);
	if (!bytes)
		return error_memory(err);
	criu_resp__pack(response, bytes);
	int r = fd_send(s->socket, bytes, n, &fd, fd >= 0);
	return r < 0 ? error_errno(err, FERRY_ERROR_PEER_GONE, -r, "answering a request") : 0;
}

static int swrk_send(const struct swrk *s, const CriuResp *response, struct ferry_error *err)
{
	return swrk_send_with(s, response, -1, err);
}

/* 1: got one, which the caller frees; 0: nobody is there any more. */
static int swrk_receive(const struct swrk *s, CriuReq **ret, struct ferry_error *err)
{
	ssize_t n;
	do
		n = recv(s->socket, NULL, 0, MSG_PEEK | MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_errno(err, FERRY_ERROR_PEER_GONE, errno, "waiting for a request");
	if (!n)
		return 0;
	if (n > SWRK_MESSAGE_MAX)
		return error_set(err, FERRY_ERROR_PROTOCOL, EMSGSIZE, "a request of %zd bytes", n);
	_cleanup_free_ uint8_t *bytes = malloc((size_t)n);
	if (!bytes)
		return error_memory(err);
	n = recv(s->socket, bytes, (size_t)n, 0);
	*ret = n < 0 ? NULL : criu_req__unpack(NULL, (size_t)n, bytes);
	return *ret ? 1
		    : error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG, "a request that is no message of CRIU's");
}

static int swrk_notify(void *context, enum engine_stage stage, pid_t pid, int fd, struct ferry_error *err)
{
	const struct swrk *s = context;
	CriuNotify notify = CRIU_NOTIFY__INIT;
	CriuResp response = CRIU_RESP__INIT;
	CriuReq *answer = NULL;
	notify.script = (char *)criu_hooks_word(stage);
	/* Elsewhere who asked knows it, or has been told. */
	notify.has_pid = stage == ENGINE_POST_RESTORE || stage == ENGINE_SETUP_NAMESPACES;
	notify.pid = pid;
	response.type = CRIU_REQ_TYPE__NOTIFY;
	response.success = true;
	response.notify = &notify;
	int r = swrk_send_with(s, &response, fd, err);
	if (r >= 0)
		r = swrk_receive(s, &answer, err);
	if (r < 0)
		return r;
	bool agrees = answer && answer->type == CRIU_REQ_TYPE__NOTIFY && answer->has_notify_success &&
		      answer->notify_success;
	if (answer)
		criu_req__free_unpacked(answer, NULL);
	return agrees ? 0
		      : error_set(err, FERRY_ERROR_HOOK, ECANCELED, "who asked for it does not go on at %s",
				  criu_hooks_word(stage));
}

/* ---------------------------------------------------------------- requests */

/* Descriptors of the service are nobody else's. */
static int swrk_check_descriptors(const struct swrk *s, const CriuOpts *o, struct ferry_error *err)
{
	bool names = o->n_inherit_fd || o->has_status_fd || o->has_pidfd_store_sk || (o->ps && o->ps->has_fd);
	if (!s->is_service || !names)
		return 0;
	error_set(err, FERRY_ERROR_USAGE, EINVAL, "a service has no descriptors of who asks");
	error_hint(err, "criu swrk has those that it is started with");
	return -EINVAL;
}

static int swrk_read_options(const struct swrk *s, const CriuReq *request, struct criu_options *ret,
			     struct ferry_error *err)
{
	criu_words words = {0};
	char **first = vec_push(&words);
	if (!first)
		return error_memory(err);
	*first = strdup("criu");
	int r = *first ? swrk_check_descriptors(s, request->opts, err) : error_memory(err);
	if (r >= 0)
		r = criu_rpc_words(request->opts, s->peer, &words, err);
	if (r >= 0)
		r = criu_options_read_with((int)words.n, words.v, request->opts->config_file, ret, err);
	criu_words_release(&words);
	return r;
}

/* Options that are refused are so in the log, too, if its place is known. */
static int swrk_enter(int refused, struct criu_options *o, struct criu_log *log, struct ferry_error *err)
{
	struct ferry_error second = FERRY_ERROR_INIT, *why = refused < 0 ? &second : err;
	int r = refused < 0 && !o->job.images_dir ? refused : criu_enter(o, why);
	if (r >= 0)
		r = criu_log_open(o, log, why);
	return refused < 0 ? refused : r;
}

/* Inode of the socket that is connected to ours; 0: it is in another network namespace. */
static int64_t swrk_other_end(const struct swrk *s)
{
	struct unix_sock sock;
	struct ferry_error none = FERRY_ERROR_INIT;
	struct stat st;
	if (fstat(s->socket, &st) < 0 || sockdiag_unix_one(-1, (uint32_t)st.st_ino, &sock, &none) < 0)
		return 0;
	int64_t inode = sock.has_peer ? sock.peer_inode : 0;
	unix_sock_release(&sock);
	return inode;
}

static int swrk_job(struct swrk *s, const CriuReq *request, enum criu_job job, CriuResp *response,
		    struct ferry_error *err)
{
	static CriuDumpResp dumped = CRIU_DUMP_RESP__INIT;
	static CriuRestoreResp restored = CRIU_RESTORE_RESP__INIT;
	const struct criu_told told = {.stage = swrk_notify, .context = s};
	struct engine_report report = {0};
	struct criu_options o = {0};
	struct criu_log log = {0};
	if (!request->opts)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "the request has no options");
	int r = swrk_read_options(s, request, &o, err);
	/* Who asks is not who waits; and who names nobody means himself. */
	o.job.restore_detached = true;
	if (job != CRIU_RESTORE && !o.job.tree)
		o.job.tree = s->peer;
	if (job != CRIU_RESTORE)
		o.job.service_socket = swrk_other_end(s);
	r = swrk_enter(r, &o, &log, err);
	if (r >= 0)
		r = criu_job_run(job, &o, &log, request->opts->notify_scripts ? &told : NULL, &report, err);
	s->is_spent = o.job.restore_sibling;
	s->has_ended = r >= 0 && job == CRIU_DUMP && o.job.tree == s->peer && !o.job.leave_running;
	if (r < 0)
		criu_log_error(&log, err);
	criu_log_close(&log);
	criu_options_release(&o);
	restored.pid = report.pid;
	response->dump = job == CRIU_DUMP ? &dumped : NULL;
	response->restore = job == CRIU_RESTORE && r >= 0 ? &restored : NULL;
	return r;
}

static int swrk_dump(struct swrk *s, const CriuReq *request, CriuResp *response, struct ferry_error *err)
{
	return swrk_job(s, request, CRIU_DUMP, response, err);
}

static int swrk_pre_dump(struct swrk *s, const CriuReq *request, CriuResp *response, struct ferry_error *err)
{
	return swrk_job(s, request, CRIU_PRE_DUMP, response, err);
}

static int swrk_restore(struct swrk *s, const CriuReq *request, CriuResp *response, struct ferry_error *err)
{
	return swrk_job(s, request, CRIU_RESTORE, response, err);
}

/* ---------------------------------------------------------------- page servers */

/* What the process that serves pages writes to whoever started it. */
struct swrk_pages_told {
	pid_t pid;
	int port;
	int result;
	struct ferry_error error;
};

static int swrk_pages_ready(void *context, const char *where, struct ferry_error *err)
{
	const char *port = strrchr(where, ':');
	const struct swrk_pages_told told = {.pid = getpid(),
					     .port = port ? (int)strtol(port + 1, NULL, 10) : 0};
	int *fd = context, r = fd_write_all(*fd, &told, sizeof(told));
	close(take_fd(*fd));
	return r < 0 ? error_errno(err, FERRY_ERROR_PEER_GONE, -r, "who asked for it is gone") : 0;
}

static __attribute__((noreturn)) void swrk_pages(struct swrk *s, struct criu_options *o,
						 const struct criu_log *log, int fd)
{
	const struct engine_ready ready = {.tell = swrk_pages_ready, .context = &fd};
	struct swrk_pages_told told = {.error = FERRY_ERROR_INIT};
	struct pageserver_stats stats;
	close(s->socket);
	told.result = criu_leave_streams(&told.error);
	if (told.result >= 0)
		told.result = criu_place(o, "0.0.0.0", &o->job.listen, &told.error);
	if (told.result >= 0)
		told.result = engine_page_server(&o->job, &log->sink, &ready, &stats, &told.error);
	if (told.result < 0)
		criu_log_error(log, &told.error);
	if (told.result < 0 && fd >= 0 && fd_write_all(fd, &told, sizeof(told)) < 0)
		_exit(1);
	_exit(told.result < 0);
}

/* A child of ours, whose end can be asked for; or nobody's. */
static int swrk_pages_start(struct swrk *s, struct criu_options *o, const struct criu_log *log, bool is_child,
			    struct swrk_pages_told *ret, struct ferry_error *err)
{
	int pair[2];
	if (pipe2(pair, O_CLOEXEC) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "creating a pipe");
	fflush(NULL);
	pid_t pid = fork();
	if (!pid) {
		close(pair[0]);
		pid_t other = is_child ? 0 : fork();
		if (other)
			_exit(other < 0);
		if (!is_child)
			setsid();
		swrk_pages(s, o, log, pair[1]);
	}
	close(pair[1]);
	int r = pid < 0 ? -EAGAIN : fd_read_all(pair[0], ret, sizeof(*ret));
	close(pair[0]);
	if (pid > 0 && (!is_child || r < 0 || ret->result < 0))
		waitpid(pid, NULL, 0);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, -r, "starting a page server");
	if (ret->result < 0)
		*err = ret->error;
	return ret->result;
}

static int swrk_page_server(struct swrk *s, const CriuReq *request, bool is_child, CriuResp *response,
			    struct ferry_error *err)
{
	static CriuPageServerInfo info = CRIU_PAGE_SERVER_INFO__INIT;
	struct swrk_pages_told told = {0};
	struct criu_options o = {0};
	struct criu_log log = {0};
	if (!request->opts)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "the request has no options");
	int r = swrk_read_options(s, request, &o, err);
	if (r >= 0)
		r = criu_enter(&o, err);
	if (r >= 0)
		r = criu_log_open(&o, &log, err);
	if (r >= 0)
		r = swrk_pages_start(s, &o, &log, is_child, &told, err);
	criu_log_close(&log);
	criu_options_release(&o);
	info.has_port = info.has_pid = true;
	info.port = told.port;
	info.pid = is_child ? told.pid : 0;
	response->type = CRIU_REQ_TYPE__PAGE_SERVER;
	response->ps = r < 0 ? NULL : &info;
	return r;
}

static int swrk_page_server_alone(struct swrk *s, const CriuReq *request, CriuResp *response,
				  struct ferry_error *err)
{
	return swrk_page_server(s, request, false, response, err);
}

static int swrk_page_server_child(struct swrk *s, const CriuReq *request, CriuResp *response,
				  struct ferry_error *err)
{
	return swrk_page_server(s, request, true, response, err);
}

static int swrk_cpuinfo(const struct swrk *s, const CriuReq *request, bool compare, struct ferry_error *err)
{
	struct criu_options o = {0};
	struct criu_log log = {0};
	unsigned caps;
	if (!request->opts)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "the request has no options");
	int r = swrk_read_options(s, request, &o, err);
	r = swrk_enter(r, &o, &log, err);
	if (r >= 0)
		r = cpu_caps_parse(o.job.cpu_cap ?: "", &caps, err);
	if (r >= 0)
		r = compare ? cpu_check_alone(o.job.images_dir, caps, err)
			    : cpu_dump_alone(o.job.images_dir, err);
	if (r < 0)
		criu_log_error(&log, err);
	criu_log_close(&log);
	criu_options_release(&o);
	return r;
}

static int swrk_cpuinfo_dump(struct swrk *s, const CriuReq *request, CriuResp *response unused,
			     struct ferry_error *err)
{
	return swrk_cpuinfo(s, request, false, err);
}

static int swrk_cpuinfo_check(struct swrk *s, const CriuReq *request, CriuResp *response unused,
			      struct ferry_error *err)
{
	return swrk_cpuinfo(s, request, true, err);
}

static int swrk_wait(struct swrk *s unused, const CriuReq *request, CriuResp *response,
		     struct ferry_error *err)
{
	int status = 0;
	pid_t pid = request->has_pid && request->pid <= INT_MAX ? (pid_t)request->pid : 0;
	if (pid <= 0)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "the request names no process");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(err, FERRY_ERROR_USAGE, errno, "waiting for pid %d", pid);
	response->has_status = true;
	response->status = status;
	return 0;
}

static int swrk_check(struct swrk *s unused, const CriuReq *request unused, CriuResp *response unused,
		      struct ferry_error *err)
{
	return geteuid() ? error_set(err, FERRY_ERROR_PERMISSION, EPERM,
				     "not root, who alone can dump any process")
			 : 0;
}

static int swrk_version(struct swrk *s unused, const CriuReq *request unused, CriuResp *response,
			struct ferry_error *err unused)
{
	static char name[] = "ferry " FERRY_VERSION;
	static CriuVersion version = CRIU_VERSION__INIT;
	version.major_number = CRIU_VERSION_MAJOR;
	version.minor_number = CRIU_VERSION_MINOR;
	version.name = name;
	response->version = &version;
	return 0;
}

/* All of them, whichever are asked for. */
static int swrk_features(struct swrk *s unused, const CriuReq *request, CriuResp *response,
			 struct ferry_error *err)
{
	static CriuFeatures features = CRIU_FEATURES__INIT;
	const enum kern_cap_id needed[] = {KERN_CAP_UFFD_WP_ASYNC, KERN_CAP_SOFT_DIRTY, KERN_CAP_UFFD};
	struct kern_caps caps;
	if (!request->features)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "the request names no features");
	kern_caps_init(&caps);
	kern_caps_probe_some(&caps, needed, ARRAY_SIZE(needed));
	features.has_mem_track = true;
	features.mem_track = kern_has(&caps, KERN_CAP_UFFD_WP_ASYNC) || kern_has(&caps, KERN_CAP_SOFT_DIRTY);
	features.has_lazy_pages = true;
	features.lazy_pages = kern_has(&caps, KERN_CAP_UFFD);
	features.has_pidfd_store = true;
	features.pidfd_store = false;
	response->features = &features;
	return 0;
}

typedef int swrk_request(struct swrk *s, const CriuReq *request, CriuResp *response, struct ferry_error *err);

static swrk_request *const swrk_requests[] = {
	[CRIU_REQ_TYPE__DUMP] = swrk_dump,
	[CRIU_REQ_TYPE__RESTORE] = swrk_restore,
	[CRIU_REQ_TYPE__CHECK] = swrk_check,
	[CRIU_REQ_TYPE__PRE_DUMP] = swrk_pre_dump,
	[CRIU_REQ_TYPE__SINGLE_PRE_DUMP] = swrk_pre_dump,
	[CRIU_REQ_TYPE__PAGE_SERVER] = swrk_page_server_alone,
	[CRIU_REQ_TYPE__PAGE_SERVER_CHLD] = swrk_page_server_child,
	[CRIU_REQ_TYPE__WAIT_PID] = swrk_wait,
	[CRIU_REQ_TYPE__CPUINFO_DUMP] = swrk_cpuinfo_dump,
	[CRIU_REQ_TYPE__CPUINFO_CHECK] = swrk_cpuinfo_check,
	[CRIU_REQ_TYPE__FEATURE_CHECK] = swrk_features,
	[CRIU_REQ_TYPE__VERSION] = swrk_version,
};

/* The cause was answered. */
static int swrk_answer(struct swrk *s, const CriuReq *request, struct ferry_error *err)
{
	struct ferry_error why = FERRY_ERROR_INIT;
	CriuResp response = CRIU_RESP__INIT;
	char text[sizeof(why.message) + sizeof(why.hint) + 2] = "";
	size_t type = (size_t)request->type;
	swrk_request *serve = type < ARRAY_SIZE(swrk_requests) ? swrk_requests[type] : NULL;
	response.type = request->type;
	int r = serve ? serve(s, request, &response, &why)
		      : error_set(&why, FERRY_ERROR_USAGE, ENOTSUP,
				  "ferry does not serve requests of type %zu", type);
	if (s->has_ended)
		return 0;
	response.success = r >= 0;
	if (r < 0) {
		const char *step = error_next_step(&why);
		snprintf(text, sizeof(text), "%s%s%s", why.message, *step ? "; " : "", step);
		response.cr_errmsg = text;
		response.has_cr_errno = why.id != FERRY_ERROR_HOOK;
		response.cr_errno = why.code;
		s->failed = true;
	}
	return swrk_send(s, &response, err);
}

/* The request's exec_cmd: as criu_become_parent() and criu_exec(). 0: a child does the restore now, and this is the child. */
static int swrk_become(const CriuReq *request, struct ferry_error *err)
{
	CriuOpts *opts = request->opts;
	_cleanup_free_ char **words = calloc(opts->n_exec_cmd + 1, sizeof(*words));
	struct criu_options o = {0};
	if (!words)
		return error_memory(err);
	for (size_t i = 0; i < opts->n_exec_cmd; i++)
		words[i] = opts->exec_cmd[i];
	int r = criu_become_parent(&o, err);
	opts->has_rst_sibling = opts->rst_sibling = true;
	return r <= 0 ? r : criu_exec(words, r, err);
}

int criu_rpc_serve(int socket, bool is_service, struct ferry_error *err)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);
	struct swrk s = {.socket = socket, .is_service = is_service};
	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "descriptor %d", socket);
	s.peer = peer.pid;
	for (bool more = true; more && !s.is_spent && !s.has_ended;) {
		CriuReq *request;
		int r = swrk_receive(&s, &request, err);
		if (r <= 0)
			return r;
		/* One of a series, which a dump ends. */
		more = (request->has_keep_open && request->keep_open) ||
		       request->type == CRIU_REQ_TYPE__PRE_DUMP;
		bool becomes =
			request->type == CRIU_REQ_TYPE__RESTORE && request->opts && request->opts->n_exec_cmd;
		r = becomes ? swrk_become(request, err) : 0;
		if (!r)
			r = swrk_answer(&s, request, err);
		criu_req__free_unpacked(request, NULL);
		if (r)
			return r;
	}
	return s.failed ? 1 : 0;
}

int criu_rpc_refuse(int socket, const struct ferry_error *why)
{
	const struct swrk s = {.socket = socket};
	const struct timeval patience = {.tv_sec = SWRK_PATIENCE_S};
	struct ferry_error unsent = FERRY_ERROR_INIT;
	char request;
	char text[sizeof(why->message)];
	CriuResp response = CRIU_RESP__INIT;
	snprintf(text, sizeof(text), "%s", why->message);
	response.type = CRIU_REQ_TYPE__EMPTY;
	response.has_cr_errno = true;
	response.cr_errno = why->code;
	response.cr_errmsg = text;
	/* Who sends to a closed socket does not look at what came. */
	if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
	    recv(socket, &request, sizeof(request), 0) < 0)
		return -EPERM;
	return swrk_send(&s, &response, &unsent) < 0 ? -EPIPE : -EPERM;
}
