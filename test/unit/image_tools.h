/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the image layer share: scratch directories and messages with every field set. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include <protobuf-c/protobuf-c.h>

#include "base/error.h"
#include "image/dir.h"
#include "unit.h"

/* protobuf-c's structures are reached through descriptors: a value of any type at a member's place. */
struct filler {
	uint64_t next; /* every value differs from the one before */
	unsigned depth;
};

static inline size_t filler_size(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE: return 8;
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
	default: return 4;
	}
}

static inline ProtobufCMessage *filler_message(struct filler *f, const ProtobufCMessageDescriptor *type);

static inline void filler_value(struct filler *f, const ProtobufCFieldDescriptor *field, void *value)
{
	static const uint64_t corners[] = {
		0, 1, 0x7f, 0x80, 0x7fffffff, 0xffffffff, 0x8000000000000000, UINT64_MAX};
	uint64_t number = f->next++;
	if (number % 3 == 0)
		number = corners[number / 3 % 8];
	else
		number *= 0x9e3779b97f4a7c15;
	uint32_t narrow = (uint32_t)number;
	const ProtobufCEnumDescriptor *words = field->descriptor;
	ProtobufCBinaryData *bytes = value;
	switch (field->type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		*(ProtobufCMessage **)value = filler_message(f, field->descriptor);
		break;
	case PROTOBUF_C_TYPE_STRING: {
		static const char *const texts[] = {"", "plain", "quote\"back\\slash/tab\t",
						    "caf\xc3\xa9 \xf0\x9f\x98\x80", "not \xff utf-8"};
		*(char **)value = strdup(texts[number % 5]);
		break;
	}
	case PROTOBUF_C_TYPE_BYTES:
		bytes->len = number % 100;
		bytes->data = malloc(bytes->len + 1);
		for (size_t i = 0; i < bytes->len; i++)
			bytes->data[i] = (uint8_t)(number + i * 37);
		break;
	case PROTOBUF_C_TYPE_BOOL: *(protobuf_c_boolean *)value = number & 1; break;
	case PROTOBUF_C_TYPE_ENUM: *(int *)value = words->values[number % words->n_values].value; break;
	default:
		if (filler_size(field->type) == 8)
			memcpy(value, &number, 8);
		else
			memcpy(value, &narrow, 4);
	}
}

/* A message with every field set; repeated ones twice. Recursive types end after a few levels. */
static inline ProtobufCMessage *filler_message(struct filler *f, const ProtobufCMessageDescriptor *type)
{
	ProtobufCMessage *message = calloc(1, type->sizeof_message);
	protobuf_c_message_init(type, message);
	f->depth++;
	for (unsigned i = 0; i < type->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &type->fields[i];
		char *member = (char *)message + field->offset,
		     *quantifier = (char *)message + field->quantifier_offset;
		if (f->depth > 4 && field->type == PROTOBUF_C_TYPE_MESSAGE &&
		    field->label != PROTOBUF_C_LABEL_REQUIRED)
			continue;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			*(size_t *)quantifier = 2;
			*(void **)member = calloc(2, filler_size(field->type));
			for (size_t k = 0; k < 2; k++)
				filler_value(f, field, *(char **)member + k * filler_size(field->type));
			continue;
		}
		filler_value(f, field, member);
		if (field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type != PROTOBUF_C_TYPE_STRING &&
		    field->type != PROTOBUF_C_TYPE_MESSAGE)
			*(protobuf_c_boolean *)quantifier = 1;
	}
	f->depth--;
	return message;
}

static inline uint8_t *pack(const ProtobufCMessage *message, size_t *ret_n)
{
	uint8_t *bytes = malloc(protobuf_c_message_get_packed_size(message) + 1);
	*ret_n = protobuf_c_message_pack(message, bytes);
	return bytes;
}

/* ---- scratch directories ---- */

struct scratch {
	char path[40];
};

static inline int scratch_make(void **state)
{
	struct scratch *s = calloc(1, sizeof(*s));
	strcpy(s->path, "/tmp/ferry-image-XXXXXX");
	*state = s;
	return mkdtemp(s->path) ? 0 : -1;
}

static inline int scratch_unlink(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static inline int scratch_remove(void **state)
{
	struct scratch *s = *state;
	int r = nftw(s->path, scratch_unlink, 16, FTW_DEPTH | FTW_PHYS);
	free(s);
	return r;
}

static inline void scratch_path(const struct scratch *s, const char *name, char path[256])
{
	snprintf(path, 256, "%s/%s", s->path, name);
}

/* Whole files, for looking at them and for damaging them. */
static inline uint8_t *slurp(const char *path, size_t *ret_n)
{
	FILE *f = fopen(path, "rbe");
	assert_non_null(f);
	struct stat st;
	assert_int_equal(fstat(fileno(f), &st), 0);
	uint8_t *bytes = malloc((size_t)st.st_size + 1);
	*ret_n = fread(bytes, 1, (size_t)st.st_size, f);
	assert_int_equal(*ret_n, st.st_size);
	fclose(f);
	return bytes;
}

static inline void spill(const char *path, const void *bytes, size_t n)
{
	FILE *f = fopen(path, "wbe");
	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

/* Names in a directory, without "." and "..". */
static inline size_t count_names(const char *path)
{
	DIR *dir = opendir(path);
	if (!dir)
		return 0;
	size_t n = 0;
	for (const struct dirent *e; (e = readdir(dir));)
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(dir);
	return n;
}
