/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the records of an image into a plan, which they belong to from then on. */
#pragma once

#include <ferry/error.h>

#include "image/file.h"
#include "model/kind.h"

/* The plan owns message, an unpacked record, from now on, also when this fails. -ENOMEM. */
must_check int records_keep(struct plan *p, void *message, struct ferry_error *err);

/* The one record of an image file, which has to be there. *ret_message belongs to the plan. */
must_check int records_one(struct reader *r, enum image_kind kind, uint64_t id, void *ret_message,
			   struct ferry_error *err);

/*
 * Takes one record, which belongs to the plan already. What the file has behind the record is next in `in`, which also names the
 * file in messages (image_bad).
 */
typedef int records_take(struct reader *r, struct image_reader *in, void *record, void *context,
			 struct ferry_error *err);

/* Every record of an image file of one type of message; none when there is no such file. Ends with the first that is not taken. */
must_check int records_each(struct reader *r, enum image_kind kind, uint64_t id,
			    const ProtobufCMessageDescriptor *type, records_take *take, void *context,
			    struct ferry_error *err);

/* The same for a file that has to be there. */
must_check int records_need(struct reader *r, enum image_kind kind, uint64_t id,
			    const ProtobufCMessageDescriptor *type, records_take *take, void *context,
			    struct ferry_error *err);
