/* SPDX-License-Identifier: Apache-2.0 */
#include "image/json.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "image/proto/core.pb-c.h"
#include "image/proto/fdinfo.pb-c.h"
#include "image/proto/ghost-file.pb-c.h"
#include "image/proto/ipc-msg.pb-c.h"
#include "image/proto/ipc-sem.pb-c.h"
#include "image/proto/mm.pb-c.h"
#include "image/proto/mnt.pb-c.h"
#include "image/proto/pagemap.pb-c.h"
#include "image/proto/tcp-stream.pb-c.h"
#include "image_tools.h"

static const struct image_json_options compact = {.pretty = false}, pretty = {.pretty = true};

struct bytes {
	uint8_t *p;
	size_t n;
};

static void bytes_release(struct bytes *b)
{
	free(b->p);
}

#define _cleanup_bytes_ __attribute__((cleanup(bytes_release)))

static int memory_with(const void *bytes, size_t n)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), n);
	return fd;
}

static struct bytes memory_take(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	struct bytes b = {malloc((size_t)size + 1), (size_t)size};
	assert_int_equal(pread(fd, b.p, b.n, 0), size);
	close(fd);
	return b;
}

/* One part of a file: a message, or raw bytes. */
struct part {
	const ProtobufCMessage *message;
	const char *raw;
	size_t n;
};

static struct bytes image_of(enum image_kind kind, const struct part *parts, size_t n)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_writer *w = NULL;
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(image_create_fd(fcntl(fd, F_DUPFD_CLOEXEC, 3), "test", kind, &w, &err), 0);
	for (size_t i = 0; i < n; i++) {
		int r = parts[i].message ? image_put(w, parts[i].message, &err)
					 : image_put_raw(w, parts[i].raw, parts[i].n, &err);
		assert_int_equal(r, 0);
	}
	assert_int_equal(image_close(w, &err), 0);
	return memory_take(fd);
}

static char *decode(const struct bytes *image, enum image_kind kind, const struct image_json_options *options)
{
	struct ferry_error err = FERRY_ERROR_INIT;
	struct image_reader *r = NULL;
	char *text = NULL;
	size_t n;
	FILE *out = open_memstream(&text, &n);
	int ret = image_open_fd(memory_with(image->p, image->n), "test.img", kind, &r, &err);
	if (ret == 0)
		ret = image_decode(r, kind, options, out, &err);
	fclose(out);
	image_reader_free(r);
	if (ret < 0)
		fail_msg("%s", err.message);
	return text;
}

static int encode(const char *text, struct bytes *ret, struct ferry_error *err)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	int r = image_encode(text, strlen(text), "test.json", fd, err);
	*ret = memory_take(fd);
	return r;
}

/* Both forms lead back to the same bytes. */
static void expect_round_trip(const struct bytes *image, enum image_kind kind)
{
	const struct image_json_options *const forms[] = {&compact, &pretty};
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		_cleanup_free_ char *text = decode(image, kind, forms[i]);
		_cleanup_bytes_ struct bytes back = {0};
		if (encode(text, &back, &err) < 0)
			fail_msg("%s\n%s", err.message, text);
		if (back.n != image->n || memcmp(back.p, image->p, back.n))
			fail_msg("other bytes from %s", text);
	}
}

static void expect_text(const struct bytes *image, enum image_kind kind,
			const struct image_json_options *options, const char *want)
{
	_cleanup_free_ char *text = decode(image, kind, options);
	assert_string_equal(text, want);
	expect_round_trip(image, kind);
}

