/* SPDX-License-Identifier: Apache-2.0 */
/* Records of sockets: conversions there and back, options of real sockets, images that contradict themselves. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "image/dir.h"
#include "image/file.h"
#include "image/proto/sk-packet.pb-c.h"
#include "kind/inet.h"
#include "kind/kinds.h"
#include "kind/sockopt.h"
#include "kind/unix.h"
#include "model/record.h"

/* ----------------------------------------------------------------- TCP records */

static FownEntry no_owner = FOWN_ENTRY__INIT;

static uint32_t loopback_word(void)
{
	return htonl(INADDR_LOOPBACK);
}

/* A connection in a state, with something in every field. */
static struct ferry_tcp connection(uint8_t state, uint8_t *bytes)
{
	struct ferry_tcp t = FERRY_TCP_INIT;
	uint32_t address = loopback_word();
	t.family = AF_INET;
	t.local_port = 4001;
	t.remote_port = 4002;
	t.state = state;
	memcpy(t.local_addr, &address, sizeof(address));
	memcpy(t.remote_addr, &address, sizeof(address));
	t.inq = (struct ferry_tcp_queue){.seq = 0xfffffff0, .len = 3, .bytes = bytes};
	t.outq = (struct ferry_tcp_queue){.seq = 77, .len = 5, .bytes = bytes + 3};
	t.unsent_len = 2;
	t.snd_wscale = 7;
	t.rcv_wscale = 9;
	t.tcp_options = FERRY_TCP_OPT_TIMESTAMPS | FERRY_TCP_OPT_SACK | FERRY_TCP_OPT_WSCALE;
	t.mss_clamp = 1460;
	t.has_timestamp = 1;
	t.timestamp = 123456;
	t.has_window = 1;
	t.snd_wl1 = 11;
	t.snd_wnd = 22;
	t.max_window = 33;
	t.rcv_wnd = 44;
	t.rcv_wup = 55;
	t.nodelay = 1;
	t.keepalive = 1;
	t.keepidle_s = 100;
	t.keepintvl_s = 10;
	t.keepcnt = 4;
	t.sndbuf_bytes = 20000;
	t.rcvbuf_bytes = 30000;
	t.has_buf_lock = 1;
	t.buf_lock = 2;
	t.undo.reuseaddr = 1;
	t.undo.peek_off = 6;
	return t;
}

/* What collecting writes into the record beside the stream. */
struct records {
	InetSkEntry isk;
	SkOptsEntry opts;
	TcpOptsEntry tcp;
	TcpStreamEntry stream;
	FerrySocketEntry extra;
	FerrySocketOption peek, *options[1];
	uint32_t address;
	int peek_off;
};

static void records_of(const struct ferry_tcp *t, struct records *r)
{
	*r = (struct records){.address = loopback_word(), .peek_off = t->undo.peek_off};
	inet_sk_entry__init(&r->isk);
	sk_opts_entry__init(&r->opts);
	tcp_opts_entry__init(&r->tcp);
	ferry_socket_entry__init(&r->extra);
	ferry_socket_option__init(&r->peek);
	r->isk.family = t->family;
	r->isk.type = SOCK_STREAM;
	r->isk.proto = IPPROTO_TCP;
	r->isk.state = t->state;
	r->isk.src_port = t->local_port;
	r->isk.dst_port = t->remote_port;
	r->isk.src_addr = r->isk.dst_addr = &r->address;
	r->isk.n_src_addr = r->isk.n_dst_addr = 1;
	r->isk.fown = &no_owner;
	r->isk.opts = &r->opts;
	r->isk.tcp_opts = &r->tcp;
	record_set(&r->isk, shutdown, (SkShutdown)tcp_shutdown_of(t));
	r->opts.so_sndbuf = t->sndbuf_bytes;
	r->opts.so_rcvbuf = t->rcvbuf_bytes;
	record_set(&r->opts, so_buf_lock, t->buf_lock);
	record_set(&r->opts, reuseaddr, t->undo.reuseaddr);
	record_set(&r->opts, so_keepalive, t->keepalive);
	record_set(&r->tcp, nodelay, t->nodelay);
	record_set(&r->tcp, keepidle, t->keepidle_s);
	record_set(&r->tcp, keepintvl, t->keepintvl_s);
	record_set(&r->tcp, keepcnt, t->keepcnt);
	if (t->fin_unsent)
		record_set(&r->extra, fin_unsent, true);
	r->peek.level = SOL_SOCKET;
	r->peek.name = SO_PEEK_OFF;
	r->peek.value = (ProtobufCBinaryData){.len = sizeof(r->peek_off), .data = (uint8_t *)&r->peek_off};
	r->options[0] = &r->peek;
	r->extra.options = r->options;
	r->extra.n_options = 1;
	tcp_to_stream(t, &r->stream);
}

