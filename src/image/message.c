/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns what is asked of a message before it is believed, and what follows messages. Bytes are checked against the
 * schema before protobuf-c sees them.
 */
#include "image/file.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "image/proto/bpfmap-data.pb-c.h"
#include "image/proto/ghost-file.pb-c.h"
#include "image/proto/ipc-msg.pb-c.h"
#include "image/proto/ipc-sem.pb-c.h"
#include "image/proto/ipc-shm.pb-c.h"
#include "image/proto/pipe-data.pb-c.h"
#include "image/proto/sk-packet.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"

enum { WIRE_FIELD_MAX = (1 << 29) - 1 }; /* field numbers of protocol buffers */

struct wire {
	const uint8_t *p, *end;
};

/* A varint of at most 10 bytes; false when the bytes end inside it. */
static bool wire_varint(struct wire *w, uint64_t *ret)
{
	uint64_t value = 0;
	for (unsigned shift = 0; shift < 70 && w->p < w->end; shift += 7) {
		uint8_t byte = *w->p++;
		value |= (uint64_t)(byte & 0x7f) << MIN(shift, 63u);
		if (!(byte & 0x80)) {
			*ret = value;
			return true;
		}
	}
	return false;
}

static bool wire_skip(struct wire *w, uint64_t n)
{
	if (n > (uint64_t)(w->end - w->p))
		return false;
	w->p += n;
	return true;
}

/*
 * protobuf-c unpacks nested messages by recursion without a limit and cuts strings at a NUL; both are found here,
 * before it sees the bytes. Returns NULL or what is wrong. Recursion is bounded by depth.
 */
static const char *wire_check(struct wire w, const ProtobufCMessageDescriptor *type, unsigned depth)
{
	if (depth > IMAGE_DEPTH_MAX)
		return "messages are nested too deeply";
	while (w.p < w.end) {
		uint64_t tag, n = 0;
		if (!wire_varint(&w, &tag))
			return "a field's tag is cut off";
		if (!(tag >> 3) || tag >> 3 > WIRE_FIELD_MAX)
			return "a field's number cannot be";
		bool ok = true;
		switch (tag & 7) {
		case 0: ok = wire_varint(&w, &n); break;
		case 1: ok = wire_skip(&w, 8); break;
		case 2: ok = wire_varint(&w, &n) && wire_skip(&w, n); break;
		case 5: ok = wire_skip(&w, 4); break;
		default: return "a field has an unknown wire type";
		}
		if (!ok)
			return "a field is longer than its message";
		if ((tag & 7) != 2)
			continue;
		const ProtobufCFieldDescriptor *field =
			protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3));
		const char *wrong = NULL;
		if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
			wrong = wire_check((struct wire){w.p - n, w.p}, field->descriptor, depth + 1);
		else if (field && field->type == PROTOBUF_C_TYPE_STRING && n && memchr(w.p - n, 0, (size_t)n))
			wrong = "a string holds a NUL";
		if (wrong)
			return wrong;
	}
	return NULL;
}

int image_unpack(const char *name, uint64_t offset, const ProtobufCMessageDescriptor *type,
		 const uint8_t *bytes, size_t n, ProtobufCMessage **ret_message, struct ferry_error *err)
{
	/* An empty message has no bytes to point to. */
	const uint8_t *from = bytes ? bytes : (const uint8_t *)"";
	const char *wrong = wire_check((struct wire){from, from + n}, type, 1);
	ProtobufCMessage *message = NULL;
	if (!wrong) {
		message = protobuf_c_message_unpack(type, NULL, n, from);
		if (!message)
			wrong = "a required field is missing or a field is damaged";
	}
	if (wrong)
		return error_set(err, FERRY_ERROR_IMAGE_BAD, EBADMSG,
				 "%s, offset %" PRIu64 ": no valid %s (%zu bytes): %s", name, offset,
				 type->name, n, wrong);
	*ret_message = message;
	return 0;
}

