/* SPDX-License-Identifier: Apache-2.0 */
/* The service: a socket at which whoever may do all that ferry can do by itself has it done. */
#pragma once

#include <ferry/error.h>

#include "base/log.h"
#include "base/macros.h"
#include "engine/servers.h"

/* Serve each connection in a process of its own, until SIGTERM or SIGINT. ADDRESS_TAKEN. */
must_check int criu_service_serve(const char *path, const struct log_sink *log,
				  const struct engine_ready *ready, struct ferry_error *err);
