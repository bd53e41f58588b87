/* SPDX-License-Identifier: Apache-2.0 */
/* ferry page-server: one dump, then it ends. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <json-c/json.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/cli.h"
#include "image/dedup.h"
#include "image/dir.h"
#include "stream/endpoint.h"
#include "stream/pageserver.h"

static int page_server_listen(const struct options *o, char *ret_text, struct ferry_error *err)
{
	struct endpoint e;
	int r = endpoint_parse_plain(o->listen, o->insecure, ENDPOINT_LISTEN_HOW, &e, err);
	return r < 0 ? r : endpoint_listen(&e, ret_text, err);
}

static int page_server_accept(int socket, struct ferry_error *err)
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

static int page_server_take(struct cli *c, int socket, struct pageserver_stats *ret, struct ferry_error *err)
{
	const struct options *o = &c->options;
	const struct image_dir_create create = {.partial = true, .log = &c->log};
	struct image_dedup done;
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	int r = image_dir_create(AT_FDCWD, o->images_dir, &create, &dir, err);
	if (r >= 0 && o->prev_images_dir)
		r = image_dir_link_parent(dir, o->prev_images_dir, err);
	_cleanup_close_ int fd = r < 0 ? r : page_server_accept(socket, err);
	r = fd;
	if (r >= 0)
		r = pageserver_receive(fd, dir, ret, err);
	if (r >= 0)
		r = image_dir_finish(dir, err);
	if (r >= 0 && o->auto_dedup && image_dir_n_parents(dir))
		r = image_dedup(dir, NULL, &done, err);
	return r < 0 ? r : pageserver_confirm(fd, err);
}

int cli_page_server(struct cli *c, struct ferry_error *err)
{
	char text[ENDPOINT_TEXT_BYTES];
	struct pageserver_stats stats = {0};
	if (!c->options.images_dir || !c->options.listen)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL,
				 "--images-dir DIR or --listen ADDRESS is missing");
	_cleanup_close_ int socket = page_server_listen(&c->options, text, err);
	if (socket < 0)
		return socket;
	fprintf(stderr, "ferry: listening on %s\n", text);
	int r = page_server_take(c, socket, &stats, err);
	if (r < 0)
		return r;
	if (c->options.json) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "memories", json_object_new_int64((int64_t)stats.memories));
		json_object_object_add(o, "pages", json_object_new_int64((int64_t)stats.pages));
		cli_print_json(o);
		return 0;
	}
	printf("%" PRIu64 " pages of %" PRIu64 " memories came\n", stats.pages, stats.memories);
	return 0;
}
