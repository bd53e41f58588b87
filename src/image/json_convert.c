/* SPDX-License-Identifier: Apache-2.0 */
/* Owns values in a form for people: which field has which form (fields.def), and the words of each form. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "image/json_private.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/fh.pb-c.h"
#include "image/proto/ghost-file.pb-c.h"
#include "image/proto/memfd.pb-c.h"
#include "image/proto/mm.pb-c.h"
#include "image/proto/mnt.pb-c.h"
#include "image/proto/netdev.pb-c.h"
#include "image/proto/pagemap.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"

struct field_form {
	const ProtobufCMessageDescriptor *message;
	const char *field;
	enum json_form form;
};

static const struct field_form field_forms[] = {
#define IMAGE_FIELD(message, field, form) {&message##__descriptor, #field, JSON_FORM_##form},
#include "image/fields.def"
#undef IMAGE_FIELD
};

struct word {
	uint32_t value;
	const char *word;
};

#define WORDS(name, ...) static const struct word name[] = {__VA_ARGS__, {0, NULL}}

WORDS(task_states, {1, "Alive"}, {3, "Zombie"}, {6, "Stopped"});
WORDS(sk_families, {1, "UNIX"}, {2, "INET"}, {10, "INET6"}, {16, "NETLINK"}, {17, "PACKET"});
WORDS(sk_types, {1, "STREAM"}, {2, "DGRAM"}, {3, "RAW"}, {5, "SEQPACKET"}, {10, "PACKET"});
WORDS(sk_protos, {0, "IP"}, {6, "TCP"}, {17, "UDP"}, {136, "UDPLITE"});
WORDS(sk_states, {1, "ESTABLISHED"}, {2, "SYN_SENT"}, {3, "SYN_RECV"}, {4, "FIN_WAIT1"}, {5, "FIN_WAIT2"},
      {6, "TIME_WAIT"}, {7, "CLOSE"}, {8, "CLOSE_WAIT"}, {9, "LAST_ACK"}, {10, "LISTEN"});
WORDS(mmap_prot, {1, "PROT_READ"}, {2, "PROT_WRITE"}, {4, "PROT_EXEC"});
WORDS(mmap_flags, {1, "MAP_SHARED"}, {2, "MAP_PRIVATE"}, {8, "MAP_DROPPABLE"}, {0x20, "MAP_ANON"},
      {0x100, "MAP_GROWSDOWN"});
WORDS(mmap_status, {1 << 0, "VMA_AREA_REGULAR"}, {1 << 1, "VMA_AREA_STACK"}, {1 << 2, "VMA_AREA_VSYSCALL"},
      {1 << 3, "VMA_AREA_VDSO"}, {1 << 5, "VMA_AREA_HEAP"}, {1 << 6, "VMA_FILE_PRIVATE"},
      {1 << 7, "VMA_FILE_SHARED"}, {1 << 8, "VMA_ANON_SHARED"}, {1 << 9, "VMA_ANON_PRIVATE"},
      {1 << 10, "VMA_AREA_SYSVIPC"}, {1 << 11, "VMA_AREA_SOCKET"}, {1 << 12, "VMA_AREA_VVAR"},
      {1 << 13, "VMA_AREA_AIORING"}, {1 << 14, "VMA_AREA_MEMFD"}, {1 << 15, "VMA_AREA_SHSTK"},
      {1 << 17, "VMA_AREA_UPROBES"}, {1u << 31, "VMA_UNSUPP"});
WORDS(pagemap_flags, {1, "PE_PARENT"}, {2, "PE_LAZY"}, {4, "PE_PRESENT"});
/* The order is part of the text. */
WORDS(open_flags, {01, "O_WRONLY"}, {02, "O_RDWR"}, {0100, "O_CREAT"}, {0200, "O_EXCL"}, {0400, "O_NOCTTY"},
      {01000, "O_TRUNC"}, {02000, "O_APPEND"}, {04000, "O_NONBLOCK"}, {010000, "O_DSYNC"}, {020000, "FASYNC"},
      {040000, "O_DIRECT"}, {0100000, "O_LARGEFILE"}, {0200000, "O_DIRECTORY"}, {0400000, "O_NOFOLLOW"},
      {01000000, "O_NOATIME"}, {02000000, "O_CLOEXEC"});