static void there_and_back(const struct ferry_tcp *t)
{
	struct records r;
	struct ferry_tcp back;
	struct ferry_error err = FERRY_ERROR_INIT;
	records_of(t, &r);
	struct tcp_plan plan = {.stream = &r.stream, .inq = t->inq.bytes, .outq = t->outq.bytes};
	assert_int_equal(tcp_from_records(&r.isk, &plan, &r.extra, &back, &err), 0);
	assert_memory_equal(t, &back, sizeof(*t));
}

static void tcp_states(void **state)
{
	(void)state;
	static const uint8_t states[] = {FERRY_TCP_ESTABLISHED, FERRY_TCP_FIN_WAIT1, FERRY_TCP_FIN_WAIT2,
					 FERRY_TCP_CLOSE_WAIT,  FERRY_TCP_LAST_ACK,  FERRY_TCP_CLOSING};
	uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	for (size_t i = 0; i < sizeof(states); i++) {
		struct ferry_tcp t = connection(states[i], bytes);
		bool local_fin = states[i] != FERRY_TCP_ESTABLISHED && states[i] != FERRY_TCP_CLOSE_WAIT;
		t.fin_unsent = local_fin && states[i] != FERRY_TCP_FIN_WAIT2;
		if (states[i] == FERRY_TCP_FIN_WAIT2)
			t.unsent_len = 0;
		there_and_back(&t);
		t.has_window = t.snd_wl1 = t.snd_wnd = t.max_window = t.rcv_wnd = t.rcv_wup = 0;
		t.has_timestamp = t.timestamp = 0;
		there_and_back(&t);
	}
	struct ferry_tcp t = connection(FERRY_TCP_ESTABLISHED, bytes);
	t.shutdown_read = 1;
	there_and_back(&t);
}

static void tcp_shutdowns(void **state)
{
	(void)state;
	static const struct {
		uint8_t state, read;
		unsigned shut;
	} cases[] = {
		{FERRY_TCP_ESTABLISHED, 0, SK_SHUTDOWN__NONE}, {FERRY_TCP_ESTABLISHED, 1, SK_SHUTDOWN__READ},
		{FERRY_TCP_FIN_WAIT1, 0, SK_SHUTDOWN__WRITE},  {FERRY_TCP_FIN_WAIT2, 1, SK_SHUTDOWN__BOTH},
		{FERRY_TCP_CLOSE_WAIT, 0, SK_SHUTDOWN__READ},  {FERRY_TCP_LAST_ACK, 0, SK_SHUTDOWN__BOTH},
		{FERRY_TCP_CLOSING, 0, SK_SHUTDOWN__BOTH},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ferry_tcp t = FERRY_TCP_INIT;
		t.state = cases[i].state;
		t.shutdown_read = cases[i].read;
		assert_int_equal(tcp_shutdown_of(&t), cases[i].shut);
	}
}

/* Images without our own record: an unsent FIN shows in the bytes before it. Options come from wherever they are. */
static void tcp_foreign(void **state)
{
	(void)state;
	uint8_t bytes[8] = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	struct ferry_tcp t = connection(FERRY_TCP_FIN_WAIT1, bytes), back;
	struct records r;
	records_of(&t, &r);
	struct tcp_plan plan = {.stream = &r.stream, .inq = bytes, .outq = bytes + 3};
	assert_int_equal(tcp_from_records(&r.isk, &plan, NULL, &back, &err), 0);
	assert_int_equal(back.fin_unsent, 1);
	assert_int_equal(back.undo.peek_off, -1);
	r.stream.unsq_len = 0;
	assert_int_equal(tcp_from_records(&r.isk, &plan, NULL, &back, &err), 0);
	assert_int_equal(back.fin_unsent, 0);
	r.isk.tcp_opts = NULL;
	record_set(&r.stream, nodelay, true);
	record_set(&r.opts, tcp_keepidle, 333);
	assert_int_equal(tcp_from_records(&r.isk, &plan, NULL, &back, &err), 0);
	assert_int_equal(back.nodelay, 1);
	assert_int_equal(back.keepidle_s, 333);
	r.stream.snd_wscale = 300;
	assert_int_equal(tcp_from_records(&r.isk, &plan, NULL, &back, &err), -EBADMSG);
	assert_int_equal(err.id, FERRY_ERROR_IMAGE_BAD);
}

/* ------------------------------------------------------------------- options */

