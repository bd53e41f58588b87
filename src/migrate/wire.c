/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the messages: packing, checking what arrives (all of it may be hostile), greeting with a mutual proof of the token.
 * The proof covers both greetings, so that nobody between the two can change a version or replay one.
 */
#include "migrate/wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fd.h"

enum { WIRE_NONCE_BYTES = 32, WIRE_TEXT_MAX = 512 };

static const char wire_source_label[] = "ferry migration: source";
static const char wire_target_label[] = "ferry migration: target";

int wire_open(struct wire *w, int fd, int timeout_ms, int interrupt_fd, struct ferry_error *err)
{
	*w = (struct wire){.epoch = w->epoch, .sequence = w->sequence, .bytes = w->bytes};
	int r = channel_from_socket(fd, &w->channel, err);
	if (r < 0)
		return r;
	channel_set_timeout(w->channel, timeout_ms);
	channel_set_interrupt(w->channel, interrupt_fd);
	return 0;
}

static void wire_forget_message(struct wire *w)
{
	if (w->message)
		migrate_message__free_unpacked(w->message, NULL);
	w->message = NULL;
}

void wire_close(struct wire *w)
{
	wire_forget_message(w);
	w->bytes = wire_bytes(w);
	channel_free(w->channel);
	w->channel = NULL;
}

uint64_t wire_bytes(const struct wire *w)
{
	if (!w->channel)
		return w->bytes;
	struct channel_stats stats = channel_stats(w->channel);
	return w->bytes + stats.sent_bytes + stats.received_bytes;
}

bool wire_is_open(const struct wire *w)
{
	return w->channel != NULL;
}

int wire_send_data(struct wire *w, MigrateMessage *m, const void *data, size_t n, struct ferry_error *err)
{
	m->id = w->id;
	m->epoch = w->epoch;
	m->sequence = ++w->sequence;
	size_t bytes = migrate_message__get_packed_size(m);
	_cleanup_free_ uint8_t *head = malloc(bytes);
	if (!head)
		return error_memory(err);
	migrate_message__pack(m, head);
	struct frame frame = {.head = head, .head_bytes = bytes, .data = data, .data_bytes = n};
	return channel_send(w->channel, &frame, err);
}

int wire_send(struct wire *w, MigrateKind kind, MigrateMessage *m, struct ferry_error *err)
{
	MigrateMessage empty = MIGRATE_MESSAGE__INIT;
	if (!m)
		m = &empty;
	m->kind = kind;
	return wire_send_data(w, m, NULL, 0, err);
}

void wire_send_error(struct wire *w, const struct ferry_error *error)
{
	MigrateError e = MIGRATE_ERROR__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	e.id = (char *)ferry_error_word(error->id);
	e.code = error->code;
	e.stage = (char *)error->stage;
	e.kind = (char *)error->kind;
	e.message = (char *)error->message;
	e.hint = (char *)error->hint;
	m.error = &e;
	if (wire_is_open(w) && wire_send(w, MIGRATE_KIND__ERROR, &m, NULL) < 0)
		return;
}

static int wire_bad(struct ferry_error *err, const char *what)
{
	return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG, "the other side sent %s", what);
}

int wire_unexpected(const struct wire *w, struct ferry_error *err)
{
	const ProtobufCEnumValue *kind =
		protobuf_c_enum_descriptor_get_value(&migrate_kind__descriptor, (int)w->message->kind);
	return error_set(err, FERRY_ERROR_PROTOCOL, EBADMSG, "the other side sent %s out of turn",
			 kind ? kind->name : "something unknown");
}

void wire_copy_text(char *to, size_t n, const char *from)
{
	size_t i = 0;
	for (; from && from[i] && i + 1 < n; i++)
		to[i] = from[i] >= ' ' && from[i] != 127 ? from[i] : '?';
	to[i] = '\0';
}