WORDS(seals, {1, "F_SEAL_SEAL"}, {2, "F_SEAL_SHRINK"}, {4, "F_SEAL_GROW"}, {8, "F_SEAL_WRITE"},
      {16, "F_SEAL_FUTURE_WRITE"});

struct form_info {
	const struct word *words;
	bool is_set; /* words are bits */
};

static const struct form_info form_infos[] = {
	[JSON_FORM_TASK_STATE] = {task_states, false},
	[JSON_FORM_SK_FAMILY] = {sk_families, false},
	[JSON_FORM_SK_TYPE] = {sk_types, false},
	[JSON_FORM_SK_PROTO] = {sk_protos, false},
	[JSON_FORM_SK_STATE] = {sk_states, false},
	[JSON_FORM_MMAP_PROT] = {mmap_prot, true},
	[JSON_FORM_MMAP_FLAGS] = {mmap_flags, true},
	[JSON_FORM_MMAP_STATUS] = {mmap_status, true},
	[JSON_FORM_PAGEMAP_FLAGS] = {pagemap_flags, true},
	[JSON_FORM_OPEN_FLAGS] = {open_flags, true},
	[JSON_FORM_SEALS] = {seals, true},
};

struct json_forms json_forms_of(const ProtobufCMessageDescriptor *message)
{
	struct json_forms forms = {0};
	/* Those of one message stand together. */
	for (size_t i = 0; i < ARRAY_SIZE(field_forms); i++) {
		if (field_forms[i].message != message)
			continue;
		if (!forms.n++)
			forms.first = &field_forms[i];
	}
	return forms;
}

enum json_form json_form_of(const struct json_forms *forms, const ProtobufCFieldDescriptor *field)
{
	for (size_t i = 0; i < forms->n; i++)
		if (!strcmp(forms->first[i].field, field->name))
			return forms->first[i].form;
	return JSON_FORM_PLAIN;
}

static void number_as_set(struct json_out *o, const struct word *words, uint64_t value)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	for (const struct word *w = words; w->word; w++) {
		if (!(value & w->value))
			continue;
		strbuf_addf(&b, "%s%s", b.n ? " | " : "", w->word);
		value &= ~(uint64_t)w->value;
	}
	if (value)
		strbuf_addf(&b, "%s0x%" PRIx64, b.n ? " | " : "", value);
	o->failed |= b.failed;
	json_text(o, strbuf_str(&b), b.n);
}