static const struct sock_filter filter_code[] = {
	{0x28, 0, 0, 12}, {0x15, 1, 0, 0x0800}, {0x06, 0, 0, 0xffff}, {0x06, 0, 0, 1}};

static void options_set(int fd, bool local)
{
	const struct sock_fprog program = {.len = ARRAY_SIZE(filter_code),
					   .filter = (struct sock_filter *)(uintptr_t)filter_code};
	assert_int_equal(sock_set(fd, SOL_SOCKET, SO_SNDBUF, 33333), 0);
	assert_int_equal(sock_set(fd, SOL_SOCKET, SO_RCVBUF, 44444), 0);
	assert_int_equal(sock_set(fd, SOL_SOCKET, SO_PRIORITY, 4), 0);
	assert_int_equal(sock_set(fd, SOL_SOCKET, SO_RCVLOWAT, 3), 0);
	assert_int_equal(sock_set(fd, SOL_SOCKET, SO_REUSEADDR, 1), 0);
	if (local)
		assert_int_equal(sock_set(fd, SOL_SOCKET, SO_PASSCRED, 1), 0);
	assert_int_equal(sock_set_bytes(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0},
					sizeof(struct timeval)),
			 0);
	assert_int_equal(
		sock_set_bytes(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 6}, sizeof(struct linger)), 0);
	assert_int_equal(sock_set_bytes(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)), 0);
}

static void same_records(struct arena *a, const SkOptsEntry *x, const SkOptsEntry *y)
{
	size_t n = sk_opts_entry__get_packed_size(x);
	uint8_t *p = arena_alloc(a, n + 1), *q = arena_alloc(a, n + 1);
	assert_int_equal(n, sk_opts_entry__get_packed_size(y));
	sk_opts_entry__pack(x, p);
	sk_opts_entry__pack(y, q);
	assert_memory_equal(p, q, n);
}

/* The options of one socket, given to a new one, read the same. */
static void options_move(int domain, int type)
{
	struct arena a = {0};
	struct ferry_error err = FERRY_ERROR_INIT;
	bool local = domain == AF_UNIX;
	_cleanup_close_ int one = socket(domain, type | SOCK_CLOEXEC, 0),
			    other = socket(domain, type | SOCK_CLOEXEC, 0);
	SkOptsEntry *before, *after, *fresh;
	assert_int_equal(sockopt_collect(other, local, &a, &fresh, &err), 0);
	assert_int_equal(fresh->has_so_passcred, local);
	assert_int_equal(fresh->has_so_mark, 0);
	options_set(one, local);
	assert_int_equal(sockopt_collect(one, local, &a, &before, &err), 0);
	assert_int_equal(before->so_sndbuf, 2 * 33333);
	assert_int_equal(before->so_buf_lock, 3);
	assert_int_equal(before->n_so_filter, ARRAY_SIZE(filter_code));
	assert_int_equal(before->so_filter[1], 0x0015010000000800);
	assert_int_equal(sockopt_before_bind(other, before, false, &err), 0);
	assert_int_equal(sockopt_apply(other, before, &err), 0);
	assert_int_equal(sockopt_apply_filter(other, before, &err), 0);
	assert_int_equal(sockopt_collect(other, local, &a, &after, &err), 0);
	same_records(&a, before, after);
	arena_release(&a);
}

static void options_of_all(void **state)
{
	(void)state;
	options_move(AF_UNIX, SOCK_STREAM);
	options_move(AF_INET, SOCK_STREAM);
	options_move(AF_INET, SOCK_DGRAM);
	options_move(AF_INET6, SOCK_DGRAM);
}

static void filter_too_long(void **state)
{
	(void)state;
	static uint64_t code[5000];
	struct ferry_error err = FERRY_ERROR_INIT;
	SkOptsEntry o = SK_OPTS_ENTRY__INIT;
	o.so_filter = code;
	o.n_so_filter = ARRAY_SIZE(code);
	assert_int_equal(sockopt_apply_filter(-1, &o, &err), -EBADMSG);
}

/* -------------------------------------------------------------- hostile images */

enum { FILES = 3 };

/* Three unix sockets of which the first two are a pair, as an image. */
struct world {
	char folder[40];
	struct plan plan;
	struct plan_file files[FILES];
	FileEntry entries[FILES];
	UnixSkEntry usk[FILES];
	SkOptsEntry opts;
	void *kind_data[KIND_COUNT];
};

