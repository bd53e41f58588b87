/* SPDX-License-Identifier: Apache-2.0 */
/* ferry image VERB, and ferry show, which is ferry image show of --images-dir. */
#include <errno.h>

#include "base/error.h"
#include "cli/cli.h"
#include "image/show.h"

int cli_image(struct cli *c, struct ferry_error *err)
{
	if (!c->argc) {
		error_set(err, FERRY_ERROR_USAGE, EINVAL,
			  "ferry image needs a verb: show, decode, encode, info or verify");
		error_hint(err, "ferry image show DIR");
		return -EINVAL;
	}
	struct cli_progress progress;
	cli_progress_start(&progress, c);
	progress_begin(progress.watch.progress, PROGRESS_VERIFY, 0);
	cli_progress_aside(&progress);
	int r = image_verb(c->argc, c->argv, stdout, progress.watch.progress, err);
	cli_progress_join(&progress);
	cli_progress_end(&progress);
	return r;
}

int cli_show(struct cli *c, struct ferry_error *err)
{
	char verb[] = "show", here[] = ".";
	char *argv[] = {verb,
			c->options.images_dir ? c->options.images_dir
			: c->argc             ? c->argv[0]
					      : here,
			NULL};
	return image_verb(2, argv, stdout, NULL, err);
}
