/* SPDX-License-Identifier: Apache-2.0 */
/* Greetings between two sides with and without a token, messages out of turn, the token's file, addresses to move. */
#include "migrate/wire.h"

#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "migrate/hold.h"

enum { SHORT_MS = 2000 };

struct side {
	struct wire wire;
	struct token token;
	struct ferry_error err;
	int result;
};

static void *greet_as_source(void *context)
{
	struct side *s = context;
	s->result = wire_greet_target(&s->wire, &s->token, &s->err);
	if (s->result < 0)
		wire_send_error(&s->wire, &s->err);
	return NULL;
}

static void set_token(struct token *t, const char *text)
{
	t->n = strlen(text);
	memcpy(t->bytes, text, t->n);
}

static void greet(const char *source_token, const char *target_token, struct side *source,
		  struct side *target)
{
	int pair[2];
	pthread_t thread;
	*source = (struct side){.err = FERRY_ERROR_INIT};
	*target = (struct side){.err = FERRY_ERROR_INIT};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(wire_open(&source->wire, pair[0], SHORT_MS, -1, NULL), 0);
	assert_int_equal(wire_open(&target->wire, pair[1], SHORT_MS, -1, NULL), 0);
	set_token(&source->token, source_token);
	set_token(&target->token, target_token);
	assert_int_equal(pthread_create(&thread, NULL, greet_as_source, source), 0);
	target->result = wire_greet_source(&target->wire, &target->token, &target->err);
	if (target->result < 0)
		wire_send_error(&target->wire, &target->err);
	pthread_join(thread, NULL);
}

static void part(struct side *source, struct side *target)
{
	wire_close(&source->wire);
	wire_close(&target->wire);
}

static void greetings(void **state)
{
	struct side source, target;
	(void)state;
	greet("", "", &source, &target);
	assert_int_equal(source.result | target.result, 0);
	assert_true(source.wire.node[0] && target.wire.node[0]);
	part(&source, &target);
	greet("the same token", "the same token", &source, &target);
	assert_int_equal(source.result | target.result, 0);
	part(&source, &target);
	static const char *const pairs[][2] = {
		{"one token", "another token"}, {"one token", ""}, {"", "one token"}};
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		greet(pairs[i][0], pairs[i][1], &source, &target);
		assert_int_equal(source.err.id, FERRY_ERROR_TOKEN);
		assert_int_equal(target.err.id, FERRY_ERROR_TOKEN);
		part(&source, &target);
	}
}

static void messages(void **state)
{
	struct side source, target;
	MigrateFile file = MIGRATE_FILE__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	(void)state;
	greet("", "", &source, &target);
	snprintf(source.wire.id, sizeof(source.wire.id), "one");
	source.wire.epoch = 7;
	file.name = (char *)"core-1.img";
	m.file = &file;
	assert_int_equal(wire_send(&source.wire, MIGRATE_KIND__FILE, &m, NULL), 0);
	assert_int_equal(wire_expect(&target.wire, MIGRATE_KIND__FILE, NULL), 0);
	assert_string_equal(target.wire.message->id, "one");
	assert_int_equal(target.wire.message->epoch, 7);
	assert_string_equal(target.wire.message->file->name, "core-1.img");
	/* Another migration, another epoch. */
	snprintf(target.wire.id, sizeof(target.wire.id), "two");
	target.wire.epoch = 7;
	assert_int_equal(wire_send(&source.wire, MIGRATE_KIND__COMMIT, NULL, NULL), 0);
	assert_int_equal(wire_receive(&target.wire, NULL), -EBADMSG);
	snprintf(target.wire.id, sizeof(target.wire.id), "one");
	target.wire.epoch = 6;
	assert_int_equal(wire_send(&source.wire, MIGRATE_KIND__COMMIT, NULL, NULL), 0);
	assert_int_equal(wire_receive(&target.wire, NULL), -EBADMSG);
	target.wire.epoch = 7;
	/* Out of turn. */
	assert_int_equal(wire_send(&source.wire, MIGRATE_KIND__COMMIT, NULL, NULL), 0);
	struct ferry_error err = FERRY_ERROR_INIT;
	assert_int_equal(wire_expect(&target.wire, MIGRATE_KIND__FILE, &err), -EBADMSG);
	assert_int_equal(err.id, FERRY_ERROR_PROTOCOL);
	/* Data where none belongs. */
	channel_set_data_max(target.wire.channel, 100);
	m = (MigrateMessage)MIGRATE_MESSAGE__INIT;
	m.kind = MIGRATE_KIND__COMMIT;
	assert_int_equal(wire_send_data(&source.wire, &m, "x", 1, NULL), 0);
	assert_int_equal(wire_receive(&target.wire, NULL), -EBADMSG);
	part(&source, &target);
}

