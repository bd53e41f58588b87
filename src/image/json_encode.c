/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the way from JSON to image files, by protobuf-c's reflection. The text is hostile: everything is checked. */
#include "image/json.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"
#include "image/json_private.h"
#include "image/proto/ghost-file.pb-c.h"
#include "image/proto/ipc-msg.pb-c.h"
#include "image/proto/ipc-sem.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"

/* ---- messages ---- */

struct encoder {
	const char *name; /* of the text, for messages */
	struct ferry_error *err;
	unsigned depth; /* of the message that is being read */
};

static int no_good(struct encoder *e, const ProtobufCMessageDescriptor *type, const char *field,
		   const char *text)
{
	return error_set(e->err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s: field '%s' of %s %s", e->name, field,
			 type->name, text);
}

/* An integer that JSON gives as a number or as text. */
static int in_number(struct json_object *json, enum json_form form, uint64_t *ret, bool *ret_negative)
{
	*ret_negative = false;
	if (json_object_is_type(json, json_type_string)) {
		const char *text = json_object_get_string(json);
		*ret_negative = text[0] == '-';
		if (strlen(text) != (size_t)json_object_get_string_len(json))
			return -EBADMSG;
		return json_parse_number(form, text, ret);
	}
	if (!json_object_is_type(json, json_type_int))
		return -EBADMSG;
	int64_t value = json_object_get_int64(json);
	*ret_negative = value < 0;
	*ret = value < 0 ? (uint64_t)value : json_object_get_uint64(json);
	return 0;
}

static int in_integer(ProtobufCType type, enum json_form form, struct json_object *json, void *value)
{
	uint64_t number;
	bool negative;
	int r = in_number(json, form, &number, &negative);
	if (r < 0)
		return r;
	bool wide = json_value_bytes(type) == 8;
	if (negative && !json_is_signed(type))
		return -ERANGE;
	/* The two's complement of a negative number has its top bit set, unless it was too small. */
	if (json_is_signed(type) && (number >> 63) != negative && number)
		return -ERANGE;
	if (!wide && json_is_signed(type) && (int64_t)number != (int32_t)number)
		return -ERANGE;
	if (!wide && !json_is_signed(type) && number > UINT32_MAX)
		return -ERANGE;
	uint32_t narrow = (uint32_t)number;
	if (wide)
		memcpy(value, &number, sizeof(number));
	else
		memcpy(value, &narrow, sizeof(narrow));
	return 0;
}

static int in_enum(const ProtobufCEnumDescriptor *type, struct json_object *json, void *value)
{
	int32_t number;
	const ProtobufCEnumValue *found = NULL;
	if (json_object_is_type(json, json_type_string))
		found = protobuf_c_enum_descriptor_get_value_by_name(type, json_object_get_string(json));
	if (!found)
		return in_integer(PROTOBUF_C_TYPE_INT32, JSON_FORM_PLAIN, json, value);
	number = found->value;
	memcpy(value, &number, sizeof(number));
	return 0;
}

/* Text into new bytes, one NUL behind them. */
static int in_text(enum json_form form, bool is_base64, struct json_object *json, char **ret, size_t *ret_n)
{
	if (!json_object_is_type(json, json_type_string))
		return -EBADMSG;
	const char *text = json_object_get_string(json);
	size_t n = (size_t)json_object_get_string_len(json);
	_cleanup_strbuf_ struct strbuf b = {0};
	int r = 0;
	if (form == JSON_FORM_UNIX_NAME)
		r = qp_decode(&b, text, n);
	else if (is_base64)
		r = base64_decode(&b, text, n);
	else
		strbuf_add(&b, text, n);
	if (r < 0)
		return r;
	*ret_n = b.n;
	*ret = strbuf_take(&b);
	return *ret ? 0 : -ENOMEM;
}

static int in_string(struct json_object *json, char **ret)
{
	struct json_object *encoded = NULL;
	bool is_base64 = json_object_is_type(json, json_type_object);
	if (is_base64 && !json_object_object_get_ex(json, "base64", &encoded))
		return -EBADMSG;
	char *s = NULL;
	size_t n = 0;
	int r = in_text(JSON_FORM_PLAIN, is_base64, is_base64 ? encoded : json, &s, &n);
	if (r == 0 && strlen(s) != n) {
		free(s);
		return -EBADMSG;
	}
	if (r == 0)
		*ret = s;
	return r;
}