static void plain_and_pretty(void **state)
{
	(void)state;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	head.pages_id = 3;
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;
	entry.vaddr = 0x7f0000001000;
	entry.has_flags = 1;
	entry.flags = 6;
	entry.has_nr_pages = 1;
	entry.nr_pages = 2;
	const struct part parts[] = {{.message = &head.base}, {.message = &entry.base}};
	_cleanup_bytes_ struct bytes image = image_of(IMAGE_PAGEMAP, parts, 2);
	expect_text(&image, IMAGE_PAGEMAP, &compact,
		    "{\"magic\": \"PAGEMAP\", \"entries\": [{\"pages_id\": 3}, {\"vaddr\": 139637976731648, "
		    "\"compat_nr_pages\": 0, \"flags\": 6, \"nr_pages\": 2}]}\n");
	expect_text(
		&image, IMAGE_PAGEMAP, &pretty,
		"{\n    \"magic\": \"PAGEMAP\",\n    \"entries\": [\n        {\n            \"pages_id\": 3\n"
		"        },\n        {\n            \"vaddr\": \"0x7f0000001000\",\n"
		"            \"compat_nr_pages\": 0,\n            \"flags\": \"PE_LAZY | PE_PRESENT\",\n"
		"            \"nr_pages\": 2\n        }\n    ]\n}\n");
}

static void empty_lists_and_objects(void **state)
{
	(void)state;
	ThreadCoreEntry thread = THREAD_CORE_ENTRY__INIT;
	SignalQueueEntry queue = SIGNAL_QUEUE_ENTRY__INIT;
	thread.signals_p = &queue;
	CoreEntry core = CORE_ENTRY__INIT;
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.thread_core = &thread;
	const struct part parts[] = {{.message = &core.base}};
	_cleanup_bytes_ struct bytes image = image_of(IMAGE_CORE, parts, 1),
				     none = image_of(IMAGE_CORE, parts, 0);
	expect_text(
		&image, IMAGE_CORE, &compact,
		"{\"magic\": \"CORE\", \"entries\": [{\"mtype\": \"X86_64\", \"thread_core\": {\"futex_rla\": 0, "
		"\"futex_rla_len\": 0, \"signals_p\": {}}}]}\n");
	expect_text(&none, IMAGE_CORE, &compact, "{\"magic\": \"CORE\", \"entries\": []}\n");
	expect_text(&none, IMAGE_CORE, &pretty, "{\n    \"magic\": \"CORE\",\n    \"entries\": []\n}\n");
}

static void forms_of_numbers(void **state)
{
	(void)state;
	MntEntry mnt = MNT_ENTRY__INIT;
	mnt.root_dev = 8 << 20 | 1;
	mnt.flags = 0x200000;
	mnt.root = mnt.mountpoint = mnt.source = mnt.options = (char *)"";
	const struct part parts[] = {{.message = &mnt.base}};
	_cleanup_bytes_ struct bytes image = image_of(IMAGE_MNTS, parts, 1);
	_cleanup_free_ char *text = decode(&image, IMAGE_MNTS, &pretty);
	assert_non_null(strstr(text, "\"root_dev\": \"8:1\""));
	assert_non_null(strstr(text, "\"flags\": \"0x200000\""));
	expect_round_trip(&image, IMAGE_MNTS);

	GhostFileEntry ghost = GHOST_FILE_ENTRY__INIT;
	ghost.has_dev = ghost.has_rdev = 1;
	ghost.dev = 254 << 20 | 1048575;
	ghost.rdev = 0x12345678;
	const struct part ghosts[] = {{.message = &ghost.base}, {.raw = "bytes", .n = 5}};
	_cleanup_bytes_ struct bytes file = image_of(IMAGE_GHOST_FILE, ghosts, 2);
	_cleanup_free_ char *other = decode(&file, IMAGE_GHOST_FILE, &pretty);
	assert_non_null(strstr(other, "\"dev\": \"254:1048575\""));
	assert_non_null(strstr(other, "\"rdev\": \"1110:74616\""));
	assert_non_null(strstr(other, "\"extra\": \"Ynl0ZXM=\\n\""));
	expect_round_trip(&file, IMAGE_GHOST_FILE);
}