static void world_make(struct world *w)
{
	*w = (struct world){.folder = "/tmp/ferry-unit-sockets-XXXXXX"};
	assert_non_null(mkdtemp(w->folder));
	sk_opts_entry__init(&w->opts);
	for (size_t i = 0; i < FILES; i++) {
		file_entry__init(&w->entries[i]);
		unix_sk_entry__init(&w->usk[i]);
		w->entries[i].type = FD_TYPES__UNIXSK;
		w->entries[i].id = (uint32_t)i + 1;
		w->entries[i].usk = &w->usk[i];
		w->usk[i].id = (uint32_t)i + 1;
		w->usk[i].ino = (uint32_t)i + 101;
		w->usk[i].type = SOCK_STREAM;
		w->usk[i].state = UNIX_CONNECTED;
		w->usk[i].fown = &no_owner;
		w->usk[i].opts = &w->opts;
		w->files[i] = (struct plan_file){.entry = &w->entries[i], .kind = &kind_unixsk, .fd = -1};
	}
	w->usk[0].peer = 102;
	w->usk[1].peer = 101;
	w->usk[2].state = UNIX_CLOSED;
	w->plan.files = w->files;
	w->plan.n_files = FILES;
	w->plan.kind_data = w->kind_data;
}

/* Write sk-queues.img and ferry-socket.img, read them, and let the kind link everything. */
static int world_read(struct world *w, const SkPacketEntry *packet, size_t bytes,
		      const FerrySocketEntry *extra, struct ferry_error *err)
{
	static const uint8_t zeroes[64];
	struct image_dir *dir;
	struct image_writer *writer;
	struct image_dir_create create = {.no_sync = true, .overwrite = true};
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	inventory.img_version = 2;
	assert_int_equal(image_dir_create(AT_FDCWD, w->folder, &create, &dir, err), 0);
	assert_int_equal(image_put_one(dir, IMAGE_INVENTORY, 0, &inventory.base, err), 0);
	assert_int_equal(image_create(dir, IMAGE_SK_QUEUES, 0, &writer, err), 0);
	if (packet)
		assert_int_equal(image_put(writer, &packet->base, err), 0);
	assert_int_equal(image_put_raw(writer, zeroes, bytes, err), 0);
	assert_int_equal(image_close(writer, err), 0);
	if (extra)
		assert_int_equal(image_put_one(dir, IMAGE_FERRY_SOCKET, 0, &extra->base, err), 0);
	assert_int_equal(image_dir_finish(dir, err), 0);
	image_dir_free(dir);
	struct image_dir_open open = {0};
	assert_int_equal(image_dir_open(AT_FDCWD, w->folder, &open, &dir, err), 0);
	struct reader r = {.plan = &w->plan, .dir = dir};
	int ret = unix_read(&r, err);
	image_dir_free(dir);
	return ret;
}

static void world_free(struct world *w)
{
	char command[80];
	w->plan.n_files = 0;
	plan_release(&w->plan);
	snprintf(command, sizeof(command), "rm -r '%s'", w->folder);
	assert_int_equal(system(command), 0);
}

static void expect_read(void (*damage)(struct world *w), const SkPacketEntry *packet, size_t bytes,
			const FerrySocketEntry *extra, enum ferry_error_id id)
{
	struct world w;
	struct ferry_error err = FERRY_ERROR_INIT;
	world_make(&w);
	if (damage)
		damage(&w);
	int r = world_read(&w, packet, bytes, extra, &err);
	assert_int_equal(err.id, id);
	assert_int_equal(r < 0, id != FERRY_ERROR_NONE);
	world_free(&w);
}

static void damage_peer(struct world *w)
{
	w->usk[1].peer = 103;
}

static void damage_self(struct world *w)
{
	w->usk[0].peer = 101;
}

static void damage_missing_peer(struct world *w)
{
	w->usk[0].peer = 999;
}

static void damage_record(struct world *w)
{
	w->entries[2].usk = NULL;
}

static void damage_state(struct world *w)
{
	w->usk[2].state = 5;
}

static void damage_type(struct world *w)
{
	w->usk[2].type = SOCK_DGRAM;
	w->usk[2].state = UNIX_LISTENING;
}

static void damage_unknown_type(struct world *w)
{
	w->usk[2].type = SOCK_RAW;
}

static void damage_uflags(struct world *w)
{
	w->usk[2].uflags = 1;
}

static void damage_name(struct world *w)
{
	static uint8_t name[200];
	w->usk[2].name = (ProtobufCBinaryData){.len = sizeof(name), .data = name};
}

