/* SPDX-License-Identifier: Apache-2.0 */
/* What the two halves of libcriu share: options, and asking for something with them. */
#pragma once

#include <stdbool.h>

#include <criu/criu.h>

#include "base/macros.h"
#include "image/proto/rpc.pb-c.h"

struct criu_opts {
	CriuOpts *rpc; /* what a request says */
	criu_notify_cb_t notify;
	enum criu_service_comm comm;
	char *service; /* the socket's address, or the program; NULL: the usual one */
	int service_fd;
};

/* What criu_X() works on; NULL before criu_init_opts(). */
criu_opts *libcriu__opts(void);
