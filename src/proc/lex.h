/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading text left to right without ever going past its end. Every lex_* function that returns bool advances
 * only when it succeeds. For src/proc, and for kinds that read a line of a file that is theirs alone.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include <ferry/error.h>

#include "base/macros.h"

struct lex {
	const char *p;
	const char *end;
};

static inline struct lex lex_new(const char *text, size_t n)
{
	return (struct lex){.p = text, .end = text + n};
}

static inline size_t lex_left(const struct lex *l)
{
	return (size_t)(l->end - l->p);
}

static inline bool lex_done(const struct lex *l)
{
	return l->p == l->end;
}

static inline bool lex_char(struct lex *l, char c)
{
	if (lex_done(l) || *l->p != c)
		return false;
	l->p++;
	return true;
}

static inline bool lex_str(struct lex *l, const char *s)
{
	size_t n = strlen(s);
	if (lex_left(l) < n || memcmp(l->p, s, n) != 0)
		return false;
	l->p += n;
	return true;
}

/* Skip spaces and tabs, if any. */
static inline void lex_blanks(struct lex *l)
{
	while (!lex_done(l) && (*l->p == ' ' || *l->p == '\t'))
		l->p++;
}

/* Nothing but blanks follows. */
static inline bool lex_rest_blank(struct lex *l)
{
	lex_blanks(l);
	return lex_done(l);
}

static inline int lex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return 99;
}

/* Digits of this base; at least one, and no overflow. */
static inline bool lex_uint(struct lex *l, unsigned base, uint64_t *ret_value)
{
	const char *p = l->p;
	uint64_t value = 0;
	for (; p < l->end && (unsigned)lex_digit(*p) < base; p++)
		if (__builtin_mul_overflow(value, base, &value) ||
		    __builtin_add_overflow(value, (unsigned)lex_digit(*p), &value))
			return false;
	if (p == l->p)
		return false;
	l->p = p;
	*ret_value = value;
	return true;
}

static inline bool lex_u64(struct lex *l, uint64_t *ret_value)
{
	return lex_uint(l, 10, ret_value);
}

static inline bool lex_hex(struct lex *l, uint64_t *ret_value)
{
	return lex_uint(l, 16, ret_value);
}

static inline bool lex_u32_base(struct lex *l, unsigned base, uint32_t *ret_value)
{
	struct lex copy = *l;
	uint64_t value;
	if (!lex_uint(&copy, base, &value) || value > UINT32_MAX)
		return false;
	*l = copy;
	*ret_value = (uint32_t)value;
	return true;
}

static inline bool lex_u32(struct lex *l, uint32_t *ret_value)
{
	return lex_u32_base(l, 10, ret_value);
}

static inline bool lex_i64(struct lex *l, int64_t *ret_value)
{
	struct lex copy = *l;
	uint64_t value;
	bool negative = lex_char(&copy, '-');
	if (!lex_u64(&copy, &value) || value > (uint64_t)INT64_MAX + negative)
		return false;
	*l = copy;
	*ret_value = negative ? (int64_t)(0 - value) : (int64_t)value;
	return true;
}

static inline bool lex_i32(struct lex *l, int32_t *ret_value)
{
	struct lex copy = *l;
	int64_t value;
	if (!lex_i64(&copy, &value) || value < INT32_MIN || value > INT32_MAX)
		return false;
	*l = copy;
	*ret_value = (int32_t)value;
	return true;
}

/* "fd:01", hexadecimal major and minor. */
static inline bool lex_dev_pair(struct lex *l, uint64_t *ret_dev)
{
	struct lex copy = *l;
	uint32_t major, minor;
	if (!lex_u32_base(&copy, 16, &major) || !lex_char(&copy, ':') || !lex_u32_base(&copy, 16, &minor))
		return false;
	*l = copy;
	*ret_dev = makedev(major, minor);
	return true;
}

/* A superblock's device as the kernel keeps it: 12 bits of major, 20 of minor. Hexadecimal. */
static inline bool lex_kernel_dev(struct lex *l, uint64_t *ret_dev)
{
	uint32_t dev;
	if (!lex_u32_base(l, 16, &dev))
		return false;
	*ret_dev = makedev(dev >> 20, dev & 0xfffff);
	return true;
}

/* Skip this many words with the blanks before and behind them. */
static inline bool lex_skip_words(struct lex *l, unsigned n)
{
	lex_blanks(l);
	for (; n; n--) {
		while (!lex_done(l) && *l->p != ' ' && *l->p != '\t')
			l->p++;
		if (lex_done(l))
			return false;
		lex_blanks(l);
	}
	return true;
}

/* Exactly this many bytes, two hexadecimal digits each. */
static inline bool lex_bytes(struct lex *l, uint8_t *ret_bytes, size_t n)
{
	if (lex_left(l) < 2 * n)
		return false;
	for (size_t i = 0; i < n; i++) {
		int high = lex_digit(l->p[2 * i]), low = lex_digit(l->p[2 * i + 1]);
		if (high > 15 || low > 15)
			return false;
		ret_bytes[i] = (uint8_t)(high << 4 | low);
	}
	l->p += 2 * n;
	return true;
}

/* Everything up to a blank; at least one byte. */
static inline bool lex_word(struct lex *l, struct lex *ret_word)
{
	const char *p = l->p;
	while (p < l->end && *p != ' ' && *p != '\t' && *p != '\n')
		p++;
	if (p == l->p)
		return false;
	*ret_word = (struct lex){.p = l->p, .end = p};
	l->p = p;
	return true;
}

static inline bool lex_is(const struct lex *word, const char *s)
{
	size_t n = strlen(s);
	return lex_left(word) == n && !memcmp(word->p, s, n);
}

/* The next line without its newline; false at the end, and for a line that has none (a cut text). */
static inline bool lex_line(struct lex *l, struct lex *ret_line)
{
	const char *nl = lex_done(l) ? NULL : memchr(l->p, '\n', lex_left(l));
	if (!nl)
		return false;
	*ret_line = (struct lex){.p = l->p, .end = nl};
	l->p = nl + 1;
	return true;
}

/* Cut " (deleted)" off the end; whether it was there. */
static inline bool lex_cut_deleted(struct lex *l)
{
	static const char mark[] = " (deleted)";
	size_t n = sizeof(mark) - 1;
	if (lex_left(l) < n || memcmp(l->end - n, mark, n) != 0)
		return false;
	l->end -= n;
	return true;
}

/* Decode \ooo in place (space, tab, newline, backslash in mountinfo); returns the new length. */
size_t lex_unescape_octal(char *s, size_t n);

/* -EBADMSG: this file of /proc holds this line, which is not understood. */
int lex_bad(struct ferry_error *err, const char *file, const struct lex *line);

/* -EBADMSG: the file ends in the middle, or lacks what. */
int lex_short(struct ferry_error *err, const char *file, const char *what);
