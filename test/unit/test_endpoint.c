/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of the other side: what is one, what is not, and who is behind a connection. */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "stream/endpoint.h"

static void parse(void **state)
{
	static const struct {
		const char *text;
		bool is_local;
	} good[] = {
		{"unix:/run/ferry.sock", true}, {"127.0.0.1:80", true},    {"127.9.9.9:1", true},
		{"[::1]:65535", true},          {"192.0.2.1:7000", false}, {"[2001:db8::1]:7000", false},
		{"0.0.0.0:0", false},           {"[::]:0", false},         {"[::ffff:127.0.0.1]:5", true},
	};
	static const char *const bad[] = {
		"",    "unix:", "host",          "127.0.0.1", "127.0.0.1:",   "127.0.0.1:x", "::1:80",
		":80", "[]:80", "127.0.0.1:8 0", "[::1]",     "127.0.0.1:-1", "127.0.0.1:+1"};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct endpoint e;
		char text[ENDPOINT_TEXT_BYTES];
		assert_int_equal(endpoint_parse(good[i].text, &e, NULL), 0);
		assert_int_equal(e.is_local, good[i].is_local);
		endpoint_format(&e.address, text);
		assert_string_equal(text, good[i].text);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct endpoint e;
		struct ferry_error err = FERRY_ERROR_INIT;
		assert_int_equal(endpoint_parse(bad[i], &e, &err), -EINVAL);
		assert_int_equal(err.id, FERRY_ERROR_USAGE);
	}
	char longer[200];
	memset(longer, 'x', sizeof(longer));
	memcpy(longer, "unix:/", 6);
	longer[sizeof(longer) - 1] = '\0';
	assert_int_equal(endpoint_parse(longer, &(struct endpoint){0}, NULL), -EINVAL);
}

/* Listen, connect, and see that it is us. */
static void connect_to(const char *text)
{
	struct endpoint e;
	char where[ENDPOINT_TEXT_BYTES];
	uid_t uid = 12345;
	assert_int_equal(endpoint_parse(text, &e, NULL), 0);
	int listener = endpoint_listen(&e, where, NULL);
	assert_true(listener >= 0);
	assert_int_equal(endpoint_parse(where, &e, NULL), 0);
	int client = endpoint_connect(&e, 1000, NULL);
	assert_true(client >= 0);
	int server = accept(listener, NULL, NULL);
	assert_true(server >= 0);
	assert_int_equal(endpoint_peer_uid(server, &uid), 0);
	assert_int_equal(uid, geteuid());
	close(client);
	close(server);
	close(listener);
}

static void listening(void **state)
{
	char path[64], text[80];
	struct stat st;
	(void)state;
	connect_to("127.0.0.1:0");
	connect_to("[::1]:0");
	snprintf(path, sizeof(path), "/tmp/test-endpoint-%d", getpid());
	snprintf(text, sizeof(text), "unix:%s", path);
	connect_to(text);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Nobody listens on it any more: it is replaced. */
	connect_to(text);
	struct endpoint e;
	assert_int_equal(endpoint_parse(text, &e, NULL), 0);
	int first = endpoint_listen(&e, NULL, NULL);
	struct ferry_error err = FERRY_ERROR_INIT;
	assert_int_equal(endpoint_listen(&e, NULL, &err), -EADDRINUSE);
	assert_int_equal(err.id, FERRY_ERROR_ADDRESS_TAKEN);
	close(first);
	err = (struct ferry_error)FERRY_ERROR_INIT;
	assert_true(endpoint_connect(&e, 100, &err) < 0);
	assert_int_equal(err.id, FERRY_ERROR_PEER_GONE);
	unlink(path);
}

/* A file that is no socket stays. */
static void no_socket(void **state)
{
	char path[64], text[80];
	struct endpoint e;
	(void)state;
	snprintf(path, sizeof(path), "/tmp/test-endpoint-%d", getpid());
	snprintf(text, sizeof(text), "unix:%s", path);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fclose(f);
	assert_int_equal(endpoint_parse(text, &e, NULL), 0);
	assert_true(endpoint_listen(&e, NULL, NULL) < 0);
	assert_int_equal(unlink(path), 0);
}

/* Another user at the other end is another user. */
static void other_user(void **state)
{
	struct endpoint e;
	char where[ENDPOINT_TEXT_BYTES];
	uid_t uid = 0;
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(endpoint_parse("127.0.0.1:0", &e, NULL), 0);
	int listener = endpoint_listen(&e, where, NULL);
	assert_int_equal(endpoint_parse(where, &e, NULL), 0);
	pid_t child = fork();
	if (!child) {
		if (setresuid(65534, 65534, 65534) < 0)
			_exit(1);
		int fd = endpoint_connect(&e, 1000, NULL);
		char byte;
		_exit(fd >= 0 && read(fd, &byte, 1) < 0 && errno == EAGAIN ? pause() : 1);
	}
	int server;
	while ((server = accept(listener, NULL, NULL)) < 0)
		usleep(1000);
	assert_int_equal(endpoint_peer_uid(server, &uid), 0);
	assert_int_equal(uid, 65534);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(server);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse),
		cmocka_unit_test(listening),
		cmocka_unit_test(no_socket),
		cmocka_unit_test(other_user),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
