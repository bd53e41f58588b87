/* SPDX-License-Identifier: Apache-2.0 */
/* What the JSON parts share: an emitter, byte codes, and values in a form for people. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <protobuf-c/protobuf-c.h>

#include "base/macros.h"
#include "base/strbuf.h"
#include "image/file.h"

/* ---- emitter: the text that Python's json module would write ---- */

enum { JSON_DEPTH_MAX = IMAGE_DEPTH_MAX * 2 + 16 };

struct json_out {
	FILE *f;
	bool pretty;
	unsigned depth;
	bool used[JSON_DEPTH_MAX]; /* something stands in the object or array of that depth */
	bool after_key;
	bool failed; /* memory was short: the text is not whole */
};

void json_open(struct json_out *o, char bracket);
void json_close(struct json_out *o, char bracket);
void json_key(struct json_out *o, const char *key);
void json_text(struct json_out *o, const char *s, size_t n); /* valid UTF-8 */
void json_word(struct json_out *o, const char *word);        /* as is: true, 12 */
void json_wordf(struct json_out *o, const char *fmt, ...) printf_like(2, 3);
void json_base64(struct json_out *o, const void *bytes, size_t n);

/* Keys that are no fields. */
#define JSON_EXTRA_KEY "extra"            /* bytes that follow the message */
#define JSON_PAD_KEY "pad"                /* padding behind them, where it is not zero */
#define JSON_UNKNOWN_KEY "unknown_fields" /* fields that the schema does not have */

/* Bytes of a value in protobuf-c's structures. */
size_t json_value_bytes(ProtobufCType type);
bool json_is_signed(ProtobufCType type);

/* ---- byte codes ---- */

bool utf8_valid(const char *s, size_t n);

/* Lines of 76 characters, each with a newline. */
void base64_encode(struct strbuf *out, const void *bytes, size_t n);

/* Skips white space; -EBADMSG. */
must_check int base64_decode(struct strbuf *out, const char *s, size_t n);

/* Quoted-printable (RFC 2045), for names of unix sockets. */
void qp_encode(struct strbuf *out, const void *bytes, size_t n);
must_check int qp_decode(struct strbuf *out, const char *s, size_t n);

/* ---- forms ---- */

enum json_form {
	JSON_FORM_PLAIN,
	JSON_FORM_HEX,
	JSON_FORM_IP,
	JSON_FORM_UNIX_NAME,
	JSON_FORM_KERNEL_DEV, /* "major:minor" of major << 20 | minor */
	JSON_FORM_STAT_DEV,   /* "major:minor" of the encoding in stat(2) */
	/* one word for the value, a number when there is none */
	JSON_FORM_TASK_STATE,
	JSON_FORM_SK_FAMILY,
	JSON_FORM_SK_TYPE,
	JSON_FORM_SK_PROTO,
	JSON_FORM_SK_STATE,
	/* words joined by " | ", what is left in hexadecimal */
	JSON_FORM_MMAP_PROT,
	JSON_FORM_MMAP_FLAGS,
	JSON_FORM_MMAP_STATUS,
	JSON_FORM_PAGEMAP_FLAGS,
	JSON_FORM_OPEN_FLAGS,
	JSON_FORM_SEALS,
};

/* The fields of one message that have a form. */
struct json_forms {
	const struct field_form *first;
	size_t n;
};

struct json_forms json_forms_of(const ProtobufCMessageDescriptor *message);
enum json_form json_form_of(const struct json_forms *forms, const ProtobufCFieldDescriptor *field);

/* Emit a number in a form. */
void json_number(struct json_out *o, enum json_form form, bool is_signed, uint64_t value);

/* The number that a text in a form stands for; also plain decimal and 0x. -EBADMSG. */
must_check int json_parse_number(enum json_form form, const char *text, uint64_t *ret);

/* Addresses: 1 or 4 words; others cannot be shown so (false). */
bool json_ip(struct json_out *o, const uint32_t *words, size_t n);

/* Words of an address; *ret_n is 1 or 4. */
must_check int json_parse_ip(const char *text, uint32_t words[4], size_t *ret_n);
