/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs of test/programs share. Each uses one resource, says that it is ready, and then answers
 * questions about its own state until it is told to quit.
 *
 * Questions come through a folder, the mailbox: "ask.ROLE" holds "NUMBER WORD" and the program answers with
 * "answer.ROLE", "NUMBER ok" or "NUMBER bad REASON", both replaced by rename. Between questions it sleeps a few
 * milliseconds and looks again. So nothing of the mailbox (no descriptor, no signal, no socket) is part of the
 * state under test. Each process or thread that has something to prove serves a mailbox of its own, under its role;
 * the first is "main".
 *
 * Words: "verify" proves the state and leaves it as it is; "finish" proves what only reading proves, once, at the
 * end; "spoil" changes the state so that the next "verify" must be bad; "quit" ends the program.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"

struct program {
	char folder[160];
	char role[24];
	bool more;         /* the word "more" was given: also state that CRIU does not keep */
	unsigned answered; /* number of the last question answered */
	bool bad;          /* an expectation of the current question failed */
	char reason[320];  /* the first one that did */
};

struct program_ops {
	void (*verify)(struct program *p, void *state);
	void (*spoil)(void *state);                     /* NULL: this role has nothing to spoil */
	void (*finish)(struct program *p, void *state); /* NULL: verify says all */
	void (*step)(void *state);                      /* NULL, or work between questions */
};

/* argv[1] is the mailbox, words may follow. Ends the process when it is missing. */
void program_start(struct program *p, int argc, char **argv);

/* Whether a word stands among the arguments. */
bool program_told(int argc, char **argv, const char *word);

/* A mailbox in the same folder for another process or thread. */
struct program program_role(const struct program *p, const char *role);

/* Say ready, then answer until "quit". The result is an exit status. */
int program_serve(struct program *p, const struct program_ops *ops, void *state);

/* Wait until a role of another process or thread is ready. */
void program_await(const struct program *p, const char *role);

/* Write down where memory may change although the program does nothing: the rseq area, the stack below the caller, an
 * alternate stack that is not in use. Called for each thread. */
void program_note_volatile(const struct program *p);

/* A large mapping of the caller's that nobody is to read from outside: that would make the pages that it lacks. */
void program_note_sparse(const struct program *p, const void *start, size_t bytes);

/* Processes of the program live in PID namespaces below that of the tests; /proc stays theirs. */
void program_has_other_numbers(void);

/* An expectation of the current question failed; only the first is kept. */
void program_bad(struct program *p, const char *fmt, ...) printf_like(2, 3);

#define expect(p, condition, ...)                      \
	do {                                           \
		if (!(condition))                      \
			program_bad((p), __VA_ARGS__); \
	} while (0)

/* Two integers are the same; the reason tells both. */
#define expect_same(p, what, got, want)                                                                     \
	do {                                                                                                \
		long long got_ = (long long)(got), want_ = (long long)(want);                               \
		if (got_ != want_)                                                                          \
			program_bad((p), "%s is %lld (%#llx), not %lld (%#llx)", (what), got_, got_, want_, \
				    want_);                                                                 \
	} while (0)

/* End the process, to be counted as skipped: the machine lacks something. */
void program_lacks(const char *what) __attribute__((noreturn));

/* End the process with a message when a call that sets the state up fails. */
void program_die(const char *what) __attribute__((noreturn));

#define must(call)                               \
	({                                       \
		typeof(call) result_ = (call);   \
		if (result_ == (typeof(call))-1) \
			program_die(#call);      \
		result_;                         \
	})

/* A pattern that differs for each seed and each offset; matches returns -1 or the first offset that differs. */
void pattern_fill(void *to, size_t n, uint64_t seed);
ssize_t pattern_differs(const void *from, size_t n, uint64_t seed);

/* A new file of so many bytes of a pattern; and that one is as it was made. */
void file_put(const char *path, mode_t mode, uint64_t seed, size_t n);
void file_expect(struct program *p, const char *path, mode_t mode, uint64_t seed, size_t n);

/* The number that a line of /proc/self/fdinfo/FD has by this format (one unsigned long long), -1 without such a line. */
long long fdinfo_number(int fd, const char *format);

/*
 * Of the mapping that holds an address, from /proc/self/smaps: whether VmFlags has a word ("lo"), and the number of a line
 * ("Locked:", in kB); -1 without such a line.
 */
bool smaps_flag(const void *address, const char *word);
long smaps_kb(const void *address, const char *line);

/* Whether the memory at an address can be read; false where that would be SIGSEGV or SIGBUS. */
bool memory_readable(const void *address);

/* Which process this is: another value than before tells that it was restored since. */
unsigned long long program_birth(void);

void sleep_ms(long ms);
