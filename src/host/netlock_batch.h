/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nfnetlink messages of a network lock: one batch is one transaction of nf_tables, done whole or not at
 * all. Pure: bytes only, no socket.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/netlock.h"

enum { NETLOCK_TABLE_MAX = 256 }; /* NFT_TABLE_MAXNAMELEN */

/* What a message of the batch was about, so that its error can be told. */
enum netlock_step {
	NETLOCK_STEP_BATCH,
	NETLOCK_STEP_TABLE,
	NETLOCK_STEP_SET,
	NETLOCK_STEP_CHAIN,
	NETLOCK_STEP_RULE,
	NETLOCK_STEP_ELEMENT,
};

struct netlock_batch {
	uint8_t *bytes;
	size_t n;
	size_t cap;
	size_t last;    /* where the last message begins */
	uint32_t seq;   /* of the last message; they count from 1 */
	uint8_t *steps; /* enum netlock_step of message seq - 1 */
	size_t steps_cap;
	bool failed; /* memory was short */
};

void netlock_batch_release(struct netlock_batch *b);

void netlock_batch_begin(struct netlock_batch *b);
void netlock_batch_table(struct netlock_batch *b, const char *table, bool owned, uint32_t mark);
void netlock_batch_remove_table(struct netlock_batch *b, const char *table);
/* Nothing passes but what has the mark. */
void netlock_batch_whole(struct netlock_batch *b, const char *table);
void netlock_batch_clear(struct netlock_batch *b, const char *table);
void netlock_batch_connections(struct netlock_batch *b, const char *table, bool remove,
			       const struct netlock_tcp *connections, size_t n);

/*
 * Ask for an answer to the last message and close the batch. Returns its sequence number, 0 when memory was
 * short.
 */
must_check uint32_t netlock_batch_end(struct netlock_batch *b);

/* What message seq was about. */
enum netlock_step netlock_batch_step(const struct netlock_batch *b, uint32_t seq);
