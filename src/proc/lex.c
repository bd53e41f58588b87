/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the messages about text of /proc that is not understood, and octal escapes. */
#include "proc/lex.h"

#include <ctype.h>
#include <errno.h>

#include "base/error.h"

size_t lex_unescape_octal(char *s, size_t n)
{
	size_t out = 0;
	for (size_t in = 0; in < n;) {
		struct lex l = lex_new(s + in + 1, MIN(n - in - 1, 3));
		uint64_t value;
		if (s[in] == '\\' && lex_left(&l) == 3 && lex_uint(&l, 8, &value) && lex_done(&l) && value &&
		    value <= UINT8_MAX) {
			s[out++] = (char)value;
			in += 4;
		} else {
			s[out++] = s[in++];
		}
	}
	return out;
}

int lex_bad(struct ferry_error *err, const char *file, const struct lex *line)
{
	char shown[81];
	size_t n = MIN(lex_left(line), sizeof(shown) - 1);
	for (size_t i = 0; i < n; i++)
		shown[i] = isprint((unsigned char)line->p[i]) ? line->p[i] : '?';
	shown[n] = '\0';
	return error_set(err, FERRY_ERROR_SYSTEM, EBADMSG,
			 "the kernel's '%s' has a line that ferry cannot read: '%s'", file, shown);
}

int lex_short(struct ferry_error *err, const char *file, const char *what)
{
	return error_set(err, FERRY_ERROR_SYSTEM, EBADMSG, "the kernel's '%s' lacks %s", file, what);
}
