/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the way from image files to JSON, by protobuf-c's reflection: a descriptor says where in the structure a
 * field, its count and its presence stand.
 */
#include "image/json.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "image/json_private.h"
#include "image/proto/ghost-file.pb-c.h"
#include "image/proto/ipc-msg.pb-c.h"
#include "image/proto/ipc-sem.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"

/* ---- messages ---- */

static void out_message(struct json_out *o, const ProtobufCMessage *message, bool hex);

static void out_string(struct json_out *o, const char *s)
{
	if (utf8_valid(s, strlen(s))) {
		json_text(o, s, strlen(s));
		return;
	}
	json_open(o, '{');
	json_key(o, "base64");
	json_base64(o, s, strlen(s));
	json_close(o, '}');
}

static void out_bytes(struct json_out *o, enum json_form form, const ProtobufCBinaryData *bytes)
{
	if (form != JSON_FORM_UNIX_NAME) {
		json_base64(o, bytes->data, bytes->len);
		return;
	}
	_cleanup_strbuf_ struct strbuf b = {0};
	qp_encode(&b, bytes->data, bytes->len);
	o->failed |= b.failed;
	json_text(o, strbuf_str(&b), b.n);
}

static void out_enum(struct json_out *o, const ProtobufCEnumDescriptor *type, int value)
{
	const ProtobufCEnumValue *found = protobuf_c_enum_descriptor_get_value(type, value);
	if (found)
		json_text(o, found->name, strlen(found->name));
	else
		json_wordf(o, "%d", value);
}

static void out_value(struct json_out *o, const ProtobufCFieldDescriptor *field, enum json_form form,
		      const void *value)
{
	uint32_t u32;
	uint64_t u64;
	switch (field->type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		out_message(o, *(const ProtobufCMessage *const *)value, form == JSON_FORM_HEX);
		return;
	case PROTOBUF_C_TYPE_STRING: out_string(o, *(const char *const *)value); return;
	case PROTOBUF_C_TYPE_BYTES: out_bytes(o, form, value); return;
	case PROTOBUF_C_TYPE_BOOL:
		json_word(o, *(const protobuf_c_boolean *)value ? "true" : "false");
		return;
	case PROTOBUF_C_TYPE_ENUM:
		memcpy(&u32, value, sizeof(u32));
		out_enum(o, field->descriptor, (int)u32);
		return;
	default: break;
	}
	if (json_value_bytes(field->type) == 8) {
		memcpy(&u64, value, sizeof(u64));
	} else {
		memcpy(&u32, value, sizeof(u32));
		u64 = json_is_signed(field->type) ? (uint64_t)(int64_t)(int32_t)u32 : u32;
	}
	json_number(o, form, json_is_signed(field->type), u64);
}

static void out_repeated(struct json_out *o, const ProtobufCFieldDescriptor *field, enum json_form form,
			 const void *values, size_t n)
{
	json_open(o, '[');
	if (form != JSON_FORM_IP || !json_ip(o, values, n))
		for (size_t i = 0; i < n; i++)
			out_value(o, field, form == JSON_FORM_IP ? JSON_FORM_PLAIN : form,
				  (const char *)values + i * json_value_bytes(field->type));
	json_close(o, ']');
}

/* Whether a field of label optional is there. */
static bool is_present(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
	const char *member = (const char *)message + field->offset;
	if (field->label == PROTOBUF_C_LABEL_REQUIRED)
		return true;
	if (field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE)
		return *(const void *const *)member != NULL;
	return *(const protobuf_c_boolean *)((const char *)message + field->quantifier_offset);
}

static void out_unknown(struct json_out *o, const ProtobufCMessage *message)
{
	json_key(o, JSON_UNKNOWN_KEY);
	json_open(o, '[');
	for (unsigned i = 0; i < message->n_unknown_fields; i++) {
		const ProtobufCMessageUnknownField *field = &message->unknown_fields[i];
		json_open(o, '{');
		json_key(o, "tag");
		json_wordf(o, "%" PRIu32, field->tag);
		json_key(o, "wire_type");
		json_wordf(o, "%d", (int)field->wire_type);
		json_key(o, "data");
		json_base64(o, field->data, field->len);
		json_close(o, '}');
	}
	json_close(o, ']');
}

