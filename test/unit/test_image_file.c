/* SPDX-License-Identifier: Apache-2.0 */
#include "image/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "image/proto/cgroup.pb-c.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/inventory.pb-c.h"
#include "image/proto/pagemap.pb-c.h"
#include "image/proto/pipe-data.pb-c.h"
#include "image/proto/pstree.pb-c.h"
#include "image/proto/stats.pb-c.h"
#include "image_tools.h"

static int memory_with(const void *bytes, size_t n)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), n);
	return fd;
}

/* The bytes that writing the messages (and raw bytes after the first) of one kind makes. */
static uint8_t *written(enum image_kind kind, const ProtobufCMessage *const *messages, size_t n,
			const char *raw, size_t *ret_n)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_writer *w = NULL;
	int fd = memfd_create("test", MFD_CLOEXEC);
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(image_create_fd(copy, "test", kind, &w, &err), 0);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(image_put(w, messages[i], &err), 0);
		if (!i && raw)
			assert_int_equal(image_put_raw(w, raw, strlen(raw), &err), 0);
	}
	uint64_t offset = image_writer_offset(w);
	assert_int_equal(image_close(w, &err), 0);
	off_t size = lseek(fd, 0, SEEK_END);
	assert_int_equal(size, offset);
	uint8_t *bytes = malloc((size_t)size);
	assert_int_equal(pread(fd, bytes, (size_t)size, 0), size);
	close(fd);
	*ret_n = (size_t)size;
	return bytes;
}

#define EXPECT(kind, messages, raw, ...)                                                                \
	do {                                                                                            \
		static const uint8_t want_[] = {__VA_ARGS__};                                           \
		size_t n_ = 0;                                                                          \
		_cleanup_free_ uint8_t *got_ = written(kind, messages, ARRAY_SIZE(messages), raw, &n_); \
		assert_int_equal(n_, sizeof(want_));                                                    \
		assert_memory_equal(got_, want_, n_);                                                   \
	} while (0)

static void golden_inventory(void **state)
{
	(void)state;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	inventory.img_version = 2;
	inventory.has_fdinfo_per_id = 1;
	inventory.fdinfo_per_id = 1;
	inventory.has_lsmtype = 1;
	inventory.lsmtype = LSMTYPE__APPARMOR;
	inventory.dump_criu_run_id = (char *)"x";
	const ProtobufCMessage *messages[] = {&inventory.base};
	EXPECT(IMAGE_INVENTORY, messages, NULL, 0x16, 0x31, 0x31, 0x58, /* magic, alone */
	       9, 0, 0, 0, 0x08, 2, 0x10, 1, 0x30, 2, 0x6a, 1, 'x');
}

static void golden_pagemap(void **state)
{
	(void)state;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	head.pages_id = 300;
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;
	entry.vaddr = 0x7f0000001000;
	entry.has_flags = 1;
	entry.flags = 4;
	entry.has_nr_pages = 1;
	entry.nr_pages = 2;
	const ProtobufCMessage *messages[] = {&head.base, &entry.base};
	EXPECT(IMAGE_PAGEMAP, messages, NULL, 0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08,
	       0x56,                         /* common, PAGEMAP */
	       3, 0, 0, 0, 0x08, 0xac, 0x02, /* head */
	       14, 0, 0, 0, 0x08, 0x80, 0xa0, 0x80, 0x80, 0x80, 0xe0, 0x1f, 0x10, 0, 0x20, 4, 0x28, 2);
}

static void golden_pipe_data(void **state)
{
	(void)state;
	PipeDataEntry a = PIPE_DATA_ENTRY__INIT, b = PIPE_DATA_ENTRY__INIT;
	a.pipe_id = 5;
	a.bytes = 3;
	a.has_size = 1;
	a.size = 65536;
	b.pipe_id = 6;
	const ProtobufCMessage *messages[] = {&a.base, &b.base};
	EXPECT(IMAGE_PIPES_DATA, messages, "abc", 0x19, 0x43, 0x56, 0x54, 0x09, 0x37, 0x45,
	       0x56,                                                                /* PIPES_DATA */
	       8, 0, 0, 0, 0x08, 5, 0x10, 3, 0x18, 0x80, 0x80, 0x04, 'a', 'b', 'c', /* with its bytes */
	       4, 0, 0, 0, 0x08, 6, 0x10, 0);
}

