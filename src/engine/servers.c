/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the order in which a server makes its directory or socket, tells that it is ready, and serves. A connection that was handed over
 * ("fd:N") is not waited for.
 */
#include "engine/servers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "engine/engine.h"
#include "image/dedup.h"
#include "image/dir.h"
#include "restore/lazyd.h"
#include "restore/lazysock.h"
#include "stream/endpoint.h"
#include "stream/pageclient.h"
#include "stream/tls.h"

enum { SERVERS_HANDSHAKE_MS = 10000 };

/* ---------------------------------------------------------------- pages of a dump */

static int servers_accept(int socket, struct ferry_error *err)
{
	struct pollfd p = {.fd = socket, .events = POLLIN};
	for (;;) {
		int fd = accept4(socket, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			return fd;
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for a connection");
		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return error_errno(err, FERRY_ERROR_SYSTEM, errno, "waiting for a connection");
	}
}

/* Where whoever has pages comes from. */
struct servers_door {
	int socket;
	bool is_open; /* he is there */
	struct tls *tls;
};

/* The first who comes, and proves who he is if that is asked for. */
static int servers_meet(const struct servers_door *d, struct ferry_error *err)
{
	const struct tls_how how = {.timeout_ms = SERVERS_HANDSHAKE_MS};
	int fd = d->is_open ? fd_dup(d->socket, 3) : servers_accept(d->socket, err);
	return fd < 0 || !d->tls ? fd : tls_start(d->tls, fd, &how, err);
}

static int servers_take(const struct options *o, const struct log_sink *log, const struct servers_door *door,
			struct pageserver_stats *ret, struct ferry_error *err)
{
	const struct image_dir_create create = {.partial = true, .log = log};
	struct image_dedup done;
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	int r = image_dir_create(AT_FDCWD, o->images_dir, &create, &dir, err);
	if (r >= 0 && o->prev_images_dir)
		r = image_dir_link_parent(dir, o->prev_images_dir, err);
	_cleanup_close_ int fd = r < 0 ? r : servers_meet(door, err);
	r = fd;
	if (r >= 0)
		r = pageserver_receive(fd, dir, ret, err);
	if (r >= 0)
		r = image_dir_finish(dir, err);
	if (r >= 0 && o->auto_dedup && image_dir_n_parents(dir))
		r = image_dedup(dir, NULL, &done, err);
	return r < 0 ? r : pageserver_confirm(fd, err);
}

int engine_page_server(const struct options *o, const struct log_sink *log, const struct engine_ready *ready,
		       struct pageserver_stats *ret, struct ferry_error *err)
{
	char text[ENDPOINT_TEXT_BYTES];
	struct endpoint e;
	struct servers_door door = {0};
	*ret = (struct pageserver_stats){0};
	if (!o->images_dir || !o->listen)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "--images-dir DIR or --listen ADDRESS is missing");
	int r = endpoint_parse_plain(o->listen, o->insecure || o->tls, ENDPOINT_LISTEN_HOW, &e, err);
	if (r >= 0)
		r = engine_tls(o, &door.tls, err);
	if (r < 0)
		return r;
	_cleanup_close_ int listening = e.is_open ? -1 : endpoint_listen(&e, text, err);
	door.socket = e.is_open ? e.fd : listening;
	door.is_open = e.is_open;
	r = MIN(door.socket, 0);
	if (r >= 0)
		r = ready->tell(ready->context, e.is_open ? o->listen : text, err);
	if (r >= 0)
		r = servers_take(o, log, &door, ret, err);
	tls_close(door.tls);
	return r;
}

/* ---------------------------------------------------------------- memory of a restore */

static int servers_connect(const struct options *o, int *ret_fd, struct ferry_error *err)
{
	struct pageclient client;
	struct pageclient_how how = {.insecure = o->insecure, .timeout_ms = (int)o->timeout * 1000};
	*ret_fd = -1;
	if (!o->page_server)
		return 0;
	int r = engine_tls(o, &how.tls, err);
	if (r >= 0)
		r = pageclient_open(&client, o->page_server, &how, err);
	tls_close(how.tls);
	if (r >= 0)
		*ret_fd = client.fd;
	return r;
}

int engine_lazy_pages(const struct options *o, const struct log_sink *log, const struct engine_ready *ready,
		      struct ferry_error *err)
{
	const struct image_dir_open open = {.log = log};
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	_cleanup_free_ char *where = NULL;
	if (!o->images_dir)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	int page_server = -1;
	int r = image_dir_open(AT_FDCWD, o->images_dir, &open, &dir, err);
	if (r >= 0)
		r = image_dir_open_chain(dir, err);
	if (r >= 0)
		r = servers_connect(o, &page_server, err);
	_cleanup_close_ int server = page_server;
	if (r < 0)
		return r;
	const char *path = o->socket_dir ?: o->images_dir;
	_cleanup_close_ int at = fd_open(AT_FDCWD, path, O_DIRECTORY | O_RDONLY, 0);
	if (at < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -at, "directory '%s'", path);
	_cleanup_close_ int listening = lazyd_listen(at, path, err);
	if (listening < 0)
		return listening;
	if (asprintf(&where, "%s/" LAZYSOCK_NAME, path) < 0)
		where = NULL;
	r = where ? ready->tell(ready->context, where, err) : error_memory(err);
	_cleanup_close_ int said = fd_dup(STDERR_FILENO, 3);
	const struct lazyd d = {.dir = dir, .listening = listening, .page_server = server, .log = said};
	if (r >= 0)
		r = lazyd_serve(&d, err);
	unlinkat(at, LAZYSOCK_NAME, 0);
	return r;
}