/* The fields of a message, without braces, so that a caller can add keys of its own. */
static void out_fields(struct json_out *o, const ProtobufCMessage *message, bool hex)
{
	const ProtobufCMessageDescriptor *type = message->descriptor;
	const struct json_forms forms = json_forms_of(type);
	for (unsigned i = 0; i < type->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &type->fields[i];
		const char *member = (const char *)message + field->offset;
		enum json_form form = json_form_of(&forms, field);
		if (hex && form == JSON_FORM_PLAIN)
			form = JSON_FORM_HEX;
		if (!o->pretty && form != JSON_FORM_UNIX_NAME)
			form = JSON_FORM_PLAIN;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)((const char *)message + field->quantifier_offset);
			if (n) {
				json_key(o, field->name);
				out_repeated(o, field, form, *(const void *const *)member, n);
			}
		} else if (is_present(message, field)) {
			json_key(o, field->name);
			out_value(o, field, form, member);
		}
	}
	if (message->n_unknown_fields)
		out_unknown(o, message);
}

static void out_message(struct json_out *o, const ProtobufCMessage *message, bool hex)
{
	json_open(o, '{');
	out_fields(o, message, hex);
	json_close(o, '}');
}

int image_json_from_message(const ProtobufCMessage *message, const struct image_json_options *options,
			    struct strbuf *out)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	if (!f)
		return -errno;
	struct json_out o = {.f = f, .pretty = options->pretty};
	out_message(&o, message, false);
	if (fclose(f) == 0 && text && !o.failed)
		strbuf_add(out, text, n);
	else
		out->failed = true;
	free(text);
	return out->failed ? -ENOMEM : 0;
}

/* ---- what follows messages ---- */

struct decoder {
	struct json_out out;
	struct image_reader *r;
	const struct image_file_info *info;
	bool no_payloads;
	struct ferry_error *err;
};

/* The next n bytes, of which the last pad are padding, as base64 (without them) under the open key. */
static int out_raw(struct decoder *d, uint64_t n)
{
	if (n > image_reader_left(d->r))
		return image_bad(d->r, d->err, "truncated: %" PRIu64 " bytes should follow, %" PRIu64 " do",
				 n, image_reader_left(d->r));
	_cleanup_free_ uint8_t *bytes = malloc((size_t)n + 1);
	if (!bytes)
		return error_memory(d->err);
	int r = image_get_raw(d->r, bytes, (size_t)n, d->err);
	if (r == 0)
		json_base64(&d->out, bytes, (size_t)n);
	return r;
}

/* Padding is zero by rule; what is not has to survive all the same. */
static int out_pad(struct decoder *d, uint32_t n)
{
	static const uint8_t zeros[8];
	uint8_t pad[8];
	int r = image_get_raw(d->r, pad, n, d->err);
	if (r == 0 && memcmp(pad, zeros, n)) {
		json_key(&d->out, JSON_PAD_KEY);
		json_base64(&d->out, pad, n);
	}
	return r;
}

static int out_sem_values(struct decoder *d, uint64_t n)
{
	if (n > image_reader_left(d->r))
		return image_bad(d->r, d->err, "truncated: %" PRIu64 " bytes should follow, %" PRIu64 " do",
				 n, image_reader_left(d->r));
	json_open(&d->out, '[');
	for (uint64_t i = 0; i < n / 2; i++) {
		uint16_t value;
		int r = image_get_raw(d->r, &value, sizeof(value), d->err);
		if (r < 0)
			return r;
		json_wordf(&d->out, "%u", le16toh(value));
	}
	json_close(&d->out, ']');
	return 0;
}

