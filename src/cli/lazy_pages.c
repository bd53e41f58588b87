/* SPDX-License-Identifier: Apache-2.0 */
/* ferry lazy-pages: one restore, then it ends. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "cli/cli.h"
#include "image/dir.h"
#include "restore/lazyd.h"
#include "restore/lazysock.h"
#include "stream/pageclient.h"

static int lazy_pages_connect(const struct options *o, int *ret_fd, struct ferry_error *err)
{
	struct pageclient client;
	*ret_fd = -1;
	if (!o->page_server)
		return 0;
	int r = pageclient_open(&client, o->page_server, o->insecure, (int)o->timeout * 1000, err);
	if (r >= 0)
		*ret_fd = client.fd;
	return r;
}

int cli_lazy_pages(struct cli *c, struct ferry_error *err)
{
	const struct options *o = &c->options;
	const struct image_dir_open open = {.log = &c->log};
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	if (!o->images_dir)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	int page_server = -1;
	int r = image_dir_open(AT_FDCWD, o->images_dir, &open, &dir, err);
	if (r >= 0)
		r = image_dir_open_chain(dir, err);
	if (r >= 0)
		r = lazy_pages_connect(o, &page_server, err);
	_cleanup_close_ int server = page_server;
	if (r < 0)
		return r;
	_cleanup_close_ int listening = lazyd_listen(dir, err);
	if (listening < 0)
		return listening;
	fprintf(stderr, "ferry: waiting at %s/" LAZYSOCK_NAME "\n", o->images_dir);
	_cleanup_close_ int log = fd_dup(STDERR_FILENO, 3);
	const struct lazyd d = {.dir = dir, .listening = listening, .page_server = server, .log = log};
	r = lazyd_serve(&d, err);
	unlinkat(image_dir_fd(dir), LAZYSOCK_NAME, 0);
	return r;
}
