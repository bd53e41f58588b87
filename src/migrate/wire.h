/* SPDX-License-Identifier: Apache-2.0 */
/* Messages between the two sides of a migration, over a channel. doc/protocol says which follow which. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "migrate/proto/migrate.pb-c.h"
#include "migrate/token.h"
#include "stream/channel.h"

enum { WIRE_VERSION_MIN = 1, WIRE_VERSION_MAX = 1, WIRE_NODE_BYTES = 72 };

struct wire {
	struct channel *channel;
	char id[48]; /* of the migration; "" = not agreed on yet */
	uint32_t epoch;
	uint64_t sequence; /* of the message sent last */
	uint64_t bytes;    /* over connections that are closed by now; wire_bytes() has all */
	uint32_t version;
	char node[WIRE_NODE_BYTES]; /* name of the other side */
	MigrateMessage *message;    /* received last */
	struct frame frame;
};

/* Over a connected socket, which is taken over, also on failure. */
must_check int wire_open(struct wire *w, int fd, int timeout_ms, int interrupt_fd, struct ferry_error *err);
void wire_close(struct wire *w);
bool wire_is_open(const struct wire *w);

/* What went over all connections so far, in both directions. */
uint64_t wire_bytes(const struct wire *w);

/* Agree on a version; prove and be proven to, when either side has a token. TOKEN, PROTOCOL, PEER_GONE. */
must_check int wire_greet_target(struct wire *w, const struct token *token, struct ferry_error *err);
must_check int wire_greet_source(struct wire *w, const struct token *token, struct ferry_error *err);

/* Fill kind (and what m has already), send; data may be NULL. */
must_check int wire_send(struct wire *w, MigrateKind kind, MigrateMessage *m, struct ferry_error *err);
must_check int wire_send_data(struct wire *w, MigrateMessage *m, const void *data, size_t n,
			      struct ferry_error *err);

/* Tell an error. What fails here is nobody's concern any more. */
void wire_send_error(struct wire *w, const struct ferry_error *error);

/*
 * Receive one message into w->message; it and its payload live until the next call. An ERROR of the other side becomes an
 * error of the same id here.
 */
must_check int wire_receive(struct wire *w, struct ferry_error *err);

/* Receive, and PROTOCOL unless it is of this kind. */
must_check int wire_expect(struct wire *w, MigrateKind kind, struct ferry_error *err);

must_check int wire_unexpected(const struct wire *w, struct ferry_error *err);

/* Text of a stranger: cut to n bytes with its NUL, and printable. from may be NULL. */
void wire_copy_text(char *to, size_t n, const char *from);
