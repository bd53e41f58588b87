/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image files as JSON and back, in the shape that crit gives them:
 *	{"magic": "CORE", "entries": [{...}, ...]}
 * Raw bytes are base64; what follows a message stands under "extra". In the pretty form addresses, flags,
 * devices and a few numbers are written for people ("0x7f..", "O_RDONLY | O_CLOEXEC", "8:1"); the encoder
 * takes either form. Decoding and encoding again gives the same bytes.
 *
 * Beyond crit: a string that is no valid UTF-8 becomes {"base64": "..."}.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <protobuf-c/protobuf-c.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/strbuf.h"
#include "image/file.h"

struct json_object;

struct image_json_options {
	bool pretty;      /* indented by four columns, and values for people */
	bool no_payloads; /* leave "extra" out: such JSON cannot be encoded again */
};

/* Write the rest of the file that r reads (freshly opened) as JSON. */
must_check int image_decode(struct image_reader *r, enum image_kind kind,
			    const struct image_json_options *options, FILE *out, struct ferry_error *err);

/* The bytes of the image file that the JSON text describes are written to fd; name is for messages. */
must_check int image_encode(const char *text, size_t n, const char *name, int fd, struct ferry_error *err);

/* One message alone. */
must_check int image_json_from_message(const ProtobufCMessage *message,
				       const struct image_json_options *options, struct strbuf *out);
must_check int image_json_to_message(struct json_object *json, const ProtobufCMessageDescriptor *type,
				     ProtobufCMessage **ret_message, struct ferry_error *err);
