/* SPDX-License-Identifier: Apache-2.0 */
/* An image over the wire: every file whole, the inventory last. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/macros.h"
#include "migrate/wire.h"

struct transfer {
	const struct fault *fault;
	const struct log_sink *log; /* told how far it is, now and then */
	pid_t caller; /* a changed parent process ends the transfer: INTERRUPTED; 0 = do not look */
	uint64_t expected_bytes; /* for the log; 0 = unknown */
	uint64_t bytes;          /* of files, so far */
	uint32_t files;
	uint64_t told_ns;
};

/* Send every file of the image in the directory. */
must_check int files_send_image(struct wire *w, int dir_fd, struct transfer *t, struct ferry_error *err);

/*
 * Receive an image into an empty directory, until the other side says that it was all; *ret_bytes. Anything that is not a
 * file of an image, twice, out of order or too long is PROTOCOL. NO_SPACE when it does not fit.
 */
must_check int files_receive_image(struct wire *w, int dir_fd, struct transfer *t, struct ferry_error *err);
