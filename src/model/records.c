/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the loop over the records of an image file, and that each lives as long as the plan. */
#include "model/records.h"

#include "base/error.h"
#include "image/dir.h"

int records_keep(struct plan *p, void *message, struct ferry_error *err)
{
	void **slot = vec_push(&p->messages);
	if (!slot) {
		image_message_free(message);
		return error_memory(err);
	}
	*slot = message;
	return 0;
}

int records_one(struct reader *r, enum image_kind kind, uint64_t id, void *ret_message,
		struct ferry_error *err)
{
	void *message;
	int ret = image_get_one(r->dir, kind, id, &message, err);
	if (ret >= 0)
		ret = records_keep(r->plan, message, err);
	if (ret >= 0)
		*(void **)ret_message = message;
	return ret;
}

static int records_loop(struct reader *r, struct image_reader *in, const ProtobufCMessageDescriptor *type,
			records_take *take, void *context, struct ferry_error *err)
{
	void *record;
	int ret;
	while ((ret = image_get(in, type, &record, err)) > 0) {
		ret = records_keep(r->plan, record, err);
		if (ret >= 0)
			ret = take(r, in, record, context, err);
		if (ret < 0)
			return ret;
	}
	return ret;
}

int records_each(struct reader *r, enum image_kind kind, uint64_t id, const ProtobufCMessageDescriptor *type,
		 records_take *take, void *context, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	int ret = image_open_optional(r->dir, kind, id, &in, err);
	return ret < 0 || !in ? ret : records_loop(r, in, type, take, context, err);
}

int records_need(struct reader *r, enum image_kind kind, uint64_t id, const ProtobufCMessageDescriptor *type,
		 records_take *take, void *context, struct ferry_error *err)
{
	_cleanup_reader_ struct image_reader *in = NULL;
	int ret = image_open(r->dir, kind, id, &in, err);
	return ret < 0 ? ret : records_loop(r, in, type, take, context, err);
}
