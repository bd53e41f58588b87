/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the tables of file kinds and of messages. */
#include "image/files.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/proto/apparmor.pb-c.h"
#include "image/proto/autofs.pb-c.h"
#include "image/proto/binfmt-misc.pb-c.h"
#include "image/proto/bpfmap-data.pb-c.h"
#include "image/proto/bpfmap-file.pb-c.h"
#include "image/proto/cgroup.pb-c.h"
#include "image/proto/core-aarch64.pb-c.h"
#include "image/proto/core-arm.pb-c.h"
#include "image/proto/core-loongarch64.pb-c.h"
#include "image/proto/core-mips.pb-c.h"
#include "image/proto/core-ppc64.pb-c.h"
#include "image/proto/core-riscv64.pb-c.h"
#include "image/proto/core-s390.pb-c.h"
#include "image/proto/core-x86.pb-c.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/cpuinfo.pb-c.h"
#include "image/proto/creds.pb-c.h"
#include "image/proto/eventfd.pb-c.h"
#include "image/proto/eventpoll.pb-c.h"
#include "image/proto/ext-file.pb-c.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/ferry.pb-c.h"
#include "image/proto/fh.pb-c.h"
#include "image/proto/fifo.pb-c.h"
#include "image/proto/file-lock.pb-c.h"
#include "image/proto/fown.pb-c.h"
#include "image/proto/fs.pb-c.h"
#include "image/proto/fsnotify.pb-c.h"
#include "image/proto/ghost-file.pb-c.h"
#include "image/proto/img-streamer.pb-c.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/ipc-desc.pb-c.h"
#include "image/proto/ipc-msg.pb-c.h"
#include "image/proto/ipc-sem.pb-c.h"
#include "image/proto/ipc-shm.pb-c.h"
#include "image/proto/ipc-var.pb-c.h"
#include "image/proto/macvlan.pb-c.h"
#include "image/proto/memfd.pb-c.h"
#include "image/proto/mm.pb-c.h"
#include "image/proto/mnt.pb-c.h"
#include "image/proto/netdev.pb-c.h"
#include "image/proto/ns.pb-c.h"
#include "image/proto/packet-sock.pb-c.h"
#include "image/proto/pagemap.pb-c.h"
#include "image/proto/pidfd.pb-c.h"
#include "image/proto/pidns.pb-c.h"
#include "image/proto/pipe-data.pb-c.h"
#include "image/proto/pipe.pb-c.h"
#include "image/proto/pstree.pb-c.h"
#include "image/proto/regfile.pb-c.h"
#include "image/proto/remap-file-path.pb-c.h"
#include "image/proto/rlimit.pb-c.h"
#include "image/proto/rpc.pb-c.h"
#include "image/proto/rseq.pb-c.h"
#include "image/proto/sa.pb-c.h"
#include "image/proto/seccomp.pb-c.h"
#include "image/proto/siginfo.pb-c.h"
#include "image/proto/signalfd.pb-c.h"
#include "image/proto/sit.pb-c.h"
#include "image/proto/sk-inet.pb-c.h"
#include "image/proto/sk-netlink.pb-c.h"
#include "image/proto/sk-opts.pb-c.h"
#include "image/proto/sk-packet.pb-c.h"
#include "image/proto/sk-unix.pb-c.h"
#include "image/proto/stats.pb-c.h"
#include "image/proto/sysctl.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"
#include "image/proto/time.pb-c.h"
#include "image/proto/timens.pb-c.h"
#include "image/proto/timer.pb-c.h"
#include "image/proto/timerfd.pb-c.h"
#include "image/proto/tty.pb-c.h"
#include "image/proto/tun.pb-c.h"
#include "image/proto/userns.pb-c.h"
#include "image/proto/utsns.pb-c.h"
#include "image/proto/vma.pb-c.h"

/* "none" in files.def: the address of what a null pointer points to is the null pointer. */
#define none__descriptor (*(const ProtobufCMessageDescriptor *)NULL)

static const struct image_file_info image_file_infos[IMAGE_KIND_COUNT] = {
#define IMAGE_FILE(kind, name_, magic_, header_, layout_, payload_, first_, second_, status_) \
	[IMAGE_##kind] = {                                                                    \
		.word = #kind,                                                                \
		.name = name_,                                                                \
		.magic = magic_,                                                              \
		.header = IMAGE_HEADER_##header_,                                             \
		.layout = IMAGE_LAYOUT_##layout_,                                             \
		.payload = IMAGE_PAYLOAD_##payload_,                                          \
		.first = &first_##__descriptor,                                               \
		.second = &second_##__descriptor,                                             \
		.status = IMAGE_STATUS_##status_,                                             \
	},
#include "image/files.def"
#undef IMAGE_FILE
};

static const ProtobufCMessageDescriptor *const message_table[] = {
#define IMAGE_MESSAGE(name) &name##__descriptor,
#include "image/messages.def"
#undef IMAGE_MESSAGE
};