static int wire_take_error(const struct wire *w, struct ferry_error *err)
{
	const MigrateError *e = w->message->error;
	enum ferry_error_id id = FERRY_ERROR_PROTOCOL;
	char message[WIRE_TEXT_MAX], hint[WIRE_TEXT_MAX];
	if (!e)
		return wire_bad(err, "an error without text");
	for (int i = FERRY_ERROR_NONE + 1; i < FERRY_ERROR_COUNT; i++)
		if (!strcmp(ferry_error_word((enum ferry_error_id)i), e->id))
			id = (enum ferry_error_id)i;
	int code = e->code > 0 && e->code < 4096 ? e->code : EIO;
	wire_copy_text(message, sizeof(message), e->message);
	wire_copy_text(hint, sizeof(hint), e->hint);
	error_set(err, id, code, "%s: %s", w->node[0] ? w->node : "the other side", message);
	if (hint[0])
		error_hint(err, "there: %s", hint);
	char stage[16];
	wire_copy_text(stage, sizeof(stage), e->stage);
	error_context(err, stage, NULL, 0);
	return -code;
}

int wire_receive(struct wire *w, struct ferry_error *err)
{
	wire_forget_message(w);
	int r = channel_receive(w->channel, &w->frame, err);
	if (r < 0)
		return r;
	w->message = migrate_message__unpack(NULL, w->frame.head_bytes, w->frame.head);
	if (!w->message)
		return wire_bad(err, "a message that is none");
	if (w->frame.data_bytes && w->message->kind != MIGRATE_KIND__DATA)
		return wire_bad(err, "data where none belongs");
	if (w->message->kind == MIGRATE_KIND__ERROR)
		return wire_take_error(w, err);
	if (w->id[0] && (strcmp(w->message->id, w->id) != 0 || w->message->epoch != w->epoch))
		return wire_bad(err, "a message about another migration");
	return 0;
}

int wire_expect(struct wire *w, MigrateKind kind, struct ferry_error *err)
{
	int r = wire_receive(w, err);
	if (r < 0)
		return r;
	return w->message->kind == kind ? 0 : wire_unexpected(w, err);
}

/* ----------------------------------------------------------------- greeting */

struct wire_greeting {
	struct iovec hello[2]; /* the source's, the target's, as they went over the wire */
	bool peer_has_token;
};

static void greeting_release(struct wire_greeting *g)
{
	free(g->hello[0].iov_base);
	free(g->hello[1].iov_base);
}

#define _cleanup_greeting_ __attribute__((cleanup(greeting_release)))

static int greeting_send(struct wire *w, const struct token *token, struct iovec *ret_hello,
			 struct ferry_error *err)
{
	uint8_t nonce[WIRE_NONCE_BYTES];
	struct utsname uts;
	MigrateHello hello = MIGRATE_HELLO__INIT;
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce) || uname(&uts) < 0)
		return error_errno(err, FERRY_ERROR_SYSTEM, errno, "getrandom");
	hello.version_min = WIRE_VERSION_MIN;
	hello.version_max = WIRE_VERSION_MAX;
	hello.software = (char *)"ferry " FERRY_VERSION;
	hello.node = uts.nodename;
	hello.nonce = (ProtobufCBinaryData){.len = sizeof(nonce), .data = nonce};
	hello.has_token = token->n > 0;
	m.hello = &hello;
	ret_hello->iov_len = migrate_hello__get_packed_size(&hello);
	ret_hello->iov_base = malloc(ret_hello->iov_len);
	if (!ret_hello->iov_base)
		return error_memory(err);
	migrate_hello__pack(&hello, ret_hello->iov_base);
	return wire_send(w, MIGRATE_KIND__HELLO, &m, err);
}