static int in_bool(struct json_object *json, void *value)
{
	if (!json_object_is_type(json, json_type_boolean))
		return -EBADMSG;
	protobuf_c_boolean b = json_object_get_boolean(json);
	memcpy(value, &b, sizeof(b));
	return 0;
}

static int in_message(struct encoder *e, struct json_object *json, const ProtobufCMessageDescriptor *type,
		      bool hex, ProtobufCMessage **ret);

static int in_value(struct encoder *e, const ProtobufCFieldDescriptor *field, enum json_form form,
		    struct json_object *json, void *value)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		return in_message(e, json, field->descriptor, form == JSON_FORM_HEX, value);
	case PROTOBUF_C_TYPE_STRING: return in_string(json, value);
	case PROTOBUF_C_TYPE_BYTES: {
		ProtobufCBinaryData *bytes = value;
		return in_text(form, true, json, (char **)&bytes->data, &bytes->len);
	}
	case PROTOBUF_C_TYPE_BOOL: return in_bool(json, value);
	case PROTOBUF_C_TYPE_ENUM: return in_enum(field->descriptor, json, value);
	default: return in_integer(field->type, form, json, value);
	}
}

/* An address is one text that stands for several words. */
static int in_address(struct json_object *json, void **ret_values, size_t *ret_n)
{
	uint32_t *words = calloc(4, sizeof(*words));
	if (!words)
		return -ENOMEM;
	*ret_values = words;
	return json_parse_ip(json_object_get_string(json), words, ret_n);
}

static int in_repeated(struct encoder *e, const ProtobufCFieldDescriptor *field, enum json_form form,
		       struct json_object *json, void **values, size_t *n)
{
	if (!json_object_is_type(json, json_type_array))
		return -EBADMSG;
	size_t length = json_object_array_length(json), each = json_value_bytes(field->type);
	struct json_object *first = length ? json_object_array_get_idx(json, 0) : NULL;
	if (form == JSON_FORM_IP && length == 1 && json_object_is_type(first, json_type_string))
		return in_address(first, values, n);
	if (!length)
		return 0;
	*values = calloc(length, each);
	if (!*values)
		return -ENOMEM;
	for (size_t i = 0; i < length; i++) {
		/* Counted first: what is half filled is freed with the message. */
		*n = i + 1;
		int r = in_value(e, field, form, json_object_array_get_idx(json, i),
				 (char *)*values + i * each);
		if (r < 0)
			return r;
	}
	return 0;
}

static int in_unknown_field(struct json_object *json, ProtobufCMessageUnknownField *field)
{
	struct json_object *tag, *wire_type, *data;
	if (!json_object_object_get_ex(json, "tag", &tag) ||
	    !json_object_object_get_ex(json, "wire_type", &wire_type) ||
	    !json_object_object_get_ex(json, "data", &data))
		return -EBADMSG;
	uint32_t number, type;
	int r = in_integer(PROTOBUF_C_TYPE_UINT32, JSON_FORM_PLAIN, tag, &number);
	if (r == 0)
		r = in_integer(PROTOBUF_C_TYPE_UINT32, JSON_FORM_PLAIN, wire_type, &type);
	if (r == 0 && (!number || number >> 29 || type > 5))
		r = -ERANGE;
	if (r < 0)
		return r;
	field->tag = number;
	field->wire_type = (ProtobufCWireType)type;
	return in_text(JSON_FORM_PLAIN, true, data, (char **)&field->data, &field->len);
}