static void golden_pstree(void **state)
{
	(void)state;
	uint32_t threads[] = {4, 7};
	PstreeEntry task = PSTREE_ENTRY__INIT;
	task.pid = 4;
	task.pgid = 4;
	task.sid = 1;
	task.threads = threads;
	task.n_threads = 2;
	const ProtobufCMessage *messages[] = {&task.base};
	/* repeated numbers are not packed */
	EXPECT(IMAGE_PSTREE, messages, NULL, 0x19, 0x43, 0x56, 0x54, 0x30, 0x30, 0x27, 0x50, /* PSTREE */
	       12, 0, 0, 0, 0x08, 4, 0x10, 0, 0x18, 4, 0x20, 1, 0x28, 4, 0x28, 7);
}

static void golden_fdinfo(void **state)
{
	(void)state;
	FdinfoEntry fd = FDINFO_ENTRY__INIT;
	fd.id = 1;
	fd.flags = 1;
	fd.type = FD_TYPES__CTL_TTY;
	fd.fd = 2;
	const ProtobufCMessage *messages[] = {&fd.base};
	EXPECT(IMAGE_FDINFO, messages, NULL, 0x19, 0x43, 0x56, 0x54, 0x32, 0x37, 0x21, 0x56, /* FDINFO */
	       10, 0, 0, 0, 0x08, 1, 0x10, 1, 0x18, 0xfe, 0xff, 0x03, 0x20, 2);
}

static void golden_stats(void **state)
{
	(void)state;
	RestoreStatsEntry restore = RESTORE_STATS_ENTRY__INIT;
	restore.forking_time = 1;
	restore.restore_time = 128;
	StatsEntry stats = STATS_ENTRY__INIT;
	stats.restore = &restore;
	const ProtobufCMessage *messages[] = {&stats.base};
	EXPECT(IMAGE_STATS, messages, NULL, 0x40, 0x59, 0x10, 0x55, 0x06, 0x33, 0x09,
	       0x57, /* service, STATS */
	       11, 0, 0, 0, 0x12, 9, 0x08, 0, 0x10, 0, 0x18, 1, 0x20, 0x80, 0x01);
}