static int greeting_receive(struct wire *w, struct iovec *ret_hello, struct wire_greeting *g,
			    struct ferry_error *err)
{
	int r = wire_expect(w, MIGRATE_KIND__HELLO, err);
	if (r < 0)
		return r;
	const MigrateHello *hello = w->message->hello;
	if (!hello || hello->nonce.len != WIRE_NONCE_BYTES)
		return wire_bad(err, "a greeting that is none");
	if (hello->version_min > WIRE_VERSION_MAX || hello->version_max < WIRE_VERSION_MIN) {
		char software[64];
		wire_copy_text(software, sizeof(software), hello->software);
		error_set(err, FERRY_ERROR_PROTOCOL, EPROTONOSUPPORT,
			  "the other side (%s) speaks versions %u to %u of the protocol, we %d to %d",
			  software, hello->version_min, hello->version_max, WIRE_VERSION_MIN,
			  WIRE_VERSION_MAX);
		error_hint(err, "use the same release of ferry on both sides");
		return -EPROTONOSUPPORT;
	}
	w->version = MIN(hello->version_max, (uint32_t)WIRE_VERSION_MAX);
	wire_copy_text(w->node, sizeof(w->node), hello->node);
	g->peer_has_token = hello->has_token;
	ret_hello->iov_len = migrate_hello__get_packed_size(hello);
	ret_hello->iov_base = malloc(ret_hello->iov_len);
	if (!ret_hello->iov_base)
		return error_memory(err);
	migrate_hello__pack(hello, ret_hello->iov_base);
	return 0;
}

static int greeting_prove(struct wire *w, const struct token *token, const char *label,
			  const struct wire_greeting *g, struct ferry_error *err)
{
	uint8_t proof[TOKEN_PROOF_BYTES];
	MigrateMessage m = MIGRATE_MESSAGE__INIT;
	if (token_prove(token, label, g->hello, 2, proof) < 0)
		return error_set(err, FERRY_ERROR_TOKEN, EIO, "computing the proof of the token failed");
	m.has_proof = 1;
	m.proof = (ProtobufCBinaryData){.len = sizeof(proof), .data = proof};
	return wire_send(w, MIGRATE_KIND__PROOF, &m, err);
}

static int greeting_check(struct wire *w, const struct token *token, const char *label,
			  const struct wire_greeting *g, struct ferry_error *err)
{
	uint8_t proof[TOKEN_PROOF_BYTES];
	int r = wire_expect(w, MIGRATE_KIND__PROOF, err);
	if (r < 0)
		return r;
	if (token_prove(token, label, g->hello, 2, proof) < 0)
		return error_set(err, FERRY_ERROR_TOKEN, EIO, "computing the proof of the token failed");
	const MigrateMessage *m = w->message;
	if (m->has_proof && m->proof.len == sizeof(proof) && token_proofs_equal(proof, m->proof.data))
		return 0;
	error_set(err, FERRY_ERROR_TOKEN, EACCES, "the other side has another token");
	error_hint(err, "--token FILE must name the same contents on both sides");
	return -EACCES;
}

static int greeting_compare(const struct token *token, const struct wire_greeting *g, struct ferry_error *err)
{
	if ((token->n > 0) == g->peer_has_token)
		return 0;
	error_set(err, FERRY_ERROR_TOKEN, EACCES,
		  token->n ? "the other side knows no token" : "the other side asks for a token");
	error_hint(err, "--token FILE must name the same contents on both sides");
	return -EACCES;
}

int wire_greet_target(struct wire *w, const struct token *token, struct ferry_error *err)
{
	_cleanup_greeting_ struct wire_greeting g = {0};
	int r = greeting_send(w, token, &g.hello[0], err);
	if (r >= 0)
		r = greeting_receive(w, &g.hello[1], &g, err);
	if (r >= 0)
		r = greeting_compare(token, &g, err);
	if (r < 0 || !token->n)
		return r;
	r = greeting_prove(w, token, wire_source_label, &g, err);
	return r < 0 ? r : greeting_check(w, token, wire_target_label, &g, err);
}

int wire_greet_source(struct wire *w, const struct token *token, struct ferry_error *err)
{
	_cleanup_greeting_ struct wire_greeting g = {0};
	int r = greeting_receive(w, &g.hello[0], &g, err);
	if (r >= 0)
		r = greeting_send(w, token, &g.hello[1], err);
	if (r >= 0)
		r = greeting_compare(token, &g, err);
	if (r < 0 || !token->n)
		return r;
	/* The one who came proves first: a stranger learns nothing to guess the token from. */
	r = greeting_check(w, token, wire_source_label, &g, err);
	return r < 0 ? r : greeting_prove(w, token, wire_target_label, &g, err);
}