const struct image_file_info *image_file_info(enum image_kind kind)
{
	return (unsigned)kind < IMAGE_KIND_COUNT ? &image_file_infos[kind] : NULL;
}

static const char *const stats_words[] = {[IMAGE_STATS_DUMP] = "dump", [IMAGE_STATS_RESTORE] = "restore"};

static size_t count_conversions(const char *name)
{
	size_t n = 0;
	for (; *name; name++)
		n += *name == '%';
	return n;
}

void image_file_name(enum image_kind kind, uint64_t id, char ret_name[IMAGE_NAME_MAX])
{
	const char *p = image_file_infos[kind].name;
	bool two = count_conversions(p) == 2; /* two ids of 32 bits each */
	char *out = ret_name, *end = ret_name + IMAGE_NAME_MAX;
	for (; *p && out + 1 < end; p++) {
		if (*p != '%') {
			*out++ = *p;
			continue;
		}
		uint64_t value = two ? id >> 32 : id;
		p++;
		if (*p == 's')
			out += snprintf(out, (size_t)(end - out), "%s",
					stats_words[id == IMAGE_STATS_RESTORE]);
		else if (*p == '0')
			out += snprintf(out, (size_t)(end - out), "%04" PRIx64, value), p += 2;
		else
			out += snprintf(out, (size_t)(end - out), *p == 'x' ? "%" PRIx64 : "%" PRIu64, value);
		if (two) {
			two = false;
			id &= UINT32_MAX;
		}
	}
	*out = '\0';
}

/* One id out of *p, as image_file_name writes it: no sign, no capitals, leading zeros only for '0' (%04x). */
static int parse_id(const char **p, char conversion, uint64_t *ret)
{
	if (conversion == 's') {
		for (unsigned i = 0; i < ARRAY_SIZE(stats_words); i++) {
			size_t n = strlen(stats_words[i]);
			if (!strncmp(*p, stats_words[i], n)) {
				*p += n;
				*ret = i;
				return 0;
			}
		}
		return -ENOENT;
	}
	bool hex = conversion != 'u';
	size_t n = strspn(*p, hex ? "0123456789abcdef" : "0123456789");
	if (!n || n > 20 || (n > 1 && **p == '0' && conversion != '0'))
		return -ENOENT;
	errno = 0;
	char *end;
	*ret = strtoull(*p, &end, hex ? 16 : 10);
	if (errno || end != *p + n)
		return -ENOENT;
	*p = end;
	return 0;
}

static int match_name(const char *template, const char *name, uint64_t *ret_id)
{
	uint64_t id = 0;
	for (; *template; template ++) {
		if (*template != '%') {
			if (*template != *name++)
				return -ENOENT;
			continue;
		}
		uint64_t value;
		if (parse_id(&name, *++template, &value) < 0)
			return -ENOENT;
		if (*template == '0')
			template += 2;
		id = id << 32 | value;
	}
	if (*name)
		return -ENOENT;
	*ret_id = id;
	return 0;
}

int image_file_parse_name(const char *name, enum image_kind *ret_kind, uint64_t *ret_id)
{
	for (int kind = 0; kind < IMAGE_KIND_COUNT; kind++) {
		if (!match_name(image_file_infos[kind].name, name, ret_id)) {
			*ret_kind = (enum image_kind)kind;
			return 0;
		}
	}
	return -ENOENT;
}

int image_file_by_magic(uint32_t magic, enum image_kind *ret_kind)
{
	for (int kind = 0; kind < IMAGE_KIND_COUNT; kind++) {
		if (image_file_infos[kind].header != IMAGE_HEADER_NONE &&
		    image_file_infos[kind].magic == magic) {
			*ret_kind = (enum image_kind)kind;
			return 0;
		}
	}
	return -ENOENT;
}

const char *image_file_magic_word(enum image_kind kind)
{
	const struct image_file_info *info = &image_file_infos[kind];
	if (info->header == IMAGE_HEADER_NONE || image_file_by_magic(info->magic, &kind) < 0)
		return info->word;
	return image_file_infos[kind].word;
}

int image_file_by_word(const char *word, enum image_kind *ret_kind)
{
	for (int kind = 0; kind < IMAGE_KIND_COUNT; kind++) {
		if (!strcmp(image_file_infos[kind].word, word)) {
			*ret_kind = (enum image_kind)kind;
			return 0;
		}
	}
	return -ENOENT;
}

size_t image_file_header_bytes(enum image_kind kind)
{
	static const size_t bytes[] = {
		[IMAGE_HEADER_NONE] = 0,
		[IMAGE_HEADER_BARE] = 4,
		[IMAGE_HEADER_COMMON] = 8,
		[IMAGE_HEADER_SERVICE] = 8,
	};
	return bytes[image_file_infos[kind].header];
}

const ProtobufCMessageDescriptor *image_message_by_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(message_table); i++)
		if (!strcmp(message_table[i]->name, name))
			return message_table[i];
	return NULL;
}

const ProtobufCMessageDescriptor *const *image_messages(size_t *ret_n)
{
	*ret_n = ARRAY_SIZE(message_table);
	return message_table;
}