static void names_and_ids(void **state)
{
	(void)state;
	static const struct {
		enum image_kind kind;
		uint64_t id;
		const char *name;
	} cases[] = {
		{IMAGE_INVENTORY, 0, "inventory.img"},
		{IMAGE_CORE, 41, "core-41.img"},
		{IMAGE_PAGEMAP, 4, "pagemap-4.img"},
		{IMAGE_SHMEM_PAGEMAP, UINT64_MAX, "pagemap-shmem-18446744073709551615.img"},
		{IMAGE_TCP_STREAM, 0x1297e, "tcp-stream-1297e.img"},
		{IMAGE_GHOST_FILE, 255, "ghost-file-ff.img"},
		{IMAGE_STATS, IMAGE_STATS_RESTORE, "stats-restore"},
		{IMAGE_TMPFS_DEV, 7, "tmpfs-dev-7.tar.gz.img"},
		{IMAGE_AMDGPU_PAGES, 3ull << 32 | 0x1a, "amdgpu-pages-3-001a.img"},
		{IMAGE_FERRY_MANIFEST, 0, "ferry-manifest.img"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char name[IMAGE_NAME_MAX];
		enum image_kind kind = IMAGE_KIND_COUNT;
		uint64_t id = 12345;
		image_file_name(cases[i].kind, cases[i].id, name);
		assert_string_equal(name, cases[i].name);
		assert_int_equal(image_file_parse_name(name, &kind, &id), 0);
		assert_int_equal(kind, cases[i].kind);
		assert_int_equal(id, cases[i].id);
	}
	static const char *const others[] = {"core-.img",
					     "core-1.img.bak",
					     "core-01.img",
					     "core--1.img",
					     "core-1",
					     "dump.log",
					     "",
					     "core-1x.img",
					     "tcp-stream-A.img",
					     "stats-",
					     "core-99999999999999999999.img",
					     "ghost-file-0xff.img",
					     "xinventory.img"};
	enum image_kind kind;
	uint64_t id;
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		assert_int_equal(image_file_parse_name(others[i], &kind, &id), -ENOENT);
}

/* Magics of our own must be nobody else's; a name must belong to one kind. */
static void kinds_do_not_collide(void **state)
{
	(void)state;
	for (int a = 0; a < IMAGE_KIND_COUNT; a++) {
		const struct image_file_info *x = image_file_info((enum image_kind)a);
		char name[IMAGE_NAME_MAX];
		enum image_kind kind = IMAGE_KIND_COUNT;
		uint64_t id;
		image_file_name((enum image_kind)a, 1, name);
		assert_int_equal(image_file_parse_name(name, &kind, &id), 0);
		assert_int_equal(kind, a);
		assert_true((x->header == IMAGE_HEADER_NONE) == (x->layout == IMAGE_LAYOUT_RAW));
		assert_true((x->first == NULL) == (x->layout == IMAGE_LAYOUT_RAW));
		for (int b = 0; b < a && x->status == IMAGE_STATUS_OURS && x->magic; b++)
			assert_int_not_equal(x->magic, image_file_info((enum image_kind)b)->magic);
	}
}

/* Every message, with every field set: what is written is what is read. */
static void every_message_comes_back(void **state)
{
	(void)state;
	size_t n;
	const ProtobufCMessageDescriptor *const *types = image_messages(&n);
	assert_true(n > 170);
	for (size_t i = 0; i < n; i++) {
		struct filler f = {.next = i};
		ProtobufCMessage *message = filler_message(&f, types[i]);
		ProtobufCMessage *back = NULL;
		struct ferry_error err = FERRY_ERROR_INIT;
		size_t size, again;
		uint8_t *bytes = pack(message, &size);
		if (image_unpack("test", 0, types[i], bytes, size, &back, &err) < 0)
			fail_msg("%s: %s", types[i]->name, err.message);
		uint8_t *second = pack(back, &again);
		assert_int_equal(size, again);
		assert_memory_equal(bytes, second, size);
		assert_int_equal(back->n_unknown_fields, 0);
		assert_ptr_equal(image_message_by_name(types[i]->name), types[i]);
		free(second);
		free(bytes);
		image_message_free(back);
		image_message_free(message);
	}
}

/* A file of the kind with two messages, so that there is something to damage. */
static uint8_t *sample(enum image_kind kind, size_t *ret_n)
{
	const struct image_file_info *info = image_file_info(kind);
	struct filler f = {.next = 7};
	ProtobufCMessage *a = filler_message(&f, info->first);
	ProtobufCMessage *b = filler_message(&f, image_type_at(info, 1));
	const ProtobufCMessage *messages[] = {a, b};
	uint8_t *bytes = written(kind, messages, info->layout == IMAGE_LAYOUT_ONE ? 1 : 2, NULL, ret_n);
	image_message_free(a);
	image_message_free(b);
	return bytes;
}

/* Read to the end; 0, or the error, which then must name the file. */
static int read_through(const void *bytes, size_t n, enum image_kind kind, size_t *ret_messages)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_reader *r = NULL;
	int ret = image_open_fd(memory_with(bytes, n), "sample.img", kind, &r, &err);
	*ret_messages = 0;
	while (ret == 0) {
		ProtobufCMessage *message = NULL;
		ret = image_get(r, image_type_at(image_file_info(kind), *ret_messages), &message, &err);
		if (ret == 0)
			break;
		*ret_messages += ret == 1;
		ret = ret < 0 ? ret : 0;
		image_message_free(message);
	}
	image_reader_free(r);
	if (ret < 0) {
		assert_int_equal(ret, -EBADMSG);
		assert_int_equal(err.id, FERRY_ERROR_IMAGE_BAD);
		assert_non_null(strstr(err.message, "sample.img"));
		assert_non_null(strstr(err.message, "offset"));
	}
	return ret;
}

