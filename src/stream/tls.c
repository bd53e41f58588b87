/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns TLS with GnuTLS, which is loaded when it is asked for: linked, it and its libraries would cost every command its start.
 *
 * Handshake and certificates are dealt with here; then a process of its own passes on what comes, one thread for each direction. It ends
 * with the connection, or when whoever has the socket is gone.
 * Does not handle: keys shared beforehand, passwords of keys, certificates that are revoked by OCSP.
 */
#include "stream/tls.h"

#include <errno.h>

#include "base/error.h"

#ifdef HAVE_GNUTLS
#include <dlfcn.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define TLS_LIBRARY "libgnutls.so.30"
#define TLS_CACERT "/etc/pki/CA/cacert.pem"
#define TLS_CACRL "/etc/pki/CA/cacrl.pem"
#define TLS_CERT "/etc/pki/criu/cert.pem"
#define TLS_KEY "/etc/pki/criu/private/key.pem"

/* The largest record has 16 KiB, and CRIU takes pages by 64. */
enum { TLS_BUFFER_BYTES = 1 << 16, TLS_PIECE_BYTES = 1 << 14, TLS_TICK_MS = 500 };

struct tls {
	void *library;
	gnutls_certificate_credentials_t credentials;
	bool any_name;
#define TLS_FUNCTION(name) __typeof__(gnutls_##name) *name;
#include "stream/tls_functions.def"
#undef TLS_FUNCTION
};

/* A connection, between the two sockets. */
struct tls_pump {
	const struct tls *tls;
	gnutls_session_t session;
	int outer, inner;
	const struct tls_message *message;
};

/* ---------------------------------------------------------------- credentials */

static int tls_load(struct tls *t, struct ferry_error *err)
{
	t->library = dlopen(TLS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	bool whole = t->library;
#define TLS_FUNCTION(name) whole = whole && (t->name = dlsym(t->library, "gnutls_" #name));
#include "stream/tls_functions.def"
#undef TLS_FUNCTION
	if (whole)
		return 0;
	error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP, "--tls: %s", dlerror());
	error_hint(err, "install GnuTLS (libgnutls30)");
	return -ENOTSUP;
}

static int tls_refuse(const struct tls *t, int r, const char *option, const char *path,
		      struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_USAGE, EINVAL, "--%s '%s': %s", option, path, t->strerror(r));
	error_hint(err, "name a file of the PEM format with --%s", option);
	return -EINVAL;
}

static int tls_read_files(struct tls *t, const struct tls_options *o, struct ferry_error *err)
{
	const char *cacert = o->cacert ?: TLS_CACERT, *cacrl = o->cacrl ?: TLS_CACRL,
		   *cert = o->cert ?: TLS_CERT, *key = o->key ?: TLS_KEY;
	int r = t->certificate_allocate_credentials(&t->credentials);
	if (r < 0)
		return error_memory(err);
	r = t->certificate_set_x509_trust_file(t->credentials, cacert, GNUTLS_X509_FMT_PEM);
	if (r <= 0)
		return tls_refuse(t, r, "tls-cacert", cacert, err);
	/* A list of what was revoked need not be there, unless one was named. */
	r = o->cacrl || access(cacrl, F_OK) == 0
		    ? t->certificate_set_x509_crl_file(t->credentials, cacrl, GNUTLS_X509_FMT_PEM)
		    : 0;
	if (r < 0)
		return tls_refuse(t, r, "tls-cacrl", cacrl, err);
	r = t->certificate_set_x509_key_file(t->credentials, cert, key, GNUTLS_X509_FMT_PEM);
	if (r < 0)
		return tls_refuse(t, r, access(cert, R_OK) == 0 ? "tls-key" : "tls-cert",
				  access(cert, R_OK) == 0 ? key : cert, err);
	return 0;
}

int tls_open(const struct tls_options *o, struct tls **ret, struct ferry_error *err)
{
	struct tls *t = calloc(1, sizeof(*t));
	if (!t)
		return error_memory(err);
	t->any_name = o->any_name;
	int r = tls_load(t, err);
	if (r >= 0)
		r = tls_read_files(t, o, err);
	if (r < 0) {
		tls_close(t);
		return r;
	}
	*ret = t;
	return 0;
}