static void hostile_records(void **state)
{
	(void)state;
	expect_read(NULL, NULL, 0, NULL, FERRY_ERROR_NONE);
	expect_read(damage_peer, NULL, 0, NULL, FERRY_ERROR_IMAGE_BAD);
	expect_read(damage_self, NULL, 0, NULL, FERRY_ERROR_IMAGE_BAD);
	expect_read(damage_missing_peer, NULL, 0, NULL, FERRY_ERROR_IMAGE_UNSUPPORTED);
	expect_read(damage_record, NULL, 0, NULL, FERRY_ERROR_IMAGE_BAD);
	expect_read(damage_state, NULL, 0, NULL, FERRY_ERROR_IMAGE_BAD);
	expect_read(damage_type, NULL, 0, NULL, FERRY_ERROR_IMAGE_BAD);
	expect_read(damage_unknown_type, NULL, 0, NULL, FERRY_ERROR_IMAGE_BAD);
	expect_read(damage_uflags, NULL, 0, NULL, FERRY_ERROR_IMAGE_UNSUPPORTED);
	expect_read(damage_name, NULL, 0, NULL, FERRY_ERROR_IMAGE_BAD);
}

static void hostile_queues(void **state)
{
	(void)state;
	SkPacketEntry packet = SK_PACKET_ENTRY__INIT;
	ScmEntry rights = SCM_ENTRY__INIT, *all[] = {&rights};
	FerrySocketEntry extra = FERRY_SOCKET_ENTRY__INIT;
	packet.id_for = 1;
	packet.length = 10;
	expect_read(NULL, &packet, 10, NULL, FERRY_ERROR_NONE);
	expect_read(NULL, &packet, 9, NULL, FERRY_ERROR_IMAGE_BAD);
	packet.length = UINT32_MAX;
	expect_read(NULL, &packet, 10, NULL, FERRY_ERROR_IMAGE_BAD);
	packet.length = 10;
	packet.id_for = 4;
	expect_read(NULL, &packet, 10, NULL, FERRY_ERROR_IMAGE_BAD);
	packet.id_for = 2;
	rights.type = SCM_RIGHTS;
	packet.scm = all;
	packet.n_scm = 1;
	uint32_t ids[300] = {2, 99};
	rights.rights = ids;
	rights.n_rights = 1;
	expect_read(NULL, &packet, 10, NULL, FERRY_ERROR_NONE);
	rights.n_rights = 2;
	expect_read(NULL, &packet, 10, NULL, FERRY_ERROR_IMAGE_BAD);
	rights.n_rights = ARRAY_SIZE(ids);
	expect_read(NULL, &packet, 10, NULL, FERRY_ERROR_IMAGE_BAD);
	rights.n_rights = 1;
	rights.type = SCM_CREDENTIALS;
	expect_read(NULL, &packet, 10, NULL, FERRY_ERROR_IMAGE_BAD);
	extra.id = 2;
	expect_read(NULL, NULL, 0, &extra, FERRY_ERROR_NONE);
	extra.id = 77;
	expect_read(NULL, NULL, 0, &extra, FERRY_ERROR_IMAGE_BAD);
}

/* Only options that the table has, for sockets that can have them, of a length that fits. */
static void hostile_options(void **state)
{
	(void)state;
	static uint8_t value[100];
	static const struct {
		int level, name;
		size_t n;
		int code;
	} cases[] = {
		{SOL_SOCKET, SO_TIMESTAMP, 4, 0},           {SOL_SOCKET, SO_TIMESTAMP, 100, -EBADMSG},
		{SOL_SOCKET, SO_BINDTODEVICE, 4, -EBADMSG}, {SOL_SOCKET, SO_ATTACH_BPF, 4, -EBADMSG},
		{IPPROTO_TCP, TCP_REPAIR, 4, -EBADMSG},     {IPPROTO_TCP, TCP_USER_TIMEOUT, 4, -EBADMSG},
	};
	const struct sock_type type = {.domain = AF_UNIX, .type = SOCK_STREAM};
	const struct opener o = {0};
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		FerrySocketOption option = FERRY_SOCKET_OPTION__INIT, *options[] = {&option};
		FerrySocketEntry extra = FERRY_SOCKET_ENTRY__INIT;
		option.level = cases[i].level;
		option.name = cases[i].name;
		option.value = (ProtobufCBinaryData){.len = cases[i].n, .data = value};
		extra.options = options;
		extra.n_options = 1;
		assert_int_equal(sockextra_apply(&o, fd, &type, &extra, false, &err), cases[i].code);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tcp_states),      cmocka_unit_test(tcp_shutdowns),
		cmocka_unit_test(tcp_foreign),     cmocka_unit_test(options_of_all),
		cmocka_unit_test(filter_too_long), cmocka_unit_test(hostile_records),
		cmocka_unit_test(hostile_queues),  cmocka_unit_test(hostile_options),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