static int in_unknown(struct json_object *json, ProtobufCMessage *message)
{
	if (!json_object_is_type(json, json_type_array) || message->unknown_fields)
		return -EBADMSG;
	size_t n = json_object_array_length(json);
	message->unknown_fields = calloc(n ? n : 1, sizeof(*message->unknown_fields));
	if (!message->unknown_fields)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		message->n_unknown_fields = (unsigned)i + 1;
		int r = in_unknown_field(json_object_array_get_idx(json, i), &message->unknown_fields[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int in_field(struct encoder *e, ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
		    enum json_form form, struct json_object *json)
{
	char *member = (char *)message + field->offset,
	     *quantifier = (char *)message + field->quantifier_offset;
	if (field->label == PROTOBUF_C_LABEL_REPEATED)
		return in_repeated(e, field, form, json, (void **)member, (size_t *)quantifier);
	int r = in_value(e, field, form, json, member);
	if (r < 0)
		return r;
	if (field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type != PROTOBUF_C_TYPE_STRING &&
	    field->type != PROTOBUF_C_TYPE_MESSAGE)
		*(protobuf_c_boolean *)quantifier = 1;
	return 0;
}

/* Keys that the encoder of whole files reads itself. */
static bool is_own_key(const char *key)
{
	return !strcmp(key, JSON_EXTRA_KEY) || !strcmp(key, JSON_PAD_KEY);
}

static int in_fields(struct encoder *e, struct json_object *json, ProtobufCMessage *message, bool hex,
		     uint64_t *ret_seen)
{
	const ProtobufCMessageDescriptor *type = message->descriptor;
	const struct json_forms forms = json_forms_of(type);
	json_object_object_foreach(json, key, value)
	{
		const ProtobufCFieldDescriptor *field =
			protobuf_c_message_descriptor_get_field_by_name(type, key);
		if (!field && e->depth == 1 && is_own_key(key))
			continue;
		enum json_form form = field ? json_form_of(&forms, field) : JSON_FORM_PLAIN;
		if (hex && form == JSON_FORM_PLAIN)
			form = JSON_FORM_HEX;
		int r = -EBADMSG;
		if (field)
			r = in_field(e, message, field, form, value);
		else if (!strcmp(key, JSON_UNKNOWN_KEY))
			r = in_unknown(value, message);
		else
			return no_good(e, type, key, "is not known");
		if (r == -ENOMEM)
			return error_memory(e->err);
		if (r < 0)
			return no_good(e, type, key, r == -ERANGE ? "is out of range" : "is malformed");
		if (field)
			ret_seen[(size_t)(field - type->fields) / 64] |= 1ull << (field - type->fields) % 64;
	}
	return 0;
}

static int in_message(struct encoder *e, struct json_object *json, const ProtobufCMessageDescriptor *type,
		      bool hex, ProtobufCMessage **ret)
{
	uint64_t seen[4] = {0};
	if (!json_object_is_type(json, json_type_object) || e->depth >= IMAGE_DEPTH_MAX ||
	    type->n_fields > 256)
		return -EBADMSG;
	_cleanup_message_ ProtobufCMessage *message = calloc(1, type->sizeof_message);
	if (!message)
		return -ENOMEM;
	protobuf_c_message_init(type, message);
	e->depth++;
	int r = in_fields(e, json, message, hex, seen);
	e->depth--;
	if (r < 0)
		return r;
	for (unsigned i = 0; i < type->n_fields; i++)
		if (type->fields[i].label == PROTOBUF_C_LABEL_REQUIRED && !(seen[i / 64] >> i % 64 & 1))
			return no_good(e, type, type->fields[i].name, "is missing");
	*ret = take_ptr(message);
	return 0;
}

static int top_message(struct encoder *e, struct json_object *json, const ProtobufCMessageDescriptor *type,
		       ProtobufCMessage **ret)
{
	int r = in_message(e, json, type, false, ret);
	if (r == -ENOMEM)
		return error_memory(e->err);
	if (r < 0)
		return error_set(e->err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s: no valid %s", e->name,
				 type->name);
	return 0;
}

int image_json_to_message(struct json_object *json, const ProtobufCMessageDescriptor *type,
			  ProtobufCMessage **ret_message, struct ferry_error *err)
{
	struct encoder e = {.name = "JSON", .err = err};
	return top_message(&e, json, type, ret_message);
}

/* ---- what follows messages ---- */

static int bad_extra(struct encoder *e, const char *text)
{
	return error_set(e->err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s: '%s' %s", e->name, JSON_EXTRA_KEY,
			 text);
}

/* Base64 text whose bytes have to be want many (UINT64_MAX: any). */
static int put_base64(struct encoder *e, struct image_writer *w, struct json_object *json, uint64_t want)
{
	_cleanup_free_ char *bytes = NULL;
	size_t n;
	int r = in_text(JSON_FORM_PLAIN, true, json, &bytes, &n);
	if (r == -ENOMEM)
		return error_memory(e->err);
	if (r < 0)
		return bad_extra(e, "is no base64 text");
	if (want != UINT64_MAX && n != want)
		return bad_extra(e, "has not as many bytes as its message says");
	return image_put_raw(w, bytes, n, e->err);
}

static int put_pad(struct encoder *e, struct image_writer *w, struct json_object *message, uint32_t n)
{
	static const uint8_t zeros[8];
	struct json_object *pad;
	if (n && json_object_object_get_ex(message, JSON_PAD_KEY, &pad))
		return put_base64(e, w, pad, n);
	return image_put_raw(w, zeros, n, e->err);
}

static int put_sem_values(struct encoder *e, struct image_writer *w, struct json_object *json, uint32_t n)
{
	if (!json_object_is_type(json, json_type_array) || json_object_array_length(json) != n)
		return bad_extra(e, "has not as many values as its message says");
	for (uint32_t i = 0; i < n; i++) {
		uint32_t value;
		if (in_integer(PROTOBUF_C_TYPE_UINT32, JSON_FORM_PLAIN, json_object_array_get_idx(json, i),
			       &value) < 0 ||
		    value > UINT16_MAX)
			return bad_extra(e, "holds what is no 16-bit number");
		uint16_t word = htole16((uint16_t)value);
		int r = image_put_raw(w, &word, sizeof(word), e->err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int put_msg(struct encoder *e, struct image_writer *w, struct json_object *head,
		   struct json_object *text)
{
	_cleanup_message_ ProtobufCMessage *message = NULL;
	int r = top_message(e, head, &ipc_msg__descriptor, &message);
	if (r < 0)
		return r;
	uint64_t n;
	uint32_t pad;
	r = image_payload_bytes(IMAGE_PAYLOAD_MSG, message, &n, &pad);
	if (r < 0)
		return bad_extra(e, "is too large");
	r = image_put(w, message, e->err);
	if (r == 0)
		r = put_base64(e, w, text, n - pad);
	return r < 0 ? r : put_pad(e, w, head, pad);
}

static int put_msg_queue(struct encoder *e, struct image_writer *w, struct json_object *json, uint32_t qnum)
{
	if (!json_object_is_type(json, json_type_array) || json_object_array_length(json) != (size_t)qnum * 2)
		return bad_extra(e, "has not as many messages as the queue says");
	for (uint32_t i = 0; i < qnum; i++) {
		int r = put_msg(e, w, json_object_array_get_idx(json, i * 2),
				json_object_array_get_idx(json, i * 2 + 1));
		if (r < 0)
			return r;
	}
	return 0;
}

static int put_tcp(struct encoder *e, struct image_writer *w, struct json_object *json,
		   const TcpStreamEntry *tcp)
{
	struct json_object *in, *out;
	if (!json_object_is_type(json, json_type_object) || !json_object_object_get_ex(json, "inq", &in) ||
	    !json_object_object_get_ex(json, "outq", &out))
		return bad_extra(e, "lacks a queue");
	int r = put_base64(e, w, in, tcp->inq_len);
	return r < 0 ? r : put_base64(e, w, out, tcp->outq_len);
}

static int put_payload(struct encoder *e, struct image_writer *w, enum image_payload payload,
		       const ProtobufCMessage *message, struct json_object *json)
{
	struct json_object *extra;
	uint64_t n;
	uint32_t pad;
	if (!image_has_payload(payload, message))
		return 0;
	if (image_payload_bytes(payload, message, &n, &pad) < 0 ||
	    !json_object_object_get_ex(json, JSON_EXTRA_KEY, &extra))
		return bad_extra(e, "is missing or too large");
	if (payload == IMAGE_PAYLOAD_MSG)
		return put_msg_queue(e, w, extra, ((const IpcMsgEntry *)message)->qnum);
	if (payload == IMAGE_PAYLOAD_TCP)
		return put_tcp(e, w, extra, (const TcpStreamEntry *)message);
	if (image_payload_is_tail(payload, message))
		return put_base64(e, w, extra, UINT64_MAX);
	int r = payload == IMAGE_PAYLOAD_SEM
			? put_sem_values(e, w, extra, ((const IpcSemEntry *)message)->nsems)
			: put_base64(e, w, extra, n - pad);
	return r < 0 ? r : put_pad(e, w, json, pad);
}

static int encode_entries(struct encoder *e, struct json_object *entries, enum image_kind kind,
			  struct image_writer *w)
{
	const struct image_file_info *info = image_file_info(kind);
	for (size_t i = 0; i < json_object_array_length(entries); i++) {
		struct json_object *json = json_object_array_get_idx(entries, i);
		_cleanup_message_ ProtobufCMessage *message = NULL;
		int r = top_message(e, json, image_type_at(info, i), &message);
		if (r == 0)
			r = image_put(w, message, e->err);
		if (r == 0)
			r = put_payload(e, w, info->payload, message, json);
		if (r < 0)
			return r;
	}
	return 0;
}

static int find_parts(struct encoder *e, struct json_object *root, enum image_kind *ret_kind,
		      struct json_object **ret_entries)
{
	struct json_object *magic;
	if (!json_object_is_type(root, json_type_object) ||
	    !json_object_object_get_ex(root, "magic", &magic) ||
	    !json_object_is_type(magic, json_type_string) ||
	    !json_object_object_get_ex(root, "entries", ret_entries) ||
	    !json_object_is_type(*ret_entries, json_type_array))
		return error_set(e->err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "%s: no object with a 'magic' and a list of 'entries'", e->name);
	const char *word = json_object_get_string(magic);
	if (image_file_by_word(word, ret_kind) < 0 || image_file_info(*ret_kind)->layout == IMAGE_LAYOUT_RAW)
		return error_set(e->err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s: '%s' is no magic that is known",
				 e->name, word);
	return 0;
}

static int parse(struct encoder *e, const char *text, size_t n, struct json_object **ret)
{
	if (n > INT32_MAX)
		return error_set(e->err, FERRY_ERROR_LIMIT, EFBIG, "%s: more than 2 GiB of JSON", e->name);
	struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
	if (!tokener)
		return error_memory(e->err);
	struct json_object *root = json_tokener_parse_ex(tokener, text, (int)n);
	enum json_tokener_error code = json_tokener_get_error(tokener);
	size_t end = json_tokener_get_parse_end(tokener);
	json_tokener_free(tokener);
	while (end < n && strchr(" \t\r\n", text[end]) && text[end])
		end++;
	if (root && code == json_tokener_success && end == n) {
		*ret = root;
		return 0;
	}
	json_object_put(root);
	return error_set(e->err, FERRY_ERROR_IMAGE_BAD, EBADMSG, "%s, offset %zu: no valid JSON: %s", e->name,
			 end,
			 code == json_tokener_success    ? "something follows its end"
			 : code == json_tokener_continue ? "its end is missing"
							 : json_tokener_error_desc(code));
}

int image_encode(const char *text, size_t n, const char *name, int fd, struct ferry_error *err)
{
	struct encoder e = {.name = name, .err = err};
	struct json_object *root = NULL, *entries = NULL;
	struct image_writer *w = NULL;
	enum image_kind kind;
	int r = parse(&e, text, n, &root);
	if (r == 0)
		r = find_parts(&e, root, &kind, &entries);
	if (r == 0) {
		int copy = fd_dup(fd, 3);
		r = copy < 0 ? error_errno(err, FERRY_ERROR_SYSTEM, -copy, "cannot copy a descriptor")
			     : image_create_fd(copy, name, kind, &w, err);
	}
	if (r == 0)
		r = encode_entries(&e, entries, kind, w);
	int closed = image_close(w, err);
	json_object_put(root);
	return r < 0 ? r : closed;
}