void tls_close(struct tls *t)
{
	if (t && t->credentials)
		t->certificate_free_credentials(t->credentials);
	if (t && t->library)
		dlclose(t->library);
	free(t);
}

/* ------------------------------------------------------------------- handshake */

static int tls_prepare(const struct tls *t, gnutls_session_t session, int fd, const char *host,
		       int timeout_ms)
{
	int r = t->set_default_priority(session);
	if (r >= 0)
		r = t->credentials_set(session, GNUTLS_CRD_CERTIFICATE, t->credentials);
	if (r >= 0 && host && *host)
		r = t->server_name_set(session, GNUTLS_NAME_DNS, host, strlen(host));
	if (!host)
		t->certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
	t->session_set_verify_cert(session, t->any_name ? NULL : host, 0);
	t->transport_set_int2(session, fd, fd);
	t->handshake_set_timeout(session, (unsigned)timeout_ms);
	return r;
}

static int tls_failed(const struct tls *t, gnutls_session_t session, int r, struct ferry_error *err)
{
	gnutls_datum_t why = {0};
	unsigned status = t->session_get_verify_cert_status(session);
	if (r != GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR ||
	    t->certificate_verification_status_print(status, t->certificate_type_get(session), &why, 0) < 0)
		error_set(err, FERRY_ERROR_PEER_GONE, EPROTO, "TLS: %s", t->strerror(r));
	else
		error_set(err, FERRY_ERROR_PEER_GONE, EPROTO, "TLS: %.*s", (int)why.size,
			  (const char *)why.data);
	error_hint(
		err,
		"both sides need a certificate of an authority that the other one trusts (--tls-cacert), the server "
		"one for the name that it is asked for by, or --tls-no-cn-verify");
	free(why.data);
	return -EPROTO;
}

static int tls_shake(const struct tls *t, gnutls_session_t session, int fd, const char *host, int timeout_ms,
		     struct ferry_error *err)
{
	int r = tls_prepare(t, session, fd, host, timeout_ms);
	while (r >= 0 && (r = t->handshake(session)) < 0 && !t->error_is_fatal(r))
		r = 0;
	return r < 0 ? tls_failed(t, session, r, err) : 0;
}

/* ------------------------------------------------------------ the one in between */

static bool tls_inner_is_gone(const struct tls_pump *p)
{
	struct pollfd fd = {.fd = p->inner};
	return poll(&fd, 1, 0) > 0 && fd.revents & (POLLHUP | POLLERR);
}

static int tls_put(const struct tls_pump *p, const char *bytes, size_t n)
{
	while (n) {
		ssize_t sent = p->tls->record_send(p->session, bytes, n);
		if (sent < 0 && sent != GNUTLS_E_AGAIN && sent != GNUTLS_E_INTERRUPTED)
			return -EPIPE;
		bytes += MAX(sent, 0);
		n -= (size_t)MAX(sent, 0);
	}
	return 0;
}

/* So many bytes, or fewer at the end; 0: there are none. */
static size_t tls_take(const struct tls_pump *p, char *buffer, size_t n)
{
	size_t got = 0;
	ssize_t r = 1;
	while (got < n && r > 0) {
		r = read(p->inner, buffer + got, n - got);
		got += (size_t)MAX(r, 0);
	}
	return got;
}

/* A head and what follows it, each in records of its own. */
static int tls_pass_message(const struct tls_pump *p, char *buffer)
{
	const struct tls_message *m = p->message;
	size_t n = tls_take(p, buffer, m->head_bytes);
	uint64_t more = n == m->head_bytes ? m->more_bytes(buffer) : 0;
	int r = n ? tls_put(p, buffer, n) : -ENODATA;
	while (r >= 0 && more) {
		n = tls_take(p, buffer, (size_t)MIN(more, (uint64_t)TLS_PIECE_BYTES));
		r = n ? tls_put(p, buffer, n) : -ENODATA;
		more -= MIN(more, (uint64_t)n);
	}
	return r;
}