int image_payload_bytes(enum image_payload payload, const ProtobufCMessage *message, uint64_t *ret_bytes,
			uint32_t *ret_pad)
{
	uint64_t n = 0, grain = 1;
	switch (payload) {
	case IMAGE_PAYLOAD_PIPE: n = ((const PipeDataEntry *)message)->bytes; break;
	case IMAGE_PAYLOAD_PACKET: n = ((const SkPacketEntry *)message)->length; break;
	case IMAGE_PAYLOAD_SHM:
		n = ((const IpcShmEntry *)message)->in_pagemaps ? 0 : ((const IpcShmEntry *)message)->size;
		grain = 4;
		break;
	case IMAGE_PAYLOAD_MSG:
		/* Of an ipc_msg; the queue's own entry is followed by messages. */
		n = message->descriptor == &ipc_msg__descriptor ? ((const IpcMsg *)message)->msize : 0;
		grain = 8;
		break;
	case IMAGE_PAYLOAD_SEM:
		n = (uint64_t)((const IpcSemEntry *)message)->nsems * 2;
		grain = 8;
		break;
	case IMAGE_PAYLOAD_GHOST:
		/* Of a chunk; without chunks the file itself says where its bytes end. */
		n = message->descriptor == &ghost_chunk_entry__descriptor
			    ? ((const GhostChunkEntry *)message)->len
			    : 0;
		break;
	case IMAGE_PAYLOAD_TCP:
		n = (uint64_t)((const TcpStreamEntry *)message)->inq_len +
		    ((const TcpStreamEntry *)message)->outq_len;
		break;
	case IMAGE_PAYLOAD_BPF:
		n = (uint64_t)((const BpfmapDataEntry *)message)->keys_bytes +
		    ((const BpfmapDataEntry *)message)->values_bytes;
		break;
	case IMAGE_PAYLOAD_NONE: break;
	}
	if (n > INT64_MAX)
		return -EBADMSG;
	*ret_pad = (uint32_t)(align_up(n, grain) - n);
	*ret_bytes = n + *ret_pad;
	return 0;
}

/* A deleted file's bytes go on to the end of the image file, unless they come in chunks. */
bool image_has_payload(enum image_payload payload, const ProtobufCMessage *message)
{
	if (payload == IMAGE_PAYLOAD_GHOST && message->descriptor == &ghost_file_entry__descriptor)
		return !((const GhostFileEntry *)message)->chunks;
	return payload != IMAGE_PAYLOAD_NONE;
}

bool image_payload_is_tail(enum image_payload payload, const ProtobufCMessage *message)
{
	return payload == IMAGE_PAYLOAD_GHOST && message->descriptor == &ghost_file_entry__descriptor &&
	       !((const GhostFileEntry *)message)->chunks;
}

static int skip_one(struct image_reader *r, enum image_payload payload, const ProtobufCMessage *message,
		    struct ferry_error *err)
{
	uint64_t n = 0;
	uint32_t pad;
	if (image_payload_bytes(payload, message, &n, &pad) < 0)
		return image_bad(r, err, "the length of what follows cannot be");
	return image_skip_raw(r, n, err);
}

int image_skip_payload(struct image_reader *r, const struct image_file_info *info,
		       const ProtobufCMessage *message, struct ferry_error *err)
{
	if (image_payload_is_tail(info->payload, message))
		return image_skip_raw(r, image_reader_left(r), err);
	if (info->payload != IMAGE_PAYLOAD_MSG)
		return skip_one(r, info->payload, message, err);
	for (uint32_t i = 0; i < ((const IpcMsgEntry *)message)->qnum; i++) {
		_cleanup_message_ IpcMsg *msg = NULL;
		int ret = image_need(r, &ipc_msg__descriptor, &msg, err);
		if (ret == 0)
			ret = skip_one(r, info->payload, &msg->base, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

const ProtobufCMessageDescriptor *image_type_at(const struct image_file_info *info, size_t index)
{
	return index && info->second && info->layout != IMAGE_LAYOUT_MANY ? info->second : info->first;
}
