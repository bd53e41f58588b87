/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the source of a migration keeps still beside its processes: addresses and connections. Everything is found again from
 * the record of the journal alone, so that any later ferry can put it back or end it.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/macros.h"
#include "host/address.h"
#include "store/journal.h"

enum { HOLD_NAME_BYTES = 64 };

/* Name of the cgroups and of the network lock of a migration. */
void hold_name(const char *id, char ret[static HOLD_NAME_BYTES]);

/* "ADDRESS/PREFIX@DEVICE". USAGE. */
must_check int hold_parse_address(const char *text, struct address *ret, struct ferry_error *err);

/* Every address of the record must be here (wanted), or must not be and its device must exist (!wanted). */
must_check int hold_check_addresses(const struct journal_record *r, bool wanted, struct ferry_error *err);

must_check int hold_remove_addresses(const struct journal_record *r, const struct fault *fault,
				     struct ferry_error *err);

/* Add them and tell the neighbours once. On failure those that were added are removed again. */
must_check int hold_add_addresses(const struct journal_record *r, const struct fault *fault,
				  struct ferry_error *err);

/* Tell the neighbours again. */
void hold_announce(const struct journal_record *r, unsigned times, unsigned interval_ms);

/*
 * Block the connections of these processes whose sockets are in repair mode, until hold_unlock(): also when every ferry is dead.
 */
must_check int hold_lock_connections(const char *id, const pid_t *pids, size_t n, const struct fault *fault,
				     struct ferry_error *err);
must_check int hold_unlock(const char *id, struct ferry_error *err);

/*
 * Recovery, from the record alone, with nobody else driving. Put everything back and let the work run: addresses, connections,
 * processes. Returns how many processes there were.
 */
must_check int hold_undo(const struct journal_record *r, const struct fault *fault, struct ferry_error *err);

/* End the held copy, silently for its peers. */
must_check int hold_end(const struct journal_record *r, const struct fault *fault, int timeout_ms,
			struct ferry_error *err);