static void truncation_at_every_byte(void **state)
{
	(void)state;
	for (int kind = 0; kind < IMAGE_KIND_COUNT; kind++) {
		if (image_file_info((enum image_kind)kind)->layout == IMAGE_LAYOUT_RAW)
			continue;
		size_t n, whole, got;
		_cleanup_free_ uint8_t *bytes = sample((enum image_kind)kind, &n);
		assert_int_equal(read_through(bytes, n, (enum image_kind)kind, &whole), 0);
		assert_true(whole >= 1);
		uint32_t first;
		size_t header = image_file_header_bytes((enum image_kind)kind);
		memcpy(&first, bytes + header, sizeof(first));
		for (size_t cut = 0; cut < n; cut++) {
			int r = read_through(bytes, cut, (enum image_kind)kind, &got);
			/* Only between two messages can nobody but the manifest tell. */
			if (cut == header || cut == header + 4 + first)
				assert_int_equal(r, 0);
			else
				assert_int_equal(r, -EBADMSG);
			assert_true(got < whole || cut == n);
		}
	}
}

static void bit_flips_do_no_harm(void **state)
{
	(void)state;
	static const enum image_kind kinds[] = {IMAGE_INVENTORY, IMAGE_CORE,    IMAGE_MM,
						IMAGE_FILES,     IMAGE_PAGEMAP, IMAGE_CGROUP};
	size_t errors = 0;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t n, got;
		_cleanup_free_ uint8_t *bytes = sample(kinds[i], &n);
		for (size_t bit = 0; bit < MIN(n, (size_t)3000) * 8; bit++) {
			bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
			int r = read_through(bytes, n, kinds[i], &got);
			if (bit < image_file_header_bytes(kinds[i]) * 8)
				assert_int_equal(r, -EBADMSG);
			errors += r < 0;
			bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
	assert_true(errors > 1000);
}

static void expect_bad(const void *bytes, size_t n, enum image_kind kind, const char *text)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_reader *r = NULL;
	ProtobufCMessage *message = NULL;
	int ret = image_open_fd(memory_with(bytes, n), "bad.img", kind, &r, &err);
	if (ret == 0)
		ret = image_get(r, image_file_info(kind)->first, &message, &err);
	assert_int_equal(ret, -EBADMSG);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_BAD);
	if (!strstr(err.message, text))
		fail_msg("'%s' lacks '%s'", err.message, text);
	image_reader_free(r);
}

static void wrong_magic_says_both(void **state)
{
	(void)state;
	size_t n;
	_cleanup_free_ uint8_t *core = sample(IMAGE_CORE, &n);
	_cleanup_free_ uint8_t *inventory = sample(IMAGE_INVENTORY, &n);
	expect_bad(core, 8, IMAGE_MM,
		   "bad.img, offset 4: wrong magic: expected 0x57492820 (MM), found 0x55053847 (CORE)");
	expect_bad(inventory, 8, IMAGE_MM,
		   "expected 0x54564319 (the common magic), found 0x58313116 (INVENTORY)");
	expect_bad("\1\2\3\4", 4, IMAGE_INVENTORY, "found 0x04030201 (unknown)");
	expect_bad("", 0, IMAGE_INVENTORY, "truncated");
}

static void impossible_sizes(void **state)
{
	(void)state;
	static const uint8_t huge[] = {0x16, 0x31, 0x31, 0x58, 0xff, 0xff, 0xff, 0xff, 0x08, 0x02};
	static const uint8_t cut_size[] = {0x16, 0x31, 0x31, 0x58, 2, 0};
	static const uint8_t nothing[] = {0x16, 0x31, 0x31, 0x58, 0, 0, 0, 0};
	expect_bad(huge, sizeof(huge), IMAGE_INVENTORY,
		   "offset 4: truncated: 4294967295 bytes of inventory_entry");
	expect_bad(cut_size, sizeof(cut_size), IMAGE_INVENTORY, "truncated");
	expect_bad(nothing, sizeof(nothing), IMAGE_INVENTORY, "required field");
}

