/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line that ferry has under the name criu: CRIU 4.2's words, each with what it means to a job of ferry's. Words of which
 * ferry has nothing yet are refused, none is taken and forgotten.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include <ferry/error.h>

#include "base/macros.h"
#include "base/vec.h"
#include "engine/options.h"

struct criu_options {
	struct options job;
	bool help, version;
	bool display_stats;
	bool no_default_config;
	bool page_server; /* --page-server; its place is address and port */
	char *address;
	int64_t port;
	int64_t ps_socket; /* a connection in the place of address and port; -1: none */
	int64_t status_fd; /* told when a server is ready; -1: none */
	bool all_features; /* of a check */
	bool unprivileged; /* without rights but CAP_CHECKPOINT_RESTORE */
	bool exec_cmd;     /* what follows the verb is a command to become */
	char *config;
	char *work_dir; /* NULL: the images directory */
	struct text_list action_scripts;
	int log_level; /* 0: messages, 1: errors, 2: warnings, 3: information, 4: everything */
	bool log_level_given;
	int n_words; /* the verb, and what follows the options */
	char **words;
	VEC(char *) storage; /* what words point to */
};

/*
 * Read configuration files and the command line, which wins. argv: as main() has it. USAGE, and a message that names the word, for what is
 * not understood. *ret is to be released also after a failure.
 */
must_check int criu_options_read(int argc, char **argv, struct criu_options *ret, struct ferry_error *err);

/* The same, with a file that wins over both; NULL: none. */
must_check int criu_options_read_with(int argc, char **argv, const char *last_file, struct criu_options *ret,
				      struct ferry_error *err);
void criu_options_release(struct criu_options *o);

/* Words of the files, in the order in which they count: "--word", "value". */
typedef VEC(char *) criu_words;
void criu_words_release(criu_words *words);
must_check int criu_config_read(const char *named, bool with_defaults, criu_words *words,
				struct ferry_error *err);

/* Those of one file alone. */
must_check int criu_config_read_file(const char *path, criu_words *words, struct ferry_error *err);

/* One line's words, appended. text is changed. */
must_check int criu_config_line(char *text, criu_words *words);
