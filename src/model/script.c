/* SPDX-License-Identifier: Apache-2.0 */
/* Owns the building of scripts for the blob. */
#include "model/script.h"

#include <string.h>

enum { SCRIPT_ALIGN = 64 };

void script_release(struct script *s)
{
	vec_release(&s->calls);
	vec_release(&s->notes);
	strbuf_release(&s->data);
}

void script_trim(struct script *s)
{
	vec_trim(&s->calls);
	vec_trim(&s->notes);
}

uint64_t script_put(struct script *s, const void *bytes, size_t n)
{
	static const char zeroes[SCRIPT_ALIGN];
	size_t offset = align_up(s->data.n, SCRIPT_ALIGN);
	strbuf_add(&s->data, zeroes, offset - s->data.n);
	if (bytes) {
		strbuf_add(&s->data, bytes, n);
	} else {
		for (size_t left = n; left; left -= MIN(left, sizeof(zeroes)))
			strbuf_add(&s->data, zeroes, MIN(left, sizeof(zeroes)));
	}
	s->failed |= s->data.failed;
	return offset;
}

struct blob_call *script_call_args(struct script *s, const char *what, uint32_t nr, const uint64_t arg[6])
{
	struct script_note *note = vec_push(&s->notes);
	struct blob_call *call = note ? vec_push(&s->calls) : NULL;
	if (!call) {
		s->failed = true;
		call = &s->scratch;
	} else {
		*note = (struct script_note){.what = what};
	}
	*call = (struct blob_call){.nr = nr};
	memcpy(call->arg, arg, sizeof(call->arg));
	return call;
}

struct blob_call *script_call_i386_args(struct script *s, const char *what, uint32_t nr,
					const uint64_t arg[6])
{
	struct blob_call *call = script_call_args(s, what, nr, arg);
	call->abi = BLOB_ABI_I386;
	return call;
}

void script_detail(struct script *s, uint64_t detail)
{
	if (!s->failed && s->notes.n)
		s->notes.v[s->notes.n - 1].detail = detail;
}

size_t script_calls_bytes(const struct script *s)
{
	return align_up(s->calls.n * sizeof(struct blob_call), SCRIPT_ALIGN);
}

size_t script_bytes(const struct script *s)
{
	return script_calls_bytes(s) + align_up(s->data.n, SCRIPT_ALIGN);
}

void script_place(const struct script *s, void *to, uint64_t address, struct blob_script *ret_head)
{
	if (s->calls.n)
		memcpy(to, s->calls.v, s->calls.n * sizeof(struct blob_call));
	if (s->data.n)
		memcpy((char *)to + script_calls_bytes(s), s->data.s, s->data.n);
	*ret_head = (struct blob_script){
		.calls = address,
		.data = address + script_calls_bytes(s),
		.n = (uint32_t)s->calls.n,
	};
}