static void words_for_values(void **state)
{
	(void)state;
	static const struct {
		uint32_t flags;
		const char *text;
	} cases[] = {
		{0, "\"\""},
		{1, "\"O_WRONLY\""},
		{02102001, "\"O_WRONLY | O_APPEND | O_LARGEFILE | O_CLOEXEC\""},
		{0x400000, "\"0x400000\""},
		{0xffffffff,
		 "\"O_WRONLY | O_RDWR | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | "
		 "O_DSYNC | FASYNC | O_DIRECT | O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | "
		 "O_CLOEXEC | 0xfff0003c\""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		FownEntry fown = FOWN_ENTRY__INIT;
		RegFileEntry reg = REG_FILE_ENTRY__INIT;
		reg.flags = cases[i].flags;
		reg.fown = &fown;
		reg.name = (char *)"/x";
		const struct part parts[] = {{.message = &reg.base}};
		_cleanup_bytes_ struct bytes image = image_of(IMAGE_REG_FILES, parts, 1);
		_cleanup_free_ char *text = decode(&image, IMAGE_REG_FILES, &pretty);
		if (!strstr(text, cases[i].text))
			fail_msg("%s lacks %s", text, cases[i].text);
		expect_round_trip(&image, IMAGE_REG_FILES);
	}
}

static void sockets(void **state)
{
	(void)state;
	static const struct {
		uint32_t words[5];
		size_t n;
		const char *text;
	} cases[] = {
		{{0x0100007f}, 1, "\"127.0.0.1\""},
		{{0, 0, 0, 0x01000000}, 4, "\"::1\""},
		{{0xb80d0120, 0, 0x01000000, 0x00000100}, 4, "\"2001:db8::1:1:0\""},
		{{1, 2}, 2, "1,"},
		{{1, 2, 3, 4, 5}, 5, "1,"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		FownEntry fown = FOWN_ENTRY__INIT;
		SkOptsEntry opts = SK_OPTS_ENTRY__INIT;
		InetSkEntry sk = INET_SK_ENTRY__INIT;
		uint32_t words[5];
		memcpy(words, cases[i].words, sizeof(words));
		sk.family = 10;
		sk.type = 1;
		sk.proto = 6;
		sk.state = 99;
		sk.src_addr = words;
		sk.n_src_addr = cases[i].n;
		sk.fown = &fown;
		sk.opts = &opts;
		const struct part parts[] = {{.message = &sk.base}};
		_cleanup_bytes_ struct bytes image = image_of(IMAGE_INETSK, parts, 1);
		_cleanup_free_ char *text = decode(&image, IMAGE_INETSK, &pretty);
		if (!strstr(text, cases[i].text))
			fail_msg("%s lacks %s", text, cases[i].text);
		assert_non_null(
			strstr(text, "\"family\": \"INET6\",\n            \"type\": \"STREAM\",\n            "
				     "\"proto\": \"TCP\",\n            \"state\": 99"));
		expect_round_trip(&image, IMAGE_INETSK);
	}
}

static struct bytes unix_socket(const void *name, size_t n)
{
	FownEntry fown = FOWN_ENTRY__INIT;
	SkOptsEntry opts = SK_OPTS_ENTRY__INIT;
	UnixSkEntry sk = UNIX_SK_ENTRY__INIT;
	sk.fown = &fown;
	sk.opts = &opts;
	sk.name = (ProtobufCBinaryData){n, (uint8_t *)name};
	const struct part parts[] = {{.message = &sk.base}};
	return image_of(IMAGE_UNIXSK, parts, 1);
}

static void names_of_unix_sockets(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		size_t n;
		const char *text;
	} cases[] = {
		{"/run/x\0", 7, "\"/run/x=00\""},
		{"\0abstract", 9, "\"=00abstract\""},
		{"a=b c", 5, "\"a=3Db c\""},
		{"trail ", 6, "\"trail=20\""},
		{"tab\t", 4, "\"tab=09\""},
		{"nl\nx", 4, "\"nl\\nx\""},
		{"x \n y", 5, "\"x=20\\n y\""},
		{"\xc3\xa9/", 3, "\"=C3=A9/\""},
		{"", 0, "\"\""},
		{"a\r\nb", 4, "\"a=0D=0Ab\""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_bytes_ struct bytes image = unix_socket(cases[i].name, cases[i].n);
		_cleanup_free_ char *text = decode(&image, IMAGE_UNIXSK, &compact);
		if (!strstr(text, cases[i].text))
			fail_msg("%s lacks %s", text, cases[i].text);
		expect_round_trip(&image, IMAGE_UNIXSK);
	}
	/* Lines of at most 76 characters, the "=" at their end included. */
	char name_of_a[109] = {0}, want[200];
	memset(name_of_a + 1, 'a', 107);
	_cleanup_bytes_ struct bytes abstract = unix_socket(name_of_a, 108);
	_cleanup_free_ char *text = decode(&abstract, IMAGE_UNIXSK, &compact);
	snprintf(want, sizeof(want), "\"=00%.72s=\\n%.35s\"", name_of_a + 1, name_of_a + 1);
	if (!strstr(text, want))
		fail_msg("%s lacks %s", text, want);
	static const char zeros[] =
		"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\0\0\0";
	_cleanup_bytes_ struct bytes encoded = unix_socket(zeros, 73);
	_cleanup_free_ char *broken = decode(&encoded, IMAGE_UNIXSK, &compact);
	assert_non_null(strstr(broken, "xx=00=\\n=00=00\""));
	/* Every length, so that lines break at every place; all bytes. */
	uint8_t name[400];
	for (unsigned seed = 0; seed < 6; seed++) {
		for (size_t n = 0; n < sizeof(name); n += seed + 1) {
			for (size_t i = 0; i < n; i++)
				name[i] = (uint8_t)(seed < 2 ? 'a' + seed : i * (seed * 40503u) >> 4);
			_cleanup_bytes_ struct bytes image = unix_socket(name, n);
			expect_round_trip(&image, IMAGE_UNIXSK);
		}
	}
}

static void strings_of_any_bytes(void **state)
{
	(void)state;
	static const struct {
		const char *name, *text;
	} cases[] = {
		{"a\"\\/\xc3\xa9\x01\t\n\x7f", "\"a\\\"\\\\/\\u00e9\\u0001\\t\\n\\u007f\""},
		{"\xf0\x9f\x98\x80", "\"\\ud83d\\ude00\""},
		{"\xff", "{\"base64\": \"/w==\\n\"}"},
		{"\xed\xa0\x80", "{\"base64\": \"7aCA\\n\"}"}, /* a surrogate */
		{"\xc0\x80", "{\"base64\": \"wIA=\\n\"}"},     /* overlong */
		{"q\x88\x88\x88\x88\x88\x88\x88\x88\x88\x88", "{\"base64\": \"cYiIiIiIiIiIiIg=\\n\"}"},
		{"x\xc3", "{\"base64\": \"eMM=\\n\"}"}, /* cut off */
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		FownEntry fown = FOWN_ENTRY__INIT;
		RegFileEntry reg = REG_FILE_ENTRY__INIT;
		reg.fown = &fown;
		reg.name = (char *)cases[i].name;
		const struct part parts[] = {{.message = &reg.base}};
		_cleanup_bytes_ struct bytes image = image_of(IMAGE_REG_FILES, parts, 1);
		_cleanup_free_ char *text = decode(&image, IMAGE_REG_FILES, &compact);
		if (!strstr(text, cases[i].text))
			fail_msg("%s lacks %s", text, cases[i].text);
		expect_round_trip(&image, IMAGE_REG_FILES);
	}
}

static void bytes_in_lines(void **state)
{
	(void)state;
	static const struct {
		size_t n;
		const char *text;
	} cases[] = {
		{0, "\"data\": \"\""},        {1, "\"data\": \"eA==\\n\""}, {2, "\"data\": \"eHg=\\n\""},
		{3, "\"data\": \"eHh4\\n\""}, {58, "eHh4\\neA==\\n\""},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		TtyDataEntry tty = TTY_DATA_ENTRY__INIT;
		uint8_t bytes[100];
		memset(bytes, 'x', sizeof(bytes));
		tty.data = (ProtobufCBinaryData){cases[i].n, bytes};
		const struct part parts[] = {{.message = &tty.base}};
		_cleanup_bytes_ struct bytes image = image_of(IMAGE_TTY_DATA, parts, 1);
		_cleanup_free_ char *text = decode(&image, IMAGE_TTY_DATA, &compact);
		if (!strstr(text, cases[i].text))
			fail_msg("%s lacks %s", text, cases[i].text);
		expect_round_trip(&image, IMAGE_TTY_DATA);
	}
}

/* ---- what follows messages ---- */

static void payload_of_messages(void **state)
{
	(void)state;
	IpcDescEntry desc = IPC_DESC_ENTRY__INIT;
	IpcMsg first = IPC_MSG__INIT, second = IPC_MSG__INIT;
	IpcMsgEntry queue = IPC_MSG_ENTRY__INIT, none = IPC_MSG_ENTRY__INIT;
	queue.desc = none.desc = &desc;
	queue.qnum = 2;
	first.msize = 3;
	second.msize = 8;
	const struct part parts[] = {{.message = &queue.base},         {.message = &first.base},
				     {.raw = "abc\0\0\0\0\0", .n = 8}, {.message = &second.base},
				     {.raw = "abcdefgh", .n = 8},      {.message = &none.base}};
	_cleanup_bytes_ struct bytes image = image_of(IMAGE_IPCNS_MSG, parts, ARRAY_SIZE(parts));
	_cleanup_free_ char *text = decode(&image, IMAGE_IPCNS_MSG, &compact);
	assert_non_null(strstr(
		text, "\"extra\": [{\"mtype\": 0, \"msize\": 3}, \"YWJj\\n\", {\"mtype\": 0, \"msize\": 8}, "
		      "\"YWJjZGVmZ2g=\\n\"]}"));
	assert_non_null(strstr(text, "\"qnum\": 0, \"extra\": []}"));
	expect_round_trip(&image, IMAGE_IPCNS_MSG);
	const struct part dirty[] = {{.message = &queue.base},
				     {.message = &first.base},
				     {.raw = "abc\0\0\0\0\1", .n = 8},
				     {.message = &second.base},
				     {.raw = "abcdefgh", .n = 8}};
	_cleanup_bytes_ struct bytes other = image_of(IMAGE_IPCNS_MSG, dirty, ARRAY_SIZE(dirty));
	_cleanup_free_ char *padded = decode(&other, IMAGE_IPCNS_MSG, &compact);
	assert_non_null(strstr(padded, "\"msize\": 3, \"pad\": \"AAAAAAE=\\n\"}"));
	expect_round_trip(&other, IMAGE_IPCNS_MSG);
}

static void payload_of_semaphores(void **state)
{
	(void)state;
	IpcDescEntry desc = IPC_DESC_ENTRY__INIT;
	IpcSemEntry sem = IPC_SEM_ENTRY__INIT;
	sem.desc = &desc;
	sem.nsems = 3;
	const struct part clean[] = {{.message = &sem.base}, {.raw = "\1\0\2\0\xff\xff\0\0", .n = 8}};
	const struct part dirty[] = {{.message = &sem.base}, {.raw = "\1\0\2\0\xff\xff\7\0", .n = 8}};
	_cleanup_bytes_ struct bytes a = image_of(IMAGE_IPCNS_SEM, clean, 2),
				     b = image_of(IMAGE_IPCNS_SEM, dirty, 2);
	_cleanup_free_ char *text = decode(&a, IMAGE_IPCNS_SEM, &compact),
			    *other = decode(&b, IMAGE_IPCNS_SEM, &compact);
	assert_non_null(strstr(text, "\"extra\": [1, 2, 65535]}"));
	assert_non_null(strstr(other, "\"extra\": [1, 2, 65535], \"pad\": \"BwA=\\n\"}"));
	expect_round_trip(&a, IMAGE_IPCNS_SEM);
	expect_round_trip(&b, IMAGE_IPCNS_SEM);
}

static void payload_of_a_connection(void **state)
{
	(void)state;
	TcpStreamEntry tcp = TCP_STREAM_ENTRY__INIT;
	tcp.inq_len = 3;
	tcp.outq_len = 2;
	const struct part parts[] = {{.message = &tcp.base}, {.raw = "abcde", .n = 5}};
	_cleanup_bytes_ struct bytes image = image_of(IMAGE_TCP_STREAM, parts, 2);
	_cleanup_free_ char *text = decode(&image, IMAGE_TCP_STREAM, &compact);
	assert_non_null(strstr(text, "\"extra\": {\"inq\": \"YWJj\\n\", \"outq\": \"ZGU=\\n\"}}"));
	expect_round_trip(&image, IMAGE_TCP_STREAM);
}

static void payload_in_chunks(void **state)
{
	(void)state;
	GhostFileEntry ghost = GHOST_FILE_ENTRY__INIT;
	GhostChunkEntry a = GHOST_CHUNK_ENTRY__INIT, b = GHOST_CHUNK_ENTRY__INIT;
	ghost.has_chunks = ghost.chunks = 1;
	a.len = 3;
	b.len = 2;
	b.off = 8192;
	const struct part parts[] = {{.message = &ghost.base},
				     {.message = &a.base},
				     {.raw = "abc", .n = 3},
				     {.message = &b.base},
				     {.raw = "xy", .n = 2}};
	_cleanup_bytes_ struct bytes image = image_of(IMAGE_GHOST_FILE, parts, ARRAY_SIZE(parts));
	_cleanup_free_ char *text = decode(&image, IMAGE_GHOST_FILE, &compact);
	assert_non_null(strstr(
		text, "\"chunks\": true}, {\"len\": 3, \"off\": 0, \"extra\": \"YWJj\\n\"}, {\"len\": 2, "
		      "\"off\": 8192, \"extra\": \"eHk=\\n\"}]}"));
	expect_round_trip(&image, IMAGE_GHOST_FILE);
	struct image_reader *r = NULL;
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_free_ char *brief = NULL;
	size_t n;
	FILE *out = open_memstream(&brief, &n);
	const struct image_json_options no_payloads = {.no_payloads = true};
	assert_int_equal(image_open_fd(memory_with(image.p, image.n), "x", IMAGE_GHOST_FILE, &r, &err), 0);
	assert_int_equal(image_decode(r, IMAGE_GHOST_FILE, &no_payloads, out, &err), 0);
	image_reader_free(r);
	fclose(out);
	assert_null(strstr(brief, "extra"));
}

/* Pipes, sockets, shared memory, BPF maps: one length each. */
static void payload_of_one_length(void **state)
{
	(void)state;
	static const struct {
		enum image_kind kind;
		const char *text;
	} cases[] = {
		{IMAGE_PIPES_DATA,
		 "{\"magic\": \"PIPES_DATA\", \"entries\": [{\"pipe_id\": 1, \"bytes\": 3, \"extra\": \"YWJj\\n\"}, "
		 "{\"pipe_id\": 2, \"bytes\": 0, \"extra\": \"\"}]}\n"},
		{IMAGE_SK_QUEUES,
		 "{\"magic\": \"SK_QUEUES\", \"entries\": [{\"id_for\": 1, \"length\": 3, \"scm\": "
		 "[{\"type\": 1, \"rights\": [4, 5]}], \"extra\": \"YWJj\\n\"}]}\n"},
		{IMAGE_IPCNS_SHM,
		 "{\"magic\": \"IPCNS_SHM\", \"entries\": [{\"desc\": {\"key\": 1, \"uid\": 0, \"gid\": 0, "
		 "\"cuid\": 0, \"cgid\": 0, \"mode\": 0, \"id\": 0}, \"size\": 5, \"extra\": \"YWJjZGU=\\n\"}, "
		 "{\"desc\": {\"key\": 1, \"uid\": 0, \"gid\": 0, \"cuid\": 0, \"cgid\": 0, \"mode\": 0, "
		 "\"id\": 0}, \"size\": 5, "
		 "\"in_pagemaps\": true, \"extra\": \"\"}]}\n"},
		{IMAGE_BPFMAP_DATA,
		 "{\"magic\": \"BPFMAP_DATA\", \"entries\": [{\"map_id\": 1, \"keys_bytes\": 4, "
		 "\"values_bytes\": 8, \"count\": 1, \"extra\": \"YWJjZDEyMzQ1Njc4\\n\"}]}\n"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		_cleanup_bytes_ struct bytes image = {0};
		if (encode(cases[i].text, &image, &err) < 0)
			fail_msg("%s", err.message);
		expect_text(&image, cases[i].kind, &compact, cases[i].text);
	}
}

/* ---- everything ---- */

static void every_message_both_ways(void **state)
{
	(void)state;
	size_t n;
	const ProtobufCMessageDescriptor *const *types = image_messages(&n);
	for (size_t i = 0; i < n * 4; i++) {
		struct filler f = {.next = i * 31};
		const ProtobufCMessageDescriptor *type = types[i % n];
		ProtobufCMessage *message = filler_message(&f, type), *back = NULL;
		struct ferry_error err = FERRY_ERROR_INIT;
		_cleanup_strbuf_ struct strbuf text = {0};
		assert_int_equal(image_json_from_message(message, i / n % 2 ? &pretty : &compact, &text), 0);
		struct json_tokener *tokener = json_tokener_new_ex(200);
		struct json_object *json = json_tokener_parse_ex(tokener, strbuf_str(&text), (int)text.n);
		assert_non_null(json);
		if (image_json_to_message(json, type, &back, &err) < 0)
			fail_msg("%s: %s", type->name, err.message);
		size_t a, b;
		_cleanup_free_ uint8_t *one = pack(message, &a), *two = pack(back, &b);
		if (a != b || memcmp(one, two, a))
			fail_msg("%s became other bytes: %s", type->name, strbuf_str(&text));
		json_object_put(json);
		json_tokener_free(tokener);
		image_message_free(message);
		image_message_free(back);
	}
}

static void fields_of_tomorrow(void **state)
{
	(void)state;
	/* fdinfo_entry with field 900 (a number) and 901 (bytes) behind the known ones */
	static const uint8_t file[] = {0x19, 0x43, 0x56, 0x54, 0x32, 0x37, 0x21, 0x56, 16,   0,
				       0,    0,    0x08, 1,    0x10, 0,    0x18, 1,    0x20, 2,
				       0xa0, 0x38, 0x05, 0xaa, 0x38, 2,    'h',  'i'};
	_cleanup_bytes_ struct bytes image = {malloc(sizeof(file)), sizeof(file)};
	memcpy(image.p, file, sizeof(file));
	expect_text(
		&image, IMAGE_FDINFO, &compact,
		"{\"magic\": \"FDINFO\", \"entries\": [{\"id\": 1, \"flags\": 0, \"type\": \"REG\", \"fd\": 2, "
		"\"unknown_fields\": [{\"tag\": 900, \"wire_type\": 0, \"data\": \"BQ==\\n\"}, {\"tag\": 901, "
		"\"wire_type\": 2, \"data\": \"Amhp\\n\"}]}]}\n");
}

static void texts_that_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *text, *what;
	} cases[] = {
		{"", "its end is missing"},
		{"{", "its end is missing"},
		{"[]", "no object with a 'magic'"},
		{"{\"magic\": \"CORE\"}", "no object with a 'magic'"},
		{"{\"magic\": \"CORE\", \"entries\": {}}", "no object with a 'magic'"},
		{"{\"magic\": \"NOPE\", \"entries\": []}", "'NOPE' is no magic"},
		{"{\"magic\": \"PAGES\", \"entries\": []}", "'PAGES' is no magic"},
		{"{\"magic\": \"FS\", \"entries\": []} x", "something follows"},
		{"{\"magic\": \"FS\", \"entries\": [3]}", "no valid fs_entry"},
		{"{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": 1}]}",
		 "field 'root_id' of fs_entry is missing"},
		{"{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": -1, \"root_id\": 1}]}",
		 "'cwd_id' of fs_entry is out of range"},
		{"{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": 4294967296, \"root_id\": 1}]}",
		 "out of range"},
		{"{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": 1.5, \"root_id\": 1}]}", "is malformed"},
		{"{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": \"0xg\", \"root_id\": 1}]}", "is malformed"},
		{"{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": null, \"root_id\": 1}]}", "is malformed"},
		{"{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": 1, \"root_id\": 1, \"more\": 1}]}",
		 "'more' of fs_entry is not known"},
		{"{\"magic\": \"TTY_DATA\", \"entries\": [{\"tty_id\": 1, \"data\": \"a\"}]}",
		 "'data' of tty_data_entry is malformed"},
		{"{\"magic\": \"TTY_DATA\", \"entries\": [{\"tty_id\": 1, \"data\": \"a===\"}]}",
		 "malformed"},
		{"{\"magic\": \"TTY_DATA\", \"entries\": [{\"tty_id\": 1, \"data\": \"=AAA\"}]}",
		 "malformed"},
		{"{\"magic\": \"PIPES_DATA\", \"entries\": [{\"pipe_id\": 1, \"bytes\": 2, \"extra\": \"YQ==\"}]}",
		 "not as many bytes"},
		{"{\"magic\": \"PIPES_DATA\", \"entries\": [{\"pipe_id\": 1, \"bytes\": 2}]}",
		 "'extra' is missing"},
		{"{\"magic\": \"UTSNS\", \"entries\": [{\"nodename\": \"a\\u0000b\", \"domainname\": \"\"}]}",
		 "malformed"},
		{"{\"magic\": \"SEEN\", \"entries\": []}", "no magic"},
		{"{\"magic\": \"FILE_LOCKS\", \"entries\": [{\"flag\": 1, \"type\": 1, \"pid\": 2147483648, "
		 "\"fd\": 1, \"start\": 0, \"len\": 0}]}",
		 "'pid' of file_lock_entry is out of range"},
		{"{\"magic\": \"FILE_LOCKS\", \"entries\": [{\"flag\": 1, \"type\": 1, \"pid\": 1, "
		 "\"fd\": 1, \"start\": 9223372036854775808, \"len\": 0}]}",
		 "'start' of file_lock_entry is out of range"},
		{"{\"magic\": \"FILE_LOCKS\", \"entries\": [{\"flag\": 1, \"type\": 1, \"pid\": -2147483649, "
		 "\"fd\": 1, \"start\": 0, \"len\": 0}]}",
		 "'pid' of file_lock_entry is out of range"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		_cleanup_bytes_ struct bytes image = {0};
		assert_int_equal(encode(cases[i].text, &image, &err), -EBADMSG);
		assert_int_equal(err.id, FERRY_ERROR_IMAGE_BAD);
		assert_non_null(strstr(err.message, "test.json"));
		if (!strstr(err.message, cases[i].what))
			fail_msg("case %zu: '%s' lacks '%s'", i, err.message, cases[i].what);
	}
}