/* protobuf-c itself recurses without a limit and cuts strings at a NUL. */
static void nesting_and_nul(void **state)
{
	(void)state;
	for (unsigned depth = 2; depth < 5000; depth *= 3) {
		CgroupDirEntry *dirs = calloc(depth, sizeof(*dirs));
		CgroupDirEntry **pointers = calloc(depth, sizeof(*pointers));
		for (unsigned i = 0; i < depth; i++) {
			cgroup_dir_entry__init(&dirs[i]);
			dirs[i].dir_name = (char *)"d";
			pointers[i] = &dirs[i];
			if (i) {
				dirs[i - 1].children = &pointers[i];
				dirs[i - 1].n_children = 1;
			}
		}
		size_t n;
		struct ferry_error err = FERRY_ERROR_INIT;
		ProtobufCMessage *back = NULL;
		uint8_t *bytes = pack(&dirs[0].base, &n);
		int r = image_unpack("deep", 0, &cgroup_dir_entry__descriptor, bytes, n, &back, &err);
		assert_int_equal(r, depth <= IMAGE_DEPTH_MAX ? 0 : -EBADMSG);
		if (r < 0)
			assert_non_null(strstr(err.message, "nested too deeply"));
		image_message_free(back);
		free(bytes);
		free(dirs);
		free(pointers);
	}
	static const uint8_t name[] = {0x0a, 3, 'a', 0, 'b'};
	ProtobufCMessage *back = NULL;
	struct ferry_error err = FERRY_ERROR_INIT;
	assert_int_equal(image_unpack("nul", 9, &cgroup_dir_entry__descriptor, name, sizeof(name), &back,
				      &err),
			 -EBADMSG);
	assert_string_equal(err.message,
			    "nul, offset 9: no valid cgroup_dir_entry (5 bytes): a string holds a NUL");
}

static void missing_required_field_is_not_written(void **state)
{
	(void)state;
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_writer *w = NULL;
	assert_int_equal(image_create_fd(memfd_create("test", MFD_CLOEXEC), "test", IMAGE_CGROUP, &w, &err),
			 0);
	CgroupDirEntry dir = CGROUP_DIR_ENTRY__INIT;
	assert_int_equal(image_put(w, &dir.base, &err), -EINVAL);
	assert_int_equal(image_close(w, NULL), 0);
}

static void raw_bytes_and_large_messages(void **state)
{
	(void)state;
	enum { N = 300000 };
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_writer *w = NULL;
	_cleanup_free_ uint8_t *big = malloc(N);
	for (size_t i = 0; i < N; i++)
		big[i] = (uint8_t)(i * 2654435761u >> 13);
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(image_create_fd(fcntl(fd, F_DUPFD_CLOEXEC, 3), "test", IMAGE_SK_QUEUES, &w, &err),
			 0);
	/* Pieces of every size around the buffer's. */
	size_t at = 0;
	for (size_t piece = 1; at + piece <= N; piece = piece * 3 + 1) {
		assert_int_equal(image_put_raw(w, big + at, piece, &err), 0);
		at += piece;
	}
	FdinfoEntry message = FDINFO_ENTRY__INIT;
	_cleanup_free_ char *text = calloc(1, 100001);
	memset(text, 'x', 100000);
	message.xattr_security_selinux = text;
	assert_int_equal(image_put(w, &message.base, &err), 0);
	assert_int_equal(image_close(w, &err), 0);

	_cleanup_reader_ struct image_reader *r = NULL;
	_cleanup_free_ uint8_t *back = malloc(N);
	assert_int_equal(image_open_fd(fd, "test", IMAGE_SK_QUEUES, &r, &err), 0);
	for (size_t i = 0, piece = 7; i < at; i += piece, piece = MIN(piece * 2, at - i))
		assert_int_equal(image_get_raw(r, back + i, MIN(piece, at - i), &err), 0);
	assert_memory_equal(big, back, at);
	assert_int_equal(image_reader_offset(r), 8 + at);
	_cleanup_message_ FdinfoEntry *read = NULL;
	assert_int_equal(image_need(r, &fdinfo_entry__descriptor, &read, &err), 0);
	assert_string_equal(read->xattr_security_selinux, text);
	assert_int_equal(image_reader_left(r), 0);
	assert_int_equal(image_get_raw(r, back, 1, &err), -EBADMSG);
	assert_non_null(strstr(err.message, "truncated: 1 bytes should follow, 0 do"));
}

