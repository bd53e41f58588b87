/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRIU's remote calls: packets over a unix socket, each one message of rpc.proto. What a message asks for becomes words of the command line,
 * so that both mean the same.
 */
#pragma once

#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "compat/criu_options.h"
#include "image/proto/rpc.pb-c.h"

/*
 * Words for the options of a message. peer: whose descriptors it names. *ret is to be released also after a failure. USAGE for what has
 * no word.
 */
must_check int criu_rpc_words(const CriuOpts *message, pid_t peer, criu_words *ret, struct ferry_error *err);

/*
 * Serve who is at the other end of a socket (SOCK_SEQPACKET; not closed): one request, or all of them as long as it asks to keep it open. 1:
 * some failed, which was answered. is_service: who asks is no relative, so numbers of descriptors mean nothing here.
 */
must_check int criu_rpc_serve(int socket, bool is_service, struct ferry_error *err);

/* Tell who is at the other end that he is not served, and why. */
must_check int criu_rpc_refuse(int socket, const struct ferry_error *why);