static void numbers_may_be_texts(void **state)
{
	(void)state;
	struct ferry_error err = FERRY_ERROR_INIT;
	_cleanup_bytes_ struct bytes a = {0}, b = {0}, c = {0};
	assert_int_equal(
		encode("{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": 26, \"root_id\": 4294967295}]}", &a,
		       &err),
		0);
	assert_int_equal(
		encode("{\"magic\": \"FS\", \"entries\": [{\"cwd_id\": \"0x1a\", \"root_id\": \"4294967295\"}]}\n ",
		       &b, &err),
		0);
	assert_int_equal(a.n, b.n);
	assert_memory_equal(a.p, b.p, a.n);
	assert_int_equal(encode("{\"magic\": \"CREDS\", \"entries\": []}", &c, &err), 0);
	assert_int_equal(c.n, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_and_pretty),
		cmocka_unit_test(empty_lists_and_objects),
		cmocka_unit_test(forms_of_numbers),
		cmocka_unit_test(words_for_values),
		cmocka_unit_test(sockets),
		cmocka_unit_test(names_of_unix_sockets),
		cmocka_unit_test(strings_of_any_bytes),
		cmocka_unit_test(bytes_in_lines),
		cmocka_unit_test(payload_of_messages),
		cmocka_unit_test(payload_of_semaphores),
		cmocka_unit_test(payload_of_a_connection),
		cmocka_unit_test(payload_in_chunks),
		cmocka_unit_test(payload_of_one_length),
		cmocka_unit_test(every_message_both_ways),
		cmocka_unit_test(fields_of_tomorrow),
		cmocka_unit_test(texts_that_are_refused),
		cmocka_unit_test(numbers_may_be_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