/* A large piece overtakes no small one that still waits in the buffer. */
static void order_holds_for_every_size(void **state)
{
	enum { STEP = 1000, LARGEST = 140000, SMALL = 5 };
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_free_ uint8_t *piece = malloc(LARGEST), *back = malloc(LARGEST);
	(void)state;
	for (size_t n = STEP; n <= LARGEST; n += STEP) {
		struct image_writer *w = NULL;
		int fd = memfd_create("test", MFD_CLOEXEC);
		memset(piece, (int)(n / STEP), n);
		assert_int_equal(
			image_create_fd(fcntl(fd, F_DUPFD_CLOEXEC, 3), "test", IMAGE_SK_QUEUES, &w, &err), 0);
		uint64_t head = image_writer_offset(w);
		assert_int_equal(image_put_raw(w, "small", SMALL, &err), 0);
		assert_int_equal(image_put_raw(w, piece, n, &err), 0);
		assert_int_equal(image_put_raw(w, "after", SMALL, &err), 0);
		assert_int_equal(image_close(w, &err), 0);
		assert_int_equal(pread(fd, back, SMALL, (off_t)head), SMALL);
		assert_memory_equal(back, "small", SMALL);
		assert_int_equal(pread(fd, back, n, (off_t)head + SMALL), n);
		assert_memory_equal(back, piece, n);
		assert_int_equal(pread(fd, back, LARGEST, (off_t)(head + SMALL + n)), SMALL);
		assert_memory_equal(back, "after", SMALL);
		close(fd);
	}
}

static void find_kind_by_magic_and_name(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		enum image_kind written, found;
	} cases[] = {
		{"dir/core-3.img", IMAGE_CORE, IMAGE_CORE},
		{"renamed", IMAGE_CORE, IMAGE_CORE},
		{"pagemap-shmem-1.img", IMAGE_SHMEM_PAGEMAP, IMAGE_SHMEM_PAGEMAP},
		{"renamed", IMAGE_SHMEM_PAGEMAP, IMAGE_PAGEMAP},
		{"core-3.img", IMAGE_MM, IMAGE_MM},
		{"inventory", IMAGE_INVENTORY, IMAGE_INVENTORY},
		{"stats", IMAGE_STATS, IMAGE_STATS},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		size_t n;
		struct ferry_error err = FERRY_ERROR_INIT;
		_cleanup_reader_ struct image_reader *r = NULL;
		_cleanup_free_ uint8_t *bytes = sample(cases[i].written, &n);
		enum image_kind kind = IMAGE_KIND_COUNT;
		assert_int_equal(image_open_any(memory_with(bytes, n), cases[i].name, &kind, &r, &err), 0);
		assert_int_equal(kind, cases[i].found);
	}
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_reader *r = NULL;
	enum image_kind kind;
	assert_int_equal(image_open_any(memory_with("#!/bin/sh", 9), "script", &kind, &r, &err), -EBADMSG);
	assert_non_null(strstr(err.message, "no image file"));
	error_clear(&err);
	assert_int_equal(image_open_any(memory_with("", 0), "empty", &kind, &r, &err), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_inventory),
		cmocka_unit_test(golden_pagemap),
		cmocka_unit_test(golden_pipe_data),
		cmocka_unit_test(golden_pstree),
		cmocka_unit_test(golden_fdinfo),
		cmocka_unit_test(golden_stats),
		cmocka_unit_test(names_and_ids),
		cmocka_unit_test(kinds_do_not_collide),
		cmocka_unit_test(every_message_comes_back),
		cmocka_unit_test(truncation_at_every_byte),
		cmocka_unit_test(bit_flips_do_no_harm),
		cmocka_unit_test(wrong_magic_says_both),
		cmocka_unit_test(impossible_sizes),
		cmocka_unit_test(nesting_and_nul),
		cmocka_unit_test(missing_required_field_is_not_written),
		cmocka_unit_test(raw_bytes_and_large_messages),
		cmocka_unit_test(order_holds_for_every_size),
		cmocka_unit_test(find_kind_by_magic_and_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
