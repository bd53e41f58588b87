/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns the text of JSON: an emitter that writes what Python's json module writes (ASCII only; ", " and ": ", or
 * an indent of four), so that outputs of both tools can be compared as text; base64 and quoted-printable.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "image/json_private.h"

static void newline(struct json_out *o)
{
	if (o->pretty)
		fprintf(o->f, "\n%*s", (int)(o->depth * 4), "");
}

/* Before a value or a key. */
static void separate(struct json_out *o)
{
	if (o->after_key) {
		o->after_key = false;
		return;
	}
	if (!o->depth)
		return;
	bool *used = &o->used[MIN(o->depth, (unsigned)JSON_DEPTH_MAX - 1)];
	if (*used)
		fputs(o->pretty ? "," : ", ", o->f);
	*used = true;
	newline(o);
}

void json_open(struct json_out *o, char bracket)
{
	separate(o);
	fputc(bracket, o->f);
	o->depth++;
	o->used[MIN(o->depth, (unsigned)JSON_DEPTH_MAX - 1)] = false;
}

void json_close(struct json_out *o, char bracket)
{
	bool used = o->used[MIN(o->depth, (unsigned)JSON_DEPTH_MAX - 1)];
	o->depth--;
	if (used)
		newline(o);
	fputc(bracket, o->f);
}

/* One character of UTF-8 that is known to be valid. */
static size_t utf8_next(const char *s, uint32_t *ret)
{
	uint8_t c = (uint8_t)*s;
	size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	uint32_t code = n == 1 ? c : c & (0x7fu >> n);
	for (size_t i = 1; i < n; i++)
		code = code << 6 | ((uint8_t)s[i] & 0x3f);
	*ret = code;
	return n;
}

static void put_char(FILE *f, uint32_t code)
{
	static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
	const char *special = code && code < 0x80 ? strchr(from, (int)code) : NULL;
	if (special)
		fprintf(f, "\\%c", to[special - from]);
	else if (code >= ' ' && code <= '~')
		fputc((int)code, f);
	else if (code < 0x10000)
		fprintf(f, "\\u%04x", code);
	else
		fprintf(f, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10),
			0xdc00 + ((code - 0x10000) & 0x3ff));
}

static void put_quoted(FILE *f, const char *s, size_t n)
{
	fputc('"', f);
	for (size_t i = 0; i < n;) {
		uint32_t code;
		i += utf8_next(s + i, &code);
		put_char(f, code);
	}
	fputc('"', f);
}

void json_key(struct json_out *o, const char *key)
{
	separate(o);
	put_quoted(o->f, key, strlen(key));
	fputs(": ", o->f);
	o->after_key = true;
}

void json_text(struct json_out *o, const char *s, size_t n)
{
	separate(o);
	put_quoted(o->f, s, n);
}

void json_word(struct json_out *o, const char *word)
{
	separate(o);
	fputs(word, o->f);
}

void json_wordf(struct json_out *o, const char *fmt, ...)
{
	separate(o);
	va_list args;
	va_start(args, fmt);
	vfprintf(o->f, fmt, args);
	va_end(args);
}

void json_base64(struct json_out *o, const void *bytes, size_t n)
{
	_cleanup_strbuf_ struct strbuf b = {0};
	base64_encode(&b, bytes, n);
	if (b.failed)
		o->failed = true;
	else
		json_text(o, strbuf_str(&b), b.n);
}

/* Bytes that follow a first byte of UTF-8, -1 = cannot be a first byte. */
static int utf8_more(uint8_t first)
{
	if (first < 0x80)
		return 0;
	if (first < 0xc2 || first > 0xf4)
		return -1;
	return first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
}

