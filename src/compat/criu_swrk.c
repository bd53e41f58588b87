/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns serving CRIU's remote calls over one socket. Stages of a job are told as messages, if the request asks for it, and the job waits for
 * the answer. A failure is told by its number, its text and what to do about it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "compat/criu_hooks.h"
#include "compat/criu_job.h"
#include "compat/criu_rpc.h"
#include "kernel/caps.h"

enum { SWRK_MESSAGE_MAX = 1 << 20 };

struct swrk {
	int socket;
	pid_t peer;
	bool failed;   /* a request did */
	bool is_spent; /* a restore was done in this very process, see job.c */
};

static int swrk_send(const struct swrk *s, const CriuResp *response, struct ferry_error *err)
{
	size_t n = criu_resp__get_packed_size(response);
	_cleanup_free_ uint8_t *bytes = malloc(n + 1);
	if (!bytes)
		return error_memory(err);
	criu_resp__pack(response, bytes);
	if (send(s->socket, bytes, n, MSG_NOSIGNAL) < 0)
		return error_errno(err, FERRY_ERROR_PEER_GONE, errno, "answering a request");
	return 0;
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

static int swrk_notify(void *context, enum engine_stage stage, pid_t pid, struct ferry_error *err)
{
	const struct swrk *s = context;
	CriuNotify notify = CRIU_NOTIFY__INIT;
	CriuResp response = CRIU_RESP__INIT;
	CriuReq *answer = NULL;
	notify.script = (char *)criu_hooks_word(stage);
	/* Elsewhere who asked knows it, or has been told. */
	notify.has_pid = stage == ENGINE_POST_RESTORE;
	notify.pid = pid;
	response.type = CRIU_REQ_TYPE__NOTIFY;
	response.success = true;
	response.notify = &notify;
	int r = swrk_send(s, &response, err);
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

static int swrk_read_options(const struct swrk *s, const CriuReq *request, struct criu_options *ret,
			     struct ferry_error *err)
{
	criu_words words = {0};
	char **first = vec_push(&words);
	if (!first)
		return error_memory(err);
	*first = strdup("criu");
	int r = *first ? criu_rpc_words(request->opts, s->peer, &words, err) : error_memory(err);
	if (r >= 0)
		r = criu_options_read_with((int)words.n, words.v, request->opts->config_file, ret, err);
	criu_words_release(&words);
	return r;
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
	/* Who asks is not who waits. */
	o.job.restore_detached = true;
	if (r >= 0)
		r = criu_enter(&o, err);
	if (r >= 0)
		r = criu_log_open(&o, &log, err);
	if (r >= 0)
		r = criu_job_run(job, &o, &log, request->opts->notify_scripts ? &told : NULL, &report, err);
	s->is_spent = o.job.restore_sibling;
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
	response.success = r >= 0;
	if (r < 0) {
		snprintf(text, sizeof(text), "%s%s%s", why.message, why.hint[0] ? "; " : "", why.hint);
		response.cr_errmsg = text;
		response.has_cr_errno = why.id != FERRY_ERROR_HOOK;
		response.cr_errno = why.code;
		s->failed = true;
	}
	return swrk_send(s, &response, err);
}

int criu_rpc_serve(int socket, struct ferry_error *err)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);
	struct swrk s = {.socket = socket};
	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
		return error_errno(err, FERRY_ERROR_USAGE, errno, "descriptor %d", socket);
	s.peer = peer.pid;
	for (bool more = true; more && !s.is_spent;) {
		CriuReq *request;
		int r = swrk_receive(&s, &request, err);
		if (r <= 0)
			return r;
		/* One of a series, which a dump ends. */
		more = (request->has_keep_open && request->keep_open) ||
		       request->type == CRIU_REQ_TYPE__PRE_DUMP;
		r = swrk_answer(&s, request, err);
		criu_req__free_unpacked(request, NULL);
		if (r < 0)
			return r;
	}
	return s.failed ? 1 : 0;
}
