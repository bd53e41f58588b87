/* SPDX-License-Identifier: Apache-2.0 */
/* CRIU's servers: what serves one dump or restore elsewhere, and the service that takes requests. All tell alike when they are ready. */
#pragma once

#include <ferry/error.h>

#include "base/log.h"
#include "base/macros.h"
#include "compat/criu_job.h"
#include "compat/criu_options.h"

/* --status-fd: a zero byte, and its end. */
must_check int criu_tell_ready(struct criu_options *o, struct ferry_error *err);

/* Who goes on without whoever started it has nothing of his open: no standard streams. */
must_check int criu_leave_streams(struct ferry_error *err);

must_check int criu_page_server_run(struct criu_options *o, const struct criu_log *log,
				    struct ferry_error *err);
must_check int criu_lazy_pages_run(struct criu_options *o, const struct criu_log *log,
				   struct ferry_error *err);

/* Take requests at --address, or criu_service.socket here, until a signal ends it. */
must_check int criu_service_run(struct criu_options *o, const struct criu_log *log, struct ferry_error *err);
