/* SPDX-License-Identifier: Apache-2.0 */
/* ferry dedup */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

#include <json-c/json.h>

#include "base/error.h"
#include "base/fault.h"
#include "cli/cli.h"
#include "image/dedup.h"
#include "image/dir.h"

static int dedup_run(const char *path, const struct fault *fault, struct image_dedup *ret,
		     struct ferry_error *err)
{
	_cleanup_image_dir_ struct image_dir *dir = NULL;
	const struct image_dir_open options = {.fault = fault};
	int r = image_dir_open(AT_FDCWD, path, &options, &dir, err);
	return r < 0 ? r : image_dedup(dir, fault, ret, err);
}

int cli_dedup(struct cli *c, struct ferry_error *err)
{
	struct image_dedup done = {0};
	struct fault fault;
	if (!c->options.images_dir)
		return error_set(err, FERRY_ERROR_USAGE, EINVAL, "--images-dir DIR is missing");
	int r = fault_init(&fault);
	if (r < 0)
		return error_errno(err, FERRY_ERROR_USAGE, -r, "FERRY_FAULT");
	r = dedup_run(c->options.images_dir, &fault, &done, err);
	fault_release(&fault);
	if (r < 0)
		return r;
	if (c->options.json) {
		struct json_object *o = json_object_new_object();
		json_object_object_add(o, "images", json_object_new_int64((int64_t)done.images));
		json_object_object_add(o, "bytes", json_object_new_int64((int64_t)done.bytes));
		cli_print_json(o);
		return 0;
	}
	printf("%" PRIu64 " bytes taken out of %zu images\n", done.bytes, done.images);
	return 0;
}