static void text_f(struct json_out *o, const char *fmt, ...) printf_like(2, 3);
static void text_f(struct json_out *o, const char *fmt, ...)
{
	char text[64];
	va_list args;
	va_start(args, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	json_text(o, text, (size_t)n);
}

void json_number(struct json_out *o, enum json_form form, bool is_signed, uint64_t value)
{
	const struct form_info *info = (unsigned)form < ARRAY_SIZE(form_infos) ? &form_infos[form] : NULL;
	if (info && info->words && info->is_set) {
		number_as_set(o, info->words, value);
		return;
	}
	for (const struct word *w = info ? info->words : NULL; w && w->word; w++) {
		if (w->value == value) {
			json_text(o, w->word, strlen(w->word));
			return;
		}
	}
	if (form == JSON_FORM_HEX && is_signed && (int64_t)value < 0)
		text_f(o, "-0x%" PRIx64, -value);
	else if (form == JSON_FORM_HEX)
		text_f(o, "0x%" PRIx64, value);
	else if (form == JSON_FORM_KERNEL_DEV)
		text_f(o, "%" PRIu64 ":%" PRIu64, value >> 20, value & 0xfffff);
	else if (form == JSON_FORM_STAT_DEV)
		text_f(o, "%" PRIu64 ":%" PRIu64, value >> 8 & 0xfff,
		       (value & 0xff) | (value >> 12 & 0xfff00));
	else if (is_signed)
		json_wordf(o, "%" PRId64, (int64_t)value);
	else
		json_wordf(o, "%" PRIu64, value);
}

/* One decimal or 0x number of n characters, with an optional minus sign. */
static int parse_plain(const char *s, size_t n, uint64_t *ret)
{
	char text[32];
	if (!n || n >= sizeof(text))
		return -EBADMSG;
	memcpy(text, s, n);
	text[n] = '\0';
	bool negative = text[0] == '-';
	const char *digits = text + negative;
	bool hex = digits[0] == '0' && digits[1] == 'x';
	const char *allowed = hex ? "0123456789abcdefABCDEF" : "0123456789";
	if (hex)
		digits += 2;
	if (!*digits || digits[strspn(digits, allowed)])
		return -EBADMSG;
	errno = 0;
	uint64_t value = strtoull(digits, NULL, hex ? 16 : 10);
	if (errno)
		return -EBADMSG;
	*ret = negative ? -value : value;
	return 0;
}

static int parse_word(const struct word *words, const char *s, size_t n, uint64_t *ret)
{
	for (const struct word *w = words; w && w->word; w++) {
		if (strlen(w->word) == n && !memcmp(w->word, s, n)) {
			*ret = w->value;
			return 0;
		}
	}
	return parse_plain(s, n, ret);
}

static int parse_set(const struct word *words, const char *text, uint64_t *ret)
{
	uint64_t all = 0;
	while (*text) {
		text += strspn(text, " |");
		size_t n = strcspn(text, " |");
		if (!n)
			break;
		uint64_t bit;
		int r = parse_word(words, text, n, &bit);
		if (r < 0)
			return r;
		all |= bit;
		text += n;
	}
	*ret = all;
	return 0;
}

static int parse_dev(enum json_form form, const char *text, const char *colon, uint64_t *ret)
{
	uint64_t major, minor;
	int r = parse_plain(text, (size_t)(colon - text), &major);
	if (r == 0)
		r = parse_plain(colon + 1, strlen(colon + 1), &minor);
	if (r < 0)
		return r;
	if (major > 0xfff || minor > 0xfffff)
		return -EBADMSG;
	*ret = form == JSON_FORM_KERNEL_DEV ? major << 20 | minor
					    : (minor & 0xff) | major << 8 | (minor & ~(uint64_t)0xff) << 12;
	return 0;
}

int json_parse_number(enum json_form form, const char *text, uint64_t *ret)
{
	const struct form_info *info = (unsigned)form < ARRAY_SIZE(form_infos) ? &form_infos[form] : NULL;
	if (info && info->words && info->is_set)
		return parse_set(info->words, text, ret);
	const char *colon = strchr(text, ':');
	if (colon && (form == JSON_FORM_KERNEL_DEV || form == JSON_FORM_STAT_DEV))
		return parse_dev(form, text, colon, ret);
	return parse_word(info ? info->words : NULL, text, strlen(text), ret);
}

bool json_ip(struct json_out *o, const uint32_t *words, size_t n)
{
	char text[INET6_ADDRSTRLEN];
	if ((n != 1 && n != 4) || !inet_ntop(n == 1 ? AF_INET : AF_INET6, words, text, sizeof(text)))
		return false;
	json_text(o, text, strlen(text));
	return true;
}

int json_parse_ip(const char *text, uint32_t words[4], size_t *ret_n)
{
	bool v6 = strchr(text, ':') != NULL;
	if (inet_pton(v6 ? AF_INET6 : AF_INET, text, words) != 1)
		return -EBADMSG;
	*ret_n = v6 ? 4 : 1;
	return 0;
}

size_t json_value_bytes(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE: return 8;
	case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
	default: return 4;
	}
}

bool json_is_signed(ProtobufCType type)
{
	return type == PROTOBUF_C_TYPE_INT32 || type == PROTOBUF_C_TYPE_SINT32 ||
	       type == PROTOBUF_C_TYPE_SFIXED32 || type == PROTOBUF_C_TYPE_INT64 ||
	       type == PROTOBUF_C_TYPE_SINT64 || type == PROTOBUF_C_TYPE_SFIXED64;
}
