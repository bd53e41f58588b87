/* SPDX-License-Identifier: Apache-2.0 */
/* What ferry does for a dump or a restore that runs elsewhere: taking its pages, or bringing its memory. Each for one, then it is done. */
#pragma once

#include <ferry/error.h>

#include "base/log.h"
#include "base/macros.h"
#include "engine/options.h"
#include "stream/pageserver.h"

/* Told once, when whoever comes is served: at an address, or a path. Negative, with *err filled: it does not go on. */
struct engine_ready {
	int (*tell)(void *context, const char *where, struct ferry_error *err);
	void *context;
};

/* Take the pages of one dump: --listen, --images-dir, --prev-images-dir, --auto-dedup. */
must_check int engine_page_server(const struct options *o, const struct log_sink *log,
				  const struct engine_ready *ready, struct pageserver_stats *ret,
				  struct ferry_error *err);

/* Bring the memory of one restore with --lazy-pages: --images-dir, --page-server. */
must_check int engine_lazy_pages(const struct options *o, const struct log_sink *log,
				 const struct engine_ready *ready, struct ferry_error *err);
