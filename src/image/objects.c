/* SPDX-License-Identifier: Apache-2.0 */
/* Owns reading whole image files into memory. */
#include "image/objects.h"

#include <stdlib.h>

#include "base/error.h"
#include "image/file.h"
#include "image/proto/fdinfo.pb-c.h"

void image_messages_release(struct image_messages *m)
{
	vec_foreach(message, &m->list)
		image_message_free(*message);
	vec_release(&m->list);
}

int image_messages_read(struct image_dir *dir, enum image_kind kind, uint64_t id, struct image_messages *m,
			struct ferry_error *err)
{
	const struct image_file_info *info = image_file_info(kind);
	_cleanup_reader_ struct image_reader *r = NULL;
	int ret = image_open_optional(dir, kind, id, &r, err);
	if (ret <= 0)
		return ret;
	for (;;) {
		_cleanup_message_ ProtobufCMessage *message = NULL;
		ret = image_get(r, image_type_at(info, m->list.n), &message, err);
		if (ret <= 0)
			return ret;
		ret = image_skip_payload(r, info, message, err);
		if (ret < 0)
			return ret;
		ProtobufCMessage **slot = vec_push(&m->list);
		if (!slot)
			return error_memory(err);
		*slot = message;
		message = NULL;
	}
}

static int compare_ids(const void *a, const void *b)
{
	const FileEntry *x = *(const FileEntry *const *)a, *y = *(const FileEntry *const *)b;
	return x->id < y->id ? -1 : x->id > y->id;
}

void image_files_sort(struct image_messages *files)
{
	if (files->list.n)
		qsort(files->list.v, files->list.n, sizeof(*files->list.v), compare_ids);
}

const FileEntry *image_files_find(const struct image_messages *files, uint32_t id)
{
	FileEntry key = FILE_ENTRY__INIT;
	const FileEntry *p = &key;
	key.id = id;
	const ProtobufCMessage *const *found = NULL;
	if (files->list.n)
		found = bsearch(&p, files->list.v, files->list.n, sizeof(*files->list.v), compare_ids);
	return found ? (const FileEntry *)*found : NULL;
}
