/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRIU's page server wire. All numbers have the byte order of the machine. A message is a head of 32 bytes. OPEN2 begins a memory
 * and is answered by one byte, whether the image before has it; ADD_F is a run of pages with the flags of a pagemap entry, followed
 * by their bytes when they are present; CLOSE ends it all and is answered by i32 0. PARENT asks before all that whether the image before has
 * a memory, and is answered by i32 1 or 0. ferry adds, where these two have numbers without a meaning: nr_pages and vaddr are the id of the
 * image that is sent, or of the one before, so that pages of another one are not taken for its own.
 *
 * The other way, for pages that come late: GET asks for pages of the memory with the number of a pagemap (no type in its low byte), and is
 * answered by ADD_F with their bytes, in the order of the questions; CLOSE as above. ferry adds: a GET for no pages at 0 of memory 0 says
 * that no more are wanted, and the padding of an answer says whether the giving side has made sure that its tasks do not go on by themselves.
 */
#pragma once

#include <stdint.h>

struct tls_message;

enum pageserver_command {
	PAGESERVER_ADD = 1,
	PAGESERVER_HOLE = 2,
	PAGESERVER_OPEN = 3,
	PAGESERVER_OPEN2 = 4,
	PAGESERVER_PARENT = 5,
	PAGESERVER_ADD_F = 6,
	PAGESERVER_GET = 7,
	PAGESERVER_CLOSE = 0x1023,
	PAGESERVER_FORCE_CLOSE = 0x1024,
};

/* What a memory belongs to: the low byte of pageserver_head.memory; its id stands above. */
enum { PAGESERVER_TASK = 1, PAGESERVER_SHARED = 2 };

/* pageserver_head.padding of an answer */
enum { PAGESERVER_SETTLED = 0x6672 };

enum { PAGESERVER_ID_SHIFT = 8, PAGESERVER_FLAGS_SHIFT = 16 };

struct pageserver_head {
	uint32_t command; /* flags above 16 bits */
	uint32_t padding;
	uint64_t nr_pages, vaddr, memory;
};
_Static_assert(sizeof(struct pageserver_head) == 32, "as CRIU sends it");

/* A head of any side, and the pages that follow it, for tls_start(). */
extern const struct tls_message pageserver_message;
