/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of container engines: started with ferry under the name criu before all others in PATH. */
#pragma once

#include <stdbool.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/strbuf.h"
#include "base/vec.h"

struct command {
	VEC(const char *) words; /* the program first; lent */
	bool failed;             /* memory was short */
	bool starts; /* a container, whose standard descriptors ferry's are then; nothing is taken from them */
	const char *log; /* where criu's is, when nobody names it; NULL */
};

struct command_result {
	struct strbuf out, error; /* what it printed */
	int status;               /* exit status, or 128 + signal */
};

void command_release(struct command *c);
#define _cleanup_command_ __attribute__((cleanup(command_release)))

void command_result_release(struct command_result *result);
#define _cleanup_result_ __attribute__((cleanup(command_result_release)))

/* One more word; NULL: none. */
void command_add(struct command *c, const char *word);

/* Whether the program is installed. */
bool command_exists(const char *program);

/* Run it to its end. An exit status is no failure. */
must_check int command_run(struct command *c, struct command_result *ret, struct ferry_error *err);

/* As command_run(), and what it says is an error when its exit status is one: with the cause out of the log that it names, if it does. */
must_check int command_run_well(struct command *c, const char *what, struct command_result *ret,
				struct ferry_error *err);
