/* SPDX-License-Identifier: Apache-2.0 */
/* What waits in a pseudo terminal: typed and not read, printed and not read. */
#pragma once

#include <asm/termbits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/arena.h"
#include "base/macros.h"

struct fault;
struct warden;

/* Bytes typed as one line. */
struct tty_line {
	uint32_t length;
	uint32_t end_of_file; /* 1: ended by the end-of-file character, which is not among the bytes */
};

/* Why output stands still; numbers of the image. */
enum tty_stop { TTY_RUNS, TTY_STOPPED_BY_CALL, TTY_STOPPED_BY_CHARACTER };

struct tty_queues {
	uint8_t *input, *output; /* for the terminal side, for the master */
	size_t n_input, n_output;
	struct tty_line *lines; /* of the input of a terminal in line mode; the rest is a line being typed */
	size_t n_lines;
	uint32_t stop; /* enum tty_stop */
	const struct fault *fault;
};

/* A pseudo terminal that nobody uses meanwhile. */
struct tty_look {
	int master;
	int slave; /* a descriptor of the terminal side open for reading and writing */
	struct arena *arena;
	struct warden *warden;
	const struct fault *fault;
};

/* Read what waits in it, and leave everything as it was. The result lies in the arena. */
must_check int tty_queue_look(const struct tty_look *look, struct tty_queues *ret, struct ferry_error *err);

/* Put that into a pseudo terminal, which gets its settings on the way. 0 or -errno. */
must_check int tty_queue_put(int master, int slave, const struct termios2 *settings,
			     const struct tty_queues *q);

/* In the warden: put back what a worker had taken out. 0 or -errno. */
int tty_queue_put_back(int worker_pidfd, int memory);