bool utf8_valid(const char *s, size_t n)
{
	const uint8_t *p = (const uint8_t *)s, *end = p + n;
	while (p < end) {
		int more = utf8_more(*p);
		if (more < 0 || more > end - p - 1)
			return false;
		for (int i = 1; i <= more; i++)
			if ((p[i] & 0xc0) != 0x80)
				return false;
		/* overlong forms, surrogates, beyond the last plane */
		if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
		    (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
			return false;
		p += more + 1;
	}
	return true;
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(struct strbuf *out, const void *bytes, size_t n)
{
	enum { LINE = 57 }; /* bytes that make 76 characters */
	const uint8_t *p = bytes;
	for (size_t at = 0; at < n; at += LINE) {
		char line[80];
		size_t used = 0, end = MIN(n, at + LINE);
		for (size_t i = at; i < end; i += 3) {
			uint32_t word = (uint32_t)p[i] << 16;
			if (i + 1 < end)
				word |= (uint32_t)p[i + 1] << 8;
			if (i + 2 < end)
				word |= p[i + 2];
			line[used++] = base64_digits[word >> 18];
			line[used++] = base64_digits[word >> 12 & 63];
			line[used++] = i + 1 < end ? base64_digits[word >> 6 & 63] : '=';
			line[used++] = i + 2 < end ? base64_digits[word & 63] : '=';
		}
		line[used++] = '\n';
		strbuf_add(out, line, used);
	}
}

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(struct strbuf *out, const char *s, size_t n)
{
	uint32_t word = 0;
	unsigned digits = 0, padding = 0;
	for (size_t i = 0; i < n; i++) {
		if (s[i] == '\n' || s[i] == '\r' || s[i] == ' ' || s[i] == '\t')
			continue;
		int value = s[i] == '=' ? 0 : base64_value(s[i]);
		if (value < 0 || (padding && s[i] != '=') || padding > 2)
			return -EBADMSG;
		padding += s[i] == '=';
		word = word << 6 | (uint32_t)value;
		if (++digits % 4)
			continue;
		if (padding > 2)
			return -EBADMSG;
		uint8_t three[3] = {(uint8_t)(word >> 16), (uint8_t)(word >> 8), (uint8_t)word};
		strbuf_add(out, three, 3 - padding);
		word = 0;
	}
	if (digits % 4)
		return -EBADMSG;
	return out->failed ? -ENOMEM : 0;
}

static bool qp_is_plain(const uint8_t *p, size_t i, size_t n, size_t line, bool keep_newlines)
{
	bool last = i + 1 == n || (keep_newlines && p[i + 1] == '\n');
	if (p[i] == '\t' || p[i] == ' ')
		return !last; /* white space at the end of a line is not safe */
	if (p[i] == '.' && !line)
		return !last && p[i + 1] && p[i + 1] != '\r' && p[i + 1] != '\n'; /* a dot alone on a line */
	return p[i] > ' ' && p[i] <= '~' && p[i] != '=';
}

void qp_encode(struct strbuf *out, const void *bytes, size_t n)
{
	enum { LINE = 76 };
	const uint8_t *p = bytes;
	/* A newline may stand for itself only where it cannot be taken for half of a CR LF. */
	bool keep_newlines = n && !memchr(p, '\r', n);
	size_t line = 0;
	for (size_t i = 0; i < n; i++) {
		if (keep_newlines && p[i] == '\n') {
			strbuf_adds(out, "\n");
			line = 0;
			continue;
		}
		bool plain = qp_is_plain(p, i, n, line, keep_newlines);
		bool last = i + 1 == n || (keep_newlines && p[i + 1] == '\n');
		if (plain ? !last && line + 1 >= LINE : line + 3 >= LINE) {
			strbuf_adds(out, "=\n");
			line = 0;
		}
		if (plain)
			strbuf_add(out, p + i, 1);
		else
			strbuf_addf(out, "=%02X", p[i]);
		line += plain ? 1 : 3;
	}
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int qp_decode(struct strbuf *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (s[i] != '=') {
			strbuf_add(out, s + i, 1);
			continue;
		}
		if (i + 1 < n && s[i + 1] == '\n') {
			i++;
			continue;
		}
		if (i + 2 >= n)
			return -EBADMSG;
		int high = hex_value(s[i + 1]), low = hex_value(s[i + 2]);
		if (high < 0 || low < 0)
			return -EBADMSG;
		uint8_t byte = (uint8_t)(high << 4 | low);
		strbuf_add(out, &byte, 1);
		i += 2;
	}
	return out->failed ? -ENOMEM : 0;
}