static int tls_pass(const struct tls_pump *p, char *buffer)
{
	ssize_t n = read(p->inner, buffer, TLS_BUFFER_BYTES);
	return n > 0 ? tls_put(p, buffer, (size_t)n) : -ENODATA;
}

/* What is to go out. At the end the other side is told that nothing more comes. */
static void *tls_send(void *data)
{
	const struct tls_pump *p = data;
	char buffer[TLS_BUFFER_BYTES];
	int r = 0;
	while (r >= 0)
		r = p->message ? tls_pass_message(p, buffer) : tls_pass(p, buffer);
	p->tls->bye(p->session, GNUTLS_SHUT_WR);
	shutdown(p->outer, SHUT_WR);
	return NULL;
}

static void tls_receive(const struct tls_pump *p)
{
	char buffer[TLS_BUFFER_BYTES];
	p->tls->record_set_timeout(p->session, TLS_TICK_MS);
	for (bool open = true; open;) {
		ssize_t n = p->tls->record_recv(p->session, buffer, sizeof(buffer));
		if (n == GNUTLS_E_TIMEDOUT || n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
			open = !tls_inner_is_gone(p);
		else
			open = n > 0 ? fd_write_all(p->inner, buffer, (size_t)n) >= 0
				     : n < 0 && !p->tls->error_is_fatal((int)n);
	}
	shutdown(p->inner, SHUT_WR);
}

static __attribute__((noreturn)) void tls_pump(const struct tls_pump *p)
{
	pthread_t sender;
	prctl(PR_SET_NAME, "ferry-tls");
	signal(SIGPIPE, SIG_IGN);
	if (pthread_create(&sender, NULL, tls_send, (void *)p))
		_exit(1);
	tls_receive(p);
	pthread_join(sender, NULL);
	_exit(0);
}

/* Nobody waits for it, and nothing that ferry has open stays open with it. */
static int tls_start_pump(const struct tls_pump *pump)
{
	const int keep[] = {MIN(pump->outer, pump->inner), MAX(pump->outer, pump->inner)};
	pid_t pid = fork();
	if (!pid) {
		if (fork())
			_exit(0);
		fd_close_others(0, keep, ARRAY_SIZE(keep));
		tls_pump(pump);
	}
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
	return pid < 0 ? -errno : 0;
}

int tls_start(struct tls *t, int fd, const struct tls_how *how, struct ferry_error *err)
{
	const char *host = how->host;
	_cleanup_close_ int outer = fd;
	gnutls_session_t session;
	int pair[2], flags = fcntl(outer, F_GETFL);
	if (host && !*host && !t->any_name)
		return error_set(
			err, FERRY_ERROR_USAGE, EINVAL,
			"--tls: this connection has no name that the certificate could be for; --tls-no-cn-verify goes without");
	if (flags < 0 || fcntl(outer, F_SETFL, flags & ~O_NONBLOCK) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "TLS: setting up a connection");
	_cleanup_close_ int ours = pair[0], theirs = pair[1];
	if (t->init(&session, host ? GNUTLS_CLIENT : GNUTLS_SERVER) < 0)
		return error_memory(err);
	int r = tls_shake(t, session, outer, host, how->timeout_ms, err);
	if (r >= 0) {
		const struct tls_pump pump = {.tls = t,
					      .session = session,
					      .outer = outer,
					      .inner = theirs,
					      .message = how->message};
		r = tls_start_pump(&pump);
		r = r < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -r, "TLS: starting a process") : 0;
	}
	t->deinit(session);
	return r < 0 ? r : take_fd(ours);
}

#else

int tls_open(const struct tls_options *o unused, struct tls **ret unused, struct ferry_error *err)
{
	error_set(err, FERRY_ERROR_KERNEL_FEATURE, ENOTSUP, "--tls: this ferry was built without TLS");
	error_hint(err, "build it where GnuTLS (libgnutls28-dev) is installed");
	return -ENOTSUP;
}

void tls_close(struct tls *t unused)
{
}

int tls_start(struct tls *t unused, int fd unused, const struct tls_how *how unused, struct ferry_error *err)
{
	return error_set(err, FERRY_ERROR_INTERNAL, ENOTSUP, "TLS that was never opened");
}

#endif
