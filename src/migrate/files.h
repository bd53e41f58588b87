/* SPDX-License-Identifier: Apache-2.0 */
/* An image over the wire: file after file, the inventory last. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/vec.h"
#include "image/dir.h"
#include "migrate/wire.h"

/* One image on its way, in either direction. */
struct transfer {
	struct wire *wire;
	const struct fault *fault;
	const struct log_sink *log; /* told how far it is, now and then */
	pid_t caller; /* a changed parent process ends the transfer: INTERRUPTED; 0 = do not look */
	uint64_t expected_bytes; /* for the log; 0 = unknown */
	uint64_t start_ns;       /* of the first file; 0 = none came yet */
	uint64_t bytes;          /* of files, so far */
	uint64_t offset;         /* in the file under way */
	uint32_t files;
	uint64_t told_ns;
	VEC(struct image_seen) seen; /* what was received */
};

void transfer_release(struct transfer *t);

/* Sends pages files while a dump reads them; what the dump leaves in its directory goes with files_send_image(). */
struct image_sink files_sink(struct transfer *t);

/* Send every file of the image in the directory, and that it was all. */
must_check int files_send_image(struct transfer *t, int dir_fd, struct ferry_error *err);

/*
 * Receive an image into an empty directory, until the other side says that it was all. Anything that is not a file of an image,
 * twice or out of order is PROTOCOL. NO_SPACE when it does not fit.
 */
must_check int files_receive_image(struct transfer *t, int dir_fd, struct ferry_error *err);