static void errors(void **state)
{
	struct side source, target;
	struct ferry_error told = FERRY_ERROR_INIT, got = FERRY_ERROR_INIT;
	(void)state;
	greet("", "", &source, &target);
	error_set(&told, FERRY_ERROR_PID_TAKEN, EEXIST, "pid 7 is taken\033[2J\n");
	error_hint(&told, "end it");
	wire_send_error(&target.wire, &told);
	assert_int_equal(wire_receive(&source.wire, &got), -EEXIST);
	assert_int_equal(got.id, FERRY_ERROR_PID_TAKEN);
	assert_non_null(strstr(got.message, "pid 7 is taken?[2J?"));
	assert_non_null(strstr(got.hint, "end it"));
	part(&source, &target);
}

static void token_file(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, mode), 0);
}

static void tokens(void **state)
{
	char path[64], first[TOKEN_FINGERPRINT_BYTES], second[TOKEN_FINGERPRINT_BYTES];
	struct token *t = calloc(1, sizeof(*t));
	struct ferry_error err = FERRY_ERROR_INIT;
	(void)state;
	assert_non_null(t);
	snprintf(path, sizeof(path), "/tmp/test-token-%d", getpid());
	token_file(path, "0123456789abcdef\n", 0600);
	assert_int_equal(token_read(path, t, NULL), 0);
	assert_int_equal(t->n, 16);
	assert_int_equal(token_fingerprint(t, first), 0);
	assert_int_equal(strlen(first), 64);
	assert_null(strstr(first, "0123456789abcdef"));
	t->bytes[0] = 'x';
	assert_int_equal(token_fingerprint(t, second), 0);
	assert_string_not_equal(first, second);
	token_file(path, "0123456789abcdef\n", 0640);
	assert_int_equal(token_read(path, t, &err), -EPERM);
	assert_int_equal(err.id, FERRY_ERROR_TOKEN);
	token_file(path, "0123456789abcde\n", 0600);
	assert_int_equal(token_read(path, t, NULL), -EINVAL);
	assert_int_equal(truncate(path, TOKEN_MAX), 0);
	assert_int_equal(token_read(path, t, NULL), -EFBIG);
	unlink(path);
	assert_int_equal(token_read(path, t, NULL), -ENOENT);
	assert_int_equal(token_read(NULL, t, NULL), 0);
	assert_int_equal(t->n, 0);
	assert_int_equal(token_fingerprint(t, first), 0);
	assert_string_equal(first, "");
	free(t);
}

static void addresses(void **state)
{
	static const char *const bad[] = {"",
					  "192.0.2.1",
					  "192.0.2.1/24",
					  "192.0.2.1@eth0",
					  "192.0.2.1/33@eth0",
					  "x/24@eth0",
					  "192.0.2.1/@eth0",
					  "192.0.2.1/24@",
					  "192.0.2.1/-1@eth0",
					  "2001:db8::/129@eth0",
					  "192.0.2/24@e0",
					  "1.2.3.4/24x@eth0",
					  "1.2.3.4/24@name-that-is-long-for-a-device"};
	struct address a;
	(void)state;
	assert_int_equal(hold_parse_address("192.0.2.7/24@eth0", &a, NULL), 0);
	assert_int_equal(a.family, AF_INET);
	assert_int_equal(a.prefix_len, 24);
	assert_string_equal(a.device, "eth0");
	assert_int_equal(a.bytes[3], 7);
	assert_int_equal(hold_parse_address("2001:db8::7/64@br-lan", &a, NULL), 0);
	assert_int_equal(a.family, AF_INET6);
	assert_int_equal(a.bytes[15], 7);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct ferry_error err = FERRY_ERROR_INIT;
		assert_int_equal(hold_parse_address(bad[i], &a, &err), -EINVAL);
		assert_int_equal(err.id, FERRY_ERROR_USAGE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(greetings), cmocka_unit_test(messages),  cmocka_unit_test(errors),
		cmocka_unit_test(tokens),    cmocka_unit_test(addresses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