/* Padding of a message's text cannot stand beside it in the list, so it goes into the message. */
static int out_msg(struct decoder *d)
{
	_cleanup_message_ IpcMsg *msg = NULL;
	int r = image_need(d->r, &ipc_msg__descriptor, &msg, d->err);
	if (r < 0)
		return r;
	uint64_t n;
	uint32_t pad;
	r = image_payload_bytes(IMAGE_PAYLOAD_MSG, &msg->base, &n, &pad);
	if (r < 0 || n > image_reader_left(d->r))
		return image_bad(d->r, d->err, "truncated: the text of a message is cut off");
	_cleanup_free_ uint8_t *bytes = malloc((size_t)n + 1);
	if (!bytes)
		return error_memory(d->err);
	r = image_get_raw(d->r, bytes, (size_t)n, d->err);
	if (r < 0)
		return r;
	static const uint8_t zeros[8];
	json_open(&d->out, '{');
	out_fields(&d->out, &msg->base, false);
	if (memcmp(bytes + n - pad, zeros, pad)) {
		json_key(&d->out, JSON_PAD_KEY);
		json_base64(&d->out, bytes + n - pad, pad);
	}
	json_close(&d->out, '}');
	json_base64(&d->out, bytes, (size_t)n - pad);
	return 0;
}

static int out_msg_queue(struct decoder *d, const IpcMsgEntry *queue)
{
	json_open(&d->out, '[');
	for (uint32_t i = 0; i < queue->qnum; i++) {
		int r = out_msg(d);
		if (r < 0)
			return r;
	}
	json_close(&d->out, ']');
	return 0;
}

static int out_tcp(struct decoder *d, const TcpStreamEntry *tcp)
{
	json_open(&d->out, '{');
	json_key(&d->out, "inq");
	int r = out_raw(d, tcp->inq_len);
	if (r < 0)
		return r;
	json_key(&d->out, "outq");
	r = out_raw(d, tcp->outq_len);
	json_close(&d->out, '}');
	return r;
}

static int out_payload(struct decoder *d, const ProtobufCMessage *message)
{
	enum image_payload payload = d->info->payload;
	uint64_t n;
	uint32_t pad;
	if (!image_has_payload(payload, message))
		return 0;
	if (image_payload_bytes(payload, message, &n, &pad) < 0)
		return image_bad(d->r, d->err, "the length of what follows cannot be");
	json_key(&d->out, JSON_EXTRA_KEY);
	if (payload == IMAGE_PAYLOAD_MSG)
		return out_msg_queue(d, (const IpcMsgEntry *)message);
	if (payload == IMAGE_PAYLOAD_TCP)
		return out_tcp(d, (const TcpStreamEntry *)message);
	if (image_payload_is_tail(payload, message))
		return out_raw(d, image_reader_left(d->r));
	int r = payload == IMAGE_PAYLOAD_SEM ? out_sem_values(d, n - pad) : out_raw(d, n - pad);
	return r < 0 || !pad ? r : out_pad(d, pad);
}

static int decode_entries(struct decoder *d)
{
	for (size_t i = 0;; i++) {
		_cleanup_message_ ProtobufCMessage *message = NULL;
		int r = image_get(d->r, image_type_at(d->info, i), &message, d->err);
		if (r <= 0)
			return r;
		json_open(&d->out, '{');
		out_fields(&d->out, message, false);
		r = d->no_payloads ? image_skip_payload(d->r, d->info, message, d->err)
				   : out_payload(d, message);
		if (r < 0)
			return r;
		json_close(&d->out, '}');
	}
}

int image_decode(struct image_reader *r, enum image_kind kind, const struct image_json_options *options,
		 FILE *out, struct ferry_error *err)
{
	struct decoder d = {
		.out = {.f = out, .pretty = options->pretty},
		.r = r,
		.info = image_file_info(kind),
		.no_payloads = options->no_payloads,
		.err = err,
	};
	if (d.info->layout == IMAGE_LAYOUT_RAW)
		return error_set(err, FERRY_ERROR_IMAGE_UNSUPPORTED, EOPNOTSUPP,
				 "%s holds raw bytes, no messages", image_reader_name(r));
	json_open(&d.out, '{');
	json_key(&d.out, "magic");
	json_text(&d.out, image_file_magic_word(kind), strlen(image_file_magic_word(kind)));
	json_key(&d.out, "entries");
	json_open(&d.out, '[');
	int ret = decode_entries(&d);
	if (ret < 0)
		return ret;
	json_close(&d.out, ']');
	json_close(&d.out, '}');
	fputc('\n', out);
	if (d.out.failed)
		return error_memory(err);
	if (fflush(out) != 0 || ferror(out))
		return error_errno(err, FERRY_ERROR_SYSTEM, errno ? errno : EIO,
				   "cannot write the JSON text");
	return 0;
}
